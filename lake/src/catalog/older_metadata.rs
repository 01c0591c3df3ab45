//! Metadata as the specification lets older writers leave it, with what the crate `iceberg` asks for beyond that.
//!
//! Source: <https://iceberg.apache.org/spec/#appendix-e-format-version-changes>; the numbers are those that Iceberg's Java library gives
//! (`SnapshotParser`, `PartitionSpecParser`, `TableMetadataParser`).

use iceberg::spec::{FormatVersion, TableMetadata};
use serde_json::{Value, json};

use super::metadata_file::has_text;

/// The id of the first partition field of a table.
const FIRST_PARTITION_FIELD: i64 = 1000;
const LAST_PARTITION_ID: &str = "last-partition-id";

/// Whether metadata that was parsed from `json` has another last partition field than it should: the crate takes the last spec.
pub(super) fn is_misread(metadata: &TableMetadata, json: &[u8]) -> bool {
    metadata.format_version() == FormatVersion::V1 && !has_text(json, LAST_PARTITION_ID)
}

/// The metadata with what is left out: the sequence number 0 of snapshots of version 1, ids of the partition fields of tables of
/// version 1, and the last one of these.
pub(super) fn completed(mut metadata: Value) -> Value {
    match metadata.get("format-version").and_then(Value::as_u64) {
        Some(1) => number_partition_fields(&mut metadata),
        Some(3) => number_snapshots(&mut metadata),
        _ => {}
    }
    metadata
}

fn number_snapshots(metadata: &mut Value) {
    let snapshots = metadata.get_mut("snapshots").and_then(Value::as_array_mut);
    for snapshot in snapshots.into_iter().flatten().filter_map(Value::as_object_mut) {
        snapshot.entry("sequence-number").or_insert(json!(0));
    }
}

fn number_partition_fields(metadata: &mut Value) {
    let mut last = FIRST_PARTITION_FIELD - 1;
    if let Some(fields) = metadata.get_mut("partition-spec") {
        last = last.max(numbered(fields));
    }
    let specs = metadata.get_mut("partition-specs").and_then(Value::as_array_mut);
    for fields in specs.into_iter().flatten().filter_map(|spec| spec.get_mut("fields")) {
        last = last.max(numbered(fields));
    }
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.entry(LAST_PARTITION_ID).or_insert(json!(last));
    }
}

/// Numbers the fields of one partition spec that have no id, and gives the highest.
pub(crate) fn numbered(fields: &mut Value) -> i64 {
    let fields = fields.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
    let numbered = (FIRST_PARTITION_FIELD..).zip(fields);
    let ids = numbered.filter_map(|(number, field)| field.entry("field-id").or_insert(json!(number)).as_i64());
    ids.max().unwrap_or(FIRST_PARTITION_FIELD - 1)
}

/// Whether a snapshot names its manifests itself, as the first writers did.
pub(super) fn has_manifests_in_snapshots(metadata: &Value) -> bool {
    let mut snapshots = metadata.get("snapshots").and_then(Value::as_array).into_iter().flatten();
    snapshots.any(|snapshot| snapshot.get("manifests").is_some() && snapshot.get("manifest-list").is_none())
}

#[cfg(test)]
mod tests {
    use super::super::metadata_file::parse;
    use townlake_common::ErrorCode;

    fn of_version_1(more: &str) -> String {
        format!(
            r#"{{"format-version": 1, "location": "file:///t", "last-updated-ms": 1602638573590, "last-column-id": 2,
            "schema": {{"type": "struct", "fields": [{{"id": 1, "name": "a", "required": false, "type": "int"}},
            {{"id": 2, "name": "b", "required": false, "type": "string"}}]}}, "partition-spec":
            [{{"source-id": 1, "name": "a", "transform": "identity"}},
            {{"source-id": 2, "name": "b_bucket", "transform": "bucket[3]"}}]{more}}}"#
        )
    }

    #[test]
    fn metadata_of_the_first_writers_gets_its_numbers() {
        let metadata = parse(of_version_1("").as_bytes(), "lake.s.t").unwrap();
        let ids: Vec<_> = metadata.default_partition_spec().fields().iter().map(|field| field.field_id).collect();
        assert_eq!((ids, metadata.last_partition_id()), (vec![1000, 1001], 1001));
        let told = parse(of_version_1(r#", "last-partition-id": 1007"#).as_bytes(), "lake.s.t").unwrap();
        assert_eq!(told.last_partition_id(), 1007);

        let snapshot = |of: &str| {
            format!(
                r#", "current-snapshot-id": 5, "snapshots": [{{"snapshot-id": 5, "timestamp-ms": 1602638573590, {of}}}]"#
            )
        };
        let listed = of_version_1(&snapshot(r#""manifest-list": "file:///t/l.avro""#));
        assert_eq!(parse(listed.as_bytes(), "lake.s.t").unwrap().current_snapshot().unwrap().sequence_number(), 0);
        let inline = of_version_1(&snapshot(r#""manifests": ["file:///t/m.avro"]"#));
        let error = parse(inline.as_bytes(), "lake.s.t").unwrap_err();
        assert_eq!(error.code(), ErrorCode::FormatNotSupported, "{error}");
        assert!(error.message().contains("manifests") && error.message().contains("lake.s.t"), "{error}");
    }

    #[test]
    fn a_snapshot_of_version_1_in_a_table_of_version_3_is_the_oldest() {
        let text = r#"{"format-version": 3, "table-uuid": "9c12d441-03fe-4693-9a96-a0705ddf69c1", "location": "file:///t",
            "last-sequence-number": 7, "next-row-id": 0, "last-updated-ms": 1602638573590, "last-column-id": 1,
            "current-schema-id": 0, "schemas": [{"type": "struct", "schema-id": 0, "fields": [{"id": 1, "name": "a",
            "required": false, "type": "int"}]}], "default-spec-id": 0, "partition-specs": [{"spec-id": 0, "fields": []}],
            "last-partition-id": 999, "default-sort-order-id": 0, "sort-orders": [{"order-id": 0, "fields": []}],
            "current-snapshot-id": 5, "snapshots": [{"snapshot-id": 5, "timestamp-ms": 1602638573590, "manifest-list":
            "file:///t/l.avro", "summary": {"operation": "append"}}]}"#;
        assert_eq!(parse(text.as_bytes(), "lake.s.t").unwrap().current_snapshot().unwrap().sequence_number(), 0);
    }
}
