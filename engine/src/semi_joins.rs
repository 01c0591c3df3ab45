//! Semi joins moved below inner joins.
//!
//! `a JOIN b … WHERE a.k IN (SELECT k FROM … GROUP BY k HAVING …)` is planned as a semi join above all the joins. What the
//! HAVING leaves of the keys is often little, no statistics tell, and every row of the joins below is exchanged and joined in
//! vain. A semi join on columns of one side of an inner join commutes with it, so it goes down to the side it speaks of, as
//! in Spark (`PushLeftSemiLeftAntiThroughJoin`).
//!
//! Only below a HAVING: a plain subquery may keep every key, and joins that keep few rows are then better done first.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Join, JoinType, LogicalPlan, Projection, SubqueryAlias};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// The rule. It stands after those that make joins of subqueries and push filters down.
#[derive(Debug, Default)]
pub struct SemiJoinsDown;

impl OptimizerRule for SemiJoinsDown {
    fn name(&self) -> &str {
        "semi_joins_down"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let moved = match &plan {
            LogicalPlan::Join(semi) if can_move(semi) => {
                let keys = semi.on.iter().map(|(left, _)| left.try_as_col().cloned()).collect::<Option<Vec<_>>>();
                keys.map(|keys| push(&semi.left, &keys, semi)).transpose()?.flatten()
            }
            _ => None,
        };
        Ok(moved.map_or_else(|| Transformed::no(plan), Transformed::yes))
    }
}

fn can_move(join: &Join) -> bool {
    join.join_type == JoinType::LeftSemi && join.filter.is_none() && !join.on.is_empty() && has_having(&join.right)
}

/// Whether groups are filtered at the top of a plan.
fn has_having(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => has_having(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_having(&alias.input),
        LogicalPlan::Filter(filter) => is_aggregate(&filter.input),
        _ => false,
    }
}

fn is_aggregate(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_aggregate(&projection.input),
        LogicalPlan::Aggregate(aggregate) => !aggregate.group_expr.is_empty(),
        _ => false,
    }
}

/// `plan` with the semi join, whose left keys are `keys` there, somewhere below an inner join of it; `None` if it cannot go.
fn push(plan: &Arc<LogicalPlan>, keys: &[Column], semi: &Join) -> Result<Option<LogicalPlan>> {
    match plan.as_ref() {
        LogicalPlan::Projection(projection) => push_through(projection, keys, semi),
        LogicalPlan::SubqueryAlias(alias) => push_through_alias(alias, keys, semi),
        LogicalPlan::Join(inner) if inner.join_type == JoinType::Inner => {
            let (mut left, mut right) = (Arc::clone(&inner.left), Arc::clone(&inner.right));
            let side = match (has_all(&left, keys), has_all(&right, keys)) {
                (true, false) => &mut left,
                (false, true) => &mut right,
                _ => return Ok(None),
            };
            *side = Arc::new(match push(side, keys, semi)? {
                Some(deeper) => deeper,
                None => semi_join(side, keys, semi)?,
            });
            let joined = Join { left, right, ..inner.clone() };
            Ok(Some(LogicalPlan::Join(joined)))
        }
        _ => Ok(None),
    }
}

fn has_all(plan: &LogicalPlan, keys: &[Column]) -> bool {
    keys.iter().all(|key| plan.schema().has_column(key))
}

/// Through a projection that gives the keys on as they are, perhaps under another name.
fn push_through(projection: &Projection, keys: &[Column], semi: &Join) -> Result<Option<LogicalPlan>> {
    let below = keys.iter().map(|key| {
        let index = projection.schema.maybe_index_of_column(key)?;
        projection.expr.get(index)?.clone().unalias().try_as_col().cloned()
    });
    let Some(below) = below.collect::<Option<Vec<_>>>() else { return Ok(None) };
    let Some(input) = push(&projection.input, &below, semi)? else { return Ok(None) };
    let schema = Arc::clone(&projection.schema);
    let projection = Projection::try_new_with_schema(projection.expr.clone(), Arc::new(input), schema)?;
    Ok(Some(LogicalPlan::Projection(projection)))
}

/// Through an alias, which gives every column on in its place.
fn push_through_alias(alias: &SubqueryAlias, keys: &[Column], semi: &Join) -> Result<Option<LogicalPlan>> {
    let below = keys.iter().map(|key| {
        let index = alias.schema.maybe_index_of_column(key)?;
        Some(Column::from(alias.input.schema().qualified_field(index)))
    });
    let Some(below) = below.collect::<Option<Vec<_>>>() else { return Ok(None) };
    let Some(input) = push(&alias.input, &below, semi)? else { return Ok(None) };
    let aliased = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
    Ok(Some(LogicalPlan::SubqueryAlias(aliased)))
}

/// The semi join over another left side.
fn semi_join(left: &Arc<LogicalPlan>, keys: &[Column], semi: &Join) -> Result<LogicalPlan> {
    let on = keys.iter().zip(&semi.on).map(|(key, (_, right))| (Expr::Column(key.clone()), right.clone()));
    let join = Join::try_new(
        Arc::clone(left),
        Arc::clone(&semi.right),
        on.collect(),
        None,
        JoinType::LeftSemi,
        semi.join_constraint,
        semi.null_equality,
        semi.null_aware,
    )?;
    Ok(LogicalPlan::Join(join))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::session::{base_config, optimizer_rules, state_builder};

    /// A session with the rule, or without it.
    async fn session(with: bool) -> SessionContext {
        let rules = optimizer_rules().into_iter().filter(|rule| with || rule.name() != "semi_joins_down");
        let state = state_builder(base_config(2), Arc::new(RuntimeEnv::default()))
            .with_optimizer_rules(rules.collect())
            .build();
        let context = SessionContext::new_with_state(state);
        for table in [
            "CREATE TABLE c AS SELECT * FROM (VALUES (1, 'a'), (2, 'b'), (2, 'bb'), (NULL, 'n')) AS t(ck, name)",
            "CREATE TABLE o AS SELECT * FROM (VALUES (10, 1), (20, 2), (30, 2), (NULL, 1), (40, NULL)) AS t(ok, ck)",
            "CREATE TABLE l AS SELECT * FROM (VALUES (10, 7), (10, 8), (20, 1), (30, 9), (NULL, 99), (50, 50)) AS t(ok, q)",
        ] {
            context.sql(table).await.unwrap().collect().await.unwrap();
        }
        context
    }

    async fn run(context: &SessionContext, sql: &str) -> (String, String) {
        let frame = context.sql(sql).await.unwrap();
        let plan = frame.clone().into_optimized_plan().unwrap().display_indent().to_string();
        (plan, pretty_format_batches(&frame.collect().await.unwrap()).unwrap().to_string())
    }

    /// Whether the semi join lies below an inner join.
    fn is_below(plan: &str) -> bool {
        let line = |what: &str| plan.lines().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{plan}"));
        line("Inner Join") < line("LeftSemi Join")
    }

    #[tokio::test]
    async fn a_semi_join_goes_to_its_side_and_the_answer_stays() {
        let (with, without) = (session(true).await, session(false).await);
        let having = "(SELECT ok FROM l GROUP BY ok HAVING sum(q) > 8)";
        for (sql, moves) in [
            (format!("SELECT name, o.ok, q FROM c, o, l WHERE c.ck = o.ck AND o.ok = l.ok AND o.ok IN {having}"), true),
            (format!("SELECT name, o.ok FROM c JOIN o ON c.ck = o.ck WHERE o.ok IN {having}"), true),
            (
                format!("SELECT * FROM (SELECT name, o.ok AS k FROM c JOIN o ON c.ck = o.ck) AS s WHERE k IN {having}"),
                true,
            ),
            ("SELECT name, o.ok FROM c JOIN o ON c.ck = o.ck WHERE o.ok IN (SELECT ok FROM l)".to_string(), false),
        ] {
            let sql = format!("{sql} ORDER BY 1, 2");
            let ((moved, rows), (plain, expected)) = (run(&with, &sql).await, run(&without, &sql).await);
            assert_eq!(rows, expected, "{sql}\n{moved}");
            assert!(rows.lines().count() > 4, "{sql} finds nothing:\n{rows}");
            assert_eq!((is_below(&moved), is_below(&plain)), (moves, false), "{sql}\n{moved}\n{plain}");
        }
    }

    #[tokio::test]
    async fn what_is_no_filter_of_one_inner_side_stays() {
        let (with, without) = (session(true).await, session(false).await);
        let having = "SELECT ok FROM l GROUP BY ok HAVING sum(q) > 8";
        for sql in [
            format!("SELECT name, o.ok FROM c LEFT JOIN o ON c.ck = o.ck WHERE o.ok IN ({having}) OR o.ok IS NULL"),
            format!("SELECT name, o.ok FROM c JOIN o ON c.ck = o.ck WHERE o.ok NOT IN ({having} AND ok IS NOT NULL)"),
            format!("SELECT name, o.ok FROM c JOIN o ON c.ck = o.ck WHERE o.ok + c.ck IN ({having})"),
        ] {
            let sql = format!("{sql} ORDER BY 1, 2");
            let ((_, rows), (_, expected)) = (run(&with, &sql).await, run(&without, &sql).await);
            assert_eq!(rows, expected, "{sql}");
        }
    }
}
