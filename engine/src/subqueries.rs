//! A name of its own for the column of a scalar subquery, where it would clash.
//!
//! A scalar subquery cannot be computed beside a distributed plan, so it becomes a join. DataFusion names its column as the
//! subquery does, and then `SELECT sum(x) / (SELECT sum(x) FROM t) FROM t` has two columns `sum(t.x)` and is refused.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// The rule. It stands before the one that makes joins of subqueries.
#[derive(Debug, Default)]
pub struct NameScalarSubqueries;

impl OptimizerRule for NameScalarSubqueries {
    fn name(&self) -> &str {
        "name_scalar_subqueries"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let input = match &plan {
            LogicalPlan::Projection(projection) => Arc::clone(projection.input.schema()),
            LogicalPlan::Filter(filter) => Arc::clone(filter.input.schema()),
            _ => return Ok(Transformed::no(plan)),
        };
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let renamed = expr.transform_down(|expr| match expr {
                Expr::ScalarSubquery(subquery) if clashes(&subquery, &input) => {
                    let column = config.alias_generator().next("__scalar");
                    Ok(Transformed::yes(Expr::ScalarSubquery(with_column(subquery, &column)?)))
                }
                other => Ok(Transformed::no(other)),
            })?;
            Ok(renamed.update_data(|expr| name.restore(expr)))
        })
    }
}

/// Correlated subqueries keep their names: DataFusion looks into them.
fn clashes(subquery: &Subquery, input: &DFSchema) -> bool {
    let fields = subquery.subquery.schema().fields();
    let name = fields.first().map(|field| field.name());
    subquery.outer_ref_columns.is_empty() && name.is_some_and(|name| input.has_column_with_unqualified_name(name))
}

fn with_column(subquery: Subquery, name: &str) -> Result<Subquery> {
    let column = Expr::Column(Column::from(subquery.subquery.schema().qualified_field(0)));
    let plan = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone()).project([column.alias(name)])?.build()?;
    Ok(subquery.with_plan(Arc::new(plan)))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use crate::session::{base_config, state_builder};
    use std::sync::Arc;

    #[tokio::test]
    async fn a_share_of_the_total_can_be_asked_for() {
        let context = SessionContext::new_with_state(state_builder(base_config(2), Arc::new(RuntimeEnv::default())).build());
        context.sql("CREATE TABLE t AS VALUES ('a', 1.0), ('b', 3.0)").await.unwrap();
        for sql in [
            "SELECT column1, sum(column2) / (SELECT sum(column2) FROM t) AS share FROM t GROUP BY 1 ORDER BY 1",
            "SELECT column1, sum(column2) / 4 AS share FROM t GROUP BY 1 \
             HAVING sum(column2) <= (SELECT sum(column2) FROM t) ORDER BY 1",
        ] {
            let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
            let text = pretty_format_batches(&rows).unwrap().to_string();
            assert!(text.contains("| a       | 0.25  |") && text.contains("| b       | 0.75  |"), "{text}");
        }
        // the name of the column is as ever
        let frame = context.sql("SELECT (SELECT sum(column2) FROM t), sum(column2) AS s FROM t").await.unwrap();
        let columns = frame.collect().await.unwrap()[0].schema();
        assert_eq!(columns.field(0).name(), "sum(t.column2)");
    }
}
