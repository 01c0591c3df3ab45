use async_trait::async_trait;
use ballista_core::execution_plans::ShuffleWriterExec;
use ballista_core::extension::SessionConfigHelperExt;
use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::{ExecutorRegistration, RunningTaskInfo, TaskId};
use ballista_executor::runtime_cache::SessionRuntimeCache;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::PhysicalPlanNode;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;
use townlake_engine::codec::TownCodec;
use townlake_engine::{functions, session};
use townlake_proto::control::TaskError;

use super::*;
use crate::clients::ClientPool;
use crate::exchange::{ExchangeEngine, OutputMemory};
use crate::memory::TaskMemory;
use crate::metrics::NoCollector;
use crate::outbox::Limits;
use crate::report::Delivery;

#[derive(Default)]
struct Coordinator {
    statuses: Mutex<Vec<TaskStatus>>,
    errors: Mutex<Vec<Error>>,
}

#[async_trait]
impl Delivery for Coordinator {
    async fn error(&self, _: &str, error: TaskError) -> Result<(), Status> {
        self.errors.lock().push(Error::from_wire(&error.error));
        Ok(())
    }

    async fn statuses(&self, _: &str, statuses: Vec<TaskStatus>) -> Result<(), Status> {
        self.statuses.lock().extend(statuses);
        Ok(())
    }
}

impl Coordinator {
    async fn status(&self) -> task_status::Status {
        loop {
            if let Some(status) = self.statuses.lock().pop() {
                return status.status.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Fixture {
    coordinator: Arc<Coordinator>,
    runner: Runner,
    metrics: Arc<Metrics>,
    _directory: tempfile::TempDir,
}

fn fixture(slots: usize, memory: u64) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let base: Arc<RuntimeEnv> = Arc::default();
    let runtime = Arc::clone(&base);
    let engine = Arc::new(ExchangeEngine::new("me", OutputMemory::new(1 << 30), ClientPool::start()));
    let executor = BallistaExecutor::new(
        ExecutorRegistration { id: "me".to_string(), ..Default::default() },
        directory.path().to_str().unwrap(),
        Arc::new(move |_| Ok(Arc::clone(&runtime))),
        Arc::new(|| session::base_config(2)),
        functions::registry(),
        Arc::new(NoCollector),
        slots,
        Arc::clone(&engine) as _,
    )
    .with_session_runtime_cache(Some(Arc::new(TaskMemory::new(base, memory, slots)) as Arc<dyn SessionRuntimeCache>));
    let coordinator = Arc::new(Coordinator::default());
    let outbox = Outbox::new(Arc::clone(&coordinator) as Arc<dyn Delivery>, "me", Limits::default());
    let metrics = Arc::new(Metrics::new().unwrap());
    let runner = Runner::start(executor, engine, outbox, Arc::clone(&metrics)).unwrap();
    Fixture { coordinator, runner, metrics, _directory: directory }
}

/// The launch of one task that runs `sql` whole.
async fn launch(sql: &str, task_id: u32) -> MultiTaskDefinition {
    let config = session::base_config(1);
    let context = SessionContext::new_with_state(session::state(config.clone(), Arc::default()));
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let writer = ShuffleWriterExec::try_new("job".to_string().into(), 1, plan, String::new()).unwrap();
    let writer: Arc<dyn ExecutionPlan> = Arc::new(writer);
    let mut plan = Vec::new();
    PhysicalPlanNode::try_from_physical_plan(writer, &TownCodec::new()).unwrap().try_encode(&mut plan).unwrap();
    let task = TaskId { task_id, global_output_partition_ids: vec![0], vcores_consumed: 1, ..Default::default() };
    MultiTaskDefinition {
        task_ids: vec![task],
        job_id: "job".to_string(),
        stage_id: 1,
        plan,
        session_id: "session".to_string(),
        props: config.to_key_value_pairs(),
        ..Default::default()
    }
}

/// Works for hours without asking a leaf for more.
const ENDLESS: &str =
    "select count(*) from generate_series(1, 3000000) a(x) join generate_series(1, 3000000) b(y) on x > y";

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_and_reports_what_it_wrote() {
    let test = fixture(2, 1 << 30);
    let sql = "select x, array_length([x, 2]) n from generate_series(1, 1000) t(x) order by x desc";
    assert!(test.runner.launch(launch(sql, 0).await, "127.0.0.1:1").await);
    let task_status::Status::Successful(task) = test.coordinator.status().await else { panic!("it failed") };
    assert_eq!(task.partitions.iter().map(|part| part.num_rows).sum::<u64>(), 1000);
    assert_eq!(task.executor_id, "me");
    assert!(test.runner.wait_idle(Duration::from_secs(1)).await);
    assert!(test.metrics.shuffle_written.get() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_stops_the_work_within_a_second() {
    let test = fixture(1, 1 << 30);
    assert!(test.runner.launch(launch(ENDLESS, 4).await, "127.0.0.1:1").await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(test.metrics.running.get(), 1);
    let cancelled = Instant::now();
    let task = RunningTaskInfo { task_id: 4, job_id: "job".to_string(), stage_id: 1 };
    assert!(test.runner.registry().cancel(&task));
    let task_status::Status::Failed(task) = test.coordinator.status().await else { panic!("it ended") };
    assert!(cancelled.elapsed() < Duration::from_secs(1), "{:?}", cancelled.elapsed());
    assert!(matches!(task.failed_reason, Some(FailedReason::TaskKilled(_))) && task.retryable);
    assert!(test.coordinator.errors.lock().is_empty());
    // The slot is free, and so are the threads: a query after it is answered at once.
    assert!(test.runner.launch(launch("select 1", 5).await, "127.0.0.1:1").await);
    let next = tokio::time::timeout(Duration::from_secs(2), test.coordinator.status()).await.unwrap();
    assert!(matches!(next, task_status::Status::Successful(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_over_its_memory_fails_alone_with_its_code() {
    let test = fixture(2, 2 << 20);
    let sql = "select count(*) from generate_series(1, 300000) a(x) join generate_series(1, 300000) b(y) on x = y";
    assert!(test.runner.launch(launch(sql, 0).await, "127.0.0.1:1").await);
    assert!(test.runner.launch(launch("select 1", 1).await, "127.0.0.1:1").await);
    let statuses = [test.coordinator.status().await, test.coordinator.status().await];
    let failed =
        statuses.iter().filter(|status| matches!(status, task_status::Status::Failed(task) if !task.retryable));
    assert_eq!(failed.count(), 1);
    assert_eq!(test.coordinator.errors.lock()[0].code(), ErrorCode::MemoryLimit);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_error_arrives_typed() {
    let test = fixture(1, 1 << 30);
    assert!(
        test.runner.launch(launch("select 1 / (x - 5) from generate_series(1, 9) t(x)", 0).await, "127.0.0.1:1").await
    );
    assert!(matches!(test.coordinator.status().await, task_status::Status::Failed(_)));
    assert_eq!(test.coordinator.errors.lock()[0].code(), ErrorCode::ArithmeticError);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_cannot_be_read_fails_its_job_and_nothing_else() {
    let test = fixture(1, 1 << 30);
    let mut broken = launch("select 1", 0).await;
    broken.plan = vec![0xff; 100];
    assert!(!test.runner.launch(broken, "127.0.0.1:1").await);
    assert_eq!(test.coordinator.errors.lock().len(), 1);
    assert!(test.runner.wait_idle(Duration::from_secs(1)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_runner_finishes_what_runs_and_hands_back_the_rest() {
    let test = fixture(1, 1 << 30);
    // Planned beforehand, so that the first task still runs when the others arrive.
    let long = "select count(*) from generate_series(1, 40000) a(x) join generate_series(1, 40000) b(y) on x > y";
    let [first, second, third] = [launch(long, 0).await, launch("select 1", 1).await, launch("select 1", 2).await];
    assert!(test.runner.launch(first, "127.0.0.1:1").await);
    while test.metrics.running.get() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(test.runner.launch(second, "127.0.0.1:1").await);
    test.runner.drain();
    assert!(test.runner.launch(third, "127.0.0.1:1").await);
    assert!(test.runner.wait_idle(Duration::from_secs(60)).await);
    let mut ended = (0, 0);
    for _ in 0..3 {
        match test.coordinator.status().await {
            task_status::Status::Successful(_) => ended.0 += 1,
            task_status::Status::Failed(task) if task.retryable && !task.count_to_failures => ended.1 += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ended, (1, 2));
}
