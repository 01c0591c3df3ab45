//! Joins that can be stopped while they compare.
//!
//! A join with a filter asks its inputs for more, and gives its reader something, only when it has gone through all pairs
//! of a batch or has found enough of them. Where few pairs pass, that takes minutes in which no stream is polled. The filter
//! is what such a join keeps coming back to: so the filter says that the task was cancelled.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema};
use ballista_core::error::BallistaError;
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder, SortMergeJoinExec,
};
use tokio_util::sync::CancellationToken;

/// `node` with a filter that `token` stops, when it is a join with a filter. Joins without one (a cross join never has one)
/// give their reader a batch soon enough.
///
/// Errors: the join cannot be built anew.
pub fn interruptible(node: Arc<dyn ExecutionPlan>, token: &CancellationToken) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(join) = node.downcast_ref::<HashJoinExec>()
        && let Some(filter) = join.filter()
    {
        return join.builder().with_filter(Some(stopped_by(filter, token))).build_exec();
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>()
        && let Some(filter) = join.filter()
    {
        let join = NestedLoopJoinExecBuilder::from(join).with_filter(Some(stopped_by(filter, token))).build()?;
        return Ok(Arc::new(join));
    }
    if let Some(join) = node.downcast_ref::<SortMergeJoinExec>()
        && let Some(filter) = join.filter()
    {
        let stopped = SortMergeJoinExec::try_new(
            Arc::clone(join.left()),
            Arc::clone(join.right()),
            join.on().to_vec(),
            Some(stopped_by(filter, token)),
            join.join_type(),
            join.sort_options().to_vec(),
            join.null_equality(),
        )?;
        return Ok(Arc::new(stopped));
    }
    Ok(node)
}

fn stopped_by(filter: &JoinFilter, token: &CancellationToken) -> JoinFilter {
    let expression = StoppedExpr { inner: Arc::clone(filter.expression()), token: token.clone() };
    JoinFilter::new(Arc::new(expression), filter.column_indices().to_vec(), Arc::clone(filter.schema()))
}

/// An expression that fails once its token is cancelled.
#[derive(Debug)]
struct StoppedExpr {
    inner: Arc<dyn PhysicalExpr>,
    token: CancellationToken,
}

impl PartialEq for StoppedExpr {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for StoppedExpr {}

impl Hash for StoppedExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for StoppedExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for StoppedExpr {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if self.token.is_cancelled() {
            return Err(BallistaError::Cancelled.into_datafusion());
        }
        self.inner.evaluate(batch)
    }

    fn return_field(&self, input_schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(input_schema)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let inner = children.pop().unwrap_or_else(|| Arc::clone(&self.inner));
        Ok(Arc::new(Self { inner, token: self.token.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use datafusion::physical_plan::{collect, displayable};
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    /// All pairs are looked at and none is found: no stream is polled meanwhile.
    async fn join(condition: &str, hash: bool) -> (SessionContext, Arc<dyn ExecutionPlan>) {
        let mut config = SessionConfig::new();
        config.options_mut().optimizer.prefer_hash_join = hash;
        let context = SessionContext::new_with_config(config);
        let sql = format!(
            "SELECT count(*) FROM generate_series(1, 60000) AS a(x) JOIN generate_series(1, 60000) AS b(y) ON {condition}"
        );
        let plan = context.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
        (context, plan)
    }

    fn guard(plan: Arc<dyn ExecutionPlan>, token: &CancellationToken) -> Arc<dyn ExecutionPlan> {
        use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
        plan.transform_up(|node| Ok(Transformed::yes(interruptible(node, token)?))).data().unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn joins_that_find_nothing_are_stopped() {
        let halves = "x % 2 = y % 2 AND x * y < 0";
        for (condition, hash, name) in [
            ("x * y < 0", true, "NestedLoopJoinExec"),
            (halves, true, "HashJoinExec"),
            (halves, false, "SortMergeJoinExec"),
        ] {
            let (context, plan) = join(condition, hash).await;
            assert!(displayable(plan.as_ref()).indent(false).to_string().contains(name));
            let token = CancellationToken::new();
            let running = tokio::spawn(collect(guard(plan, &token), context.task_ctx()));
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(!running.is_finished(), "{name} was done too soon");
            token.cancel();
            let cancelled = Instant::now();
            let error = crate::error::from_datafusion(&running.await.unwrap().unwrap_err());
            assert_eq!(error.code(), townlake_common::ErrorCode::Cancelled);
            assert!(cancelled.elapsed() < Duration::from_millis(800), "{name} went on for {:?}", cancelled.elapsed());
        }
    }

    #[tokio::test]
    async fn a_guarded_join_answers_the_same() {
        let cases = [("x < y AND y < 40", true), ("x = y AND x + y < 100", true), ("x = y AND x + y < 100", false)];
        for (condition, hash) in cases {
            let (context, plan) = join(condition, hash).await;
            let expected = rows(&collect(plan, context.task_ctx()).await.unwrap());
            // a plan runs once: its exchanges remember
            let (context, plan) = join(condition, hash).await;
            let guarded = guard(plan, &CancellationToken::new());
            assert_eq!(rows(&collect(guarded, context.task_ctx()).await.unwrap()), expected, "{condition}");
        }
    }

    /// The rows as sorted text.
    fn rows(batches: &[RecordBatch]) -> Vec<String> {
        let text = arrow::util::pretty::pretty_format_batches(batches).unwrap().to_string();
        let mut rows: Vec<_> = text.lines().map(str::to_string).collect();
        rows.sort_unstable();
        rows
    }
}
