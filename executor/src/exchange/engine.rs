//! Makes a task of a plan: readers and writer are those of the exchange.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ballista_core::JobId;
use ballista_core::client_pool::BallistaClientPool;
use ballista_core::execution_plans::sort_shuffle::SortShuffleWriterExec;
use ballista_core::execution_plans::{RangeShuffleReaderExec, ShuffleReaderExec, ShuffleWriterExec};
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};
use datafusion::prelude::SessionConfig;

use super::memory::OutputMemory;
use super::reader::ExchangeReaderExec;
use super::replay::Replays;
use super::split::Layout;
use super::stage::{ExchangeStage, Task};
use crate::wrap::WrapExec;

/// Ballista's engine with the exchange in memory.
pub(crate) struct ExchangeEngine {
    executor: String,
    memory: Arc<OutputMemory>,
    clients: Arc<dyn BallistaClientPool>,
    files: DefaultExecutionEngine,
}

impl ExchangeEngine {
    /// For the executor of this id.
    pub(crate) fn new(executor: &str, memory: Arc<OutputMemory>, clients: Arc<dyn BallistaClientPool>) -> Self {
        let files = DefaultExecutionEngine::with_client_pool(Arc::clone(&clients));
        Self { executor: executor.to_string(), memory, clients, files }
    }

    fn with_readers(&self, plan: Arc<dyn ExecutionPlan>, work_dir: &str) -> Result<Arc<dyn ExecutionPlan>> {
        let replaced = plan.transform_up(|node| {
            let Some(reader) = node.downcast_ref::<ShuffleReaderExec>() else { return Ok(Transformed::no(node)) };
            let clients = Arc::clone(&self.clients);
            let reader = ExchangeReaderExec::new(reader, &self.executor, &self.memory, work_dir, clients);
            Ok(Transformed::yes(Arc::new(reader) as Arc<dyn ExecutionPlan>))
        });
        replaced.data()
    }
}

/// How the writer cuts, if its output can be in memory.
///
/// Ballista's engine makes readers of value ranges anew, and with them the nodes above, so that the plan that runs would not
/// be the one whose numbers are reported: such a plan is left to it.
fn layout(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Layout>> {
    if plan.exists(|node| Ok(node.is::<RangeShuffleReaderExec>()))? {
        return Ok(None);
    }
    if plan.is::<ShuffleWriterExec>() {
        return Ok(Some(Layout::AsInput));
    }
    let writer = plan.downcast_ref::<SortShuffleWriterExec>();
    Ok(writer.and_then(|writer| match writer.shuffle_output_partitioning() {
        Partitioning::Hash(keys, count) => Some(Layout::ByHash(keys.clone(), *count)),
        _ => None,
    }))
}

impl ExecutionEngine for ExchangeEngine {
    fn create_query_stage_exec(
        &self,
        job_id: JobId,
        stage_id: usize,
        task_id: usize,
        partitions: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let plan = self.with_readers(plan, work_dir)?;
        let layout = if self.memory.is_on() { layout(&plan)? } else { None };
        let input = plan.children().into_iter().next().cloned();
        let replays = Arc::new(Replays::default());
        let kept_small = |input: Arc<dyn ExecutionPlan>| match plan.is::<SortShuffleWriterExec>() {
            // It compacts by itself, but counts what it holds back by batches, and spills too soon where they share memory.
            true => WrapExec::owned(input),
            false => WrapExec::compacted(input),
        };
        let below = input.iter().map(|input| kept_small(WrapExec::replayed(Arc::clone(input), &replays))).collect();
        let keep = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
        let for_files = Arc::clone(&plan).replace_children(below, keep)?;
        let (job, ids) = (job_id.clone(), partitions.clone());
        let files = self.files.create_query_stage_exec(job, stage_id, task_id, ids, for_files, work_dir, config)?;
        let (Some(layout), Some(input)) = (layout, input) else { return Ok(files) };
        let number = u64::try_from(task_id).unwrap_or(u64::MAX);
        Ok(Arc::new(ExchangeStage {
            task: Task { job: job_id.to_string(), stage: stage_id, number, partitions },
            input,
            layout,
            memory: Arc::clone(&self.memory),
            files,
            replays,
            metrics: ExecutionPlanMetricsSet::new(),
            in_files: AtomicBool::new(false),
        }))
    }
}
