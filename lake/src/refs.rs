//! Branches and tags of a table.

use std::collections::BTreeMap;

use iceberg::spec::{SnapshotReference, TableMetadata};

/// All of them, by name. The crate shows references only in the JSON of the metadata.
pub(crate) fn all(metadata: &TableMetadata) -> BTreeMap<String, SnapshotReference> {
    let json = serde_json::to_value(metadata).ok();
    let refs = json.and_then(|mut json| json.get_mut("refs").map(serde_json::Value::take));
    refs.and_then(|refs| serde_json::from_value(refs).ok()).unwrap_or_default()
}
