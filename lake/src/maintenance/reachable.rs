//! Which files the snapshots of a table lead to.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{DataContentType, ManifestFile, SnapshotRef, TableMetadata};
use townlake_common::{ErrorCode, Result};

use crate::LoadedTable;
use crate::location::one_spelling;
use crate::plan::{manifest_file, manifests};

const FILES_AT_ONCE: usize = 8;

/// What a file is to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FileKind {
    Data,
    PositionDeletes,
    EqualityDeletes,
    Manifest,
    ManifestList,
    Statistics,
}

/// The files that only snapshots of `before` lead to which are not in `after`, each once. `kept` snapshots of `before` are
/// counted as those of `after` are.
///
/// A file may have another spelling of its URI in another snapshot. A manifest list that is gone leads nowhere: what it led to
/// is left. Errors: `DATA_CORRUPT`, those of the object store.
pub(super) async fn only_before(
    table: &LoadedTable,
    before: &TableMetadata,
    after: &TableMetadata,
    kept: &HashSet<i64>,
) -> Result<Vec<(FileKind, String)>> {
    let stays = |snapshot: &SnapshotRef| {
        let id = snapshot.snapshot_id();
        kept.contains(&id) || after.snapshot_by_id(id).is_some()
    };
    let (mut staying, gone): (Vec<_>, Vec<_>) = before.snapshots().cloned().partition(stays);
    staying.extend(after.snapshots().filter(|one| before.snapshot_by_id(one.snapshot_id()).is_none()).cloned());
    let needed = manifests_of(table, &staying, false).await?;
    let needless = manifests_of(table, &gone, true).await?;
    let needless: Vec<_> =
        needless.into_iter().filter(|(path, _)| !needed.contains_key(path)).map(|(_, manifest)| manifest).collect();

    let mut candidates: BTreeMap<String, (FileKind, String)> = BTreeMap::new();
    let mut reading =
        stream::iter(needless.clone()).map(|manifest| live_files(table, manifest)).buffer_unordered(FILES_AT_ONCE);
    while let Some(found) = reading.next().await {
        match found {
            Ok(found) => {
                candidates.extend(found.into_iter().map(|(kind, path)| (one(&path), (kind, path))));
            }
            Err(error) if error.code() == ErrorCode::FileNotFound => {}
            Err(error) => return Err(error),
        }
    }
    drop(reading);
    let mut reading =
        stream::iter(needed.into_values()).map(|manifest| live_files(table, manifest)).buffer_unordered(FILES_AT_ONCE);
    while !candidates.is_empty() {
        let Some(found) = reading.try_next().await? else { break };
        for (_, path) in found {
            candidates.remove(one_spelling(&path).as_ref());
        }
    }
    let mut files: Vec<_> = candidates.into_values().collect();
    files.extend(needless.into_iter().map(|manifest| (FileKind::Manifest, manifest.manifest_path)));
    let lists: HashSet<_> = staying.iter().map(|snapshot| one_spelling(snapshot.manifest_list())).collect();
    let gone_lists: BTreeMap<_, _> =
        gone.iter().map(|s| (one_spelling(s.manifest_list()), s.manifest_list())).collect();
    let gone_lists = gone_lists.into_iter().filter(|(one, list)| !list.is_empty() && !lists.contains(one));
    files.extend(gone_lists.map(|(_, list)| (FileKind::ManifestList, list.to_string())));
    let statistics: HashSet<String> = statistics_of(after).map(|path| one(&path)).collect();
    let gone_statistics = statistics_of(before).filter(|path| !statistics.contains(&one(path)));
    files.extend(gone_statistics.map(|path| (FileKind::Statistics, path)));
    Ok(files)
}

/// Calls `each` with every file that the table's metadata leads to.
///
/// Errors: `DATA_CORRUPT`, those of the object store, those of `each`.
pub(super) async fn all(table: &LoadedTable, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let metadata = &table.metadata;
    each(&table.metadata_location)?;
    for old in metadata.metadata_log() {
        each(&old.metadata_file)?;
    }
    for path in statistics_of(metadata) {
        each(&path)?;
    }
    let snapshots: Vec<_> = metadata.snapshots().cloned().collect();
    for snapshot in &snapshots {
        each(snapshot.manifest_list())?;
    }
    let manifests = manifests_of(table, &snapshots, false).await?;
    let paths: Vec<String> = manifests.values().map(|manifest| manifest.manifest_path.clone()).collect();
    let mut reading = stream::iter(manifests.into_values())
        .map(|manifest| live_files(table, manifest))
        .buffer_unordered(FILES_AT_ONCE);
    while let Some(found) = reading.try_next().await? {
        for (_, path) in &found {
            each(path)?;
        }
    }
    drop(reading);
    for path in &paths {
        each(path)?;
    }
    Ok(())
}

fn one(path: &str) -> String {
    one_spelling(path).into_owned()
}

/// The manifests of these snapshots, by path in one spelling. `lenient`: a list that is not there has none.
async fn manifests_of(
    table: &LoadedTable,
    snapshots: &[SnapshotRef],
    lenient: bool,
) -> Result<BTreeMap<String, ManifestFile>> {
    let version = table.metadata.format_version();
    let list = |snapshot: SnapshotRef| async move {
        match manifests::list(&table.objects, &snapshot, version).await {
            Err(error) if lenient && error.code() == ErrorCode::FileNotFound => Ok(Arc::default()),
            listed => listed,
        }
    };
    let mut manifests = BTreeMap::new();
    let mut reading = stream::iter(snapshots.to_vec()).map(list).buffer_unordered(FILES_AT_ONCE);
    while let Some(listed) = reading.try_next().await? {
        for manifest in listed.iter() {
            manifests.entry(one(&manifest.manifest_path)).or_insert_with(|| manifest.clone());
        }
    }
    Ok(manifests)
}

/// The files that a manifest has as live ones.
async fn live_files(table: &LoadedTable, manifest: ManifestFile) -> Result<Vec<(FileKind, String)>> {
    if manifest.key_metadata.is_some() {
        return Err(crate::format::unsupported(table, "is encrypted"));
    }
    let bytes = table.objects.read(&manifest.manifest_path).await?;
    let live = |bytes: &[u8]| {
        let manifest = manifest_file::parse(bytes)?;
        let live = manifest.entries().iter().filter(|entry| entry.is_alive());
        let files = live.map(|entry| {
            let kind = match entry.data_file.content_type() {
                DataContentType::Data => FileKind::Data,
                DataContentType::PositionDeletes => FileKind::PositionDeletes,
                DataContentType::EqualityDeletes => FileKind::EqualityDeletes,
            };
            (kind, entry.data_file.file_path().to_string())
        });
        Ok(files.collect())
    };
    manifests::decode(manifest.manifest_path.clone(), bytes, live).await
}

fn statistics_of(metadata: &TableMetadata) -> impl Iterator<Item = String> {
    let of_snapshots = metadata.statistics_iter().map(|file| file.statistics_path.clone());
    of_snapshots.chain(metadata.partition_statistics_iter().map(|file| file.statistics_path.clone()))
}
