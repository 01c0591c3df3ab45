//! Input that was begun to be read by somebody else: what he took comes first, then the rest.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use super::memory::Reserved;

/// A partition that was begun.
pub(crate) struct Begun {
    /// What was taken.
    pub(crate) batches: Vec<RecordBatch>,
    /// Their memory.
    pub(crate) reserved: Arc<Reserved>,
    /// What was not; nothing at the end.
    pub(crate) rest: Option<SendableRecordBatchStream>,
}

/// The partitions of one input that were begun.
#[derive(Default)]
pub(crate) struct Replays(Mutex<HashMap<usize, Begun>>);

impl std::fmt::Debug for Replays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Replays")
    }
}

impl Replays {
    /// Leaves a partition for whoever reads it next.
    pub(crate) fn put(&self, partition: usize, begun: Begun) {
        self.0.lock().insert(partition, begun);
    }

    /// The rows of a partition that was begun, once; `None` for one that was not.
    pub(crate) fn take(&self, partition: usize, schema: SchemaRef) -> Option<SendableRecordBatchStream> {
        let Begun { batches, reserved, rest } = self.0.lock().remove(&partition)?;
        // The memory is given back when the last of the batches has gone on.
        let first = batches.into_iter().map(move |batch| {
            let _kept = &reserved;
            Ok(batch)
        });
        let rows = stream::iter(first).chain(stream::iter(rest).flatten());
        Some(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
