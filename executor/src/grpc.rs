//! The task server: what coordinators call.

use ballista_core::serde::protobuf::executor_grpc_server::ExecutorGrpc;
use ballista_core::serde::protobuf::{
    CancelTasksParams, CancelTasksResult, LaunchMultiTaskParams, LaunchMultiTaskResult, LaunchTaskParams,
    LaunchTaskResult, RemoveJobDataParams, RemoveJobDataResult, StopExecutorParams, StopExecutorResult,
};
use tonic::{Request, Response, Status};
use townlake_engine::network::split_address;
use townlake_proto::control::executor_server::Executor;
use townlake_proto::control::{LookParams, LookResult, TaskAttempt};

use crate::ending::Ending;
use crate::outbox::Outbox;
use crate::registry::Attempt;
use crate::runner::Runner;

/// Ballista's executor service over our runner.
///
/// A launch that fails as a call makes the scheduler remove this executor, with the output of every job on it. So what is
/// wrong with one job fails that job alone, in the answer.
pub(crate) struct TaskService {
    runner: Runner,
    ending: Ending,
}

impl TaskService {
    /// The service of this executor.
    pub(crate) fn new(runner: Runner, ending: Ending) -> Self {
        Self { runner, ending }
    }
}

#[tonic::async_trait]
impl ExecutorGrpc for TaskService {
    async fn launch_multi_task(
        &self,
        request: Request<LaunchMultiTaskParams>,
    ) -> Result<Response<LaunchMultiTaskResult>, Status> {
        let LaunchMultiTaskParams { multi_tasks, scheduler_endpoint } = request.into_inner();
        if split_address(&scheduler_endpoint).is_none() {
            return Err(Status::invalid_argument("the endpoint of the coordinator is not host:port"));
        }
        let mut failed_jobs = Vec::new();
        for launch in multi_tasks {
            let job = launch.job_id.clone();
            if failed_jobs.contains(&job) {
                continue;
            }
            if !self.runner.launch(launch, &scheduler_endpoint).await {
                failed_jobs.push(job);
            }
        }
        Ok(Response::new(LaunchMultiTaskResult { failed_jobs }))
    }

    async fn launch_task(&self, _: Request<LaunchTaskParams>) -> Result<Response<LaunchTaskResult>, Status> {
        Err(Status::unimplemented("tasks are launched with LaunchMultiTask"))
    }

    async fn cancel_tasks(&self, request: Request<CancelTasksParams>) -> Result<Response<CancelTasksResult>, Status> {
        for task in request.into_inner().task_infos {
            let found = self.runner.registry().cancel(&task);
            tracing::debug!(job = task.job_id, stage = task.stage_id, task = task.task_id, found, "cancel");
        }
        // A task that is not here has ended: that, too, is what the caller wants.
        Ok(Response::new(CancelTasksResult { cancelled: true }))
    }

    async fn remove_job_data(
        &self,
        request: Request<RemoveJobDataParams>,
    ) -> Result<Response<RemoveJobDataResult>, Status> {
        let RemoveJobDataParams { job_id, remove_stage_ids } = request.into_inner();
        // It goes on when the caller does not wait for its end.
        let ending = self.ending.clone();
        let removed = tokio::spawn(async move { ending.remove(&job_id, &remove_stage_ids).await });
        removed.await.map_err(|_| Status::internal("the output of a job cannot be removed"))??;
        Ok(Response::new(RemoveJobDataResult {}))
    }

    /// A scheduler sends this to executors that it takes for dead. Membership decides who is dead, and one coordinator with
    /// an old view must not stop what others work with.
    async fn stop_executor(&self, _: Request<StopExecutorParams>) -> Result<Response<StopExecutorResult>, Status> {
        tracing::info!("a coordinator asks this executor to stop: ignored");
        Ok(Response::new(StopExecutorResult {}))
    }
}

/// Says what is here.
pub(crate) struct LookService {
    runner: Runner,
    outbox: Outbox,
    incarnation: String,
}

impl LookService {
    /// The service of the executor of this incarnation.
    pub(crate) fn new(runner: Runner, outbox: Outbox, incarnation: &str) -> Self {
        Self { runner, outbox, incarnation: incarnation.to_string() }
    }

    fn named(&self, attempts: Vec<Attempt>) -> Vec<TaskAttempt> {
        let named = attempts.into_iter().map(|attempt| TaskAttempt {
            job_id: attempt.job,
            stage_id: attempt.stage,
            stage_attempt: attempt.stage_attempt,
            task_id: attempt.task,
            incarnation: self.incarnation.clone(),
        });
        named.collect()
    }
}

#[tonic::async_trait]
impl Executor for LookService {
    async fn look(&self, request: Request<LookParams>) -> Result<Response<LookResult>, Status> {
        let LookParams { incarnation, coordinator } = request.into_inner();
        if incarnation != self.incarnation {
            return Err(Status::failed_precondition("another executor has this address now"));
        }
        let jobs = self.runner.registry().jobs_of(&coordinator);
        // A task that ends is in the outbox before it leaves the registry: in this order none is missed.
        let tasks = self.named(self.runner.registry().tasks_of(&jobs));
        let reports = self.named(self.outbox.waiting_for(&coordinator));
        Ok(Response::new(LookResult { tasks, reports, jobs }))
    }
}
