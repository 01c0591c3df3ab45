//! The object store of a catalog, and what its errors mean.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};
use townlake_common::config::FilesCatalog;
use townlake_common::{Error, ErrorCode, Result};

use crate::breaker::Breaker;

const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A folder on a store.
pub(crate) struct Store {
    /// The catalog's name in the configuration.
    pub catalog: String,
    pub objects: Arc<dyn ObjectStore>,
    /// The folder.
    pub root: Path,
    /// Before look-ups.
    pub breaker: Breaker,
}

impl Store {
    /// The store of `[catalogs.<name>]`. A local one is rooted at its folder, so that no name leads out of it.
    ///
    /// Errors: `CONFIG_INVALID`.
    pub fn new(name: &str, config: &FilesCatalog) -> Result<Self> {
        let wrong = |what: &str| Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{name}: {what}"));
        let (objects, root): (Arc<dyn ObjectStore>, _) = match (config.local_path(), config.bucket()) {
            (Some(folder), _) => {
                let local = LocalFileSystem::new_with_prefix(folder);
                let local = local.map_err(|e| wrong("the folder of `location` cannot be read").with_source(e))?;
                (Arc::new(local), Path::default())
            }
            (None, Some((bucket, prefix))) => {
                let root = Path::parse(prefix.trim_end_matches('/'));
                let root = root.map_err(|e| wrong("`location` has no proper prefix").with_source(e))?;
                let client = s3(bucket, config).build();
                (Arc::new(client.map_err(|e| wrong("no S3 client can be made").with_source(e))?), root)
            }
            (None, None) => return Err(wrong("`location` is neither file:///path nor s3://bucket/prefix")),
        };
        let server = format!("the store of {}", config.location);
        let breaker = Breaker::new(name, server, config.breaker_failures, config.breaker_pause);
        Ok(Self { catalog: name.to_string(), objects, root, breaker })
    }

    /// The first bytes of a file, at most so many.
    pub async fn first_bytes(&self, file: &ObjectMeta, most: u64) -> Result<Bytes> {
        let bytes = self.objects.get_range(&file.location, 0..file.size.min(most)).await;
        bytes.map_err(|error| self.failed(&file.location, error))
    }

    /// What a file is now.
    pub async fn head(&self, path: &Path) -> Result<ObjectMeta> {
        self.objects.head(path).await.map_err(|error| self.failed(path, error))
    }

    /// A file from its start on.
    pub async fn get(&self, path: &Path) -> Result<GetResult> {
        self.objects.get(path).await.map_err(|error| self.failed(path, error))
    }

    /// What a failure to list the folder means. A refusal is nothing special to the store's client there: one that asks for a file has the word.
    pub async fn unlisted(&self, error: object_store::Error) -> Error {
        use object_store::Error as Store;
        if let Store::Generic { .. } = &error
            && let Err(refused @ (Store::PermissionDenied { .. } | Store::Unauthenticated { .. })) =
                self.objects.head(&self.root.clone().join("_")).await
        {
            return self.failed(&self.root, refused);
        }
        self.failed(&self.root, error)
    }

    /// What a failure at a file means.
    pub fn failed(&self, path: &Path, error: object_store::Error) -> Error {
        use object_store::Error as Store;
        let catalog = &self.catalog;
        match error {
            Store::NotFound { .. } => {
                let message = format!("catalog {catalog}: file {path} is gone");
                Error::new(ErrorCode::SourceError, message).with_hint("run the query again").moment_lost()
            }
            Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
                Error::new(ErrorCode::SourceDenied, format!("catalog {catalog}: the store refuses to give {path}"))
                    .with_hint(format!("check the keys in [catalogs.{catalog}] and their rights"))
            }
            error => {
                let message = format!("catalog {catalog}: the store cannot be reached, or breaks off, at {path}");
                Error::new(ErrorCode::SourceUnavailable, message).with_source(error).retryable()
            }
        }
    }
}

fn s3(bucket: &str, config: &FilesCatalog) -> AmazonS3Builder {
    let builder = match (&config.s3_access_key_id, &config.s3_secret_access_key) {
        (Some(id), Some(key)) => {
            AmazonS3Builder::new().with_access_key_id(id.expose()).with_secret_access_key(key.expose())
        }
        _ => AmazonS3Builder::from_env(),
    };
    reaching(bucket, config, builder)
}

/// A client that reaches the bucket, by the rule of the lake's (`lake/src/s3.rs`): what is not configured is the environment's, which the
/// builder has read. Behind `AWS_ENDPOINT_URL` the bucket is in the path unless `AWS_VIRTUAL_HOSTED_STYLE_REQUEST` says otherwise.
fn reaching(bucket: &str, config: &FilesCatalog, mut builder: AmazonS3Builder) -> AmazonS3Builder {
    let value = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
    let of_environment = || value(AmazonS3ConfigKey::S3Endpoint).or_else(|| value(AmazonS3ConfigKey::Endpoint));
    let (endpoint, in_path) = match (&config.s3_endpoint, of_environment()) {
        (None, Some(endpoint)) => {
            let in_host = value(AmazonS3ConfigKey::VirtualHostedStyleRequest).as_deref() == Some("true");
            (Some(endpoint), config.s3_path_style || !in_host)
        }
        (endpoint, _) => (endpoint.clone(), config.s3_path_style),
    };
    if let Some(region) = &config.s3_region {
        builder = builder.with_region(region);
    }
    let mut is_plain = false;
    if let Some(endpoint) = &endpoint {
        let endpoint = endpoint.trim_end_matches('/');
        is_plain = endpoint.starts_with("http://");
        let endpoint = match endpoint.split_once("://") {
            _ if in_path => endpoint.to_string(),
            Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
            None => format!("https://{bucket}.{endpoint}"),
        };
        // The more specific of the two keys: the environment may have set either.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    let options = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        .with_allow_http(is_plain);
    let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, max_retries: 8, ..RetryConfig::default() };
    builder
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(!in_path)
        .with_client_options(options)
        .with_retry(retry)
}

#[cfg(test)]
mod tests {
    use object_store::signer::Signer;
    use townlake_common::config::{CatalogConfig, Config};

    use super::*;

    /// Where a request goes.
    async fn url(keys: &str, variables: &[(AmazonS3ConfigKey, &str)]) -> String {
        let toml = format!("[catalogs.drop]\ntype = \"files\"\nlocation = \"s3://wh/in\"\n{keys}");
        let Some(CatalogConfig::Files(config)) = Config::from_toml(&toml).unwrap().catalogs.remove("drop") else {
            panic!("no catalog of files")
        };
        let builder = AmazonS3Builder::new().with_access_key_id("ID").with_secret_access_key("hunter2");
        let builder = variables.iter().fold(builder, |builder, (key, value)| builder.with_config(*key, *value));
        let store = reaching("wh", &config, builder).build().unwrap();
        let life = Duration::from_secs(60);
        let url = store.signed_url(reqwest::Method::GET, &Path::from("a"), life).await.unwrap();
        url[..url::Position::AfterPath].to_string()
    }

    #[tokio::test]
    async fn the_environment_may_say_where_s3_is_as_for_the_lake() {
        let any = (AmazonS3ConfigKey::Endpoint, "http://h");
        let in_host = (AmazonS3ConfigKey::VirtualHostedStyleRequest, "true");
        for (keys, variables, expected) in [
            ("s3_region = \"eu-west-1\"", vec![], "https://wh.s3.eu-west-1.amazonaws.com/a"),
            ("", vec![any], "http://h/wh/a"),
            ("", vec![any, in_host], "http://wh.h/a"),
            ("s3_endpoint = \"http://ours\"\ns3_path_style = true", vec![any], "http://ours/wh/a"),
            ("s3_endpoint = \"https://r2\"", vec![any], "https://wh.r2/a"),
        ] {
            assert_eq!(url(keys, &variables).await, expected, "{keys} {variables:?}");
        }
    }
}
