//! Rows that are deleted by the values of some columns.
//!
//! All deletes of a group go into one map from key to the newest sequence number that deletes it, so that each row is
//! looked up once: it is deleted when that is newer than its data file. Keys are compared as Arrow's row format has them,
//! in which null equals null.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type, Schema};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::HashMap;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use townlake_common::{Error, Result};

use super::READS_AT_ONCE;
use super::budget::Budget;
use super::file::{File, Source};
use crate::scan::conform::{Defaults, Matching, conform, is_readable_as};
use crate::schema::field_id;

/// What a key takes in memory beside its bytes: the box, the number, its place in the map.
const KEY_BYTES: usize = 64;

/// The keys of a group of equality delete files.
pub(super) struct Keys {
    converter: RowConverter,
    width: usize,
    newest: HashMap<Box<[u8]>, i64>,
}

impl Keys {
    /// Reads the columns `fields` of all the files.
    ///
    /// Errors: those of [`Source::columns`]; `DATA_CORRUPT` for a file without one of the columns; `MEMORY_LIMIT`.
    pub(super) async fn read(sources: Vec<Source>, fields: &[FieldRef], budget: &Budget) -> Result<Self> {
        let sorts = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let mut keys = Self {
            converter: RowConverter::new(sorts)
                .map_err(|e| Error::internal("keys have no row format").with_source(e))?,
            width: fields.len(),
            newest: HashMap::new(),
        };
        let streams: Vec<_> = sources.into_iter().map(|source| batches(source, fields.to_vec()).boxed()).collect();
        let mut read = stream::iter(streams).flatten_unordered(READS_AT_ONCE);
        while let Some((file, columns)) = read.try_next().await? {
            let rows = keys.rows(&columns).map_err(|e| file.damaged("has keys of other types").with_source(e))?;
            keys.add(&rows, file.sequence_number, budget)?;
        }
        Ok(keys)
    }

    fn add(&mut self, rows: &Rows, sequence: i64, budget: &Budget) -> Result<()> {
        let mut bytes = 0;
        for row in rows {
            match self.newest.get_mut(row.as_ref()) {
                Some(newest) => *newest = sequence.max(*newest),
                None => {
                    bytes += row.as_ref().len() + KEY_BYTES;
                    self.newest.insert(row.as_ref().into(), sequence);
                }
            }
        }
        budget.grow(bytes)
    }

    fn rows(&self, columns: &[ArrayRef]) -> Result<Rows, ArrowError> {
        let columns: Vec<ArrayRef> = columns.iter().map(one_nan).collect();
        self.converter.convert_columns(&columns)
    }
}

/// The key columns of one file, in the types of today.
fn batches(source: Source, fields: Vec<FieldRef>) -> impl Stream<Item = Result<(Arc<File>, Vec<ArrayRef>)>> + Send {
    let read = async move {
        let file = Arc::clone(&source.file);
        let batches = source.columns(|schema| columns(schema, &fields)).await?;
        Ok(batches.map(move |batch| Ok((Arc::clone(&file), of_today(&batch?, &fields, &file)?))))
    };
    stream::once(read).try_flatten()
}

fn columns(schema: &Schema, fields: &[FieldRef]) -> std::result::Result<Vec<usize>, String> {
    let find = |wanted: &FieldRef| {
        let found = schema.fields().iter().position(|field| field_id(field) == field_id(wanted));
        let missing = || format!("has no column with the field id {}", field_id(wanted).unwrap_or_default());
        found.ok_or_else(missing)
    };
    fields.iter().map(find).collect()
}

fn of_today(batch: &RecordBatch, fields: &[FieldRef], file: &File) -> Result<Vec<ArrayRef>> {
    let none = Defaults::new();
    let schema = batch.schema();
    let columns = batch.columns().iter().zip(schema.fields()).zip(fields).map(|((column, from), to)| {
        let (from_type, to_type) = (from.data_type(), to.data_type());
        if !is_readable_as(from_type, to_type) {
            return Err(file.damaged(&format!("holds {from_type} where a column has {to_type}")));
        }
        conform(column, from, to, Matching::FieldId(&none))
            .map_err(|e| file.damaged(&format!("holds values that are no {to_type}")).with_source(e))
    });
    columns.collect()
}

/// NaN has many spellings, and they are one value.
fn one_nan(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => {
            let one = |v: f32| if v.is_nan() { f32::NAN } else { v };
            Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(one))
        }
        DataType::Float64 => {
            let one = |v: f64| if v.is_nan() { f64::NAN } else { v };
            Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(one))
        }
        _ => Arc::clone(column),
    }
}

/// Takes deleted rows out of the batches of one data file.
pub(in crate::scan) struct KeyFilter {
    keys: Vec<Arc<Keys>>,
    /// Of the data file.
    sequence_number: i64,
}

impl KeyFilter {
    pub(super) fn new(keys: Vec<Arc<Keys>>, sequence_number: i64) -> Self {
        Self { keys, sequence_number }
    }

    /// The rows of `batch` that are not deleted, without its last columns, which are the keys.
    pub(in crate::scan) fn keep(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let width: usize = self.keys.iter().map(|keys| keys.width).sum();
        let asked = batch.num_columns().checked_sub(width);
        let asked = asked.ok_or_else(|| ArrowError::SchemaError("a batch has no key columns".to_string()))?;
        let mut keep = vec![true; batch.num_rows()];
        let mut columns = batch.columns().get(asked..).unwrap_or_default();
        for keys in &self.keys {
            let (own, rest) = columns.split_at(keys.width);
            for (row, keep) in keys.rows(own)?.iter().zip(&mut keep) {
                let newest = keys.newest.get(row.as_ref());
                *keep &= newest.is_none_or(|newest| *newest <= self.sequence_number);
            }
            columns = rest;
        }
        let batch = batch.project(&(0..asked).collect::<Vec<_>>())?;
        if keep.iter().all(|keep| *keep) {
            return Ok(batch);
        }
        filter_record_batch(&batch, &BooleanArray::from(keep))
    }
}
