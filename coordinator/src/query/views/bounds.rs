//! How big the plan of a statement may be with its views in it. Each query is bounded by itself before it is parsed
//! ([`crate::query::depth`]); views put them into each other, and a few that read each other twice make a plan of thousands
//! of tables.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::from_datafusion;

use crate::query::depth::{MAX_OPERATORS, MAX_RELATIONS};

/// Checks the plan of a query that reads views. What it reads was checked so before: the plan is a few times too big at most.
///
/// Errors: `NOT_SUPPORTED`.
pub(super) fn check_expanded(plan: &LogicalPlan) -> Result<()> {
    if leaves(plan)? > MAX_RELATIONS {
        return Err(too_big(&format!("reads more than {MAX_RELATIONS} tables")));
    }
    if depth_of_plan(plan)? > MAX_OPERATORS {
        return Err(too_big(&format!("has more than {MAX_OPERATORS} operators that build on each other")));
    }
    Ok(())
}

fn too_big(what: &str) -> Error {
    Error::new(ErrorCode::NotSupported, format!("with the queries of its views, the statement {what}"))
        .with_hint("write a part of it into a table first")
}

/// Tables and rows of the plan, subqueries included; counted until there are too many.
fn leaves(plan: &LogicalPlan) -> Result<usize> {
    let mut leaves = 0;
    plan.apply_with_subqueries(|node| {
        leaves += usize::from(node.inputs().is_empty());
        Ok(if leaves > MAX_RELATIONS { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(|error| from_datafusion(&error))?;
    Ok(leaves)
}

/// Nodes and expressions from the root to the deepest leaf. The optimizer puts expressions of one node into those of another.
fn depth_of_plan(plan: &LogicalPlan) -> Result<usize> {
    let (mut of_expressions, mut of_inputs) = (0, 0);
    for expr in plan.expressions() {
        of_expressions = of_expressions.max(depth_of_expr(&expr)?);
    }
    for input in plan.inputs() {
        of_inputs = of_inputs.max(depth_of_plan(input)?);
    }
    Ok(1 + of_expressions + of_inputs)
}

fn depth_of_expr(expr: &Expr) -> Result<usize> {
    let mut deepest = match expr {
        Expr::ScalarSubquery(subquery) => depth_of_plan(&subquery.subquery)?,
        Expr::InSubquery(of) => depth_of_plan(&of.subquery.subquery)?,
        Expr::Exists(of) => depth_of_plan(&of.subquery.subquery)?,
        Expr::SetComparison(of) => depth_of_plan(&of.subquery.subquery)?,
        _ => 0,
    };
    let mut failed = Ok(());
    expr.apply_children(|child| match depth_of_expr(child) {
        Ok(depth) => {
            deepest = deepest.max(depth);
            Ok(TreeNodeRecursion::Continue)
        }
        Err(error) => {
            failed = Err(error);
            Ok(TreeNodeRecursion::Stop)
        }
    })
    .map_err(|error| from_datafusion(&error))?;
    failed.map(|()| deepest + 1)
}
