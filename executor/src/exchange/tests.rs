//! The exchange as a stage and the next one use it: what was written is read again, here and by a peer, in memory and in files.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::Int64Type;
use arrow::ipc::reader::StreamReader;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{Action, Ticket};
use ballista_core::JobId;
use ballista_core::execution_plans::sort_shuffle::{SortShuffleConfig, SortShuffleWriterExec};
use ballista_core::execution_plans::{ShuffleReaderExec, ShuffleWriterExec};
use ballista_core::serde::protobuf::{self, ShuffleWritePartition};
use ballista_core::serde::scheduler::{
    ExecutorMetadata, ExecutorOperatingSystemSpecification, ExecutorSpecification, PartitionId, PartitionLocation,
    PartitionStats,
};
use ballista_core::utils::collect_plan_metrics;
use ballista_executor::execution_engine::{ExecutionEngine, QueryStageExecutor};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning, collect};
use futures::TryStreamExt;
use prost::Message;
use tempfile::TempDir;
use tonic::Request;

use super::*;
use crate::clients::ClientPool;
use crate::flight::GuardedFlight;
use crate::metrics::Metrics;

const ME: &str = "me";
const PARTITIONS: usize = 3;
const ROWS: i64 = 30_000;

struct Bed {
    directory: TempDir,
    memory: Arc<OutputMemory>,
    engine: ExchangeEngine,
}

impl Bed {
    fn new(limit: usize) -> Self {
        let memory = OutputMemory::new(limit);
        let engine = ExchangeEngine::new(ME, Arc::clone(&memory), ClientPool::start());
        Self { directory: tempfile::tempdir().unwrap(), memory, engine }
    }

    fn work_dir(&self) -> String {
        self.directory.path().display().to_string()
    }

    fn stage(&self, plan: Arc<dyn ExecutionPlan>, ids: Vec<usize>) -> Arc<dyn QueryStageExecutor> {
        let config = townlake_engine::session::base_config(2);
        self.engine.create_query_stage_exec(job(), 1, 7, ids, plan, &self.work_dir(), &config).unwrap()
    }

    async fn run(&self, plan: Arc<dyn ExecutionPlan>) -> Vec<ShuffleWritePartition> {
        let stage = self.stage(plan, (0..PARTITIONS).collect());
        let running = stage.execute_query_stage(7, context());
        let mut written = tokio::time::timeout(Duration::from_secs(30), running).await.unwrap().unwrap();
        let rows = stage.collect_plan_metrics()[0].output_rows().unwrap();
        assert_eq!(rows, usize::try_from(ROWS).unwrap(), "the writer's own number");
        written.sort_by_key(|part| part.partition_id);
        written
    }

    /// The rows of each partition, read by the next stage on this executor.
    async fn read(&self, written: &[ShuffleWritePartition], schema: arrow::datatypes::SchemaRef) -> Vec<Vec<i64>> {
        let locations: Vec<_> = written.iter().map(|part| vec![location(part)]).collect();
        let partitioning = Partitioning::UnknownPartitioning(locations.len());
        let reader = ShuffleReaderExec::try_new(1, locations, schema, partitioning).unwrap();
        let client = ClientPool::start();
        let reader = ExchangeReaderExec::new(&reader, ME, &self.memory, &self.work_dir(), client);
        let reader: Arc<dyn ExecutionPlan> = Arc::new(reader);
        let mut parts = Vec::new();
        for partition in 0..written.len() {
            let batches: Vec<_> = reader.execute(partition, context()).unwrap().try_collect().await.unwrap();
            parts.push(sorted(&batches));
        }
        let rows: usize = parts.iter().map(Vec::len).sum();
        assert_eq!(reader.metrics().unwrap().output_rows(), Some(rows));
        parts
    }

    fn service(&self) -> GuardedFlight {
        GuardedFlight::new(self.work_dir(), Arc::clone(&self.memory), Arc::new(Metrics::new().unwrap()))
    }

    /// The bytes of a partition, as a peer gets them, and the largest block.
    async fn fetched(&self, part: &ShuffleWritePartition) -> (Vec<u8>, usize) {
        let action = Action { r#type: "IO_BLOCK_TRANSPORT".to_string(), body: ticket(part).into() };
        let blocks = self.service().do_action(Request::new(action)).await.unwrap().into_inner();
        let blocks: Vec<_> = blocks.try_collect().await.unwrap();
        let largest = blocks.iter().map(|block| block.body.len()).max().unwrap_or(0);
        (blocks.iter().flat_map(|block| block.body.to_vec()).collect(), largest)
    }
}

fn job() -> JobId {
    "job".to_string().into()
}

fn context() -> Arc<TaskContext> {
    Arc::new(TaskContext::default().with_session_config(townlake_engine::session::base_config(2)))
}

fn ticket(part: &ShuffleWritePartition) -> Vec<u8> {
    let fetch = protobuf::FetchPartition {
        job_id: "job".to_string(),
        stage_id: 1,
        partition_id: u32::try_from(part.partition_id).unwrap(),
        file_id: part.file_id,
        ..Default::default()
    };
    let action_type = Some(protobuf::action::ActionType::FetchPartition(fetch));
    protobuf::Action { action_type, ..Default::default() }.encode_to_vec()
}

fn executor(id: &str) -> ExecutorMetadata {
    ExecutorMetadata {
        id: id.to_string(),
        host: "127.0.0.1".to_string(),
        port: 1,
        grpc_port: 1,
        specification: ExecutorSpecification::default(),
        os_info: ExecutorOperatingSystemSpecification::default(),
    }
}

fn location(part: &ShuffleWritePartition) -> PartitionLocation {
    PartitionLocation {
        map_partition_id: 0,
        partition_id: PartitionId::new(&job(), 1, usize::try_from(part.partition_id).unwrap()),
        executor_meta: executor(ME),
        partition_stats: PartitionStats::default(),
        file_id: part.file_id,
        is_sort_shuffle: part.is_sort_shuffle,
    }
}

/// Batches of many shapes: text that is long and short, slices of larger arrays, empty ones.
fn rows() -> Vec<Vec<RecordBatch>> {
    let text = |i: i64| {
        let width = usize::try_from(i % 40).unwrap();
        (i % 7 != 0).then(|| format!("{i:0>width$}"))
    };
    let per_input = ROWS / i64::try_from(PARTITIONS).unwrap();
    let input = |input: i64| {
        let keys: Vec<_> = (input * per_input..(input + 1) * per_input).collect();
        let texts: StringViewArray = keys.iter().map(|i| text(*i)).collect();
        let columns: [(&str, arrow::array::ArrayRef); 2] =
            [("k", Arc::new(Int64Array::from(keys))), ("s", Arc::new(texts))];
        let whole =
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
        let rows = whole.num_rows();
        let cuts = [0, 0, 1, 700, 701, 5000, rows];
        cuts.windows(2).map(|cut| whole.slice(cut[0], cut[1] - cut[0])).collect()
    };
    (0..i64::try_from(PARTITIONS).unwrap()).map(input).collect()
}

fn scan() -> Arc<dyn ExecutionPlan> {
    let rows = rows();
    MemorySourceConfig::try_new_exec(&rows, rows[0][0].schema(), None).unwrap()
}

fn as_input(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    Arc::new(ShuffleWriterExec::try_new(job(), 1, input, String::new()).unwrap())
}

fn by_hash(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let keys = Partitioning::Hash(vec![col("k", &input.schema()).unwrap()], PARTITIONS);
    let config = SortShuffleConfig::default();
    Arc::new(SortShuffleWriterExec::try_new(job(), 1, input, String::new(), keys, config).unwrap())
}

/// The keys of the rows; their texts are looked at on the way.
fn sorted(batches: &[RecordBatch]) -> Vec<i64> {
    let mut keys = Vec::new();
    for batch in batches {
        let texts = batch.column(1).as_string_view();
        for (row, key) in batch.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
            assert_eq!(texts.is_null(row), key % 7 == 0, "{key}");
            assert!(texts.is_null(row) || texts.value(row).trim_start_matches('0') == key.to_string(), "{key}");
            keys.push(*key);
        }
    }
    keys.sort_unstable();
    keys
}

fn told(written: &[ShuffleWritePartition]) -> Vec<(u64, u64, Option<u64>, bool)> {
    written.iter().map(|part| (part.partition_id, part.num_rows, part.file_id, part.is_sort_shuffle)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_in_memory_is_what_the_files_would_hold() {
    for writer in [by_hash, as_input] {
        let (memory, files) = (Bed::new(1 << 30), Bed::new(0));
        let schema = scan().schema();
        let (in_memory, in_files) = (memory.run(writer(scan())).await, files.run(writer(scan())).await);
        assert_eq!(told(&in_memory), told(&in_files));
        assert!(in_memory.iter().all(|part| part.num_bytes > 0 && part.num_batches > 0));
        assert!(memory.memory.used() > 0 && memory.directory.path().read_dir().unwrap().next().is_none());
        assert!(files.memory.is_empty() && files.directory.path().join("job/1").exists());
        let here = memory.read(&in_memory, Arc::clone(&schema)).await;
        assert_eq!(here, files.read(&in_files, schema).await);
        assert_eq!(here.concat().len(), usize::try_from(ROWS).unwrap());
        memory.memory.remove_job("job", &[]);
        assert_eq!(memory.memory.used(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_gets_the_same_rows_from_memory() {
    let bed = Bed::new(1 << 30);
    let written = bed.run(by_hash(scan())).await;
    let here = bed.read(&written, scan().schema()).await;
    for (part, expected) in written.iter().zip(here) {
        let (bytes, _) = bed.fetched(part).await;
        let batches: Vec<_> = StreamReader::try_new(bytes.as_slice(), None).unwrap().map(Result::unwrap).collect();
        assert_eq!(sorted(&batches), expected);
        let frames = bed.service().do_get(Request::new(Ticket { ticket: ticket(part).into() })).await.unwrap();
        let frames = frames.into_inner().map_err(Into::into);
        let batches: Vec<_> = FlightRecordBatchStream::new_from_flight_data(frames).try_collect().await.unwrap();
        assert_eq!(sorted(&batches), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_large_rows_travels_in_blocks() {
    let bed = Bed::new(1 << 30);
    let wide: StringViewArray = (0..40).map(|i| Some(i.to_string().repeat(400_000))).collect();
    let batch = RecordBatch::try_from_iter([("s", Arc::new(wide) as arrow::array::ArrayRef)]).unwrap();
    let scan = MemorySourceConfig::try_new_exec(&[vec![batch.clone()]], batch.schema(), None).unwrap();
    let written = bed.stage(as_input(scan), vec![0]).execute_query_stage(7, context()).await.unwrap();
    let (bytes, largest) = bed.fetched(&written[0]).await;
    assert!(bytes.len() > 16_000_000 && largest == 8 << 20, "{} {largest}", bytes.len());
    let read: Vec<_> = StreamReader::try_new(bytes.as_slice(), None).unwrap().map(Result::unwrap).collect();
    assert_eq!(read, [batch]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_goes_into_files_whole() {
    for writer in [by_hash, as_input] {
        for limit in [1, 100_000, 1_000_000, 4_000_000] {
            let bed = Bed::new(limit);
            let written = bed.run(writer(scan())).await;
            assert!(bed.memory.is_empty() && bed.memory.used() == 0, "{limit}: {}", bed.memory.used());
            let read = bed.read(&written, scan().schema()).await;
            assert_eq!(sorted_all(read), (0..ROWS).collect::<Vec<_>>(), "{limit}");
        }
    }
}

fn sorted_all(parts: Vec<Vec<i64>>) -> Vec<i64> {
    let mut keys = parts.concat();
    keys.sort_unstable();
    keys
}

/// A repartitioning feeds all its outputs from all its inputs through small channels: whoever stops to read one of them
/// holds up the others.
#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_feed_each_other_do_not_wait_for_ever() {
    let bed = Bed::new(400_000);
    let keys = Partitioning::Hash(vec![col("k", &scan().schema()).unwrap()], PARTITIONS);
    let repartitioned: Arc<dyn ExecutionPlan> = Arc::new(RepartitionExec::try_new(scan(), keys).unwrap());
    let written = bed.run(as_input(repartitioned)).await;
    assert!(bed.directory.path().join("job/1").exists());
    assert_eq!(sorted_all(bed.read(&written, scan().schema()).await), (0..ROWS).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_again_replaces_its_output_wherever_it_was() {
    let bed = Bed::new(1 << 30);
    let first = bed.run(as_input(scan())).await;
    let used = bed.memory.used();
    let second = bed.run(as_input(scan())).await;
    assert_eq!((told(&first), used), (told(&second), bed.memory.used()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_of_another_executors_output_asks_it() {
    let bed = Bed::new(1 << 30);
    let written = bed.run(as_input(scan())).await;
    // The same names, but another's: what lies here under them is not what is meant.
    let mut theirs = location(&written[0]);
    theirs.executor_meta = executor("another");
    let reader =
        ShuffleReaderExec::try_new(1, vec![vec![theirs]], scan().schema(), Partitioning::UnknownPartitioning(1));
    let reader = ExchangeReaderExec::new(&reader.unwrap(), ME, &bed.memory, &bed.work_dir(), ClientPool::start());
    assert!(collect(Arc::new(reader), context()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_input_fails_the_task_and_leaves_nothing() {
    let bed = Bed::new(1 << 30);
    let token = tokio_util::sync::CancellationToken::new();
    let plan = crate::prepare::prepare(by_hash(scan()), &token).unwrap();
    let operators = collect_plan_metrics(plan.as_ref()).len();
    let stage = bed.stage(plan, vec![0]);
    assert_eq!(stage.collect_plan_metrics().len(), operators);
    token.cancel();
    let error = stage.execute_query_stage(7, context()).await.unwrap_err();
    let error = townlake_engine::error::from_datafusion(&error);
    assert_eq!(error.code(), townlake_common::ErrorCode::Cancelled);
    assert!(bed.memory.is_empty() && bed.memory.used() == 0);
}
