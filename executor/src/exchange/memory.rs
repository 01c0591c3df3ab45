//! The outputs that are in memory, within a limit.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use parking_lot::RwLock;

/// One task may take this part of the limit at most: it shall not drive the outputs of many small queries into files.
const TASK_PART: usize = 4;
/// What is not cut by hash (results above all, which wait for slow clients) may take this part, all of it together.
const AS_INPUT_PART: usize = 8;

/// A task's place among the outputs of its job: stage and task.
type Place = (usize, u64);

/// The outputs of finished tasks, until their job is removed, and what running tasks have of theirs.
pub(crate) struct OutputMemory {
    limit: usize,
    used: AtomicUsize,
    /// The part of `used` that is not cut by hash.
    as_input: AtomicUsize,
    jobs: RwLock<HashMap<String, HashMap<Place, Arc<TaskOutput>>>>,
}

/// What one task made.
pub(crate) struct TaskOutput {
    /// Its columns.
    pub(crate) schema: SchemaRef,
    /// How a peer wants its rows.
    pub(crate) compression: Option<CompressionType>,
    /// The batches by global partition.
    partitions: HashMap<usize, Vec<RecordBatch>>,
    _reserved: Arc<Reserved>,
}

impl TaskOutput {
    /// `reserved` is what `partitions` take.
    pub(crate) fn new(
        schema: SchemaRef,
        compression: Option<CompressionType>,
        partitions: HashMap<usize, Vec<RecordBatch>>,
        reserved: Arc<Reserved>,
    ) -> Self {
        Self { schema, compression, partitions, _reserved: reserved }
    }

    /// The batches of a partition; none where no row fell into it.
    pub(crate) fn batches(&self, partition: usize) -> &[RecordBatch] {
        self.partitions.get(&partition).map_or(&[], Vec::as_slice)
    }
}

/// What one task has of the limit; given back when it is dropped.
pub(crate) struct Reserved {
    memory: Arc<OutputMemory>,
    bytes: AtomicUsize,
    is_as_input: bool,
}

impl Reserved {
    /// Takes `bytes` more. `false`: they are not there, or too many for one task.
    pub(crate) fn try_grow(&self, bytes: usize) -> bool {
        if !add_within(&self.bytes, bytes, self.memory.limit / TASK_PART) {
            return false;
        }
        let memory = &self.memory;
        if self.is_as_input && !add_within(&memory.as_input, bytes, memory.limit / AS_INPUT_PART) {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        let taken = add_within(&memory.used, bytes, memory.limit);
        if !taken {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            if self.is_as_input {
                memory.as_input.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
        taken
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.memory.used.fetch_sub(bytes, Ordering::Relaxed);
        if self.is_as_input {
            self.memory.as_input.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

fn add_within(used: &AtomicUsize, bytes: usize, limit: usize) -> bool {
    let sum = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok()
}

impl OutputMemory {
    /// At most `limit` bytes; with 0 every output goes into files.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), as_input: AtomicUsize::new(0), jobs: RwLock::default() })
    }

    /// What a task has, nothing yet. `is_as_input`: its output is not cut by hash.
    pub(crate) fn reserve(self: &Arc<Self>, is_as_input: bool) -> Arc<Reserved> {
        Arc::new(Reserved { memory: Arc::clone(self), bytes: AtomicUsize::new(0), is_as_input })
    }

    /// Bytes that are taken now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether any output may be here.
    pub(crate) fn is_on(&self) -> bool {
        self.limit > 0
    }

    /// Keeps the output of a task, in place of that of an older attempt.
    pub(crate) fn put(&self, job: &str, stage: usize, task: u64, output: TaskOutput) {
        self.jobs.write().entry(job.to_string()).or_default().insert((stage, task), Arc::new(output));
    }

    /// Forgets the output of an older attempt of a task.
    pub(crate) fn forget(&self, job: &str, stage: usize, task: u64) {
        if let Some(outputs) = self.jobs.write().get_mut(job) {
            outputs.remove(&(stage, task));
        }
    }

    /// The output of a task, if it is in memory.
    pub(crate) fn output(&self, job: &str, stage: usize, task: u64) -> Option<Arc<TaskOutput>> {
        self.jobs.read().get(job)?.get(&(stage, task)).map(Arc::clone)
    }

    /// Forgets the outputs of these stages of a job, or all of it when `stages` is empty.
    pub(crate) fn remove_job(&self, job: &str, stages: &[u32]) {
        let mut jobs = self.jobs.write();
        if stages.is_empty() {
            jobs.remove(job);
            return;
        }
        let Some(outputs) = jobs.get_mut(job) else { return };
        outputs.retain(|(stage, _), _| !stages.iter().any(|removed| usize::try_from(*removed) == Ok(*stage)));
        if outputs.is_empty() {
            jobs.remove(job);
        }
    }

    /// Whether no output is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.read().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;

    #[test]
    fn what_is_taken_is_given_back() {
        let memory = OutputMemory::new(400);
        let tasks: Vec<_> = (0..4).map(|_| memory.reserve(false)).collect();
        assert!(tasks.iter().all(|task| task.try_grow(90) && !task.try_grow(11)));
        let one = memory.reserve(false);
        assert!(!one.try_grow(41) && !one.try_grow(usize::MAX) && one.try_grow(40));
        drop(tasks);
        assert_eq!(memory.used(), 40);
        let results = [memory.reserve(true), memory.reserve(true)];
        assert!(results[0].try_grow(40) && !results[1].try_grow(11) && results[1].try_grow(10));
        drop(results);
        assert!(memory.reserve(true).try_grow(50));
        memory.put("job", 1, 7, TaskOutput::new(Arc::new(Schema::empty()), None, HashMap::new(), one));
        let read = memory.output("job", 1, 7).unwrap();
        memory.remove_job("job", &[2]);
        assert!(memory.output("job", 1, 7).is_some() && memory.output("job", 1, 8).is_none());
        memory.remove_job("job", &[1]);
        assert!(memory.is_empty() && memory.used() == 40, "a reader has it still");
        drop(read);
        assert_eq!(memory.used(), 0);
    }
}
