//! `[catalogs.<name>]` with `type = "kafka"`: a cluster, and which of its topics are tables of what shape.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::catalogs::{
    check_breaker_pause, default_breaker_failures, default_breaker_pause, default_connect_timeout, default_connections,
};
use crate::{Error, ErrorCode, Result, Secret};

/// The columns that tables of topics have, whatever their values are (`_error` where errors are NULL).
pub const KAFKA_COLUMNS: [&str; 7] =
    ["_partition", "_offset", "_timestamp", "_timestamp_type", "_key", "_headers", "_error"];

/// A Kafka cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaCatalog {
    /// `host:port` of some brokers; they name the others.
    pub brokers: Vec<String>,
    /// TLS towards the brokers.
    #[serde(default)]
    pub tls: KafkaTls,
    /// A PEM file of certificate authorities. With `verify-full` in place of the system's; with `require` the certificate
    /// must be of one of them, whatever host it names.
    pub tls_ca: Option<PathBuf>,
    /// A PEM file of our own certificate, where the brokers ask for one.
    pub tls_cert: Option<PathBuf>,
    /// The PEM file of its key.
    pub tls_key: Option<PathBuf>,
    /// How we log in.
    pub sasl: Option<SaslMechanism>,
    /// SASL: the name.
    pub username: Option<Secret>,
    /// SASL: the password.
    pub password: Option<Secret>,
    /// Whether what transactions have not committed is read.
    #[serde(default)]
    pub isolation: KafkaIsolation,
    /// Connections to these brokers, of all coordinators and executors of the cluster together.
    #[serde(default = "default_connections")]
    pub connections: usize,
    /// How long a connection may take, with TLS and login.
    #[serde(default = "default_connect_timeout", with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// After so many failures in a row to reach it, its queries fail at once for a while; 0: never.
    #[serde(default = "default_breaker_failures")]
    pub breaker_failures: u32,
    /// For how long at first; each probe that fails doubles it, up to a minute.
    #[serde(default = "default_breaker_pause", with = "humantime_serde")]
    pub breaker_pause: Duration,
    /// How long an answer may take, and how long a partition may be without a leader.
    #[serde(default = "default_request_timeout", with = "humantime_serde")]
    pub request_timeout: Duration,
    /// A scan is cut into at most this many splits, but never into fewer than it has partitions; 0 is twice the slots of
    /// the cluster.
    #[serde(default)]
    pub max_splits: usize,
    /// A Confluent-compatible schema registry (`https://host`), for the formats `avro` and `protobuf`.
    pub schema_registry: Option<Secret>,
    /// Its user, where it wants one.
    pub schema_registry_user: Option<Secret>,
    /// The user's password.
    pub schema_registry_password: Option<Secret>,
    /// A bearer token, in place of user and password.
    pub schema_registry_token: Option<Secret>,
    /// A PEM file of authorities that the registry's certificate may be of, beside the system's.
    pub schema_registry_ca: Option<PathBuf>,
    /// The topics that are more than bytes.
    #[serde(default)]
    pub tables: Vec<KafkaTable>,
    /// Users and groups who may read.
    #[serde(default)]
    pub readers: Vec<String>,
    /// Users and groups who may write: none can yet, the connector reads only.
    #[serde(default)]
    pub writers: Vec<String>,
}

/// TLS towards brokers. There is no `prefer`: a listener of Kafka speaks TLS or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KafkaTls {
    /// Never.
    #[default]
    Disable,
    /// Encrypted; the certificate is verified only where `tls_ca` says of which authority it must be.
    Require,
    /// Encrypted, certificate and host name verified.
    VerifyFull,
}

/// How we log in to brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum SaslMechanism {
    /// Name and password as they are.
    #[serde(rename = "PLAIN")]
    Plain,
    /// A proof of the password, over SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// A proof of the password, over SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

/// What of transactions is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaIsolation {
    /// What is committed, up to the last stable offset.
    #[default]
    ReadCommitted,
    /// Everything, up to the high watermark.
    ReadUncommitted,
}

/// A topic as a table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaTable {
    /// The topic.
    pub topic: String,
    /// The schema of the table.
    #[serde(default = "default_schema")]
    pub schema: String,
    /// The name of the table; by default the topic's.
    pub table: Option<String>,
    /// What the values are.
    #[serde(default)]
    pub format: KafkaFormat,
    /// The columns of the values; without them JSON is sampled.
    #[serde(default)]
    pub columns: Vec<KafkaColumn>,
    /// The subject in the registry whose newest schema says what the columns are; by default `<topic>-value`.
    pub subject: Option<String>,
    /// Protobuf: the full name of the message that the values are; by default the first of the schema.
    pub message: Option<String>,
    /// What happens to a value that is not what the columns say.
    #[serde(default)]
    pub on_error: OnError,
}

/// What the values of a topic are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KafkaFormat {
    /// Bytes: one column `_value`.
    #[default]
    Raw,
    /// UTF-8: one column `_value`.
    Text,
    /// JSON objects.
    Json,
    /// Avro, its schema in the registry.
    Avro,
    /// Protobuf, its schema in the registry.
    Protobuf,
}

/// A column of a topic's values.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaColumn {
    /// Its name.
    pub name: String,
    /// Its SQL type.
    #[serde(rename = "type")]
    pub sql_type: String,
    /// Where it lies in a JSON value: `$.a.b[0]`; by default the member of the column's name.
    pub path: Option<String>,
}

/// What happens to a value that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The query fails.
    #[default]
    Fail,
    /// The column is NULL; the scan counts it, and the column `_error` of the row tells of it.
    NullAndCount,
}

impl KafkaTable {
    /// The name of the table.
    pub fn name(&self) -> &str {
        self.table.as_deref().unwrap_or(&self.topic)
    }

    /// The subject in the registry that has the schema of its values.
    pub fn subject(&self) -> String {
        self.subject.clone().unwrap_or_else(|| format!("{}-value", self.topic))
    }
}

impl KafkaFormat {
    /// Whether values begin with the id of a schema, which a registry has.
    pub fn is_registered(self) -> bool {
        matches!(self, Self::Avro | Self::Protobuf)
    }
}

impl KafkaCatalog {
    pub(super) fn validate(&self, name: &str) -> Result<()> {
        let wrong = |what: &str| Err(Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{name}: {what}")));
        if self.brokers.is_empty() {
            return wrong("`brokers` names none");
        }
        // A broker's text is not quoted: whoever writes a URL there may write a password, too.
        if self.brokers.iter().any(|broker| host_and_port(broker).is_none()) {
            return wrong("each of `brokers` is host:port");
        }
        if self.tls_ca.is_some() && self.tls == KafkaTls::Disable {
            return wrong("`tls_ca` verifies nothing without `tls`");
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return wrong("`tls_cert` and `tls_key` go together");
        }
        if self.tls_cert.is_some() && self.tls == KafkaTls::Disable {
            return wrong("`tls_cert` is of no use without `tls`");
        }
        match (self.sasl, &self.username, &self.password) {
            (Some(_), Some(_), Some(_)) | (None, None, None) => {}
            (Some(_), ..) => return wrong("`sasl` needs `username` and `password`"),
            (None, ..) => return wrong("`username` and `password` need `sasl`"),
        }
        if self.connections == 0 {
            return wrong("`connections` must be at least 1");
        }
        if self.connect_timeout.is_zero() || self.request_timeout.is_zero() {
            return wrong("`connect_timeout` and `request_timeout` must be longer than 0");
        }
        check_breaker_pause(name, self.breaker_pause)?;
        self.validate_registry(name)?;
        self.validate_tables(name)
    }

    fn validate_registry(&self, name: &str) -> Result<()> {
        let wrong = |what: &str| Err(Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{name}: {what}")));
        let Some(url) = &self.schema_registry else {
            let keys = [&self.schema_registry_user, &self.schema_registry_password, &self.schema_registry_token];
            return match keys.iter().any(|key| key.is_some()) || self.schema_registry_ca.is_some() {
                true => wrong("what is said of a registry needs `schema_registry`"),
                false => Ok(()),
            };
        };
        let url = Url::parse(url.expose()).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(url) = url.filter(|url| url.has_host() && url.query().is_none() && url.fragment().is_none()) else {
            return wrong("`schema_registry` is no URL of http or https");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return wrong(
                "the login of `schema_registry` goes into `schema_registry_user` and `schema_registry_password`",
            );
        }
        if self.schema_registry_user.is_some() != self.schema_registry_password.is_some() {
            return wrong("`schema_registry_user` and `schema_registry_password` go together");
        }
        if self.schema_registry_user.is_some() && self.schema_registry_token.is_some() {
            return wrong("the registry gets a user or a token, not both");
        }
        Ok(())
    }

    fn validate_tables(&self, name: &str) -> Result<()> {
        let mut names = Vec::new();
        for table in &self.tables {
            let wrong = |what: String| {
                let message = format!("catalogs.{name}: table {}.{}: {what}", table.schema, table.name());
                Err(Error::new(ErrorCode::ConfigInvalid, message))
            };
            if table.topic.is_empty() || table.name().is_empty() || table.schema.is_empty() {
                return wrong("`topic`, `schema` and `table` must not be empty".to_string());
            }
            if names.contains(&(table.schema.as_str(), table.name())) {
                return wrong("it is defined twice".to_string());
            }
            names.push((&table.schema, table.name()));
            if !table.columns.is_empty() && table.format != KafkaFormat::Json {
                return wrong("only the format json takes `columns`".to_string());
            }
            if table.format.is_registered() && self.schema_registry.is_none() {
                return wrong("its format needs `schema_registry`".to_string());
            }
            if table.subject.is_some() && !table.format.is_registered() {
                return wrong("only the formats avro and protobuf take `subject`".to_string());
            }
            if table.message.is_some() && table.format != KafkaFormat::Protobuf {
                return wrong("only the format protobuf takes `message`".to_string());
            }
            for (index, column) in table.columns.iter().enumerate() {
                if column.name.is_empty() || KAFKA_COLUMNS.contains(&column.name.as_str()) {
                    return wrong(format!("a column cannot be called `{}`", column.name));
                }
                if table.columns.iter().take(index).any(|other| other.name == column.name) {
                    return wrong(format!("column {} is there twice", column.name));
                }
            }
        }
        Ok(())
    }

    /// Host and port of each of the brokers.
    pub fn addresses(&self) -> Vec<(String, u16)> {
        self.brokers.iter().filter_map(|broker| host_and_port(broker)).collect()
    }
}

/// `host:port`, the host of IPv6 in brackets.
fn host_and_port(broker: &str) -> Option<(String, u16)> {
    let (host, port) = broker.trim().rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let plain = !host.is_empty() && !host.contains(['/', '@', ' ', ',', '[', ']']);
    Some((host.to_string(), port.parse().ok().filter(|port| *port != 0)?)).filter(|_| plain)
}

fn default_request_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_schema() -> String {
    "default".to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CatalogConfig, Config};

    fn read(keys: &str) -> Result<KafkaCatalog> {
        let text = format!("[catalogs.bus]\ntype = \"kafka\"\n{keys}");
        match Config::from_toml(&text)?.catalogs.remove("bus") {
            Some(CatalogConfig::Kafka(catalog)) => Ok(*catalog),
            _ => panic!("not a Kafka catalog"),
        }
    }

    #[test]
    fn a_catalog_is_read_whole() {
        let catalog = read(
            "brokers = [\"a:9092\", \"[::1]:9093\"]\nsasl = \"SCRAM-SHA-512\"\nusername = \"u\"\npassword = \"hunter2\"\n\
             tls = \"verify-full\"\nschema_registry = \"http://r:8081\"\n[[catalogs.bus.tables]]\ntopic = \"t\"\n\
             format = \"json\"\non_error = \"null-and-count\"\ncolumns = [{ name = \"a\", type = \"bigint\", path = \"$.x\" }]",
        )
        .unwrap();
        assert_eq!(catalog.addresses(), [("a".to_string(), 9092), ("::1".to_string(), 9093)]);
        assert_eq!(
            (catalog.isolation, catalog.sasl),
            (KafkaIsolation::ReadCommitted, Some(SaslMechanism::ScramSha512))
        );
        let table = &catalog.tables[0];
        assert_eq!((table.schema.as_str(), table.name(), table.on_error), ("default", "t", OnError::NullAndCount));
        assert_eq!(table.subject(), "t-value");
        assert!(!format!("{catalog:?}").contains("hunter2"));
    }

    #[test]
    fn what_a_kafka_catalog_cannot_mean_is_refused() {
        let brokers = "brokers = [\"a:9092\"]\n";
        let table = |keys: &str| format!("{brokers}[[catalogs.bus.tables]]\ntopic = \"t\"\n{keys}");
        let refused = [
            ("brokers = []".to_string(), "brokers"),
            ("brokers = [\"kafka://u:hunter2@a:9092\"]".to_string(), "brokers"),
            ("brokers = [\"a\"]".to_string(), "brokers"),
            (format!("{brokers}tls_ca = \"ca.pem\""), "tls_ca"),
            (format!("{brokers}tls = \"require\"\ntls_cert = \"c.pem\""), "tls_key"),
            (format!("{brokers}sasl = \"PLAIN\"\nusername = \"u\""), "password"),
            (format!("{brokers}username = \"u\"\npassword = \"hunter2\""), "sasl"),
            (format!("{brokers}connections = 0"), "connections"),
            (format!("{brokers}schema_registry = \"hunter2\""), "schema_registry"),
            (format!("{brokers}schema_registry = \"http://u:hunter2@r\""), "schema_registry_user"),
            (format!("{brokers}schema_registry = \"http://r\"\nschema_registry_password = \"hunter2\""), "together"),
            (format!("{brokers}schema_registry_token = \"hunter2\""), "schema_registry"),
            (table("subject = \"s\""), "subject"),
            (table("format = \"json\"\nmessage = \"m\""), "message"),
            (table("format = \"avro\""), "schema_registry"),
            (table("columns = [{ name = \"a\", type = \"int\" }]"), "columns"),
            (table("format = \"json\"\ncolumns = [{ name = \"_offset\", type = \"int\" }]"), "_offset"),
            (table("[[catalogs.bus.tables]]\ntopic = \"u\"\ntable = \"t\""), "twice"),
        ];
        for (keys, named) in refused {
            let error = read(&keys).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ConfigInvalid, "{keys}");
            assert!(error.message().contains("catalogs.bus") && error.message().contains(named), "{keys}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
