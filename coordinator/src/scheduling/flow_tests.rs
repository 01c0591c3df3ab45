//! The scheduler as a whole against executors that are played: they are found through membership, get real launches over
//! gRPC, and report through the real door. Rows are not read here; that needs real executors (crate townlake-tests).

use std::sync::Arc;
use std::time::Duration;

use ballista_core::serde::protobuf::executor_grpc_server::{ExecutorGrpc, ExecutorGrpcServer};
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{
    CancelTasksParams, CancelTasksResult, CreateUpdateSessionParams, ExecuteQueryParams, ExecutionError, FailedTask,
    GetJobStatusParams, LaunchMultiTaskParams, LaunchMultiTaskResult, LaunchTaskParams, LaunchTaskResult,
    RemoveJobDataParams, RemoveJobDataResult, ShuffleWritePartition, StopExecutorParams, StopExecutorResult,
    SuccessfulTask, TaskStatus, UpdateTaskStatusParams, failed_task, task_status,
};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Code, Request, Response, Status};
use townlake_cluster::EmbeddedMembership;
use townlake_common::{ErrorCode, Principal};
use townlake_proto::control::coordinator_client::CoordinatorClient;
use townlake_proto::control::executor_server::{Executor, ExecutorServer};
use townlake_proto::control::{LookParams, LookResult, TaskAttempt, TaskError};

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// What a played executor was asked.
#[derive(Debug)]
enum Asked {
    Launch(LaunchMultiTaskParams),
    Cancel(CancelTasksParams),
    Remove(String),
}

/// Tells what it is asked. What it has of the coordinator it has until it is told to stop it.
#[derive(Clone)]
struct Played(mpsc::UnboundedSender<Asked>, Arc<Mutex<LookResult>>);

#[tonic::async_trait]
impl Executor for Played {
    async fn look(&self, _: Request<LookParams>) -> Result<Response<LookResult>, Status> {
        Ok(Response::new(self.1.lock().clone()))
    }
}

#[tonic::async_trait]
impl ExecutorGrpc for Played {
    async fn launch_task(&self, _: Request<LaunchTaskParams>) -> Result<Response<LaunchTaskResult>, Status> {
        Err(Status::unimplemented("launch_task"))
    }
    async fn launch_multi_task(
        &self,
        request: Request<LaunchMultiTaskParams>,
    ) -> Result<Response<LaunchMultiTaskResult>, Status> {
        let _ = self.0.send(Asked::Launch(request.into_inner()));
        Ok(Response::new(LaunchMultiTaskResult::default()))
    }
    async fn stop_executor(&self, _: Request<StopExecutorParams>) -> Result<Response<StopExecutorResult>, Status> {
        Ok(Response::new(StopExecutorResult {}))
    }
    async fn cancel_tasks(&self, request: Request<CancelTasksParams>) -> Result<Response<CancelTasksResult>, Status> {
        let params = request.into_inner();
        self.1.lock().tasks.clear();
        let _ = self.0.send(Asked::Cancel(params));
        Ok(Response::new(CancelTasksResult { cancelled: true }))
    }
    async fn remove_job_data(
        &self,
        request: Request<RemoveJobDataParams>,
    ) -> Result<Response<RemoveJobDataResult>, Status> {
        let job = request.into_inner().job_id;
        self.1.lock().jobs.retain(|held| *held != job);
        let _ = self.0.send(Asked::Remove(job));
        Ok(Response::new(RemoveJobDataResult {}))
    }
}

struct PlayedExecutor {
    id: String,
    asked: mpsc::UnboundedReceiver<Asked>,
    /// Its process, as it were: when it ends, its connections break.
    process: Option<Runtime>,
    _seat: Box<dyn Seat>,
}

impl PlayedExecutor {
    async fn start(membership: &EmbeddedMembership) -> Self {
        Self::start_with(membership, LookResult::default()).await
    }

    /// One that has something of the coordinator already.
    async fn start_with(membership: &EmbeddedMembership, has: LookResult) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = mpsc::unbounded_channel();
        let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = listener.into_std().unwrap();
        process.spawn(async move {
            let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap());
            let played = Played(sender, Arc::new(Mutex::new(has)));
            let server = Server::builder()
                .add_service(ExecutorGrpcServer::new(played.clone()))
                .add_service(ExecutorServer::new(played));
            server.serve_with_incoming(incoming).await
        });
        let id = townlake_cluster::incarnation();
        let node = Node { role: Role::Executor as i32, slots: 2, ..record(id.clone(), address) };
        let seat = membership.join(node).await.unwrap();
        Self { id, asked, process: Some(process), _seat: seat }
    }

    fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.shutdown_background();
        }
    }

    async fn next(&mut self) -> Asked {
        tokio::time::timeout(SOON, self.asked.recv()).await.expect("asked in time").unwrap()
    }

    /// The tasks of the next launch, as statuses without an outcome.
    async fn tasks(&mut self) -> Vec<TaskStatus> {
        loop {
            let Asked::Launch(launch) = self.next().await else { continue };
            let tasks = launch.multi_tasks.into_iter().flat_map(|multi| {
                let (job_id, stage_id, attempt) = (multi.job_id, multi.stage_id, multi.stage_attempt_num);
                multi.task_ids.into_iter().map(move |task| TaskStatus {
                    task_id: task.task_id,
                    job_id: job_id.clone(),
                    stage_id,
                    stage_attempt_num: attempt,
                    ..Default::default()
                })
            });
            return tasks.collect();
        }
    }

    /// Plays the executor: every task succeeds without rows.
    fn succeed_all(mut self, mut door: SchedulerGrpcClient<Channel>) {
        tokio::spawn(async move {
            loop {
                let statuses: Vec<_> = self.tasks().await.into_iter().map(done).collect();
                for _ in 0..2 {
                    // Twice, as an outbox does that missed the answer.
                    let task_status = statuses.clone();
                    let params = UpdateTaskStatusParams { executor_id: self.id.clone(), task_status };
                    door.update_task_status(params).await.unwrap();
                }
            }
        });
    }
}

impl Drop for PlayedExecutor {
    fn drop(&mut self) {
        self.kill();
    }
}

fn done(mut status: TaskStatus) -> TaskStatus {
    status.status = Some(task_status::Status::Successful(SuccessfulTask::default()));
    status
}

/// Success with a row in each of the two partitions that the next stage reads.
fn wrote(mut status: TaskStatus) -> TaskStatus {
    let partition = |partition_id| ShuffleWritePartition { partition_id, num_rows: 1, ..Default::default() };
    let partitions = vec![partition(0), partition(1)];
    status.status = Some(task_status::Status::Successful(SuccessfulTask { partitions, ..Default::default() }));
    status
}

fn failed(mut status: TaskStatus) -> TaskStatus {
    status.status = Some(task_status::Status::Failed(FailedTask {
        error: "text".to_string(),
        failed_reason: Some(failed_task::FailedReason::ExecutionError(ExecutionError {})),
        ..Default::default()
    }));
    status
}

fn attempt(executor: &str, task: &TaskStatus) -> TaskAttempt {
    TaskAttempt {
        job_id: task.job_id.clone(),
        stage_id: task.stage_id,
        stage_attempt: task.stage_attempt_num,
        task_id: task.task_id,
        incarnation: executor.to_string(),
    }
}

struct Town {
    membership: EmbeddedMembership,
    scheduler: Arc<Scheduler>,
    shutdown: CancellationToken,
}

impl Town {
    async fn start(settings: &str) -> Self {
        let (membership, shutdown) = (EmbeddedMembership::new(), CancellationToken::new());
        let config = Config::from_toml(settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheduler =
            Scheduler::start(&config, Arc::new(membership.clone()), listener, shutdown.clone()).await.unwrap();
        Self { membership, scheduler, shutdown }
    }

    async fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.scheduler.internal_addr());
        Channel::from_shared(uri).unwrap().connect().await.unwrap()
    }

    async fn door(&self) -> SchedulerGrpcClient<Channel> {
        SchedulerGrpcClient::new(self.channel().await)
    }

    async fn report(&self, executor: &PlayedExecutor, task_status: Vec<TaskStatus>) {
        let params = UpdateTaskStatusParams { executor_id: executor.id.clone(), task_status };
        self.door().await.update_task_status(params).await.unwrap();
    }

    /// Runs a plan of two stages in the background.
    async fn query(&self) -> (Arc<QueryContext>, tokio::task::JoinHandle<Result<SendableRecordBatchStream>>) {
        let query = context();
        let config = townlake_engine::session::base_config(2);
        let session = Arc::new(SessionContext::new_with_config(config));
        let sql = "SELECT a, count(*) AS n FROM (VALUES (1), (2), (3)) AS t(a) GROUP BY a";
        let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let (scheduler, running) = (Arc::clone(&self.scheduler), Arc::clone(&query));
        (query, tokio::spawn(async move { scheduler.run(&running, plan, session).await }))
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn context() -> Arc<QueryContext> {
    QueryContext::new(QueryId::generate(), Principal { name: "ann".to_string(), groups: Vec::new() })
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{what} within {SOON:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_runs_on_the_executors_that_membership_lists() {
    let town = Town::start("").await;
    for _ in 0..2 {
        PlayedExecutor::start(&town.membership).await.succeed_all(town.door().await);
    }
    eventually("both executors", || town.scheduler.slots() == 4).await;
    let (query, run) = town.query().await;
    let rows = tokio::time::timeout(SOON, run).await.unwrap().unwrap().unwrap();
    assert_eq!(rows.schema().field(1).name(), "n", "an empty result has its schema");
    assert_eq!(rows.try_collect::<Vec<_>>().await.unwrap().len(), 0);

    let stages = town.scheduler.stages(&query.id).await;
    assert!(stages.len() >= 2 && stages.iter().all(|stage| stage.state == StageState::Finished), "{stages:?}");
    let tasks = town.scheduler.tasks();
    assert!(!tasks.is_empty() && tasks.iter().all(|task| task.state == TaskState::Finished), "{tasks:?}");
    let progress = town.scheduler.progress(&query.id).await.unwrap();
    assert!(progress.stages.iter().all(|stage| stage.tasks_done == stage.tasks_total));
    assert_eq!(town.scheduler.core.tasks.slots_in_use(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reported_error_comes_back_typed_and_frees_the_slots() {
    let town = Town::start("").await;
    let mut executor = PlayedExecutor::start(&town.membership).await;
    let (_, run) = town.query().await;
    let task = executor.tasks().await.remove(0);
    let attempt = attempt(&executor.id, &task);
    let error = Error::new(ErrorCode::SourceDenied, "catalog crm refused us").to_wire();
    let forged = TaskAttempt { incarnation: "somebody".to_string(), ..attempt.clone() };
    let mut reports = CoordinatorClient::new(town.channel().await);
    let wrong = Error::new(ErrorCode::DataCorrupt, "forged").to_wire();
    reports.report_task_error(TaskError { task: Some(attempt), error }).await.unwrap();
    reports.report_task_error(TaskError { task: Some(forged), error: wrong }).await.unwrap();
    let params = UpdateTaskStatusParams { executor_id: executor.id.clone(), task_status: vec![failed(task)] };
    town.door().await.update_task_status(params).await.unwrap();
    let error = tokio::time::timeout(SOON, run).await.unwrap().unwrap().err().unwrap();
    assert_eq!((error.code(), error.message()), (ErrorCode::SourceDenied, "catalog crm refused us"));
    assert_eq!(town.scheduler.core.tasks.slots_in_use(), 0);
    loop {
        if let Asked::Remove(job) = executor.next().await {
            assert!(job.starts_with(town.scheduler.tasks()[0].query.as_str()));
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_the_executor_and_lets_the_next_query_run() {
    let town = Town::start("").await;
    let mut executor = PlayedExecutor::start(&town.membership).await;
    let (first, first_run) = town.query().await;
    let held = executor.tasks().await;
    assert!(!held.is_empty());
    town.scheduler.cancel(&first.id).await;
    let error = tokio::time::timeout(SOON, first_run).await.unwrap().unwrap().err().unwrap();
    assert_eq!(error.code(), ErrorCode::Cancelled);
    loop {
        if let Asked::Cancel(params) = executor.next().await {
            assert!(params.task_infos.iter().any(|task| task.task_id == held[0].task_id));
            break;
        }
    }
    executor.succeed_all(town.door().await);
    let (_, second_run) = town.query().await;
    tokio::time::timeout(SOON, second_run).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_nobody_waits_for_is_cancelled() {
    let town = Town::start("").await;
    let mut executor = PlayedExecutor::start(&town.membership).await;
    let (_, run) = town.query().await;
    executor.tasks().await;
    run.abort();
    while !matches!(executor.next().await, Asked::Cancel(_)) {}
    eventually("its slots are free", || town.scheduler.core.tasks.slots_in_use() == 0).await;
    assert_eq!(town.scheduler.running_queries(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_dead_executor_run_elsewhere() {
    let town = Town::start("").await;
    let mut dying = PlayedExecutor::start(&town.membership).await;
    let (query, run) = town.query().await;
    assert!(!dying.tasks().await.is_empty());
    dying.kill();
    PlayedExecutor::start(&town.membership).await.succeed_all(town.door().await);
    tokio::time::timeout(SOON, run).await.unwrap().unwrap().unwrap();
    let tasks: Vec<_> = town.scheduler.tasks().into_iter().filter(|task| task.query == query.id).collect();
    let lost = tasks.iter().find(|task| task.state == TaskState::Lost).unwrap();
    assert_eq!(lost.executor, dying.id);
    assert!(tasks.iter().any(|task| task.attempt == 2 && task.executor != dying.id && task.stage == lost.stage));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restarted_stage_runs_into_does_not_fail_the_query() {
    let town = Town::start("").await;
    let mut dying = PlayedExecutor::start(&town.membership).await;
    let (_, run) = town.query().await;
    let first = dying.tasks().await;
    town.report(&dying, first.into_iter().map(wrote).collect()).await;
    let reading = dying.tasks().await;
    let mut living = PlayedExecutor::start(&town.membership).await;
    eventually("both executors", || town.scheduler.slots() == 4).await;
    dying.kill();

    let again = living.tasks().await;
    let job = again[0].job_id.clone();
    town.report(&living, again.into_iter().map(wrote).collect()).await;
    let restarted = living.tasks().await.remove(0);
    assert_eq!((restarted.stage_id, restarted.task_id), (reading[0].stage_id, reading[0].task_id));
    // Rows of the first attempt, say, which the second one takes for its own.
    let error = Error::new(ErrorCode::DataCorrupt, "a file is cut short").to_wire();
    let report = TaskError { task: Some(attempt(&living.id, &restarted)), error };
    CoordinatorClient::new(town.channel().await).report_task_error(report).await.unwrap();
    town.report(&living, vec![failed(restarted)]).await;

    let next = living.tasks().await;
    assert_ne!(next[0].job_id, job, "the query runs again from its start");
    town.report(&living, next.into_iter().map(done).collect()).await;
    living.succeed_all(town.door().await);
    tokio::time::timeout(SOON, run).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_arrives_though_its_call_is_given_up() {
    let town = Town::start("").await;
    let mut executor = PlayedExecutor::start(&town.membership).await;
    let (_, run) = town.query().await;
    let tasks: Vec<_> = executor.tasks().await.into_iter().map(done).collect();
    let (core, id) = (Arc::clone(&town.scheduler.core), executor.id.clone());
    // With its budget used up a task waits at the next lock, and is dropped there.
    let given_up = tokio::spawn(async move {
        while futures::poll!(std::pin::pin!(tokio::task::consume_budget())).is_ready() {}
        let _ = futures::poll!(std::pin::pin!(statuses::take(&core, id, tasks)));
    });
    given_up.await.unwrap();
    executor.succeed_all(town.door().await);
    tokio::time::timeout(SOON, run).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_its_executor_does_not_know_runs_again() {
    let town = Town::start("").await;
    let mut executor = PlayedExecutor::start(&town.membership).await;
    let (_, run) = town.query().await;
    let sent = executor.tasks().await;
    let core = &town.scheduler.core;
    let known = LookResult {
        tasks: sent.iter().map(|task| attempt(&executor.id, task)).collect(),
        jobs: vec![sent[0].job_id.clone()],
        ..Default::default()
    };
    statuses::compare(core, &executor.id, &known, std::time::Instant::now()).await;
    assert_eq!(core.tasks.open_tasks(&sent[0].job_id), sent.len(), "what it works on goes on");
    let reported = LookResult { reports: known.tasks, ..Default::default() };
    statuses::compare(core, &executor.id, &reported, std::time::Instant::now()).await;
    assert_eq!(core.tasks.open_tasks(&sent[0].job_id), sent.len(), "a report is on its way");

    statuses::compare(core, &executor.id, &LookResult::default(), std::time::Instant::now()).await;
    let again = executor.tasks().await;
    assert_eq!(again[0].job_id, sent[0].job_id);
    assert_ne!(again[0].task_id, sent[0].task_id);
    town.report(&executor, again.into_iter().map(done).collect()).await;
    executor.succeed_all(town.door().await);
    tokio::time::timeout(SOON, run).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_comes_back_stops_and_removes_what_is_over() {
    let town = Town::start("").await;
    let old = TaskAttempt { job_id: "old-1".to_string(), task_id: 7, ..Default::default() };
    let has = LookResult { tasks: vec![old], jobs: vec!["old-1".to_string()], ..Default::default() };
    let mut executor = PlayedExecutor::start_with(&town.membership, has).await;
    let Asked::Cancel(cancel) = executor.next().await else { panic!("its old tasks were not stopped first") };
    assert_eq!(cancel.task_infos[0].task_id, 7);
    let Asked::Remove(job) = executor.next().await else { panic!("the files of an ended job were not removed") };
    assert_eq!(job, "old-1");
    assert_eq!(town.scheduler.slots(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_executors_a_query_says_so() {
    let town = Town::start("[limits]\nexecutor_wait = \"300ms\"").await;
    let (_, run) = town.query().await;
    let error = tokio::time::timeout(SOON, run).await.unwrap().unwrap().err().unwrap();
    assert_eq!(error.code(), ErrorCode::NoExecutors);
    assert!(error.message().contains("0.3 s"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_offers_nothing_else_and_survives_hostile_statuses() {
    let town = Town::start("").await;
    let mut executor = PlayedExecutor::start(&town.membership).await;
    let mut door = town.door().await;
    let refused = [
        door.execute_query(ExecuteQueryParams::default()).await.err(),
        door.create_update_session(CreateUpdateSessionParams::default()).await.err(),
        door.get_job_status(GetJobStatusParams::default()).await.err(),
    ];
    assert!(refused.into_iter().all(|status| status.is_some_and(|status| status.code() == Code::PermissionDenied)));

    let (_, run) = town.query().await;
    let tasks = executor.tasks().await;
    let mut hostile = Vec::new();
    for (task_id, stage_id) in [(u32::MAX, 1), (0, u32::MAX), (7, 1)] {
        hostile.push(done(TaskStatus { task_id, stage_id, ..tasks[0].clone() }));
    }
    hostile.push(tasks[0].clone());
    for executor_id in [executor.id.clone(), "stranger".to_string()] {
        door.update_task_status(UpdateTaskStatusParams { executor_id, task_status: hostile.clone() }).await.unwrap();
    }
    let stranger = tasks.iter().cloned().map(done).collect();
    let params = UpdateTaskStatusParams { executor_id: "stranger".to_string(), task_status: stranger };
    door.update_task_status(params).await.unwrap();
    assert_eq!(town.scheduler.core.tasks.slots_in_use(), tasks.len().max(1));
    let honest = tasks.into_iter().map(done).collect();
    let params = UpdateTaskStatusParams { executor_id: executor.id.clone(), task_status: honest };
    door.update_task_status(params).await.unwrap();
    executor.succeed_all(door);
    tokio::time::timeout(SOON, run).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_door_for_others_is_refused() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let error = door::local_address(&listener).unwrap_err();
    assert_eq!(error.code(), ErrorCode::ConfigInvalid);
}
