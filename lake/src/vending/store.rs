//! A bucket as one table may reach it, with keys that are asked for when they are needed and again before they expire.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::aws::AwsCredential;
use object_store::path::Path;
use object_store::{
    CopyOptions, CredentialProvider, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::RwLock;
use tokio::sync::{Mutex, OnceCell};
use townlake_common::{Error, ErrorCode};

use super::answer::{Access, Grant, covers};
use super::{MadeTable, Vendor};
use crate::s3::{Connections, S3Settings};

/// A renewal that failed is not tried again at once while the old keys are good.
const PAUSE: Duration = Duration::from_secs(1);
const DELETES_AT_ONCE: usize = 16;

/// A client that exists from its first request on.
#[derive(Clone)]
pub(crate) struct VendedStore(Arc<Bucket>);

struct Bucket {
    vendor: Arc<Vendor>,
    table: MadeTable,
    bucket: String,
    settings: S3Settings,
    /// Those that all tables in the bucket share.
    connections: Arc<Connections>,
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
        table: &MadeTable,
        bucket: &str,
        settings: &S3Settings,
        connections: Arc<Connections>,
        otherwise: Arc<dyn ObjectStore>,
    ) -> Self {
        let (vendor, table, bucket) = (Arc::clone(vendor), table.clone(), bucket.to_string());
        let (settings, opened) = (settings.clone(), OnceCell::new());
        Self(Arc::new(Bucket { vendor, table, bucket, settings, connections, otherwise, opened }))
    }

    /// The client for a file or a folder.
    async fn at(&self, path: Option<&Path>) -> Result<Arc<dyn ObjectStore>> {
        let bucket = &self.0;
        let opened = bucket.opened.get_or_try_init(|| bucket.open()).await?;
        let location = format!("s3://{}/{}", bucket.bucket, path.map(Path::as_ref).unwrap_or_default());
        let covering = opened.iter().find(|opened| covers(&opened.prefix, &location));
        match covering.map(|opened| &opened.store) {
            Some(store) => Ok(Arc::clone(store)),
            None if opened.is_empty() => Ok(Arc::clone(&bucket.otherwise)),
            // Keys of the environment are not looked for then: that takes long where there are none.
            None => {
                let (catalog, table) = (&bucket.vendor.catalog, &bucket.table.name);
                let message =
                    format!("the REST server of catalog {catalog} vends no key to {location} for table {table}");
                Err(refused(Error::new(ErrorCode::SourceDenied, message)))
            }
        }
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
                grant: RwLock::new(grant.clone()),
                renewing: Mutex::default(),
            };
            let (catalog, keys) = (&self.vendor.catalog, Arc::new(keys));
            let store = settings.vended_client(catalog, &self.bucket, keys, &self.connections).map_err(refused)?;
            opened.push(Opened { prefix: grant.prefix.clone(), store });
        }
        Ok(opened)
    }
}

/// The keys of one prefix.
struct VendedKeys {
    vendor: Arc<Vendor>,
    table: MadeTable,
    prefix: String,
    grant: RwLock<Grant>,
    /// Held by who renews them. When the last try failed, if it did.
    renewing: Mutex<Option<Instant>>,
}

impl VendedKeys {
    /// Keys that the store takes. They are renewed before they expire; meanwhile, and while the server is away, the old ones
    /// are used on.
    ///
    /// Errors: those of the server, once the old ones are good no more.
    async fn current(&self) -> townlake_common::Result<Grant> {
        let held = self.grant.read().clone();
        if held.is_fresh() {
            return Ok(held);
        }
        let mut failed = match self.renewing.try_lock() {
            Ok(renewing) => renewing,
            Err(_) if held.is_good() => return Ok(held),
            Err(_) => self.renewing.lock().await,
        };
        // Another may have done it.
        let held = self.grant.read().clone();
        let is_soon = failed.is_some_and(|at| at.elapsed() < PAUSE);
        if held.is_fresh() || (is_soon && held.is_good()) {
            return Ok(held);
        }
        match self.renewed().await {
            Ok(new) => {
                *failed = None;
                *self.grant.write() = new.clone();
                tracing::debug!(catalog = %self.vendor.catalog, table = %self.table.name, "vended keys are renewed");
                Ok(new)
            }
            Err(error) => {
                *failed = Some(Instant::now());
                let (catalog, table) = (&self.vendor.catalog, &self.table.name);
                tracing::debug!(%catalog, %table, ?error, "vended keys cannot be renewed yet");
                if held.is_good() { Ok(held) } else { Err(error) }
            }
        }
    }

    async fn renewed(&self) -> townlake_common::Result<Grant> {
        let access: Access = self.vendor.access(&self.table).await?;
        let same = access.grants.iter().find(|new| new.prefix == self.prefix);
        same.or_else(|| access.grant(&self.prefix)).cloned().ok_or_else(|| {
            let message = format!("the REST server of catalog {} vends no keys any more", self.vendor.catalog);
            Error::new(ErrorCode::SourceDenied, message)
        })
    }
}

#[async_trait]
impl CredentialProvider for VendedKeys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        let grant = self.current().await.map_err(refused)?;
        Ok(Arc::new(AwsCredential {
            key_id: grant.key_id.clone(),
            secret_key: grant.secret.expose().to_string(),
            token: grant.session_token.as_ref().map(|token| token.expose().to_string()),
        }))
    }
}

impl fmt::Debug for VendedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VendedKeys")
            .field("table", &self.table.name)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

fn refused(error: Error) -> StoreError {
    StoreError::Generic { store: "S3", source: Box::new(error) }
}

impl fmt::Debug for VendedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bucket { table, bucket, .. } = self.0.as_ref();
        f.debug_struct("VendedStore").field("table", &table.name).field("bucket", bucket).finish_non_exhaustive()
    }
}

impl fmt::Display for VendedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VendedStore({}, {})", self.0.table.name, self.0.bucket)
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
        // One request a file, for the keys to them may differ.
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let location = location?;
                store.at(Some(&location)).await?.delete(&location).await?;
                Ok(location)
            }
        };
        locations.map(delete).buffered(DELETES_AT_ONCE).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listing = async move { Ok::<_, StoreError>(store.at(prefix.as_ref()).await?.list(prefix.as_ref())) };
        stream::once(listing).try_flatten().boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix, offset) = (self.clone(), prefix.cloned(), offset.clone());
        let listing = async move {
            let client = store.at(prefix.as_ref()).await?;
            Ok::<_, StoreError>(client.list_with_offset(prefix.as_ref(), &offset))
        };
        stream::once(listing).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.at(prefix).await?.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.at(Some(to)).await?.copy_opts(from, to, options).await
    }
}
