//! A text that is compared with a time is one of that column's type.
//!
//! DataFusion makes both sides nanoseconds, so that `at > '2500-01-01'` would fail, and with it every row after the year 2262.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, cast};
use datafusion::optimizer::AnalyzerRule;

/// Goes before the coercion of types.
#[derive(Debug)]
pub(crate) struct TextAsTime;

impl AnalyzerRule for TextAsTime {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let typed = plan.transform_up_with_subqueries(|plan| {
            let mut schema = merge_schema(&plan.inputs());
            if let LogicalPlan::TableScan(scan) = &plan {
                schema.merge(&scan.projected_schema);
            }
            // A column is named by its expression, and keeps its name.
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let typed = expr.transform_up(|expr| Ok(typed(expr, &schema)))?;
                Ok(typed.update_data(|expr| name.restore(expr)))
            })
        })?;
        Ok(typed.data)
    }

    fn name(&self) -> &str {
        "text_as_time"
    }
}

fn typed(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(op) => {
            let (left, right) = match (time_of(&left, schema), time_of(&right, schema)) {
                (Some(of), None) if is_text(&right) => (left, Box::new(cast(*right, of))),
                (None, Some(of)) if is_text(&left) => (Box::new(cast(*left, of)), right),
                _ => return Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            };
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let Some(of) = time_of(&expr, schema) else {
                return Transformed::no(Expr::Between(Between { expr, negated, low, high }));
            };
            let bound = |bound: Box<Expr>| if is_text(&bound) { Box::new(cast(*bound, of.clone())) } else { bound };
            Transformed::yes(Expr::Between(Between { expr, negated, low: bound(low), high: bound(high) }))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let Some(of) = time_of(&expr, schema).filter(|_| list.iter().all(is_text)) else {
                return Transformed::no(Expr::InList(InList { expr, list, negated }));
            };
            let list = list.into_iter().map(|item| cast(item, of.clone())).collect();
            Transformed::yes(Expr::InList(InList { expr, list, negated }))
        }
        other => Transformed::no(other),
    }
}

/// The type of an expression that is a time in microseconds.
fn time_of(expr: &Expr, schema: &DFSchema) -> Option<DataType> {
    let of = expr.get_type(schema).ok()?;
    let is_time = matches!(of, DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Time64(TimeUnit::Microsecond));
    is_time.then_some(of)
}

fn is_text(expr: &Expr) -> bool {
    let text = |value: &ScalarValue| {
        matches!(value, ScalarValue::Utf8(_) | ScalarValue::Utf8View(_) | ScalarValue::LargeUtf8(_))
    };
    matches!(expr, Expr::Literal(value, _) if text(value))
}

fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}
