//! What manifests know, as statistics for the planner and for the reader.
//!
//! DataFusion answers `count(*)`, `min` and `max` from exact statistics, and the reader replaces a column whose exact
//! minimum and maximum are equal by that constant. So a wrong `Exact` is a wrong answer, and anything in doubt is
//! `Inexact`: bounds of text, bytes and floats, and every count that a writer left out.

use std::cmp::Ordering;

use arrow::datatypes::Schema;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};

use super::conform::field_id;
use crate::types::{ColumnBounds, PlannedFile};

/// The statistics of the rows that a scan of these files gives: where rows are deleted, nothing is exact.
pub(super) fn of_rows<'a>(schema: &Schema, files: impl IntoIterator<Item = &'a PlannedFile>) -> Statistics {
    let mut deleted = false;
    let statistics = of_files(schema, files.into_iter().inspect(|file| deleted |= !file.deletes.is_empty()));
    if deleted { statistics.to_inexact() } else { statistics }
}

/// The statistics of these files together as they were written, one entry a column of `schema`. For the reader: a column
/// that had one value in all rows has it in those that are left.
pub(super) fn of_files<'a>(schema: &Schema, files: impl IntoIterator<Item = &'a PlannedFile>) -> Statistics {
    let ids: Vec<Option<i32>> = schema.fields().iter().map(|field| field_id(field)).collect();
    let mut rows = 0_usize;
    let mut bytes = 0_usize;
    let mut columns: Vec<Option<Column>> = vec![None; ids.len()];
    for file in files {
        rows = rows.saturating_add(usize::try_from(file.record_count).unwrap_or(usize::MAX));
        bytes = bytes.saturating_add(usize::try_from(file.size).unwrap_or(usize::MAX));
        for (column, id) in columns.iter_mut().zip(&ids) {
            let next = Column::of_file(id.and_then(|id| file.columns.get(&id)), file.record_count);
            *column = Some(match column.take() {
                Some(sum) => sum.merge(next),
                None => next,
            });
        }
    }
    let column_statistics = columns.into_iter().map(|c| c.map(Column::finish).unwrap_or_default()).collect();
    Statistics { num_rows: Precision::Exact(rows), total_byte_size: Precision::Inexact(bytes), column_statistics }
}

/// One column over some files. A bound is known only where it is known of every file that has a value.
#[derive(Debug, Clone)]
struct Column {
    nulls: Option<u64>,
    bounds: Bounds,
}

#[derive(Debug, Clone)]
enum Bounds {
    /// No file has a value: nothing to bound.
    NoValues,
    /// Some file has values and no bounds.
    Unknown,
    /// Each bound by itself may be unknown.
    Known { lower: Option<ScalarValue>, upper: Option<ScalarValue>, exact: bool },
}

impl Column {
    fn of_file(bounds: Option<&ColumnBounds>, rows: u64) -> Self {
        let Some(bounds) = bounds else {
            return Self { nulls: None, bounds: if rows == 0 { Bounds::NoValues } else { Bounds::Unknown } };
        };
        let all_null = rows == 0 || bounds.null_count == Some(rows);
        let known = match (&bounds.lower, &bounds.upper) {
            _ if all_null => Bounds::NoValues,
            (None, None) => Bounds::Unknown,
            (lower, upper) => Bounds::Known { lower: lower.clone(), upper: upper.clone(), exact: bounds.exact },
        };
        Self { nulls: bounds.null_count, bounds: known }
    }

    fn merge(self, other: Self) -> Self {
        let nulls = self.nulls.zip(other.nulls).map(|(a, b)| a.saturating_add(b));
        let bounds = match (self.bounds, other.bounds) {
            (Bounds::NoValues, known) | (known, Bounds::NoValues) => known,
            (Bounds::Unknown, _) | (_, Bounds::Unknown) => Bounds::Unknown,
            (
                Bounds::Known { lower, upper, exact },
                Bounds::Known { lower: other_lower, upper: other_upper, exact: other_exact },
            ) => Bounds::Known {
                lower: pick(lower, other_lower, Ordering::Less),
                upper: pick(upper, other_upper, Ordering::Greater),
                exact: exact && other_exact,
            },
        };
        Self { nulls, bounds }
    }

    fn finish(self) -> ColumnStatistics {
        let null_count = match self.nulls.and_then(|nulls| usize::try_from(nulls).ok()) {
            Some(nulls) => Precision::Exact(nulls),
            None => Precision::Absent,
        };
        let (min_value, max_value) = match self.bounds {
            Bounds::Known { lower, upper, exact } => (precision(lower, exact), precision(upper, exact)),
            Bounds::NoValues | Bounds::Unknown => (Precision::Absent, Precision::Absent),
        };
        ColumnStatistics { null_count, min_value, max_value, ..ColumnStatistics::new_unknown() }
    }
}

fn pick(a: Option<ScalarValue>, b: Option<ScalarValue>, wanted: Ordering) -> Option<ScalarValue> {
    let (a, b) = a.zip(b)?;
    let order = a.partial_cmp(&b)?;
    Some(if order == wanted || order == Ordering::Equal { a } else { b })
}

fn precision(value: Option<ScalarValue>, exact: bool) -> Precision<ScalarValue> {
    match value {
        Some(value) if exact => Precision::Exact(value),
        Some(value) => Precision::Inexact(value),
        None => Precision::Absent,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use arrow::datatypes::{DataType, Field};
    use iceberg::spec::Struct;
    use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

    use super::*;

    fn schema() -> Schema {
        let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_string(), "1".to_string())]);
        Schema::new(vec![Field::new("a", DataType::Int64, true).with_metadata(id)])
    }

    fn file(rows: u64, bounds: Option<ColumnBounds>) -> PlannedFile {
        PlannedFile {
            path: "f".to_string(),
            size: 10,
            record_count: rows,
            spec_id: 0,
            partition: Struct::empty(),
            data_sequence_number: 1,
            split_offsets: vec![],
            columns: bounds.into_iter().map(|bounds| (1, bounds)).collect(),
            constants: BTreeMap::new(),
            deletes: vec![],
        }
    }

    fn bounds(nulls: Option<u64>, lower: i64, upper: i64, exact: bool) -> Option<ColumnBounds> {
        let value = |v| Some(ScalarValue::Int64(Some(v)));
        Some(ColumnBounds { null_count: nulls, lower: value(lower), upper: value(upper), exact })
    }

    #[test]
    fn exact_only_where_every_file_is() {
        let both = of_files(&schema(), &[file(3, bounds(Some(0), 5, 9, true)), file(2, bounds(Some(1), -1, 7, true))]);
        let column = &both.column_statistics[0];
        assert_eq!(both.num_rows, Precision::Exact(5));
        assert_eq!(column.null_count, Precision::Exact(1));
        assert_eq!(column.min_value, Precision::Exact(ScalarValue::Int64(Some(-1))));
        assert_eq!(column.max_value, Precision::Exact(ScalarValue::Int64(Some(9))));

        let loose = of_files(&schema(), &[file(3, bounds(Some(0), 5, 9, true)), file(2, bounds(None, 1, 7, false))]);
        let column = &loose.column_statistics[0];
        assert_eq!(column.null_count, Precision::Absent);
        assert_eq!(column.min_value, Precision::Inexact(ScalarValue::Int64(Some(1))));
    }

    #[test]
    fn a_file_without_bounds_hides_those_of_others_unless_it_has_no_values() {
        let unknown = of_files(&schema(), &[file(3, bounds(Some(0), 5, 9, true)), file(2, None)]);
        assert_eq!(unknown.column_statistics[0].min_value, Precision::Absent);
        let nulls = ColumnBounds { null_count: Some(2), ..ColumnBounds::default() };
        let all_null = of_files(&schema(), &[file(3, bounds(Some(0), 5, 9, true)), file(2, Some(nulls))]);
        assert_eq!(all_null.column_statistics[0].max_value, Precision::Exact(ScalarValue::Int64(Some(9))));
        assert_eq!(all_null.column_statistics[0].null_count, Precision::Exact(2));
    }
}
