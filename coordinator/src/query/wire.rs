//! Whether a plan can cross to the executors: protobuf messages nest 100 levels at most, and whoever reads deeper ones refuses
//! them. Told here, it is an error of the statement; told by an executor, it is a task that cannot be read.

use std::sync::Arc;

use ballista_core::JobId;
use ballista_scheduler::planner::{DefaultDistributedPlanner, DistributedPlanner};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::PhysicalPlanNode;
use prost::Message;
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::codec::TownCodec;
use townlake_engine::error::from_datafusion;

/// A plan that takes so many levels as a whole is read without trying it: messages nest 100 levels, and what is not counted
/// here (literals, types, the writer on top) takes a dozen.
const SAFE_LEVELS: usize = 70;

/// Checks that executors can read the stages of a plan.
///
/// Errors: `NOT_SUPPORTED` when one is nested too deeply.
pub(super) fn check_levels(plan: &Arc<dyn ExecutionPlan>, state: &SessionState) -> Result<()> {
    if plan_levels(plan)? <= SAFE_LEVELS {
        return Ok(());
    }
    let job = JobId::new("levels".to_string());
    let stages = DefaultDistributedPlanner::new()
        .plan_query_stages(&job, Arc::clone(plan), state.config_options())
        .map_err(|error| from_datafusion(&DataFusionError::External(Box::new(error))))?;
    let (codec, context) = (TownCodec::new(), state.task_ctx());
    for stage in stages {
        let node = PhysicalPlanNode::try_from_physical_plan(stage, &codec).map_err(|error| from_datafusion(&error))?;
        let read = PhysicalPlanNode::decode(node.encode_to_vec().as_slice())
            .map_err(|error| DataFusionError::External(Box::new(error)))
            .and_then(|node| node.try_into_physical_plan(&context, &codec));
        if let Err(error) = read {
            let message = "an expression of the statement is nested too deeply to be sent to executors";
            return Err(Error::new(ErrorCode::NotSupported, message)
                .with_hint("compute a part of it in a subquery's column, or write that part into a table first")
                .with_source(error));
        }
    }
    Ok(())
}

/// The levels of messages that a plan takes, nearly: two for each node.
fn plan_levels(plan: &Arc<dyn ExecutionPlan>) -> Result<usize> {
    let mut deepest = 0;
    plan.apply_expressions(&mut |expr| {
        deepest = deepest.max(expr_levels(expr));
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(|error| from_datafusion(&error))?;
    for child in plan.children() {
        deepest = deepest.max(plan_levels(child)?);
    }
    Ok(deepest + 2)
}

/// As [`plan_levels`], of an expression. A chain of one operator is one node with many operands.
fn expr_levels(expr: &Arc<dyn PhysicalExpr>) -> usize {
    let mut deepest = 0;
    let mut rest = expr;
    while let Some(binary) = rest.downcast_ref::<BinaryExpr>() {
        deepest = deepest.max(expr_levels(binary.right()));
        rest = binary.left();
        if rest.downcast_ref::<BinaryExpr>().is_none_or(|left| left.op() != binary.op()) {
            return deepest.max(expr_levels(rest)) + 2;
        }
    }
    expr.children().into_iter().map(expr_levels).max().unwrap_or_default() + 2
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::col;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::filter::FilterExec;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// A filter on `(… (a = a) op (a = a) …)` of so many operators, taken in turn.
    fn filter(operators: &[Operator], count: usize) -> Arc<dyn ExecutionPlan> {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Boolean, true)]));
        let column = col("a", &schema).unwrap();
        let mut expr = Arc::clone(&column);
        for operator in operators.iter().cycle().take(count) {
            expr = Arc::new(BinaryExpr::new(expr, *operator, Arc::clone(&column)));
        }
        Arc::new(FilterExec::try_new(expr, Arc::new(EmptyExec::new(schema))).unwrap())
    }

    #[test]
    fn what_executors_cannot_read_is_refused_and_nothing_else() {
        let state = SessionContext::new().state();
        let mixed = [Operator::And, Operator::Or];
        assert!(check_levels(&filter(&[Operator::Or], 1_000), &state).is_ok(), "a chain of one operator is flat");
        assert!(check_levels(&filter(&mixed, 40), &state).is_ok(), "it is tried");
        let error = check_levels(&filter(&mixed, 60), &state).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotSupported, "{error}");
    }
}
