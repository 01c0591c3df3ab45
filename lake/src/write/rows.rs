//! From the rows of a query to the rows of the table: types, order, and NOT NULL.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::compute::can_cast_types;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use townlake_common::{Error, ErrorCode, Result};

use crate::scan::conform::{Matching, conform};

/// Whether rows of `input` can become rows of the table: by position, as SQL has it.
///
/// Errors: `INVALID_QUERY` when the number of columns differs or a column has no cast to the table's type.
pub(super) fn check(table: &str, input: &Schema, columns: &Schema) -> Result<()> {
    if input.fields().len() != columns.fields().len() {
        let names: Vec<&str> = columns.fields().iter().map(|field| field.name().as_str()).collect();
        return Err(Error::new(
            ErrorCode::InvalidQuery,
            format!("{table} has {} columns and the rows have {}", names.len(), input.fields().len()),
        )
        .with_hint(format!("the columns are {}", names.join(", "))));
    }
    for (source, target) in input.fields().iter().zip(columns.fields()) {
        let nested = source.data_type().is_nested() && target.data_type().is_nested();
        if !nested && !can_cast_types(source.data_type(), target.data_type()) {
            let message = format!(
                "column {} of {table} is {} and cannot take {}",
                target.name(),
                target.data_type(),
                source.data_type()
            );
            return Err(Error::new(ErrorCode::InvalidQuery, message));
        }
    }
    Ok(())
}

/// The batch with the table's columns.
///
/// Errors: `CONSTRAINT_VIOLATION` for a null in a required column, `ARITHMETIC_ERROR` for a value out of a type's range.
/// Neither quotes the value.
pub(super) fn to_table(table: &str, columns: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = batch.schema_ref();
    let mut arrays = Vec::with_capacity(columns.fields().len());
    for ((source, target), array) in schema.fields().iter().zip(columns.fields()).zip(batch.columns()) {
        if !target.is_nullable() && array.logical_null_count() > 0 {
            let message = format!("column {} of {table} is NOT NULL and a row has no value for it", target.name());
            return Err(Error::new(ErrorCode::ConstraintViolation, message));
        }
        let array = conform(array, source, target, Matching::Name).map_err(|e| refused(table, target.name(), e))?;
        arrays.push(array);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(columns), arrays, &options)
        .map_err(|e| Error::internal(format!("the rows do not fit the columns of {table}")).with_source(e))
}

fn refused(table: &str, column: &str, error: ArrowError) -> Error {
    let (code, what) = match &error {
        ArrowError::InvalidArgumentError(_) => {
            (ErrorCode::ConstraintViolation, "a value inside it is missing and must not be null")
        }
        _ => (ErrorCode::ArithmeticError, "a value does not fit its type"),
    };
    Error::new(code, format!("column {column} of {table}: {what}")).with_source(error)
}
