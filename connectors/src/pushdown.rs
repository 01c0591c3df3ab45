//! Gives operations to the sources whose rows they are done on: groups, top rows, joins inside one source.
//!
//! The rule runs before distribution is planned: a scan that does more has another partitioning than what it takes the place of.
//! A source does the part of an aggregate that is done for each partition ([`AggregateMode::Partial`]); the states are put together
//! here, as those of any partition are, so that it may do so for each split. What stays here says why in EXPLAIN.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, NullEquality, Result};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, PhysicalExpr, ReplaceChildrenOptions};

use crate::operation::{Operation, OrderBy, State, StateOf};
use crate::scan::{SourceScanExec, external};

type Plan = Arc<dyn ExecutionPlan>;

/// More top rows than that are sorted here: each split would bring all of them.
const MOST_TOP_ROWS: usize = 100_000;
/// A source that groups must give at most this part of the rows.
const LEAST_REDUCTION: u64 = 2;
/// The other side of a join is read anew in each split: a larger one makes it one split.
const SMALL_SIDE: u64 = 50_000;

/// The name of the rule.
pub const PUSH_INTO_SOURCES: &str = "push_into_sources";

/// The rule. See the module.
#[derive(Debug, Default)]
pub struct PushIntoSources;

impl PhysicalOptimizerRule for PushIntoSources {
    fn optimize(&self, plan: Plan, _config: &ConfigOptions) -> Result<Plan> {
        Ok(plan.transform_up(push)?.data)
    }

    fn name(&self) -> &str {
        PUSH_INTO_SOURCES
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn push(node: Plan) -> Result<Transformed<Plan>> {
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        return group(&node, aggregate);
    }
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        return first(&node, sort);
    }
    match node.downcast_ref::<HashJoinExec>() {
        Some(hash_join) => join(&node, hash_join),
        None => Ok(Transformed::no(node)),
    }
}

/// A scan, also below projections of nothing but columns, and the place of each of the plan's columns in it.
struct Below<'a> {
    scan: &'a SourceScanExec,
    columns: Vec<usize>,
}

impl<'a> Below<'a> {
    fn of(plan: &'a Plan) -> Option<Self> {
        if let Some(scan) = plan.downcast_ref::<SourceScanExec>() {
            let columns = (0..scan.scan().schema().fields().len()).collect();
            return Some(Self { scan, columns });
        }
        let projection = plan.downcast_ref::<ProjectionExec>()?;
        let Self { scan, columns } = Self::of(projection.input())?;
        let place = |expr: &Arc<dyn PhysicalExpr>| columns.get(expr.downcast_ref::<Column>()?.index()).copied();
        let columns = projection.expr().iter().map(|projected| place(&projected.expr)).collect::<Option<_>>()?;
        Some(Self { scan, columns })
    }

    fn column(&self, expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
        self.columns.get(expr.downcast_ref::<Column>()?.index()).copied()
    }
}

/// The node as it was, over a scan that says why.
fn kept(node: &Plan, what: &str, reason: &str) -> Result<Transformed<Plan>> {
    let children = node.children().into_iter().map(|child| match Below::of(child) {
        Some(below) => {
            let noted = below.scan.with_kept_here(format!("{what}: {reason}"));
            with_scan_below(child, noted)
        }
        None => Ok(Arc::clone(child)),
    });
    let children = children.collect::<Result<Vec<_>>>()?;
    Ok(Transformed::yes(over(node, children)?))
}

fn over(plan: &Plan, children: Vec<Plan>) -> Result<Plan> {
    Arc::clone(plan).replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// The plan, which [`Below`] sees through, with another scan at its end.
fn with_scan_below(plan: &Plan, scan: SourceScanExec) -> Result<Plan> {
    match plan.downcast_ref::<ProjectionExec>() {
        Some(projection) => over(plan, vec![with_scan_below(projection.input(), scan)?]),
        None => Ok(Arc::new(scan)),
    }
}

fn group(node: &Plan, aggregate: &AggregateExec) -> Result<Transformed<Plan>> {
    let Some(below) = Below::of(aggregate.input()).filter(|_| *aggregate.mode() == AggregateMode::Partial) else {
        return Ok(Transformed::no(Arc::clone(node)));
    };
    match grouped(aggregate, &below) {
        Ok(scan) => Ok(Transformed::yes(with_types(Arc::new(scan), &aggregate.schema())?)),
        Err(reason) => kept(node, "aggregate", &reason),
    }
}

fn grouped(aggregate: &AggregateExec, below: &Below<'_>) -> std::result::Result<SourceScanExec, String> {
    let groups = aggregate.group_expr();
    if groups.has_grouping_set() || aggregate.limit_options().is_some() {
        return Err("only plain groups are asked of a source".to_string());
    }
    let by = groups.expr().iter().map(|(expr, _)| below.column(expr));
    let by: Vec<usize> = by.collect::<Option<_>>().ok_or("it groups by an expression")?;
    if aggregate.filter_expr().iter().any(Option::is_some) {
        return Err("an aggregate has a filter".to_string());
    }
    let mut states = Vec::new();
    for function in aggregate.aggr_expr() {
        states.extend(states_of(function, below)?);
    }
    let estimate = below.scan.scan().estimate();
    if let (Some(rows), Some(count)) = (estimate.rows, estimate.groups(&by))
        && !by.is_empty()
        && count.saturating_mul(LEAST_REDUCTION) > rows
    {
        return Err(format!("about {count} groups of {rows} rows"));
    }
    let pushed = below.scan.scan().push(&Operation::Group { by: &by, states: &states })?;
    Ok(below.scan.with_scan(pushed))
}

/// The states of a function, as DataFusion's partial aggregate gives them.
fn states_of(function: &AggregateFunctionExpr, below: &Below<'_>) -> std::result::Result<Vec<State>, String> {
    let name = function.fun().name();
    if function.is_distinct() || function.ignore_nulls() || !function.order_bys().is_empty() {
        return Err(format!("{name} has DISTINCT, ORDER BY or IGNORE NULLS"));
    }
    let fields = function.state_fields().map_err(|error| error.to_string())?;
    let expressions = function.expressions();
    let [argument] = expressions.as_slice() else { return Err(format!("{name} is not asked of a source")) };
    let is_constant = argument.downcast_ref::<Literal>().is_some_and(|literal| !literal.value().is_null());
    let column = || argument_column(argument, below).ok_or(format!("{name} is of an expression"));
    let of = match name {
        "count" if is_constant => vec![StateOf::Rows],
        "count" => vec![StateOf::Count(column()?)],
        "sum" => vec![StateOf::Sum(column()?)],
        "min" => vec![StateOf::Min(column()?)],
        "max" => vec![StateOf::Max(column()?)],
        "avg" => vec![StateOf::CountOrNull(column()?), StateOf::Sum(column()?)],
        _ => return Err(format!("{name} is not asked of a source")),
    };
    if of.len() != fields.len() {
        return Err(format!("{name} has other states than are known"));
    }
    Ok(of.into_iter().zip(fields).map(|(of, field)| State { of, field }).collect())
}

/// The column that is aggregated, also where whole numbers are made wider first.
fn argument_column(argument: &Arc<dyn PhysicalExpr>, below: &Below<'_>) -> Option<usize> {
    let Some(cast) = argument.downcast_ref::<CastExpr>() else { return below.column(argument) };
    let column = below.column(cast.expr())?;
    let schema = below.scan.scan().schema();
    let (of, wider) = (schema.field(column).data_type(), cast.cast_type());
    let is_wider = match (of.is_signed_integer(), of.is_unsigned_integer()) {
        (true, _) => wider.is_signed_integer() && of.primitive_width() <= wider.primitive_width(),
        (_, true) => wider.is_unsigned_integer() && of.primitive_width() <= wider.primitive_width(),
        _ => false,
    };
    (is_wider || (of.is_integer() && *wider == DataType::Float64)).then_some(column)
}

/// The plan with the names and types of `schema`.
fn with_types(plan: Plan, schema: &Schema) -> Result<Plan> {
    let given = plan.schema();
    let typed = |(place, (given, field)): (usize, (&FieldRef, &FieldRef))| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(given.name(), place));
        let expr = match given.data_type() == field.data_type() {
            true => column,
            false => {
                let target = Field::new(field.name(), field.data_type().clone(), field.is_nullable());
                Arc::new(CastExpr::new_with_target_field(column, Arc::new(target), None)) as Arc<dyn PhysicalExpr>
            }
        };
        (expr, field.name().clone())
    };
    let exprs: Vec<_> = given.fields().iter().zip(schema.fields()).enumerate().map(typed).collect();
    Ok(Arc::new(ProjectionExec::try_new(exprs, plan)?))
}

/// The sort stays: each split gives its first rows in any order.
fn first(node: &Plan, sort: &SortExec) -> Result<Transformed<Plan>> {
    let (Some(below), Some(rows)) = (Below::of(sort.input()), sort.fetch()) else {
        return Ok(Transformed::no(Arc::clone(node)));
    };
    if rows > MOST_TOP_ROWS {
        return kept(node, "top rows", "they are too many");
    }
    let key = |key: &datafusion::physical_expr::PhysicalSortExpr| {
        let column = below.column(&key.expr)?;
        Some(OrderBy { column, descending: key.options.descending, nulls_first: key.options.nulls_first })
    };
    let Some(order) = sort.expr().iter().map(key).collect::<Option<Vec<_>>>() else {
        return kept(node, "top rows", "they are ordered by an expression");
    };
    let operation = Operation::First { order: &order, rows: rows as u64 };
    match below.scan.scan().push(&operation) {
        Ok(scan) => {
            let input = with_scan_below(sort.input(), below.scan.with_scan(scan))?;
            Ok(Transformed::yes(over(node, vec![input])?))
        }
        Err(reason) => kept(node, "top rows", &reason),
    }
}

fn join(node: &Plan, join: &HashJoinExec) -> Result<Transformed<Plan>> {
    let (Some(left), Some(right)) = (Below::of(join.left()), Below::of(join.right())) else {
        return Ok(Transformed::no(Arc::clone(node)));
    };
    if left.scan.scan().catalog() != right.scan.scan().catalog() {
        return Ok(Transformed::no(Arc::clone(node)));
    }
    match joined(join, &left, &right) {
        Ok(plan) => Ok(Transformed::yes(plan.map_err(external)?)),
        Err(reason) => kept(node, "join", &reason),
    }
}

/// The larger side is read in splits, and joined in each with all of the other.
fn joined(
    join: &HashJoinExec,
    left: &Below<'_>,
    right: &Below<'_>,
) -> std::result::Result<townlake_common::Result<Plan>, String> {
    if *join.join_type() != JoinType::Inner || join.filter().is_some() {
        return Err("only plain inner joins are asked of a source".to_string());
    }
    if join.null_equality() == NullEquality::NullEqualsNull {
        return Err("NULL equals NULL".to_string());
    }
    let on = join.on().iter().map(|(l, r)| Some((left.column(l)?, right.column(r)?)));
    let on: Vec<(usize, usize)> = on.collect::<Option<_>>().ok_or("it compares expressions")?;
    let (rows_left, rows_right) = (rows(left), rows(right));
    is_worth_it(left, right, &on)?;
    let left_is_larger = rows_left >= rows_right;
    let (outer, inner, pairs) = match left_is_larger {
        true => (left, right, on),
        false => (right, left, on.into_iter().map(|(l, r)| (r, l)).collect()),
    };
    let pushed = outer.scan.scan().push(&Operation::Join { right: inner.scan.scan(), on: &pairs })?;
    let is_small = rows_left.zip(rows_right).is_some_and(|(l, r)| l.min(r) <= SMALL_SIDE);
    let scan = match is_small || outer.scan.split_count() == 1 {
        true => Ok(outer.scan.with_scan(pushed)),
        false => outer.scan.whole(pushed),
    };
    // Back to the columns of the join: left, then right, then what of them is wanted.
    let width = outer.scan.scan().schema().fields().len();
    let place = |side_is_outer: bool, column: usize| if side_is_outer { column } else { width + column };
    let of_left = left.columns.iter().map(|column| place(left_is_larger, *column));
    let of_right = right.columns.iter().map(|column| place(!left_is_larger, *column));
    let all: Vec<usize> = of_left.chain(of_right).collect();
    let wanted: Vec<usize> = match &join.projection {
        Some(projection) => projection.iter().filter_map(|place| all.get(*place).copied()).collect(),
        None => all,
    };
    Ok(scan.and_then(|scan| {
        let scan: Plan = Arc::new(scan);
        let given = scan.schema();
        let schema = join.schema();
        let named = wanted.iter().zip(schema.fields()).map(|(place, field)| {
            let column = Column::new(given.field(*place).name(), *place);
            (Arc::new(column) as Arc<dyn PhysicalExpr>, field.name().clone())
        });
        let projection = ProjectionExec::try_new(named.collect::<Vec<_>>(), scan);
        let projection = projection
            .map_err(|error| townlake_common::Error::internal("a join cannot be planned").with_source(error))?;
        Ok(Arc::new(projection) as Plan)
    }))
}

fn rows(below: &Below<'_>) -> Option<u64> {
    below.scan.scan().estimate().rows
}

/// A join is done where its rows are when fewer rows come out than would come to us without it.
fn is_worth_it(left: &Below<'_>, right: &Below<'_>, on: &[(usize, usize)]) -> std::result::Result<(), String> {
    let (Some(rows_left), Some(rows_right)) = (rows(left), rows(right)) else {
        return Err("nothing is known of the size of its sides".to_string());
    };
    let Some(result) = left.scan.scan().estimate().joined_rows(right.scan.scan().estimate(), on) else {
        return Err("nothing is known of the values that it compares".to_string());
    };
    match result > rows_left.saturating_add(rows_right) {
        true => Err(format!("about {result} rows of {rows_left} and {rows_right}")),
        false => Ok(()),
    }
}
