//! Runs tasks: a queue, as many slots as the configuration says, and a runtime of their own, so that a busy query never
//! keeps the doors of the executor from answering.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::{
    FailedTask, MultiTaskDefinition, OperatorMetric, OperatorMetricsSet, SuccessfulTask, TaskStatus, operator_metric,
    task_status,
};
use ballista_core::serde::scheduler::{TaskDefinition, TaskKey};
use ballista_executor::execution_engine::ExecutionEngine;
use ballista_executor::executor::Executor as BallistaExecutor;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::MetricsSet;
use futures::FutureExt;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::codec::ballista_codec;

use crate::failure::{classify, handed_back};
use crate::launch::{self, Launched};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::prepare::prepare;
use crate::registry::Registry;
use crate::report::Report;

/// Tasks that wait for a slot. Coordinators launch no more than there are slots, each by its own count, so that a longer
/// queue means that something is wrong.
const QUEUE: usize = 4096;

/// A cancelled task ends by itself as soon as one of its streams is asked. One that is stuck elsewhere is given up.
const ABORT_AFTER: Duration = Duration::from_secs(2);

/// A coordinator that has not heard yet that this executor drains launches a task that is handed back again at once: this
/// pause keeps the two from spinning.
const HAND_BACK_AFTER: Duration = Duration::from_millis(100);

/// The runner; a clone is the same runner.
#[derive(Clone)]
pub(crate) struct Runner(Arc<Inner>);

struct Inner {
    executor: BallistaExecutor,
    engine: Arc<dyn ExecutionEngine>,
    registry: Arc<Registry>,
    outbox: Outbox,
    metrics: Arc<Metrics>,
    queue: mpsc::Sender<Launched>,
    draining: CancellationToken,
    workers: Workers,
}

/// The runtime of the tasks, which may be dropped anywhere.
struct Workers(Option<Runtime>);

impl Workers {
    fn handle(&self) -> Option<&tokio::runtime::Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Runner {
    /// Starts a runner with `executor.vcores` slots.
    ///
    /// Errors: `INTERNAL` when threads cannot be started.
    pub(crate) fn start(
        executor: BallistaExecutor,
        engine: Arc<dyn ExecutionEngine>,
        outbox: Outbox,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let slots = executor.vcores.max(1);
        let workers = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(slots)
            .thread_name("townlake-task")
            .thread_stack_size(townlake_engine::runtime::THREAD_STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| Error::internal("the threads of the tasks cannot be started").with_source(error))?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        let inner = Inner {
            executor,
            engine,
            registry: Arc::default(),
            outbox,
            metrics,
            queue,
            draining: CancellationToken::new(),
            workers: Workers(Some(workers)),
        };
        let runner = Self(Arc::new(inner));
        // The loop holds no strong reference: it ends when the runner, and with it the queue's sender, is dropped.
        tokio::spawn(start_tasks(Arc::downgrade(&runner.0), waiting, slots));
        Ok(runner)
    }

    /// The tasks that were taken on.
    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.0.registry
    }

    /// Whether new tasks are handed back.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.is_cancelled()
    }

    /// Takes the tasks of a launch on. `false`: its job must fail; the typed error was reported.
    pub(crate) async fn launch(&self, mut launch: MultiTaskDefinition, endpoint: &str) -> bool {
        let attempt = launch::first_attempt(&launch);
        match self.try_launch(&mut launch, endpoint).await {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(job = attempt.job, code = %error.code(), "a launch is refused");
                self.0.outbox.report_error(endpoint, &attempt, &error).await;
                false
            }
        }
    }

    async fn try_launch(&self, launch: &mut MultiTaskDefinition, endpoint: &str) -> Result<()> {
        launch::check(launch)?;
        let admissions = launch::admit(&self.0.registry, launch, endpoint);
        if admissions.is_empty() {
            return Ok(());
        }
        let workers = self.0.workers.handle().ok_or_else(|| Error::internal("the executor has stopped"))?;
        let (inner, launch, to) = (Arc::clone(&self.0), std::mem::take(launch), endpoint.to_string());
        let decoding =
            workers.spawn(async move { launch::decode(&inner.executor, ballista_codec(), launch, admissions, &to) });
        let decoded = decoding.await.map_err(|_| Error::internal("the plan of a task cannot be decoded"))?;
        for task in decoded? {
            self.0.queue.try_send(task).map_err(|_| {
                Error::new(ErrorCode::ResourceExhausted, "too many tasks wait on an executor").retryable()
            })?;
        }
        Ok(())
    }

    /// Hands back every task that has not started, now and from now on.
    pub(crate) fn drain(&self) {
        self.0.draining.cancel();
    }

    /// Waits until no task is left, for `limit` at most. `false`: some are.
    pub(crate) async fn wait_idle(&self, limit: Duration) -> bool {
        let idle = async {
            while self.0.registry.len() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
    }
}

/// Starts waiting tasks in their order as slots come free.
async fn start_tasks(runner: std::sync::Weak<Inner>, mut waiting: mpsc::Receiver<Launched>, slots: usize) {
    let free = Arc::new(Semaphore::new(slots));
    while let Some(launched) = waiting.recv().await {
        let Some(inner) = runner.upgrade() else { return };
        // A task over several partitions takes the slots that the coordinator counted for it.
        let wanted = (launched.task.vcores_consumed.max(1)).min(u32::try_from(slots).unwrap_or(u32::MAX));
        let permit = tokio::select! {
            biased;
            () = inner.draining.cancelled() => None,
            () = launched.admission.cancel.cancelled() => None,
            permit = Arc::clone(&free).acquire_many_owned(wanted) => permit.ok(),
        };
        match (permit, inner.workers.handle()) {
            (Some(permit), Some(workers)) => {
                let running = Arc::clone(&inner);
                workers.spawn(async move { running.run(launched, permit).await });
            }
            _ => {
                let inner = Arc::clone(&inner);
                tokio::spawn(async move {
                    tokio::time::sleep(HAND_BACK_AFTER).await;
                    inner.hand_back(launched);
                });
            }
        }
    }
}

/// What a task that succeeded reports.
struct Done {
    task: SuccessfulTask,
    metrics: Vec<OperatorMetricsSet>,
}

impl Inner {
    /// Runs one task and reports its end, whatever happens.
    async fn run(self: Arc<Self>, launched: Launched, _slot: OwnedSemaphorePermit) {
        let Launched { admission, endpoint, task } = launched;
        self.registry.end_older_attempts(&admission.attempt).await;
        let started = now_ms();
        let launch_time = task.launch_time;
        self.metrics.running.inc();
        let result = AssertUnwindSafe(self.execute(task, &admission.cancel)).catch_unwind().await;
        self.metrics.running.dec();
        let result = result.unwrap_or_else(|_| Err(BallistaError::Internal("a task panicked".to_string())));
        let (status, metrics, error) = match result {
            Ok(done) => (task_status::Status::Successful(done.task), done.metrics, None),
            Err(_) if admission.cancel.is_cancelled() => (failed(handed_back()), Vec::new(), None),
            Err(failure) => {
                let (typed, task) = classify(failure);
                (failed(task), Vec::new(), Some(typed))
            }
        };
        self.count(&status, error.as_ref(), &admission);
        let attempt = &admission.attempt;
        let status = TaskStatus {
            task_id: attempt.task,
            job_id: attempt.job.clone(),
            stage_id: attempt.stage,
            stage_attempt_num: attempt.stage_attempt,
            launch_time,
            start_exec_time: started,
            end_exec_time: now_ms(),
            metrics,
            status: Some(status),
        };
        self.outbox.push(&endpoint, Report { error, status });
    }

    /// Reports a task that did not start as one that another executor should run.
    fn hand_back(&self, launched: Launched) {
        let attempt = &launched.admission.attempt;
        self.metrics.ended.with_label_values(&["cancelled"]).inc();
        let status = TaskStatus {
            task_id: attempt.task,
            job_id: attempt.job.clone(),
            stage_id: attempt.stage,
            stage_attempt_num: attempt.stage_attempt,
            launch_time: launched.task.launch_time,
            start_exec_time: now_ms(),
            end_exec_time: now_ms(),
            metrics: Vec::new(),
            status: Some(failed(handed_back())),
        };
        self.outbox.push(&launched.endpoint, Report { error: None, status });
    }

    async fn execute(&self, task: TaskDefinition, cancel: &CancellationToken) -> Result<Done, BallistaError> {
        let key = TaskKey { job_id: task.job_id.clone(), stage_id: task.stage_id, task_id: task.task_id };
        let stage = self.engine.create_query_stage_exec(
            task.job_id,
            task.stage_id,
            task.task_id,
            task.global_output_partition_ids,
            prepare(task.plan, cancel)?,
            self.executor.work_dir(),
            &task.session_config,
        )?;
        let (session, slots) = (&task.session_id, task.vcores_consumed);
        let runtime = self.executor.produce_runtime_for_session(session, &task.session_config, slots)?;
        let context = Arc::new(TaskContext::new(
            Some(format!("{}/{}/{}", key.job_id, key.stage_id, key.task_id)),
            task.session_id,
            task.session_config,
            task.function_registry.scalar_functions.clone(),
            task.function_registry.higher_order_functions.clone(),
            task.function_registry.aggregate_functions.clone(),
            task.function_registry.window_functions.clone(),
            runtime,
        ));
        let running = self.executor.execute_query_stage(key.clone(), Arc::clone(&stage), context);
        tokio::pin!(running);
        let partitions = tokio::select! {
            result = &mut running => result?,
            () = stuck(cancel) => {
                self.executor.cancel_task(key.job_id, key.stage_id, key.task_id).await?;
                running.await?
            }
        };
        Ok(Done {
            metrics: stage.collect_plan_metrics().into_iter().map(operator_metrics).collect(),
            task: SuccessfulTask {
                executor_id: self.executor.metadata.id.clone(),
                partitions,
                runtime_stats: stage.collect_runtime_stats_reports(),
                // The next stage merges by these: without them its answer would be wrong, so a failure here fails the task.
                window_state: stage.collect_window_state_reports()?,
                task_column_stats: stage.collect_column_stats(),
            },
        })
    }

    fn count(&self, status: &task_status::Status, error: Option<&Error>, admission: &crate::registry::Admission) {
        let attempt = &admission.attempt;
        let result = match (status, error) {
            (task_status::Status::Successful(task), _) => {
                self.metrics.shuffle_written.inc_by(task.partitions.iter().map(|part| part.num_bytes).sum());
                "done"
            }
            (_, Some(error)) => {
                let (job, stage, task) = (&attempt.job, attempt.stage, attempt.task);
                tracing::info!(job, stage, task, code = %error.code(), retryable = error.is_retryable(), "a task failed");
                "failed"
            }
            _ => "cancelled",
        };
        self.metrics.ended.with_label_values(&[result]).inc();
    }
}

/// Ends when a task was cancelled and should have ended long ago.
async fn stuck(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(ABORT_AFTER).await;
}

fn failed(task: FailedTask) -> task_status::Status {
    task_status::Status::Failed(task)
}

/// The numbers of one operator. One that Ballista's protocol cannot carry is left out, and never the operator: the
/// scheduler matches operators by position.
fn operator_metrics(metrics: MetricsSet) -> OperatorMetricsSet {
    let metrics = metrics.iter().filter_map(|metric| {
        let value: operator_metric::Metric = metric.value().try_into().ok()?;
        let partition = metric.partition().and_then(|partition| u32::try_from(partition).ok());
        Some(OperatorMetric { metric: Some(value), partition })
    });
    OperatorMetricsSet { metrics: metrics.collect() }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
