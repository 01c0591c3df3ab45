//! One submission of a plan to Ballista: from its start over the watch on its progress to the removal of its files.
//!
//! Whatever happens to the caller, a job ends: dropping it cancels it when it still runs (also when it has not been planned
//! yet, where Ballista alone would lose the cancel), gives back its slots and removes its files.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::JobId;
use ballista_core::serde::protobuf::JobStatus;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_scheduler::cluster::ExecutorSlot;
use ballista_scheduler::state::execution_graph::ExecutionGraph;
use ballista_scheduler::state::execution_stage::ExecutionStage;
use datafusion::execution::context::SessionContext;
use datafusion::physical_plan::ExecutionPlan;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use townlake_common::{Error, ErrorCode, QueryId, Result};
use tracing::{debug, warn};

use super::consistency::inputs_are_complete;
use super::embed::NEXT_JOB_ID;
use super::failures;
use super::result::{ResultPart, result_parts};
use super::shared::Core;
use super::stages;

/// Ballista drops a status for which there is no room; it sends one for each stage at most.
const STATUS_ROOM: usize = 1024;
/// How often a job is looked at beside the statuses that come by themselves.
const LOOK: Duration = Duration::from_millis(500);
/// A job without any open task, while slots are free, is stuck after this.
const STUCK: Duration = Duration::from_secs(20);
/// A job that the scheduler does not know is taken for not started after this.
const UNKNOWN: Duration = Duration::from_secs(10);
/// A job that was not planned after this never will be: Ballista plans in a task of its own, whose panic nobody hears of.
const UNPLANNED: Duration = Duration::from_secs(60);
/// So many executors lost with tasks of one job are its own doing: tasks that no executor can take in have healthy
/// executors thrown out one after the other.
const TOO_MANY_LOSSES: u32 = 16;
/// A launch that was on its way when its job was cancelled has arrived after this.
const LATE_LAUNCH: Duration = Duration::from_secs(2);

/// Why a job gave no result.
#[derive(Debug)]
pub(super) enum Ending {
    /// The query cannot succeed as it is.
    Failed(Error),
    /// Executors were lost in a way that Ballista does not recover from: the same plan may succeed when it is run again.
    Lost(Error),
}

impl Ending {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Failed(error) | Self::Lost(error) => error,
        }
    }
}

/// A running or finished job.
pub(super) struct Job {
    core: Arc<Core>,
    query: QueryId,
    id: JobId,
    statuses: mpsc::Receiver<JobStatus>,
    /// Executors lost before it started.
    losses: u64,
    /// Its end is known and its books are closed; whether tasks were still open then.
    settled: Option<bool>,
}

impl Job {
    /// Hands a plan to Ballista under an id made of the query's and `run`, a number that is not used again.
    pub(super) async fn submit(
        core: &Arc<Core>,
        query: &QueryId,
        run: u64,
        plan: Arc<dyn ExecutionPlan>,
        session: Arc<SessionContext>,
    ) -> Result<Self> {
        let (sender, statuses) = mpsc::channel(STATUS_ROOM);
        let id = JobId::new(format!("{query}-{run}"));
        core.tasks.open_job(id.as_str(), query);
        core.failures.open(id.as_str());
        core.live.insert(id.to_string());
        let losses = core.members.losses();
        // Made before the job exists: if the caller goes away during the call, dropping this cancels it.
        let job = Self { core: Arc::clone(core), query: query.clone(), id, statuses, losses, settled: None };
        let submit = core.ballista.submit_physical_plan(query.as_str(), session, plan, Some(sender));
        NEXT_JOB_ID
            .scope(job.id.to_string(), submit)
            .await
            .map_err(|error| Error::internal("the scheduler does not take queries any more").with_source(error))?;
        Ok(job)
    }

    pub(super) fn id(&self) -> &JobId {
        &self.id
    }

    /// Waits for the end: where the result lies, or why there is none.
    pub(super) async fn finish(&mut self, cancel: &CancellationToken) -> Result<Vec<ResultPart>, Ending> {
        match self.last_status(cancel).await? {
            Status::Successful(_) => self.harvest().await,
            Status::Failed(failed) => {
                let ending = self.ending(&failed.error);
                self.settle().await;
                Err(ending)
            }
            Status::Queued(_) | Status::Running(_) => {
                Err(Ending::Failed(Error::internal("a query ended without an end")))
            }
        }
    }

    async fn last_status(&mut self, cancel: &CancellationToken) -> Result<Status, Ending> {
        let mut watch = Watch::default();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listening = true;
        loop {
            let status = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Ending::Failed(cancelled(&self.query))),
                status = self.statuses.recv(), if listening => match status {
                    Some(status) => status.status,
                    None => {
                        listening = false;
                        self.look(&mut watch).await?
                    }
                },
                _ = look.tick() => self.look(&mut watch).await?,
            };
            if let Some(status @ (Status::Successful(_) | Status::Failed(_))) = status {
                return Ok(status);
            }
        }
    }

    /// The safety net under the statuses that come by themselves: sees a lost status, a job that cannot go on, a cluster
    /// without executors.
    async fn look(&self, watch: &mut Watch) -> Result<Option<Status>, Ending> {
        let losses = self.core.tasks.losses(self.id.as_str());
        if losses >= TOO_MANY_LOSSES {
            let message = format!("executors were lost {losses} times with tasks of query {}", self.query);
            return Err(Ending::Failed(Error::new(ErrorCode::ExecutorLost, message)));
        }
        let status = self.core.status(&self.id).await.and_then(|status| status.status);
        if self.core.tasks.was_restarted(self.id.as_str()) {
            return Err(self.unsound());
        }
        let ready = self.core.members.ready();
        let open = self.core.tasks.open_tasks(self.id.as_str());
        let free = self.core.tasks.slots_in_use() < self.core.members.slots();
        // Without a task to send it waits for nobody's slots.
        let can_go_on = free || (open == 0 && !self.core.look(&self.id, has_tasks_to_send).await.unwrap_or(true));
        let seen = Seen {
            known: status.is_some(),
            queued: matches!(status, Some(Status::Queued(_))),
            running: matches!(status, Some(Status::Running(_))),
            ready,
            open,
            can_go_on,
        };
        match watch.judge(&seen, Instant::now(), self.core.executor_wait) {
            Verdict::Fine => {}
            Verdict::Idle => self.core.poke().await,
            Verdict::NoExecutors => return Err(Ending::Failed(no_executors(self.core.executor_wait))),
            Verdict::Unplanned => {
                let message = format!("query {} was not cut into stages", self.query);
                return Err(Ending::Failed(Error::internal(message).with_hint("the coordinator's log says why")));
            }
            Verdict::Stuck => {
                warn!(job = %self.id, "a query made no progress although slots are free");
                let message =
                    format!("query {} made no progress after the loss of an executor or of a message", self.query);
                return Err(Ending::Lost(Error::new(ErrorCode::ExecutorLost, message).retryable()));
            }
        }
        Ok(status)
    }

    /// Takes what is needed of a successful job's graph and closes its books.
    async fn harvest(&mut self) -> Result<Vec<ResultPart>, Ending> {
        // Ballista tells the success a moment before it stores the graph.
        for _ in 0..200 {
            let look = |graph: &dyn ExecutionGraph| (result_parts(graph), inputs_are_complete(graph));
            if let Some((parts, complete)) = self.core.look(&self.id, look).await {
                let sound = complete && !self.core.tasks.was_restarted(self.id.as_str());
                self.settle().await;
                return if sound { parts.map_err(Ending::Failed) } else { Err(self.unsound()) };
            }
            sleep(Duration::from_millis(5)).await;
        }
        Err(Ending::Failed(Error::internal("the scheduler forgot a query that has just ended")))
    }

    /// What one stage made and what another reads of it do not agree any more: the answer would be wrong.
    fn unsound(&self) -> Ending {
        let message = format!("parts of query {} were lost with an executor", self.query);
        Ending::Lost(Error::new(ErrorCode::ExecutorLost, message).with_hint("run the query again").retryable())
    }

    fn ending(&self, text: &str) -> Ending {
        // What its tasks ran into then may be rows of another's, or rows that came twice.
        if self.core.tasks.was_restarted(self.id.as_str()) {
            return self.unsound();
        }
        let cause = self.core.failures.cause(self.id.as_str());
        let lost = self.core.members.losses() != self.losses;
        match cause {
            Some(error) if error.code() == ErrorCode::ExecutorLost => Ending::Lost(error),
            Some(error) if !lost || error.code() != ErrorCode::Cancelled => Ending::Failed(error),
            _ if lost && self.core.members.ready() == 0 => Ending::Failed(no_executors(self.core.executor_wait)),
            _ if lost => {
                let message = format!("query {} failed with the loss of an executor", self.query);
                Ending::Lost(Error::new(ErrorCode::ExecutorLost, message).with_hint("run the query again").retryable())
            }
            _ => Ending::Failed(failures::untyped(text)),
        }
    }

    async fn settle(&mut self) {
        if self.settled.is_none() {
            self.settled = Some(settle(&self.core, &self.id, &self.query).await);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let (core, id, query, settled) = (Arc::clone(&self.core), self.id.clone(), self.query.clone(), self.settled);
        // Outside a runtime the process is about to end, and executors empty their folders when they start.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let late_tasks = match settled {
                    Some(late_tasks) => late_tasks,
                    None => {
                        end(&core, &id).await;
                        settle(&core, &id, &query).await
                    }
                };
                core.live.remove(id.as_str());
                core.remove_data(&id).await;
                if late_tasks {
                    sleep(LATE_LAUNCH * 2).await;
                    core.remove_data(&id).await;
                }
            });
        }
    }
}

/// Cancels a job until it has ended.
async fn end(core: &Core, id: &JobId) {
    let start = Instant::now();
    let mut cancelled: Option<Instant> = None;
    loop {
        match core.status(id).await.and_then(|status| status.status) {
            Some(Status::Successful(_) | Status::Failed(_)) => return,
            Some(Status::Running(_)) if cancelled.is_none_or(|at| at.elapsed() > UNKNOWN) => {
                cancelled = Some(Instant::now());
                if let Err(error) = core.ballista.cancel_job(id.clone()).await {
                    warn!(job = %id, %error, "a query could not be cancelled");
                    return;
                }
            }
            None if start.elapsed() > UNKNOWN => return,
            // Ballista would lose a cancel before the plan has its graph.
            Some(Status::Queued(_)) if start.elapsed() > UNPLANNED => {
                warn!(job = %id, "a query that was never planned is given up");
                return;
            }
            _ => {}
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Closes the books of a job that has ended, and wakes whoever waits for its slots. True when tasks of it were still open.
async fn settle(core: &Arc<Core>, id: &JobId, query: &QueryId) -> bool {
    if let Some(stats) = core.look(id, stages::statistics).await {
        core.history.keep(query, stats);
    }
    core.failures.close(id.as_str());
    let open = core.tasks.close_job(id.as_str());
    if open.is_empty() {
        return false;
    }
    debug!(job = %id, tasks = open.len(), "tasks of an ended query are stopped");
    let slots: Vec<ExecutorSlot> = open.iter().map(|task| (task.executor.clone(), task.slots)).collect();
    core.state.release(slots).await;
    core.poke().await;
    let (core, id) = (Arc::clone(core), id.clone());
    tokio::spawn(async move {
        core.stop_tasks(&id, &open).await;
        // A launch may have been on its way, and reach its executor after the order to stop.
        sleep(LATE_LAUNCH).await;
        core.stop_tasks(&id, &open).await;
    });
    true
}

/// Whether a job has tasks that wait for slots.
fn has_tasks_to_send(graph: &dyn ExecutionGraph) -> bool {
    graph.available_tasks() > 0 || graph.stages().values().any(|stage| matches!(stage, ExecutionStage::Resolved(_)))
}

/// What a look at a job shows.
struct Seen {
    known: bool,
    queued: bool,
    running: bool,
    ready: usize,
    open: usize,
    /// There are slots for its next task, or it has none to send.
    can_go_on: bool,
}

/// Since when something is not as it should be.
#[derive(Default)]
struct Watch {
    alone: Option<Instant>,
    idle: Option<Instant>,
    unknown: Option<Instant>,
    queued: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Idle,
    NoExecutors,
    Unplanned,
    Stuck,
}

impl Watch {
    fn judge(&mut self, seen: &Seen, now: Instant, executor_wait: Duration) -> Verdict {
        let since = |slot: &mut Option<Instant>, wrong: bool| {
            let start = if wrong { Some(*slot.get_or_insert(now)) } else { None };
            *slot = start;
            start.map(|start| now.saturating_duration_since(start))
        };
        // Executors that drain are not ready, and finish what they have.
        let alone = since(&mut self.alone, seen.running && seen.ready == 0 && seen.open == 0);
        let idle = since(&mut self.idle, seen.running && seen.ready > 0 && seen.open == 0 && seen.can_go_on);
        let unknown = since(&mut self.unknown, !seen.known);
        let queued = since(&mut self.queued, seen.queued);
        if alone.is_some_and(|time| time >= executor_wait) {
            Verdict::NoExecutors
        } else if queued.is_some_and(|time| time >= UNPLANNED) {
            Verdict::Unplanned
        } else if idle.is_some_and(|time| time >= STUCK) || unknown.is_some_and(|time| time >= UNKNOWN) {
            Verdict::Stuck
        } else if idle.is_some_and(|time| time >= LOOK) {
            Verdict::Idle
        } else {
            Verdict::Fine
        }
    }
}

/// The error of a query that was cancelled.
pub(super) fn cancelled(query: &QueryId) -> Error {
    Error::new(ErrorCode::Cancelled, format!("query {query} was cancelled"))
}

/// The error of a query for which no executor was there for `wait`.
pub(super) fn no_executors(wait: Duration) -> Error {
    let message = format!("no executor was alive for {} s", wait.as_secs_f32());
    Error::new(ErrorCode::NoExecutors, message)
        .with_hint("start an executor with `townlake executor`; system.runtime.nodes lists those that are known")
        .retryable()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(30);

    fn seen() -> Seen {
        Seen { known: true, queued: false, running: true, ready: 2, open: 3, can_go_on: true }
    }

    #[test]
    fn a_job_is_stuck_only_when_it_could_go_on_and_does_not() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let idle = Seen { open: 0, ..seen() };
        assert_eq!(watch.judge(&idle, start, WAIT), Verdict::Fine);
        assert_eq!(watch.judge(&idle, start + LOOK, WAIT), Verdict::Idle);
        assert_eq!(watch.judge(&idle, start + STUCK, WAIT), Verdict::Stuck);
        assert_eq!(watch.judge(&seen(), start + STUCK, WAIT), Verdict::Fine, "a task was sent");
        assert_eq!(watch.judge(&idle, start + STUCK * 2, WAIT), Verdict::Fine, "the time starts anew");
        let full = Seen { open: 0, can_go_on: false, ..seen() };
        assert_eq!(watch.judge(&full, start + STUCK * 9, WAIT), Verdict::Fine, "others hold all slots");
    }

    #[test]
    fn without_executors_a_job_waits_for_the_configured_time() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let alone = Seen { ready: 0, open: 0, can_go_on: false, ..seen() };
        assert_eq!(watch.judge(&alone, start, WAIT), Verdict::Fine);
        assert_eq!(watch.judge(&alone, start + WAIT - LOOK, WAIT), Verdict::Fine);
        assert_eq!(watch.judge(&alone, start + WAIT, WAIT), Verdict::NoExecutors);
        let draining = Seen { open: 1, ..alone };
        assert_eq!(watch.judge(&draining, start + WAIT * 2, WAIT), Verdict::Fine, "who drains finishes its tasks");
    }

    #[test]
    fn a_job_that_is_never_planned_ends() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let queued = Seen { queued: true, running: false, ready: 0, open: 0, can_go_on: true, known: true };
        assert_eq!(watch.judge(&queued, start, WAIT), Verdict::Fine);
        assert_eq!(watch.judge(&queued, start + UNPLANNED - LOOK, WAIT), Verdict::Fine);
        assert_eq!(watch.judge(&queued, start + UNPLANNED, WAIT), Verdict::Unplanned);
        assert_eq!(watch.judge(&seen(), start + UNPLANNED, WAIT), Verdict::Fine);
    }
}
