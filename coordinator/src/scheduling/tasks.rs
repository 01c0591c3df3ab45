//! The book of tasks: every task attempt that was sent to an executor, from its binding to its status.
//!
//! It is the ledger by which the scheduler's door judges a status (an attempt that is open, of that executor, once) and by
//! which slots are given back, and it is the history behind `system.runtime.tasks`. Ballista itself forgets both: it
//! appends the output of a status that comes twice, and it loses the slots of tasks whose stage was rolled back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use ballista_core::serde::protobuf::{TaskStatus, failed_task::FailedReason, task_status};
use ballista_scheduler::state::execution_graph::TaskDescription;
use parking_lot::Mutex;
use townlake_common::QueryId;

/// Finished queries whose tasks are kept.
const KEPT_QUERIES: usize = 256;
/// Task rows that are kept over all finished queries.
const KEPT_ROWS: usize = 100_000;

/// What became of a task attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Sent to its executor, not reported back yet.
    Running,
    /// Reported success.
    Finished,
    /// Reported an error.
    Failed,
    /// Stopped because its query or its stage was.
    Cancelled,
    /// Its executor was lost.
    Lost,
}

impl TaskState {
    /// The text that `system.runtime.tasks` shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// One attempt of one task: a row of `system.runtime.tasks`.
#[derive(Debug, Clone)]
pub struct TaskRow {
    /// The query it worked for.
    pub query: QueryId,
    /// Stage number inside the query.
    pub stage: u32,
    /// Task number inside the stage; a retry has a number of its own.
    pub task: u32,
    /// 1 for the first attempt at this task's partitions, 2 for the first retry.
    pub attempt: u32,
    /// Incarnation of the executor.
    pub executor: String,
    /// Address of the executor.
    pub address: String,
    /// What became of it.
    pub state: TaskState,
    /// How many partitions of the stage it covers.
    pub partitions: u32,
    /// When it was sent, unix time in milliseconds.
    pub started_ms: i64,
    /// When its end was known, unix time in milliseconds.
    pub ended_ms: Option<i64>,
    /// Rows that it wrote.
    pub rows: Option<u64>,
    /// Bytes that it wrote.
    pub bytes: Option<u64>,
}

/// The name of a task attempt inside this coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct AttemptKey {
    pub job: String,
    pub stage: u32,
    pub stage_attempt: u32,
    pub task: u32,
}

/// A task attempt that holds slots of an executor.
#[derive(Debug, Clone)]
pub(super) struct OpenTask {
    pub executor: String,
    pub slots: u32,
    pub stage: u32,
    pub task: u32,
    /// The partitions of the stage that it covers.
    partitions: Vec<usize>,
    since: Instant,
    row: usize,
}

/// A status that counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The slots to give back.
    pub slots: u32,
    /// The partitions of the stage that are done by it.
    pub done: Vec<usize>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TaskBook(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    open: HashMap<AttemptKey, OpenTask>,
    jobs: HashMap<String, JobPage>,
    queries: HashMap<QueryId, QueryPage>,
    /// Queries that have ended, oldest first.
    ended: VecDeque<QueryId>,
    ended_rows: usize,
}

#[derive(Debug)]
struct JobPage {
    query: QueryId,
    /// Length of the operator metrics by stage and stage attempt: Ballista drops a batch of statuses whose lengths differ.
    metrics: HashMap<(u32, u32), usize>,
    /// The stage attempt of each task, by stage and task.
    launched: HashMap<(u32, u32), u32>,
    restarted: bool,
    /// Executors that were lost while they had tasks of it.
    losses: u32,
}

#[derive(Debug, Default)]
struct QueryPage {
    rows: Vec<TaskRow>,
    /// Attempts by stage and partition.
    attempts: HashMap<(u32, usize), u32>,
}

impl TaskBook {
    /// Opens the page of a job.
    pub(super) fn open_job(&self, job: &str, query: &QueryId) {
        let mut book = self.0.lock();
        book.jobs.insert(job.to_string(), JobPage::new(query));
        book.queries.entry(query.clone()).or_default();
    }

    /// A task was bound to an executor.
    pub(super) fn bound(&self, executor: &str, address: &str, task: &TaskDescription) {
        let key = AttemptKey {
            job: task.key.job_id.to_string(),
            stage: narrow(task.key.stage_id),
            stage_attempt: narrow(task.stage_attempt_num),
            task: narrow(task.key.task_id),
        };
        self.open_task(key, executor, address, &task.global_input_partition_ids, task.vcores_consumed);
    }

    fn open_task(&self, key: AttemptKey, executor: &str, address: &str, partitions: &[usize], slots: u32) {
        let mut guard = self.0.lock();
        let book = &mut *guard;
        let Some(job) = book.jobs.get_mut(&key.job) else { return };
        let before = job.launched.insert((key.stage, key.task), key.stage_attempt);
        job.restarted |= before.is_some_and(|attempt| attempt != key.stage_attempt);
        let query = job.query.clone();
        let page = book.queries.entry(query.clone()).or_default();
        let mut attempt = 1;
        for partition in partitions {
            let count = page.attempts.entry((key.stage, *partition)).or_default();
            *count += 1;
            attempt = attempt.max(*count);
        }
        let (stage, task, row) = (key.stage, key.task, page.rows.len());
        page.rows.push(TaskRow {
            query,
            stage,
            task,
            attempt,
            executor: executor.to_string(),
            address: address.to_string(),
            state: TaskState::Running,
            partitions: narrow(partitions.len()),
            started_ms: now_ms(),
            ended_ms: None,
            rows: None,
            bytes: None,
        });
        let (executor, partitions, since) = (executor.to_string(), partitions.to_vec(), Instant::now());
        book.open.insert(key, OpenTask { executor, slots, stage, task, partitions, since, row });
    }

    /// Whether a stage of this job was begun anew after some of its tasks had been sent. Ballista then counts its tasks from
    /// nought again. What the first ones wrote still lies under the same names, where a reader on the same executor takes it
    /// for the output of the second ones, and what they reported stays with the stage that reads it.
    pub(super) fn was_restarted(&self, job: &str) -> bool {
        self.0.lock().jobs.get(job).is_some_and(|page| page.restarted)
    }

    /// The partitions of an attempt that was sent to this executor and has no status yet.
    pub(super) fn partitions(&self, executor: &str, key: &AttemptKey) -> Option<Vec<usize>> {
        let book = self.0.lock();
        book.open.get(key).filter(|task| task.executor == executor).map(|task| task.partitions.clone())
    }

    /// The attempts that were sent to this executor before `time` and have no status yet.
    pub(super) fn open_since(&self, executor: &str, time: Instant) -> Vec<AttemptKey> {
        let book = self.0.lock();
        let old = book.open.iter().filter(|(_, task)| task.executor == executor && task.since <= time);
        old.map(|(key, _)| key.clone()).collect()
    }

    /// The executors that were lost while they had tasks of this job.
    pub(super) fn losses(&self, job: &str) -> u32 {
        self.0.lock().jobs.get(job).map_or(0, |page| page.losses)
    }

    /// Judges a status. What follows of it when it is the first terminal status of an attempt that is open on that executor;
    /// `None` when it must be dropped: a duplicate, a stranger's, or of something that has ended.
    ///
    /// An accepted status is made safe for Ballista, which panics or drops a whole batch on some contents.
    pub(super) fn accept(&self, executor: &str, status: &mut TaskStatus) -> Option<Accepted> {
        let key = AttemptKey {
            job: status.job_id.clone(),
            stage: status.stage_id,
            stage_attempt: status.stage_attempt_num,
            task: status.task_id,
        };
        let mut guard = self.0.lock();
        let book = &mut *guard;
        if book.open.get(&key).is_none_or(|task| task.executor != executor) {
            return None;
        }
        let (state, rows, bytes) = match status.status.as_mut()? {
            task_status::Status::Running(_) => return None,
            task_status::Status::Failed(failed) => match failed.failed_reason {
                Some(FailedReason::TaskKilled(_)) => (TaskState::Cancelled, None, None),
                _ => (TaskState::Failed, None, None),
            },
            task_status::Status::Successful(done) => {
                // Ballista finds the tasks of a lost executor by this name.
                done.executor_id = executor.to_string();
                let rows = done.partitions.iter().map(|p| p.num_rows).fold(0, u64::saturating_add);
                let bytes = done.partitions.iter().map(|p| p.num_bytes).fold(0, u64::saturating_add);
                (TaskState::Finished, Some(rows), Some(bytes))
            }
        };
        let task = book.open.remove(&key)?;
        if let Some(page) = book.jobs.get_mut(&key.job) {
            if !status.metrics.is_empty() {
                let length = status.metrics.len();
                if *page.metrics.entry((key.stage, key.stage_attempt)).or_insert(length) != length {
                    status.metrics.clear();
                }
            }
            let query = page.query.clone();
            book.end_row(&query, task.row, state, rows, bytes);
        }
        let done = if state == TaskState::Finished { task.partitions } else { Vec::new() };
        Some(Accepted { slots: task.slots, done })
    }

    /// An executor is gone: its open attempts are lost, and so is any status that it may still send for them.
    pub(super) fn lose_executor(&self, executor: &str) {
        let mut guard = self.0.lock();
        let book = &mut *guard;
        let lost: Vec<_> = book.open.extract_if(|_, task| task.executor == executor).collect();
        for job in lost.iter().map(|(key, _)| key.job.as_str()).collect::<HashSet<_>>() {
            if let Some(page) = book.jobs.get_mut(job) {
                page.losses += 1;
            }
        }
        for (key, task) in lost {
            if let Some(query) = book.jobs.get(&key.job).map(|page| page.query.clone()) {
                book.end_row(&query, task.row, TaskState::Lost, None, None);
            }
        }
    }

    /// A job has ended: the attempts that were still open, whose slots the caller gives back.
    pub(super) fn close_job(&self, job: &str) -> Vec<OpenTask> {
        let mut guard = self.0.lock();
        let book = &mut *guard;
        let Some(page) = book.jobs.remove(job) else { return Vec::new() };
        let open: Vec<_> = book.open.extract_if(|key, _| key.job == job).map(|(_, task)| task).collect();
        for task in &open {
            book.end_row(&page.query, task.row, TaskState::Cancelled, None, None);
        }
        open
    }

    /// A query has ended: its rows become history, of which the oldest falls off.
    pub(super) fn end_query(&self, query: &QueryId) {
        let mut guard = self.0.lock();
        let book = &mut *guard;
        let Some(page) = book.queries.get(query) else { return };
        if book.ended.contains(query) {
            return;
        }
        book.ended_rows += page.rows.len();
        book.ended.push_back(query.clone());
        while book.ended.len() > KEPT_QUERIES || (book.ended_rows > KEPT_ROWS && book.ended.len() > 1) {
            let Some(oldest) = book.ended.pop_front() else { break };
            let rows = book.queries.remove(&oldest).map_or(0, |page| page.rows.len());
            book.ended_rows = book.ended_rows.saturating_sub(rows);
        }
    }

    /// How many attempts of a job are open.
    pub(super) fn open_tasks(&self, job: &str) -> usize {
        self.0.lock().open.keys().filter(|key| key.job == job).count()
    }

    /// The slots that open attempts of all jobs hold.
    pub(super) fn slots_in_use(&self) -> usize {
        self.0.lock().open.values().map(|task| task.slots as usize).sum()
    }

    /// Every row that is kept, of running and of ended queries, by query, then in the order of sending.
    pub(super) fn rows(&self) -> Vec<TaskRow> {
        let book = self.0.lock();
        let mut pages: Vec<_> = book.queries.iter().collect();
        pages.sort_unstable_by(|a, b| a.0.cmp(b.0));
        pages.into_iter().flat_map(|(_, page)| page.rows.iter().cloned()).collect()
    }
}

impl JobPage {
    fn new(query: &QueryId) -> Self {
        Self { query: query.clone(), metrics: HashMap::new(), launched: HashMap::new(), restarted: false, losses: 0 }
    }
}

impl Book {
    fn end_row(&mut self, query: &QueryId, row: usize, state: TaskState, rows: Option<u64>, bytes: Option<u64>) {
        if let Some(row) = self.queries.get_mut(query).and_then(|page| page.rows.get_mut(row)) {
            row.state = state;
            row.ended_ms = Some(now_ms());
            row.rows = rows;
            row.bytes = bytes;
        }
    }
}

/// Unix time in milliseconds.
pub(super) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use ballista_core::serde::protobuf::{
        ExecutionError, FailedTask, OperatorMetricsSet, RunningTask, ShuffleWritePartition, SuccessfulTask,
    };

    use super::*;

    const JOB: &str = "job-1";

    fn book() -> (TaskBook, QueryId) {
        let (book, query) = (TaskBook::default(), QueryId::generate());
        book.open_job(JOB, &query);
        (book, query)
    }

    fn key(stage_attempt: u32, task: u32) -> AttemptKey {
        AttemptKey { job: JOB.to_string(), stage: 1, stage_attempt, task }
    }

    fn send(book: &TaskBook, executor: &str, key: AttemptKey, partitions: &[usize]) {
        book.open_task(key, executor, "127.0.0.1:1", partitions, partitions.len() as u32);
    }

    fn success(task: u32) -> TaskStatus {
        let partitions = vec![ShuffleWritePartition { num_rows: 7, num_bytes: 70, ..Default::default() }];
        let done = SuccessfulTask { executor_id: "somebody".to_string(), partitions, ..Default::default() };
        status(task, Some(task_status::Status::Successful(done)))
    }

    fn status(task: u32, status: Option<task_status::Status>) -> TaskStatus {
        TaskStatus { task_id: task, job_id: JOB.to_string(), stage_id: 1, status, ..Default::default() }
    }

    #[test]
    fn a_status_counts_once_and_only_from_its_executor() {
        let (book, _) = book();
        send(&book, "a", key(0, 0), &[0, 1]);
        assert_eq!(book.accept("b", &mut success(0)), None, "another executor's task");
        assert_eq!(book.accept("a", &mut success(9)), None, "no such task");
        let mut first = success(0);
        assert_eq!(book.accept("a", &mut first), Some(Accepted { slots: 2, done: vec![0, 1] }));
        let Some(task_status::Status::Successful(done)) = first.status else { panic!("success expected") };
        assert_eq!(done.executor_id, "a", "a status cannot name another executor");
        assert_eq!(book.accept("a", &mut success(0)), None, "the same again");
        let row = book.rows().remove(0);
        assert_eq!((row.state, row.rows, row.bytes, row.attempt), (TaskState::Finished, Some(7), Some(70), 1));
    }

    #[test]
    fn what_would_break_the_event_loop_is_dropped() {
        let (book, _) = book();
        send(&book, "a", key(0, 0), &[0]);
        assert_eq!(book.accept("a", &mut status(0, None)), None);
        let running = task_status::Status::Running(RunningTask { executor_id: "a".to_string() });
        assert_eq!(book.accept("a", &mut status(0, Some(running))), None);
        let mut other_stage = success(0);
        other_stage.stage_id = 4_000_000;
        assert_eq!(book.accept("a", &mut other_stage), None);
        let mut other_attempt = success(0);
        other_attempt.stage_attempt_num = 1;
        assert_eq!(book.accept("a", &mut other_attempt), None);
        assert!(book.accept("a", &mut success(0)).is_some(), "the real one still counts");
    }

    #[test]
    fn metrics_of_another_length_are_left_out() {
        let (book, _) = book();
        for task in 0..2 {
            send(&book, "a", key(0, task), &[task as usize]);
        }
        let with_metrics = |task, count| {
            let mut status = success(task);
            status.metrics = vec![OperatorMetricsSet::default(); count];
            status
        };
        let (mut first, mut second) = (with_metrics(0, 3), with_metrics(1, 2));
        assert!(book.accept("a", &mut first).is_some() && book.accept("a", &mut second).is_some());
        assert_eq!((first.metrics.len(), second.metrics.len()), (3, 0));
    }

    #[test]
    fn a_lost_executor_is_not_heard_any_more_and_its_retry_is_the_second_attempt() {
        let (book, _) = book();
        send(&book, "a", key(0, 0), &[0, 1]);
        send(&book, "b", key(0, 1), &[2]);
        book.lose_executor("a");
        assert_eq!(book.accept("a", &mut success(0)), None);
        send(&book, "b", key(0, 2), &[0, 1]);
        assert_eq!(book.open_tasks(JOB), 2);
        let states: Vec<_> = book.rows().iter().map(|r| (r.executor.clone(), r.state, r.attempt)).collect();
        let expected = [("a", TaskState::Lost, 1), ("b", TaskState::Running, 1), ("b", TaskState::Running, 2)];
        assert_eq!(states, expected.map(|(e, s, a)| (e.to_string(), s, a)));
    }

    #[test]
    fn a_job_counts_the_losses_that_it_had_part_in() {
        let (book, query) = book();
        book.open_job("other", &query);
        let of_other = AttemptKey { job: "other".to_string(), ..key(0, 0) };
        for _ in 0..3 {
            for task in 0..4 {
                send(&book, "a", key(0, task), &[task as usize]);
            }
            book.lose_executor("a");
        }
        send(&book, "b", of_other, &[0]);
        book.lose_executor("c");
        assert_eq!((book.losses(JOB), book.losses("other")), (3, 0));
    }

    #[test]
    fn a_stage_that_counts_its_tasks_anew_was_restarted() {
        let (book, _) = book();
        send(&book, "a", key(0, 0), &[0]);
        send(&book, "a", key(0, 1), &[1]);
        send(&book, "b", key(1, 2), &[1]);
        assert!(!book.was_restarted(JOB), "lost tasks run again under new numbers");
        send(&book, "b", key(1, 0), &[0]);
        assert!(book.was_restarted(JOB));
        book.close_job(JOB);
        assert!(!book.was_restarted(JOB));
    }

    #[test]
    fn a_job_that_ends_gives_its_slots_back() {
        let (book, _) = book();
        send(&book, "a", key(0, 0), &[0, 1]);
        send(&book, "b", key(0, 1), &[2]);
        let failed =
            FailedTask { failed_reason: Some(FailedReason::ExecutionError(ExecutionError {})), ..Default::default() };
        let accepted = book.accept("b", &mut status(1, Some(task_status::Status::Failed(failed))));
        assert_eq!(accepted, Some(Accepted { slots: 1, done: Vec::new() }));
        let open = book.close_job(JOB);
        assert_eq!(open.iter().map(|t| (t.executor.as_str(), t.slots)).collect::<Vec<_>>(), [("a", 2)]);
        assert_eq!(book.slots_in_use(), 0);
        assert_eq!(book.accept("a", &mut success(0)), None);
        let states: Vec<_> = book.rows().iter().map(|row| row.state).collect();
        assert_eq!(states, [TaskState::Cancelled, TaskState::Failed]);
    }

    #[test]
    fn history_is_bounded_and_keeps_the_youngest() {
        let book = TaskBook::default();
        let queries: Vec<_> = (0..KEPT_QUERIES + 5).map(|_| QueryId::generate()).collect();
        for query in &queries {
            let job = format!("{query}-1");
            book.open_job(&job, query);
            send(&book, "a", AttemptKey { job: job.clone(), stage: 1, stage_attempt: 0, task: 0 }, &[0]);
            book.close_job(&job);
            book.end_query(query);
        }
        let rows = book.rows();
        assert_eq!(rows.len(), KEPT_QUERIES);
        assert!(rows.iter().any(|row| Some(&row.query) == queries.last()));
        assert!(rows.iter().all(|row| row.query != queries[0]));
    }
}
