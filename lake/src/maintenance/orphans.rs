//! Files in a table's folder that its metadata does not lead to: what writers left that failed or were killed.
//!
//! A file counts as an orphan where it is older than any write takes, for files come before the commit that names them.
//! Whoever drops a table leaves its files, and a table that is renamed keeps its folder, so another table may have files
//! there: that is looked for before anything is deleted.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde_json::Value;
use townlake_common::{Error, ErrorCode, Result};
use uuid::Uuid;

use super::cleanup::delete;
use super::{check_collectable, reachable};
use crate::objects::{Place, from_object_store, visible_parts};
use crate::{LakeCatalog, LoadedTable};

/// Younger files may belong to a write that is still under way.
const MIN_AGE_MS: i64 = 24 * 60 * 60 * 1000;
/// What Spark takes too.
const DEFAULT_AGE_MS: i64 = 3 * MIN_AGE_MS;
const LOOKS_AT_ONCE: usize = 8;

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub struct OrphanSearch {
    /// What the time is, in milliseconds since the epoch.
    pub now_ms: i64,
    /// Younger files are left, in milliseconds since the epoch; `None`: three days before now.
    pub older_than_ms: Option<i64>,
}

/// A file that no snapshot leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanFile {
    /// Its URI.
    pub uri: String,
    /// Bytes.
    pub size: u64,
    /// When it was written.
    pub last_modified: DateTime<Utc>,
}

impl OrphanSearch {
    fn before_ms(&self) -> Result<i64> {
        let latest = self.now_ms.saturating_sub(MIN_AGE_MS);
        match self.older_than_ms {
            None => Ok(self.now_ms.saturating_sub(DEFAULT_AGE_MS)),
            Some(time) if time <= latest => Ok(time),
            Some(_) => {
                let message =
                    "older_than must lie 24 hours back at least: younger files may be those of running writes";
                Err(Error::new(ErrorCode::InvalidArgument, message))
            }
        }
    }
}

/// The orphans in the table's folder, sorted by name.
///
/// Errors: `INVALID_ARGUMENT` for less than 24 hours; `NOT_SUPPORTED` where `gc.enabled` is false or another table of the
/// catalog lies there too; those of reading the table's metadata; `DATA_CORRUPT` where it names a file that cannot be
/// told from those in the folder.
pub(crate) async fn find_orphans(
    catalog: &LakeCatalog,
    table: &LoadedTable,
    search: &OrphanSearch,
) -> Result<Vec<OrphanFile>> {
    check_collectable(&table.metadata, &table.full_name())?;
    let before = search.before_ms()?;
    let known = Known::of(table).await?;
    let location = table.metadata.location().trim_end_matches('/');
    let (store, folder) = table.objects.object_store(location)?;
    let (mut orphans, mut metadata) = (Vec::new(), Vec::new());
    let is_old = |file: &OrphanFile| file.last_modified.timestamp_millis() < before;
    let mut listing = store.list(Some(&folder));
    while let Some(file) = listing.try_next().await.map_err(|error| from_object_store(location, error))? {
        let Some(parts) = visible_parts(&file.location, &folder).filter(|_| !known.has(&file.location)) else {
            continue;
        };
        let uri = format!("{location}/{}", parts.join("/"));
        let file = OrphanFile { uri, size: file.size, last_modified: file.last_modified };
        if file.uri.ends_with(".metadata.json") {
            metadata.push(file);
        } else if is_old(&file) {
            orphans.push(file);
        }
    }
    drop(listing);
    // A table has thousands of old ones.
    let look = |file: OrphanFile| async move { Ok::<_, Error>((is_metadata_of(table, &file.uri).await?, file)) };
    let looked: Vec<_> = stream::iter(metadata).map(look).buffered(LOOKS_AT_ONCE).try_collect().await?;
    let (own, strangers): (Vec<_>, Vec<_>) = looked.into_iter().partition(|(own, _)| *own);
    orphans.extend(own.into_iter().map(|(_, file)| file).filter(is_old));
    if !strangers.is_empty() || !orphans.is_empty() {
        refuse_shared_folder(catalog, table, !strangers.is_empty()).await?;
    }
    orphans.sort_by(|a, b| a.uri.cmp(&b.uri));
    Ok(orphans)
}

/// Deletes orphans and returns those that are gone.
pub(crate) async fn delete_orphans(table: &LoadedTable, orphans: Vec<OrphanFile>) -> Vec<OrphanFile> {
    let uris = orphans.iter().map(|file| file.uri.clone()).collect();
    let gone = delete(&table.objects, uris).await;
    orphans.into_iter().zip(gone).filter_map(|(file, gone)| gone.then_some(file)).collect()
}

/// What the metadata leads to in the place of the table: hashes of paths, for there may be millions. Two paths of one hash
/// keep an orphan and lose nothing.
struct Known {
    hasher: RandomState,
    paths: HashSet<u64>,
}

impl Known {
    async fn of(table: &LoadedTable) -> Result<Self> {
        let mut known = Self { hasher: RandomState::new(), paths: HashSet::new() };
        let (own, _) = table.objects.locate(table.metadata.location())?;
        reachable::all(table, |uri| {
            let (place, path) = table.objects.locate(uri).map_err(|error| {
                let message = format!("table {} names {uri}, and where that lies is not known", table.full_name());
                Error::new(ErrorCode::DataCorrupt, message).with_source(error)
            })?;
            if place == own {
                known.paths.insert(known.hasher.hash_one(path.as_ref()));
            }
            Ok(())
        })
        .await?;
        Ok(known)
    }

    fn has(&self, path: &Path) -> bool {
        self.paths.contains(&self.hasher.hash_one(path.as_ref()))
    }
}

/// Whether a metadata file that the table does not name is of an earlier or a failed change of it. One of another table may
/// mean that other files are another table's too.
async fn is_metadata_of(table: &LoadedTable, uri: &str) -> Result<bool> {
    match table.objects.read(uri).await {
        Ok(bytes) => Ok(uuid_of(&bytes) == Some(table.metadata.uuid())),
        Err(error) if error.code() == ErrorCode::FileNotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn uuid_of(metadata: &[u8]) -> Option<Uuid> {
    let metadata: Value = serde_json::from_slice(metadata).ok()?;
    metadata.get("table-uuid")?.as_str()?.parse().ok()
}

/// Properties that say where a table's files go, if not below its location.
const FOLDERS: [&str; 4] =
    ["write.data.path", "write.metadata.path", "write.object-storage.path", "write.folder-storage.path"];

/// The folders that a table writes to.
fn folders(table: &LoadedTable) -> Vec<&str> {
    let named = FOLDERS.iter().filter_map(|name| table.metadata.properties().get(*name).map(String::as_str));
    std::iter::once(table.metadata.location()).chain(named).collect()
}

fn overlaps((place, path): &(Place, Path), (other_place, other): &(Place, Path)) -> bool {
    place == other_place && (path.prefix_matches(other) || other.prefix_matches(path))
}

/// The name of a table of the catalog, other than `own`, whose folder this one lies in or around. A table that cannot be looked up
/// is passed over.
pub(crate) async fn table_around(catalog: &LakeCatalog, folder: &str, own: Option<Uuid>) -> Result<Option<String>> {
    let folder = catalog.objects().locate(folder)?;
    for schema in catalog.list_schemas().await? {
        for name in catalog.list_tables(&schema).await? {
            let Ok(Some(other)) = catalog.load(&schema, &name, None).await else { continue };
            let is_around = |other: &str| catalog.objects().locate(other).is_ok_and(|other| overlaps(&folder, &other));
            if own != Some(other.metadata.uuid()) && is_around(other.metadata.location()) {
                return Ok(Some(other.full_name()));
            }
        }
    }
    Ok(None)
}

/// `certainly`: there is a metadata file of another table, so that each must be looked up; else those that can be are.
///
/// Errors: `NOT_SUPPORTED` where another table of the catalog has files in the same folder.
async fn refuse_shared_folder(catalog: &LakeCatalog, table: &LoadedTable, certainly: bool) -> Result<()> {
    let own = table.objects.locate(table.metadata.location())?;
    for schema in catalog.list_schemas().await? {
        for name in catalog.list_tables(&schema).await? {
            let unknown = |error: Error| {
                let message = format!(
                    "another table lies or lay in the folder of {}, and whether it is {schema}.{name} is not known",
                    table.full_name()
                );
                Error::new(ErrorCode::NotSupported, message).with_source(error)
            };
            let other = match catalog.load(&schema, &name, None).await {
                Ok(Some(other)) => other,
                Err(error) if certainly => return Err(unknown(error)),
                Ok(None) | Err(_) => continue,
            };
            let is_there = |folder: &&str| other.objects.locate(folder).is_ok_and(|folder| overlaps(&own, &folder));
            if other.metadata.uuid() != table.metadata.uuid() && folders(&other).iter().any(is_there) {
                let message = format!("table {} lies in the folder of {}", other.full_name(), table.full_name());
                return Err(Error::new(ErrorCode::NotSupported, message)
                    .with_hint("their files cannot be told apart: copy one of them with CREATE TABLE AS"));
            }
        }
    }
    Ok(())
}
