//! Putting one file into an object store, and taking back what a failed task has put there.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, PutResult, UploadPart, WriteMultipart};

/// Above this many bytes a file goes in parts, below in one request.
const MULTIPART_FROM: usize = 8 << 20;
/// The size of a part; stores ask for 5 MiB at least and R2 for equal parts.
const PART: usize = 8 << 20;
/// Parts on their way at the same time, for each file.
const PARTS_IN_FLIGHT: usize = 4;

/// One file on its way. Nothing is seen under its name until [`Upload::finish`] returns; dropped before, it is taken back.
///
/// A request that has begun may reach the store although whoever waited for it is gone. So each request that makes
/// something runs as a task of its own, whose result undoes itself when nobody takes it.
pub(super) struct Upload {
    store: Arc<dyn ObjectStore>,
    path: Path,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    parts: Option<WriteMultipart>,
}

impl Upload {
    pub(super) fn new(store: Arc<dyn ObjectStore>, path: Path) -> Self {
        Self { store, path, waiting: Vec::new(), waiting_bytes: 0, parts: None }
    }

    /// Appends bytes. Waits while too many parts are on their way.
    pub(super) async fn put(&mut self, bytes: Bytes) -> object_store::Result<()> {
        if let Some(parts) = &mut self.parts {
            parts.wait_for_capacity(PARTS_IN_FLIGHT).await?;
            parts.put(bytes);
            return Ok(());
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
        if self.waiting_bytes >= MULTIPART_FROM {
            let (store, path) = (Arc::clone(&self.store), self.path.clone());
            let begun = tokio::spawn(async move { store.put_multipart(&path).await.map(Parts::of) });
            let mut begun = begun.await??;
            self.waiting.drain(..).for_each(|bytes| begun.put(bytes));
            self.parts = Some(begun);
        }
        Ok(())
    }

    /// Bytes that are held in memory.
    pub(super) fn buffered(&self) -> usize {
        match &self.parts {
            Some(_) => PART,
            None => self.waiting_bytes,
        }
    }

    /// Makes the file visible.
    pub(super) async fn finish(self) -> object_store::Result<Untold> {
        let Self { store, path, waiting, parts, .. } = self;
        let finishing = tokio::spawn(async move {
            match parts {
                Some(parts) => parts.finish().await?,
                None => store.put(&path, PutPayload::from_iter(waiting)).await?,
            };
            Ok(Untold { store, paths: vec![path] })
        });
        finishing.await?
    }
}

/// The parts of a file: aborted when dropped before they are made one. ([`WriteMultipart::finish`] leaves them where a part fails.)
#[derive(Debug)]
struct Parts {
    /// Until it has ended.
    upload: Option<Box<dyn MultipartUpload>>,
}

impl Parts {
    fn of(upload: Box<dyn MultipartUpload>) -> WriteMultipart {
        WriteMultipart::new_with_chunk_size(Box::new(Self { upload: Some(upload) }), PART)
    }
}

fn has_ended() -> object_store::Error {
    object_store::Error::Generic { store: "upload", source: "it has ended".into() }
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match &mut self.upload {
            Some(upload) => upload.put_part(data),
            None => Box::pin(std::future::ready(Err(has_ended()))),
        }
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let done = self.upload.as_mut().ok_or_else(has_ended)?.complete().await?;
        self.upload = None;
        Ok(done)
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        match self.upload.take() {
            Some(mut upload) => upload.abort().await,
            None => Ok(()),
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Some(mut upload) = self.upload.take() {
            in_background(async move {
                if let Err(error) = upload.abort().await {
                    tracing::debug!(%error, "an unfinished upload could not be aborted; the store's own clean-up ends it");
                }
            });
        }
    }
}

/// Finished files that nobody has been told of yet: deleted when dropped.
pub(super) struct Untold {
    store: Arc<dyn ObjectStore>,
    paths: Vec<Path>,
}

impl Untold {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, paths: Vec::new() }
    }

    /// Answers for another's files too.
    pub(super) fn take_over(&mut self, mut other: Untold) {
        self.paths.append(&mut other.paths);
    }

    /// The files are in the answer now: whoever has that answer commits or deletes them.
    pub(super) fn told(mut self) {
        self.paths.clear();
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        let (store, paths) = (Arc::clone(&self.store), std::mem::take(&mut self.paths));
        if paths.is_empty() {
            return;
        }
        in_background(async move {
            for path in paths {
                // The coordinator looks for files of a failed write too, and may have come first.
                if let Err(error) = store.delete(&path).await
                    && !matches!(error, object_store::Error::NotFound { .. })
                {
                    tracing::warn!(%error, %path, "a data file of a failed write could not be deleted");
                }
            }
        });
    }
}

/// Runs the clean-up of something that is being dropped. A process that ends meanwhile leaves an orphan file behind.
fn in_background(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(work);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::extract::State;
    use axum::http::{Method, StatusCode, Uri};
    use axum::response::{IntoResponse, Response};
    use parking_lot::Mutex;
    use townlake_common::config::Config;

    use super::*;
    use crate::LakeObjects;

    struct Asked {
        requests: Mutex<Vec<String>>,
        /// The first part that is refused.
        refused_from: u32,
    }

    impl Asked {
        fn was(&self, request: &str) -> bool {
            self.requests.lock().iter().any(|asked| asked == request)
        }
    }

    /// An S3 that refuses parts.
    async fn fake_s3(State(asked): State<Arc<Asked>>, method: Method, uri: Uri) -> Response {
        let query = uri.query().unwrap_or_default();
        asked.requests.lock().push(format!("{method} {query}"));
        let begun = "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>f</Key><UploadId>U</UploadId>\
                     </InitiateMultipartUploadResult>";
        let part = query.split('&').find_map(|pair| pair.strip_prefix("partNumber=")?.parse::<u32>().ok());
        match (method, part) {
            (Method::POST, _) if query.starts_with("uploads") => begun.into_response(),
            (Method::DELETE, _) => StatusCode::NO_CONTENT.into_response(),
            (Method::PUT, Some(part)) if part < asked.refused_from => [("etag", "\"e\"")].into_response(),
            _ => StatusCode::FORBIDDEN.into_response(),
        }
    }

    #[tokio::test]
    async fn an_upload_that_fails_is_aborted() {
        // A part early on, the last one, and where all parts are made one.
        for refused_from in [1, 8, 9] {
            let asked = Arc::new(Asked { requests: Mutex::default(), refused_from });
            let router = axum::Router::new().fallback(fake_s3).with_state(Arc::clone(&asked));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
            let text = format!(
                "[catalogs.l]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite:///tmp/none.db\"\n\
                 warehouse = \"s3://b\"\ns3_endpoint = \"http://{address}\"\ns3_path_style = true\n\
                 s3_access_key_id = \"a\"\ns3_secret_access_key = \"hunter2\""
            );
            let objects = LakeObjects::from_config(&Config::from_toml(&text).unwrap().catalogs).unwrap();
            let (store, path) = objects.access("l").unwrap().object_store("s3://b/f").unwrap();
            let mut upload = Upload::new(store, path);
            let part = Bytes::from(vec![0; PART]);
            let failed = async {
                for _ in 0..8 {
                    upload.put(part.clone()).await?;
                }
                upload.finish().await.map(|untold| untold.told())
            };
            assert!(failed.await.is_err());
            for _ in 0..500 {
                if asked.was("DELETE uploadId=U") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(asked.was("DELETE uploadId=U"), "{refused_from}: {:?}", asked.requests.lock());
        }
    }
}
