//! Branches and tags of a table.

use std::collections::BTreeMap;

use iceberg::spec::{MAIN_BRANCH, SnapshotRef, SnapshotReference, SnapshotRetention, TableMetadata};

/// All of them, by name. The crate shows references only in the JSON of the metadata, and of format version 1 not even there.
pub(crate) fn all(metadata: &TableMetadata) -> BTreeMap<String, SnapshotReference> {
    let json = serde_json::to_value(metadata).ok();
    let refs = json.and_then(|mut json| json.get_mut("refs").map(serde_json::Value::take));
    let mut refs: BTreeMap<String, SnapshotReference> =
        refs.and_then(|refs| serde_json::from_value(refs).ok()).unwrap_or_default();
    if let Some(current) = metadata.current_snapshot_id() {
        let main = || SnapshotReference::new(current, SnapshotRetention::branch(None, None, None));
        refs.entry(MAIN_BRANCH.to_string()).or_insert_with(main);
    }
    refs
}

/// The newest snapshot of a branch.
pub(crate) fn head<'a>(metadata: &'a TableMetadata, branch: &str) -> Option<&'a SnapshotRef> {
    match branch {
        MAIN_BRANCH => metadata.current_snapshot(),
        other => metadata.snapshot_for_ref(other),
    }
}
