//! NaN and the bounds of Parquet.
//!
//! The bounds in a Parquet file leave NaN out, and nothing there says whether a column has one. In SQL NaN is the greatest
//! value and equal to itself. So a filter that NaN can pass must not skip row groups and pages by their bounds.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, IsNotNullExpr, IsNullExpr, Literal};
use datafusion::physical_expr::utils::collect_columns;

/// Whether bounds tell the truth about this filter: it looks at no float, or in a way that no NaN passes.
pub(super) fn bounds_hold(filter: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let floats = |column: &Column| schema.fields().get(column.index()).is_none_or(|f| f.data_type().is_floating());
    if !collect_columns(filter).iter().any(floats) {
        return true;
    }
    if filter.downcast_ref::<IsNullExpr>().is_some() || filter.downcast_ref::<IsNotNullExpr>().is_some() {
        return true;
    }
    let Some(binary) = filter.downcast_ref::<BinaryExpr>() else { return false };
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        Operator::And => bounds_hold(left, schema) && bounds_hold(right, schema),
        Operator::Lt | Operator::LtEq => left.is::<Column>() && is_number(right),
        Operator::Gt | Operator::GtEq => right.is::<Column>() && is_number(left),
        Operator::Eq => (left.is::<Column>() && is_number(right)) || (right.is::<Column>() && is_number(left)),
        _ => false,
    }
}

/// A literal other than NaN.
fn is_number(expr: &Arc<dyn PhysicalExpr>) -> bool {
    match expr.downcast_ref::<Literal>().map(Literal::value) {
        Some(ScalarValue::Float32(value)) => value.is_none_or(|value| !value.is_nan()),
        Some(ScalarValue::Float64(value)) => value.is_none_or(|value| !value.is_nan()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use datafusion::physical_expr::expressions::{binary, col, lit};

    use super::*;

    #[test]
    fn only_filters_that_nan_cannot_pass_skip_by_bounds() {
        let schema =
            Schema::new(vec![Field::new("d", DataType::Float64, true), Field::new("i", DataType::Int64, true)]);
        let holds = |column: &str, op: Operator, value: ScalarValue| {
            let filter = binary(col(column, &schema).unwrap(), op, lit(value), &schema).unwrap();
            bounds_hold(&filter, &schema)
        };
        let number = |value: f64| ScalarValue::Float64(Some(value));
        assert!(holds("d", Operator::Lt, number(1.0)) && holds("d", Operator::Eq, number(1.0)));
        assert!(!holds("d", Operator::Gt, number(1.0)) && !holds("d", Operator::NotEq, number(1.0)));
        assert!(!holds("d", Operator::Eq, number(f64::NAN)) && !holds("d", Operator::LtEq, number(f64::NAN)));
        assert!(holds("i", Operator::Gt, ScalarValue::Int64(Some(1))));
        let flipped = binary(lit(1.0), Operator::Gt, col("d", &schema).unwrap(), &schema).unwrap();
        assert!(bounds_hold(&flipped, &schema));
    }
}
