//! The footer cache of the process, with the store as a part of the key.
//!
//! DataFusion's cache knows a file by its path in its store. Two catalogs, or two buckets, may have one path, and data
//! files have no time that could tell them apart: one would be read with the footer of the other.

use std::sync::Arc;
use std::time::Duration;

use datafusion::common::{HashMap, Result, TableReference};
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::execution::cache::{Cache, CacheEntryInfo};
use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::path::{Path, PathPart};
use url::Url;

/// The entries of one store in a cache that all stores share.
pub(super) struct Footers {
    inner: Arc<FileMetadataCache>,
    store: String,
}

impl Footers {
    /// Those of the store behind `url`.
    pub(super) fn of_store(inner: Arc<FileMetadataCache>, url: &ObjectStoreUrl) -> Self {
        let url: &Url = url.as_ref();
        Self { inner, store: url[url::Position::BeforeHost..url::Position::AfterPort].to_string() }
    }

    fn key(&self, path: &Path) -> Path {
        std::iter::once(PathPart::from(self.store.as_str())).chain(path.parts()).collect()
    }
}

impl Cache<Path, CachedFileMetadataEntry> for Footers {
    fn get(&self, path: &Path) -> Option<CachedFileMetadataEntry> {
        self.inner.get(&self.key(path))
    }

    fn put(&self, path: &Path, entry: CachedFileMetadataEntry) -> Option<CachedFileMetadataEntry> {
        self.inner.put(&self.key(path), entry)
    }

    fn remove(&self, path: &Path) -> Option<CachedFileMetadataEntry> {
        self.inner.remove(&self.key(path))
    }

    fn contains_key(&self, path: &Path) -> bool {
        self.inner.contains_key(&self.key(path))
    }

    fn len(&self) -> usize {
        self.inner.len()
    }

    fn clear(&self) {
        self.inner.clear();
    }

    fn name(&self) -> String {
        format!("{} of {}", self.inner.name(), self.store)
    }

    fn cache_limit(&self) -> usize {
        self.inner.cache_limit()
    }

    fn update_cache_limit(&self, limit: usize) {
        self.inner.update_cache_limit(limit);
    }

    fn cache_ttl(&self) -> Option<Duration> {
        self.inner.cache_ttl()
    }

    fn update_cache_ttl(&self, ttl: Option<Duration>) {
        self.inner.update_cache_ttl(ttl);
    }

    fn drop_table_entries(&self, table: &TableReference) -> Result<()> {
        self.inner.drop_table_entries(table)
    }

    fn list_entries(&self) -> HashMap<Path, CacheEntryInfo<CachedFileMetadataEntry>> {
        self.inner.list_entries()
    }
}
