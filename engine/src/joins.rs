//! Joins whose tasks run in different processes.
//!
//! DataFusion plans for one process, where the partitions of a join can share what they know. Across processes two of its
//! plans are wrong, and silently so:
//!
//! - A hash join in mode `CollectLeft` whose type gives rows of the build side (`LEFT`, `FULL`, semi, anti and mark joins of
//!   the left): every task would give them. Ballista's planner makes it `Partitioned` again when it cuts the stages, as it does
//!   with any build side over its broadcast limit; but then the distribution and order that its parents were planned for are
//!   gone: a sort above it reads the first of eight partitions. So the same choice is made here, before distribution is
//!   planned, and nothing is left for Ballista to change.
//! - A nested loop join of such a type with several partitions on its right: it gets one.

use std::sync::Arc;

use ballista_core::config::BallistaConfig;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::JoinType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::ensure_requirements::EnsureRequirements;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};

type Plan = Arc<dyn ExecutionPlan>;

/// DataFusion's physical optimizer rules with ours between them.
pub fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    let after = |rules: &[Arc<dyn PhysicalOptimizerRule + Send + Sync>], name: &str| {
        rules.iter().position(|rule| rule.name() == name).map_or(rules.len(), |index| index + 1)
    };
    // From the back, so that the places stay right.
    let last = after(&rules, "SanityCheckPlan").saturating_sub(1);
    rules.insert(last, Arc::new(DistributedJoins { distribution_is_planned: true }));
    let first = after(&rules, "join_selection");
    rules.insert(first, Arc::new(DistributedJoins { distribution_is_planned: false }));
    rules
}

/// The rule, once right after the joins' modes are chosen, and once at the end for what later rules changed the size of.
#[derive(Debug)]
struct DistributedJoins {
    distribution_is_planned: bool,
}

impl PhysicalOptimizerRule for DistributedJoins {
    fn optimize(&self, plan: Plan, config: &ConfigOptions) -> Result<Plan> {
        let order = plan.output_ordering().cloned();
        let partitioned = plan.transform_up(|node| partition(node, config))?;
        if !self.distribution_is_planned {
            return Ok(partitioned.data);
        }
        let mut plan = partitioned.data;
        if partitioned.transformed {
            if let Some(order) = order {
                plan = Arc::new(SortExec::new(order, plan));
            }
            plan = EnsureRequirements::new().optimize(plan, config)?;
        }
        Ok(plan.transform_up(one_right_partition)?.data)
    }

    fn name(&self) -> &str {
        "distributed_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Makes a join `Partitioned` that Ballista would not broadcast.
fn partition(node: Plan, config: &ConfigOptions) -> Result<Transformed<Plan>> {
    let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
    // NOT IN runs in one task: Ballista sees to that.
    if *join.partition_mode() != PartitionMode::CollectLeft || join.null_aware || is_broadcast(join, config) {
        return Ok(Transformed::no(node));
    }
    let partitioned = join.builder().with_partition_mode(PartitionMode::Partitioned).build_exec()?;
    Ok(Transformed::yes(partitioned))
}

/// Gives a nested loop join that keeps account of its left side one right partition, and so one task.
fn one_right_partition(node: Plan) -> Result<Transformed<Plan>> {
    let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() else { return Ok(Transformed::no(node)) };
    if is_driven_by_the_right(*join.join_type()) || join.right().output_partitioning().partition_count() == 1 {
        return Ok(Transformed::no(node));
    }
    let right = Arc::new(CoalescePartitionsExec::new(Arc::clone(join.right())));
    // The join does not ask for one partition, so Ballista would take the merge out again. A limit, here of none, does ask.
    let right = Arc::new(GlobalLimitExec::new(right, 0, None));
    let children = vec![Arc::clone(join.left()), right as Plan];
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Ok(Transformed::yes(node.replace_children(children, options)?))
}

/// Whether each row of the result comes from one row of the right side, so that tasks with a part of the right side and all
/// of the left give each row once.
fn is_driven_by_the_right(join_type: JoinType) -> bool {
    use JoinType::{Inner, Right, RightAnti, RightMark, RightSemi};
    matches!(join_type, Inner | Right | RightSemi | RightAnti | RightMark)
}

/// Whether Ballista's planner will broadcast the left side: the same test as its own.
fn is_broadcast(join: &HashJoinExec, config: &ConfigOptions) -> bool {
    let ballista = config.extensions.get::<BallistaConfig>();
    let limit = ballista.map_or_else(
        || BallistaConfig::default().broadcast_join_threshold_bytes(),
        |ballista| ballista.broadcast_join_threshold_bytes(),
    );
    is_driven_by_the_right(*join.join_type()) && estimated_bytes(join.left()).is_some_and(|bytes| bytes < limit)
}

/// The size of a plan's result by its statistics; where they only count rows, by the width of the columns.
fn estimated_bytes(plan: &Plan) -> Option<usize> {
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new()).ok()?;
    if let Some(bytes) = statistics.total_byte_size.get_value().filter(|bytes| **bytes != 0) {
        return Some(*bytes);
    }
    let rows = statistics.num_rows.get_value().filter(|rows| **rows != 0)?;
    let width: usize = plan.schema().fields().iter().map(|field| width(field.data_type())).sum();
    Some(rows.saturating_mul(width.max(8)))
}

fn width(data_type: &DataType) -> usize {
    match data_type {
        DataType::Boolean | DataType::Int8 | DataType::UInt8 => 1,
        DataType::Int16 | DataType::UInt16 => 2,
        DataType::Int32 | DataType::UInt32 | DataType::Float32 | DataType::Date32 => 4,
        DataType::Int64 | DataType::UInt64 | DataType::Float64 | DataType::Date64 => 8,
        DataType::Decimal128(..) => 16,
        // decimals of 256 bits; of what varies in length a guess
        _ => 32,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::session::{base_config, state_builder};

    async fn plan(sql: &str) -> String {
        let context =
            SessionContext::new_with_state(state_builder(base_config(8), Arc::new(RuntimeEnv::default())).build());
        for table in ["l", "r"] {
            context.sql(&format!("CREATE TABLE {table} AS VALUES (1, 2), (3, 4)")).await.unwrap();
        }
        let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        displayable(plan.as_ref()).indent(false).to_string()
    }

    #[tokio::test]
    async fn joins_that_give_rows_of_the_left_are_partitioned() {
        for kind in ["LEFT", "FULL"] {
            let sql = format!("SELECT * FROM l {kind} JOIN r ON l.column1 = r.column1 ORDER BY l.column1");
            let text = plan(&sql).await;
            assert!(text.contains("mode=Partitioned"), "{text}");
        }
        let inner = plan("SELECT * FROM l JOIN r ON l.column1 = r.column1 ORDER BY l.column1").await;
        assert!(inner.contains("mode=CollectLeft"), "a small side is broadcast: {inner}");
    }

    #[test]
    fn the_rules_stand_where_they_must() {
        let names: Vec<_> = physical_rules().iter().map(|rule| rule.name().to_string()).collect();
        let place = |name: &str| names.iter().position(|other| other == name).unwrap();
        assert_eq!(place("distributed_joins"), place("join_selection") + 1);
        assert!(place("join_selection") < place("EnsureRequirements"));
        assert_eq!(names.iter().rposition(|name| name == "distributed_joins").unwrap() + 1, place("SanityCheckPlan"));
    }
}
