//! Scalar subqueries made ready to become joins.
//!
//! A scalar subquery cannot be computed beside a distributed plan, so DataFusion makes it a join, and then two things are missing:
//!
//! - The column keeps the name that the subquery gave it, and `SELECT sum(x) / (SELECT sum(x) FROM t) FROM t` has two columns
//!   `sum(t.x)` and is refused. Here it gets a name of its own.
//! - Nobody checks that there is one row: a subquery with several would multiply the rows of the query, silently. Here it is
//!   folded into one row that knows how many there were, and more than one is an error, as SQL has it.

use std::sync::{Arc, LazyLock};

use arrow::array::cast::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::{count, first_value};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Subquery, Volatility, col, lit,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use townlake_common::{Error, ErrorCode};

use crate::error::to_datafusion;

/// The rule. It stands before the one that makes joins of subqueries.
#[derive(Debug, Default)]
pub struct ScalarSubqueries;

impl OptimizerRule for ScalarSubqueries {
    fn name(&self) -> &str {
        "scalar_subqueries"
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
            let prepared = expr.transform_down(|expr| match expr {
                // Correlated ones are left alone: DataFusion looks into them, and only takes those that aggregate.
                Expr::ScalarSubquery(subquery)
                    if subquery.outer_ref_columns.is_empty()
                        && (may_have_rows(&subquery) || clashes(&subquery, &input)) =>
                {
                    let column = config.alias_generator().next("__scalar");
                    Ok(Transformed::yes(Expr::ScalarSubquery(prepare(subquery, &column)?)))
                }
                other => Ok(Transformed::no(other)),
            })?;
            Ok(prepared.update_data(|expr| name.restore(expr)))
        })
    }
}

fn clashes(subquery: &Subquery, input: &DFSchema) -> bool {
    let name = subquery.subquery.schema().fields().first().map(|field| field.name());
    name.is_some_and(|name| input.has_column_with_unqualified_name(name))
}

/// Whether more than one row may come.
fn may_have_rows(subquery: &Subquery) -> bool {
    subquery.subquery.max_rows().is_none_or(|rows| rows > 1)
}

/// The subquery with a column of this name, and with one row.
fn prepare(subquery: Subquery, name: &str) -> Result<Subquery> {
    let column = Expr::Column(Column::from(subquery.subquery.schema().qualified_field(0)));
    let plan = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone());
    let plan = match may_have_rows(&subquery) {
        false => plan.project([column.alias(name)])?,
        true => {
            let (rows, value) = (format!("{name}_rows"), format!("{name}_value"));
            let folded = [count(lit(1)).alias(&rows), first_value(column, vec![]).alias(&value)];
            plan.aggregate(Vec::<Expr>::new(), folded)?
                .project([single_row().call(vec![col(rows), col(value)]).alias(name)])?
        }
    };
    Ok(subquery.with_plan(Arc::new(plan.build()?)))
}

/// `__single_row(rows, value)`: the value, when there is at most one row.
pub(crate) fn single_row() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        let signature = Signature::any(2, Volatility::Stable);
        Arc::new(ScalarUDF::new_from_impl(SingleRow { signature }))
    });
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SingleRow {
    signature: Signature,
}

impl ScalarUDFImpl for SingleRow {
    fn name(&self) -> &str {
        "__single_row"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        arguments.get(1).cloned().ok_or_else(|| to_datafusion(Error::internal("__single_row takes two arguments")))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [rows, value] = arguments.args.as_slice() else {
            return Err(to_datafusion(Error::internal("__single_row takes two arguments")));
        };
        let rows = rows.to_array(arguments.number_rows)?;
        let rows = rows.as_primitive_opt::<Int64Type>();
        let rows = rows.ok_or_else(|| to_datafusion(Error::internal("__single_row counts rows in a bigint")))?;
        if let Some(rows) = rows.iter().flatten().find(|rows| *rows > 1) {
            let message = format!("a subquery that stands for a value gave {rows} rows");
            return Err(to_datafusion(
                Error::new(ErrorCode::InvalidQuery, message).with_hint("use IN, an aggregate, or LIMIT 1"),
            ));
        }
        Ok(value.clone())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::error::from_datafusion;
    use crate::session::{base_config, state_builder};

    #[tokio::test]
    async fn a_share_of_the_total_can_be_asked_for() {
        let context =
            SessionContext::new_with_state(state_builder(base_config(2), Arc::new(RuntimeEnv::default())).build());
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

    #[tokio::test]
    async fn several_rows_are_no_value() {
        let context =
            SessionContext::new_with_state(state_builder(base_config(2), Arc::new(RuntimeEnv::default())).build());
        context.sql("CREATE TABLE t AS VALUES (1), (2)").await.unwrap();
        for sql in ["SELECT (SELECT column1 FROM t)", "SELECT * FROM t WHERE column1 = (SELECT column1 FROM t)"] {
            let error = context.sql(sql).await.unwrap().collect().await.unwrap_err();
            assert_eq!(from_datafusion(&error).code(), ErrorCode::InvalidQuery, "{error}");
        }
        for (sql, expected) in [
            ("SELECT (SELECT column1 FROM t WHERE column1 = 2) AS v", "| 2 |"),
            ("SELECT (SELECT column1 FROM t WHERE false) AS v", "|   |"),
            ("SELECT (SELECT column1 FROM t ORDER BY column1 LIMIT 1) AS v", "| 1 |"),
        ] {
            let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
            let text = pretty_format_batches(&rows).unwrap().to_string();
            assert!(text.contains(expected), "{sql}\n{text}");
        }
    }
}
