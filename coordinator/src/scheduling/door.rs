//! The internal door: what executors may say to this coordinator. Ballista's own service would also run any plan for
//! whoever reaches it, past every policy, so that only two of its calls get through, and those only after a look inside.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::serde::protobuf::scheduler_grpc_server::{SchedulerGrpc, SchedulerGrpcServer};
use ballista_core::serde::protobuf::{
    CancelJobParams, CancelJobResult, CleanJobDataParams, CleanJobDataResult, CreateUpdateSessionParams,
    CreateUpdateSessionResult, ExecuteQueryParams, ExecuteQueryResult, ExecutorStoppedParams, ExecutorStoppedResult,
    GetJobMetricsParams, GetJobMetricsResult, GetJobStatusParams, GetJobStatusResult, HeartBeatParams, HeartBeatResult,
    PollWorkParams, PollWorkResult, RegisterExecutorParams, RegisterExecutorResult, RemoveSessionParams,
    RemoveSessionResult, UpdateTaskStatusParams, UpdateTaskStatusResult,
};
use futures::Stream;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::network::MAX_MESSAGE_BYTES;
use townlake_proto::control::coordinator_server::{Coordinator, CoordinatorServer};
use townlake_proto::control::{TaskError, TaskErrorAck};
use tracing::{error, info};

use super::failures::MAX_REPORT;
use super::shared::Core;
use super::statuses;
use super::tasks::AttemptKey;

/// Statuses that one call may carry.
const MAX_STATUSES: usize = 10_000;
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Refuses a listener that others than this machine can reach: the internal protocol has no authentication before mTLS.
///
/// Errors: `CONFIG_INVALID`, naming the address.
pub(super) fn local_address(listener: &TcpListener) -> Result<SocketAddr> {
    let address = listener
        .local_addr()
        .map_err(|error| Error::internal("the internal listener has no address").with_source(error))?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(Error::new(
        ErrorCode::ConfigInvalid,
        format!("cluster.internal = {address} can be reached from other machines"),
    )
    .with_hint("listen on 127.0.0.1: until mTLS comes, the internal door is for loopback only"))
}

/// Serves the door until `shutdown`. The handle ends when it is closed.
pub(super) fn serve(core: Arc<Core>, listener: TcpListener, shutdown: CancellationToken) -> JoinHandle<()> {
    let scheduler = SchedulerGrpcServer::new(ExecutorDoor(Arc::clone(&core)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let reports = CoordinatorServer::new(ReportDoor(core)).max_decoding_message_size(MAX_REPORT * 2);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(KEEP_ALIVE));
    tokio::spawn(async move {
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .add_service(scheduler)
            .add_service(reports)
            .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned());
        if let Err(error) = server.await {
            error!(%error, "the internal door has stopped serving");
        }
    })
}

/// Ballista's scheduler service, reduced to what executors need.
pub(super) struct ExecutorDoor(pub Arc<Core>);

fn closed<T>(call: &str) -> Result<Response<T>, Status> {
    Err(Status::permission_denied(format!("{call} is not offered here")))
}

#[tonic::async_trait]
impl SchedulerGrpc for ExecutorDoor {
    async fn update_task_status(
        &self,
        request: Request<UpdateTaskStatusParams>,
    ) -> Result<Response<UpdateTaskStatusResult>, Status> {
        let UpdateTaskStatusParams { executor_id, task_status } = request.into_inner();
        if task_status.len() > MAX_STATUSES {
            return Err(Status::invalid_argument(format!("more than {MAX_STATUSES} statuses in one call")));
        }
        statuses::take(&self.0, executor_id, task_status).await?;
        Ok(Response::new(UpdateTaskStatusResult { success: true }))
    }

    async fn executor_stopped(
        &self,
        request: Request<ExecutorStoppedParams>,
    ) -> Result<Response<ExecutorStoppedResult>, Status> {
        let params = request.into_inner();
        if self.0.members.get(&params.executor_id).is_some() {
            info!(executor = %params.executor_id, "executor has stopped");
            self.0.members.set_stopped(&params.executor_id);
            self.0.drop_executor(&params.executor_id, "it has stopped").await;
        }
        Ok(Response::new(ExecutorStoppedResult {}))
    }

    /// Accepted and ignored: an executor lives as long as its lease.
    async fn heart_beat_from_executor(&self, _: Request<HeartBeatParams>) -> Result<Response<HeartBeatResult>, Status> {
        Ok(Response::new(HeartBeatResult { reregister: false }))
    }

    async fn register_executor(
        &self,
        _: Request<RegisterExecutorParams>,
    ) -> Result<Response<RegisterExecutorResult>, Status> {
        closed("registration (executors are found through membership)")
    }

    async fn poll_work(&self, _: Request<PollWorkParams>) -> Result<Response<PollWorkResult>, Status> {
        closed("poll_work")
    }

    async fn create_update_session(
        &self,
        _: Request<CreateUpdateSessionParams>,
    ) -> Result<Response<CreateUpdateSessionResult>, Status> {
        closed("create_update_session")
    }

    async fn remove_session(&self, _: Request<RemoveSessionParams>) -> Result<Response<RemoveSessionResult>, Status> {
        closed("remove_session")
    }

    type ExecuteQueryPushStream = Pin<Box<dyn Stream<Item = Result<GetJobStatusResult, Status>> + Send>>;

    async fn execute_query_push(
        &self,
        _: Request<ExecuteQueryParams>,
    ) -> Result<Response<Self::ExecuteQueryPushStream>, Status> {
        closed("execute_query_push")
    }

    async fn execute_query(&self, _: Request<ExecuteQueryParams>) -> Result<Response<ExecuteQueryResult>, Status> {
        closed("execute_query")
    }

    async fn get_job_status(&self, _: Request<GetJobStatusParams>) -> Result<Response<GetJobStatusResult>, Status> {
        closed("get_job_status")
    }

    async fn get_job_metrics(&self, _: Request<GetJobMetricsParams>) -> Result<Response<GetJobMetricsResult>, Status> {
        closed("get_job_metrics")
    }

    async fn cancel_job(&self, _: Request<CancelJobParams>) -> Result<Response<CancelJobResult>, Status> {
        closed("cancel_job")
    }

    async fn clean_job_data(&self, _: Request<CleanJobDataParams>) -> Result<Response<CleanJobDataResult>, Status> {
        closed("clean_job_data")
    }
}

/// Takes the typed errors of tasks.
pub(super) struct ReportDoor(pub Arc<Core>);

#[tonic::async_trait]
impl Coordinator for ReportDoor {
    async fn report_task_error(&self, request: Request<TaskError>) -> Result<Response<TaskErrorAck>, Status> {
        let TaskError { task, error } = request.into_inner();
        let task = task.ok_or_else(|| Status::invalid_argument("the report names no task"))?;
        if error.len() > MAX_REPORT {
            return Err(Status::invalid_argument(format!("a report holds at most {MAX_REPORT} bytes")));
        }
        let key = AttemptKey {
            job: task.job_id,
            stage: task.stage_id,
            stage_attempt: task.stage_attempt,
            task: task.task_id,
        };
        if let Some(partitions) = self.0.tasks.partitions(&task.incarnation, &key) {
            self.0.failures.report(&key.job, key.stage, partitions, Error::from_wire(&error));
        }
        Ok(Response::new(TaskErrorAck {}))
    }
}
