//! Reading manifest lists and manifests: bytes through our object stores, decoding on the blocking pool.
//!
//! A manifest never changes, so what planning needs of it is cached for the whole process, by table, path and schema.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use arrow::array::UInt64Array;
use bytes::Bytes;
use datafusion::common::ScalarValue;
use iceberg::spec::{
    DataContentType, DataFile, DataFileFormat, FormatVersion, Manifest, ManifestEntry, ManifestFile, ManifestList,
    ManifestStatus, PartitionSpec, Schema, SnapshotRef, Struct, TableMetadata,
};
use moka::sync::Cache;
use tokio::sync::Semaphore;
use townlake_common::{Error, ErrorCode, Result};

use super::file_bounds::FileBounds;
use super::{avro_guard, bounds, deletes, manifest_file};
use crate::{ColumnBounds, DeleteFile, FileEntry, LoadedTable, ObjectAccess, PlannedFile};

const CACHE_BYTES: u64 = 192 << 20;
const LISTS_BYTES: u64 = 32 << 20;
/// What a file weighs without its path, its partition and its bounds: the entry, its parts' heads.
const FILE_BYTES: usize = 320;
const PARTITION_VALUE_BYTES: usize = 64;
/// What one column's bounds weigh in a delete file, strings aside.
const BOUNDS_BYTES: usize = 192;
/// What a manifest weighs in a list, and each of its partition summaries, without the path.
const LISTED_BYTES: usize = 384;
const SUMMARY_BYTES: usize = 96;

/// What planning needs of one manifest.
pub(crate) struct ManifestFiles {
    pub spec: PartitionSpec,
    /// The live data files, unless one of them is refused.
    pub files: Vec<PlannedFile>,
    /// The bounds of `files`.
    pub bounds: Arc<FileBounds>,
    /// The rows of `files`.
    pub rows: Arc<UInt64Array>,
    /// The live delete files, unless one of them is refused.
    pub deletes: Vec<Arc<DeleteFile>>,
    /// What in this manifest cannot be read correctly.
    pub refused: Option<String>,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    catalog: String,
    table: uuid::Uuid,
    manifest: String,
    schema: i32,
}

static CACHE: LazyLock<Cache<Key, Arc<ManifestFiles>>> = LazyLock::new(|| {
    Cache::builder().max_capacity(CACHE_BYTES).weigher(|_, files: &Arc<ManifestFiles>| weight(files)).build()
});

fn weight(manifest: &ManifestFiles) -> u32 {
    let file =
        |path: &str, partition: &Struct| FILE_BYTES + path.len() + partition.fields().len() * PARTITION_VALUE_BYTES;
    let data = manifest.files.iter().map(|f| file(&f.path, &f.partition) + f.split_offsets.len() * 8);
    let deletes = manifest.deletes.iter().map(|f| file(&f.path, &f.partition) + f.columns.len() * BOUNDS_BYTES);
    let bytes = manifest.bounds.bytes() + data.chain(deletes).sum::<usize>();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// By catalog, snapshot and path; a list is parsed as of the table's format version.
type ListKey = (String, i64, String, u8);

static LISTS: LazyLock<Cache<ListKey, Arc<Vec<ManifestFile>>>> = LazyLock::new(|| {
    Cache::builder().max_capacity(LISTS_BYTES).weigher(|_, list: &Arc<Vec<ManifestFile>>| weight_of_list(list)).build()
});

fn weight_of_list(list: &[ManifestFile]) -> u32 {
    let manifest = |m: &ManifestFile| {
        LISTED_BYTES + m.manifest_path.len() + m.partitions.as_ref().map_or(0, Vec::len) * SUMMARY_BYTES
    };
    u32::try_from(list.iter().map(manifest).sum::<usize>()).unwrap_or(u32::MAX)
}

/// The manifests of a snapshot. A list never changes either, so it is cached too.
///
/// Errors: `FILE_NOT_FOUND`, `DATA_CORRUPT`, `SOURCE_UNAVAILABLE`.
pub(crate) async fn list(
    objects: &ObjectAccess,
    snapshot: &SnapshotRef,
    version: FormatVersion,
) -> Result<Arc<Vec<ManifestFile>>> {
    let uri = snapshot.manifest_list().to_string();
    let key = (objects.catalog().to_string(), snapshot.snapshot_id(), uri.clone(), version as u8);
    if let Some(list) = LISTS.get(&key) {
        return Ok(list);
    }
    let bytes = objects.read(&uri).await?;
    let parse = move |bytes: &[u8]| {
        // The list of a table that was version 1 when it was written lacks what version 2 requires.
        let parsed = ManifestList::parse_with_version(bytes, version);
        let list = match parsed {
            Err(_) if version > FormatVersion::V1 => ManifestList::parse_with_version(bytes, FormatVersion::V1),
            parsed => parsed,
        }?;
        Ok(list.consume_entries().into_iter().collect())
    };
    let list = Arc::new(decode(uri, bytes, parse).await?);
    LISTS.insert(key, Arc::clone(&list));
    Ok(list)
}

/// The live files of one manifest, with their bounds in the types of the table's schema.
pub(crate) async fn files(table: &LoadedTable, manifest: &ManifestFile) -> Result<Arc<ManifestFiles>> {
    if manifest.key_metadata.is_some() {
        return Err(crate::format::unsupported(table, "is encrypted"));
    }
    let key = Key {
        catalog: table.catalog.clone(),
        table: table.metadata.uuid(),
        manifest: manifest.manifest_path.clone(),
        schema: table.iceberg_schema.schema_id(),
    };
    if let Some(files) = CACHE.get(&key) {
        return Ok(files);
    }
    let bytes = table.objects.read(&manifest.manifest_path).await?;
    let (manifest, schema, metadata) =
        (manifest.clone(), Arc::clone(&table.iceberg_schema), Arc::clone(&table.metadata));
    let compacted = move |bytes: &[u8]| Ok(compact(&manifest_file::parse(bytes)?, &manifest, &schema, &metadata));
    let files = Arc::new(decode(key.manifest.clone(), bytes, compacted).await?);
    CACHE.insert(key, Arc::clone(&files));
    Ok(files)
}

/// Manifests are decoded one a core, whatever is planned: each takes many times its size meanwhile.
static DECODING: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))));

/// Decodes an Avro file on the blocking pool. A decoder that panics on hostile bytes is damage like any other.
pub(crate) async fn decode<T: Send + 'static>(
    uri: String,
    bytes: Bytes,
    decode: impl FnOnce(&[u8]) -> std::result::Result<T, iceberg::Error> + Send + 'static,
) -> Result<T> {
    let corrupt = || Error::new(ErrorCode::DataCorrupt, format!("{uri} cannot be decoded"));
    // Held until decoding ends, which it does also where nobody waits for it any more.
    let permit = Arc::clone(&DECODING).acquire_owned().await;
    let permit = permit.map_err(|e| Error::internal("manifests are not decoded any more").with_source(e))?;
    let guarded = move || {
        let _permit = permit;
        avro_guard::check(&bytes).map_err(|why| iceberg::Error::new(iceberg::ErrorKind::DataInvalid, why))?;
        decode(&bytes)
    };
    match tokio::task::spawn_blocking(guarded).await {
        Ok(decoded) => decoded.map_err(|error| corrupt().with_source(error)),
        Err(panicked) => Err(corrupt().with_source(panicked)),
    }
}

fn compact(manifest: &Manifest, head: &ManifestFile, schema: &Schema, metadata: &TableMetadata) -> ManifestFiles {
    let spec = manifest.metadata().partition_spec().clone().with_spec_id(head.partition_spec_id);
    let live = || manifest.entries().iter().filter(|entry| entry.is_alive());
    let refused = live().find_map(|entry| refusal(&entry.data_file, schema, metadata));
    let kept = || live().filter(|_| refused.is_none());
    let (data, deletes): (Vec<_>, Vec<_>) =
        kept().partition(|entry| entry.data_file.content_type() == DataContentType::Data);
    let bounds: Vec<_> = data.iter().map(|entry| columns(&entry.data_file, &spec, schema)).collect();
    let bounds = Arc::new(FileBounds::new(&bounds));
    let planned = |(number, entry): (usize, &&Arc<ManifestEntry>)| {
        let entry = planned(entry, head, &spec, schema, (Arc::clone(&bounds), number));
        PlannedFile::new(Arc::new(entry))
    };
    let files: Vec<PlannedFile> = data.iter().enumerate().map(planned).collect();
    let deletes = deletes.into_iter().map(|entry| deletes::planned(entry, sequence_number(entry, head), &spec, schema));
    let deletes = deletes.map(Arc::new).collect();
    let rows = Arc::new(UInt64Array::from_iter_values(files.iter().map(|file| file.record_count)));
    ManifestFiles { spec, files, bounds, rows, deletes, refused }
}

fn refusal(file: &DataFile, schema: &Schema, metadata: &TableMetadata) -> Option<String> {
    if file.key_metadata().is_some() {
        return Some("is encrypted".to_string());
    }
    let format = match file.file_format() {
        DataFileFormat::Parquet => None,
        DataFileFormat::Avro => Some("Avro"),
        DataFileFormat::Orc => Some("ORC"),
        DataFileFormat::Puffin => Some("Puffin"),
    };
    match (file.content_type(), format) {
        (DataContentType::Data, Some(format)) => Some(format!("has data files in {format}")),
        (DataContentType::Data, None) => None,
        _ => deletes::refusal(file, format, schema, metadata),
    }
}

/// The data sequence number: the entry's own, or that of the snapshot that added it.
fn sequence_number(entry: &ManifestEntry, head: &ManifestFile) -> i64 {
    let inherits = entry.status == ManifestStatus::Added || head.sequence_number == 0;
    entry.sequence_number.unwrap_or(if inherits { head.sequence_number } else { 0 })
}

fn planned(
    entry: &ManifestEntry,
    head: &ManifestFile,
    spec: &PartitionSpec,
    schema: &Schema,
    bounds: (Arc<FileBounds>, usize),
) -> FileEntry {
    let file = &entry.data_file;
    let offsets = file.split_offsets().unwrap_or_default().iter().filter_map(|offset| u64::try_from(*offset).ok());
    FileEntry {
        path: file.file_path().to_string(),
        size: file.file_size_in_bytes(),
        record_count: file.record_count(),
        spec_id: head.partition_spec_id,
        partition: file.partition().clone(),
        data_sequence_number: sequence_number(entry, head),
        split_offsets: offsets.collect(),
        constants: constants(file, spec, schema),
        bounds,
    }
}

/// The partition values that bounds do not hold.
fn constants(file: &DataFile, spec: &PartitionSpec, schema: &Schema) -> BTreeMap<i32, ScalarValue> {
    let values = spec.fields().iter().zip(file.partition().fields()).filter_map(|(field, value)| {
        let value = value.as_ref().and_then(|value| value.as_primitive_literal());
        let constant = bounds::constant(&field.transform, value.as_ref(), bounds::source_type(schema, field)?)?;
        Some((field.source_id, constant))
    });
    values.collect()
}

/// Bounds of the top-level columns, from the file's metrics and its partition.
fn columns(file: &DataFile, spec: &PartitionSpec, schema: &Schema) -> HashMap<i32, ColumnBounds> {
    let mut columns = HashMap::new();
    for field in schema.as_struct().fields() {
        let bounds = match field.field_type.as_primitive_type() {
            Some(primitive) => bounds::of_column(file, field.id, primitive),
            None => continue,
        };
        if bounds != ColumnBounds::default() {
            columns.insert(field.id, bounds);
        }
    }
    for (field, value) in spec.fields().iter().zip(file.partition().fields()) {
        let Some(source) = bounds::source_type(schema, field) else { continue };
        let value = value.as_ref().and_then(|value| value.as_primitive_literal());
        let bounds = columns.entry(field.source_id).or_default();
        bounds::add_partition(bounds, &field.transform, value.as_ref(), source, file.record_count());
    }
    columns
}
