//! Clients of S3 and of what speaks it (R2, SeaweedFS, MinIO).

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AwsCredentialProvider};
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use townlake_common::config::IcebergCatalog;
use townlake_common::{Error, ErrorCode, Result, Secret};

use crate::whole_ranges::WholeRanges;

const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The bound of one request, body included: a row group of some hundred megabytes over a slow line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// How the buckets of a catalog are reached.
#[derive(Debug, Clone)]
pub(crate) struct S3Settings {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    access_key_id: Option<Secret>,
    secret_access_key: Option<Secret>,
    pub path_style: bool,
}

impl S3Settings {
    pub fn new(config: &IcebergCatalog) -> Self {
        Self {
            endpoint: config.s3_endpoint.clone(),
            region: config.s3_region.clone(),
            access_key_id: config.s3_access_key_id.clone(),
            secret_access_key: config.s3_secret_access_key.clone(),
            path_style: config.s3_path_style,
        }
    }

    /// A client with the configured keys, or with those of the environment where none are: `AWS_ACCESS_KEY_ID`, a web identity
    /// (`AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_ROLE_ARN`), the role of a container or of the machine. `vended`: with these instead.
    ///
    /// Errors: `CONFIG_INVALID`.
    pub fn client(
        &self,
        catalog: &str,
        bucket: &str,
        vended: Option<AwsCredentialProvider>,
    ) -> Result<Arc<dyn ObjectStore>> {
        let mut builder = match (vended, &self.access_key_id, &self.secret_access_key) {
            (Some(vended), ..) => AmazonS3Builder::new().with_credentials(vended),
            (None, Some(id), Some(key)) => {
                AmazonS3Builder::new().with_access_key_id(id.expose()).with_secret_access_key(key.expose())
            }
            _ => AmazonS3Builder::from_env(),
        };
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            let endpoint = endpoint.trim_end_matches('/');
            let endpoint = if self.path_style { endpoint.to_string() } else { endpoint_of_bucket(endpoint, bucket) };
            builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
        }
        let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, max_retries: 8, ..RetryConfig::default() };
        let options = ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(REQUEST_TIMEOUT);
        let options = options.with_allow_http(self.endpoint.as_ref().is_some_and(|e| e.starts_with("http://")));
        let store = builder
            .with_bucket_name(bucket)
            .with_virtual_hosted_style_request(!self.path_style)
            .with_client_options(options)
            .with_retry(retry)
            .build()
            .map_err(|error| {
                let message = format!("catalog {catalog}: no S3 client can be made for bucket {bucket}");
                Error::new(ErrorCode::ConfigInvalid, message)
                    .with_hint("see s3_endpoint, s3_region, s3_access_key_id and s3_secret_access_key")
                    .with_source(error)
            })?;
        Ok(Arc::new(WholeRanges::new(store, bucket)))
    }
}

/// `https://host` with the bucket in the host name.
fn endpoint_of_bucket(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => format!("https://{bucket}.{endpoint}"),
    }
}
