//! Bound parameters: what a statement asks for, and the values that a client gives.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::from_datafusion;

/// The parameters of a plan in their order, with their types where they can be inferred (else `Null`).
///
/// Errors: `INVALID_QUERY` for numbers with a gap (`$1`, `$3`).
pub(super) fn parameters_of(plan: &LogicalPlan) -> Result<SchemaRef> {
    let fields = plan.get_parameter_fields().map_err(|error| from_datafusion(&error))?;
    let mut numbered: Vec<(usize, Option<FieldRef>)> = Vec::with_capacity(fields.len());
    for (id, field) in fields {
        match id.trim_start_matches('$').parse::<usize>() {
            Ok(number) if number > 0 => numbered.push((number, field)),
            _ => {
                let message = format!("the parameter {id} is not one of ? or $1, $2, …");
                return Err(Error::new(ErrorCode::NotSupported, message));
            }
        }
    }
    numbered.sort_by_key(|(number, _)| *number);
    let mut schema = Vec::with_capacity(numbered.len());
    for ((number, field), expected) in numbered.into_iter().zip(1..) {
        if number != expected {
            return Err(Error::new(ErrorCode::InvalidQuery, format!("the parameter ${expected} is missing")));
        }
        let data_type = field.map_or(DataType::Null, |field| field.data_type().clone());
        schema.push(Field::new(format!("${number}"), data_type, true));
    }
    Ok(Arc::new(Schema::new(schema)))
}

/// The plan with the values of `row` in place of its parameters.
///
/// Errors: `INVALID_ARGUMENT` for another number of rows or values than the statement takes, or a value that does not
/// convert.
pub(super) fn bind(plan: LogicalPlan, row: Option<&RecordBatch>) -> Result<LogicalPlan> {
    let expected = parameters_of(&plan)?;
    let given = row.map_or(0, RecordBatch::num_columns);
    if expected.fields().len() != given {
        let message = format!("the statement takes {} parameters, and {given} are bound", expected.fields().len());
        return Err(Error::new(ErrorCode::InvalidArgument, message));
    }
    let Some(row) = row.filter(|row| row.num_columns() > 0) else { return Ok(plan) };
    if row.num_rows() != 1 {
        let message = format!("one row of parameters runs a statement once, and {} rows are bound", row.num_rows());
        return Err(Error::new(ErrorCode::InvalidArgument, message).with_hint("to insert many rows use bulk ingest"));
    }
    let mut values = HashMap::with_capacity(given);
    for (field, column) in expected.fields().iter().zip(row.columns()) {
        let value = ScalarValue::try_from_array(column, 0).map_err(|error| from_datafusion(&error))?;
        let value = match field.data_type() {
            DataType::Null => value,
            wanted if *wanted == value.data_type() => value,
            wanted => value.cast_to(wanted).map_err(|error| {
                let message =
                    format!("parameter {}: a {} does not convert to {wanted}", field.name(), column.data_type());
                Error::new(ErrorCode::InvalidArgument, message).with_source(error)
            })?,
        };
        let key = field.name().trim_start_matches('$').to_string();
        values.insert(key, ScalarAndMetadata::new(value, None));
    }
    plan.with_param_values(ParamValues::Map(values)).map_err(|error| from_datafusion(&error))
}
