//! How the statuses of tasks get to Ballista: those that count, once each.

use std::sync::Arc;
use std::time::Instant;

use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::{FailedTask, IoError, TaskStatus, UpdateTaskStatusParams, task_status};
use futures::future::join_all;
use tonic::{Request, Status};
use townlake_common::{Error, ErrorCode};
use townlake_proto::control::{LookResult, TaskAttempt};
use tracing::{debug, warn};

use super::shared::Core;
use super::tasks::AttemptKey;

/// Lets through the statuses that count, and gives the slots of their tasks back. What does not count is acknowledged as
/// well, so that the executor stops repeating it.
///
/// Once an attempt is closed its status must arrive: it would be a duplicate when it is sent again. So this goes on when
/// the caller goes away.
///
/// Errors: the scheduler has stopped.
pub(super) async fn take(core: &Arc<Core>, executor: String, statuses: Vec<TaskStatus>) -> Result<(), Status> {
    let core = Arc::clone(core);
    let taken = tokio::spawn(async move { take_all(&core, executor, statuses).await });
    taken.await.map_err(|_| Status::internal("the statuses could not be taken"))?
}

async fn take_all(core: &Core, executor_id: String, statuses: Vec<TaskStatus>) -> Result<(), Status> {
    if core.members.address(&executor_id).is_none() {
        debug!(executor = %executor_id, statuses = statuses.len(), "statuses of an executor that is lost or unknown dropped");
        return Ok(());
    }
    let mut accepted = Vec::with_capacity(statuses.len());
    let mut slots = 0;
    for mut status in statuses {
        match core.tasks.accept(&executor_id, &mut status) {
            Some(counted) => {
                slots += counted.slots;
                core.failures.forgive(&status.job_id, status.stage_id, &counted.done);
                accepted.push(status);
            }
            None => debug!(
                executor = %executor_id, job = %status.job_id, stage = status.stage_id, task = status.task_id,
                "status dropped: it came before or belongs to nothing that runs"
            ),
        }
    }
    if accepted.is_empty() {
        return Ok(());
    }
    core.state.release(vec![(executor_id.clone(), slots)]).await;
    let params = UpdateTaskStatusParams { executor_id, task_status: accepted };
    SchedulerGrpc::update_task_status(&core.ballista, Request::new(params)).await.map(|_| ())
}

/// Compares the book of tasks with what an executor says that it has. Tasks that were sent to it before `sent_before` and of
/// which it knows nothing (their launch or their report was lost) are given to another one, and jobs that have ended are
/// removed there once more.
pub(super) async fn compare(core: &Arc<Core>, executor: &str, seen: &LookResult, sent_before: Instant) {
    let ended = seen.jobs.iter().filter(|job| !core.live.contains(job.as_str()));
    join_all(ended.map(|job| core.remove_data_on(executor, job))).await;
    let known = |key: &AttemptKey| seen.tasks.iter().chain(&seen.reports).any(|task| is_same(task, key));
    let lost: Vec<_> = core.tasks.open_since(executor, sent_before).into_iter().filter(|key| !known(key)).collect();
    if lost.is_empty() {
        return;
    }
    warn!(executor, tasks = lost.len(), "tasks that an executor does not know: they run again");
    for key in &lost {
        let Some(partitions) = core.tasks.partitions(executor, key) else { continue };
        let message = format!("executor {executor} does not know a task that was sent to it");
        let error = Error::new(ErrorCode::ExecutorLost, message).with_hint("run the query again").retryable();
        core.failures.report(&key.job, key.stage, partitions, error);
    }
    if let Err(error) = take(core, executor.to_string(), lost.into_iter().map(unknown).collect()).await {
        warn!(executor, %error, "the scheduler could not be told of lost tasks");
    }
}

fn is_same(task: &TaskAttempt, key: &AttemptKey) -> bool {
    task.job_id == key.job
        && task.stage_id == key.stage
        && task.stage_attempt == key.stage_attempt
        && task.task_id == key.task
}

/// The status of a task that nobody works on: it is tried again, a few times.
fn unknown(key: AttemptKey) -> TaskStatus {
    let failed = FailedTask {
        error: "the executor does not know the task".to_string(),
        retryable: true,
        count_to_failures: true,
        failed_reason: Some(FailedReason::IoError(IoError {})),
    };
    TaskStatus {
        task_id: key.task,
        job_id: key.job,
        stage_id: key.stage,
        stage_attempt_num: key.stage_attempt,
        status: Some(task_status::Status::Failed(failed)),
        ..Default::default()
    }
}
