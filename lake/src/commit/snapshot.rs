//! The files and records of one appending snapshot: manifests, manifest list, summary.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use iceberg::io::FileIO;
use iceberg::spec::{
    FormatVersion, ManifestFile, ManifestListWriter, ManifestWriterBuilder, Operation, PartitionSpecRef, Snapshot,
    SnapshotSummaryCollector, Summary, TableMetadata,
};
use townlake_common::{Error, ErrorCode, QueryId, Result};
use uuid::Uuid;

use crate::plan::manifests;
use crate::plan::may_be_live;
use crate::{ObjectAccess, WrittenFile};

/// The key in a snapshot's summary that makes a commit recognisable: one query commits once.
pub(super) const QUERY_ID: &str = "town.query-id";

const PARTITION_SUMMARY_LIMIT: &str = "write.summary.partition-limit";
/// Totals, with what is added and removed to reach them.
const TOTALS: [(&str, &str, &str); 6] = [
    ("total-data-files", "added-data-files", "deleted-data-files"),
    ("total-delete-files", "added-delete-files", "removed-delete-files"),
    ("total-records", "added-records", "deleted-records"),
    ("total-files-size", "added-files-size", "removed-files-size"),
    ("total-position-deletes", "added-position-deletes", "removed-position-deletes"),
    ("total-equality-deletes", "added-equality-deletes", "removed-equality-deletes"),
];

/// An append on its way: its manifest is written once and goes into the manifest list of each attempt.
pub(super) struct Append<'a> {
    objects: &'a ObjectAccess,
    query: &'a QueryId,
    files: &'a [WrittenFile],
    spec: PartitionSpecRef,
    pub snapshot_id: i64,
    commit: Uuid,
    /// `None` without files.
    manifest: Option<ManifestFile>,
}

impl<'a> Append<'a> {
    /// Writes the manifest of files that follow the partition spec `spec_id`.
    ///
    /// Errors: `COMMIT_CONFLICT` when the table has not that spec any more; those of the object store.
    pub async fn prepare(
        objects: &'a ObjectAccess,
        query: &'a QueryId,
        base: &TableMetadata,
        spec_id: i32,
        files: &'a [WrittenFile],
    ) -> Result<Self> {
        let spec = base.partition_spec_by_id(spec_id).cloned().ok_or_else(|| {
            let message = format!("the partition spec {spec_id} was removed while rows were written for it");
            Error::new(ErrorCode::CommitConflict, message)
        })?;
        let (snapshot_id, commit) = (fresh_snapshot_id(base), Uuid::new_v4());
        let mut manifest = None;
        if !files.is_empty() {
            let uri = format!("{}/metadata/{commit}-m0.avro", base.location());
            let encoded = encode_manifest(base, &spec, snapshot_id, files).await;
            let (encoded, bytes) = encoded.map_err(|error| not_encoded(&uri, error))?;
            objects.write(&uri, bytes).await?;
            manifest = Some(ManifestFile { manifest_path: uri, ..encoded });
        }
        Ok(Self { objects, query, files, spec, snapshot_id, commit, manifest })
    }

    /// Writes the manifest list on top of `base` and returns the snapshot that names it.
    pub async fn write_list(&self, base: &TableMetadata, attempt: usize) -> Result<Snapshot> {
        let version = base.format_version();
        let parent = base.current_snapshot();
        let mut listed: Vec<ManifestFile> = self.manifest.iter().cloned().collect();
        if let Some(parent) = parent {
            let kept = manifests::list(self.objects, parent, version).await?;
            listed.extend(kept.into_iter().filter(may_be_live));
        }
        let uri = format!("{}/metadata/snap-{}-{attempt}-{}.avro", base.location(), self.snapshot_id, self.commit);
        let parent_id = parent.map(|snapshot| snapshot.snapshot_id());
        let sequence_number = base.next_sequence_number();
        let bytes = encode_list(version, self.snapshot_id, parent_id, sequence_number, listed)
            .await
            .map_err(|error| not_encoded(&uri, error))?;
        self.objects.write(&uri, bytes).await?;
        // A clock behind the last writer's must not run the table's history backwards.
        let timestamp = chrono::Utc::now().timestamp_millis().max(base.last_updated_ms());
        Ok(Snapshot::builder()
            .with_snapshot_id(self.snapshot_id)
            .with_parent_snapshot_id(parent_id)
            .with_sequence_number(sequence_number)
            .with_timestamp_ms(timestamp)
            .with_manifest_list(uri)
            .with_summary(self.summary(base))
            .with_schema_id(base.current_schema_id())
            .build())
    }

    fn summary(&self, base: &TableMetadata) -> Summary {
        let mut collector = SnapshotSummaryCollector::default();
        let limit = base.properties().get(PARTITION_SUMMARY_LIMIT).and_then(|limit| limit.parse().ok());
        collector.set_partition_summary_limit(limit.unwrap_or(0));
        for file in self.files {
            collector.add_file(&file.data_file, Arc::clone(base.current_schema()), Arc::clone(&self.spec));
        }
        let mut properties = collector.build();
        properties.insert(QUERY_ID.to_string(), self.query.to_string());
        properties.insert("engine-name".to_string(), "townlake".to_string());
        let previous = base.current_snapshot().map(|snapshot| &snapshot.summary().additional_properties);
        add_totals(&mut properties, previous);
        Summary { operation: Operation::Append, additional_properties: properties }
    }

    /// Where the manifest is; `None` without files.
    pub fn manifest(&self) -> Option<&str> {
        self.manifest.as_ref().map(|manifest| manifest.manifest_path.as_str())
    }
}

/// For the writer: the sequence number is the snapshot's, known only when the list is written.
const INHERITED: i64 = -1;

async fn encode_manifest(
    base: &TableMetadata,
    spec: &PartitionSpecRef,
    snapshot_id: i64,
    files: &[WrittenFile],
) -> std::result::Result<(ManifestFile, Bytes), iceberg::Error> {
    const NAME: &str = "memory://manifest";
    let memory = FileIO::new_with_memory();
    let output = memory.new_output(NAME)?;
    let schema = Arc::clone(base.current_schema());
    let builder = ManifestWriterBuilder::new(output, Some(snapshot_id), schema, spec.as_ref().clone());
    let mut writer = match base.format_version() {
        FormatVersion::V1 => builder.build_v1(),
        _ => builder.build_v2_data(),
    };
    for file in files {
        writer.add_file(file.data_file.clone(), INHERITED)?;
    }
    let manifest = writer.write_manifest_file().await?;
    Ok((manifest, memory.new_input(NAME)?.read().await?))
}

async fn encode_list(
    version: FormatVersion,
    snapshot_id: i64,
    parent: Option<i64>,
    sequence_number: i64,
    manifests: Vec<ManifestFile>,
) -> std::result::Result<Bytes, iceberg::Error> {
    const NAME: &str = "memory://list";
    let memory = FileIO::new_with_memory();
    let output = memory.new_output(NAME)?.writer().await?;
    let mut writer = match version {
        FormatVersion::V1 => ManifestListWriter::v1(output, snapshot_id, parent),
        _ => ManifestListWriter::v2(output, snapshot_id, parent, sequence_number),
    };
    writer.add_manifests(manifests.into_iter())?;
    writer.close().await?;
    memory.new_input(NAME)?.read().await
}

fn not_encoded(uri: &str, error: iceberg::Error) -> Error {
    Error::new(ErrorCode::Internal, format!("{uri} cannot be encoded: {}", error.message())).with_source(error)
}

/// Totals are the previous snapshot's plus what is added minus what is removed; where the previous one has none, neither
/// has this one, because a wrong total is worse than none.
fn add_totals(properties: &mut HashMap<String, String>, previous: Option<&HashMap<String, String>>) {
    let number = |map: &HashMap<String, String>, key: &str| map.get(key).and_then(|text| text.parse::<u64>().ok());
    for (total, added, removed) in TOTALS {
        let before = match previous {
            None => Some(0),
            Some(previous) => number(previous, total),
        };
        let change = |key| number(properties, key).unwrap_or(0);
        let after = before.and_then(|n| n.checked_add(change(added))?.checked_sub(change(removed)));
        if let Some(after) = after {
            properties.insert(total.to_string(), after.to_string());
        }
    }
}

fn fresh_snapshot_id(base: &TableMetadata) -> i64 {
    loop {
        let id = rand::random_range(1..i64::MAX);
        if base.snapshot_by_id(id).is_none() {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_follow_the_previous_snapshot() {
        let map = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
        };
        let mut first = map(&[("added-data-files", "2"), ("added-records", "10")]);
        add_totals(&mut first, None);
        assert_eq!((first["total-data-files"].as_str(), first["total-records"].as_str()), ("2", "10"));
        let mut second = map(&[("added-data-files", "1"), ("added-records", "5")]);
        add_totals(&mut second, Some(&first));
        assert_eq!((second["total-data-files"].as_str(), second["total-records"].as_str()), ("3", "15"));
        let mut third = map(&[("added-records", "5")]);
        add_totals(&mut third, Some(&map(&[("total-data-files", "many")])));
        assert!(!third.contains_key("total-data-files") && !third.contains_key("total-records"));
    }
}
