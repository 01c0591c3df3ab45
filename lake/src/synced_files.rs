//! A local object store whose files are on the disk once they are written.
//!
//! `LocalFileSystem` leaves that to the kernel, which may take half a minute, while the commit that names the files is on
//! the disk at once: after a power cut the catalog could point at empty files. Object stores promise this by themselves.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// Wraps a store whose objects are the files below `root`.
#[derive(Debug)]
pub(crate) struct SyncedFiles<S> {
    inner: S,
    root: PathBuf,
}

impl<S: ObjectStore> SyncedFiles<S> {
    pub(crate) fn new(inner: S, root: PathBuf) -> Self {
        Self { inner, root }
    }
}

/// Brings the file and its name to the disk: the name is an entry of its folder, which may itself be new, and so on up.
/// A folder that did not change costs next to nothing.
async fn sync(root: PathBuf, location: Path) -> Result<()> {
    let syncing = tokio::task::spawn_blocking(move || {
        let mut path = root.join(location.as_ref());
        File::open(&path)?.sync_all()?;
        while path != root && path.pop() {
            File::open(&path)?.sync_all()?;
        }
        Ok::<_, io::Error>(())
    });
    let synced = syncing.await.map_err(io::Error::other).flatten();
    synced.map_err(|source| StoreError::Generic { store: "LocalFileSystem", source: Box::new(source) })
}

impl<S: ObjectStore> fmt::Display for SyncedFiles<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for SyncedFiles<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = self.inner.put_opts(location, payload, options).await?;
        sync(self.root.clone(), location.clone()).await?;
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(SyncedUpload { inner, root: self.root.clone(), location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        sync(self.root.clone(), to.clone()).await
    }
}

#[derive(Debug)]
struct SyncedUpload {
    inner: Box<dyn MultipartUpload>,
    root: PathBuf,
    location: Path,
}

#[async_trait]
impl MultipartUpload for SyncedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let put = self.inner.complete().await?;
        sync(self.root.clone(), self.location.clone()).await?;
        Ok(put)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn what_cannot_be_synced_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = Path::from("s/t/data/day=a%2Fb c/1.parquet");
        let bytes = || PutPayload::from_static(b"x");
        let local = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let store = SyncedFiles::new(local, folder.path().to_path_buf());
        store.put(&path, bytes()).await.unwrap();
        let mut upload = store.put_multipart(&path).await.unwrap();
        upload.put_part(bytes()).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(store.get_range(&path, 0..1).await.unwrap().as_ref(), b"x");
        store.copy(&path, &Path::from("copy")).await.unwrap();

        // A store whose files are not below the root: each write looks for its file there.
        let store = SyncedFiles::new(InMemory::new(), folder.path().join("none"));
        assert!(store.put(&path, bytes()).await.is_err());
        let mut upload = store.put_multipart(&path).await.unwrap();
        upload.put_part(bytes()).await.unwrap();
        assert!(upload.complete().await.is_err());
    }
}
