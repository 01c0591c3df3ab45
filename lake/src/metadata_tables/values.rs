//! Iceberg values in the rows of metadata tables: partitions as structs, bounds as text and as JSON, maps by field id.

use std::sync::Arc;

use arrow::array::{ArrayRef, MapFieldNames, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use arrow::util::display::array_value_to_string;
use chrono::NaiveDate;
use datafusion::common::ScalarValue;
use iceberg::spec::{
    Datum, NestedFieldRef, PartitionField, PartitionSpec, PrimitiveLiteral, PrimitiveType, Struct, TableMetadata,
    Transform,
};
use serde_json::Value;
use townlake_common::{Error, Result};

use crate::plan::bounds;
use crate::schema::primitive_to_arrow;

const HOURS_PER_DAY: i32 = 24;

/// The names inside a map, as Parquet has them.
pub(super) fn map_names() -> MapFieldNames {
    MapFieldNames { entry: "key_value".to_string(), key: "key".to_string(), value: "value".to_string() }
}

/// The type of what a `MapBuilder` with [`map_names`] makes.
pub(super) fn map_type(key: DataType, value: DataType) -> DataType {
    let names = map_names();
    let pair = vec![Field::new(names.key, key, false), Field::new(names.value, value, true)];
    DataType::Map(Arc::new(Field::new(names.entry, DataType::Struct(pair.into()), false)), false)
}

/// The partition fields of all specs that a table ever had: one struct holds the partition of any file.
pub(super) struct PartitionColumns {
    fields: Vec<(i32, PrimitiveType)>,
    arrow: Fields,
}

impl PartitionColumns {
    /// By field id; a field's name is that of the newest spec.
    ///
    /// Errors: `FORMAT_NOT_SUPPORTED` for a type that is too wide.
    pub fn of(metadata: &TableMetadata) -> Result<Self> {
        let mut specs: Vec<_> = metadata.partition_specs_iter().collect();
        specs.sort_by_key(|spec| std::cmp::Reverse(spec.spec_id()));
        let mut found: Vec<(i32, String, PrimitiveType)> = Vec::new();
        for field in specs.iter().flat_map(|spec| spec.fields()) {
            let known = found.iter().any(|(id, ..)| *id == field.field_id);
            if let (false, Some(of)) = (known, result_type(metadata, field)) {
                found.push((field.field_id, field.name.clone(), of));
            }
        }
        found.sort_by_key(|(id, ..)| *id);
        let arrow = found.iter().map(|(_, name, of)| Ok(Field::new(name, primitive_to_arrow(of)?, true)));
        let arrow = arrow.collect::<Result<Vec<_>>>()?.into();
        Ok(Self { fields: found.into_iter().map(|(id, _, of)| (id, of)).collect(), arrow })
    }

    /// The struct's type; `None` for a table that never was partitioned.
    pub fn data_type(&self) -> Option<DataType> {
        (!self.arrow.is_empty()).then(|| DataType::Struct(self.arrow.clone()))
    }

    /// A file's partition. What its spec has not is null.
    pub fn values(&self, spec: &PartitionSpec, partition: &Struct) -> Result<Vec<ScalarValue>> {
        let value = |((id, of), arrow): (&(i32, PrimitiveType), &Arc<Field>)| {
            let index = spec.fields().iter().position(|field| field.field_id == *id);
            let literal = index.and_then(|index| partition.fields().get(index)).and_then(Option::as_ref);
            let literal = literal.and_then(|literal| literal.as_primitive_literal());
            let scalar = literal.and_then(|literal| bounds::scalar(&bounds::promote_value(&literal, of), of));
            match scalar {
                Some(scalar) => Ok(scalar),
                None => ScalarValue::try_from(arrow.data_type()).map_err(unfit),
            }
        };
        self.fields.iter().zip(&self.arrow).map(value).collect()
    }

    /// Rows of [`PartitionColumns::values`] as one column.
    pub fn column(&self, rows: &[Vec<ScalarValue>]) -> Result<ArrayRef> {
        let column = |(index, field): (usize, &Arc<Field>)| {
            let values: Vec<_> = rows.iter().filter_map(|row| row.get(index).cloned()).collect();
            scalars(values, field.data_type())
        };
        let columns = self.arrow.iter().enumerate().map(column).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(StructArray::try_new(self.arrow.clone(), columns, None).map_err(super::unfit)?))
    }
}

/// A column of these values.
pub(super) fn scalars(values: Vec<ScalarValue>, of: &DataType) -> Result<ArrayRef> {
    match values.is_empty() {
        true => Ok(arrow::array::new_empty_array(of)),
        false => ScalarValue::iter_to_array(values).map_err(unfit),
    }
}

fn unfit(error: datafusion::common::DataFusionError) -> Error {
    Error::internal("a value of a metadata table could not be built").with_source(error)
}

/// The type of a partition field's values. Its source may have been dropped since: then an older schema knows it.
fn result_type(metadata: &TableMetadata, field: &PartitionField) -> Option<PrimitiveType> {
    let source = source(metadata, field.source_id)?;
    field.transform.result_type(&source.field_type).ok()?.as_primitive_type().cloned()
}

fn source(metadata: &TableMetadata, id: i32) -> Option<&NestedFieldRef> {
    metadata.current_schema().field_by_id(id).or_else(|| {
        let mut schemas: Vec<_> = metadata.schemas_iter().collect();
        schemas.sort_by_key(|schema| std::cmp::Reverse(schema.schema_id()));
        schemas.into_iter().find_map(|schema| schema.field_by_id(id))
    })
}

/// A bound of a column as text: dates and times in ISO form, bytes in hexadecimal.
pub(super) fn text(bound: &Datum) -> String {
    let (of, literal) = (bound.data_type(), bound.literal());
    match (of, literal) {
        (_, PrimitiveLiteral::String(text)) => text.clone(),
        (PrimitiveType::Uuid, PrimitiveLiteral::UInt128(value)) => uuid::Uuid::from_u128(*value).to_string(),
        _ => bounds::scalar(literal, of).map(|scalar| scalar_text(&scalar)).unwrap_or_default(),
    }
}

fn scalar_text(scalar: &ScalarValue) -> String {
    let array = scalar.to_array().ok();
    array.and_then(|array| array_value_to_string(&array, 0).ok()).unwrap_or_default()
}

/// A bound of a column as JSON: numbers and booleans as such, all else as [`text`].
pub(super) fn json(bound: &Datum) -> Value {
    match (bound.data_type(), bound.literal()) {
        (_, PrimitiveLiteral::Boolean(value)) => Value::from(*value),
        (PrimitiveType::Int, PrimitiveLiteral::Int(value)) => Value::from(*value),
        (PrimitiveType::Long, PrimitiveLiteral::Long(value)) => Value::from(*value),
        // through its text: the double nearest to a float has digits that the float never had
        (_, PrimitiveLiteral::Float(value)) => value.0.to_string().parse::<f64>().map_or(Value::Null, Value::from),
        (_, PrimitiveLiteral::Double(value)) => Value::from(value.0),
        _ => Value::from(text(bound)),
    }
}

/// A bound in a manifest's summary of a partition field, as people read it: `2024-02` for a month.
pub(super) fn summary_text(metadata: &TableMetadata, field: &PartitionField, bytes: Option<&[u8]>) -> Option<String> {
    let datum = Datum::try_from_bytes(bytes?, result_type(metadata, field)?).ok()?;
    let count = match datum.literal() {
        PrimitiveLiteral::Int(count) => *count,
        _ => return Some(text(&datum)),
    };
    match field.transform {
        Transform::Year => Some(format!("{:04}", count.checked_add(1970)?)),
        Transform::Month => Some(format!("{:04}-{:02}", 1970 + count.div_euclid(12), count.rem_euclid(12) + 1)),
        Transform::Hour => {
            let day = NaiveDate::from_epoch_days(count.div_euclid(HOURS_PER_DAY))?;
            Some(format!("{day}-{:02}", count.rem_euclid(HOURS_PER_DAY)))
        }
        _ => Some(text(&datum)),
    }
}
