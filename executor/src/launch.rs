//! From a launch message to tasks that can run: what comes over the wire is checked before it is believed.

use std::sync::Arc;

use ballista_core::serde::BallistaCodec;
use ballista_core::serde::protobuf::MultiTaskDefinition;
use ballista_core::serde::scheduler::TaskDefinition;
use ballista_core::serde::scheduler::from_proto::get_task_definition_vec;
use ballista_executor::executor::Executor as BallistaExecutor;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error;

use crate::directories::is_plain_name;
use crate::registry::{Admission, Attempt, Registry};

/// The most tasks of one launch, and the most partitions of one task.
const MAX_TASKS: usize = 10_000;

/// A task that waits for its turn.
pub(crate) struct Launched {
    /// Its place in the registry.
    pub(crate) admission: Admission,
    /// Where its end is reported: the internal door of its coordinator.
    pub(crate) endpoint: String,
    /// The task with its decoded plan.
    pub(crate) task: TaskDefinition,
}

/// The attempt that stands for a whole launch in a report.
pub(crate) fn first_attempt(launch: &MultiTaskDefinition) -> Attempt {
    Attempt {
        job: launch.job_id.clone(),
        stage: launch.stage_id,
        stage_attempt: launch.stage_attempt_num,
        task: launch.task_ids.first().map_or(0, |task| task.task_id),
    }
}

/// Refuses ids that are no plain names (they end in paths) and launches that are too large.
///
/// Errors: `INVALID_ARGUMENT`.
pub(crate) fn check(launch: &MultiTaskDefinition) -> Result<()> {
    let partitions = launch.task_ids.iter().map(|task| task.global_output_partition_ids.len()).max().unwrap_or(0);
    let fault = if !is_plain_name(&launch.job_id) {
        "its job id is not a plain name"
    } else if launch.session_id.is_empty() || launch.session_id.len() > 256 {
        "its session id is missing or too long"
    } else if launch.task_ids.is_empty() || launch.task_ids.len() > MAX_TASKS || partitions > MAX_TASKS {
        "it has no task or too many"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorCode::InvalidArgument, format!("a launch is refused: {fault}")))
}

/// Takes the tasks of a launch on, except those that are here already. Before decoding, so that a cancel which overtakes
/// the decoding finds them.
pub(crate) fn admit(registry: &Arc<Registry>, launch: &mut MultiTaskDefinition, endpoint: &str) -> Vec<Admission> {
    registry.take_job(&launch.job_id, endpoint);
    let mut admissions = Vec::with_capacity(launch.task_ids.len());
    let (job, stage, stage_attempt) = (launch.job_id.clone(), launch.stage_id, launch.stage_attempt_num);
    launch.task_ids.retain(|task| {
        let attempt = Attempt { job: job.clone(), stage, stage_attempt, task: task.task_id };
        let admission = registry.admit(attempt);
        let is_new = admission.is_some();
        admissions.extend(admission);
        is_new
    });
    admissions
}

/// Decodes the plans of a launch whose tasks were admitted.
///
/// Errors: the typed error of what cannot be decoded; a plan of another build, for one.
pub(crate) fn decode(
    executor: &BallistaExecutor,
    codec: BallistaCodec<LogicalPlanNode, PhysicalPlanNode>,
    launch: MultiTaskDefinition,
    admissions: Vec<Admission>,
    endpoint: &str,
) -> Result<Vec<Launched>> {
    let functions = &executor.function_registry;
    let tasks = get_task_definition_vec(
        launch,
        executor.runtime_producer.clone(),
        executor.produce_config(),
        functions.scalar_functions.clone(),
        functions.aggregate_functions.clone(),
        functions.window_functions.clone(),
        functions.higher_order_functions.clone(),
        codec,
    )
    .map_err(|failure| error::from_ballista(&failure))?;
    let launched = admissions.into_iter().zip(tasks);
    Ok(launched.map(|(admission, task)| Launched { admission, endpoint: endpoint.to_string(), task }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ballista_core::serde::protobuf::TaskId;

    fn launch(job: &str, tasks: &[u32]) -> MultiTaskDefinition {
        let task_ids = tasks.iter().map(|task_id| TaskId { task_id: *task_id, ..Default::default() }).collect();
        let session_id = "session".to_string();
        MultiTaskDefinition { job_id: job.to_string(), session_id, task_ids, ..Default::default() }
    }

    #[test]
    fn hostile_launches_are_refused() {
        assert!(check(&launch("job-1", &[0])).is_ok());
        for job in ["", "../../etc", "a/b", ".."] {
            assert_eq!(check(&launch(job, &[0])).unwrap_err().code(), ErrorCode::InvalidArgument, "{job}");
        }
        assert!(check(&launch("job", &[])).is_err());
        assert!(check(&launch("job", &vec![0; MAX_TASKS + 1])).is_err());
    }

    #[test]
    fn a_task_that_is_here_is_not_taken_on_again() {
        let registry = Arc::new(Registry::default());
        let mut first = launch("job", &[0, 1]);
        let held = admit(&registry, &mut first, "127.0.0.1:1");
        let mut second = launch("job", &[1, 2]);
        let new = admit(&registry, &mut second, "127.0.0.1:1");
        assert_eq!((held.len(), new.len(), second.task_ids.len()), (2, 1, 1));
        assert_eq!(second.task_ids[0].task_id, 2);
    }
}
