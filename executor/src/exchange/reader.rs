//! Reads what an earlier stage made: from memory where it is this executor's, the rest as Ballista does.

use std::fmt;
use std::sync::Arc;

use ballista_core::client_pool::BallistaClientPool;
use ballista_core::execution_plans::ShuffleReaderExec;
use ballista_core::serde::scheduler::PartitionLocation;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, stream};

use super::memory::{OutputMemory, TaskOutput};

/// A partition that is in memory here.
#[derive(Clone)]
struct Here {
    output: Arc<TaskOutput>,
    partition: usize,
}

/// A [`ShuffleReaderExec`] that takes batches of this executor as they are. It stands in its place: same name, same metrics,
/// which count both kinds of rows.
pub(crate) struct ExchangeReaderExec {
    /// As the coordinator sent it.
    whole: ShuffleReaderExec,
    /// What is here, by partition of the reader.
    here: Vec<Vec<Here>>,
    /// The rest.
    elsewhere: ShuffleReaderExec,
    metrics: ExecutionPlanMetricsSet,
}

impl ExchangeReaderExec {
    /// `reader`, of which the outputs of the executor `own` may be in `memory` and lie in `work_dir` otherwise.
    ///
    /// The stages that it reads have ended: what is in memory now stays until the job is removed.
    pub(crate) fn new(
        reader: &ShuffleReaderExec,
        own: &str,
        memory: &OutputMemory,
        work_dir: &str,
        clients: Arc<dyn BallistaClientPool>,
    ) -> Self {
        let mut elsewhere = reader.with_work_dir(work_dir.to_string()).with_client_pool(clients);
        let mut here = Vec::with_capacity(elsewhere.partition.len());
        for locations in &mut elsewhere.partition {
            let mut found = Vec::new();
            locations.retain(|location| match find(location, own, memory) {
                Some(in_memory) => {
                    found.push(in_memory);
                    false
                }
                None => true,
            });
            here.push(found);
        }
        Self { whole: reader.clone(), here, elsewhere, metrics: ExecutionPlanMetricsSet::new() }
    }
}

fn find(location: &PartitionLocation, own: &str, memory: &OutputMemory) -> Option<Here> {
    if location.executor_meta.id != own {
        return None;
    }
    let id = &location.partition_id;
    let output = memory.output(id.job_id.as_str(), id.stage_id, location.file_id?)?;
    Some(Here { output, partition: id.partition_id })
}

impl fmt::Debug for ExchangeReaderExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt(f)
    }
}

impl DisplayAs for ExchangeReaderExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt_as(format, f)
    }
}

impl ExecutionPlan for ExchangeReaderExec {
    fn name(&self) -> &str {
        self.whole.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.whole.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.whole.apply_expressions(f)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match children.is_empty() {
            true => Ok(self),
            false => Err(DataFusionError::Internal("a reader of an exchange has no children".to_string())),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let slot = if self.whole.broadcast { 0 } else { partition };
        let here = self.here.get(slot).cloned().unwrap_or_default();
        let has_more = self.elsewhere.partition.get(slot).is_some_and(|locations| !locations.is_empty());
        // Begun now: peers are asked while the batches of this executor are worked on.
        let rest = has_more.then(|| self.elsewhere.execute(partition, context)).transpose()?;
        let numbers = BaselineMetrics::new(&self.metrics, partition);
        let batches = here.into_iter().flat_map(|Here { output, partition }| {
            (0..output.batches(partition).len()).filter_map(move |index| output.batches(partition).get(index).cloned())
        });
        let batches = stream::iter(batches.map(move |batch| Ok(batch.record_output(&numbers))));
        let rows = batches.chain(stream::iter(rest).flatten());
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.whole.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut numbers = self.elsewhere.metrics().unwrap_or_default();
        for metric in self.metrics.clone_inner().iter() {
            numbers.push(Arc::clone(metric));
        }
        Some(numbers)
    }
}
