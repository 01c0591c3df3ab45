//! Defaults of columns that parsed metadata lacks: the crate `iceberg` leaves out a default that it cannot parse (one of
//! nanoseconds, say), after which old rows would read as NULL where the default belongs.

use iceberg::spec::{Schema, TableMetadata};
use serde_json::Value;
use townlake_common::{Error, ErrorCode, Result};

use super::metadata_file::has_text;

const KEY: &str = "initial-default";

/// Whether the JSON text of metadata may have defaults at all.
pub(super) fn may_be_in(json: &[u8]) -> bool {
    has_text(json, KEY)
}

/// Errors: `FORMAT_NOT_SUPPORTED` naming the column whose default is in `json` and not in `metadata`.
pub(super) fn check(metadata: &TableMetadata, json: &Value, what: &str) -> Result<()> {
    let Some(schemas) = json.get("schemas").and_then(Value::as_array) else { return Ok(()) };
    for json in schemas {
        let id = json.get("schema-id").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok());
        let Some(schema) = id.and_then(|id| metadata.schema_by_id(id)) else { continue };
        if let Some(column) = lost(json, schema) {
            let message = format!("table {what} has a default value for the column {column} that cannot be read");
            return Err(Error::new(ErrorCode::FormatNotSupported, message));
        }
    }
    Ok(())
}

/// The name of a field with a default that `schema` lacks.
fn lost<'a>(json: &'a Value, schema: &Schema) -> Option<&'a str> {
    match json {
        Value::Array(items) => items.iter().find_map(|item| lost(item, schema)),
        Value::Object(field) => {
            let id = field.get("id").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok());
            let has_default = field.get(KEY).is_some_and(|default| !default.is_null());
            let known = id.and_then(|id| schema.field_by_id(id)).is_some_and(|field| field.initial_default.is_some());
            if has_default && !known {
                return Some(field.get("name").and_then(Value::as_str).unwrap_or("without a name"));
            }
            ["type", "fields", "element", "key", "value"].iter().find_map(|key| lost(field.get(*key)?, schema))
        }
        _ => None,
    }
}
