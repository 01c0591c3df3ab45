//! The scan of one topic: each split reads a range of offsets of one partition.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::future::BoxFuture;
use prost::Message;
use townlake_common::Result;
use townlake_proto::kafka as wire;

use super::reader::SplitReader;
use super::recipe::{Recipe, Split};
use super::{KIND, KafkaSource};
use crate::SourceConnections;
use crate::operation::{Operation, Pushed};
use crate::scan::{Batches, Estimate, Explained, ScanMetrics, SourceScan, SourceScanExec, opened, unreadable};

/// The recipe that [`SourceScan::encode`] wrote.
///
/// Errors: `INTERNAL` for bytes of another build.
pub(crate) fn decode(recipe: &[u8]) -> Result<Arc<dyn SourceScan>> {
    let scan = wire::Scan::decode(recipe).map_err(|error| unreadable(KIND).with_source(error))?;
    Ok(Arc::new(Recipe::from_wire(scan)?))
}

impl SourceScan for Recipe {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn node_name(&self) -> &'static str {
        "KafkaScanExec"
    }

    fn catalog(&self) -> &str {
        &self.catalog
    }

    fn schema(&self) -> SchemaRef {
        self.arrow_schema()
    }

    fn estimate(&self) -> &Estimate {
        &self.estimate
    }

    fn explain(&self) -> Explained {
        let mut asked = vec![("offsets", self.ranges.clone())];
        if let Some(limit) = self.limit {
            asked.push(("limit", limit.to_string()));
        }
        Explained {
            table: self.name(),
            asked,
            filtered_here: self.local_filters.clone(),
            pinned: Some(("pinned", self.pinned.clone())),
        }
    }

    /// Offsets are pinned, and what is at an offset never changes. Only a schema that is unknown, and counted, may be known later.
    fn gives_the_same_again(&self) -> bool {
        self.values.is_none() || !self.null_and_count
    }

    fn push(&self, operation: &Operation<'_>) -> Pushed {
        self.with_keys(operation).map(|recipe| Arc::new(recipe) as Arc<dyn SourceScan>)
    }

    fn replan<'a>(
        &'a self,
        connections: &'a SourceConnections,
        splits: usize,
    ) -> BoxFuture<'a, Result<Option<SourceScanExec>>> {
        Box::pin(self.narrowed_by_keys(connections, splits))
    }

    fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    fn read(self: Arc<Self>, connections: &SourceConnections, split: Vec<u8>, metrics: ScanMetrics) -> Result<Batches> {
        let source = connections.of::<KafkaSource>(&self.catalog)?;
        let split = Split::decode(&split)?;
        let open = async move { SplitReader::open(source.cluster(), source.registry(), &self, split, &metrics).await };
        Ok(opened(open, SplitReader::next))
    }
}
