//! The result of a job: where its parts lie, and the stream that reads them.
//!
//! A row is given out once or the query fails: parts are those of the attempts that count, and after the first row has gone
//! to the client nothing is run again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use ballista_core::serde::protobuf::task_status;
use ballista_core::serde::scheduler::{PartitionId, ShuffleLayout};
use ballista_scheduler::state::execution_graph::ExecutionGraph;
use ballista_scheduler::state::execution_stage::{ExecutionStage, SuccessfulStage};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use townlake_common::{Error, QueryId, Result};
use townlake_engine::batches::{compact, used_bytes};
use townlake_engine::error::{from_datafusion, to_datafusion};
use tracing::warn;

use super::job::{Job, cancelled};
use super::shared::{Core, lost};

/// Results up to this size are read whole before the first row goes out: until then a lost executor costs a second run and
/// no error. In bytes as written, and again in bytes as read: what is written is compressed, a thousandfold at times.
const SMALL: u64 = 4 << 20;
const SMALL_READ: u64 = 4 * SMALL;
/// Rows of a batch that goes to a door.
const BATCH_ROWS: usize = 8192;
/// How long an executor may take to begin with a part.
const BEGIN: Duration = Duration::from_secs(15);

/// One file of the final stage's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResultPart {
    pub executor: String,
    pub partition: PartitionId,
    pub file: Option<u64>,
    pub layout: ShuffleLayout,
    pub bytes: u64,
}

/// The parts of a successful job's result, in the order of their partitions.
///
/// They are taken from the task attempts that count. The locations that Ballista publishes still name the files of a lost
/// executor beside those of the retry.
pub(super) fn result_parts(graph: &dyn ExecutionGraph) -> Result<Vec<ResultPart>> {
    let mut last = graph.stages().values().filter(|stage| stage.output_links().is_empty());
    match (last.next(), last.next()) {
        (Some(ExecutionStage::Successful(stage)), None) => parts_of_stage(graph, stage),
        _ => Err(Error::internal("a finished query has no finished last stage")),
    }
}

fn parts_of_stage(graph: &dyn ExecutionGraph, stage: &SuccessfulStage) -> Result<Vec<ResultPart>> {
    let mut covered = vec![false; stage.partitions];
    let mut parts = Vec::new();
    for task in &stage.task_infos {
        let task_status::Status::Successful(done) = &task.task_status else { continue };
        for partition in &task.global_input_partition_ids {
            match covered.get_mut(*partition) {
                Some(covered) if !*covered => *covered = true,
                _ => return Err(Error::internal("a part of the result was made twice: the query is refused")),
            }
        }
        parts.extend(done.partitions.iter().filter(|part| part.num_rows > 0).map(|part| ResultPart {
            executor: done.executor_id.clone(),
            partition: PartitionId::new(
                graph.job_id(),
                stage.stage_id,
                usize::try_from(part.partition_id).unwrap_or(usize::MAX),
            ),
            file: part.file_id,
            layout: if part.is_sort_shuffle { ShuffleLayout::Sort } else { ShuffleLayout::Passthrough },
            bytes: part.num_bytes,
        }));
    }
    if !covered.iter().all(|covered| *covered) {
        return Err(Error::internal("a part of the result is missing: the query is refused"));
    }
    parts.sort_by_key(|part| (part.partition.partition_id, part.file));
    Ok(parts)
}

/// How much of a result is read ahead.
struct Ahead {
    /// Whether the result is small, as written.
    whole: bool,
    read: u64,
}

impl Ahead {
    fn new(parts: &VecDeque<ResultPart>) -> Self {
        Self { whole: parts.iter().map(|part| part.bytes).fold(0, u64::saturating_add) <= SMALL, read: 0 }
    }

    fn goes_on_after(&mut self, batch: &RecordBatch) -> bool {
        let bytes = used_bytes(batch).unwrap_or_else(|_| batch.get_array_memory_size());
        self.read = self.read.saturating_add(bytes as u64);
        self.whole && self.read <= SMALL_READ
    }
}

/// Reads the parts one after the other, as fast as its consumer asks.
pub(super) struct ResultReader<H> {
    core: Arc<Core>,
    query: QueryId,
    schema: SchemaRef,
    cancel: CancellationToken,
    parts: VecDeque<ResultPart>,
    current: Option<(String, SendableRecordBatchStream)>,
    ready: VecDeque<RecordBatch>,
    /// Its files are removed when it is dropped: as soon as they are read.
    job: Option<Job>,
    /// What the query holds until its last row has gone out.
    held: Option<H>,
}

impl<H: Send + 'static> ResultReader<H> {
    pub(super) fn new(
        core: &Arc<Core>,
        query: &QueryId,
        schema: SchemaRef,
        cancel: CancellationToken,
        parts: Vec<ResultPart>,
        job: Job,
        held: H,
    ) -> Self {
        let (core, query, parts) = (Arc::clone(core), query.clone(), VecDeque::from(parts));
        let (ready, job, held) = (VecDeque::new(), Some(job), Some(held));
        Self { core, query, schema, cancel, parts, current: None, ready, job, held }
    }

    /// Reads ahead while nothing has gone to the client: a small result whole, of a large one the first batch.
    ///
    /// Errors: `EXECUTOR_LOST` when a part cannot be read, `CANCELLED`. What the query holds comes back with the error.
    pub(super) async fn prime(&mut self) -> Result<()> {
        for part in &self.parts {
            if self.core.members.address(&part.executor).is_none() {
                return Err(lost(&part.executor));
            }
        }
        let mut ahead = Ahead::new(&self.parts);
        while let Some(batch) = self.read().await? {
            let go_on = ahead.goes_on_after(&batch);
            self.ready.push_back(batch);
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// Gives back what the query holds, for a second run.
    pub(super) fn into_held(mut self) -> Option<H> {
        self.held.take()
    }

    /// The rows, cut and compacted for the way to a client. Dropping the stream ends the query.
    pub(super) fn into_stream(self) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let rows = stream::try_unfold(self, |mut reader| async move {
            let batch = reader.next().await.map_err(to_datafusion)?;
            Ok(batch.map(|batch| (batch, reader)))
        });
        compact(Box::pin(RecordBatchStreamAdapter::new(schema, rows)), BATCH_ROWS)
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if self.cancel.is_cancelled() {
            return Err(cancelled(&self.query));
        }
        if let Some(batch) = self.ready.pop_front() {
            return Ok(Some(batch));
        }
        let batch = self.read().await?;
        if batch.is_none() {
            self.held = None;
        }
        Ok(batch)
    }

    /// The next batch with rows.
    async fn read(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if self.current.is_none() && self.parts.is_empty() {
                self.job = None;
                return Ok(None);
            }
            let cancel = self.cancel.clone();
            let step = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(cancelled(&self.query)),
                step = self.step() => step?,
            };
            if let Some(batch) = step {
                return Ok(Some(conform(batch, &self.schema)?));
            }
        }
    }

    /// One step forward: a batch with rows, or `None` when there was only a part to open or to close.
    async fn step(&mut self) -> Result<Option<RecordBatch>> {
        let Some((executor, rows)) = &mut self.current else {
            if let Some(part) = self.parts.pop_front() {
                let rows = open(&self.core, &part).await?;
                self.current = Some((part.executor, rows));
            }
            return Ok(None);
        };
        match rows.next().await {
            Some(Ok(batch)) => Ok(Some(batch).filter(|batch| batch.num_rows() > 0)),
            Some(Err(error)) => {
                warn!(executor = %executor, error = %from_datafusion(&error), "a part of a result could not be read");
                self.core.forget_reader(executor);
                Err(lost(executor).with_source(error))
            }
            None => {
                self.current = None;
                Ok(None)
            }
        }
    }
}

async fn open(core: &Core, part: &ResultPart) -> Result<SendableRecordBatchStream> {
    let mut client = core.reader(&part.executor).await?;
    // Raw blocks of the file: the executor decodes nothing, and no frame is larger than a block.
    let fetch = client.fetch_partition(&part.executor, &part.partition, part.file, part.layout, false);
    match tokio::time::timeout(BEGIN, fetch).await {
        Ok(Ok(rows)) => Ok(rows),
        Ok(Err(error)) => {
            core.forget_reader(&part.executor);
            Err(lost(&part.executor).with_source(error))
        }
        Err(_) => {
            core.forget_reader(&part.executor);
            Err(lost(&part.executor))
        }
    }
}

/// The batch under the plan's schema: files carry the same types, and other nullability or metadata.
fn conform(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)
        .map_err(|error| Error::internal("a result does not have the schema of its plan").with_source(error))
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn part(bytes: u64) -> ResultPart {
        let partition = PartitionId::new(&"job".to_string().into(), 1, 0);
        ResultPart { executor: "a".to_string(), partition, file: None, layout: ShuffleLayout::Passthrough, bytes }
    }

    #[test]
    fn what_was_compressed_well_is_not_read_ahead_whole() {
        let zeros: arrow::array::ArrayRef = Arc::new(Int64Array::from(vec![0; 1 << 20]));
        let batch = RecordBatch::try_from_iter([("n", zeros)]).unwrap();
        let mut ahead = Ahead::new(&VecDeque::from([part(1000), part(1000)]));
        assert!(ahead.goes_on_after(&batch.slice(0, 1000)));
        assert!(ahead.goes_on_after(&batch));
        assert!(!ahead.goes_on_after(&batch), "16 MB came out of 2000 bytes");
        assert!(!Ahead::new(&VecDeque::from([part(SMALL), part(1)])).goes_on_after(&batch.slice(0, 1)));
    }

    #[test]
    fn a_batch_takes_the_schema_of_the_plan_or_is_refused() {
        let file = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let batch = RecordBatch::try_new(file, vec![Arc::new(Int64Array::from(vec![1, 2]))]).unwrap();
        let plan = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        assert_eq!(conform(batch.clone(), &plan).unwrap().schema(), plan);
        let other = Arc::new(Schema::new(vec![Field::new("n", DataType::Utf8, true)]));
        assert!(conform(batch, &other).is_err());
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let bare = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options).unwrap();
        assert_eq!(conform(bare, &Arc::new(Schema::empty())).unwrap().num_rows(), 3);
    }
}
