//! Which partitions, offsets and times a filter leaves.
//!
//! A filter becomes, per partition, bounds that every row of it that can pass lies in: `=`, `<`, `<=`, `>`, `>=`, `BETWEEN` and
//! `IN` of `_partition`, `_offset` and `_timestamp` with constants, and `AND` and `OR` of filters. Whatever else a filter says
//! bounds nothing. All filters are applied to the rows again: bounds only spare reading.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// Deepest nesting that is looked into.
const DEPTH_LIMIT: usize = 64;

/// A range of integers, its end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub start: i64,
    pub end: i64,
}

impl Range {
    /// Everything that Kafka counts: −1 stands for "no timestamp".
    pub const ALL: Self = Self { start: i64::MIN, end: i64::MAX };

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// What is in both.
    pub fn and(self, other: Self) -> Self {
        Self { start: self.start.max(other.start), end: self.end.min(other.end) }
    }

    /// The smallest range around both.
    fn around(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// Where the rows of a partition lie that can pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub offsets: Range,
    /// In milliseconds since 1970.
    pub times: Range,
}

impl Bounds {
    /// No bounds.
    pub const NONE: Self = Self { offsets: Range::ALL, times: Range::ALL };
}

/// The bounds of a partition under filters that all hold; `None` when no row of it can pass.
pub(crate) fn bounds(filters: &[Expr], partition: i32) -> Option<Bounds> {
    filters.iter().try_fold(Bounds::NONE, |sum, filter| and(sum, of(filter, partition, 0)?))
}

/// Whether a filter bounds anything: what EXPLAIN tells of.
pub(crate) fn is_used(filter: &Expr) -> bool {
    [-1, 0, i32::MAX].iter().any(|partition| of(filter, *partition, 0) != Some(Bounds::NONE))
}

fn and(left: Bounds, right: Bounds) -> Option<Bounds> {
    let both = Bounds { offsets: left.offsets.and(right.offsets), times: left.times.and(right.times) };
    (!both.offsets.is_empty() && !both.times.is_empty()).then_some(both)
}

fn or(left: Option<Bounds>, right: Option<Bounds>) -> Option<Bounds> {
    match (left, right) {
        (Some(left), Some(right)) => {
            Some(Bounds { offsets: left.offsets.around(right.offsets), times: left.times.around(right.times) })
        }
        (left, right) => left.or(right),
    }
}

fn of(filter: &Expr, partition: i32, depth: usize) -> Option<Bounds> {
    if depth > DEPTH_LIMIT {
        return Some(Bounds::NONE);
    }
    let deeper = |inner: &Expr| of(inner, partition, depth + 1);
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => and(deeper(left)?, deeper(right)?),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => or(deeper(left), deeper(right)),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (column(left), column(right)) {
            (Some(column), None) => comparison(column, *op, right, partition),
            (None, Some(column)) => op.swap().map_or(Some(Bounds::NONE), |op| comparison(column, op, left, partition)),
            _ => Some(Bounds::NONE),
        },
        Expr::Between(between) if !between.negated => match column(&between.expr) {
            Some(column) => and(
                comparison(column, Operator::GtEq, &between.low, partition)?,
                comparison(column, Operator::LtEq, &between.high, partition)?,
            ),
            None => Some(Bounds::NONE),
        },
        Expr::InList(list) if !list.negated => match column(&list.expr) {
            Some(column) => {
                list.list.iter().map(|value| comparison(column, Operator::Eq, value, partition)).fold(None, or)
            }
            None => Some(Bounds::NONE),
        },
        Expr::Literal(ScalarValue::Boolean(Some(false)), _) => None,
        _ => Some(Bounds::NONE),
    }
}

/// The columns that bound something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Partition,
    Offset,
    Timestamp,
}

fn column(expr: &Expr) -> Option<Place> {
    match expr {
        Expr::Column(column) => match column.name.as_str() {
            "_partition" => Some(Place::Partition),
            "_offset" => Some(Place::Offset),
            "_timestamp" => Some(Place::Timestamp),
            _ => None,
        },
        // A wider integer holds the same number.
        Expr::Cast(cast) if cast.field.data_type().is_signed_integer() => match cast.expr.as_ref() {
            Expr::Column(column)
                if column.name == "_partition" && cast.field.data_type().primitive_width() >= Some(4) =>
            {
                Some(Place::Partition)
            }
            _ => None,
        },
        _ => None,
    }
}

/// The bounds of `column op constant`.
fn comparison(column: Place, op: Operator, constant: &Expr, partition: i32) -> Option<Bounds> {
    let Expr::Literal(value, _) = constant else { return Some(Bounds::NONE) };
    let is_comparison = matches!(op, Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq);
    if value.is_null() && is_comparison {
        return None; // a comparison with NULL is never true
    }
    match column {
        Place::Partition => {
            let range = integer(value).and_then(|value| range(op, value, value));
            let passes = range.is_none_or(|range| (range.start..range.end).contains(&i64::from(partition)));
            passes.then_some(Bounds::NONE)
        }
        Place::Offset => {
            let range = integer(value).and_then(|value| range(op, value, value));
            and(Bounds::NONE, Bounds { offsets: range.unwrap_or(Range::ALL), ..Bounds::NONE })
        }
        Place::Timestamp => {
            // A record's time is whole milliseconds: the least that is not before the constant, the most that is not after.
            let range = millis(value).and_then(|(floor, ceiling)| range(op, floor, ceiling));
            and(Bounds::NONE, Bounds { times: range.unwrap_or(Range::ALL), ..Bounds::NONE })
        }
    }
}

/// The integers that compare so with a number between `floor` and `ceiling`; `None` when the operator bounds nothing.
fn range(op: Operator, floor: i64, ceiling: i64) -> Option<Range> {
    let after = |value: i64| value.saturating_add(1);
    let range = match op {
        Operator::Eq if floor != ceiling => Range { start: 0, end: 0 },
        Operator::Eq => Range { start: floor, end: after(floor) },
        Operator::Lt => Range { end: ceiling, ..Range::ALL },
        Operator::LtEq => Range { end: after(floor), ..Range::ALL },
        Operator::Gt => Range { start: after(floor), ..Range::ALL },
        Operator::GtEq => Range { start: ceiling, ..Range::ALL },
        _ => return None,
    };
    Some(range)
}

fn integer(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::Int8(Some(value)) => Some((*value).into()),
        ScalarValue::Int16(Some(value)) => Some((*value).into()),
        ScalarValue::Int32(Some(value)) => Some((*value).into()),
        ScalarValue::Int64(Some(value)) => Some(*value),
        _ => None,
    }
}

/// An instant in milliseconds, rounded down and up.
fn millis(value: &ScalarValue) -> Option<(i64, i64)> {
    let per_milli = |value: i64, unit: i64| {
        let floor = value.div_euclid(unit);
        (floor, if value.rem_euclid(unit) == 0 { floor } else { floor.saturating_add(1) })
    };
    match value {
        ScalarValue::TimestampSecond(Some(value), Some(_)) => value.checked_mul(1000).map(|millis| (millis, millis)),
        ScalarValue::TimestampMillisecond(Some(value), Some(_)) => Some((*value, *value)),
        ScalarValue::TimestampMicrosecond(Some(value), Some(_)) => Some(per_milli(*value, 1000)),
        ScalarValue::TimestampNanosecond(Some(value), Some(_)) => Some(per_milli(*value, 1_000_000)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use datafusion::prelude::{cast, col, lit};

    use super::*;

    fn offsets(start: i64, end: i64) -> Option<Bounds> {
        Some(Bounds { offsets: Range { start, end }, ..Bounds::NONE })
    }

    fn times(start: i64, end: i64) -> Option<Bounds> {
        Some(Bounds { times: Range { start, end }, ..Bounds::NONE })
    }

    fn at(micros: i64) -> Expr {
        lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("+00:00".into())))
    }

    #[test]
    fn comparisons_bound_offsets_and_times() {
        let (min, max) = (i64::MIN, i64::MAX);
        for (filter, expected) in [
            (col("_offset").gt_eq(lit(5i64)), offsets(5, max)),
            (col("_offset").gt(lit(5i64)), offsets(6, max)),
            (lit(5i64).gt(col("_offset")), offsets(min, 5)),
            (col("_offset").lt_eq(lit(5i64)), offsets(min, 6)),
            (col("_offset").eq(lit(5i64)), offsets(5, 6)),
            (col("_offset").between(lit(3i64), lit(9i64)), offsets(3, 10)),
            (col("_offset").in_list(vec![lit(9i64), lit(2i64)], false), offsets(2, 10)),
            (col("_offset").in_list(vec![lit(9i64)], true), Some(Bounds::NONE)),
            (col("_offset").eq(lit(ScalarValue::Int64(None))), None),
            (col("_offset").not_eq(lit(5i64)), Some(Bounds::NONE)),
            (col("_offset").eq(col("x")), Some(Bounds::NONE)),
            (col("_offset").lt(lit(1i64)).and(col("_offset").gt(lit(1i64))), None),
            (col("_offset").lt(lit(1i64)).or(col("x").eq(lit(1))), Some(Bounds::NONE)),
            (!col("_offset").lt(lit(1i64)), Some(Bounds::NONE)),
            (col("_timestamp").gt_eq(at(1_000_500)), times(1001, max)),
            (col("_timestamp").gt(at(1_000_500)), times(1001, max)),
            (col("_timestamp").gt(at(1_000_000)), times(1001, max)),
            (col("_timestamp").gt_eq(at(1_000_000)), times(1000, max)),
            (col("_timestamp").lt(at(1_000_500)), times(min, 1001)),
            (col("_timestamp").lt(at(1_000_000)), times(min, 1000)),
            (col("_timestamp").lt_eq(at(1_000_500)), times(min, 1001)),
            (col("_timestamp").lt_eq(at(-1)), times(min, 0)),
            (col("_timestamp").eq(at(1_000_000)), times(1000, 1001)),
            (col("_timestamp").eq(at(1_000_001)), None),
            (col("_timestamp").gt(lit(ScalarValue::TimestampMicrosecond(Some(1), None))), Some(Bounds::NONE)),
        ] {
            assert_eq!(bounds(std::slice::from_ref(&filter), 0), expected, "{filter}");
            assert_eq!(is_used(&filter), expected != Some(Bounds::NONE), "{filter}");
        }
    }

    #[test]
    fn partitions_are_decided_one_by_one() {
        let one = col("_partition").eq(lit(1)).and(col("_offset").gt(lit(10i64)));
        let two = cast(col("_partition"), DataType::Int64).eq(lit(2i64)).and(col("_offset").lt(lit(5i64)));
        let either = [one.or(two)];
        assert_eq!(bounds(&either, 0), None);
        assert_eq!(bounds(&either, 1), offsets(11, i64::MAX));
        assert_eq!(bounds(&either, 2), offsets(i64::MIN, 5));
        let narrow = cast(col("_partition"), DataType::Int8).eq(lit(2i8));
        assert_eq!(bounds(&[narrow], 0), Some(Bounds::NONE), "a narrower integer may wrap");
        assert_eq!(bounds(&[], 7), Some(Bounds::NONE));
        let some = col("_partition").in_list(vec![lit(1), lit(3)], false);
        assert_eq!(
            [0, 1, 2, 3].map(|partition| bounds(std::slice::from_ref(&some), partition).is_some()),
            [false, true, false, true]
        );
    }
}
