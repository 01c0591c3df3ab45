//! Rows that are deleted by their position in a data file.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, Schema};
use futures::stream::TryStreamExt;
use iceberg::metadata_columns::{RESERVED_FIELD_ID_DELETE_FILE_PATH, RESERVED_FIELD_ID_DELETE_FILE_POS};
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use roaring::RoaringTreemap;
use townlake_common::Result;

use super::budget::Budget;
use super::file::{File, Source};
use crate::location::one_spelling;
use crate::schema::field_id;

/// What one delete file says, by the URI of the data file in [`one_spelling`].
#[derive(Default)]
pub(super) struct Positions(HashMap<String, RoaringTreemap>);

impl Positions {
    /// Reads a position delete file. `rows` are the data files that are scanned: positions of others, and behind the last
    /// row, are not kept (and delete nothing, as in other engines), so that a file takes no more than a bit a row.
    ///
    /// Errors: those of [`Source::columns`]; `DATA_CORRUPT` for a position that is null or negative; `MEMORY_LIMIT`.
    pub(super) async fn read(source: Source, rows: &HashMap<String, u64>, budget: &Budget) -> Result<Self> {
        let (mut positions, file) = (Self::default(), Arc::clone(&source.file));
        let mut batches = source.columns(columns).await?;
        while let Some(batch) = batches.try_next().await? {
            positions.add(&batch, rows, &file)?;
        }
        let bytes = positions.0.iter().map(|(path, map)| path.len() + map.serialized_size());
        budget.grow(bytes.sum())?;
        Ok(positions)
    }

    /// Those of one data file.
    pub(super) fn of_one(uri: &str, deleted: RoaringTreemap) -> Self {
        Self(HashMap::from([(one_spelling(uri).into_owned(), deleted)]))
    }

    fn add(&mut self, batch: &RecordBatch, rows: &HashMap<String, u64>, file: &File) -> Result<()> {
        let mistyped = |error| file.damaged("has columns of other types than positions have").with_source(error);
        let paths = cast(batch.column(0), &DataType::Utf8View).map_err(mistyped)?;
        let places = cast(batch.column(1), &DataType::Int64).map_err(mistyped)?;
        if paths.null_count() > 0 || places.null_count() > 0 {
            return Err(file.damaged("has a null where a position must be"));
        }
        let (paths, places) = (paths.as_string_view(), places.as_primitive::<Int64Type>().values());
        let mut start = 0;
        // Deletes of one data file stand together.
        while start < paths.len() {
            let path = paths.value(start);
            let end = (start + 1..paths.len()).find(|row| paths.value(*row) != path).unwrap_or(paths.len());
            let run = places.get(start..end).unwrap_or_default();
            if let Some(negative) = run.iter().find(|place| **place < 0) {
                return Err(file.damaged(&format!("deletes row {negative} of {path}")));
            }
            let path = one_spelling(path);
            if let Some(rows) = rows.get(path.as_ref()) {
                let known = run.iter().filter_map(|place| u64::try_from(*place).ok()).filter(|place| place < rows);
                self.0.entry(path.into_owned()).or_default().extend(known);
            }
            start = end;
        }
        Ok(())
    }

    /// The deleted rows of the data file.
    pub(super) fn of(&self, uri: &str) -> Option<&RoaringTreemap> {
        self.0.get(one_spelling(uri).as_ref())
    }
}

/// The two columns by field id, or by name in files without ids.
fn columns(schema: &Schema) -> std::result::Result<Vec<usize>, String> {
    let find = |name: &str, id| {
        let is_it = |field: &FieldRef| field_id(field).map_or(field.name() == name, |found| found == id);
        schema.fields().iter().position(is_it).ok_or_else(|| format!("has no column {name}"))
    };
    Ok(vec![find("file_path", RESERVED_FIELD_ID_DELETE_FILE_PATH)?, find("pos", RESERVED_FIELD_ID_DELETE_FILE_POS)?])
}

/// All rows of a file of `rows` rows but the deleted ones; `None` where none is deleted.
pub(super) fn selection<'a>(deleted: impl Iterator<Item = &'a RoaringTreemap>, rows: u64) -> Option<RowSelection> {
    let mut deleted = deleted.filter(|map| !map.is_empty());
    let first = deleted.next()?;
    let mut all = None;
    for more in deleted {
        *all.get_or_insert_with(|| first.clone()) |= more;
    }
    Some(but(all.as_ref().unwrap_or(first), rows))
}

fn but(deleted: &RoaringTreemap, rows: u64) -> RowSelection {
    let length = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut next = 0;
    for row in deleted.iter().take_while(|row| *row < rows) {
        match selectors.last_mut() {
            Some(last) if row == next => last.row_count += 1,
            _ if row == next => selectors.push(RowSelector::skip(1)),
            _ => selectors.extend([RowSelector::select(length(row - next)), RowSelector::skip(1)]),
        }
        next = row + 1;
    }
    if next < rows {
        selectors.push(RowSelector::select(length(rows - next)));
    }
    selectors.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_covers_the_file_and_leaves_out_what_is_deleted() {
        let (select, skip) = (RowSelector::select, RowSelector::skip);
        let chosen = |maps: &[&[u64]], rows| {
            let maps: Vec<RoaringTreemap> = maps.iter().map(|rows| rows.iter().copied().collect()).collect();
            selection(maps.iter(), rows).map(Vec::<RowSelector>::from)
        };
        assert_eq!(chosen(&[], 5), None);
        assert_eq!(chosen(&[&[]], 5), None);
        assert_eq!(chosen(&[&[0, 1, 4]], 5), Some(vec![skip(2), select(2), skip(1)]));
        assert_eq!(chosen(&[&[2], &[3, 2], &[7]], 9), Some(vec![select(2), skip(2), select(3), skip(1), select(1)]));
        assert_eq!(chosen(&[&[0, 1, 2]], 3), Some(vec![skip(3)]));
        // Rows that the file has not, far beyond 32 bits.
        assert_eq!(chosen(&[&[1, 5, u64::MAX]], 3), Some(vec![select(1), skip(1), select(1)]));
    }
}
