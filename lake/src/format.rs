//! What of the table format is read and written here. The rest is refused by name: never read or written wrongly.

use iceberg::spec::{FormatVersion, Literal, NestedField, Transform, Type};
use townlake_common::{Error, ErrorCode, Result};

use crate::LoadedTable;

/// Properties that say that a table's files are encrypted.
const ENCRYPTION_KEY: &str = "encryption.key-id";

/// The refusal of a feature, naming it and the table.
pub(crate) fn unsupported(table: &LoadedTable, feature: &str) -> Error {
    let message = format!("table {} {feature}, which is not supported yet", table.full_name());
    Error::new(ErrorCode::FormatNotSupported, message)
}

/// Whether the table can be read as far as its metadata tells; manifests tell the rest.
pub(crate) fn check_readable(table: &LoadedTable) -> Result<()> {
    let snapshot_key = table.snapshot.as_ref().and_then(|snapshot| snapshot.encryption_key_id());
    if snapshot_key.is_some() || table.metadata.properties().contains_key(ENCRYPTION_KEY) {
        return Err(unsupported(table, "is encrypted"));
    }
    if let Some(name) = table.iceberg_schema.as_struct().fields().iter().find_map(|field| nested_default_in(field)) {
        return Err(unsupported(table, &format!("has a nested default value for the column {name}")));
    }
    Ok(())
}

/// Whether rows can be appended to the table.
pub(crate) fn check_writable(table: &LoadedTable) -> Result<()> {
    check_readable(table)?;
    if table.metadata.format_version() > FormatVersion::V2 {
        return Err(unsupported(table, "has format version 3 and would be written"));
    }
    let spec = table.metadata.default_partition_spec();
    if let Some(field) = spec.fields().iter().find(|field| field.transform == Transform::Unknown) {
        return Err(unsupported(table, &format!("is partitioned by an unknown transform ({})", field.name)));
    }
    // The crate `iceberg` would write manifests that it cannot read.
    if let Some(field) = spec.fields().iter().find(|field| !is_avro_name(&field.name)) {
        return Err(unsupported(table, &format!("has a partition field that manifests cannot name ({})", field.name)));
    }
    Ok(())
}

/// Whether the Avro schema of a manifest takes the name.
pub(crate) fn is_avro_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty() && name.chars().all(plain)
}

/// The name of a field whose default is no plain value.
fn nested_default_in(field: &NestedField) -> Option<&str> {
    if matches!(field.initial_default, Some(Literal::Struct(_) | Literal::List(_) | Literal::Map(_))) {
        return Some(&field.name);
    }
    match field.field_type.as_ref() {
        Type::Primitive(_) => None,
        Type::Struct(fields) => fields.fields().iter().find_map(|field| nested_default_in(field)),
        Type::List(list) => nested_default_in(&list.element_field),
        Type::Map(map) => nested_default_in(&map.key_field).or_else(|| nested_default_in(&map.value_field)),
    }
}
