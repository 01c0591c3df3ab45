//! A bucket as one table may reach it, with keys that are asked for when they are needed and again before they expire.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::aws::AwsCredential;
use object_store::path::Path;
use object_store::{
    CopyOptions, CredentialProvider, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::{Mutex, OnceCell};
use townlake_common::{Error, ErrorCode};

use super::Vendor;
use super::answer::{Access, Grant, covers};
use crate::catalog::TableName;
use crate::s3::S3Settings;

/// A client that exists from its first request on.
#[derive(Clone)]
pub(crate) struct VendedStore(Arc<Bucket>);

struct Bucket {
    vendor: Arc<Vendor>,
    table: TableName,
    bucket: String,
    settings: S3Settings,
    /// What reaches the bucket where the server vends nothing.
    otherwise: Arc<dyn ObjectStore>,
    opened: OnceCell<Vec<Opened>>,
}

/// A client for what lies below a prefix.
struct Opened {
    prefix: String,
    store: Arc<dyn ObjectStore>,
}

impl VendedStore {
    /// `settings`: how our configuration reaches the bucket. `otherwise`: the client for a server that vends nothing.
    pub fn new(
        vendor: &Arc<Vendor>,
        table: &TableName,
        bucket: &str,
        settings: &S3Settings,
        otherwise: Arc<dyn ObjectStore>,
    ) -> Self {
        let (vendor, table, bucket) = (Arc::clone(vendor), table.clone(), bucket.to_string());
        Self(Arc::new(Bucket { vendor, table, bucket, settings: settings.clone(), otherwise, opened: OnceCell::new() }))
    }

    /// The client for a file or a folder.
    async fn at(&self, path: Option<&Path>) -> Result<Arc<dyn ObjectStore>> {
        let bucket = &self.0;
        let opened = bucket.opened.get_or_try_init(|| bucket.open()).await?;
        let location = format!("s3://{}/{}", bucket.bucket, path.map(Path::as_ref).unwrap_or_default());
        let store = opened.iter().find(|opened| covers(&opened.prefix, &location)).map(|opened| &opened.store);
        Ok(Arc::clone(store.unwrap_or(&bucket.otherwise)))
    }
}

impl Bucket {
    async fn open(&self) -> Result<Vec<Opened>> {
        let access = self.vendor.access(&self.table).await.map_err(refused)?;
        let settings = access.settings(&self.settings);
        let whole = format!("s3://{}/", self.bucket);
        let reaches = |grant: &&Grant| covers(&grant.prefix, &whole) || covers(&whole, &grant.prefix);
        let mut opened = Vec::new();
        for grant in access.grants.iter().filter(reaches) {
            let keys = VendedKeys {
                vendor: Arc::clone(&self.vendor),
                table: self.table.clone(),
                prefix: grant.prefix.clone(),
                grant: Mutex::new(grant.clone()),
            };
            let store = settings.client(&self.vendor.catalog, &self.bucket, Some(Arc::new(keys))).map_err(refused)?;
            opened.push(Opened { prefix: grant.prefix.clone(), store });
        }
        Ok(opened)
    }
}

/// The keys of one prefix.
struct VendedKeys {
    vendor: Arc<Vendor>,
    table: TableName,
    prefix: String,
    /// Locked while it is renewed: many requests wait for one answer.
    grant: Mutex<Grant>,
}

#[async_trait]
impl CredentialProvider for VendedKeys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        let mut grant = self.grant.lock().await;
        if !grant.is_fresh() {
            let access: Access = self.vendor.access(&self.table).await.map_err(refused)?;
            let same = access.grants.iter().find(|new| new.prefix == self.prefix);
            match same.or_else(|| access.grant(&self.prefix)) {
                Some(new) => *grant = new.clone(),
                None => {
                    let message = format!("the REST server of catalog {} vends no keys any more", self.vendor.catalog);
                    return Err(refused(Error::new(ErrorCode::SourceDenied, message)));
                }
            }
            tracing::debug!(catalog = %self.vendor.catalog, table = %self.table, "vended keys are renewed");
        }
        Ok(Arc::new(AwsCredential {
            key_id: grant.key_id.clone(),
            secret_key: grant.secret.expose().to_string(),
            token: grant.session_token.as_ref().map(|token| token.expose().to_string()),
        }))
    }
}

impl fmt::Debug for VendedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VendedKeys").field("table", &self.table).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

fn refused(error: Error) -> StoreError {
    StoreError::Generic { store: "S3", source: Box::new(error) }
}

impl fmt::Debug for VendedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bucket { table, bucket, .. } = self.0.as_ref();
        f.debug_struct("VendedStore").field("table", table).field("bucket", bucket).finish_non_exhaustive()
    }
}

impl fmt::Display for VendedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VendedStore({}, {})", self.0.table, self.0.bucket)
    }
}

#[async_trait]
impl ObjectStore for VendedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.at(Some(location)).await?.get_opts(location, options).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.at(Some(location)).await?.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.at(Some(location)).await?.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        // One after another: whoever deletes many does so in many streams.
        let deleting = locations.and_then(move |location| {
            let store = store.clone();
            async move {
                store.at(Some(&location)).await?.delete(&location).await?;
                Ok(location)
            }
        });
        deleting.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listing = async move { Ok::<_, StoreError>(store.at(prefix.as_ref()).await?.list(prefix.as_ref())) };
        stream::once(listing).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.at(prefix).await?.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.at(Some(to)).await?.copy_opts(from, to, options).await
    }
}
