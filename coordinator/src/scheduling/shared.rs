//! What the parts of the scheduler share: Ballista, the member list, the books, and the connections to executors.

use std::sync::Arc;
use std::time::Duration;

use ballista_core::JobId;
use ballista_core::client::BallistaClient;
use ballista_core::extension::BallistaConfigGrpcEndpoint;
use ballista_core::serde::protobuf::executor_grpc_client::ExecutorGrpcClient;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::{
    CancelTasksParams, ExecutorStoppedParams, JobStatus, RemoveJobDataParams, RunningTaskInfo, UpdateTaskStatusParams,
};
use ballista_scheduler::cluster::JobState;
use ballista_scheduler::state::execution_graph::ExecutionGraph;
use dashmap::{DashMap, DashSet};
use futures::future::join_all;
use tonic::transport::Channel;
use tonic::{Code, Request};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::network::{MAX_MESSAGE_BYTES, split_address};
use townlake_proto::control::executor_client::ExecutorClient;
use townlake_proto::control::{LookParams, LookResult, TaskAttempt};
use tracing::{debug, warn};

use super::cluster_state::MemberState;
use super::embed::{self, Ballista};
use super::failures::Failures;
use super::history::History;
use super::members::Members;
use super::tasks::{OpenTask, TaskBook};

/// How long a small control call may take.
const CALL: Duration = Duration::from_secs(3);
/// Tries of one fetch, and the pause between two.
const FETCH_TRIES: u8 = 2;
const FETCH_PAUSE_MS: u64 = 200;

/// See the module.
pub(super) struct Core {
    pub ballista: Ballista,
    pub jobs: Arc<dyn JobState>,
    pub state: Arc<MemberState>,
    pub members: Arc<Members>,
    pub tasks: Arc<TaskBook>,
    pub failures: Failures,
    pub history: History,
    /// The jobs whose files are still wanted: from before their submission until their result was read.
    pub live: DashSet<String>,
    /// Where executors report to, as it stands in their launches.
    pub address: String,
    /// How long a query may be without any executor.
    pub executor_wait: Duration,
    controls: DashMap<String, Channel>,
    readers: DashMap<String, BallistaClient>,
}

/// What a probe of an executor says.
#[derive(Debug)]
pub(super) enum Probe {
    /// It answers: this is what it has of us.
    Answers(LookResult),
    /// It holds the connection and does not answer in time: busy, or stopped. Its lease will tell.
    Slow,
    /// Nobody is there, or another process under its address.
    Unreachable,
}

impl Core {
    pub(super) fn new(
        ballista: Ballista,
        jobs: Arc<dyn JobState>,
        state: Arc<MemberState>,
        members: Arc<Members>,
        tasks: Arc<TaskBook>,
        address: String,
        executor_wait: Duration,
    ) -> Self {
        Self {
            ballista,
            jobs,
            state,
            members,
            tasks,
            failures: Failures::default(),
            history: History::default(),
            live: DashSet::new(),
            address,
            executor_wait,
            controls: DashMap::new(),
            readers: DashMap::new(),
        }
    }

    /// Throws an executor out: its tasks run elsewhere.
    pub(super) async fn drop_executor(&self, incarnation: &str, reason: &str) {
        self.forget_connections(incarnation);
        let params = ExecutorStoppedParams { executor_id: incarnation.to_string(), reason: reason.to_string() };
        if let Err(error) = SchedulerGrpc::executor_stopped(&self.ballista, Request::new(params)).await {
            warn!(executor = incarnation, %error, "the scheduler could not be told that an executor is gone");
        }
    }

    /// Forgets the connections to an executor that is gone.
    pub(super) fn forget_connections(&self, incarnation: &str) {
        self.controls.remove(incarnation);
        self.readers.remove(incarnation);
    }

    /// Makes Ballista look for tasks to send. It does so by itself after most events, and not after a cancelled job.
    pub(super) async fn poke(&self) {
        let Some(node) = self.members.registered().into_iter().next() else { return };
        let params = UpdateTaskStatusParams { executor_id: node.incarnation, task_status: Vec::new() };
        if let Err(error) = SchedulerGrpc::update_task_status(&self.ballista, Request::new(params)).await {
            warn!(%error, "the scheduler could not be woken");
        }
    }

    /// The status of a job, as Ballista has it now.
    pub(super) async fn status(&self, job: &JobId) -> Option<JobStatus> {
        match self.ballista.state.task_manager.get_job_status(job).await {
            Ok(status) => status,
            Err(error) => {
                debug!(%job, %error, "no status");
                None
            }
        }
    }

    /// Looks at a job's graph; `None` when there is none (not planned yet, or forgotten). `look` must be quick: the event
    /// loop waits for it.
    pub(super) async fn look<T>(&self, job: &JobId, look: impl FnOnce(&dyn ExecutionGraph) -> T) -> Option<T> {
        if let Some(info) = self.ballista.state.task_manager.get_running_job_cache().get(job) {
            let graph = info.execution_graph.read().await;
            return Some(look(graph.as_ref()));
        }
        let graph = self.jobs.get_execution_graph(job).await.ok().flatten()?;
        Some(look(graph.as_ref()))
    }

    fn channel(&self, incarnation: &str) -> Result<Channel> {
        if let Some(channel) = self.controls.get(incarnation) {
            return Ok(channel.clone());
        }
        let member = self.members.get(incarnation).ok_or_else(|| lost(incarnation))?;
        let channel = embed::control_channel(&member.node.address)?;
        self.controls.insert(incarnation.to_string(), channel.clone());
        if self.members.get(incarnation).is_none() {
            // it left meanwhile, and its connections were forgotten before
            self.controls.remove(incarnation);
        }
        Ok(channel)
    }

    fn control(&self, incarnation: &str) -> Result<ExecutorGrpcClient<Channel>> {
        let client = ExecutorGrpcClient::new(self.channel(incarnation)?);
        Ok(client.max_encoding_message_size(MAX_MESSAGE_BYTES).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// Asks an executor what it has of us, to see whether it is there.
    pub(super) async fn probe(&self, incarnation: &str) -> Probe {
        let Ok(channel) = self.channel(incarnation) else { return Probe::Unreachable };
        let mut client = ExecutorClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let params = LookParams { incarnation: incarnation.to_string(), coordinator: self.address.clone() };
        match tokio::time::timeout(CALL, client.look(params)).await {
            Ok(Ok(seen)) => Probe::Answers(seen.into_inner()),
            Ok(Err(status)) if matches!(status.code(), Code::Unavailable | Code::FailedPrecondition) => {
                Probe::Unreachable
            }
            Ok(Err(_)) | Err(_) => Probe::Slow,
        }
    }

    /// Stops what an executor still does of the time before it was lost.
    pub(super) async fn stop_old_tasks(&self, incarnation: &str, tasks: &[TaskAttempt]) {
        let Ok(mut client) = self.control(incarnation) else { return };
        let old = tasks.iter().map(|task| RunningTaskInfo {
            task_id: task.task_id,
            job_id: task.job_id.clone(),
            stage_id: task.stage_id,
        });
        let call = client.cancel_tasks(CancelTasksParams { task_infos: old.collect() });
        if !matches!(tokio::time::timeout(CALL, call).await, Ok(Ok(_))) {
            debug!(executor = incarnation, "an executor did not confirm that it stops old tasks");
        }
    }

    /// Tells the executors to stop these tasks of a job.
    pub(super) async fn stop_tasks(&self, job: &JobId, tasks: &[OpenTask]) {
        let mut executors: Vec<_> = tasks.iter().map(|task| task.executor.as_str()).collect();
        executors.sort_unstable();
        executors.dedup();
        join_all(executors.into_iter().map(|executor| async move {
            let of_executor = tasks.iter().filter(|task| task.executor == executor);
            let task_infos = of_executor
                .map(|task| RunningTaskInfo { task_id: task.task, job_id: job.to_string(), stage_id: task.stage })
                .collect();
            let Ok(mut client) = self.control(executor) else { return };
            let call = client.cancel_tasks(CancelTasksParams { task_infos });
            if !matches!(tokio::time::timeout(CALL, call).await, Ok(Ok(_))) {
                warn!(executor, %job, "an executor did not confirm that it stops the tasks of a cancelled query");
            }
        }))
        .await;
    }

    /// Tells every executor, also those that drain, to remove a job's files. One that does not hear it is told again when it
    /// says that it has them (`statuses.rs`).
    pub(super) async fn remove_data(&self, job: &JobId) {
        let executors = self.members.registered();
        join_all(executors.iter().map(|node| self.remove_data_on(&node.incarnation, job.as_str()))).await;
    }

    /// Tells one executor to remove a job's files.
    pub(super) async fn remove_data_on(&self, incarnation: &str, job: &str) {
        let Ok(mut client) = self.control(incarnation) else { return };
        let params = RemoveJobDataParams { job_id: job.to_string(), remove_stage_ids: Vec::new() };
        if !matches!(tokio::time::timeout(CALL, client.remove_job_data(params)).await, Ok(Ok(_))) {
            debug!(executor = incarnation, job, "an executor did not confirm that it removed a job's files");
        }
    }

    /// The connection over which results are read from an executor.
    ///
    /// Errors: `EXECUTOR_LOST` when it is gone or cannot be reached.
    pub(super) async fn reader(&self, incarnation: &str) -> Result<BallistaClient> {
        if let Some(client) = self.readers.get(incarnation) {
            return Ok(client.clone());
        }
        let address = self.members.address(incarnation).ok_or_else(|| lost(incarnation))?;
        let (host, port) = host_and_port(&address)?;
        let endpoint = Arc::new(BallistaConfigGrpcEndpoint::new(embed::data_endpoint()));
        let client = BallistaClient::try_new(
            host,
            port,
            MAX_MESSAGE_BYTES,
            false,
            Some(endpoint),
            FETCH_TRIES,
            FETCH_PAUSE_MS,
            0,
            0,
        )
        .await
        .map_err(|error| lost(incarnation).with_source(error))?;
        self.readers.insert(incarnation.to_string(), client.clone());
        if self.members.get(incarnation).is_none() {
            self.readers.remove(incarnation);
        }
        Ok(client)
    }

    /// Forgets a connection that broke.
    pub(super) fn forget_reader(&self, incarnation: &str) {
        self.readers.remove(incarnation);
    }
}

/// The error for what cannot be read any more because its executor is gone.
#[track_caller]
pub(super) fn lost(incarnation: &str) -> Error {
    Error::new(ErrorCode::ExecutorLost, format!("executor {incarnation}, which holds a part of the result, was lost"))
        .with_hint("run the query again")
        .retryable()
}

/// Host and port of an executor's record.
pub(super) fn host_and_port(address: &str) -> Result<(&str, u16)> {
    split_address(address).ok_or_else(|| Error::internal(format!("{address} is not the address of an executor")))
}
