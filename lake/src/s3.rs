//! Clients of S3 and of what speaks it (R2, SeaweedFS, MinIO).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, ReqwestConnector};
use object_store::{ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};
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
    /// (`AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_ROLE_ARN`), the role of a container or of the machine.
    ///
    /// Errors: `CONFIG_INVALID`.
    pub fn client(&self, catalog: &str, bucket: &str) -> Result<Arc<dyn ObjectStore>> {
        let builder = match (&self.access_key_id, &self.secret_access_key) {
            (Some(id), Some(key)) => {
                AmazonS3Builder::new().with_access_key_id(id.expose()).with_secret_access_key(key.expose())
            }
            _ => AmazonS3Builder::from_env(),
        };
        build(self.or_environment(&builder).reaching(bucket, builder), catalog, bucket)
    }

    /// A client with keys that are vended, over `connections`, which all tables of a bucket share.
    ///
    /// Errors: `CONFIG_INVALID`.
    pub fn vended_client(
        &self,
        catalog: &str,
        bucket: &str,
        keys: AwsCredentialProvider,
        connections: &Arc<Connections>,
    ) -> Result<Arc<dyn ObjectStore>> {
        let connector = Shared(Arc::clone(connections));
        let builder = AmazonS3Builder::new().with_credentials(keys).with_http_connector(connector);
        build(self.reaching(bucket, builder), catalog, bucket)
    }

    /// The same with the endpoint that the variables say which a builder has read. Behind `AWS_ENDPOINT_URL` the bucket is in
    /// the path unless `AWS_VIRTUAL_HOSTED_STYLE_REQUEST` says otherwise.
    fn or_environment(&self, builder: &AmazonS3Builder) -> Self {
        let value = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
        let endpoint = value(AmazonS3ConfigKey::S3Endpoint).or_else(|| value(AmazonS3ConfigKey::Endpoint));
        if self.endpoint.is_some() || endpoint.is_none() {
            return self.clone();
        }
        let in_host = value(AmazonS3ConfigKey::VirtualHostedStyleRequest).as_deref() == Some("true");
        Self { endpoint, path_style: self.path_style || !in_host, ..self.clone() }
    }

    /// The builder of a client that reaches the bucket.
    fn reaching(&self, bucket: &str, mut builder: AmazonS3Builder) -> AmazonS3Builder {
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        let mut is_plain = false;
        if let Some(endpoint) = &self.endpoint {
            let endpoint = endpoint.trim_end_matches('/');
            is_plain = endpoint.starts_with("http://");
            let endpoint = if self.path_style { endpoint.to_string() } else { endpoint_of_bucket(endpoint, bucket) };
            // The more specific of the two keys: the environment may have set either.
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
        let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, max_retries: 8, ..RetryConfig::default() };
        let options = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(REQUEST_TIMEOUT)
            .with_allow_http(is_plain);
        builder
            .with_bucket_name(bucket)
            .with_virtual_hosted_style_request(!self.path_style)
            .with_client_options(options)
            .with_retry(retry)
    }
}

fn build(builder: AmazonS3Builder, catalog: &str, bucket: &str) -> Result<Arc<dyn ObjectStore>> {
    let store = builder.build().map_err(|error| {
        let message = format!("catalog {catalog}: no S3 client can be made for bucket {bucket}");
        Error::new(ErrorCode::ConfigInvalid, message)
            .with_hint("see s3_endpoint, s3_region, s3_access_key_id and s3_secret_access_key")
            .with_source(error)
    })?;
    Ok(Arc::new(WholeRanges::new(store, bucket)))
}

/// `https://host` with the bucket in the host name.
fn endpoint_of_bucket(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => format!("https://{bucket}.{endpoint}"),
    }
}

/// The connections to one bucket, for all clients whose keys differ by table.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    plain: OnceLock<HttpClient>,
    encrypted: OnceLock<HttpClient>,
}

#[derive(Debug)]
struct Shared(Arc<Connections>);

impl HttpConnector for Shared {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let is_plain = options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() == Some("true");
        let client = if is_plain { &self.0.plain } else { &self.0.encrypted };
        if let Some(client) = client.get() {
            return Ok(client.clone());
        }
        let new = ReqwestConnector::default().connect(options)?;
        Ok(client.get_or_init(|| new).clone())
    }
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;
    use object_store::signer::Signer;
    use townlake_common::config::{CatalogConfig, Config};

    use super::*;

    fn settings(keys: &str) -> S3Settings {
        let text = format!(
            "[catalogs.l]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite:///tmp/none.db\"\n\
             warehouse = \"s3://wh\"\n{keys}"
        );
        let Some(CatalogConfig::Iceberg(config)) = Config::from_toml(&text).unwrap().catalogs.remove("l") else {
            panic!("no catalog")
        };
        S3Settings::new(&config)
    }

    fn builder(variables: &[(AmazonS3ConfigKey, &str)]) -> AmazonS3Builder {
        let builder = AmazonS3Builder::new().with_access_key_id("ID").with_secret_access_key("hunter2");
        variables.iter().fold(builder, |builder, (key, value)| builder.with_config(*key, *value))
    }

    /// Where a request goes, and the region that it is signed for.
    async fn request(settings: &S3Settings, builder: AmazonS3Builder) -> (String, String) {
        let store = settings.reaching("wh", builder).build().unwrap();
        let life = Duration::from_secs(60);
        let url = store.signed_url(reqwest::Method::GET, &Path::from("a/b"), life).await.unwrap();
        let credential = url.query_pairs().find(|(name, _)| name == "X-Amz-Credential").unwrap().1.into_owned();
        let region = credential.split('/').nth(2).unwrap().to_string();
        (url[..url::Position::AfterPath].to_string(), region)
    }

    #[tokio::test]
    async fn a_bucket_is_in_the_path_or_in_the_host() {
        let r2 = "s3_endpoint = \"https://a.r2.example/\"\ns3_region = \"auto\"";
        for (keys, url, region) in [
            ("s3_region = \"eu-west-1\"", "https://wh.s3.eu-west-1.amazonaws.com/a/b", "eu-west-1"),
            ("s3_path_style = true", "https://s3.us-east-1.amazonaws.com/wh/a/b", "us-east-1"),
            (r2, "https://wh.a.r2.example/a/b", "auto"),
            (&format!("{r2}\ns3_path_style = true"), "https://a.r2.example/wh/a/b", "auto"),
        ] {
            let expected = (url.to_string(), region.to_string());
            assert_eq!(request(&settings(keys), builder(&[])).await, expected, "{keys}");
        }
    }

    #[tokio::test]
    async fn the_environment_may_say_where_s3_is() {
        let (any, s3) = ((AmazonS3ConfigKey::Endpoint, "http://h"), (AmazonS3ConfigKey::S3Endpoint, "http://s"));
        let in_host = (AmazonS3ConfigKey::VirtualHostedStyleRequest, "true");
        for (keys, variables, url) in [
            ("", vec![any], "http://h/wh/a/b"),
            ("", vec![any, s3], "http://s/wh/a/b"),
            ("", vec![any, in_host], "http://wh.h/a/b"),
            ("", vec![in_host], "https://wh.s3.us-east-1.amazonaws.com/a/b"),
            ("s3_endpoint = \"http://ours\"\ns3_path_style = true", vec![any, s3], "http://ours/wh/a/b"),
        ] {
            let builder = builder(&variables);
            let settings = settings(keys).or_environment(&builder);
            assert_eq!(request(&settings, builder).await.0, url, "{keys} {variables:?}");
        }
    }
}
