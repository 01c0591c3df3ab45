//! The configuration: one TOML file, every key of which the environment can override.
//!
//! `TOWNLAKE_SECTION__KEY=value` overrides `[section] key`; a map goes deeper the same way
//! (`TOWNLAKE_CATALOGS__CRM__URL=…`). Without a file the defaults and the environment alone make a configuration.
//! Unknown keys are refused: a typing error must not silently switch something off.

mod bigquery;
mod catalogs;
mod definition;
mod files;
mod kafka;
mod sections;

use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::Deserialize;

pub use bigquery::{BigQueryCatalog, BigQueryCompression};
pub use catalogs::{CatalogConfig, ClickHouseCatalog, IcebergCatalog, IcebergCatalogKind, PostgresCatalog, TlsMode};
pub use definition::CatalogDefinition;
pub use files::FilesCatalog;
pub use kafka::{
    KAFKA_COLUMNS, KafkaCatalog, KafkaColumn, KafkaFormat, KafkaIsolation, KafkaTable, KafkaTls, OnError, SaslMechanism,
};
pub use sections::{
    AuthConfig, ClusterConfig, ExecutorConfig, LimitsConfig, MaintenanceConfig, MembershipKind, ServerConfig,
    StoreConfig, TokenConfig, UserConfig,
};

use crate::{Error, ErrorCode, Result};

/// The whole configuration of one node. Each kind of node reads the sections that concern it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The public doors of a coordinator.
    #[serde(default)]
    pub server: ServerConfig,
    /// How nodes find each other.
    #[serde(default)]
    pub cluster: ClusterConfig,
    /// Where a coordinator keeps its state (audit, history).
    #[serde(default)]
    pub store: StoreConfig,
    /// One executor node.
    #[serde(default)]
    pub executor: ExecutorConfig,
    /// Who may come in.
    #[serde(default)]
    pub auth: AuthConfig,
    /// Limits and defaults of queries.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Maintenance of tables by their properties.
    #[serde(default)]
    pub maintenance: MaintenanceConfig,
    /// The catalogs by name.
    #[serde(default)]
    pub catalogs: BTreeMap<String, CatalogConfig>,
}

impl Config {
    /// Reads `path` (or nothing) and the environment over it.
    ///
    /// Errors: `CONFIG_INVALID`, naming the file and the key, never the value.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let mut figment = Figment::new();
        if let Some(path) = path {
            if !path.is_file() {
                let message = format!("the configuration file {} does not exist", path.display());
                return Err(Error::new(ErrorCode::ConfigInvalid, message));
            }
            figment = figment.merge(Toml::file_exact(path));
        }
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        refuse_unknown_section(names)?;
        Self::extract(figment.merge(environment()), path)
    }

    /// Reads a configuration from TOML text, without the environment.
    pub fn from_toml(text: &str) -> Result<Self> {
        Self::extract(Figment::new().merge(Toml::string(text)), None)
    }

    fn extract(figment: Figment, path: Option<&Path>) -> Result<Self> {
        let config = Self::read(&figment).map_err(|Fault { key, of, what, .. }| {
            let place = path.map(|p| format!(" in {}", p.display())).unwrap_or_default();
            Error::new(ErrorCode::ConfigInvalid, format!("configuration key `{}`{of}{place}: {what}", key.join(".")))
        })?;
        config.validate()?;
        Ok(config)
    }

    fn read(figment: &Figment) -> Result<Self, Fault> {
        figment.extract().map_err(|error| Fault::of(figment, &error))
    }

    /// What types alone cannot say.
    fn validate(&self) -> Result<()> {
        for (name, catalog) in &self.catalogs {
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !plain || name.is_empty() || name == "system" {
                let message = format!("catalog name `{name}`: use lower-case letters, digits and _, and not `system`");
                return Err(Error::new(ErrorCode::ConfigInvalid, message));
            }
            catalog.validate(name)?;
        }
        self.auth.validate(&self.server)
    }
}

/// A key that cannot be read. figment quotes offending values; a value may be a secret, so only the key and the kind are told.
struct Fault {
    key: Vec<String>,
    /// What the key is of, to be read after it; may be empty.
    of: String,
    what: String,
    /// A key that is not there.
    missing: Option<String>,
    /// Whether it is the kind of a catalog that is none.
    is_of_kind: bool,
}

impl Fault {
    fn of(figment: &Figment, error: &figment::Error) -> Self {
        let mut fault = Self::new(error);
        let [section, name] = error.path.as_slice() else { return fault };
        if section != "catalogs" {
            return fault;
        }
        if let Some(inside) = key_at_fault(figment, name) {
            fault.is_of_kind = false;
            fault.key.push(inside);
        }
        match fault.key.last() {
            Some(key) if key == "tables" => in_tables(figment, name).unwrap_or(fault),
            _ => fault,
        }
    }

    fn new(error: &figment::Error) -> Self {
        use figment::error::Kind;
        Self {
            key: error.path.clone(),
            of: String::new(),
            what: kind_of(&error.kind),
            missing: match &error.kind {
                Kind::MissingField(field) => Some(field.to_string()),
                _ => None,
            },
            is_of_kind: matches!(&error.kind, Kind::UnknownVariant(_, known) if known.contains(&"postgres")),
        }
    }
}

/// Which of the tables of a catalog cannot be read, and why.
fn in_tables(figment: &Figment, catalog: &str) -> Option<Fault> {
    let key = format!("catalogs.{catalog}.tables");
    let tables = figment.find_value(&key).ok()?.into_array()?;
    tables.iter().enumerate().find_map(|(index, table)| {
        let error = Figment::from(Serialized::defaults(table)).extract::<KafkaTable>().err()?;
        let topic = table.as_dict().and_then(|table| table.get("topic")?.as_str());
        let of = topic.map(|topic| format!(" (topic {topic})")).unwrap_or_default();
        let mut fault = Fault { of, ..Fault::new(&error) };
        let outer = ["catalogs", catalog, "tables"].map(str::to_string).into_iter().chain([index.to_string()]);
        fault.key = outer.chain(fault.key).collect();
        Some(fault)
    })
}

/// The key without which the section of a catalog could be read: an enum by `type` does not tell where it has failed.
fn key_at_fault(figment: &Figment, catalog: &str) -> Option<String> {
    let section = figment.find_value(&format!("catalogs.{catalog}")).ok()?;
    let keys = section.as_dict()?;
    let reads_without = |key: &&String| {
        let mut others = keys.clone();
        others.remove(*key);
        Figment::from(Serialized::defaults(&others)).extract::<CatalogConfig>().is_ok()
    };
    keys.keys().find(reads_without).cloned()
}

const PREFIX: &str = "TOWNLAKE_";

/// The sections, as the environment names them.
const SECTIONS: [&str; 8] = ["server", "cluster", "store", "executor", "auth", "limits", "maintenance", "catalogs"];

/// `TOWNLAKE_A__B__C` as the key `a.b.c`. Settings of the logger and of the scripts are not configuration keys.
fn environment() -> Env {
    Env::prefixed(PREFIX)
        .filter(|key| section_of(key.as_str()).is_some_and(|section| SECTIONS.contains(&section.as_str())))
        .map(|key| key.as_str().to_lowercase().replace("__", ".").into())
}

/// The section that `SECTION__KEY` names.
fn section_of(key: &str) -> Option<String> {
    key.split_once("__").map(|(section, _)| section.to_lowercase())
}

/// A name with `__` is meant as a key. One without is left alone: Kubernetes, for one, sets `TOWNLAKE_PORT` and
/// `TOWNLAKE_SERVICE_HOST` where a service is called townlake.
fn refuse_unknown_section(names: impl Iterator<Item = String>) -> Result<()> {
    for name in names {
        let Some(section) = name.strip_prefix(PREFIX).and_then(section_of) else { continue };
        if !SECTIONS.contains(&section.as_str()) {
            let near = crate::nearest(&section, SECTIONS.iter().copied());
            let hint = near.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
            let message = format!("the environment sets {name}, and there is no section `{section}`{hint}");
            return Err(Error::new(ErrorCode::ConfigInvalid, message));
        }
    }
    Ok(())
}

fn kind_of(kind: &figment::error::Kind) -> String {
    use figment::error::Kind;
    match kind {
        Kind::UnknownField(field, known) => {
            let near = crate::nearest(field, known.iter().copied());
            let hint = near.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
            format!("there is no key `{field}`{hint}")
        }
        Kind::MissingField(field) => format!("the key `{field}` is missing"),
        Kind::UnknownVariant(given, known) => {
            let near = crate::nearest(given, known.iter().copied());
            let hint = near.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
            format!("must be one of {}{hint}", known.join(", "))
        }
        Kind::InvalidType(_, expected) => format!("must be {}", in_words(&expected.to_string())),
        Kind::InvalidValue(_, expected) => format!("must be {}", in_words(&expected.to_string())),
        Kind::InvalidLength(_, expected) => format!("must have {expected}"),
        // the parser quotes the line at fault, which may hold a secret: only its first line, with the place, is told
        Kind::Message(message) => message.lines().next().unwrap_or_default().to_string(),
        _ => "cannot be read".to_string(),
    }
}

/// What serde expects, for people.
fn in_words(expected: &str) -> &str {
    match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" | "i64" | "i32" | "isize" => "a whole number",
        "a boolean" => "true or false",
        "a string" => "a text",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = include_str!("contract.toml");

    #[test]
    fn reads_the_contract() {
        let config = Config::from_toml(CONTRACT).unwrap();
        assert_eq!(config.catalogs.len(), 2);
        assert_eq!(config.executor.memory.as_u64(), 8_000_000_000);
        assert_eq!(config.auth.users[0].groups, ["analysts"]);
    }

    #[test]
    fn the_exchange_leaves_memory_to_the_tasks() {
        let bytes = |text: &str| Config::from_toml(text).unwrap().executor.exchange_memory().map(|part| part.as_u64());
        assert_eq!(bytes("[executor]\nmemory = \"8GB\"").unwrap(), 2_000_000_000);
        assert_eq!(bytes("[executor]\nexchange_memory = \"0B\"").unwrap(), 0);
        let error = bytes("[executor]\nmemory = \"1GB\"\nexchange_memory = \"1GB\"").unwrap_err();
        assert_eq!(error.code(), ErrorCode::ConfigInvalid);
    }

    #[test]
    fn a_wrong_key_is_named_and_a_secret_is_not() {
        let error = Config::from_toml("[server]\nfligth = \"127.0.0.1:1\"").unwrap_err();
        assert!(error.message().contains("did you mean `flight`"), "{error}");
        let error = Config::from_toml("[store]\nurl = \"postgres://u:hunter2@h/d").unwrap_err();
        assert!(error.message().contains("line 2") && !format!("{error:?}").contains("hunter2"), "{error:?}");
        let bus = "[catalogs.bus]\ntype = \"kafka\"\nbrokers = [\"a:1\"]\n[[catalogs.bus.tables]]\ntopic = \"t\"\nfromat = \"json\"";
        let error = Config::from_toml(bus).unwrap_err();
        let told = "`catalogs.bus.tables.0.fromat` (topic t): there is no key `fromat`, did you mean `format`?";
        assert!(error.message().contains(told), "{error}");
        let error = Config::from_toml("[store]\nurl = hunter2").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let error = Config::from_toml("[catalogs.crm]\ntype = \"postgres\"\nurl = { hunter2 = 1 }").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn a_section_that_the_environment_misspells_is_named() {
        let check = |name: &str| refuse_unknown_section([name.to_string()].into_iter());
        let error = check("TOWNLAKE_SERVRE__FLIGHT").unwrap_err();
        assert!(error.message().contains("did you mean `server`"), "{error}");
        for fine in ["TOWNLAKE_SERVER__FLIGHT", "TOWNLAKE_LOG", "TOWNLAKE_SERVICE_HOST", "PATH", "OTHER_A__B"] {
            check(fine).unwrap();
        }
    }

    #[test]
    fn anonymous_is_for_loopback_only() {
        let text = "[server]\nflight = \"0.0.0.0:50050\"\n[auth]\nanonymous = true";
        assert!(Config::from_toml(text).unwrap_err().message().contains("loopback"));
    }
}
