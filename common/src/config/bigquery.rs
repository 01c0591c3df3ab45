//! `[catalogs.<name>]` of `type = "bigquery"`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::catalogs::{
    check_breaker_pause, default_breaker_failures, default_breaker_pause, default_connect_timeout, default_connections,
};
use crate::{Error, ErrorCode, Result};

/// A project of Google BigQuery: its datasets are schemas.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BigQueryCatalog {
    /// The project whose datasets are read.
    pub project: String,
    /// The project that is billed for sessions and jobs; by default the same.
    pub billing_project: Option<String>,
    /// The only dataset that is shown; by default all.
    pub dataset: Option<String>,
    /// A service account's key file (JSON). Without: the metadata server of the machine (workload identity).
    pub key_file: Option<PathBuf>,
    /// `https://host` of a regional or private endpoint for REST, in place of `bigquery.googleapis.com`.
    pub rest_endpoint: Option<String>,
    /// The same for gRPC, in place of `bigquerystorage.googleapis.com`.
    pub grpc_endpoint: Option<String>,
    /// `http://host:port` of an emulator's REST door: nobody's credentials are sent.
    pub emulator_rest: Option<String>,
    /// `http://host:port` of an emulator's gRPC door, without TLS.
    pub emulator_grpc: Option<String>,
    /// The most bytes that one scan or one query job may read; above it the query is refused before it costs anything.
    pub maximum_bytes_billed: Option<ByteSize>,
    /// How the server compresses Arrow buffers.
    #[serde(default)]
    pub compression: BigQueryCompression,
    /// Read streams, look-ups and jobs at the same time, of all coordinators and executors of the cluster together.
    #[serde(default = "default_connections")]
    pub connections: usize,
    /// How long to wait for a connection.
    #[serde(default = "default_connect_timeout", with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// After so many failures in a row to reach it, its queries fail at once for a while; 0: never.
    #[serde(default = "default_breaker_failures")]
    pub breaker_failures: u32,
    /// For how long at first; each probe that fails doubles it, up to a minute.
    #[serde(default = "default_breaker_pause", with = "humantime_serde")]
    pub breaker_pause: Duration,
    /// How long a read stream may be silent.
    #[serde(default = "default_read_timeout", with = "humantime_serde")]
    pub read_timeout: Duration,
    /// How long a query job (a view) may run.
    #[serde(default = "default_job_timeout", with = "humantime_serde")]
    pub job_timeout: Duration,
    /// A scan is cut into at most this many splits; 0 is twice the slots of the cluster.
    #[serde(default)]
    pub max_splits: usize,
    /// Whether readers may send it queries of its own SQL, with `TABLE(<catalog>.system.query('…'))`.
    #[serde(default)]
    pub pass_through: bool,
    /// Users and groups who may read.
    #[serde(default)]
    pub readers: Vec<String>,
    /// Users and groups who may write: none can yet, the connector reads only.
    #[serde(default)]
    pub writers: Vec<String>,
}

/// A codec of Arrow buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BigQueryCompression {
    /// As they are.
    #[default]
    None,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

fn default_read_timeout() -> Duration {
    Duration::from_secs(120)
}

fn default_job_timeout() -> Duration {
    Duration::from_secs(600)
}

impl BigQueryCatalog {
    pub(super) fn validate(&self, name: &str) -> Result<()> {
        let wrong = |what: &str| Err(Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{name}: {what}")));
        for (key, project) in [("project", Some(&self.project)), ("billing_project", self.billing_project.as_ref())] {
            if project.is_some_and(|project| !is_project(project)) {
                return wrong(&format!("`{key}` is not the id of a project"));
            }
        }
        if self.emulator_rest.is_some() != self.emulator_grpc.is_some() {
            return wrong("`emulator_rest` and `emulator_grpc` go together");
        }
        if self.emulator_rest.is_some() && self.key_file.is_some() {
            return wrong("a `key_file` is not shown to an emulator");
        }
        if self.emulator_rest.is_some() && (self.rest_endpoint.is_some() || self.grpc_endpoint.is_some()) {
            return wrong("`emulator_rest` and `rest_endpoint` exclude each other");
        }
        for (key, endpoint) in [("rest_endpoint", &self.rest_endpoint), ("grpc_endpoint", &self.grpc_endpoint)] {
            if endpoint.as_ref().is_some_and(|endpoint| !is_safe(endpoint)) {
                return wrong(&format!("`{key}` must be https://: access tokens go there"));
            }
        }
        if self.connections == 0 {
            return wrong("`connections` must be at least 1");
        }
        let times = [
            ("connect_timeout", self.connect_timeout),
            ("read_timeout", self.read_timeout),
            ("job_timeout", self.job_timeout),
        ];
        if let Some((key, _)) = times.iter().find(|(_, time)| time.is_zero()) {
            return wrong(&format!("`{key}` must be longer than 0"));
        }
        if self.maximum_bytes_billed.is_some_and(|most| most.as_u64() == 0) {
            return wrong("`maximum_bytes_billed` must be more than 0");
        }
        if self.dataset.as_ref().is_some_and(String::is_empty) {
            return wrong("`dataset` is empty");
        }
        check_breaker_pause(name, self.breaker_pause)
    }
}

/// Over TLS, or within this machine.
fn is_safe(endpoint: &str) -> bool {
    let host = url::Url::parse(endpoint)
        .ok()
        .filter(|url| url.scheme() == "http")
        .and_then(|url| url.host_str().map(str::to_string));
    endpoint.starts_with("https://")
        || host.is_some_and(|host| matches!(host.as_str(), "127.0.0.1" | "localhost" | "[::1]"))
}

/// Letters, digits, hyphens; a domain before a colon in old projects (`example.com:p`).
fn is_project(id: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
    !id.is_empty() && id.len() <= 100 && id.chars().all(known) && id.starts_with(|c: char| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CatalogConfig, Config};

    #[test]
    fn what_a_bigquery_catalog_cannot_mean_is_refused() {
        let read = |keys: &str| Config::from_toml(&format!("[catalogs.bq]\ntype = \"bigquery\"\n{keys}"));
        let sound = "project = \"p-1\"\n";
        for (keys, key) in [
            ("", "project"),
            ("project = \"a/b\"", "project"),
            ("project = \"..\"", "project"),
            ("project = \"p\"\nbilling_project = \"\"", "billing_project"),
            ("project = \"p\"\nemulator_rest = \"http://h:1\"", "emulator_grpc"),
            (
                "project = \"p\"\nemulator_rest = \"http://h:1\"\nemulator_grpc = \"http://h:2\"\nkey_file = \"k\"",
                "key_file",
            ),
            ("project = \"p\"\nrest_endpoint = \"http://proxy.example\"", "rest_endpoint"),
            ("project = \"p\"\ngrpc_endpoint = \"http://127.0.0.1.example\"", "grpc_endpoint"),
            ("project = \"p\"\nconnections = 0", "connections"),
            ("project = \"p\"\nread_timeout = \"0s\"", "read_timeout"),
            ("project = \"p\"\nmaximum_bytes_billed = \"0\"", "maximum_bytes_billed"),
            ("project = \"p\"\ncompression = \"snappy\"", "compression"),
        ] {
            let error = read(keys).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ConfigInvalid, "{keys}");
            assert!(error.message().contains(key), "{keys}: {error}");
        }
        let read = read(&format!("{sound}maximum_bytes_billed = \"1 GB\"\ncompression = \"zstd\"")).unwrap();
        let CatalogConfig::BigQuery(catalog) = &read.catalogs["bq"] else { panic!("{read:?}") };
        assert_eq!(catalog.maximum_bytes_billed, Some(ByteSize::gb(1)));
        assert_eq!(catalog.compression, BigQueryCompression::Zstd);
    }
}
