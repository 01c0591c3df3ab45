//! Whether the stages of a job read what the stages before them made: each part once.
//!
//! Ballista keeps, beside a stage, where its inputs lie, and adds to that as tasks end. When a running stage is rolled back
//! (an executor was lost that holds inputs of it), the parts that its tasks had made already stay with the stage after it,
//! and come a second time when the stage runs again: rows are doubled. So we compare the two sides, while a job runs and,
//! for good, before its result is given out.

use std::collections::HashMap;

use ballista_core::serde::protobuf::task_status;
use ballista_core::serde::scheduler::PartitionLocation;
use ballista_scheduler::state::execution_graph::ExecutionGraph;
use ballista_scheduler::state::execution_stage::{ExecutionStage, StageOutput, TaskInfo};

/// One part of a stage's output: its partition, the task that made it, and the executor that holds it.
type Part<'a> = (usize, usize, &'a str);

/// Whether no stage that has not ended reads a part that does not count, or one part twice. Parts may be missing: they are
/// yet to be made.
pub(super) fn inputs_are_sound(graph: &dyn ExecutionGraph) -> bool {
    let open = |stage: &&ExecutionStage| !matches!(stage, ExecutionStage::Successful(_));
    every_input(graph, open, |made, read| read.iter().all(|(part, times)| *times == 1 && made.contains_key(part)))
}

/// Whether every stage has read every part of its inputs once. Only a finished job can say yes. It says no, too, when a part
/// was lost and made again after it had been read: then the query runs once more without need.
pub(super) fn inputs_are_complete(graph: &dyn ExecutionGraph) -> bool {
    every_input(graph, |_| true, |made, read| made == read)
}

fn every_input(
    graph: &dyn ExecutionGraph,
    of_stage: impl Fn(&&ExecutionStage) -> bool,
    holds: impl Fn(&HashMap<Part<'_>, usize>, &HashMap<Part<'_>, usize>) -> bool,
) -> bool {
    let mut inputs = graph.stages().values().filter(of_stage).filter_map(inputs_of).flatten();
    inputs.all(|(producer, output)| {
        let tasks = graph.stages().get(producer).and_then(ExecutionStage::task_infos);
        holds(&made(tasks.unwrap_or_default()), &read(output))
    })
}

fn inputs_of(stage: &ExecutionStage) -> Option<&HashMap<usize, StageOutput>> {
    match stage {
        ExecutionStage::UnResolved(stage) => Some(&stage.inputs),
        ExecutionStage::Resolved(stage) => Some(&stage.inputs),
        ExecutionStage::Running(stage) => Some(&stage.inputs),
        ExecutionStage::Successful(stage) => Some(&stage.inputs),
        ExecutionStage::Failed(_) => None,
    }
}

/// The parts of the task attempts that count.
fn made(tasks: &[TaskInfo]) -> HashMap<Part<'_>, usize> {
    let mut parts = HashMap::new();
    for task in tasks {
        let task_status::Status::Successful(done) = &task.task_status else { continue };
        for part in &done.partitions {
            let partition = usize::try_from(part.partition_id).unwrap_or(usize::MAX);
            *parts.entry((partition, task.task_id, done.executor_id.as_str())).or_default() += 1;
        }
    }
    parts
}

/// The parts that a stage was told of.
fn read(output: &StageOutput) -> HashMap<Part<'_>, usize> {
    let mut parts = HashMap::new();
    for location in output.partition_locations.values().flatten() {
        *parts.entry(part_of(location)).or_default() += 1;
    }
    parts
}

fn part_of(location: &PartitionLocation) -> Part<'_> {
    (location.partition_id.partition_id, location.map_partition_id, location.executor_meta.id.as_str())
}
