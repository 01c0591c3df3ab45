//! `[catalogs.<name>]`: where the data lies, and who may read and write it.

use std::time::Duration;

use serde::Deserialize;

use super::KafkaCatalog;
use super::bigquery::BigQueryCatalog;
use super::files::FilesCatalog;
use crate::{Error, ErrorCode, Principal, Result, Secret};

/// One catalog. The default is closed: without `readers` nobody sees it.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum CatalogConfig {
    /// Iceberg tables.
    Iceberg(Box<IcebergCatalog>),
    /// A Postgres database.
    Postgres(Box<PostgresCatalog>),
    /// A Kafka cluster.
    Kafka(Box<KafkaCatalog>),
    /// A ClickHouse server.
    ClickHouse(Box<ClickHouseCatalog>),
    /// A project of Google BigQuery.
    BigQuery(Box<BigQueryCatalog>),
    /// A folder of plain files.
    Files(Box<FilesCatalog>),
}

/// An Iceberg catalog and the object store of its tables.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IcebergCatalog {
    /// Which protocol the catalog speaks.
    pub catalog: IcebergCatalogKind,
    /// `sqlite:///path`, `postgres://…` or, for REST, `https://…`.
    pub uri: Secret,
    /// `file:///path` or `s3://bucket/prefix`; for REST the name that the server knows.
    #[serde(default)]
    pub warehouse: String,
    /// The name under which an SQL catalog keeps its rows (`catalog_name`); by default the catalog's own name.
    pub catalog_name: Option<String>,
    /// REST: OAuth2 client credentials, `id:secret`.
    pub credential: Option<Secret>,
    /// REST: a bearer token.
    pub token: Option<Secret>,
    /// REST: OAuth2 scope; empty: none is asked for.
    pub scope: Option<String>,
    /// REST: where `credential` is exchanged for tokens, if not at the catalog's own `/v1/oauth/tokens`.
    pub oauth2_server_uri: Option<String>,
    /// REST: whether the server vends keys for S3; by default where the configuration has none.
    pub vended_credentials: Option<bool>,
    /// S3: endpoint URL, where it is not AWS.
    pub s3_endpoint: Option<String>,
    /// S3: region, `auto` for R2.
    pub s3_region: Option<String>,
    /// S3: access key id.
    pub s3_access_key_id: Option<Secret>,
    /// S3: secret access key.
    pub s3_secret_access_key: Option<Secret>,
    /// S3: bucket in the path rather than in the host name.
    #[serde(default)]
    pub s3_path_style: bool,
    /// Whether the catalog compacts tables and expires snapshots itself (R2 Data Catalog can): then we do not.
    #[serde(default)]
    pub self_maintained: bool,
    /// Users and groups who may read.
    #[serde(default)]
    pub readers: Vec<String>,
    /// Users and groups who may write (and read).
    #[serde(default)]
    pub writers: Vec<String>,
}

/// The protocol of an Iceberg catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IcebergCatalogKind {
    /// The tables of pyiceberg's SQL catalog, in SQLite or Postgres.
    Sql,
    /// The Iceberg REST protocol.
    Rest,
}

/// A Postgres database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresCatalog {
    /// `postgres://user:password@host:port/database`.
    pub url: Secret,
    /// TLS towards the server.
    #[serde(default)]
    pub tls: TlsMode,
    /// A PEM file of certificate authorities. With `verify-full` in place of the system's; with `require` the certificate
    /// must be of one of them, whatever host it names. Without either it would verify nothing and is refused.
    pub tls_ca: Option<std::path::PathBuf>,
    /// Connections to this database, of all coordinators and executors of the cluster together.
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
    /// A scan is cut into at most this many splits; 0 is twice the slots of the cluster.
    #[serde(default)]
    pub max_splits: usize,
    /// Whether readers may send it queries of its own SQL, with `TABLE(<catalog>.system.query('…'))`.
    #[serde(default)]
    pub pass_through: bool,
    /// Users and groups who may read.
    #[serde(default)]
    pub readers: Vec<String>,
    /// Users and groups who may write: `INSERT INTO` its tables.
    #[serde(default)]
    pub writers: Vec<String>,
}

/// A ClickHouse server, over HTTP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClickHouseCatalog {
    /// `http://user:password@host:8123/` or `https://…`.
    pub url: Secret,
    /// The only database that is shown; by default all but the server's own.
    pub database: Option<String>,
    /// A PEM file of certificate authorities, beside those that are built in.
    pub tls_ca: Option<std::path::PathBuf>,
    /// Whether Replacing tables are read with `FINAL`: only the newest row of each key.
    #[serde(default, rename = "final")]
    pub read_final: bool,
    /// Statements at the same time, of all coordinators and executors of the cluster together.
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

/// TLS towards a source, in libpq's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Never.
    Disable,
    /// Encrypted where the server can, unverified.
    #[default]
    Prefer,
    /// Encrypted or not at all; the certificate is verified only where `tls_ca` says of which authority it must be.
    Require,
    /// Encrypted, certificate and host name verified.
    VerifyFull,
}

impl CatalogConfig {
    /// Whether the principal may read. Who may write may read.
    pub fn readable_by(&self, principal: &Principal) -> bool {
        principal.is_any_of(self.readers()) || self.writable_by(principal)
    }

    /// Whether the principal may write.
    pub fn writable_by(&self, principal: &Principal) -> bool {
        principal.is_any_of(self.writers())
    }

    /// The users and groups who may read.
    pub fn readers(&self) -> &[String] {
        match self {
            Self::Iceberg(catalog) => &catalog.readers,
            Self::Postgres(catalog) => &catalog.readers,
            Self::Kafka(catalog) => &catalog.readers,
            Self::ClickHouse(catalog) => &catalog.readers,
            Self::BigQuery(catalog) => &catalog.readers,
            Self::Files(catalog) => &catalog.readers,
        }
    }

    /// The users and groups who may write.
    pub fn writers(&self) -> &[String] {
        match self {
            Self::Iceberg(catalog) => &catalog.writers,
            Self::Postgres(catalog) => &catalog.writers,
            Self::Kafka(catalog) => &catalog.writers,
            Self::ClickHouse(catalog) => &catalog.writers,
            Self::BigQuery(catalog) => &catalog.writers,
            Self::Files(catalog) => &catalog.writers,
        }
    }

    pub(super) fn validate(&self, name: &str) -> Result<()> {
        match self {
            Self::Iceberg(iceberg) => iceberg.validate(name),
            Self::Postgres(postgres) => postgres.validate(name),
            Self::Kafka(kafka) => kafka.validate(name),
            Self::ClickHouse(clickhouse) => clickhouse.validate(name),
            Self::BigQuery(bigquery) => bigquery.validate(name),
            Self::Files(files) => files.validate(name),
        }
    }
}

impl IcebergCatalog {
    fn validate(&self, name: &str) -> Result<()> {
        let wrong = |what: &str| Err(Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{name}: {what}")));
        if self.catalog == IcebergCatalogKind::Sql && self.warehouse.is_empty() {
            return wrong("an SQL catalog needs a `warehouse` (file:///… or s3://…)");
        }
        if self.s3_access_key_id.is_some() != self.s3_secret_access_key.is_some() {
            return wrong("`s3_access_key_id` and `s3_secret_access_key` go together");
        }
        if self.vended_credentials == Some(true) && self.catalog == IcebergCatalogKind::Sql {
            return wrong("an SQL catalog has no server that could give `vended_credentials`");
        }
        if self.oauth2_server_uri.is_some() && self.credential.is_none() {
            return wrong("`oauth2_server_uri` gives no token without a `credential`");
        }
        Ok(())
    }
}

impl PostgresCatalog {
    fn validate(&self, name: &str) -> Result<()> {
        let wrong = |what: &str| Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{name}: {what}"));
        if self.tls_ca.is_some() && matches!(self.tls, TlsMode::Disable | TlsMode::Prefer) {
            return Err(wrong("`tls_ca` verifies nothing with this `tls`").with_hint(
                "set `tls` to \"verify-full\", or to \"require\" where the certificate does not name the host",
            ));
        }
        // One is a query's snapshot, the other reads.
        if self.connections < 2 {
            return Err(wrong("`connections` must be at least 2"));
        }
        if self.connect_timeout.is_zero() {
            return Err(wrong("`connect_timeout` must be longer than 0"));
        }
        check_breaker_pause(name, self.breaker_pause)?;
        Ok(())
    }
}

impl ClickHouseCatalog {
    fn validate(&self, name: &str) -> Result<()> {
        let wrong = |what: &str| Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{name}: {what}"));
        if self.connections == 0 {
            return Err(wrong("`connections` must be at least 1"));
        }
        if self.connect_timeout.is_zero() {
            return Err(wrong("`connect_timeout` must be longer than 0"));
        }
        check_breaker_pause(name, self.breaker_pause)?;
        if self.database.as_ref().is_some_and(String::is_empty) {
            return Err(wrong("`database` is empty").with_hint("leave it out to see all databases"));
        }
        Ok(())
    }
}

/// Of the whole cluster. A Postgres that is not configured takes 100, and serves others, too.
pub(super) fn default_connections() -> usize {
    32
}

pub(super) fn default_connect_timeout() -> Duration {
    Duration::from_secs(5)
}

pub(super) fn default_breaker_failures() -> u32 {
    5
}

pub(super) fn default_breaker_pause() -> Duration {
    Duration::from_secs(5)
}

pub(super) fn check_breaker_pause(catalog: &str, pause: Duration) -> Result<()> {
    match pause.is_zero() {
        true => Err(Error::new(
            ErrorCode::ConfigInvalid,
            format!("catalogs.{catalog}: `breaker_pause` must be longer than 0"),
        )
        .with_hint("`breaker_failures = 0` turns the breaker off")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_an_iceberg_catalog_cannot_mean_is_refused() {
        let read = |keys: &str| {
            let text = format!("[catalogs.l]\ntype = \"iceberg\"\nuri = \"https://h\"\n{keys}");
            Config::from_toml(&text)
        };
        let (rest, sql) = ("catalog = \"rest\"", "catalog = \"sql\"\nwarehouse = \"s3://b\"");
        let refused = [
            ("catalog = \"sql\"".to_string(), "warehouse"),
            (format!("{sql}\nvended_credentials = true"), "vended_credentials"),
            (format!("{rest}\ns3_access_key_id = \"a\""), "s3_secret_access_key"),
            (format!("{rest}\noauth2_server_uri = \"https://h/token\""), "oauth2_server_uri"),
        ];
        for (keys, key) in refused {
            let error = read(&keys).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ConfigInvalid, "{keys}");
            assert!(error.message().contains("catalogs.l") && error.message().contains(key), "{keys}: {error}");
        }
        assert!(read(&format!("{rest}\ncredential = \"a:b\"\noauth2_server_uri = \"https://h/token\"")).is_ok());
    }

    #[test]
    fn what_a_postgres_catalog_cannot_mean_is_refused() {
        let read = |keys: &str| {
            Config::from_toml(&format!(
                "[catalogs.crm]\ntype = \"postgres\"\nurl = \"postgres://u:hunter2@h/d\"\n{keys}"
            ))
        };
        let refused = [
            ("tls_ca = \"ca.pem\"", "tls_ca"),
            ("tls = \"disable\"\ntls_ca = \"ca.pem\"", "tls_ca"),
            ("connections = 1", "connections"),
            ("connect_timeout = \"0s\"", "connect_timeout"),
            ("breaker_pause = \"0s\"", "breaker_pause"),
        ];
        for (keys, key) in refused {
            let error = read(keys).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ConfigInvalid, "{keys}");
            assert!(error.message().contains("catalogs.crm") && error.message().contains(key), "{keys}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        for mode in ["require", "verify-full"] {
            assert!(read(&format!("tls = \"{mode}\"\ntls_ca = \"ca.pem\"\nconnections = 2")).is_ok(), "{mode}");
        }
    }

    #[test]
    fn what_a_clickhouse_catalog_cannot_mean_is_refused() {
        let read = |keys: &str| {
            Config::from_toml(&format!("[catalogs.ch]\ntype = \"clickhouse\"\nurl = \"http://u:hunter2@h\"\n{keys}"))
        };
        for (keys, key) in [
            ("connections = 0", "connections"),
            ("connect_timeout = \"0s\"", "connect_timeout"),
            ("database = \"\"", "database"),
        ] {
            let error = read(keys).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ConfigInvalid, "{keys}");
            assert!(error.message().contains("catalogs.ch") && error.message().contains(key), "{keys}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let sound = read("database = \"events\"\nfinal = true\nreaders = [\"ann\"]").unwrap();
        assert!(matches!(&sound.catalogs["ch"], CatalogConfig::ClickHouse(catalog) if catalog.read_final));
    }
}
