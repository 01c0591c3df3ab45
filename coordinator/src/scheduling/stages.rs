//! What can be seen of a query's stages: progress while it runs, and statistics for `EXPLAIN ANALYZE`.

use ballista_core::serde::protobuf::task_status;
use ballista_scheduler::state::execution_graph::ExecutionGraph;
use ballista_scheduler::state::execution_stage::{ExecutionStage, TaskInfo};
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};

/// Where a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageState {
    /// Its inputs are not complete.
    Waiting,
    /// Its tasks run.
    Running,
    /// Its output is complete.
    Finished,
    /// It failed, or its query was cancelled.
    Failed,
}

impl StageState {
    /// The text for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
        }
    }
}

/// How far a query is: its stages in the order of their numbers.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The stages.
    pub stages: Vec<StageProgress>,
}

/// How far a stage is. Tasks are counted in partitions: a task that is sent covers one or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageProgress {
    /// Stage number inside the query, from 1.
    pub stage: usize,
    /// Partitions of the stage.
    pub tasks_total: usize,
    /// Partitions that are done.
    pub tasks_done: usize,
    /// Partitions that are worked on now.
    pub tasks_running: usize,
    /// Where it is.
    pub state: StageState,
}

/// What a stage did.
#[derive(Debug, Clone)]
pub struct StageStats {
    /// Stage number inside the query, from 1.
    pub stage: usize,
    /// Where it is.
    pub state: StageState,
    /// The stages whose output it reads.
    pub inputs: Vec<usize>,
    /// Its plan, indented, one operator a line.
    pub plan: String,
    /// Partitions of the stage.
    pub partitions: usize,
    /// Task attempts that were sent, retries included.
    pub tasks: usize,
    /// Rows of its output.
    pub rows: u64,
    /// Bytes of its output, as written.
    pub bytes: u64,
    /// From the first task sent to the last one done, in milliseconds.
    pub elapsed_ms: u64,
    /// Its operators in pre-order, with metrics summed over all tasks.
    pub operators: Vec<OperatorStats>,
}

/// What an operator did, in all tasks of its stage.
#[derive(Debug, Clone)]
pub struct OperatorStats {
    /// Depth in the stage's plan, from 0.
    pub depth: usize,
    /// Its name.
    pub name: String,
    /// Its line in the plan.
    pub description: String,
    /// Metric name and value for people, in the order of DataFusion; empty when its tasks reported none.
    pub metrics: Vec<(String, String)>,
}

/// The progress of a job.
pub(super) fn progress(graph: &dyn ExecutionGraph) -> Progress {
    let mut stages: Vec<_> = graph.stages().iter().map(|(id, stage)| stage_progress(*id, stage)).collect();
    stages.sort_unstable_by_key(|stage| stage.stage);
    Progress { stages }
}

/// The progress of a query that has ended.
pub(super) fn ended_progress(stats: &[StageStats]) -> Progress {
    let stages = stats.iter().map(|stage| StageProgress {
        stage: stage.stage,
        tasks_total: stage.partitions,
        tasks_done: if stage.state == StageState::Finished { stage.partitions } else { 0 },
        tasks_running: 0,
        state: stage.state,
    });
    Progress { stages: stages.collect() }
}

fn stage_progress(id: usize, stage: &ExecutionStage) -> StageProgress {
    let total = partitions(stage);
    let (done, running) = match stage {
        ExecutionStage::Successful(_) => (total, 0),
        _ => count_partitions(total, stage.task_infos().unwrap_or_default()),
    };
    StageProgress { stage: id, tasks_total: total, tasks_done: done, tasks_running: running, state: state(stage) }
}

/// Partitions done and partitions worked on. A partition that was done and lost again has a later attempt, which counts.
fn count_partitions(total: usize, tasks: &[TaskInfo]) -> (usize, usize) {
    let mut last = vec![None; total];
    for task in tasks {
        for partition in &task.global_input_partition_ids {
            if let Some(slot) = last.get_mut(*partition) {
                *slot = Some(&task.task_status);
            }
        }
    }
    let done = last.iter().filter(|s| matches!(s, Some(task_status::Status::Successful(_)))).count();
    let running = last.iter().filter(|s| matches!(s, Some(task_status::Status::Running(_)))).count();
    (done, running)
}

fn partitions(stage: &ExecutionStage) -> usize {
    match stage {
        ExecutionStage::UnResolved(stage) => input_partitions(stage.plan.as_ref()),
        ExecutionStage::Resolved(stage) => stage.partitions,
        ExecutionStage::Running(stage) => stage.partitions,
        ExecutionStage::Successful(stage) => stage.partitions,
        ExecutionStage::Failed(stage) => stage.partitions,
    }
}

/// The partitions that a stage will have: those of the shuffle writer's child.
fn input_partitions(plan: &dyn ExecutionPlan) -> usize {
    let children = plan.children();
    let partitioning = match children.first() {
        Some(child) => child.properties().output_partitioning(),
        None => plan.properties().output_partitioning(),
    };
    partitioning.partition_count().max(1)
}

fn state(stage: &ExecutionStage) -> StageState {
    match stage {
        ExecutionStage::UnResolved(_) => StageState::Waiting,
        ExecutionStage::Resolved(_) | ExecutionStage::Running(_) => StageState::Running,
        ExecutionStage::Successful(_) => StageState::Finished,
        ExecutionStage::Failed(_) => StageState::Failed,
    }
}

/// The statistics of a job's stages.
pub(super) fn statistics(graph: &dyn ExecutionGraph) -> Vec<StageStats> {
    let mut stages: Vec<_> = graph.stages().iter().map(|(id, stage)| stage_statistics(*id, stage, graph)).collect();
    stages.sort_unstable_by_key(|stage| stage.stage);
    stages
}

fn stage_statistics(id: usize, stage: &ExecutionStage, graph: &dyn ExecutionGraph) -> StageStats {
    let tasks = stage.task_infos().unwrap_or_default();
    let written = tasks.iter().filter_map(|task| match &task.task_status {
        task_status::Status::Successful(done) => Some(&done.partitions),
        _ => None,
    });
    let (rows, bytes) = written.flatten().fold((0u64, 0u64), |(rows, bytes), part| {
        (rows.saturating_add(part.num_rows), bytes.saturating_add(part.num_bytes))
    });
    let metrics: &[MetricsSet] = match stage {
        ExecutionStage::Successful(stage) => &stage.stage_metrics,
        ExecutionStage::Running(stage) => stage.stage_metrics.as_deref().unwrap_or_default(),
        ExecutionStage::Failed(stage) => stage.stage_metrics.as_deref().unwrap_or_default(),
        ExecutionStage::UnResolved(_) | ExecutionStage::Resolved(_) => &[],
    };
    let all = graph.stages().iter();
    let mut inputs: Vec<_> = all.filter(|(_, other)| other.output_links().contains(&id)).map(|(id, _)| *id).collect();
    inputs.sort_unstable();
    StageStats {
        stage: id,
        state: state(stage),
        inputs,
        plan: DisplayableExecutionPlan::new(stage.plan()).indent(false).to_string(),
        partitions: partitions(stage),
        tasks: tasks.len(),
        rows,
        bytes,
        elapsed_ms: elapsed_ms(tasks),
        operators: operators(stage.plan(), metrics),
    }
}

fn elapsed_ms(tasks: &[TaskInfo]) -> u64 {
    let first = tasks.iter().map(|task| task.scheduled_time).min().unwrap_or(0);
    let last = tasks.iter().map(|task| task.finish_time).max().unwrap_or(0);
    u64::try_from(last.saturating_sub(first)).unwrap_or(u64::MAX)
}

/// The operators in pre-order. Reported metrics come by position among the operators that have metrics at all; when the
/// counts differ (executor and coordinator see different plans), no operator gets any rather than the wrong ones.
fn operators(plan: &dyn ExecutionPlan, reported: &[MetricsSet]) -> Vec<OperatorStats> {
    let mut stack = vec![(plan, 0)];
    let mut found = Vec::new();
    while let Some((plan, depth)) = stack.pop() {
        found.push((plan, depth));
        stack.extend(plan.children().into_iter().rev().map(|child| (child.as_ref(), depth + 1)));
    }
    let measured = found.iter().filter(|(plan, _)| plan.metrics().is_some()).count();
    let mut reported = if measured == reported.len() { reported.iter() } else { [].iter() };
    found
        .into_iter()
        .map(|(plan, depth)| OperatorStats {
            depth,
            name: plan.name().to_string(),
            description: Line(plan).to_string(),
            metrics: plan.metrics().and_then(|_| reported.next()).map(values).unwrap_or_default(),
        })
        .collect()
}

fn values(metrics: &MetricsSet) -> Vec<(String, String)> {
    let summed = metrics.aggregate_by_name().sorted_for_display().timestamps_removed();
    summed.iter().map(|metric| (metric.value().name().to_string(), metric.value().to_string())).collect()
}

struct Line<'a>(&'a dyn ExecutionPlan);

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt_as(DisplayFormatType::Default, f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ballista_core::serde::protobuf::{FailedTask, RunningTask, SuccessfulTask};
    use ballista_scheduler::state::execution_graph::create_task_info;
    use datafusion::arrow::datatypes::Schema;
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
    use datafusion::physical_plan::empty::EmptyExec;

    use super::*;

    fn task(id: usize, partitions: &[usize], status: task_status::Status) -> TaskInfo {
        let mut task = create_task_info("a".to_string(), id);
        task.global_input_partition_ids = partitions.to_vec();
        task.task_status = status;
        task
    }

    #[test]
    fn a_partition_counts_by_its_last_attempt() {
        let done = || task_status::Status::Successful(SuccessfulTask::default());
        let running = || task_status::Status::Running(RunningTask::default());
        let lost = || task_status::Status::Failed(FailedTask::default());
        let tasks = [task(0, &[0, 1], lost()), task(1, &[2], done()), task(2, &[0], done()), task(3, &[1], running())];
        assert_eq!(count_partitions(4, &tasks), (2, 1));
        assert_eq!(count_partitions(1, &[task(0, &[7], done())]), (0, 0), "a partition out of range is not counted");
    }

    #[test]
    fn metrics_go_to_operators_by_position_or_not_at_all() {
        let leaf = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        let plan = CoalescePartitionsExec::new(leaf);
        let found = operators(&plan, &[MetricsSet::new(), MetricsSet::new(), MetricsSet::new()]);
        assert_eq!(found.iter().map(|o| o.depth).collect::<Vec<_>>(), [0, 1]);
        assert!(found.iter().all(|operator| operator.metrics.is_empty()));
    }
}
