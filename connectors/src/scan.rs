//! The scan of a source in a physical plan, the same node for every source.
//!
//! It is an interior node: its child is memory data whose rows are the splits, one partition a split. Ballista cuts and
//! sends such data by itself, so that each task gets the splits of its own partitions and no row comes twice. A leaf of our
//! own would be left whole in each task.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result as DFResult, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr, PlanProperties,
};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use townlake_common::{Error, QueryContext, Result};

use crate::SourceConnections;
use crate::operation::{Operation, Pushed};

/// The batches of one split.
pub type Batches = BoxStream<'static, Result<RecordBatch>>;

/// What one scan reads, as it travels to executors: names and conditions, never a connection, a URL or a credential.
pub trait SourceScan: Any + fmt::Debug + Send + Sync {
    /// The kind of its source ([`crate::Source::kind`]): under it the recipe is decoded again.
    fn kind(&self) -> &'static str;

    /// The name of its plan node, for example `PostgresScanExec`.
    fn node_name(&self) -> &'static str;

    /// The catalog that it reads.
    fn catalog(&self) -> &str;

    /// The columns of its rows.
    fn schema(&self) -> SchemaRef;

    /// What is expected of all its splits together.
    fn estimate(&self) -> &Estimate;

    /// What EXPLAIN tells of it.
    fn explain(&self) -> Explained;

    /// The recipe on the wire.
    fn encode(&self) -> Vec<u8>;

    /// Whether another reading of it in the same query gives the same rows. (A limit may give others.)
    fn gives_the_same_again(&self) -> bool {
        false
    }

    /// The scan whose source does this as well, or why it does not. Only what is known to give the same rows there as here is
    /// done there.
    fn push(&self, operation: &Operation<'_>) -> Pushed {
        Err(format!("{} is not asked of {}", operation.name(), self.kind()))
    }

    /// The scan and its splits, where a filter that was pushed needs new ones; `None`: the splits stay what they are.
    ///
    /// Errors: those of planning a scan.
    fn replan<'a>(
        &'a self,
        _connections: &'a SourceConnections,
        _splits: usize,
    ) -> BoxFuture<'a, Result<Option<SourceScanExec>>> {
        Box::pin(async { Ok(None) })
    }

    /// The rows of one split. Nothing happens before the stream is polled; dropped before its end, it ends what the source does
    /// for it.
    ///
    /// Errors, and those of the stream: `SOURCE_UNAVAILABLE`, `SOURCE_DENIED`, `SOURCE_ERROR`, `DATA_CORRUPT`; `CONFIG_INVALID` where
    /// this node does not have the catalog.
    fn read(self: Arc<Self>, connections: &SourceConnections, split: Vec<u8>, metrics: ScanMetrics) -> Result<Batches>;
}

/// The query that a scan is planned for. `kind`: of the source.
///
/// Errors: `INTERNAL` outside of a query.
pub(crate) fn query_of(state: &dyn Session, kind: &str) -> DFResult<Arc<QueryContext>> {
    let query = state.config().get_extension::<QueryContext>();
    query.ok_or_else(|| external(Error::internal(format!("a {kind} table is planned outside a query"))))
}

/// What a source expects of a scan.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimate {
    /// All rows.
    pub rows: Option<u64>,
    /// Their bytes.
    pub bytes: Option<u64>,
    /// Per column of the scan.
    pub columns: Vec<ColumnEstimate>,
}

/// What a source's statistics say of a column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ColumnEstimate {
    /// Values that are NULL.
    pub nulls: Option<u64>,
    /// Different values.
    pub distinct: Option<u64>,
}

/// What EXPLAIN tells of a scan.
#[derive(Debug, Clone, Default)]
pub struct Explained {
    /// `catalog.schema.table`.
    pub table: String,
    /// What the source is asked, for example `remote_sql` and the text.
    pub asked: Vec<(&'static str, String)>,
    /// The filters that stayed with us, each with the reason.
    pub filtered_here: Vec<String>,
    /// The moment that is read, for `EXPLAIN VERBOSE`.
    pub pinned: Option<(&'static str, String)>,
}

impl Estimate {
    /// The rows of an inner join on equal columns, as System R estimates them: |L| · |R| / distinct values of the most selective
    /// pair. `None` where too little is known.
    pub fn joined_rows(&self, right: &Self, on: &[(usize, usize)]) -> Option<u64> {
        let distinct = |of: &Self, column: usize| of.columns.get(column)?.distinct;
        let pairs = on.iter().filter_map(|(l, r)| Some(distinct(self, *l)?.max(distinct(right, *r)?).max(1)));
        let product = u128::from(self.rows?) * u128::from(right.rows?);
        Some(u64::try_from(product / u128::from(pairs.max()?)).unwrap_or(u64::MAX))
    }

    /// The rows of grouping by these columns, as far as statistics tell.
    pub fn groups(&self, by: &[usize]) -> Option<u64> {
        let distinct = by.iter().map(|column| {
            let column = self.columns.get(*column)?;
            // NULL is a group, too.
            Some(column.distinct? + u64::from(column.nulls.is_some_and(|nulls| nulls > 0)))
        });
        let product = distinct.reduce(|a, b| Some(a?.saturating_mul(b?))).unwrap_or(Some(1))?;
        Some(product.min(self.rows.unwrap_or(u64::MAX)))
    }
}

/// What a scan counts.
#[derive(Debug, Clone)]
pub struct ScanMetrics {
    /// Rows and time.
    pub baseline: BaselineMetrics,
    /// Bytes that came over the wire.
    pub bytes_read: Count,
    /// Splits that were begun.
    pub splits: Count,
    /// Time until there was a connection.
    pub connection_wait: Time,
    set: ExecutionPlanMetricsSet,
    partition: usize,
}

impl ScanMetrics {
    /// The metrics of one partition.
    pub fn new(set: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        Self {
            baseline: BaselineMetrics::new(set, partition),
            bytes_read: MetricBuilder::new(set).counter("bytes_read", partition),
            splits: MetricBuilder::new(set).counter("splits", partition),
            connection_wait: MetricBuilder::new(set).subset_time("connection_wait", partition),
            set: set.clone(),
            partition,
        }
    }

    /// Counts what only some sources have, and only where there is some.
    pub fn count(&self, what: &'static str, count: usize) {
        MetricBuilder::new(&self.set).counter(what, self.partition).add(count);
    }
}

/// Reads a scan: each row of its child is a split, each partition of its child one of its own.
///
/// It runs wherever the session's configuration has [`SourceConnections`] as extension, and as long as what the query pinned is
/// held on the coordinator.
#[derive(Debug)]
pub struct SourceScanExec {
    scan: Arc<dyn SourceScan>,
    splits: Arc<dyn ExecutionPlan>,
    /// What the source was not asked for, with the reason. Only where it is planned.
    kept_here: Vec<String>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl SourceScanExec {
    /// The scan over its splits, each in the bytes that [`SourceScan::read`] takes.
    pub fn new(scan: Arc<dyn SourceScan>, splits: &[Vec<u8>]) -> Result<Self> {
        let partitions = splits_to_partitions(splits)?;
        let child = MemorySourceConfig::try_new_exec(&partitions, splits_schema(), None)
            .map_err(|error| Error::internal("the splits cannot be planned").with_source(error))?;
        Ok(Self::over(scan, child))
    }

    fn over(scan: Arc<dyn SourceScan>, splits: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(scan.schema()),
            Partitioning::UnknownPartitioning(splits.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        let (properties, metrics) = (Arc::new(properties), ExecutionPlanMetricsSet::new());
        Self { scan, splits, kept_here: Vec::new(), properties, metrics }
    }

    /// The node over its decoded child.
    ///
    /// Errors: `INTERNAL` for a child that has no splits.
    pub(crate) fn decoded(scan: Arc<dyn SourceScan>, inputs: &[Arc<dyn ExecutionPlan>]) -> Result<Self> {
        match inputs {
            [splits] if splits.schema() == splits_schema() => Ok(Self::over(scan, Arc::clone(splits))),
            _ => Err(unreadable(scan.kind())),
        }
    }

    /// What it reads.
    pub fn scan(&self) -> &Arc<dyn SourceScan> {
        &self.scan
    }

    /// Another scan over the same splits.
    pub(crate) fn with_scan(&self, scan: Arc<dyn SourceScan>) -> Self {
        Self::over(scan, Arc::clone(&self.splits))
    }

    /// The same scan in one split that is the whole.
    pub(crate) fn whole(&self, scan: Arc<dyn SourceScan>) -> Result<Self> {
        Self::new(scan, &[Vec::new()])
    }

    /// The same, which says in EXPLAIN what it was not asked for.
    pub(crate) fn with_kept_here(&self, reason: String) -> Self {
        let kept_here = self.kept_here.iter().cloned().chain([reason]).collect();
        Self { kept_here, ..Self::over(Arc::clone(&self.scan), Arc::clone(&self.splits)) }
    }

    /// The number of its splits.
    pub(crate) fn split_count(&self) -> usize {
        self.splits.output_partitioning().partition_count()
    }
}

impl DisplayAs for SourceScanExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explained { table, asked, filtered_here, pinned } = self.scan.explain();
        let splits = self.splits.output_partitioning().partition_count();
        if matches!(format, DisplayFormatType::TreeRender) {
            write!(f, "table={table}\nsplits={splits}")?;
            return asked.iter().try_for_each(|(what, text)| writeln!(f, "\n{what}={text}"));
        }
        write!(f, "{}: table={table}, splits={splits}", self.scan.node_name())?;
        asked.iter().try_for_each(|(what, text)| write!(f, ", {what}=[{text}]"))?;
        if !filtered_here.is_empty() {
            write!(f, ", filtered_here=[{}]", filtered_here.join("; "))?;
        }
        if !self.kept_here.is_empty() {
            write!(f, ", kept_here=[{}]", self.kept_here.join("; "))?;
        }
        match pinned {
            Some((what, moment)) if matches!(format, DisplayFormatType::Verbose) => write!(f, ", {what}={moment}"),
            _ => Ok(()),
        }
    }
}

impl ExecutionPlan for SourceScanExec {
    fn name(&self) -> &str {
        self.scan.node_name()
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
            (Some(splits), true) => {
                let kept_here = self.kept_here.clone();
                Ok(Arc::new(Self { kept_here, ..Self::over(Arc::clone(&self.scan), splits) }))
            }
            _ => Err(external(Error::internal("the scan of a source has one child"))),
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
        let connections = context.session_config().get_extension::<SourceConnections>();
        let connections =
            connections.ok_or_else(|| external(Error::internal("this node was started without its sources")))?;
        let metrics = ScanMetrics::new(&self.metrics, partition);
        let output = metrics.baseline.clone();
        let scan = Arc::clone(&self.scan);
        let splits = self.splits.execute(partition, context)?;
        let kind = scan.kind();
        let splits = splits.and_then(async move |batch| splits_from_batch(&batch, kind).map_err(external));
        let splits = splits
            .map_ok(|splits| futures::stream::iter(splits.into_iter().map(Ok::<_, DataFusionError>)))
            .try_flatten();
        let batches = splits.and_then(move |split| {
            let (scan, connections, metrics) = (Arc::clone(&scan), Arc::clone(&connections), metrics.clone());
            async move {
                connections.ensure(scan.catalog()).await.map_err(external)?;
                let opened = scan.read(&connections, split, metrics).map_err(external)?;
                Ok::<_, DataFusionError>(opened.map_err(external))
            }
        });
        let counted = batches.try_flatten().inspect_ok(move |batch| output.record_output(batch.num_rows()));
        let stream = RecordBatchStreamAdapter::new(self.scan.schema(), counted.boxed());
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
        Ok(Arc::new(statistics(self.scan.estimate(), &self.scan.schema(), share)))
    }
}

/// Estimates, never exact: an exact 0 would let the planner drop the scan.
fn statistics(estimate: &Estimate, schema: &SchemaRef, share: u64) -> Statistics {
    let inexact = |count: Option<u64>| match count.and_then(|count| usize::try_from(count / share).ok()) {
        Some(count) => Precision::Inexact(count),
        None => Precision::Absent,
    };
    let column = |index: usize| {
        let column = estimate.columns.get(index).copied().unwrap_or_default();
        ColumnStatistics::new_unknown()
            .with_null_count(inexact(column.nulls))
            .with_distinct_count(inexact(column.distinct))
    };
    Statistics {
        num_rows: inexact(estimate.rows),
        total_byte_size: inexact(estimate.bytes),
        column_statistics: (0..schema.fields().len()).map(column).collect(),
    }
}

/// A stream of batches that is opened when it is polled, from a reader that gives one after another.
pub fn opened<R: Send + 'static, F>(
    open: impl Future<Output = Result<R>> + Send + 'static,
    next: impl FnMut(R) -> F + Send + 'static,
) -> Batches
where
    F: Future<Output = Result<Option<(RecordBatch, R)>>> + Send + 'static,
{
    open.map_ok(|reader| futures::stream::try_unfold(reader, next)).try_flatten_stream().boxed()
}

/// A recipe that cannot be decoded: another build, or damage.
pub fn unreadable(kind: &str) -> Error {
    Error::internal(format!("a scan of a source of kind {kind} cannot be decoded"))
        .with_hint("run one build on all nodes")
}

/// Our error as DataFusion carries it.
pub fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The schema of the batches that carry splits: one binary column.
pub(crate) fn splits_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("split", DataType::Binary, false)]))
}

/// Splits as partitions of data: one partition, one batch, one row a split.
fn splits_to_partitions(splits: &[Vec<u8>]) -> Result<Vec<Vec<RecordBatch>>> {
    let batch = |split: &Vec<u8>| {
        let column = BinaryArray::from_vec(vec![split.as_slice()]);
        RecordBatch::try_new(splits_schema(), vec![Arc::new(column)])
            .map_err(|error| Error::internal("a split cannot be written").with_source(error))
    };
    splits.iter().map(|split| Ok(vec![batch(split)?])).collect()
}

/// The splits of one batch that [`splits_to_partitions`] wrote.
fn splits_from_batch(batch: &RecordBatch, kind: &str) -> Result<Vec<Vec<u8>>> {
    let column = batch.columns().first().and_then(|column| column.as_any().downcast_ref::<BinaryArray>());
    let column = column.filter(|column| column.null_count() == 0).ok_or_else(|| unreadable(kind))?;
    Ok(column.iter().map(|bytes| bytes.unwrap_or_default().to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cross_the_wire() {
        let splits = [vec![], vec![1], vec![0, 255]];
        let partitions = splits_to_partitions(&splits).unwrap();
        let back: Vec<_> =
            partitions.iter().flatten().flat_map(|batch| splits_from_batch(batch, "x").unwrap()).collect();
        assert_eq!(back, splits);
        let other = RecordBatch::new_empty(Arc::new(Schema::empty()));
        assert!(splits_from_batch(&other, "x").unwrap_err().message().contains("kind x"));
    }
}
