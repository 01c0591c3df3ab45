//! Rows of more partitions than files may be open: they are sorted by partition first, so that each partition is written in one go.
//!
//! Only where it is needed: most writes have rows of few partitions, and sorting costs. So a task begins to write as rows come, and sorts
//! what is left when a batch has rows of one partition too many.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::Count;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;

use super::external;
use super::files::TaskFiles;
use super::partition::Partitioner;

const KEY: &str = "$partition";

/// Writes all `rows`, which have the table's columns `schema`, and counts them as they are written.
pub(super) async fn write_rows(
    files: &mut TaskFiles,
    schema: &SchemaRef,
    mut rows: impl Stream<Item = Result<RecordBatch>> + Send + Unpin + 'static,
    context: &Arc<TaskContext>,
    written: &Count,
) -> Result<()> {
    while let Some(batch) = rows.next().await.transpose()? {
        if files.write_unless_crowded(&batch).await.map_err(external)? {
            written.add(batch.num_rows());
            continue;
        }
        let Some(partitioner) = files.partitioner() else { return internal_err!("one partition is too many") };
        let rest = futures::stream::once(std::future::ready(Ok(batch))).chain(rows);
        let mut sorted = sorted_by_partition(partitioner, schema, rest, context)?;
        while let Some(batch) = sorted.next().await.transpose()? {
            files.write(&batch).await.map_err(external)?;
            written.add(batch.num_rows());
        }
        break;
    }
    Ok(())
}

/// The rows in the order of their partitions, spilled where they do not fit the memory of the task. They are read when they are asked for.
fn sorted_by_partition(
    partitioner: Arc<Partitioner>,
    schema: &SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    context: &Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let fields = schema.fields().iter().cloned().chain([Arc::new(Field::new(KEY, DataType::Binary, false))]);
    let keyed_schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let with_key = {
        let schema = Arc::clone(&keyed_schema);
        move |batch: RecordBatch| -> std::result::Result<RecordBatch, ArrowError> {
            let key: ArrayRef = Arc::new(partitioner.keys(&batch)?);
            let columns = batch.columns().iter().cloned().chain([key]).collect();
            RecordBatch::try_new(Arc::clone(&schema), columns)
        }
    };
    let keyed = rows.map(move |batch| batch.and_then(|batch| with_key(batch).map_err(DataFusionError::from)));
    let keyed = RecordBatchStreamAdapter::new(Arc::clone(&keyed_schema), keyed);
    let once = Once { schema: Arc::clone(&keyed_schema), rows: Mutex::new(Some(Box::pin(keyed))) };
    let leaf = StreamingTableExec::try_new(Arc::clone(&keyed_schema), vec![Arc::new(once)], None, [], false, None)?;
    let place = schema.fields().len();
    let ordering = LexOrdering::new([PhysicalSortExpr::new_default(Arc::new(Column::new(KEY, place)))]);
    let ordering = ordering.ok_or_else(|| DataFusionError::Internal("an order has a key".to_string()))?;
    let sorted = SortExec::new(ordering, Arc::new(leaf)).execute(0, Arc::clone(context))?;
    let columns: Vec<usize> = (0..place).collect();
    let plain = sorted.map(move |batch| Ok(batch?.project(&columns)?));
    Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), plain)))
}

/// A stream as a leaf that is read once.
struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        match self.rows.lock().take() {
            Some(rows) => rows,
            None => {
                let twice = DataFusionError::Internal("the rows of a write are read twice".to_string());
                let failed = futures::stream::once(std::future::ready(Err(twice)));
                Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), failed))
            }
        }
    }
}
