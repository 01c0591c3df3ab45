//! What manifests know, as statistics for the planner and for the reader.
//!
//! DataFusion answers `count`, `min` and `max` from exact statistics of a scan, and the reader replaces a column whose exact
//! minimum and maximum in a file are equal by that constant. So a wrong `Exact` is a wrong answer, and anything in doubt is
//! `Inexact`: where rows are deleted, every count that a writer left out or that cannot be, and bounds of text and bytes
//! (which are cut) and of floats (which leave NaN out).
//!
//! Bounds of the other types are values of the column in all that the known writers write, and Spark and Trino answer `min`
//! and `max` from them. Iceberg itself promises bounds only, so the table property [`FROM_METADATA`] turns that off.

use std::cmp::Ordering;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};

use super::conform::field_id;
use crate::types::{ColumnBounds, FileEntry, PlannedFile};

/// The table property that says `false` where bounds of files may be wider than their values.
pub(super) const FROM_METADATA: &str = "townlake.min-max-from-metadata";

/// The statistics of a scan, as its files come.
pub(super) struct ScanStatistics {
    /// For each column of the scan its field id, unless nothing asks for its bounds.
    ids: Vec<Option<i32>>,
    /// For each whether its bounds are values of it.
    values: Vec<bool>,
    total: Vec<Column>,
    rows: usize,
    bytes: usize,
    deleted: bool,
}

impl ScanStatistics {
    /// Those of a scan of these columns of which some are `wanted`. `bounds_are_values`: see [`FROM_METADATA`].
    pub(super) fn new(schema: &Schema, wanted: impl Fn(usize) -> bool, bounds_are_values: bool) -> Self {
        let ids = schema.fields().iter().enumerate().map(|(n, field)| field_id(field).filter(|_| wanted(n)));
        let ids: Vec<_> = ids.collect();
        let total = ids.iter().map(|_| Column { nulls: Some(0), bounds: Bounds::NoValues }).collect();
        let values = schema.fields().iter().map(|field| bounds_are_values && is_never_cut(field.data_type()));
        Self { ids, values: values.collect(), total, rows: 0, bytes: 0, deleted: false }
    }

    /// Counts a file in. Returns its own statistics, over its first `columns` columns, for the reader: as it was written,
    /// for a column that had one value in all rows has it in those that are left.
    pub(super) fn add(&mut self, file: &PlannedFile, columns: usize) -> Statistics {
        let of_file: Vec<_> = self.ids.iter().map(|id| Column::of_file(file, *id)).collect();
        for (total, column) in self.total.iter_mut().zip(&of_file) {
            total.add(column);
        }
        self.deleted |= !file.deletes.is_empty();
        let (rows, bytes) = (size(file.record_count), size(file.size));
        self.rows = self.rows.saturating_add(rows);
        self.bytes = self.bytes.saturating_add(bytes);
        // A dynamic filter skips files by exact bounds only.
        let column_statistics = of_file.into_iter().zip(&self.values).take(columns);
        let column_statistics = column_statistics.map(|(column, values)| column.finish(*values)).collect();
        Statistics { num_rows: Precision::Exact(rows), total_byte_size: Precision::Inexact(bytes), column_statistics }
    }

    /// Those of the rows that the scan gives.
    pub(super) fn finish(self) -> Statistics {
        let columns = self.total.into_iter().zip(self.values);
        let statistics = Statistics {
            num_rows: Precision::Exact(self.rows),
            total_byte_size: Precision::Inexact(self.bytes),
            column_statistics: columns.map(|(column, values)| column.finish(values)).collect(),
        };
        if self.deleted { statistics.to_inexact() } else { statistics }
    }
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Whether bounds of this type are values of the column: neither cut nor without NaN.
fn is_never_cut(data_type: &DataType) -> bool {
    use DataType::{Boolean, Date32, Decimal128, Int32, Int64, Time64, Timestamp};
    matches!(data_type, Boolean | Int32 | Int64 | Date32 | Decimal128(..) | Time64(_) | Timestamp(..))
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
    fn of_file(file: &FileEntry, id: Option<i32>) -> Self {
        let bounds = id.map(|id| file.column(id)).unwrap_or_default();
        // A count above the number of rows is nobody's count.
        let null_count = bounds.null_count.filter(|nulls| *nulls <= file.record_count);
        let all_null = file.record_count == 0 || null_count == Some(file.record_count);
        let known = match bounds {
            _ if all_null => Bounds::NoValues,
            ColumnBounds { lower: None, upper: None, .. } => Bounds::Unknown,
            ColumnBounds { lower, upper, exact, .. } => Bounds::Known { lower, upper, exact },
        };
        Self { nulls: null_count, bounds: known }
    }

    fn add(&mut self, more: &Self) {
        self.nulls = self.nulls.zip(more.nulls).map(|(a, b)| a.saturating_add(b));
        match (&mut self.bounds, &more.bounds) {
            (_, Bounds::NoValues) => {}
            (bounds, Bounds::Unknown) => *bounds = Bounds::Unknown,
            (Bounds::Unknown, _) => {}
            (bounds @ Bounds::NoValues, known) => *bounds = known.clone(),
            (Bounds::Known { lower, upper, exact }, Bounds::Known { lower: low, upper: high, exact: all }) => {
                pick(lower, low.as_ref(), Ordering::Less);
                pick(upper, high.as_ref(), Ordering::Greater);
                *exact &= all;
            }
        }
    }

    /// `values`: whether bounds are values of the column also where it has several.
    fn finish(self, values: bool) -> ColumnStatistics {
        let null_count = match self.nulls.and_then(|nulls| usize::try_from(nulls).ok()) {
            Some(nulls) => Precision::Exact(nulls),
            None => Precision::Absent,
        };
        let (min_value, max_value) = match self.bounds {
            Bounds::Known { lower, upper, exact } => {
                (precision(lower, exact || values), precision(upper, exact || values))
            }
            Bounds::NoValues | Bounds::Unknown => (Precision::Absent, Precision::Absent),
        };
        ColumnStatistics { null_count, min_value, max_value, ..ColumnStatistics::new_unknown() }
    }
}

/// Makes `bound` the `wanted` one of both; none, where one is not known.
fn pick(bound: &mut Option<ScalarValue>, other: Option<&ScalarValue>, wanted: Ordering) {
    let order = bound.as_ref().zip(other).and_then(|(bound, other)| other.partial_cmp(bound));
    match order {
        Some(order) if order == wanted => *bound = other.cloned(),
        Some(_) => {}
        None => *bound = None,
    }
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
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field};
    use iceberg::spec::Struct;
    use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

    use super::*;
    use crate::plan::file_bounds::FileBounds;

    /// The statistics of a scan of these files, before anything is made of their types.
    fn of_files(schema: &Schema, files: &[PlannedFile]) -> Statistics {
        with_values(schema, files, false)
    }

    fn with_values(schema: &Schema, files: &[PlannedFile], bounds_are_values: bool) -> Statistics {
        let mut statistics = ScanStatistics::new(schema, |_| true, bounds_are_values);
        for file in files {
            assert_eq!(statistics.add(file, 1).num_rows, Precision::Exact(file.record_count as usize));
        }
        statistics.finish()
    }

    fn schema() -> Schema {
        let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_string(), "1".to_string())]);
        Schema::new(vec![Field::new("a", DataType::Int64, true).with_metadata(id)])
    }

    fn file(rows: u64, bounds: Option<ColumnBounds>) -> PlannedFile {
        PlannedFile::new(Arc::new(FileEntry {
            path: "f".to_string(),
            size: 10,
            record_count: rows,
            spec_id: 0,
            partition: Struct::empty(),
            data_sequence_number: 1,
            split_offsets: vec![],
            constants: BTreeMap::new(),
            bounds: (Arc::new(FileBounds::new(&[bounds.into_iter().map(|bounds| (1, bounds)).collect()])), 0),
        }))
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

    #[test]
    fn bounds_are_values_of_types_that_are_never_cut_unless_rows_are_deleted() {
        let mut files = [file(3, bounds(Some(0), 5, 9, false)), file(2, bounds(Some(0), 1, 7, false))];
        let int = |v| ScalarValue::Int64(Some(v));
        let all = with_values(&schema(), &files, true);
        assert_eq!(all.column_statistics[0].min_value, Precision::Exact(int(1)));
        assert_eq!(all.column_statistics[0].max_value, Precision::Exact(int(9)));
        let off = with_values(&schema(), &files, false);
        assert_eq!(off.column_statistics[0].min_value, Precision::Inexact(int(1)));
        files[0].deletes.push(0);
        let deleted = with_values(&schema(), &files, true);
        assert_eq!(deleted.num_rows, Precision::Inexact(5));
        assert_eq!(deleted.column_statistics[0].max_value, Precision::Inexact(int(9)));
        for cut in [DataType::Utf8View, DataType::BinaryView, DataType::Float32, DataType::Float64] {
            assert!(!is_never_cut(&cut), "{cut}");
        }
    }

    #[test]
    fn more_nulls_than_rows_are_no_count() {
        let wrong = of_files(&schema(), &[file(3, bounds(Some(4), 5, 9, true))]);
        assert_eq!(wrong.column_statistics[0].null_count, Precision::Absent);
    }
}
