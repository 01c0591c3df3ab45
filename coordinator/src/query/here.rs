//! Plans that run in the coordinator, on threads of their own: a query that computes for long must not keep the doors, the
//! scheduler's event loop or the lease from their turn.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::StreamExt;
use futures::stream::unfold;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::{from_datafusion, to_datafusion};

use super::memory::of_coordinator;
use super::placement::{execute_here, is_trivial, stoppable};
use super::registry::{QueryState, Tracked};
use super::rows::caught;

/// Batches that wait for a reader.
const AHEAD: usize = 1;

/// The threads of these plans, and how many of them run at the same time.
pub(super) struct Here {
    runtime: Option<Runtime>,
    queries: Arc<Semaphore>,
}

/// A plan that runs here, with what stops it.
pub(super) struct HerePlan {
    /// The plan as it runs.
    pub plan: Arc<dyn ExecutionPlan>,
    trivial: bool,
    stop: CancellationToken,
}

impl HerePlan {
    /// `plan`, which stops with the query of `tracked`, and when nobody reads its rows any more.
    ///
    /// Errors: `INTERNAL` when it cannot be made stoppable.
    pub(super) fn new(plan: Arc<dyn ExecutionPlan>, tracked: &Tracked) -> Result<Self> {
        let stop = tracked.cancelled().child_token();
        let trivial = is_trivial(&plan);
        let plan = if trivial { plan } else { stoppable(plan, &stop)? };
        Ok(Self { plan, trivial, stop })
    }
}

impl Here {
    /// Starts the threads. `queries`: how many run at the same time.
    ///
    /// Errors: `INTERNAL` when threads cannot be started.
    pub(super) fn start(queries: usize) -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("townlake-here")
            .thread_stack_size(townlake_engine::runtime::THREAD_STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| Error::internal("the threads of local queries cannot be started").with_source(error))?;
        let queries = Arc::new(Semaphore::new(queries.clamp(1, Semaphore::MAX_PERMITS)));
        Ok(Self { runtime: Some(runtime), queries })
    }

    /// Runs a plan when it is its turn. What is done at once has no turn and is done on the threads of the caller: it
    /// answers however busy the others are.
    ///
    /// Errors: `INTERNAL` when the coordinator stops; what the plan does wrong comes with its rows.
    pub(super) async fn run(
        &self,
        tracked: &Tracked,
        here: HerePlan,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if here.trivial {
            tracked.enter(QueryState::Running);
            return execute_here(here.plan, context);
        }
        tracked.enter(QueryState::Queued);
        let permit = self.turn().await?;
        tracked.enter(QueryState::Running);
        self.begin(here, context, permit)
    }

    /// Runs a plan for a query that has not begun.
    ///
    /// Errors: as [`Here::run`].
    pub(super) async fn run_aside(
        &self,
        here: HerePlan,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let permit = self.turn().await?;
        self.begin(here, context, permit)
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.queries).acquire_owned().await;
        permit.map_err(|error| Error::internal("the queue of local queries is closed").with_source(error))
    }

    fn begin(
        &self,
        here: HerePlan,
        context: Arc<TaskContext>,
        permit: OwnedSemaphorePermit,
    ) -> Result<SendableRecordBatchStream> {
        let runtime = self.runtime.as_ref().ok_or_else(|| Error::internal("the coordinator stops"))?;
        let HerePlan { plan, stop, .. } = here;
        let schema = plan.schema();
        let (sender, batches) = mpsc::channel(AHEAD);
        let stopped = stop.clone();
        let work = runtime.spawn(caught(pump(plan, context, stopped, sender, permit)));
        let rows = Rows { batches, work: Some(work), _stop: stop.drop_guard() };
        let rows = unfold(rows, |mut rows| async move { rows.next().await.map(|item| (item, rows)) });
        let rows = rows.map(|item| item.map_err(|error| to_datafusion(of_coordinator(error))));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Computes the rows, as fast as they are taken.
async fn pump(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    stop: CancellationToken,
    sender: mpsc::Sender<RecordBatch>,
    _held_until_the_last_row: OwnedSemaphorePermit,
) -> Result<()> {
    let work = async {
        let mut rows = execute_stream(plan, context).map_err(|error| from_datafusion(&error))?;
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|error| from_datafusion(&error))?;
            if sender.send(batch).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Error::new(ErrorCode::Cancelled, "the query was cancelled")),
        done = work => done,
    }
}

/// The reader's side. Dropping it stops the work.
struct Rows {
    batches: mpsc::Receiver<RecordBatch>,
    work: Option<JoinHandle<Result<()>>>,
    _stop: DropGuard,
}

impl Rows {
    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        if let Some(batch) = self.batches.recv().await {
            return Some(Ok(batch));
        }
        // The end of the channel alone does not say that the rows were all.
        match self.work.take()?.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Err(error)),
            Err(error) => Some(Err(Error::internal("a local query did not end").with_source(error))),
        }
    }
}
