//! Manifests that take the place of several others: the same files, with the same sequence numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use iceberg::io::FileIO;
use iceberg::spec::{Manifest, ManifestEntry, ManifestFile, ManifestMetadata, ManifestWriterBuilder};
use townlake_common::Result;
use uuid::Uuid;

use super::removal::{NAME, encode, inherited};
use super::snapshot::not_encoded;
use crate::LoadedTable;
use crate::maintenance::ManifestRewrite;
use crate::plan::manifests;

const BINS_AT_ONCE: usize = 2;

/// Writes the manifests of a rewrite, for the snapshot `snapshot_id`. After a failure none of them is left.
///
/// Errors: `DATA_CORRUPT`, those of the object store.
pub(super) async fn merge(
    table: &LoadedTable,
    rewrite: &ManifestRewrite,
    snapshot_id: i64,
) -> Result<Vec<ManifestFile>> {
    let merging = stream::iter(rewrite.bins.clone()).map(|bin| merge_bin(table, bin, snapshot_id));
    let done: Vec<_> = merging.buffered(BINS_AT_ONCE).collect().await;
    let (mut merged, mut failure) = (Vec::new(), None);
    for bin in done {
        match bin {
            Ok(manifests) => merged.extend(manifests),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        None => Ok(merged),
        Some(error) => {
            table.objects.discard(merged.into_iter().map(|manifest| manifest.manifest_path).collect()).await;
            Err(error)
        }
    }
}

/// One manifest for each schema that those of the bin were written with: partition values are in its types.
async fn merge_bin(table: &LoadedTable, bin: Vec<ManifestFile>, snapshot_id: i64) -> Result<Vec<ManifestFile>> {
    let mut by_schema: BTreeMap<i32, (ManifestMetadata, Vec<ManifestEntry>)> = BTreeMap::new();
    for manifest in &bin {
        let bytes = table.objects.read(&manifest.manifest_path).await?;
        let decoded = manifests::decode(manifest.manifest_path.clone(), bytes, Manifest::parse_avro).await?;
        let (entries, metadata) = decoded.into_parts();
        let live = entries.iter().filter(|entry| entry.is_alive()).map(|entry| inherited(entry, manifest));
        by_schema.entry(metadata.schema_id()).or_insert_with(|| (metadata, Vec::new())).1.extend(live);
    }
    let mut merged = Vec::new();
    let Some(first) = bin.first() else { return Ok(merged) };
    for (metadata, entries) in by_schema.into_values().filter(|(_, entries)| !entries.is_empty()) {
        let uri = format!("{}/metadata/{}-m0.avro", table.metadata.location(), Uuid::new_v4());
        let schema = Arc::clone(metadata.schema());
        let spec = metadata.partition_spec().clone().with_spec_id(first.partition_spec_id);
        let memory = FileIO::new_with_memory();
        let encoding = async {
            let output = memory.new_output(NAME)?;
            let builder = ManifestWriterBuilder::new(output, Some(snapshot_id), schema, spec);
            encode(builder, &table.metadata, first.content, &entries, &[], &memory).await
        };
        let written = match encoding.await.map_err(|error| not_encoded(&uri, error)) {
            Ok((encoded, bytes)) => {
                merged.push(ManifestFile { manifest_path: uri.clone(), ..encoded });
                table.objects.write(&uri, bytes).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            table.objects.discard(merged.into_iter().map(|manifest| manifest.manifest_path).collect()).await;
            return Err(error);
        }
    }
    Ok(merged)
}
