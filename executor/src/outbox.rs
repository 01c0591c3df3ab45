//! The outbox of reports. A report stays in it until its coordinator acknowledges it: Ballista's scheduler has no time
//! limit for a task, so a status that is lost is a query that hangs.
//!
//! Each coordinator has a lane of its own, so that one that hangs holds up nobody else. A lane retries with back-off for as
//! long as a coordinator may be away, then drops its reports with a log: a coordinator that starts anew has no use for the
//! jobs of the one before. Reports arrive in order, and some arrive twice (the answer was lost): the door of the coordinator
//! drops duplicates by job, stage, attempt, task and incarnation.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ballista_core::serde::protobuf::TaskStatus;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::registry::Attempt;
use crate::report::{Delivery, Report, task_error};

/// Reports that one message carries.
const BATCH: usize = 64;

/// When an outbox tries again and when it gives up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The wait after the first failure; doubled each time.
    pub(crate) first_wait: Duration,
    /// The longest wait.
    pub(crate) longest_wait: Duration,
    /// How long a coordinator may be away before its reports are dropped.
    pub(crate) give_up: Duration,
    /// The most reports of one coordinator; above, the reports of the oldest job are dropped.
    pub(crate) reports: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(3),
            give_up: Duration::from_secs(600),
            reports: 10_000,
        }
    }
}

/// The outbox of this executor; a clone is the same outbox.
#[derive(Clone)]
pub(crate) struct Outbox(Arc<Inner>);

struct Inner {
    delivery: Arc<dyn Delivery>,
    incarnation: String,
    limits: Limits,
    lanes: Mutex<HashMap<String, Lane>>,
    runtime: Handle,
}

/// The reports for one coordinator that are not acknowledged. It exists while there is one.
#[derive(Default)]
struct Lane {
    queue: VecDeque<Arc<Report>>,
    queued: HashSet<Attempt>,
}

impl Outbox {
    /// An empty outbox, whose work runs on the current runtime.
    pub(crate) fn new(delivery: Arc<dyn Delivery>, incarnation: &str, limits: Limits) -> Self {
        let incarnation = incarnation.to_string();
        Self(Arc::new(Inner { delivery, incarnation, limits, lanes: Mutex::default(), runtime: Handle::current() }))
    }

    /// Puts a report in. One that is in already is not put in again.
    pub(crate) fn push(&self, endpoint: &str, report: Report) {
        let mut lanes = self.0.lanes.lock();
        let starts = !lanes.contains_key(endpoint);
        let lane = lanes.entry(endpoint.to_string()).or_default();
        if lane.queued.insert(report.attempt()) {
            lane.queue.push_back(Arc::new(report));
        }
        if lane.queue.len() > self.0.limits.reports {
            lane.drop_oldest_job(endpoint);
        }
        if starts {
            let inner = Arc::clone(&self.0);
            let endpoint = endpoint.to_string();
            self.0.runtime.spawn(async move { inner.run_lane(&endpoint).await });
        }
    }

    /// Reports a typed error without a status, once: the scheduler learns of the failure in another way.
    pub(crate) async fn report_error(&self, endpoint: &str, attempt: &Attempt, error: &townlake_common::Error) {
        let message = task_error(attempt, &self.0.incarnation, error);
        let delivered = tokio::time::timeout(Duration::from_secs(1), self.0.delivery.error(endpoint, message)).await;
        if !matches!(delivered, Ok(Ok(()))) {
            tracing::info!(endpoint, job = attempt.job, "a typed error could not be reported");
        }
    }

    /// The attempts whose reports wait for this coordinator.
    pub(crate) fn waiting_for(&self, endpoint: &str) -> Vec<Attempt> {
        self.0.lanes.lock().get(endpoint).map(|lane| lane.queued.iter().cloned().collect()).unwrap_or_default()
    }

    /// Drops the reports for a coordinator that is gone.
    pub(crate) fn forget(&self, endpoint: &str) {
        self.0.lanes.lock().remove(endpoint);
    }

    /// How many reports are not acknowledged.
    pub(crate) fn len(&self) -> usize {
        self.0.lanes.lock().values().map(|lane| lane.queue.len()).sum()
    }

    /// Waits until every report is acknowledged, for `limit` at most.
    pub(crate) async fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.len() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Lane {
    fn drop_oldest_job(&mut self, endpoint: &str) {
        let Some(job) = self.queue.front().map(|report| report.status.job_id.clone()) else { return };
        let before = self.queue.len();
        self.queue.retain(|report| report.status.job_id != job);
        self.queued.retain(|attempt| attempt.job != job);
        let dropped = before - self.queue.len();
        tracing::warn!(endpoint, job, dropped, "the outbox is full: the reports of its oldest job are dropped");
    }

    fn acknowledge(&mut self, reports: &[Arc<Report>]) {
        let done: HashSet<Attempt> = reports.iter().map(|report| report.attempt()).collect();
        self.queue.retain(|report| !done.contains(&report.attempt()));
        self.queued.retain(|attempt| !done.contains(attempt));
    }
}

impl Inner {
    /// Delivers the reports of one lane until none is left.
    async fn run_lane(&self, endpoint: &str) {
        let mut wait = self.limits.first_wait;
        let mut away_since: Option<Instant> = None;
        let mut size = BATCH;
        while let Some(batch) = self.next(endpoint, size) {
            match self.deliver(endpoint, &batch).await {
                Ok(()) => {
                    self.acknowledge(endpoint, &batch);
                    if away_since.take().is_some() {
                        tracing::info!(endpoint, "the coordinator takes reports again");
                    }
                    wait = self.limits.first_wait;
                    size = BATCH;
                }
                // The message itself is not acceptable: find out which report it is, and lose that one alone.
                Err(status) if is_refusal(&status) && batch.len() > 1 => size = 1,
                Err(status) if is_refusal(&status) => {
                    self.acknowledge(endpoint, &batch);
                    let job = batch.first().map(|report| report.status.job_id.as_str());
                    tracing::warn!(endpoint, job, code = ?status.code(), "the coordinator refuses a report: it is dropped");
                }
                Err(status) => {
                    let since = *away_since.get_or_insert_with(|| {
                        tracing::info!(endpoint, code = ?status.code(), "the coordinator does not take reports: trying again");
                        Instant::now()
                    });
                    if since.elapsed() >= self.limits.give_up {
                        self.give_up(endpoint);
                        return;
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(self.limits.longest_wait);
                }
            }
        }
    }

    /// The next reports to deliver; they stay in the lane. An empty lane ends: whoever comes next starts it anew.
    fn next(&self, endpoint: &str, size: usize) -> Option<Vec<Arc<Report>>> {
        let mut lanes = self.lanes.lock();
        let lane = lanes.get(endpoint)?;
        if lane.queue.is_empty() {
            lanes.remove(endpoint);
            return None;
        }
        Some(lane.queue.iter().take(size).cloned().collect())
    }

    async fn deliver(&self, endpoint: &str, batch: &[Arc<Report>]) -> Result<(), Status> {
        for report in batch {
            let Some(error) = &report.error else { continue };
            let message = task_error(&report.attempt(), &self.incarnation, error);
            match self.delivery.error(endpoint, message).await {
                Err(status) if !is_refusal(&status) => return Err(status),
                // A refused typed error still leaves the status, which says at least that the task failed.
                _ => {}
            }
        }
        let statuses: Vec<TaskStatus> = batch.iter().map(|report| report.status.clone()).collect();
        self.delivery.statuses(endpoint, statuses).await
    }

    fn acknowledge(&self, endpoint: &str, reports: &[Arc<Report>]) {
        if let Some(lane) = self.lanes.lock().get_mut(endpoint) {
            lane.acknowledge(reports);
        }
    }

    fn give_up(&self, endpoint: &str) {
        let dropped = self.lanes.lock().remove(endpoint).map_or(0, |lane| lane.queue.len());
        tracing::warn!(endpoint, dropped, "the coordinator is away for too long: its reports are dropped");
    }
}

/// Whether the receiver says that this message will never be acceptable.
fn is_refusal(status: &Status) -> bool {
    use Code::{FailedPrecondition, InvalidArgument, NotFound, OutOfRange, PermissionDenied, Unimplemented};
    matches!(
        status.code(),
        InvalidArgument | NotFound | PermissionDenied | FailedPrecondition | OutOfRange | Unimplemented
    )
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
