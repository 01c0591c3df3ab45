//! Deleting what no snapshot of a table leads to any more.

use std::collections::{BTreeMap, HashSet};

use futures::{StreamExt, stream};
use iceberg::spec::TableMetadata;
use object_store::path::Path;
use townlake_common::{Result, fault};

use super::reachable::{FileKind, only_before};
use crate::objects::Place;
use crate::write::data_location;
use crate::{LoadedTable, ObjectAccess};

const METADATA_PATH: &str = "write.metadata.path";

/// How many files were deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Of rows.
    pub data_files: u64,
    /// Of positions of deleted rows; deletion vectors too.
    pub position_delete_files: u64,
    /// Of values of deleted rows.
    pub equality_delete_files: u64,
    /// Lists of files.
    pub manifests: u64,
    /// Lists of manifests.
    pub manifest_lists: u64,
    /// Of statistics.
    pub statistics_files: u64,
    /// Files that could not be deleted, or lie outside of the table's folders: they are left.
    pub left: u64,
}

impl Deleted {
    fn count(&mut self, kind: FileKind) {
        match kind {
            FileKind::Data => self.data_files += 1,
            FileKind::PositionDeletes => self.position_delete_files += 1,
            FileKind::EqualityDeletes => self.equality_delete_files += 1,
            FileKind::Manifest => self.manifests += 1,
            FileKind::ManifestList => self.manifest_lists += 1,
            FileKind::Statistics => self.statistics_files += 1,
        }
    }
}

/// Deletes the files that only snapshots of `before` led to, which is what the table was before a change that made it
/// `after`. Snapshots of `kept` are read at this moment: their files stay.
///
/// Manifests go before their lists do, and files before manifests: what is left on the way is found again as orphans.
/// Errors: those of reading manifests, before anything is deleted. A file that cannot be deleted is only counted.
pub(crate) async fn delete_unreachable(
    table: &LoadedTable,
    before: &TableMetadata,
    after: &TableMetadata,
    kept: &HashSet<i64>,
) -> Result<Deleted> {
    let files = only_before(table, before, after, kept).await?;
    let own = Own::of(&table.objects, after)?;
    let mut by_kind: BTreeMap<FileKind, Vec<String>> = BTreeMap::new();
    let mut deleted = Deleted::default();
    for (kind, path) in files {
        match own.has(&table.objects, &path) {
            true => by_kind.entry(kind).or_default().push(path),
            false => deleted.left += 1,
        }
    }
    if deleted.left > 0 {
        let (table, files) = (table.full_name(), deleted.left);
        tracing::warn!(%table, files, "files of expired snapshots lie outside of the table's folders and are left");
    }
    for (kind, paths) in by_kind {
        for done in delete(&table.objects, paths).await {
            match done {
                true => deleted.count(kind),
                false => deleted.left += 1,
            }
        }
    }
    Ok(deleted)
}

/// The folders that are a table's own.
struct Own(Vec<(Place, Path)>);

impl Own {
    fn of(objects: &ObjectAccess, metadata: &TableMetadata) -> Result<Self> {
        let mut folders = vec![metadata.location().to_string(), data_location(metadata)];
        folders.extend(metadata.properties().get(METADATA_PATH).cloned());
        Ok(Self(folders.iter().map(|folder| objects.locate(folder)).collect::<Result<_>>()?))
    }

    fn has(&self, objects: &ObjectAccess, uri: &str) -> bool {
        let Ok((place, path)) = objects.locate(uri) else { return false };
        self.0.iter().any(|(own, folder)| *own == place && path.prefix_matches(folder) && path != *folder)
    }
}

/// Deletes files and tells of each, in their order, whether it is gone.
pub(super) async fn delete(objects: &ObjectAccess, uris: Vec<String>) -> Vec<bool> {
    const AT_ONCE: usize = 16;
    let one = |uri: String| async move {
        let deleted = objects.delete(&uri).await;
        fault::point("cleanup.deleted");
        if let Err(error) = &deleted {
            tracing::warn!(%uri, ?error, "a file that nothing needs could not be deleted");
        }
        deleted.is_ok()
    };
    stream::iter(uris).map(one).buffered(AT_ONCE).collect().await
}
