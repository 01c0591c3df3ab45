//! An object store whose ranges are whole or an error.
//!
//! HTTP answers a range that goes beyond the end of an object with what there is. The Parquet reader relies on getting
//! what it asked for and panics else: a data file that was cut short must be an error here.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use townlake_common::{Error, ErrorCode};

/// How long a failed read may ask how large the object is.
const LOOK: Duration = Duration::from_secs(5);

/// Wraps a store of `bucket`. Reads of several ranges are made of reads of one (the trait's default), so that each is
/// checked.
#[derive(Debug)]
pub(crate) struct WholeRanges<S> {
    inner: S,
    bucket: String,
}

impl<S: ObjectStore> WholeRanges<S> {
    pub(crate) fn new(inner: S, bucket: &str) -> Self {
        Self { inner, bucket: bucket.to_string() }
    }

    fn cut_short(&self, location: &Path, size: u64, end: u64) -> StoreError {
        let message =
            format!("the file s3://{}/{location} is cut short: it has {size} bytes and should have {end}", self.bucket);
        StoreError::Generic { store: "S3", source: Box::new(Error::new(ErrorCode::DataCorrupt, message)) }
    }
}

impl<S: ObjectStore> fmt::Display for WholeRanges<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for WholeRanges<S> {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Some(GetRange::Bounded(range)) = options.range.clone() else {
            return self.inner.get_opts(location, options).await;
        };
        match self.inner.get_opts(location, options).await {
            Ok(result) if result.meta.size < range.end => Err(self.cut_short(location, result.meta.size, range.end)),
            // A range that begins beyond the end is refused (416) without a type of its own.
            Err(error @ StoreError::Generic { .. }) => {
                match tokio::time::timeout(LOOK, self.inner.head(location)).await {
                    Ok(Ok(meta)) if meta.size < range.end => Err(self.cut_short(location, meta.size, range.end)),
                    _ => Err(error),
                }
            }
            answer => answer,
        }
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
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
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_range_is_whole_or_an_error() {
        let store = WholeRanges::new(Cut(InMemory::new()), "b");
        let path = Path::from("f");
        store.put(&path, PutPayload::from_static(b"0123456789")).await.unwrap();
        assert_eq!(store.get_range(&path, 2..10).await.unwrap().as_ref(), b"23456789");
        assert_eq!(store.get_ranges(&path, &[0..1, 9..10]).await.unwrap()[1].as_ref(), b"9");
        let several = [0..2, 12..14]; // in one request that gets 10 of 14 bytes
        for error in [
            store.get_range(&path, 2..11).await.unwrap_err(),
            store.get_range(&path, 20..21).await.unwrap_err(),
            store.get_ranges(&path, &several).await.unwrap_err(),
        ] {
            let StoreError::Generic { source, .. } = error else { panic!("{error}") };
            let error = source.downcast_ref::<Error>().unwrap();
            assert_eq!(error.code(), ErrorCode::DataCorrupt);
            assert!(error.message().contains("s3://b/f is cut short: it has 10 bytes"), "{error}");
        }
    }

    /// Answers as HTTP does: what there is of a range, and an error without a type where there is nothing.
    #[derive(Debug)]
    struct Cut(InMemory);

    impl fmt::Display for Cut {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(&self.0, f)
        }
    }

    #[async_trait]
    impl ObjectStore for Cut {
        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            let beyond = matches!(&options.range, Some(GetRange::Bounded(range)) if range.start >= 10);
            match beyond {
                true => Err(StoreError::Generic { store: "S3", source: "416".into() }),
                false => self.0.get_opts(location, options).await,
            }
        }

        async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.0.put_opts(location, payload, options).await
        }

        async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
            Err(StoreError::NotImplemented { operation: "put".into(), implementer: "Cut".into() })
        }

        fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.0.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.0.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }
}
