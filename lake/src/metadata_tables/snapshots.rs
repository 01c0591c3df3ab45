//! What the metadata file alone tells: `$snapshots`, `$history`, `$refs` and `$properties`.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use iceberg::spec::{SnapshotRetention, TableMetadata};
use townlake_common::Result;

use super::values::{map_names, map_type};
use super::{optional, required, unfit};
use crate::schema::UTC;

const MICROS_PER_MILLI: i64 = 1000;

pub(super) fn schema() -> Schema {
    Schema::new(vec![
        required("committed_at", moment()),
        required("snapshot_id", DataType::Int64),
        optional("parent_id", DataType::Int64),
        optional("operation", DataType::Utf8),
        optional("manifest_list", DataType::Utf8),
        optional("summary", map_type(DataType::Utf8, DataType::Utf8)),
    ])
}

/// Every snapshot, by the time of its commit.
pub(super) fn batch(metadata: &TableMetadata, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut snapshots: Vec<_> = metadata.snapshots().collect();
    snapshots.sort_by_key(|snapshot| (snapshot.sequence_number(), snapshot.timestamp_ms(), snapshot.snapshot_id()));
    let mut summaries = MapBuilder::new(Some(map_names()), StringBuilder::new(), StringBuilder::new());
    for snapshot in &snapshots {
        let mut summary: Vec<_> = snapshot.summary().additional_properties.iter().collect();
        summary.sort();
        for (key, value) in summary {
            summaries.keys().append_value(key);
            summaries.values().append_value(value);
        }
        summaries.append(true).map_err(unfit)?;
    }
    let columns: Vec<ArrayRef> = vec![
        moments(snapshots.iter().map(|snapshot| snapshot.timestamp_ms())),
        Arc::new(snapshots.iter().map(|snapshot| Some(snapshot.snapshot_id())).collect::<Int64Array>()),
        Arc::new(snapshots.iter().map(|snapshot| snapshot.parent_snapshot_id()).collect::<Int64Array>()),
        Arc::new(snapshots.iter().map(|s| Some(s.summary().operation.as_str())).collect::<StringArray>()),
        Arc::new(snapshots.iter().map(|snapshot| Some(snapshot.manifest_list())).collect::<StringArray>()),
        Arc::new(summaries.finish()),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(unfit)
}

pub(super) fn history_schema() -> Schema {
    Schema::new(vec![
        required("made_current_at", moment()),
        required("snapshot_id", DataType::Int64),
        optional("parent_id", DataType::Int64),
        required("is_current_ancestor", DataType::Boolean),
    ])
}

/// Which snapshot of the main branch was current since when.
pub(super) fn history(metadata: &TableMetadata, schema: &SchemaRef) -> Result<RecordBatch> {
    let ancestors = ancestors(metadata);
    let log = metadata.history();
    let parent = |id| metadata.snapshot_by_id(id).and_then(|snapshot| snapshot.parent_snapshot_id());
    let columns: Vec<ArrayRef> = vec![
        moments(log.iter().map(|entry| entry.timestamp_ms())),
        Arc::new(log.iter().map(|entry| Some(entry.snapshot_id)).collect::<Int64Array>()),
        Arc::new(log.iter().map(|entry| parent(entry.snapshot_id)).collect::<Int64Array>()),
        Arc::new(log.iter().map(|entry| Some(ancestors.contains(&entry.snapshot_id))).collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(unfit)
}

/// The current snapshot and those that it came from.
fn ancestors(metadata: &TableMetadata) -> HashSet<i64> {
    let mut found = HashSet::new();
    let mut next = metadata.current_snapshot();
    while let Some(snapshot) = next {
        if !found.insert(snapshot.snapshot_id()) {
            break; // a circle in damaged metadata
        }
        next = snapshot.parent_snapshot_id().and_then(|id| metadata.snapshot_by_id(id));
    }
    found
}

pub(super) fn refs_schema() -> Schema {
    Schema::new(vec![
        required("name", DataType::Utf8),
        required("type", DataType::Utf8),
        required("snapshot_id", DataType::Int64),
        optional("max_reference_age_in_ms", DataType::Int64),
        optional("min_snapshots_to_keep", DataType::Int32),
        optional("max_snapshot_age_in_ms", DataType::Int64),
    ])
}

/// Branches and tags, by name.
pub(super) fn refs(metadata: &TableMetadata, schema: &SchemaRef) -> Result<RecordBatch> {
    let refs = crate::refs::all(metadata);
    let limits: Vec<_> = refs.values().map(|reference| limits(&reference.retention)).collect();
    let kinds = refs.values().map(|reference| Some(if reference.is_branch() { "BRANCH" } else { "TAG" }));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(refs.keys().map(Some).collect::<StringArray>()),
        Arc::new(kinds.collect::<StringArray>()),
        Arc::new(refs.values().map(|reference| Some(reference.snapshot_id)).collect::<Int64Array>()),
        Arc::new(limits.iter().map(|(age, ..)| *age).collect::<Int64Array>()),
        Arc::new(limits.iter().map(|(_, snapshots, _)| *snapshots).collect::<Int32Array>()),
        Arc::new(limits.iter().map(|(.., snapshot_age)| *snapshot_age).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(unfit)
}

/// How old a reference may be, how many snapshots it keeps, and how old those may be.
fn limits(retention: &SnapshotRetention) -> (Option<i64>, Option<i32>, Option<i64>) {
    match retention {
        SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, max_ref_age_ms } => {
            (*max_ref_age_ms, *min_snapshots_to_keep, *max_snapshot_age_ms)
        }
        SnapshotRetention::Tag { max_ref_age_ms } => (*max_ref_age_ms, None, None),
    }
}

pub(super) fn properties_schema() -> Schema {
    Schema::new(vec![required("key", DataType::Utf8), optional("value", DataType::Utf8)])
}

/// The table's properties, by key.
pub(super) fn properties(metadata: &TableMetadata, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut properties: Vec<_> = metadata.properties().iter().collect();
    properties.sort();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(properties.iter().map(|(key, _)| Some(key)).collect::<StringArray>()),
        Arc::new(properties.iter().map(|(_, value)| Some(value)).collect::<StringArray>()),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(unfit)
}

fn moment() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

fn moments(milliseconds: impl Iterator<Item = i64>) -> ArrayRef {
    let micros = milliseconds.map(|ms| Some(ms.saturating_mul(MICROS_PER_MILLI)));
    Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone(UTC))
}
