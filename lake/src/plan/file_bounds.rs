//! Bounds of many files, column by column: a tenth of what one map a file takes, and what pruning computes with.

use std::collections::{BTreeSet, HashMap};

use arrow::array::{Array, ArrayRef, UInt64Array};
use arrow::buffer::BooleanBuffer;
use datafusion::common::ScalarValue;

use crate::ColumnBounds;

/// What is known of the columns of these files, by field id.
#[derive(Debug, Default)]
pub(crate) struct FileBounds(HashMap<i32, Column>);

/// One entry a file. An array of bounds is there where one of them is known.
#[derive(Debug)]
struct Column {
    lower: Option<ArrayRef>,
    upper: Option<ArrayRef>,
    null_counts: UInt64Array,
    exact: BooleanBuffer,
}

impl FileBounds {
    /// Those of files of which these bounds are known.
    pub(crate) fn new(files: &[HashMap<i32, ColumnBounds>]) -> Self {
        let ids: BTreeSet<i32> = files.iter().flat_map(|file| file.keys().copied()).collect();
        Self(ids.into_iter().map(|id| (id, Column::new(files, id))).collect())
    }

    /// What is known of a column of the file with this number.
    pub(crate) fn of(&self, file: usize, id: i32) -> ColumnBounds {
        let Some(column) = self.0.get(&id).filter(|column| file < column.exact.len()) else {
            return ColumnBounds::default();
        };
        let bound = |array: &Option<ArrayRef>| {
            let array = array.as_ref().filter(|array| array.is_valid(file))?;
            ScalarValue::try_from_array(array, file).ok()
        };
        ColumnBounds {
            null_count: column.null_counts.is_valid(file).then(|| column.null_counts.value(file)),
            lower: bound(&column.lower),
            upper: bound(&column.upper),
            exact: column.exact.value(file),
        }
    }

    /// The lower bounds of a column, if one is known.
    pub(super) fn lower(&self, id: i32) -> Option<&ArrayRef> {
        self.0.get(&id)?.lower.as_ref()
    }

    /// The upper bounds of a column, if one is known.
    pub(super) fn upper(&self, id: i32) -> Option<&ArrayRef> {
        self.0.get(&id)?.upper.as_ref()
    }

    /// How many values of a column are null, if that is known of a file.
    pub(super) fn null_counts(&self, id: i32) -> Option<&UInt64Array> {
        Some(&self.0.get(&id)?.null_counts)
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        let array = |array: &Option<ArrayRef>| array.as_ref().map_or(0, |array| array.get_array_memory_size());
        let column = |c: &Column| array(&c.lower) + array(&c.upper) + c.null_counts.get_array_memory_size();
        self.0.values().map(|c| column(c) + c.exact.len() / 8 + size_of::<Column>()).sum()
    }

    /// All that is known of one file.
    #[cfg(test)]
    pub(crate) fn all_of(&self, file: usize) -> HashMap<i32, ColumnBounds> {
        self.0.keys().map(|id| (*id, self.of(file, *id))).collect()
    }
}

impl Column {
    fn new(files: &[HashMap<i32, ColumnBounds>], id: i32) -> Self {
        let bounds = || files.iter().map(|file| file.get(&id));
        Self {
            lower: array(bounds().map(|bounds| bounds?.lower.as_ref())),
            upper: array(bounds().map(|bounds| bounds?.upper.as_ref())),
            null_counts: bounds().map(|bounds| bounds?.null_count).collect(),
            exact: bounds().map(|bounds| bounds.is_some_and(|bounds| bounds.exact)).collect(),
        }
    }
}

/// `None` where no value is known. All are of one type: that of the column.
fn array<'a>(values: impl Iterator<Item = Option<&'a ScalarValue>> + Clone) -> Option<ArrayRef> {
    let null = ScalarValue::try_from(&values.clone().flatten().next()?.data_type()).ok()?;
    ScalarValue::iter_to_array(values.map(|value| value.unwrap_or(&null).clone())).ok()
}
