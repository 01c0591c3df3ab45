//! The manifests of a table without some of its files: those that name one are written anew, the others stay as they are.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, FormatVersion, ManifestContentType, ManifestEntry, ManifestFile, ManifestMetadata, ManifestStatus,
    ManifestWriterBuilder, TableMetadata,
};
use townlake_common::{Error, ErrorCode, Result, fault};
use uuid::Uuid;

use super::snapshot::not_encoded;
use crate::LoadedTable;
use crate::format::unsupported;
use crate::plan::{manifest_file, manifests};

const MANIFESTS_AT_ONCE: usize = 8;

/// The manifests of the next snapshot, as far as they come from the last one.
#[derive(Default)]
pub(super) struct Kept {
    pub manifests: Vec<ManifestFile>,
    /// Those among them that were written for this.
    pub written: Vec<String>,
    /// The files that are in them no more, each with its partition spec.
    pub removed: Vec<(DataFile, i32)>,
}

/// Leaves `removed` out of the manifests of `table`, for the snapshot `snapshot_id`.
///
/// Errors: `COMMIT_CONFLICT` where one of the files is not there; those of the object store.
pub(super) async fn without(
    table: &LoadedTable,
    listed: Vec<ManifestFile>,
    removed: &HashSet<String>,
    snapshot_id: i64,
) -> Result<Kept> {
    if removed.is_empty() {
        return Ok(Kept { manifests: listed, ..Kept::default() });
    }
    let rewriting = stream::iter(listed).map(|manifest| one(table, manifest, removed, snapshot_id));
    let done: Vec<(ManifestFile, Vec<(DataFile, i32)>)> = rewriting.buffered(MANIFESTS_AT_ONCE).try_collect().await?;
    let mut kept = Kept::default();
    for (manifest, gone) in done {
        if !gone.is_empty() {
            kept.written.push(manifest.manifest_path.clone());
        }
        kept.removed.extend(gone);
        kept.manifests.push(manifest);
    }
    let found: HashSet<&str> = kept.removed.iter().map(|(file, _)| file.file_path()).collect();
    if found.len() != removed.len() {
        table.objects.discard(kept.written).await;
        let message = format!("files that are to go from table {} are gone already", table.full_name());
        return Err(Error::new(ErrorCode::CommitConflict, message).with_hint("run the statement again"));
    }
    Ok(kept)
}

async fn one(
    table: &LoadedTable,
    manifest: ManifestFile,
    removed: &HashSet<String>,
    snapshot_id: i64,
) -> Result<(ManifestFile, Vec<(DataFile, i32)>)> {
    // What planning keeps of manifests tells quickly which ones are meant.
    let files = manifests::files(table, &manifest).await?;
    if let Some(feature) = &files.refused {
        return Err(unsupported(table, feature));
    }
    let named = files.files.iter().map(|f| &f.path).chain(files.deletes.iter().map(|f| &f.path));
    if !named.into_iter().any(|path| removed.contains(path)) {
        return Ok((manifest, Vec::new()));
    }
    let bytes = table.objects.read(&manifest.manifest_path).await?;
    let decoded = manifests::decode(manifest.manifest_path.clone(), bytes, manifest_file::parse).await?;
    let (entries, metadata) = decoded.into_parts();
    let (gone, stay): (Vec<_>, Vec<_>) = entries
        .iter()
        .filter(|entry| entry.is_alive())
        .map(|entry| inherited(entry, &manifest))
        .partition(|entry| removed.contains(entry.data_file.file_path()));
    let anew = write_anew(table, &manifest, &metadata, snapshot_id, (&stay, &gone)).await?;
    fault::point("commit.manifest");
    let spec_id = manifest.partition_spec_id;
    let gone = gone.into_iter().map(|entry| (entry.data_file, spec_id)).collect();
    Ok((anew, gone))
}

/// Writes a manifest of entries that are there already and of those that go, for the snapshot `snapshot_id`. Partition spec and
/// content are those of `like`, the schema is that of `metadata`. After a failure it is not left.
///
/// Errors: those of the object store.
pub(super) async fn write_anew(
    table: &LoadedTable,
    like: &ManifestFile,
    metadata: &ManifestMetadata,
    snapshot_id: i64,
    (stay, gone): (&[ManifestEntry], &[ManifestEntry]),
) -> Result<ManifestFile> {
    let uri = format!("{}/metadata/{}-m0.avro", table.metadata.location(), Uuid::new_v4());
    let schema = Arc::clone(metadata.schema());
    let spec = metadata.partition_spec().clone().with_spec_id(like.partition_spec_id);
    let memory = FileIO::new_with_memory();
    let encoding = async {
        let builder = ManifestWriterBuilder::new(memory.new_output(NAME)?, Some(snapshot_id), schema, spec);
        encode(builder, &table.metadata, like.content, stay, gone, &memory).await
    };
    let (encoded, bytes) = encoding.await.map_err(|error| not_encoded(&uri, error))?;
    if let Err(error) = table.objects.write(&uri, bytes).await {
        // The request may have reached the store all the same.
        table.objects.discard(vec![uri]).await;
        return Err(error);
    }
    Ok(ManifestFile { manifest_path: uri, ..encoded })
}

const NAME: &str = "memory://manifest";

async fn encode(
    builder: ManifestWriterBuilder,
    metadata: &TableMetadata,
    content: ManifestContentType,
    stay: &[ManifestEntry],
    gone: &[ManifestEntry],
    memory: &FileIO,
) -> std::result::Result<(ManifestFile, Bytes), iceberg::Error> {
    let mut writer = match (metadata.format_version(), content) {
        (FormatVersion::V1, _) => builder.build_v1(),
        (_, ManifestContentType::Data) => builder.build_v2_data(),
        (_, ManifestContentType::Deletes) => builder.build_v2_deletes(),
    };
    for entry in stay {
        let (snapshot, sequence) = (entry.snapshot_id.unwrap_or(0), entry.sequence_number.unwrap_or(0));
        writer.add_existing_file(
            entry.data_file.clone(),
            snapshot,
            sequence,
            entry.file_sequence_number.or(Some(0)),
        )?;
    }
    for entry in gone {
        let sequence = entry.sequence_number.unwrap_or(0);
        writer.add_delete_file(entry.data_file.clone(), sequence, entry.file_sequence_number.or(Some(0)))?;
    }
    let manifest = writer.write_manifest_file().await?;
    Ok((manifest, memory.new_input(NAME)?.read().await?))
}

/// The entry with what it takes over from its manifest's place in the list.
pub(super) fn inherited(entry: &ManifestEntry, head: &ManifestFile) -> ManifestEntry {
    let inherits = entry.status == ManifestStatus::Added || head.sequence_number == 0;
    let of_list = inherits.then_some(head.sequence_number);
    ManifestEntry {
        status: entry.status,
        snapshot_id: entry.snapshot_id.or(Some(head.added_snapshot_id)),
        sequence_number: entry.sequence_number.or(of_list),
        file_sequence_number: entry.file_sequence_number.or(of_list),
        data_file: entry.data_file.clone(),
    }
}
