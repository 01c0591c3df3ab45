//! Manifests that take the place of several others: the same files, with the same sequence numbers.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use iceberg::spec::{ManifestEntry, ManifestFile, ManifestMetadata};
use townlake_common::Result;

use super::removal::{inherited, write_anew};
use crate::LoadedTable;
use crate::maintenance::ManifestRewrite;
use crate::plan::{manifest_file, manifests};

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
            table.objects.discard(paths(merged)).await;
            Err(error)
        }
    }
}

/// One manifest for each schema that those of the bin were written with: partition values are in its types.
async fn merge_bin(table: &LoadedTable, bin: Vec<ManifestFile>, snapshot_id: i64) -> Result<Vec<ManifestFile>> {
    let mut by_schema: BTreeMap<i32, (ManifestMetadata, Vec<ManifestEntry>)> = BTreeMap::new();
    for manifest in &bin {
        let bytes = table.objects.read(&manifest.manifest_path).await?;
        let decoded = manifests::decode(manifest.manifest_path.clone(), bytes, manifest_file::parse).await?;
        let (entries, metadata) = decoded.into_parts();
        let live = entries.iter().filter(|entry| entry.is_alive()).map(|entry| inherited(entry, manifest));
        by_schema.entry(metadata.schema_id()).or_insert_with(|| (metadata, Vec::new())).1.extend(live);
    }
    let mut merged = Vec::new();
    let Some(first) = bin.first() else { return Ok(merged) };
    for (metadata, entries) in by_schema.into_values().filter(|(_, entries)| !entries.is_empty()) {
        match write_anew(table, first, &metadata, snapshot_id, (&entries, &[])).await {
            Ok(manifest) => merged.push(manifest),
            Err(error) => {
                table.objects.discard(paths(merged)).await;
                return Err(error);
            }
        }
    }
    Ok(merged)
}

fn paths(manifests: Vec<ManifestFile>) -> Vec<String> {
    manifests.into_iter().map(|manifest| manifest.manifest_path).collect()
}
