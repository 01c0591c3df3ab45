//! Filters that go down a physical plan stay on their own column.
//!
//! DataFusion 55 finds the column of a filter in a child by its *name*, and takes the first of several that have one: of
//! `SELECT x.id, y.id FROM x LEFT JOIN y … WHERE y.id IS NULL` the condition goes to `x`, and rows are lost in silence (its issues
//! 21246, 25244, 25262, 25263, 25296; mended for 56 by its pull request 25259). Until then its rule runs here over a plan in which
//! nothing passes a node that has, or reads, two columns of one name. What it costs is such filters' early work, never a row.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties};

type Plan = Arc<dyn ExecutionPlan>;
type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// The name of DataFusion's rules, for both of their phases.
const FILTER_PUSHDOWN: &str = "FilterPushdown";

/// The rules, those that push filters guarded.
pub fn guarded(rules: Vec<Rule>) -> Vec<Rule> {
    let guard = |rule: Rule| match rule.name().starts_with(FILTER_PUSHDOWN) {
        true => Arc::new(Guarded(rule)) as Rule,
        false => rule,
    };
    rules.into_iter().map(guard).collect()
}

#[derive(Debug)]
struct Guarded(Rule);

impl PhysicalOptimizerRule for Guarded {
    fn optimize(&self, plan: Plan, config: &ConfigOptions) -> Result<Plan> {
        if !plan.exists(|node| Ok(has_equal_names(&node.schema())))? {
            return self.0.optimize(plan, config);
        }
        let fenced = plan.transform_up(|node| {
            let is_unsafe = has_equal_names(&node.schema())
                || node.children().into_iter().any(|child| has_equal_names(&child.schema()));
            Ok(match is_unsafe {
                true => Transformed::yes(Arc::new(Fence(node)) as Plan),
                false => Transformed::no(node),
            })
        })?;
        let pushed = self.0.optimize(fenced.data, config)?;
        let bare = pushed.transform_up(|node| {
            Ok(match node.downcast_ref::<Fence>() {
                Some(Fence(inner)) => Transformed::yes(Arc::clone(inner)),
                None => Transformed::no(node),
            })
        })?;
        Ok(bare.data)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

fn has_equal_names(schema: &Schema) -> bool {
    let mut names = HashSet::with_capacity(schema.fields().len());
    !schema.fields().iter().all(|field| names.insert(field.name()))
}

/// Stands above a node while filters are pushed: none passes it from above, which is what a node says that says nothing.
#[derive(Debug)]
struct Fence(Plan);

impl DisplayAs for Fence {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for Fence {
    fn name(&self) -> &'static str {
        "Fence"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.0.properties()
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.0]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Plan>) -> Result<Plan> {
        match (children.pop(), children.is_empty()) {
            (Some(child), true) => Ok(Arc::new(Self(child))),
            _ => internal_err!("a fence has one child"),
        }
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a fence stands in a plan only while filters are pushed")
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::RecordBatch;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};

    async fn rows(session: &SessionContext, sql: &str) -> usize {
        let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
        batches.iter().map(RecordBatch::num_rows).sum()
    }

    async fn shown(session: &SessionContext, sql: &str) -> String {
        let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
        datafusion::arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string()
    }

    async fn session(folder: &std::path::Path) -> SessionContext {
        let state = SessionStateBuilder::new_with_default_features()
            .with_config(SessionConfig::new().with_target_partitions(2))
            .with_physical_optimizer_rules(crate::session::physical_rules(true));
        let session = SessionContext::new_with_state(state.build());
        for (name, rows) in [
            ("x", "SELECT value AS id, value % 3 AS d FROM generate_series(0, 9) AS g(value)"),
            ("y", "SELECT value AS id, value % 5 AS d FROM generate_series(0, 9) AS g(value)"),
            ("orders", "SELECT * FROM (VALUES (100, 1), (200, 2), (300, 3)) AS t(amount, id)"),
            ("payments", "SELECT * FROM (VALUES (30, 1), (20, 2), (10, 3)) AS t(amount, id)"),
            ("customers", "SELECT * FROM (VALUES (1), (2), (3)) AS t(id)"),
        ] {
            let file = folder.join(format!("{name}.parquet")).display().to_string();
            session.sql(&format!("COPY ({rows}) TO '{file}'")).await.unwrap().collect().await.unwrap();
            session.register_parquet(name, file, Default::default()).await.unwrap();
        }
        session
    }

    #[tokio::test]
    async fn a_filter_stays_on_its_own_column() {
        let folder = tempfile::tempdir().unwrap();
        let session = session(folder.path()).await;
        // y.d of 3 and 4 has no partner.
        let sql =
            "SELECT x.id AS a, y.id AS b FROM x RIGHT JOIN y ON x.d = y.d WHERE x.id IS NULL ORDER BY y.id LIMIT 7";
        assert_eq!(rows(&session, sql).await, 4, "3, 4, 8 and 9");
        let sql = "SELECT y.id AS a, x.id AS b FROM y LEFT JOIN x ON x.d = y.d WHERE x.id IS NULL AND y.id < 8";
        assert_eq!(rows(&session, sql).await, 2, "3 and 4");
    }

    #[tokio::test]
    async fn the_least_rows_are_those_of_their_own_column() {
        let folder = tempfile::tempdir().unwrap();
        let session = session(folder.path()).await;
        let sql = "SELECT o.amount AS o, p.amount AS p FROM orders AS o JOIN payments AS p ON o.id = p.id \
                   JOIN customers AS c ON p.id = c.id ORDER BY p.amount LIMIT 1";
        assert!(shown(&session, sql).await.contains("| 300 | 10 |"));
    }
}
