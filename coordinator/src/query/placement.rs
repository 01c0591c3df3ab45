//! Where a plan runs: in the coordinator where that is quicker than telling an executor, else on the cluster.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
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
use tokio_util::sync::CancellationToken;
use townlake_common::{Error, ErrorCode, Result};
use townlake_connectors::SourceScanExec;
use townlake_engine::batches::used_bytes;
use townlake_engine::error::from_datafusion;
use townlake_engine::interrupt::interruptible;

/// One scan of the lake of at most this many bytes is read in the coordinator.
const TINY_SCAN_BYTES: u64 = 8 << 20;

/// One scan of the lake that stops after this many rows, likewise.
const TINY_SCAN_ROWS: usize = 10_000;

/// Rows that the coordinator makes itself and sends along with a plan, all its leaves together, in bytes. Each task carries
/// its plan, and all tasks for one executor travel in one message ([`townlake_engine::network::MAX_LAUNCH_BYTES`]).
const MAX_SENT_BYTES: usize = 8 << 20;

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
    if plan.is::<SourceScanExec>() {
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

fn memory_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<&MemorySourceConfig> {
    let source = plan.downcast_ref::<DataSourceExec>()?.data_source();
    source.downcast_ref::<MemorySourceConfig>()
}

/// Whether a plan that reads nothing but rows which are here ([`Placement::Memory`]) is done at once: no join, and no leaf
/// that makes rows up.
pub(super) fn is_trivial(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let children = plan.children();
    if children.is_empty() {
        return memory_scan(plan).is_some() || plan.is::<EmptyExec>() || plan.is::<PlaceholderRowExec>();
    }
    let heavy = is_join(plan) || plan.is::<RecursiveQueryExec>();
    !heavy && children.into_iter().all(is_trivial)
}

/// Replaces leaves that Ballista cannot cut by their rows: a leaf that it does not know runs whole in every task, and its
/// rows would come once per task (`generate_series`, for one).
///
/// Errors: `NOT_SUPPORTED` when the plan would have more rows of its own than it may carry.
pub(super) async fn with_known_leaves(
    plan: Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
) -> Result<Arc<dyn ExecutionPlan>> {
    known_leaves(plan, context, &mut 0).await
}

/// `bytes`: of the rows that the plan carries so far.
async fn known_leaves(
    plan: Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
    bytes: &mut usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let children: Vec<_> = plan.children().into_iter().cloned().collect();
    if children.is_empty() {
        let known = plan.is::<DataSourceExec>() || plan.is::<EmptyExec>() || plan.is::<PlaceholderRowExec>();
        return match (known, memory_scan(&plan)) {
            (false, _) => rows_of(plan, context, bytes).await,
            (true, Some(rows)) => {
                for batch in rows.partitions().iter().flatten() {
                    carry(batch, plan.name(), bytes)?;
                }
                Ok(plan)
            }
            (true, None) => Ok(plan),
        };
    }
    let mut replaced = Vec::with_capacity(children.len());
    for child in &children {
        replaced.push(Box::pin(known_leaves(Arc::clone(child), context, bytes)).await?);
    }
    with_children(plan, &children, replaced)
}

fn carry(batch: &RecordBatch, leaf: &str, bytes: &mut usize) -> Result<()> {
    let used = used_bytes(batch).unwrap_or_else(|_| batch.get_array_memory_size());
    *bytes = bytes.saturating_add(used);
    if *bytes <= MAX_SENT_BYTES {
        return Ok(());
    }
    let message = format!("{leaf} makes more rows than can be joined with tables of the cluster");
    let hint = "write them into a table of the lake first";
    Err(Error::new(ErrorCode::NotSupported, message).with_hint(hint))
}

async fn rows_of(
    leaf: Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
    bytes: &mut usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut partitions = Vec::new();
    for partition in 0..leaf.output_partitioning().partition_count() {
        let mut stream = leaf.execute(partition, Arc::clone(context)).map_err(|error| from_datafusion(&error))?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.try_next().await.map_err(|error| from_datafusion(&error))? {
            carry(&batch, leaf.name(), bytes)?;
            batches.push(batch);
        }
        partitions.push(batches);
    }
    let exec =
        MemorySourceConfig::try_new_exec(&partitions, leaf.schema(), None).map_err(|error| from_datafusion(&error))?;
    Ok(exec)
}

/// The rows of a plan that runs here and now, as one stream. Others than trivial plans run on threads of their own
/// (`here.rs`).
pub(super) fn execute_here(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    execute_stream(plan, context).map_err(|error| from_datafusion(&error))
}

/// The plan with points where it can be stopped. DataFusion gives way at its leaves; a join that makes many rows of few
/// comes back to them so seldom that a cancelled query would go on for minutes: above each join it gives way as well. And a
/// join that finds nothing gives no row to anybody: its filter sees `stop`.
pub(super) fn stoppable(plan: Arc<dyn ExecutionPlan>, stop: &CancellationToken) -> Result<Arc<dyn ExecutionPlan>> {
    let guarded = plan.transform_up(|node| {
        let guarded = interruptible(Arc::clone(&node), stop)?;
        Ok(if Arc::ptr_eq(&node, &guarded) { Transformed::no(node) } else { Transformed::yes(guarded) })
    });
    yielding(guarded.data().map_err(|error| from_datafusion(&error))?)
}

fn yielding(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
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

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    /// The plan of a query, with its own rows in it.
    async fn carried(sql: &str) -> Result<Arc<dyn ExecutionPlan>> {
        let context = SessionContext::new();
        let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        with_known_leaves(plan, &context.task_ctx()).await
    }

    #[tokio::test]
    async fn what_a_plan_carries_is_bounded_over_all_its_leaves() {
        let series = "SELECT value FROM generate_series(1, 600000)";
        carried(series).await.unwrap();
        let error = carried(&format!("{series} UNION ALL {series}")).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotSupported);
        assert!(error.hint().is_some());
    }

    #[tokio::test]
    async fn what_is_done_at_once_has_no_join_and_makes_no_rows_up() {
        let context = SessionContext::new();
        for (sql, trivial) in [
            ("SELECT 1", true),
            ("SELECT a, count(*) FROM (VALUES (1), (2)) AS t(a) GROUP BY a", true),
            ("SELECT count(*) FROM generate_series(1, 10)", false),
            ("SELECT * FROM (VALUES (1), (2)) AS t(a) CROSS JOIN (VALUES (1), (2)) AS u(b)", false),
        ] {
            let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
            assert_eq!(is_trivial(&plan), trivial, "{sql}");
        }
    }
}
