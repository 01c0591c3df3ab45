//! Whether the stages of a finished job have read what the stages before them made: each part once.
//!
//! Ballista keeps, beside a stage, where its inputs lie, and adds to that as tasks end and takes from it as executors are
//! lost. Where the two sides do not agree in the end, rows are missing or doubled: the answer is not given out.

use std::collections::HashMap;

use ballista_core::serde::protobuf::task_status;
use ballista_core::serde::scheduler::PartitionLocation;
use ballista_scheduler::state::execution_graph::ExecutionGraph;
use ballista_scheduler::state::execution_stage::{ExecutionStage, StageOutput, TaskInfo};

/// One part of a stage's output: its partition, the task that made it, and the executor that holds it.
type Part<'a> = (usize, usize, &'a str);

/// Whether every stage has read every part of its inputs once. It says no, too, when a part was lost and made again after
/// it had been read: then the query runs once more without need.
pub(super) fn inputs_are_complete(graph: &dyn ExecutionGraph) -> bool {
    let mut inputs = graph.stages().values().filter_map(inputs_of).flatten();
    inputs.all(|(producer, output)| {
        let tasks = graph.stages().get(producer).and_then(ExecutionStage::task_infos);
        made(tasks.unwrap_or_default()) == read(output)
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
