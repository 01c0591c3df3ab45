//! Bound parameters: what a statement asks for, and the values that a client gives.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, Result as DFResult, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::from_datafusion;

use super::struct_fields::{difference, misnamed};

/// The parameters of a plan in their order, with their types where they can be inferred (else `Null`).
///
/// Errors: `INVALID_QUERY` for numbers with a gap (`$1`, `$3`).
pub(super) fn parameters_of(plan: &LogicalPlan) -> Result<SchemaRef> {
    let fields = plan.get_parameter_fields().map_err(|error| from_datafusion(&error))?;
    let row_counts = row_counts(plan).map_err(|error| from_datafusion(&error))?;
    let mut numbered: Vec<(usize, Option<FieldRef>)> = Vec::with_capacity(fields.len());
    for (id, field) in fields {
        let field = match field {
            None if row_counts.contains(&id) => Some(Arc::new(Field::new(&id, DataType::Int64, true))),
            field => field,
        };
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

/// The parameters in LIMIT and OFFSET. DataFusion infers no type for them, and then refuses any but a whole number.
fn row_counts(plan: &LogicalPlan) -> DFResult<HashSet<String>> {
    let mut ids = HashSet::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Limit(limit) = node {
            for expr in [&limit.skip, &limit.fetch].into_iter().flatten() {
                expr.apply(|expr| {
                    if let Expr::Placeholder(parameter) = expr {
                        ids.insert(parameter.id.clone());
                    }
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(ids)
}

/// The plan with the values of `row` in place of its parameters.
///
/// Errors: `INVALID_ARGUMENT` for another number of rows or values than the statement takes, or a value that does not
/// convert, or not without loss: 1.5 for a whole number is refused, not taken for 1.
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
        let value = value_at(field, column, 0)?;
        let key = field.name().trim_start_matches('$').to_string();
        values.insert(key, ScalarAndMetadata::new(value, None));
    }
    plan.with_param_values(ParamValues::Map(values)).map_err(|error| from_datafusion(&error))
}

/// The value that a row of `column` gives for the parameter `field`, in the type that the statement takes.
pub(super) fn value_at(field: &Field, column: &ArrayRef, row: usize) -> Result<ScalarValue> {
    if let Some((from, to)) = misnamed(column.data_type(), field.data_type()) {
        let message = format!("parameter {}: {}", field.name(), difference(from, to));
        return Err(Error::new(ErrorCode::InvalidArgument, message));
    }
    let value = ScalarValue::try_from_array(column, row).map_err(|error| from_datafusion(&error))?;
    match field.data_type() {
        DataType::Null => Ok(value),
        wanted if *wanted == value.data_type() => Ok(value),
        wanted => converted(&value, wanted).map_err(|error| {
            let message =
                format!("parameter {}: this {} does not convert to {wanted}", field.name(), column.data_type());
            let refused = Error::new(ErrorCode::InvalidArgument, message);
            match error {
                Some(error) => refused.with_source(error),
                None => refused.with_hint("a part of the value would be lost; convert it first, or CAST(? AS type)"),
            }
        }),
    }
}

/// The value in the type that the statement takes. `Err(None)`: it would not be the same value.
fn converted(value: &ScalarValue, wanted: &DataType) -> std::result::Result<ScalarValue, Option<DataFusionError>> {
    let converted = value.cast_to(wanted).map_err(Some)?;
    let given = value.data_type();
    // Text is parsed: it converts or fails. Floating-point numbers are near a value by their nature.
    let exact = value.is_null() || is_text(&given) || (given.is_floating() && wanted.is_floating());
    if exact {
        return Ok(converted);
    }
    match converted.cast_to(&given) {
        Ok(back) if back == *value || is_rounding(&back, value, wanted) => Ok(converted),
        _ => Err(None),
    }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// Whether a decimal number is the floating-point one but for the last bits, which no decimal has: 0.1 + 0.2 is 0.30.
fn is_rounding(back: &ScalarValue, value: &ScalarValue, wanted: &DataType) -> bool {
    let (back, value, bits) = match (back, value) {
        (ScalarValue::Float64(Some(back)), ScalarValue::Float64(Some(value))) => (*back, *value, f64::EPSILON),
        (ScalarValue::Float32(Some(back)), ScalarValue::Float32(Some(value))) => {
            (f64::from(*back), f64::from(*value), f64::from(f32::EPSILON))
        }
        _ => return false,
    };
    // -0.0 is 0
    back == value || (wanted.is_decimal() && (back - value).abs() <= value.abs() * bits * 8.0)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn no_part_of_a_value_is_lost() {
        use ScalarValue as V;
        let noon = 12 * 3_600_000_000;
        let date_of = |micros: i64| V::TimestampMicrosecond(Some(micros), None);
        let decimal = DataType::Decimal128(12, 2);
        for (value, wanted) in [
            (V::Float64(Some(2.0)), DataType::Int64),
            (V::Float64(Some(-0.0)), DataType::Int64),
            (V::Int64(Some(7)), DataType::Int32),
            (V::Int64(Some(7)), DataType::Utf8),
            (V::Utf8(Some("7".to_string())), DataType::Int64),
            (V::Float64(Some(0.1)), DataType::Float32),
            (V::Float64(Some(0.1 + 0.2)), decimal.clone()),
            (V::Decimal128(Some(150), 5, 2), DataType::Float64),
            (date_of(noon * 2), DataType::Date32),
            (V::TimestampNanosecond(Some(1_000), None), DataType::Timestamp(TimeUnit::Microsecond, None)),
            (V::Int64(None), DataType::Utf8),
            (V::Null, DataType::Date32),
        ] {
            let is_null = value.is_null();
            let done = converted(&value, &wanted).unwrap_or_else(|error| panic!("{value:?} to {wanted}: {error:?}"));
            assert_eq!((done.data_type(), done.is_null()), (wanted, is_null));
        }
        for (value, wanted) in [
            (V::Float64(Some(1.5)), DataType::Int64),
            (V::Float64(Some(f64::NAN)), DataType::Int64),
            (V::Int64(Some(1 << 40)), DataType::Int32),
            (V::Int64(Some((1 << 53) + 1)), DataType::Float64),
            (V::Float64(Some(1.005)), decimal.clone()),
            (V::Decimal128(Some(150), 5, 2), DataType::Int64),
            (date_of(noon), DataType::Date32),
            (date_of(noon), DataType::Time64(TimeUnit::Microsecond)),
            (V::TimestampNanosecond(Some(1_001), None), DataType::Timestamp(TimeUnit::Microsecond, None)),
            (V::Int64(Some(2)), DataType::Boolean),
        ] {
            assert!(converted(&value, &wanted).is_err(), "{value:?} to {wanted}");
        }
    }
}
