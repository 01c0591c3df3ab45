//! Object stores: one client per catalog and bucket, shared by metadata, planning, reading and writing.
//!
//! DataFusion finds a store by URL. Two catalogs may reach one bucket with different keys, so the URL names the catalog
//! too: `lake://<catalog>.file/` or `lake://<catalog>.s3.<bucket>/`, with `_` of the catalog's name written `--` (a host
//! name). Where the catalog vends keys it names the table as well: `lake://<catalog>.of-<UUID>-<name in hex>.s3.<bucket>/`.
//! Such a URL carries no credential: an executor resolves it with its own configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use datafusion::common::DataFusionError;
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use moka::sync::Cache;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use townlake_common::config::{CatalogConfig, IcebergCatalog};
use townlake_common::{Error, ErrorCode, Result};
use url::Url;
use uuid::Uuid;

use crate::catalog::TableName;
use crate::location::S3_SCHEMES;
use crate::s3::{Connections, S3Settings};
use crate::synced_files::SyncedFiles;
use crate::vending::{MadeTable, VendedStore, Vendor};

const SCHEME: &str = "lake";
/// Clients of tables whose keys are vended: so many, and no longer unused than this.
const VENDED_CLIENTS: u64 = 1000;
const VENDED_UNUSED: Duration = Duration::from_secs(30 * 60);

/// The bound of a file that is read whole. Metadata and manifests have some megabytes.
const MAX_METADATA_BYTES: u64 = 512 << 20;

/// The object stores of one catalog, or of one of its tables. Cheap to clone.
#[derive(Clone)]
pub struct ObjectAccess {
    stores: Arc<Stores>,
    /// Whose files are read and written, where the catalog vends keys.
    table: Option<Arc<MadeTable>>,
}

struct Stores {
    catalog: String,
    /// The only local folder that files may lie in, without the leading `/`; `None`: no local files at all. The client
    /// is rooted there, so that no path can lead out of it.
    local_root: Option<Path>,
    s3: S3Settings,
    clients: DashMap<Place, Arc<dyn ObjectStore>>,
    vendor: Option<Arc<Vendor>>,
    vended: Cache<(MadeTable, String), Arc<dyn ObjectStore>>,
    /// By bucket.
    connections: DashMap<String, Arc<Connections>>,
}

/// What one client reaches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    Local,
    Bucket(String),
}

impl ObjectAccess {
    /// The stores of the catalog `name`. No connection is made yet.
    ///
    /// Local files are reachable only under a `file://` warehouse.
    pub fn new(name: &str, config: &IcebergCatalog) -> Result<Self> {
        let local_root = match split_uri(&config.warehouse) {
            Some((Place::Local, key)) => Some(parse_key(&config.warehouse, key)?),
            _ => None,
        };
        let stores = Stores {
            catalog: name.to_string(),
            local_root,
            s3: S3Settings::new(config),
            clients: DashMap::new(),
            vendor: Vendor::of(name, config),
            vended: Cache::builder().max_capacity(VENDED_CLIENTS).time_to_idle(VENDED_UNUSED).build(),
            connections: DashMap::new(),
        };
        Ok(Self { stores: Arc::new(stores), table: None })
    }

    /// Whether the catalog vends keys, or may.
    pub(crate) fn may_be_vended(&self) -> bool {
        self.stores.vendor.is_some()
    }

    /// The stores for the files of one table.
    pub(crate) fn of_table(&self, name: &TableName, uuid: Uuid) -> Self {
        let made = || Arc::new(MadeTable { name: name.clone(), uuid });
        let table = self.may_be_vended().then(made);
        Self { stores: Arc::clone(&self.stores), table }
    }

    /// The store and key of a file's URI (`file:///…`, `/…`, `s3://bucket/…`, `s3a://…`).
    ///
    /// Errors: `FORMAT_NOT_SUPPORTED` for another scheme, `PERMISSION_DENIED` for a local file outside the warehouse.
    pub fn object_store(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let (place, path) = self.locate(uri)?;
        Ok((self.client(&place)?, path))
    }

    /// The catalog's name in the configuration.
    pub(crate) fn catalog(&self) -> &str {
        &self.stores.catalog
    }

    /// The same as a URL for DataFusion, which a [`LakeObjects::registry`] resolves on any node.
    pub fn object_store_url(&self, uri: &str) -> Result<(ObjectStoreUrl, Path)> {
        let (place, path) = self.locate(uri)?;
        Ok((self.url(&place)?, path))
    }

    /// The URL of what a client reaches.
    pub(crate) fn url(&self, place: &Place) -> Result<ObjectStoreUrl> {
        let place = match (place, &self.table) {
            (Place::Local, _) => "file".to_string(),
            (Place::Bucket(bucket), None) => format!("s3.{bucket}"),
            (Place::Bucket(bucket), Some(table)) => format!("{OF_TABLE}{}.s3.{bucket}", in_hex(table)),
        };
        ObjectStoreUrl::parse(format!("{SCHEME}://{}.{place}/", host_of(&self.stores.catalog))).map_err(|e| {
            Error::internal(format!("no object store URL for catalog {}", self.stores.catalog)).with_source(e)
        })
    }

    /// Reads a whole small file (metadata, a manifest).
    ///
    /// Errors: `FILE_NOT_FOUND`, `SOURCE_DENIED`, `SOURCE_UNAVAILABLE`, `DATA_CORRUPT` where it is far too large.
    pub(crate) async fn read(&self, uri: &str) -> Result<Bytes> {
        let (store, path) = self.object_store(uri)?;
        let found = store.get(&path).await.map_err(|error| from_object_store(uri, error))?;
        if found.meta.size > MAX_METADATA_BYTES {
            let message = format!("{uri} has {} bytes: it is no file of metadata", found.meta.size);
            return Err(Error::new(ErrorCode::DataCorrupt, message));
        }
        found.bytes().await.map_err(|error| from_object_store(uri, error))
    }

    /// Writes a whole small file. Its name must be unique: what is there is overwritten.
    pub(crate) async fn write(&self, uri: &str, bytes: Bytes) -> Result<()> {
        let (store, path) = self.object_store(uri)?;
        store.put(&path, bytes.into()).await.map(|_| ()).map_err(|error| from_object_store(uri, error))
    }

    /// Deletes files that nothing refers to. A failure leaves an orphan and is only logged.
    pub(crate) async fn discard(&self, uris: Vec<String>) {
        for uri in uris {
            if let Err(error) = self.delete(&uri).await {
                tracing::warn!(%uri, ?error, "an orphan file could not be deleted");
            }
        }
    }

    /// Deletes a file. One that is not there is deleted already.
    pub(crate) async fn delete(&self, uri: &str) -> Result<()> {
        let (store, path) = self.object_store(uri)?;
        match store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(from_object_store(uri, error)),
        }
    }

    /// What reaches a file, and the file's key there.
    ///
    /// Errors: as [`ObjectAccess::object_store`].
    pub(crate) fn locate(&self, uri: &str) -> Result<(Place, Path)> {
        let Some((place, key)) = split_uri(uri) else {
            let message = format!("catalog {}: the location {uri} is neither file:// nor s3://", self.stores.catalog);
            return Err(Error::new(ErrorCode::FormatNotSupported, message));
        };
        let path = parse_key(uri, key)?;
        if place != Place::Local {
            return Ok((place, path));
        }
        let inside =
            self.stores.local_root.as_ref().and_then(|root| path.prefix_match(root).map(|parts| parts.collect()));
        let path = inside.ok_or_else(|| {
            let message =
                format!("catalog {}: the local file {uri} is outside the catalog's warehouse", self.stores.catalog);
            Error::new(ErrorCode::PermissionDenied, message)
                .with_hint("only files under a file:// `warehouse` are read and written")
        })?;
        Ok((place, path))
    }

    fn client(&self, place: &Place) -> Result<Arc<dyn ObjectStore>> {
        let shared = || self.shared_client(place);
        let (Some(table), Some(vendor), Place::Bucket(bucket)) = (&self.table, &self.stores.vendor, place) else {
            return shared();
        };
        let key = (table.as_ref().clone(), bucket.clone());
        let vended = || {
            let connections = Arc::clone(&self.stores.connections.entry(bucket.clone()).or_default());
            let store = VendedStore::new(vendor, table, bucket, &self.stores.s3, connections, shared()?);
            Ok(Arc::new(store) as Arc<dyn ObjectStore>)
        };
        self.stores
            .vended
            .try_get_with(key, vended)
            .map_err(|error: Arc<Error>| Error::new(error.code(), error.message().to_string()).with_source(error))
    }

    /// The client that all tables share.
    fn shared_client(&self, place: &Place) -> Result<Arc<dyn ObjectStore>> {
        if let Some(client) = self.stores.clients.get(place) {
            return Ok(Arc::clone(&client));
        }
        let client = self.stores.clients.entry(place.clone()).or_try_insert_with(|| match place {
            Place::Local => self.local_client(),
            Place::Bucket(bucket) => self.stores.s3.client(&self.stores.catalog, bucket),
        })?;
        Ok(Arc::clone(&client))
    }

    fn local_client(&self) -> Result<Arc<dyn ObjectStore>> {
        let Some(root) = &self.stores.local_root else {
            let message =
                format!("catalog {} has no local files: its warehouse is not a file:// location", self.stores.catalog);
            return Err(Error::new(ErrorCode::PermissionDenied, message));
        };
        let folder = std::path::PathBuf::from(format!("/{root}"));
        let failed = |what: &str| {
            let message =
                format!("catalog {}: the warehouse folder {} cannot be {what}", self.stores.catalog, folder.display());
            Error::new(ErrorCode::SourceUnavailable, message)
        };
        if !folder.is_dir() {
            std::fs::create_dir_all(&folder).map_err(|e| failed("created").with_source(e))?;
        }
        let client = LocalFileSystem::new_with_prefix(&folder).map_err(|e| failed("opened").with_source(e))?;
        Ok(Arc::new(SyncedFiles::new(client, folder)))
    }
}

impl fmt::Debug for ObjectAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectAccess").field("catalog", &self.stores.catalog).finish_non_exhaustive()
    }
}

/// Splits a file's URI into place and key. Keys are raw: they are not URL-decoded, as Iceberg writes them raw.
fn split_uri(uri: &str) -> Option<(Place, &str)> {
    if let Some(rest) = S3_SCHEMES.iter().find_map(|scheme| uri.strip_prefix(scheme)) {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        return (!bucket.is_empty()).then(|| (Place::Bucket(bucket.to_string()), key));
    }
    let key = uri.strip_prefix("file://").or_else(|| uri.strip_prefix("file:")).unwrap_or(uri);
    key.starts_with('/').then_some((Place::Local, key))
}

fn parse_key(uri: &str, key: &str) -> Result<Path> {
    let key = key.trim_start_matches('/').trim_end_matches('/');
    Path::parse(key)
        .map_err(|e| Error::new(ErrorCode::DataCorrupt, format!("{uri} is not a usable location")).with_source(e))
}

/// The parts of a file's name below a folder; `None` where other programs hide it by a name like `_SUCCESS` or `.part`.
pub(crate) fn visible_parts(path: &Path, folder: &Path) -> Option<Vec<String>> {
    let parts: Vec<String> = path.prefix_match(folder)?.map(|part| part.as_ref().to_string()).collect();
    // A partition may be named so too.
    let is_hidden = |part: &String| part.starts_with(['_', '.']) && !part.contains('=');
    (!parts.is_empty() && !parts.iter().any(is_hidden)).then_some(parts)
}

/// Before the name of a table in a host name.
const OF_TABLE: &str = "of-";
/// Between schema and table there.
const PARTS: char = '\u{1f}';

/// The table's UUID and name. Hex, for a host name has few letters.
fn in_hex(table: &MadeTable) -> String {
    let MadeTable { name, uuid } = table;
    format!("{}-{}", uuid.simple(), hex::encode(format!("{}{PARTS}{}", name.namespace, name.table)))
}

fn of_hex(text: &str) -> Option<MadeTable> {
    let (uuid, name) = text.split_once('-')?;
    let name = String::from_utf8(hex::decode(name).ok()?).ok()?;
    let (namespace, table) = name.split_once(PARTS)?;
    Some(MadeTable { name: TableName::new(namespace, table), uuid: Uuid::parse_str(uuid).ok()? })
}

fn host_of(catalog: &str) -> String {
    catalog.replace('_', "--")
}

/// The typed error of an object store, naming the file.
pub(crate) fn from_object_store(uri: &str, error: object_store::Error) -> Error {
    use object_store::Error as Store;
    // What a client of ours has found out by itself.
    if let Store::Generic { source, .. } = &error
        && let Some(own) = source.downcast_ref::<Error>()
    {
        return own.clone();
    }
    let typed = match &error {
        Store::NotFound { .. } => Error::new(ErrorCode::FileNotFound, format!("the file {uri} does not exist")),
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
            Error::new(ErrorCode::SourceDenied, format!("the object store refuses access to {uri}"))
                .with_hint("check the catalog's S3 keys and their rights")
        }
        Store::InvalidPath { .. } => Error::new(ErrorCode::DataCorrupt, format!("{uri} is not a usable location")),
        _ => Error::new(ErrorCode::SourceUnavailable, format!("{uri} cannot be reached")).retryable(),
    };
    typed.with_source(error)
}

/// The object stores of every Iceberg catalog of the configuration: what a node, coordinator or executor, needs.
#[derive(Clone, Debug)]
pub struct LakeObjects(Arc<BTreeMap<String, ObjectAccess>>);

impl LakeObjects {
    /// The stores of these catalogs; those of other kinds are passed over.
    pub fn from_config(catalogs: &BTreeMap<String, CatalogConfig>) -> Result<Self> {
        let iceberg = catalogs.iter().filter_map(|(name, config)| match config {
            CatalogConfig::Iceberg(config) => Some((name, config)),
            CatalogConfig::Postgres(_)
            | CatalogConfig::ClickHouse(_)
            | CatalogConfig::Kafka(_)
            | CatalogConfig::BigQuery(_)
            | CatalogConfig::Files(_) => None,
        });
        let stores = iceberg.map(|(name, config)| Ok((name.clone(), ObjectAccess::new(name, config)?)));
        Ok(Self(Arc::new(stores.collect::<Result<_>>()?)))
    }

    /// The stores of one catalog.
    pub fn access(&self, catalog: &str) -> Option<&ObjectAccess> {
        self.0.get(catalog)
    }

    /// See [`ObjectAccess::object_store_url`].
    pub fn object_store_url(&self, catalog: &str, uri: &str) -> Result<(ObjectStoreUrl, Path)> {
        self.known(catalog)?.object_store_url(uri)
    }

    /// The registry for DataFusion's `RuntimeEnv`. It knows `lake://` URLs and stores registered by hand, nothing else:
    /// no local file system, so that a plan cannot read a file that no catalog holds.
    pub fn registry(&self) -> Arc<dyn ObjectStoreRegistry> {
        Arc::new(LakeRegistry { objects: self.clone(), registered: DashMap::new() })
    }

    fn known(&self, catalog: &str) -> Result<&ObjectAccess> {
        self.0.get(catalog).ok_or_else(|| {
            Error::new(ErrorCode::ConfigInvalid, format!("this node has no Iceberg catalog {catalog}"))
                .with_hint("coordinators and executors need the same [catalogs] configuration")
        })
    }

    fn resolve(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let unknown = || Error::internal(format!("{url} names no object store of the lake"));
        let (host, place) = url.host_str().and_then(|host| host.split_once('.')).ok_or_else(unknown)?;
        let (table, place) = match place.split_once('.') {
            None if place == "file" => (None, Place::Local),
            Some(("s3", bucket)) => (None, Place::Bucket(bucket.to_string())),
            Some((table, bucket)) => {
                let table = table.strip_prefix(OF_TABLE).and_then(of_hex).ok_or_else(unknown)?;
                (Some(table), Place::Bucket(bucket.strip_prefix("s3.").ok_or_else(unknown)?.to_string()))
            }
            None => return Err(unknown()),
        };
        let access = self.known(&host.replace("--", "_"))?;
        match table {
            Some(table) => access.of_table(&table.name, table.uuid).client(&place),
            None => access.client(&place),
        }
    }
}

#[derive(Debug)]
struct LakeRegistry {
    objects: LakeObjects,
    registered: DashMap<String, Arc<dyn ObjectStore>>,
}

impl ObjectStoreRegistry for LakeRegistry {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.registered.insert(key_of(url), store)
    }

    fn deregister_store(&self, url: &Url) -> datafusion::error::Result<Arc<dyn ObjectStore>> {
        let removed = self.registered.remove(&key_of(url)).map(|(_, store)| store);
        removed.ok_or_else(|| DataFusionError::Plan(format!("no object store is registered for {url}")))
    }

    fn get_store(&self, url: &Url) -> datafusion::error::Result<Arc<dyn ObjectStore>> {
        if let Some(store) = self.registered.get(&key_of(url)) {
            return Ok(Arc::clone(&store));
        }
        if url.scheme() == SCHEME {
            return self.objects.resolve(url).map_err(|e| DataFusionError::External(Box::new(e)));
        }
        let message = format!("{}:// is not a store of the lake", url.scheme());
        Err(DataFusionError::External(Box::new(Error::new(ErrorCode::NotSupported, message))))
    }
}

fn key_of(url: &Url) -> String {
    format!("{}://{}", url.scheme(), &url[url::Position::BeforeHost..url::Position::AfterPort])
}

#[cfg(test)]
mod tests {
    use super::*;
    use townlake_common::config::Config;

    fn objects(warehouse: &str) -> LakeObjects {
        let text = format!(
            "[catalogs.my_lake]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite:///tmp/none.db\"\n\
             warehouse = \"{warehouse}\"\ns3_endpoint = \"http://127.0.0.1:1\"\ns3_access_key_id = \"a\"\n\
             s3_secret_access_key = \"hunter2\"\ns3_path_style = true"
        );
        LakeObjects::from_config(&Config::from_toml(&text).unwrap().catalogs).unwrap()
    }

    #[tokio::test]
    async fn a_url_resolves_to_the_same_file_and_keys_stay_raw() {
        let folder = tempfile::tempdir().unwrap();
        let root = format!("file://{}", folder.path().display());
        let objects = objects(&root);
        let uri = format!("{root}/s/t/data/day=a%2Fb c/1.parquet");
        objects.access("my_lake").unwrap().write(&uri, Bytes::from_static(b"x")).await.unwrap();
        assert!(folder.path().join("s/t/data/day=a%2Fb c/1.parquet").is_file());

        let (url, path) = objects.object_store_url("my_lake", &uri).unwrap();
        assert_eq!(url.as_str(), "lake://my--lake.file/");
        let store = objects.registry().get_store(url.as_ref()).unwrap();
        assert_eq!(store.head(&path).await.unwrap().size, 1);
    }

    #[test]
    fn no_path_leads_out_of_the_warehouse() {
        let objects = objects("file:///tmp/townlake-none/warehouse");
        let access = objects.access("my_lake").unwrap();
        for uri in ["file:///etc/passwd", "/tmp/townlake-none/warehouse2/x", "file:///tmp/townlake-none/warehouse/../x"]
        {
            assert!(access.object_store(uri).is_err(), "{uri}");
        }
        assert!(objects.registry().get_store(&Url::parse("file:///etc/").unwrap()).is_err());
        assert!(objects.registry().get_store(&Url::parse("lake://other.file/").unwrap()).is_err());
    }

    #[test]
    fn buckets_have_a_client_each_and_secrets_do_not_print() {
        let objects = objects("s3://wh/prefix");
        let (url, path) = objects.object_store_url("my_lake", "s3a://other.bucket/a/b=%20/c").unwrap();
        assert_eq!((url.as_str(), path.as_ref()), ("lake://my--lake.s3.other.bucket/", "a/b=%20/c"));
        let first = objects.registry().get_store(url.as_ref()).unwrap();
        let second = objects.registry().get_store(url.as_ref()).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!format!("{objects:?}{first:?}").contains("hunter2"));
    }

    #[test]
    fn where_keys_are_vended_a_url_names_the_table() {
        let text = "[catalogs.my_lake]\ntype = \"iceberg\"\ncatalog = \"rest\"\nuri = \"http://127.0.0.1:1\"\n\
                    token = \"hunter2\"\ns3_endpoint = \"http://127.0.0.1:1\"\ns3_region = \"r\"";
        let objects = LakeObjects::from_config(&Config::from_toml(text).unwrap().catalogs).unwrap();
        let access = objects.access("my_lake").unwrap();
        let url_for = |table, made| {
            let access = access.of_table(&TableName::new("a.b", table), Uuid::from_u128(made));
            access.object_store_url("s3://x.y/t/1").unwrap().0
        };
        let (t, other, anew) = (url_for("Tä ble", 1), url_for("other", 1), url_for("Tä ble", 2));
        let expected = "lake://my--lake.of-00000000000000000000000000000001-612e621f54c3a420626c65.s3.x.y/";
        assert_eq!(t.as_str(), expected);
        assert_ne!(t, anew, "it lies elsewhere");
        let store = |url: &ObjectStoreUrl| objects.registry().get_store(url.as_ref()).unwrap();
        assert!(Arc::ptr_eq(&store(&t), &store(&t)) && !Arc::ptr_eq(&store(&t), &store(&other)));
        assert!(format!("{:?}", store(&t)).contains("Tä ble") && !format!("{:?}", store(&t)).contains("hunter2"));
        let shared = access.object_store_url("s3://x.y/t/1").unwrap().0;
        assert_eq!(shared.as_str(), "lake://my--lake.s3.x.y/");
        assert!(objects.registry().get_store(&Url::parse("lake://my--lake.of-zz.s3.x/").unwrap()).is_err());
    }
}
