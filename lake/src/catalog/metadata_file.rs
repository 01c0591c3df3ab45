//! Table metadata files: reading them with a cache, and writing the next version.
//!
//! A metadata file never changes, so its content is cached by catalog and location for the whole process.

use std::collections::HashSet;
use std::io::Read;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use flate2::read::GzDecoder;
use iceberg::MetadataLocation;
use iceberg::io::FileIO;
use iceberg::spec::TableMetadata;
use moka::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use townlake_common::{Error, ErrorCode, Result};

use super::{lost_defaults, older_metadata};
use crate::ObjectAccess;

const CACHE_BYTES: u64 = 64 << 20;
/// Parsed metadata against its JSON, measured in order of magnitude only: the cache is a bound, not an account.
const PARSED_PER_JSON_BYTE: usize = 3;
/// The bound of metadata that was compressed.
const MAX_UNPACKED: u64 = 256 << 20;
/// Types of format version 3 that the crate `iceberg` cannot parse: metadata with one fails as a whole.
const UNKNOWN_TYPES: [&str; 4] = ["variant", "geometry", "geography", "unknown"];

/// The property that says that metadata files go which fall out of the log (`write.metadata.previous-versions-max`).
const DELETE_AFTER_COMMIT: &str = "write.metadata.delete-after-commit.enabled";

struct Cached {
    metadata: Arc<TableMetadata>,
    bytes: usize,
}

static CACHE: LazyLock<Cache<(String, String), Arc<Cached>>> = LazyLock::new(|| {
    Cache::builder()
        .max_capacity(CACHE_BYTES)
        .weigher(|_, cached: &Arc<Cached>| u32::try_from(cached.bytes).unwrap_or(u32::MAX))
        .build()
});

/// The metadata at `location`. `what` names the table in errors.
///
/// Errors: `FILE_NOT_FOUND`, `FORMAT_NOT_SUPPORTED` naming what is too new, `DATA_CORRUPT`.
pub(crate) async fn read(
    objects: &ObjectAccess,
    catalog: &str,
    location: &str,
    what: &str,
) -> Result<Arc<TableMetadata>> {
    let key = (catalog.to_string(), location.to_string());
    if let Some(cached) = CACHE.get(&key) {
        return Ok(Arc::clone(&cached.metadata));
    }
    let bytes = objects.read(location).await?;
    let weight = bytes.len().saturating_mul(PARSED_PER_JSON_BYTE);
    let named = |error: Error| error.with_hint(format!("its metadata file is {location}"));
    let (table, failed) = (what.to_string(), Error::internal(format!("{location} was not parsed")));
    let parsed = tokio::task::spawn_blocking(move || parse(&bytes, &table)).await;
    let metadata = Arc::new(parsed.map_err(|panicked| failed.with_source(panicked))?.map_err(named)?);
    // A file named otherwise (v3.metadata.json) may be written over by whoever wrote it.
    if MetadataLocation::from_str(location).is_ok() {
        CACHE.insert(key, Arc::new(Cached { metadata: Arc::clone(&metadata), bytes: weight }));
    }
    Ok(metadata)
}

pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<TableMetadata> {
    match is_compressed(bytes) {
        true => parse_json(&unpack(bytes, &format!("table {what}"))?, what),
        false => parse_json(bytes, what),
    }
}

fn parse_json(json: &[u8], what: &str) -> Result<TableMetadata> {
    let value = || serde_json::from_slice::<Value>(json).unwrap_or(Value::Null);
    match serde_json::from_slice(json) {
        Ok(metadata) if !older_metadata::is_misread(&metadata, json) => {
            if lost_defaults::may_be_in(json) {
                lost_defaults::check(&metadata, &value(), what)?;
            }
            Ok(metadata)
        }
        _ => of_value(value(), what),
    }
}

/// Whether a text, a key for one, stands anywhere in JSON.
pub(super) fn has_text(json: &[u8], text: &str) -> bool {
    json.windows(text.len()).any(|part| part == text.as_bytes())
}

/// The metadata that a REST server sends, or that lacks something.
///
/// Errors: `FORMAT_NOT_SUPPORTED` naming what is too new, `DATA_CORRUPT`.
pub(super) fn of_value(metadata: Value, what: &str) -> Result<TableMetadata> {
    let metadata = older_metadata::completed(metadata);
    // By reference: on failure the value tells what is too new.
    match TableMetadata::deserialize(&metadata) {
        Ok(parsed) => lost_defaults::check(&parsed, &metadata, what).map(|()| parsed),
        Err(error) => Err(unreadable(&metadata, what).with_source(error)),
    }
}

/// Whether a metadata file is packed by gzip. Java packs those of views unless told otherwise.
pub(crate) fn is_compressed(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Unpacks what the crate `iceberg` would unpack without a bound.
///
/// Errors: `DATA_CORRUPT`.
pub(crate) fn unpack(bytes: &[u8], what: &str) -> Result<Vec<u8>> {
    let mut json = Vec::new();
    let unpacked = GzDecoder::new(bytes).take(MAX_UNPACKED + 1).read_to_end(&mut json);
    unpacked.map_err(|error| {
        let message = format!("the metadata of {what} cannot be decoded");
        Error::new(ErrorCode::DataCorrupt, message).with_source(error)
    })?;
    if json.len() as u64 > MAX_UNPACKED {
        let message = format!("the metadata of {what} unpacks to more than {MAX_UNPACKED} bytes");
        return Err(Error::new(ErrorCode::DataCorrupt, message));
    }
    Ok(json)
}

/// Why metadata does not parse: something too new, named, or damage.
pub(crate) fn unreadable(metadata: &Value, what: &str) -> Error {
    let refused = |feature: String| {
        Error::new(ErrorCode::FormatNotSupported, format!("table {what} uses {feature}, which is not supported"))
    };
    match metadata.get("format-version").and_then(Value::as_u64) {
        Some(version) if version > 3 => return refused(format!("format version {version}")),
        Some(1) if older_metadata::has_manifests_in_snapshots(metadata) => {
            return refused("snapshots without manifest lists, which name their manifests themselves".to_string())
                .with_hint("write to it and expire those snapshots with the engine that made them");
        }
        _ => {}
    }
    match metadata.get("schemas").and_then(unknown_type) {
        Some(name) => refused(format!("the type {name}")),
        None => Error::new(ErrorCode::DataCorrupt, format!("the metadata of table {what} cannot be decoded")),
    }
}

fn unknown_type(schema: &Value) -> Option<&str> {
    match schema {
        Value::String(text) => {
            let name = text.split('(').next().unwrap_or(text);
            UNKNOWN_TYPES.contains(&name).then_some(text)
        }
        Value::Array(items) => items.iter().find_map(unknown_type),
        Value::Object(fields) => ["type", "fields", "element", "key", "value"]
            .iter()
            .filter_map(|key| fields.get(*key))
            .find_map(unknown_type),
        _ => None,
    }
}

/// The location of the first metadata file of a table.
pub(crate) fn first_location(metadata: &TableMetadata) -> MetadataLocation {
    MetadataLocation::new_with_metadata(metadata.location(), metadata)
}

/// The location of the metadata file that follows `current`: the next number, a fresh id.
pub(crate) fn next_location(current: &str, metadata: &TableMetadata) -> MetadataLocation {
    match MetadataLocation::from_str(current) {
        Ok(location) => location.with_next_version().with_new_metadata(metadata),
        // A Hadoop-style name: the numbering starts anew, the id keeps it unique.
        Err(_) => first_location(metadata),
    }
}

/// The older metadata files of a table that its new metadata does not list any more, where the table wants them deleted: those in
/// its own folder.
pub(crate) fn fell_out(before: &TableMetadata, now: &TableMetadata) -> Vec<String> {
    if now.properties().get(DELETE_AFTER_COMMIT).is_none_or(|value| !value.eq_ignore_ascii_case("true")) {
        return Vec::new();
    }
    let listed: HashSet<&str> = now.metadata_log().iter().map(|entry| entry.metadata_file.as_str()).collect();
    let folder = format!("{}/metadata/", now.location().trim_end_matches('/'));
    let gone = before.metadata_log().iter().map(|entry| &entry.metadata_file);
    gone.filter(|file| file.starts_with(&folder) && !listed.contains(file.as_str())).cloned().collect()
}

/// Writes metadata to its location, compressed where the table asks for it.
pub(crate) async fn write(objects: &ObjectAccess, metadata: &TableMetadata, location: &MetadataLocation) -> Result<()> {
    let memory = FileIO::new_with_memory();
    let uri = location.to_string();
    let encode = async {
        metadata.write_to(&memory, location).await?;
        memory.new_input(&uri)?.read().await
    };
    let bytes = encode.await.map_err(|error| {
        let message = format!("the metadata file {uri} cannot be encoded");
        Error::new(ErrorCode::FormatNotSupported, message).with_source(error)
    })?;
    objects.write(&uri, bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_new_is_named() {
        let text = r#"{"format-version": 3, "schemas": [{"type": "struct", "fields": [
            {"id": 1, "name": "a", "type": {"type": "list", "element": "geometry(srid:1)"}}]}]}"#;
        let error = unreadable(&serde_json::from_str(text).unwrap(), "lake.s.t");
        assert_eq!(error.code(), ErrorCode::FormatNotSupported);
        assert!(error.message().contains("geometry") && error.message().contains("lake.s.t"), "{error}");
        assert_eq!(unreadable(&Value::Null, "lake.s.t").code(), ErrorCode::DataCorrupt);
    }

    #[test]
    fn a_default_that_is_not_understood_is_refused_and_never_left_out() {
        let parse_with = |data_type: &str, default: &str| {
            let json = format!(
                r#"{{"format-version": 3, "table-uuid": "9c12d441-03fe-4693-9a96-a0705ddf69c1", "location": "file:///t",
                "last-sequence-number": 0, "next-row-id": 0, "last-updated-ms": 1602638573590, "last-column-id": 2,
                "current-schema-id": 0, "schemas": [{{"type": "struct", "schema-id": 0, "fields": [{{"id": 1, "name": "s",
                "required": false, "type": {{"type": "struct", "fields": [{{"id": 2, "name": "new", "required": false,
                "type": "{data_type}", "initial-default": {default}}}]}}}}]}}], "default-spec-id": 0, "partition-specs":
                [{{"spec-id": 0, "fields": []}}], "last-partition-id": 999, "default-sort-order-id": 0, "sort-orders":
                [{{"order-id": 0, "fields": []}}]}}"#
            );
            parse(json.as_bytes(), "lake.s.t")
        };
        for (data_type, default) in [("int", "7"), ("string", "\"x\""), ("timestamp_ns", "null")] {
            parse_with(data_type, default).unwrap();
        }
        let error = parse_with("timestamp_ns", "\"2026-01-01T00:00:00.000000001\"").unwrap_err();
        assert_eq!(error.code(), ErrorCode::FormatNotSupported);
        assert!(error.message().contains("the column new") && error.message().contains("lake.s.t"), "{error}");
    }
}
