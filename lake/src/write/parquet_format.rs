//! How our Parquet files are laid out.

use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::Schema as ArrowSchema;
use iceberg::spec::{PrimitiveType, Schema, Type as IcebergType};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, LogicalType, Repetition};
use parquet::errors::Result;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};

/// A row group is cut at this many rows: it is the smallest part of a scan, and a scan of few groups leaves slots idle.
const ROW_GROUP_ROWS: usize = 1 << 17;

/// The options for files of a table.
///
/// The Arrow schema is not embedded: Iceberg's types follow from the Parquet types, and other readers would take its
/// view types as advice.
pub(super) fn options(
    schema: &Schema,
    arrow: &ArrowSchema,
    compression: &str,
    row_group_bytes: u64,
) -> Result<ArrowWriterOptions> {
    let compression = Compression::from_str(compression)?;
    let json = serde_json::to_string(schema).map_err(|e| parquet::errors::ParquetError::External(Box::new(e)))?;
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(usize::try_from(row_group_bytes).unwrap_or(usize::MAX).max(1)))
        .set_created_by(concat!("townlake ", env!("CARGO_PKG_VERSION")).to_string())
        .set_key_value_metadata(Some(vec![KeyValue::new("iceberg.schema".to_string(), json)]))
        .build();
    let descriptor = ArrowSchemaConverter::new().convert(arrow)?;
    let root = with_uuids(&descriptor.root_schema_ptr(), schema)?;
    Ok(ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(true)
        .with_parquet_schema(SchemaDescriptor::new(root)))
}

/// The Parquet schema with its UUID columns marked, by field id: Arrow has them as plain 16 bytes.
fn with_uuids(node: &TypePtr, schema: &Schema) -> Result<TypePtr> {
    let info = node.get_basic_info();
    let id = info.has_id().then(|| info.id());
    if node.is_group() {
        let fields = node.get_fields().iter().map(|field| with_uuids(field, schema)).collect::<Result<Vec<_>>>()?;
        let mut builder = Type::group_type_builder(node.name())
            .with_fields(fields)
            .with_converted_type(info.converted_type())
            .with_logical_type(info.logical_type_ref().cloned())
            .with_id(id);
        if info.has_repetition() {
            builder = builder.with_repetition(info.repetition());
        }
        return Ok(Arc::new(builder.build()?));
    }
    let field = id.and_then(|id| schema.field_by_id(id));
    let is_uuid = field.is_some_and(|f| matches!(f.field_type.as_ref(), IcebergType::Primitive(PrimitiveType::Uuid)));
    if !is_uuid {
        return Ok(Arc::clone(node));
    }
    let repetition = if info.has_repetition() { info.repetition() } else { Repetition::OPTIONAL };
    let column = Type::primitive_type_builder(node.name(), node.get_physical_type())
        .with_repetition(repetition)
        .with_length(16)
        .with_logical_type(Some(LogicalType::Uuid))
        .with_id(id)
        .build()?;
    Ok(Arc::new(column))
}
