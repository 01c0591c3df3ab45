//! Which partition each row belongs to.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, Schema as ArrowSchema,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};
use arrow::error::ArrowError;
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use iceberg::spec::{Literal, PartitionSpec, PrimitiveType, Struct, StructType, Transform, Type};
use townlake_common::{Error, ErrorCode, Result};

use super::transform::apply;
use crate::schema::field_id;

/// How much of a partition value goes into a folder's name; the file's metadata has it whole.
const PATH_VALUE_CHARS: usize = 64;

/// One partition: its values for the manifest and its folder below `data/`.
#[derive(Debug, Clone)]
pub(super) struct Partition {
    pub(super) values: Struct,
    pub(super) path: String,
}

/// Cuts batches by partition.
pub(super) struct Partitioner {
    fields: Vec<SourceField>,
    result: StructType,
    rows: RowConverter,
}

struct SourceField {
    column: usize,
    transform: Transform,
    name: String,
}

/// Rows of one partition.
pub(super) struct Piece {
    pub(super) key: OwnedRow,
    pub(super) partition: Partition,
    pub(super) rows: RecordBatch,
}

impl Partitioner {
    /// For a spec that partitions. `result` is its partition type.
    ///
    /// Errors: `FORMAT_NOT_SUPPORTED` for a source that is not a top-level column or a transform that is not known.
    pub(super) fn new(spec: &PartitionSpec, result: &StructType, schema: &ArrowSchema) -> Result<Self> {
        let mut fields = Vec::new();
        let mut sorts = Vec::new();
        for field in spec.fields() {
            let source = schema.fields().iter().enumerate().find(|(_, f)| field_id(f) == Some(field.source_id));
            let Some((column, source)) = source else {
                let message = format!("the partition field {} has no top-level source column", field.name);
                return Err(Error::new(ErrorCode::FormatNotSupported, message));
            };
            // An empty array tells the type, and whether the transform can be made at all.
            let empty = arrow::array::new_empty_array(source.data_type());
            let transformed = apply(field.transform, &empty).map_err(|e| {
                let message = format!("partition field {}: {e}", field.name);
                Error::new(ErrorCode::FormatNotSupported, message)
            })?;
            sorts.push(SortField::new(transformed.data_type().clone()));
            fields.push(SourceField { column, transform: field.transform, name: field.name.clone() });
        }
        let rows = RowConverter::new(sorts).map_err(|e| {
            Error::new(ErrorCode::FormatNotSupported, "the partition values cannot be compared").with_source(e)
        })?;
        Ok(Self { fields, result: result.clone(), rows })
    }

    /// The pieces of a batch, one for each partition that it has rows of, in the order of their first rows.
    pub(super) fn split(&self, batch: &RecordBatch) -> Result<Vec<Piece>, ArrowError> {
        let values = self.values(batch)?;
        let rows = self.rows.convert_columns(&values)?;
        let mut found: HashMap<OwnedRow, usize> = HashMap::new();
        let mut groups: Vec<(OwnedRow, Vec<u32>)> = Vec::new();
        let mut last: Option<usize> = None;
        for (index, row) in (0_u32..).zip(rows.iter()) {
            // Neighbours mostly share a partition: look into the map only where it changes.
            let same = last.filter(|last| groups.get(*last).is_some_and(|(key, _)| key.row() == row));
            let group = same.unwrap_or_else(|| {
                *found.entry(row.owned()).or_insert_with_key(|key| {
                    groups.push((key.clone(), Vec::new()));
                    groups.len() - 1
                })
            });
            if let Some((_, members)) = groups.get_mut(group) {
                members.push(index);
            }
            last = Some(group);
        }
        let whole = groups.len() == 1;
        let mut pieces = Vec::with_capacity(groups.len());
        for (key, members) in groups {
            let first = members.first().map_or(0, |first| *first as usize);
            let partition = self.partition(&values, first)?;
            let rows = if whole { batch.clone() } else { take_record_batch(batch, &UInt32Array::from(members))? };
            pieces.push(Piece { key, partition, rows });
        }
        Ok(pieces)
    }

    /// The key of each row's partition: equal for rows of one, and with an order.
    pub(super) fn keys(&self, batch: &RecordBatch) -> Result<BinaryArray, ArrowError> {
        self.rows.convert_columns(&self.values(batch)?)?.try_into_binary()
    }

    fn values(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, ArrowError> {
        let value = |field: &SourceField| {
            let source = batch.columns().get(field.column).ok_or_else(|| missing(&field.name))?;
            apply(field.transform, source)
        };
        self.fields.iter().map(value).collect()
    }

    fn partition(&self, values: &[ArrayRef], row: usize) -> Result<Partition, ArrowError> {
        let mut literals = Vec::with_capacity(values.len());
        let mut folders = Vec::with_capacity(values.len());
        for ((field, array), result) in self.fields.iter().zip(values).zip(self.result.fields()) {
            let Type::Primitive(result) = result.field_type.as_ref() else { return Err(missing(&field.name)) };
            literals.push(literal(array, row, result)?);
            let text = if array.is_null(row) { "null".to_string() } else { array_value_to_string(array, row)? };
            folders.push(format!("{}={}", escape(&field.name), escape(&text)));
        }
        Ok(Partition { values: Struct::from_iter(literals), path: folders.join("/") })
    }
}

fn missing(name: &str) -> ArrowError {
    ArrowError::SchemaError(format!("the partition field {name} does not fit the rows"))
}

/// A name that is safe in paths and URIs of every store: what is not plain is percent-encoded.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.chars().take(PATH_VALUE_CHARS).collect::<String>().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn literal(array: &ArrayRef, row: usize, result: &PrimitiveType) -> Result<Option<Literal>, ArrowError> {
    if array.is_null(row) {
        return Ok(None);
    }
    let value = match (array.data_type(), result) {
        (DataType::Boolean, _) => Literal::bool(array.as_boolean().value(row)),
        (DataType::Int32, PrimitiveType::Date) => Literal::date(array.as_primitive::<Int32Type>().value(row)),
        (DataType::Int32, _) => Literal::int(array.as_primitive::<Int32Type>().value(row)),
        (DataType::Int64, _) => Literal::long(array.as_primitive::<Int64Type>().value(row)),
        (DataType::Float32, _) => Literal::float(array.as_primitive::<Float32Type>().value(row)),
        (DataType::Float64, _) => Literal::double(array.as_primitive::<Float64Type>().value(row)),
        (DataType::Date32, _) => Literal::date(array.as_primitive::<Date32Type>().value(row)),
        (DataType::Time64(TimeUnit::Microsecond), _) => {
            Literal::time(array.as_primitive::<Time64MicrosecondType>().value(row))
        }
        (DataType::Timestamp(TimeUnit::Microsecond, _), _) => {
            Literal::timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        (DataType::Timestamp(TimeUnit::Nanosecond, _), _) => {
            Literal::timestamp(array.as_primitive::<TimestampNanosecondType>().value(row))
        }
        (DataType::Decimal128(..), _) => Literal::decimal(array.as_primitive::<Decimal128Type>().value(row)),
        (DataType::Utf8View, _) => Literal::string(array.as_string_view().value(row)),
        (DataType::BinaryView, _) => Literal::binary(array.as_binary_view().value(row).to_vec()),
        (DataType::FixedSizeBinary(_), PrimitiveType::Uuid) => {
            let bytes = array.as_fixed_size_binary().value(row);
            let uuid = uuid::Uuid::from_slice(bytes).map_err(|e| ArrowError::ExternalError(Box::new(e)))?;
            Literal::uuid(uuid)
        }
        (DataType::FixedSizeBinary(_), _) => Literal::fixed(array.as_fixed_size_binary().value(row).to_vec()),
        (other, _) => return Err(ArrowError::NotYetImplemented(format!("a partition value of type {other}"))),
    };
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_hold_nothing_that_a_path_could_trip_over() {
        assert_eq!(escape("a/b c%"), "a%2Fb%20c%25");
        assert_eq!(escape("1.5"), "1.5");
        assert_eq!(escape(&"x".repeat(1000)).len(), PATH_VALUE_CHARS);
    }
}
