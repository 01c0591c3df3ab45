//! The files and records of one snapshot: manifests, manifest list, summary.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, FormatVersion, ManifestFile, ManifestListWriter, ManifestWriterBuilder, Operation, PartitionField,
    PartitionSpec, PartitionSpecRef, PrimitiveType, Schema, Snapshot, SnapshotSummaryCollector, Summary, TableMetadata,
    Transform,
};
use townlake_common::{Error, ErrorCode, QueryId, Result};
use uuid::Uuid;

use super::delta::is_delete;
use super::merging;
use super::removal::{self, Kept};
use crate::maintenance::ManifestRewrite;
use crate::plan::{manifests, may_be_live};
use crate::{LoadedTable, ObjectAccess, WrittenFile};

/// The key in a snapshot's summary that makes a commit recognisable: one query commits once.
pub(super) const QUERY_ID: &str = "town.query-id";

const CHANGED_PARTITIONS: &str = "changed-partition-count";
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

/// A snapshot on its way: the manifests of the files that come are written once and go into the list of each attempt.
pub(super) struct Draft<'a> {
    objects: &'a ObjectAccess,
    query: &'a QueryId,
    files: &'a [WrittenFile],
    pub snapshot_id: i64,
    commit: Uuid,
    /// None without files.
    manifests: Vec<ManifestFile>,
}

/// What of the last snapshot is not in the next one.
pub(super) struct Going<'a> {
    /// URIs of data and delete files.
    pub files: &'a HashSet<String>,
    /// URIs of manifests.
    pub manifests: HashSet<&'a str>,
}

/// What one attempt has written.
pub(super) struct Attempt {
    pub snapshot: Snapshot,
    /// The list, and manifests that are in no other attempt's.
    pub written: Vec<String>,
}

impl<'a> Draft<'a> {
    /// Writes the manifests of the files: one for each partition spec, of data and of deletes. `sequence_number` is that of
    /// the data; by default the snapshot's.
    ///
    /// Errors: `COMMIT_CONFLICT` when the table has not a spec any more; those of the object store.
    pub async fn prepare(
        objects: &'a ObjectAccess,
        query: &'a QueryId,
        base: &TableMetadata,
        files: &'a [WrittenFile],
        sequence_number: Option<i64>,
    ) -> Result<Self> {
        let (snapshot_id, commit) = (fresh_snapshot_id(base), Uuid::new_v4());
        let mut draft = Self { objects, query, files, snapshot_id, commit, manifests: Vec::new() };
        let mut groups: BTreeMap<(bool, i32), Vec<&WrittenFile>> = BTreeMap::new();
        for file in files {
            groups.entry((is_delete(file), file.spec_id)).or_default().push(file);
        }
        for (number, ((deletes, spec_id), files)) in groups.into_iter().enumerate() {
            let spec = spec_of(base, spec_id)?;
            let uri = format!("{}/metadata/{commit}-m{number}.avro", base.location());
            let sequence = sequence_number.filter(|_| !deletes).unwrap_or(INHERITED);
            let encoded = encode_manifest(base, &spec, snapshot_id, deletes, &files, sequence).await;
            let (encoded, bytes) = encoded.map_err(|error| not_encoded(&uri, error))?;
            // Noted first: a request may have reached the store although it failed.
            draft.manifests.push(ManifestFile { manifest_path: uri.clone(), ..encoded });
            if let Err(error) = objects.write(&uri, bytes).await {
                objects.discard(draft.manifests().map(str::to_string).collect()).await;
                return Err(error);
            }
        }
        Ok(draft)
    }

    /// Of manifests that take the place of others.
    ///
    /// Errors: those of [`merging::merge`].
    pub async fn merging(
        table: &'a LoadedTable,
        query: &'a QueryId,
        base: &LoadedTable,
        rewrite: &ManifestRewrite,
    ) -> Result<Self> {
        let (snapshot_id, commit) = (fresh_snapshot_id(&base.metadata), Uuid::new_v4());
        let manifests = merging::merge(base, rewrite, snapshot_id).await?;
        Ok(Self { objects: &table.objects, query, files: &[], snapshot_id, commit, manifests })
    }

    /// Writes the manifest list on top of `table`, without what goes, and returns the snapshot that names it.
    ///
    /// Errors: those of [`removal::without`] and of the object store; `COMMIT_CONFLICT` where a manifest that goes is gone.
    pub async fn write_list(
        &self,
        table: &LoadedTable,
        attempt: usize,
        going: &Going<'_>,
        operation: Operation,
    ) -> Result<Attempt> {
        let base = table.metadata.as_ref();
        let version = base.format_version();
        let mut listed = self.manifests.clone();
        let mut kept = Kept::default();
        if let Some(parent) = &table.snapshot {
            let all = manifests::list(self.objects, parent, version).await?;
            let goes = |manifest: &&ManifestFile| going.manifests.contains(manifest.manifest_path.as_str());
            if all.iter().filter(goes).count() != going.manifests.len() {
                let message = format!("the manifests of table {} were changed by another writer", table.full_name());
                return Err(Error::new(ErrorCode::CommitConflict, message).with_hint("run the statement again"));
            }
            let live = all.iter().filter(|manifest| may_be_live(manifest) && !goes(manifest)).cloned().collect();
            kept = removal::without(table, live, going.files, self.snapshot_id).await?;
            listed.append(&mut kept.manifests);
        }
        let uri = format!("{}/metadata/snap-{}-{attempt}-{}.avro", base.location(), self.snapshot_id, self.commit);
        let parent_id = table.snapshot_id();
        let sequence_number = base.next_sequence_number();
        let bytes = encode_list(version, self.snapshot_id, parent_id, sequence_number, listed)
            .await
            .map_err(|error| not_encoded(&uri, error))?;
        self.objects.write(&uri, bytes).await?;
        // A clock behind the last writer's must not run the table's history backwards.
        let timestamp = chrono::Utc::now().timestamp_millis().max(base.last_updated_ms());
        let snapshot = Snapshot::builder()
            .with_snapshot_id(self.snapshot_id)
            .with_parent_snapshot_id(parent_id)
            .with_sequence_number(sequence_number)
            .with_timestamp_ms(timestamp)
            .with_manifest_list(uri.clone())
            .with_summary(self.summary(table, &kept, operation)?)
            .with_schema_id(base.current_schema_id())
            .build();
        kept.written.push(uri);
        Ok(Attempt { snapshot, written: kept.written })
    }

    fn summary(&self, table: &LoadedTable, kept: &Kept, operation: Operation) -> Result<Summary> {
        let base = table.metadata.as_ref();
        let mut collector = SnapshotSummaryCollector::default();
        let limit = base.properties().get(PARTITION_SUMMARY_LIMIT).and_then(|limit| limit.parse().ok());
        collector.set_partition_summary_limit(limit.unwrap_or(0));
        let schema = base.current_schema();
        let mut unnamed = HashSet::new();
        let mut spec_for = |file: &DataFile, spec_id: i32| {
            let spec = spec_of(base, spec_id)?;
            if is_named(&spec, schema) {
                return Ok(spec);
            }
            unnamed.insert((spec_id, file.partition().clone()));
            Ok::<_, Error>(Arc::new(PartitionSpec::unpartition_spec()))
        };
        for file in self.files {
            collector.add_file(&file.data_file, Arc::clone(schema), spec_for(&file.data_file, file.spec_id)?);
        }
        for (file, spec_id) in &kept.removed {
            collector.remove_file(file, Arc::clone(schema), spec_for(file, *spec_id)?);
        }
        let mut properties = collector.build();
        if !unnamed.is_empty() {
            let named = properties.get(CHANGED_PARTITIONS).and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
            properties.insert(CHANGED_PARTITIONS.to_string(), (named + unnamed.len()).to_string());
        }
        properties.insert(QUERY_ID.to_string(), self.query.to_string());
        properties.insert("engine-name".to_string(), "townlake".to_string());
        let previous = table.snapshot.as_ref().map(|snapshot| &snapshot.summary().additional_properties);
        add_totals(&mut properties, previous);
        Ok(Summary { operation, additional_properties: properties })
    }

    /// Where the manifests of the files are.
    pub fn manifests(&self) -> impl Iterator<Item = &str> {
        self.manifests.iter().map(|manifest| manifest.manifest_path.as_str())
    }
}

/// Whether the crate `iceberg` can name each partition: of an instant with a fraction before 1970 it panics.
fn is_named(spec: &PartitionSpec, schema: &Schema) -> bool {
    let is_instant = |field: &PartitionField| {
        let source = schema.field_by_id(field.source_id).and_then(|source| source.field_type.as_primitive_type());
        let instants = [Some(&PrimitiveType::Timestamptz), Some(&PrimitiveType::TimestamptzNs)];
        field.transform == Transform::Identity && instants.contains(&source)
    };
    !spec.fields().iter().any(is_instant)
}

fn spec_of(base: &TableMetadata, id: i32) -> Result<PartitionSpecRef> {
    base.partition_spec_by_id(id).cloned().ok_or_else(|| {
        let message = format!("the partition spec {id} was removed while rows were written for it");
        Error::new(ErrorCode::CommitConflict, message)
    })
}

/// For the writer: the sequence number is the snapshot's, known only when the list is written.
const INHERITED: i64 = -1;

async fn encode_manifest(
    base: &TableMetadata,
    spec: &PartitionSpecRef,
    snapshot_id: i64,
    deletes: bool,
    files: &[&WrittenFile],
    sequence_number: i64,
) -> std::result::Result<(ManifestFile, Bytes), iceberg::Error> {
    const NAME: &str = "memory://manifest";
    let memory = FileIO::new_with_memory();
    let output = memory.new_output(NAME)?;
    let schema = Arc::clone(base.current_schema());
    let builder = ManifestWriterBuilder::new(output, Some(snapshot_id), schema, spec.as_ref().clone());
    let mut writer = match base.format_version() {
        FormatVersion::V1 => builder.build_v1(),
        _ if deletes => builder.build_v2_deletes(),
        _ => builder.build_v2_data(),
    };
    for file in files {
        writer.add_file(file.data_file.clone(), sequence_number)?;
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

pub(super) fn not_encoded(uri: &str, error: iceberg::Error) -> Error {
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
