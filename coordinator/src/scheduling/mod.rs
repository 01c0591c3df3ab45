//! Runs physical plans on the executors.
//!
//! Ballista's scheduler is embedded as a library, in push mode with its static planner: the plan that was verified is the
//! plan that runs, and a killed executor is survived. Around it stands what it leaves open:
//!
//! - `members`, `links`: executors come from membership, a live lease is the sign of life, a closed door a quick sign of death.
//! - `tasks`, `cluster_state`: a ledger of task attempts, by which statuses are judged and slots are given back.
//! - `door`, `statuses`: the internal port, which lets two of Ballista's calls through, and the reports of typed errors; and
//!   the comparison of the ledger with what executors say.
//! - `job`: one submission, with a watch under it for what the statuses do not tell; it always ends and cleans up.
//! - `consistency`: no stage reads a part of another twice, or not at all, after the loss of an executor.
//! - `result`: the files of the attempts that count, streamed with back-pressure; no row is given out twice.
//! - `stages`, `history`, `queries`: progress, statistics, cancel by id.

mod cluster_state;
mod consistency;
mod door;
mod embed;
mod failures;
#[cfg(test)]
mod flow_tests;
mod history;
mod job;
mod links;
mod members;
mod queries;
mod result;
mod shared;
mod stages;
mod statuses;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SessionContext;
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use townlake_cluster::{BUILD, Membership, Node, Role, Seat, State};
use townlake_common::config::Config;
use townlake_common::{Error, QueryContext, QueryId, Result};
use tracing::{info, warn};

use cluster_state::MemberState;
use job::{Ending, Job};
use members::Members;
use queries::{Queries, Run};
use result::ResultReader;
use shared::Core;
use tasks::TaskBook;

pub use stages::{OperatorStats, Progress, StageProgress, StageState, StageStats};
pub use tasks::{TaskRow, TaskState};

/// How often a plan is run at most: again when an executor was lost in a way that a run did not survive and no row has gone
/// to the client.
const RUNS: u32 = 3;

/// Runs plans on the executors of the cluster. See the module.
pub struct Scheduler {
    core: Arc<Core>,
    queries: Arc<Queries>,
    admission: Arc<Semaphore>,
    address: SocketAddr,
    incarnation: String,
    runs: AtomicU64,
    door: JoinHandle<()>,
    seat: Place,
    /// Ends when the coordinator has left the member list.
    leaving: Mutex<Option<JoinHandle<()>>>,
}

/// The coordinator's place on the member list, until it leaves.
type Place = Arc<Mutex<Option<Box<dyn Seat>>>>;

/// What a query holds until its last row is read: its place, and its context with the pins in it.
type Held = (Run, OwnedSemaphorePermit, Arc<QueryContext>);

impl Scheduler {
    /// Embeds the scheduler, opens the internal door on `internal`, joins membership as a coordinator and follows the
    /// executors, all until `shutdown`.
    ///
    /// Errors: `CONFIG_INVALID` when others than this machine can reach `internal`; those of [`Membership::join`].
    pub async fn start(
        config: &Config,
        membership: Arc<dyn Membership>,
        internal: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>> {
        let address = door::local_address(&internal)?;
        let incarnation = townlake_cluster::incarnation();
        let (members, tasks) = (Arc::new(Members::new()), Arc::new(TaskBook::default()));
        let state = Arc::new(MemberState::new(Arc::clone(&members), Arc::clone(&tasks)));
        let wait = config.limits.executor_wait;
        let (ballista, jobs) = embed::start(address.to_string(), &incarnation, wait, Arc::clone(&state)).await?;
        let core = Arc::new(Core::new(ballista, jobs, state, members, Arc::clone(&tasks), address.to_string(), wait));

        let door = door::serve(Arc::clone(&core), internal, shutdown.clone());
        links::follow(&core, &membership, &shutdown);
        let seat = Arc::new(Mutex::new(Some(membership.join(record(incarnation.clone(), address)).await?)));
        info!(%address, "the internal door listens");
        let leaving = Mutex::new(Some(tokio::spawn(leave(Arc::clone(&seat), shutdown))));

        let admission = Arc::new(Semaphore::new(config.limits.concurrent_queries.clamp(1, Semaphore::MAX_PERMITS)));
        Ok(Arc::new(Self {
            core,
            queries: Queries::new(tasks),
            admission,
            address,
            incarnation,
            runs: AtomicU64::new(1),
            door,
            seat,
            leaving,
        }))
    }

    /// Whether executors can report to this coordinator and it is on the member list for certain.
    pub fn is_ready(&self) -> bool {
        !self.door.is_finished() && self.seat.lock().as_ref().is_some_and(|seat| seat.is_held())
    }

    /// Waits, after the shutdown was asked for, until the coordinator is off the member list: a process that ends before
    /// leaves its record there until its lease runs out.
    pub async fn left(&self) {
        let leaving = self.leaving.lock().take();
        if let Some(leaving) = leaving {
            // a panic in there would be in the log already
            drop(leaving.await);
        }
    }

    /// Runs a plan and gives its rows. Returns when the rows are there to be read; they are then read with back-pressure,
    /// one partition after the other, in batches small enough for a client. Dropping the future or the stream cancels the
    /// query.
    ///
    /// `session` gives the configuration that travels with the tasks; its id keys the executors' caches.
    ///
    /// Errors, also inside the stream: `NO_EXECUTORS` after `limits.executor_wait`, `CANCELLED`, `EXECUTOR_LOST` when the
    /// loss of an executor could not be recovered, and whatever a task reported.
    pub async fn run(
        &self,
        query: &Arc<QueryContext>,
        plan: Arc<dyn ExecutionPlan>,
        session: Arc<SessionContext>,
    ) -> Result<SendableRecordBatchStream> {
        let run = self.queries.enter(&query.id)?;
        let permit = self.admit(&run, &query.id).await?;
        let mut held = (run, permit, Arc::clone(query));
        for remaining in (0..RUNS).rev() {
            self.executors_for(&held.0, &query.id).await?;
            match self.run_once(held, Arc::clone(&plan), Arc::clone(&session)).await {
                Ok(rows) => return Ok(rows),
                Err((Ending::Lost(error), Some(back))) if remaining > 0 => {
                    warn!(query = %query.id, %error, "the query runs again: an executor was lost and no row has gone out");
                    held = back;
                }
                Err((ending, _)) => return Err(ending.into_error()),
            }
        }
        Err(Error::internal("the query was not run"))
    }

    /// One run. What the query holds comes back with an error after which it may run again.
    async fn run_once(
        &self,
        held: Held,
        plan: Arc<dyn ExecutionPlan>,
        session: Arc<SessionContext>,
    ) -> Result<SendableRecordBatchStream, (Ending, Option<Held>)> {
        let (id, cancel, schema) = (held.2.id.clone(), held.0.cancel.clone(), plan.schema());
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let mut job = match Job::submit(&self.core, &id, number, plan, session).await {
            Ok(job) => job,
            Err(error) => return Err((Ending::Failed(error), None)),
        };
        held.0.set_job(job.id());
        let parts = match job.finish(&cancel).await {
            Ok(parts) => parts,
            Err(ending) => return Err((ending, Some(held))),
        };
        let mut reader = ResultReader::new(&self.core, &id, schema, cancel, parts, job, held);
        match reader.prime().await {
            Ok(()) => Ok(reader.into_stream()),
            Err(error) if error.is_retryable() => Err((Ending::Lost(error), reader.into_held())),
            Err(error) => Err((Ending::Failed(error), None)),
        }
    }

    async fn admit(&self, run: &Run, query: &QueryId) -> Result<OwnedSemaphorePermit> {
        tokio::select! {
            () = run.cancel.cancelled() => Err(job::cancelled(query)),
            permit = Arc::clone(&self.admission).acquire_owned() => {
                permit.map_err(|error| Error::internal("admission is closed").with_source(error))
            }
        }
    }

    async fn executors_for(&self, run: &Run, query: &QueryId) -> Result<()> {
        tokio::select! {
            () = run.cancel.cancelled() => Err(job::cancelled(query)),
            slots = self.wait_for_executors() => slots.map(|_| ()),
        }
    }

    /// Waits until an executor takes tasks, and says how many tasks can run at the same time then.
    ///
    /// Errors: `NO_EXECUTORS` after `limits.executor_wait`.
    pub async fn wait_for_executors(&self) -> Result<usize> {
        let wait = self.core.executor_wait;
        if self.core.members.wait_ready(wait).await {
            Ok(self.core.members.slots())
        } else {
            Err(job::no_executors(wait))
        }
    }

    /// Cancels a query: what runs is stopped on the executors too, and what has not begun yet does not begin.
    pub async fn cancel(&self, query: &QueryId) {
        self.queries.cancel(query);
    }

    /// How far a query is; `None` when it has not been planned into stages, or is forgotten.
    pub async fn progress(&self, query: &QueryId) -> Option<Progress> {
        if let Some(job) = self.queries.job(query)
            && let Some(progress) = self.core.look(&job, stages::progress).await
        {
            return Some(progress);
        }
        self.core.history.get(query).map(|stages| stages::ended_progress(&stages))
    }

    /// What a query's stages did, also after its end; empty when it did not run here or is forgotten.
    pub async fn stages(&self, query: &QueryId) -> Vec<StageStats> {
        if let Some(stages) = self.core.history.get(query) {
            return stages.as_ref().clone();
        }
        match self.queries.job(query) {
            Some(job) => self.core.look(&job, stages::statistics).await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// Every node that membership lists, coordinators first.
    pub fn nodes(&self) -> Vec<Node> {
        self.core.members.nodes()
    }

    /// The task attempts of the queries that run and of the last 256 that have ended.
    pub fn tasks(&self) -> Vec<TaskRow> {
        self.core.tasks.rows()
    }

    /// How many tasks can run at the same time on the executors that take tasks now.
    pub fn slots(&self) -> usize {
        self.core.members.slots()
    }

    /// How many executors take tasks now.
    pub fn ready_executors(&self) -> usize {
        self.core.members.ready()
    }

    /// How many queries are on the cluster or wait for their turn.
    pub fn running_queries(&self) -> usize {
        self.queries.count()
    }

    /// The fresh id under which this coordinator is in the member list.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// Where the internal door listens.
    pub fn internal_addr(&self) -> SocketAddr {
        self.address
    }
}

fn record(incarnation: String, address: SocketAddr) -> Node {
    Node {
        incarnation,
        role: Role::Coordinator as i32,
        state: State::Active as i32,
        address: address.to_string(),
        build: BUILD.to_string(),
        started_at_ms: tasks::now_ms(),
        ..Default::default()
    }
}

async fn leave(seat: Place, shutdown: CancellationToken) {
    shutdown.cancelled().await;
    let seat = seat.lock().take();
    if let Some(seat) = seat
        && let Err(error) = seat.leave().await
    {
        warn!(%error, "the coordinator could not leave the member list; its lease will end");
    }
}
