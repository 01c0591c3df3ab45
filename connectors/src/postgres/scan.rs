//! The scan in a physical plan.
//!
//! It is an interior node: its child is memory data whose rows are the splits, one partition a split. Ballista cuts and
//! sends such data by itself, so that each task gets the splits of its own partitions and no row comes twice. A leaf of our
//! own would be left whole in each task.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result as DFResult, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr, PlanProperties,
};
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use prost::Message;
use townlake_common::{Error, Result};
use townlake_proto::postgres as wire;

use super::error::external;
use super::pool::Pool;
use super::reader::{ScanMetrics, SplitReader};
use super::recipe::{Recipe, Split, splits_from_batch, splits_schema, splits_to_partitions, unreadable};
use crate::SourceConnections;

/// Reads one Postgres relation: each row of its child is a split, each partition of its child one of its own.
///
/// It runs wherever the session's configuration has [`SourceConnections`] as extension, and as long as the query's
/// snapshot is held on the coordinator.
#[derive(Debug)]
pub struct PostgresScanExec {
    recipe: Arc<Recipe>,
    splits: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl PostgresScanExec {
    /// A scan of `recipe` over `splits`.
    pub(crate) fn new(recipe: Recipe, splits: &[Split]) -> Result<Self> {
        let partitions = splits_to_partitions(splits)?;
        let child = MemorySourceConfig::try_new_exec(&partitions, splits_schema(), None)
            .map_err(|error| Error::internal("the splits cannot be planned").with_source(error))?;
        Ok(Self::over(Arc::new(recipe), child))
    }

    fn over(recipe: Arc<Recipe>, splits: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(recipe.arrow_schema()),
            Partitioning::UnknownPartitioning(splits.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Self { recipe, splits, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }

    /// Writes the node without its child.
    pub(crate) fn encode(&self, buf: &mut Vec<u8>) -> DFResult<()> {
        self.recipe.to_wire().encode(buf).map_err(|error| external(unreadable().with_source(error)))
    }

    /// The node that [`PostgresScanExec::encode`] wrote, over its decoded child.
    pub(crate) fn decode(buf: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> DFResult<Arc<dyn ExecutionPlan>> {
        let [splits] = inputs else { return Err(external(unreadable())) };
        if splits.schema() != splits_schema() {
            return Err(external(unreadable()));
        }
        let scan = wire::Scan::decode(buf).map_err(|error| external(unreadable().with_source(error)))?;
        let recipe = Recipe::from_wire(scan).map_err(external)?;
        Ok(Arc::new(Self::over(Arc::new(recipe), Arc::clone(splits))))
    }

    fn pool(&self, context: &TaskContext) -> Result<Arc<Pool>> {
        let connections = context.session_config().get_extension::<SourceConnections>();
        let connections = connections.ok_or_else(|| Error::internal("this node was started without its sources"))?;
        connections.postgres(&self.recipe.catalog)
    }
}

impl DisplayAs for PostgresScanExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Recipe { catalog, schema, table, local_filters, .. } = self.recipe.as_ref();
        let splits = self.splits.output_partitioning().partition_count();
        let sql = self.recipe.select(Split::default());
        if matches!(format, DisplayFormatType::TreeRender) {
            return writeln!(f, "table={catalog}.{schema}.{table}\nsplits={splits}\nremote_sql={sql}");
        }
        write!(f, "PostgresScanExec: table={catalog}.{schema}.{table}, splits={splits}, remote_sql=[{sql}]")?;
        if !local_filters.is_empty() {
            write!(f, ", filtered_here=[{}]", local_filters.join("; "))?;
        }
        if matches!(format, DisplayFormatType::Verbose) {
            write!(f, ", snapshot={}", self.recipe.snapshot)?;
        }
        Ok(())
    }
}

impl ExecutionPlan for PostgresScanExec {
    fn name(&self) -> &str {
        "PostgresScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.splits]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DFResult<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(splits), true) => Ok(Arc::new(Self::over(Arc::clone(&self.recipe), splits))),
            _ => Err(external(Error::internal("a Postgres scan has one child"))),
        }
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DFResult<TreeNodeRecursion>,
    ) -> DFResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    /// The splits are decided: more partitions of the child would be empty.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn repartitioned(&self, _target: usize, _config: &ConfigOptions) -> DFResult<Option<Arc<dyn ExecutionPlan>>> {
        Ok(None)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DFResult<SendableRecordBatchStream> {
        let pool = self.pool(&context).map_err(external)?;
        let metrics = ScanMetrics::new(&self.metrics, partition);
        let recipe = Arc::clone(&self.recipe);
        let splits = self.splits.execute(partition, context)?;
        let splits = splits.and_then(async |batch| splits_from_batch(&batch).map_err(external));
        let each = |split| -> DFResult<Split> { Ok(split) };
        let splits = splits.map_ok(move |splits| futures::stream::iter(splits).map(each)).try_flatten();
        let output = metrics.baseline.clone();
        let batches = splits.map_ok(move |split| read(Arc::clone(&pool), Arc::clone(&recipe), split, metrics.clone()));
        let counted = batches.try_flatten().inspect_ok(move |batch| output.record_output(batch.num_rows()));
        let stream = RecordBatchStreamAdapter::new(self.schema(), counted.boxed());
        Ok(Box::pin(cooperative(stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn partition_statistics(&self, partition: Option<usize>) -> DFResult<Arc<Statistics>> {
        let share = match partition {
            None => 1,
            Some(_) => self.splits.output_partitioning().partition_count().max(1) as u64,
        };
        Ok(Arc::new(statistics(&self.recipe, &self.schema(), share)))
    }
}

/// The batches of one split. Nothing happens before it is polled, and the COPY ends with the stream.
fn read(
    pool: Arc<Pool>,
    recipe: Arc<Recipe>,
    split: Split,
    metrics: ScanMetrics,
) -> impl futures::Stream<Item = DFResult<arrow::array::RecordBatch>> + Send {
    let open = async move { SplitReader::open(&pool, &recipe, split, &metrics).await };
    let batches = open.map_ok(|reader| futures::stream::try_unfold(reader, SplitReader::next));
    batches.try_flatten_stream().map_err(external)
}

/// Estimates, never exact: an exact 0 would let the planner drop the scan.
fn statistics(recipe: &Recipe, schema: &SchemaRef, share: u64) -> Statistics {
    let inexact = |count: Option<u64>| match count.and_then(|count| usize::try_from(count / share).ok()) {
        Some(count) => Precision::Inexact(count),
        None => Precision::Absent,
    };
    let column = |index: usize| {
        let estimate = recipe.estimate.columns.get(index).copied().unwrap_or_default();
        ColumnStatistics::new_unknown()
            .with_null_count(inexact(estimate.nulls))
            .with_distinct_count(inexact(estimate.distinct))
    };
    Statistics {
        num_rows: inexact(recipe.estimate.rows),
        total_byte_size: inexact(recipe.estimate.bytes),
        column_statistics: (0..schema.fields().len()).map(column).collect(),
    }
}
