//! The initial defaults of a schema: what a column reads as in files that are older than the column.

use arrow::datatypes::{DataType, Field, Fields, Schema as ArrowSchema, TimeUnit};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use iceberg::spec::{Literal, PrimitiveLiteral, Schema};
use townlake_common::{Error, ErrorCode};

use super::conform::{Defaults, field_id};

/// The defaults by field id, at every depth.
///
/// Errors: `FORMAT_NOT_SUPPORTED` for a default that is not a plain value of the column's type.
pub(super) fn initial_defaults(schema: &Schema, arrow: &ArrowSchema) -> Result<Defaults> {
    let mut defaults = Defaults::new();
    collect(schema, arrow.fields(), &mut defaults)?;
    Ok(defaults)
}

fn collect(schema: &Schema, fields: &Fields, defaults: &mut Defaults) -> Result<()> {
    for field in fields {
        let known = field_id(field).and_then(|id| schema.field_by_id(id).map(|known| (id, known)));
        if let Some((id, literal)) = known.and_then(|(id, known)| known.initial_default.as_ref().map(|l| (id, l))) {
            defaults.insert(id, scalar(literal, field)?);
        }
        match field.data_type() {
            DataType::Struct(children) => collect(schema, children, defaults)?,
            DataType::List(child) => collect(schema, &Fields::from(vec![child.clone()]), defaults)?,
            DataType::Map(entries, _) => collect(schema, &Fields::from(vec![entries.clone()]), defaults)?,
            _ => {}
        }
    }
    Ok(())
}

fn scalar(literal: &Literal, field: &Field) -> Result<ScalarValue> {
    let value = match literal {
        Literal::Primitive(value) => primitive(value, field.data_type()),
        _ => None,
    };
    value.ok_or_else(|| {
        let message = format!("the default value of column {} is of a kind that is not supported", field.name());
        DataFusionError::External(Box::new(Error::new(ErrorCode::FormatNotSupported, message)))
    })
}

fn primitive(value: &PrimitiveLiteral, data_type: &DataType) -> Option<ScalarValue> {
    Some(match (value, data_type) {
        (PrimitiveLiteral::Boolean(v), DataType::Boolean) => ScalarValue::Boolean(Some(*v)),
        (PrimitiveLiteral::Int(v), DataType::Int32) => ScalarValue::Int32(Some(*v)),
        (PrimitiveLiteral::Int(v), DataType::Int64) => ScalarValue::Int64(Some(i64::from(*v))),
        (PrimitiveLiteral::Int(v), DataType::Date32) => ScalarValue::Date32(Some(*v)),
        (PrimitiveLiteral::Long(v), DataType::Int64) => ScalarValue::Int64(Some(*v)),
        (PrimitiveLiteral::Long(v), DataType::Time64(TimeUnit::Microsecond)) => {
            ScalarValue::Time64Microsecond(Some(*v))
        }
        (PrimitiveLiteral::Long(v), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            ScalarValue::TimestampMicrosecond(Some(*v), zone.clone())
        }
        (PrimitiveLiteral::Long(v), DataType::Timestamp(TimeUnit::Nanosecond, zone)) => {
            ScalarValue::TimestampNanosecond(Some(*v), zone.clone())
        }
        (PrimitiveLiteral::Float(v), DataType::Float32) => ScalarValue::Float32(Some(v.0)),
        (PrimitiveLiteral::Float(v), DataType::Float64) => ScalarValue::Float64(Some(f64::from(v.0))),
        (PrimitiveLiteral::Double(v), DataType::Float64) => ScalarValue::Float64(Some(v.0)),
        (PrimitiveLiteral::String(v), DataType::Utf8View) => ScalarValue::Utf8View(Some(v.clone())),
        (PrimitiveLiteral::String(v), DataType::Utf8) => ScalarValue::Utf8(Some(v.clone())),
        (PrimitiveLiteral::Binary(v), DataType::BinaryView) => ScalarValue::BinaryView(Some(v.clone())),
        (PrimitiveLiteral::Binary(v), DataType::Binary) => ScalarValue::Binary(Some(v.clone())),
        (PrimitiveLiteral::Binary(v), DataType::FixedSizeBinary(n)) => {
            ScalarValue::FixedSizeBinary(*n, Some(v.clone()))
        }
        (PrimitiveLiteral::UInt128(v), DataType::FixedSizeBinary(16)) => {
            ScalarValue::FixedSizeBinary(16, Some(v.to_be_bytes().to_vec()))
        }
        (PrimitiveLiteral::Int128(v), DataType::Decimal128(p, s)) => ScalarValue::Decimal128(Some(*v), *p, *s),
        _ => return None,
    })
}
