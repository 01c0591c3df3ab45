//! Where a plan runs: in the coordinator where that is quicker than telling an executor, else on the cluster.

use std::sync::Arc;

use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions, execute_stream,
};
use futures::TryStreamExt;
use townlake_common::{Error, ErrorCode, Result};
use townlake_connectors::PostgresScanExec;
use townlake_engine::error::from_datafusion;

/// One scan of the lake of at most this many bytes is read in the coordinator.
const TINY_SCAN_BYTES: u64 = 8 << 20;

/// One scan of the lake that stops after this many rows, likewise.
const TINY_SCAN_ROWS: usize = 10_000;

/// Rows that the coordinator makes itself and sends along with a plan, in bytes.
const MAX_SENT_BYTES: usize = 64 << 20;

/// Where a plan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// In the coordinator: nothing but rows that are here already.
    Memory,
    /// In the coordinator: one tiny scan.
    Local,
    /// In the coordinator: its steps read what the ones before left in this process.
    Recursive,
    /// On the executors.
    Cluster,
}

/// What a plan reads.
#[derive(Debug, Default)]
struct Scans {
    lake: usize,
    lake_bytes: u64,
    limit: Option<usize>,
    sources: usize,
    recursive: bool,
}

/// Decides where `plan` runs. `always_cluster` sends every scan to executors.
pub(super) fn placement(plan: &Arc<dyn ExecutionPlan>, always_cluster: bool) -> Placement {
    let mut scans = Scans::default();
    count(plan, &mut scans);
    if scans.lake == 0 && scans.sources == 0 {
        return Placement::Memory;
    }
    let tiny = scans.lake_bytes <= TINY_SCAN_BYTES || scans.limit.is_some_and(|rows| rows <= TINY_SCAN_ROWS);
    match scans {
        Scans { recursive: true, .. } => Placement::Recursive,
        Scans { lake: 1, sources: 0, .. } if tiny && !always_cluster => Placement::Local,
        _ => Placement::Cluster,
    }
}

fn count(plan: &Arc<dyn ExecutionPlan>, scans: &mut Scans) {
    scans.recursive |= plan.is::<RecursiveQueryExec>();
    if plan.is::<PostgresScanExec>() {
        scans.sources += 1;
        return;
    }
    if let Some(files) = file_scan(plan) {
        scans.lake += 1;
        scans.limit = files.limit;
        let sizes = files.file_groups.iter().flat_map(|group| group.iter()).map(|file| file.effective_size());
        scans.lake_bytes += sizes.sum::<u64>();
    }
    for child in plan.children() {
        count(child, scans);
    }
}

fn file_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    let source = plan.downcast_ref::<DataSourceExec>()?.data_source();
    source.downcast_ref::<FileScanConfig>()
}

/// Replaces leaves that Ballista cannot cut by their rows: a leaf that it does not know runs whole in every task, and its
/// rows would come once per task (`generate_series`, for one).
///
/// Errors: `NOT_SUPPORTED` when such a leaf has more rows than a plan may carry.
pub(super) async fn with_known_leaves(
    plan: Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let children: Vec<_> = plan.children().into_iter().cloned().collect();
    if children.is_empty() {
        let known = plan.is::<DataSourceExec>() || plan.is::<EmptyExec>() || plan.is::<PlaceholderRowExec>();
        return if known { Ok(plan) } else { rows_of(plan, context).await };
    }
    let mut replaced = Vec::with_capacity(children.len());
    for child in &children {
        replaced.push(Box::pin(with_known_leaves(Arc::clone(child), context)).await?);
    }
    with_children(plan, &children, replaced)
}

async fn rows_of(leaf: Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Result<Arc<dyn ExecutionPlan>> {
    let mut partitions = Vec::new();
    let mut bytes = 0;
    for partition in 0..leaf.output_partitioning().partition_count() {
        let mut stream = leaf.execute(partition, Arc::clone(context)).map_err(|error| from_datafusion(&error))?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.try_next().await.map_err(|error| from_datafusion(&error))? {
            bytes += batch.get_array_memory_size();
            if bytes > MAX_SENT_BYTES {
                let message = format!("{} makes more rows than can be joined with tables of the cluster", leaf.name());
                return Err(Error::new(ErrorCode::NotSupported, message));
            }
            batches.push(batch);
        }
        partitions.push(batches);
    }
    let exec =
        MemorySourceConfig::try_new_exec(&partitions, leaf.schema(), None).map_err(|error| from_datafusion(&error))?;
    Ok(exec)
}

/// The rows of a plan that runs here, as one stream. Give it a plan made [`yielding`].
pub(super) fn execute_here(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    execute_stream(plan, context).map_err(|error| from_datafusion(&error))
}

/// The plan with a point above each join where it can be stopped. DataFusion gives way at its leaves; a join that makes
/// many rows of few comes back to them so seldom that a cancelled query would go on for minutes.
pub(super) fn yielding(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let gives_way = plan.is::<CooperativeExec>();
    let children: Vec<_> = plan.children().into_iter().cloned().collect();
    let mut replaced = Vec::with_capacity(children.len());
    for child in &children {
        let child_yields = yielding(Arc::clone(child))?;
        let wrap = is_join(child) && !gives_way;
        replaced.push(if wrap { Arc::new(CooperativeExec::new(child_yields)) } else { child_yields });
    }
    with_children(plan, &children, replaced)
}

fn is_join(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<CrossJoinExec>()
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<HashJoinExec>()
        || plan.is::<SortMergeJoinExec>()
}

fn with_children(
    plan: Arc<dyn ExecutionPlan>,
    children: &[Arc<dyn ExecutionPlan>],
    replaced: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if children.iter().zip(&replaced).all(|(before, after)| Arc::ptr_eq(before, after)) {
        return Ok(plan);
    }
    let recompute = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.replace_children(replaced, recompute).map_err(|error| from_datafusion(&error))
}
