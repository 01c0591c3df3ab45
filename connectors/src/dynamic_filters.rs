//! Dynamic filters: the keys of the small side of a join go into the scan on the other side, as a list or as a range. A source filters by them; a scan
//! of files, where it is large, leaves out files, row groups and pages that hold none of them.
//!
//! The small side is run once for its keys before the query begins, and again in the query. So it must be cheap, and give the same rows both
//! times: only nodes and functions that do are let through, and sources that are read at a pinned moment. It is an optimisation only: what
//! takes too long, or has too many rows, is given up, and errors are left for the query to find.
//!
//! A row of the scan may go where no row of the other side has its key, if the join drops it then ([`drops`]).

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{JoinSide, JoinType, NullEquality, Result as DFResult, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{CastExpr, Column, binary, in_list, lit};
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, PhysicalExpr, ReplaceChildrenOptions};
use futures::StreamExt;
use townlake_common::Result;

use crate::SourceConnections;
use crate::operation::Operation;
use crate::scan::SourceScanExec;

type Plan = Arc<dyn ExecutionPlan>;

/// A scan of fewer rows is read as it is.
const LEAST_ROWS: u64 = 10_000;
/// Files of fewer bytes are read as they are.
const LEAST_BYTES: u64 = 128 << 20;
/// Row groups are pruned by a list of so many values, and by the range of more.
const PRUNED_BY: usize = 20;
/// The small side: so many rows of sources, so many bytes of files.
const SMALL_ROWS: u64 = 20_000;
const SMALL_BYTES: u64 = 32 << 20;
/// More rows than that are not looked at.
const MOST_KEYS_READ: usize = 200_000;
/// Above that a list becomes a range; below it where the source does not take so long a one.
const LONGEST_LIST: usize = 50_000;
/// How long the keys are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs a plan in this process.
#[async_trait]
pub trait RunPlan: Send + Sync {
    /// The rows of all its partitions.
    async fn run(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream>;

    /// The sources of this process.
    fn connections(&self) -> Option<Arc<SourceConnections>>;
}

/// The plan whose scans of sources have the keys of their joins in them, and how many scans do.
pub async fn with_dynamic_filters(plan: Plan, run: &dyn RunPlan) -> (Plan, usize) {
    if !reads_a_source(&plan) {
        return (plan, 0);
    }
    let mut count = 0;
    let filtered = filtered(Arc::clone(&plan), run, &mut count).await;
    match filtered {
        Some(filtered) => (filtered, count),
        None => (plan, 0),
    }
}

async fn filtered(plan: Plan, run: &dyn RunPlan, count: &mut usize) -> Option<Plan> {
    let mut children: Vec<Plan> = Vec::new();
    for child in plan.children() {
        children.push(Box::pin(filtered(Arc::clone(child), run, count)).await?);
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        for side in [JoinSide::Left, JoinSide::Right] {
            let (scanned, other) = if side == JoinSide::Left { (0, 1) } else { (1, 0) };
            let (Some(scan_side), Some(key_side)) = (children.get(scanned), children.get(other)) else { continue };
            if let Some(new) = filter_side(join, side, scan_side, key_side, run).await
                && let Some(place) = children.get_mut(scanned)
            {
                *place = new;
                *count += 1;
            }
        }
    }
    let is_same = plan.children().into_iter().zip(&children).all(|(before, after)| Arc::ptr_eq(before, after));
    if is_same { Some(plan) } else { over(&plan, children).ok() }
}

fn reads_a_source(plan: &Plan) -> bool {
    plan.is::<SourceScanExec>() || plan.children().into_iter().any(reads_a_source)
}

/// Whether the join gives no row for a row of this side that finds none on the other.
fn drops(join_type: JoinType, side: JoinSide) -> bool {
    match join_type {
        JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => true,
        JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => side == JoinSide::Right,
        JoinType::Right | JoinType::RightAnti | JoinType::RightMark => side == JoinSide::Left,
        JoinType::Full => false,
    }
}

/// The side with the keys of the other in its scan; `None`: it stays.
async fn filter_side(
    join: &HashJoinExec,
    side: JoinSide,
    scan_side: &Plan,
    key_side: &Plan,
    run: &dyn RunPlan,
) -> Option<Plan> {
    let is_plain = join.null_equality() == NullEquality::NullEqualsNothing && !join.null_aware;
    if !is_plain || !drops(*join.join_type(), side) {
        return None;
    }
    let pairs =
        join.on().iter().map(|(left, right)| if side == JoinSide::Left { (left, right) } else { (right, left) });
    let pairs = pairs.filter_map(|(scanned, key)| Some((column_of_scan(scan_side, scanned)?, key)));
    let pairs: Vec<(usize, &Arc<dyn PhysicalExpr>)> = pairs.collect();
    let (leaf, scan) = scan_below(scan_side)?;
    if pairs.is_empty() || !scan.is_large() || !Small::of(key_side) || pairs.iter().any(|(_, key)| is_volatile(key)) {
        return None;
    }
    let exprs: Vec<_> =
        pairs.iter().enumerate().map(|(place, (_, key))| (Arc::clone(key), format!("key{place}"))).collect();
    // A plan of its own: nodes keep what they have run, and a scan that has given its files away gives none the second time.
    let fresh = reset_plan_states(Arc::clone(key_side)).ok()?;
    let keys = ProjectionExec::try_new(exprs, fresh).ok()?;
    let read = tokio::time::timeout(PATIENCE, read_keys(Arc::new(keys), pairs.len(), run));
    let keys = read.await.ok().flatten()?;
    let schema = leaf.schema();
    let wanted = pairs.iter().zip(keys);
    let wanted =
        wanted.filter_map(|((column, _), keys)| Some((*column, keys.wanted(schema.field(*column).data_type())?)));
    let wanted: Vec<(usize, Wanted)> = wanted.collect();
    let filtered = match scan {
        Scan::Source(scan) => Arc::new(replanned(source_with_keys(scan, &wanted)?, run).await?) as Plan,
        Scan::Files(files) => files_with_keys(files, &wanted, &schema)?,
    };
    replace_scan(scan_side, filtered).ok()
}

/// What takes keys.
enum Scan<'a> {
    Source(&'a SourceScanExec),
    Files(&'a FileScanConfig),
}

impl<'a> Scan<'a> {
    fn of(plan: &'a Plan) -> Option<Self> {
        if let Some(scan) = plan.downcast_ref::<SourceScanExec>() {
            return Some(Self::Source(scan));
        }
        let files = plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()?;
        files.limit.is_none().then_some(Self::Files(files))
    }

    /// Whether it is worth to look for keys first.
    fn is_large(&self) -> bool {
        match self {
            Self::Source(scan) => scan.scan().estimate().rows.is_none_or(|rows| rows >= LEAST_ROWS),
            Self::Files(files) => bytes(files) >= LEAST_BYTES,
        }
    }
}

fn bytes(files: &FileScanConfig) -> u64 {
    files.file_groups.iter().flat_map(|group| group.iter()).map(|file| file.effective_size()).sum()
}

/// The scan that reads what the source gives of these keys; `None`: it takes none of them.
fn source_with_keys(scan: &SourceScanExec, wanted: &[(usize, Wanted)]) -> Option<SourceScanExec> {
    let mut pushed = Arc::clone(scan.scan());
    let mut any = false;
    for (column, wanted) in wanted {
        let between = |low, high| pushed.push(&Operation::Between { column: *column, low, high });
        let next = match wanted {
            Wanted::Among(values) => {
                let among = pushed.push(&Operation::Among { column: *column, values });
                match (values.first(), values.last()) {
                    (Some(low), Some(high)) if among.is_err() => between(low, high),
                    _ => among,
                }
            }
            Wanted::Between(low, high) => between(low, high),
        };
        if let Ok(next) = next {
            (pushed, any) = (next, true);
        }
    }
    any.then(|| scan.with_scan(pushed))
}

/// The scan with splits anew, where its source needs that.
async fn replanned(scan: SourceScanExec, run: &dyn RunPlan) -> Option<SourceScanExec> {
    let connections = run.connections()?;
    let anew = tokio::time::timeout(PATIENCE, scan.scan().replan(&connections, scan.split_count()));
    Some(anew.await.ok()?.ok()?.unwrap_or(scan))
}

/// The scan of files with the keys in the condition that it prunes by: a short list, else the range.
fn files_with_keys(files: &FileScanConfig, wanted: &[(usize, Wanted)], schema: &SchemaRef) -> Option<Plan> {
    let condition = |(place, wanted): &(usize, Wanted)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(schema.field(*place).name(), *place));
        let between = |low: &ScalarValue, high: &ScalarValue| {
            let least = binary(Arc::clone(&column), Operator::GtEq, lit(low.clone()), schema).ok()?;
            let greatest = binary(Arc::clone(&column), Operator::LtEq, lit(high.clone()), schema).ok()?;
            binary(least, Operator::And, greatest, schema).ok()
        };
        match wanted {
            Wanted::Between(low, high) => between(low, high),
            Wanted::Among(values) if values.len() <= PRUNED_BY => {
                let list = values.iter().cloned().map(lit).collect();
                in_list(Arc::clone(&column), list, &false, schema).ok().filter(|_| !values.is_empty())
            }
            Wanted::Among(values) => between(values.first()?, values.last()?),
        }
    };
    let conditions: Vec<_> = wanted.iter().filter_map(condition).collect();
    if conditions.is_empty() {
        return None;
    }
    let pushed = files.try_pushdown_filters(conditions, &ConfigOptions::default()).ok()?;
    pushed.updated_node.map(|node| Arc::new(DataSourceExec::new(node)) as Plan)
}

/// The scan below nodes that give its rows on, each or some of them.
fn scan_below(plan: &Plan) -> Option<(&Plan, Scan<'_>)> {
    match Scan::of(plan) {
        Some(scan) => Some((plan, scan)),
        None => passes(plan).then(|| plan.children().into_iter().next()).flatten().and_then(scan_below),
    }
}

/// Whether a node gives on rows of its one child, whichever others there are.
fn passes(plan: &Plan) -> bool {
    let is_known = plan.is::<RepartitionExec>()
        || plan.is::<CoalescePartitionsExec>()
        || plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>();
    is_known && plan.fetch().is_none()
}

/// The scan's column that an expression over the plan is, but for casts that leave its values what they are.
fn column_of_scan(plan: &Plan, expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        let from = cast.expr().data_type(plan.schema().as_ref()).ok()?;
        return if is_widening(&from, cast.cast_type()) { column_of_scan(plan, cast.expr()) } else { None };
    }
    let place = expr.downcast_ref::<Column>()?.index();
    if Scan::of(plan).is_some() {
        return Some(place);
    }
    if !passes(plan) {
        return None;
    }
    let child = plan.children().into_iter().next()?;
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        return column_of_scan(child, &projection.expr().get(place)?.expr);
    }
    let place = match plan.downcast_ref::<FilterExec>().and_then(|filter| filter.projection().as_ref()) {
        Some(projection) => *projection.get(place)?,
        None => place,
    };
    let name = child.schema().fields().get(place)?.name().clone();
    column_of_scan(child, &(Arc::new(Column::new(&name, place)) as Arc<dyn PhysicalExpr>))
}

/// Whether different values stay different, and each is again what it was when it is cast back.
fn is_widening(from: &DataType, to: &DataType) -> bool {
    let is_text = |of: &DataType| matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match (from, to) {
        (from, to) if from == to => true,
        (from, to) if from.is_signed_integer() && to.is_signed_integer() => {
            from.primitive_width() <= to.primitive_width()
        }
        (DataType::Decimal128(p, s), DataType::Decimal128(wider, same)) => s == same && p <= wider,
        (from, to) => is_text(from) && is_text(to),
    }
}

/// The key as a value of the scan's column; `None`: no row has it.
fn as_column(key: &ScalarValue, of: &DataType) -> Option<ScalarValue> {
    let value = key.cast_to(of).ok()?;
    (value.cast_to(&key.data_type()).ok()? == *key).then_some(value)
}

fn replace_scan(plan: &Plan, scan: Plan) -> DFResult<Plan> {
    match Scan::of(plan) {
        Some(_) => Ok(scan),
        None => match plan.children().into_iter().next() {
            Some(child) => over(plan, vec![replace_scan(child, scan)?]),
            None => Ok(Arc::clone(plan)),
        },
    }
}

fn over(plan: &Plan, children: Vec<Plan>) -> DFResult<Plan> {
    Arc::clone(plan).replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// What a plan reads, if it is small and gives the same rows each time.
#[derive(Default)]
struct Small {
    rows: u64,
    bytes: u64,
}

impl Small {
    fn of(plan: &Plan) -> bool {
        let mut small = Self::default();
        small.add(plan) && small.rows <= SMALL_ROWS && small.bytes <= SMALL_BYTES
    }

    fn add(&mut self, plan: &Plan) -> bool {
        if plan.fetch().is_some() || has_volatile(plan) {
            return false;
        }
        if let Some(scan) = plan.downcast_ref::<SourceScanExec>() {
            let rows = scan.scan().estimate().rows;
            self.rows = self.rows.saturating_add(rows.unwrap_or(u64::MAX));
            return scan.scan().gives_the_same_again();
        }
        if let Some(files) = plan.downcast_ref::<DataSourceExec>() {
            let Some(files) = files.data_source().downcast_ref::<FileScanConfig>() else { return false };
            self.bytes = self.bytes.saturating_add(bytes(files));
            return files.limit.is_none();
        }
        let is_distinct = plan.downcast_ref::<AggregateExec>().is_some_and(|node| node.aggr_expr().is_empty());
        let is_known = passes(plan) || plan.is::<HashJoinExec>() || is_distinct;
        is_known && plan.children().into_iter().all(|child| self.add(child))
    }
}

fn has_volatile(plan: &Plan) -> bool {
    let mut found = false;
    let looked = plan.apply_expressions(&mut |expr| {
        found |= is_volatile(expr);
        Ok(TreeNodeRecursion::Continue)
    });
    found || looked.is_err()
}

/// The keys of one column.
#[derive(Default)]
struct Keys {
    values: HashSet<ScalarValue>,
    /// Where there are too many values.
    range: Option<(ScalarValue, ScalarValue)>,
}

enum Wanted {
    Among(Vec<ScalarValue>),
    Between(ScalarValue, ScalarValue),
}

/// The keys of each column; `None`: too many rows, or an error, which the query will find as well.
async fn read_keys(plan: Plan, columns: usize, run: &dyn RunPlan) -> Option<Vec<Keys>> {
    let mut rows = run.run(plan).await.ok()?;
    let mut keys: Vec<Keys> = (0..columns).map(|_| Keys::default()).collect();
    let mut read = 0;
    while let Some(batch) = rows.next().await {
        let batch = batch.ok()?;
        read += batch.num_rows();
        if read > MOST_KEYS_READ {
            return None;
        }
        for (keys, column) in keys.iter_mut().zip(batch.columns()) {
            keys.add(column)?;
        }
    }
    Some(keys)
}

impl Keys {
    fn add(&mut self, column: &ArrayRef) -> Option<()> {
        for row in 0..column.len() {
            // NULL equals nothing.
            if column.is_null(row) {
                continue;
            }
            let value = ScalarValue::try_from_array(column, row).ok()?;
            match &mut self.range {
                Some((low, high)) => {
                    if value < *low {
                        *low = value.clone();
                    }
                    if value > *high {
                        *high = value;
                    }
                }
                None => {
                    self.values.insert(value);
                    if self.values.len() > LONGEST_LIST {
                        let values = std::mem::take(&mut self.values);
                        let least = values.iter().reduce(|a, b| if b < a { b } else { a })?.clone();
                        let greatest = values.iter().reduce(|a, b| if b > a { b } else { a })?.clone();
                        self.range = Some((least, greatest));
                    }
                }
            }
        }
        Some(())
    }

    /// What the scan is asked for, in the type of its column; `None` where that cannot be said.
    fn wanted(self, of: &DataType) -> Option<Wanted> {
        Some(match self.range {
            Some((low, high)) => Wanted::Between(as_column(&low, of)?, as_column(&high, of)?),
            None => {
                let mut values: Vec<_> = self.values.iter().filter_map(|key| as_column(key, of)).collect();
                values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
                Wanted::Among(values)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch};
    use datafusion::parquet::arrow::ArrowWriter;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn keys_prune_files() {
        let folder = tempfile::tempdir().unwrap();
        for (name, first) in [("a", 0), ("b", 1000)] {
            let numbers: Int64Array = (first..first + 1000).collect();
            let batch =
                RecordBatch::try_from_iter([("x", Arc::new(numbers.clone()) as ArrayRef), ("n", Arc::new(numbers))]);
            let batch = batch.unwrap();
            let file = std::fs::File::create(folder.path().join(format!("{name}.parquet"))).unwrap();
            let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
        }
        let session = SessionContext::new();
        session.register_parquet("t", folder.path().display().to_string(), Default::default()).await.unwrap();
        let plan = session.sql("SELECT n FROM t").await.unwrap().create_physical_plan().await.unwrap();
        let (leaf, scan) = scan_below(&plan).unwrap();
        assert!(!scan.is_large());
        let Scan::Files(files) = scan else { panic!("no files") };
        let value = |value: i64| ScalarValue::Int64(Some(value));
        for (wanted, rows) in [
            (Wanted::Among(vec![value(5)]), 1000),
            (Wanted::Between(value(1500), value(1700)), 1000),
            (Wanted::Among((0..50).map(|n| value(n * 40)).collect()), 2000),
            (Wanted::Between(value(5000), value(6000)), 0),
        ] {
            let pruned = files_with_keys(files, &[(0, wanted)], &leaf.schema()).unwrap();
            let text = displayable(pruned.as_ref()).indent(false).to_string();
            assert!(text.contains("predicate="), "{text}");
            let found = datafusion::physical_plan::collect(pruned, session.task_ctx()).await.unwrap();
            assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), rows, "{text}");
        }
        assert!(files_with_keys(files, &[(0, Wanted::Among(Vec::new()))], &leaf.schema()).is_none());
    }
}
