//! The connections of one process to all sources: those of its configuration, and those that `CREATE CATALOG` made.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use townlake_common::config::{CatalogConfig, CatalogDefinition};
use townlake_common::{Error, ErrorCode, Result};

use crate::bigquery::BigQuerySource;
use crate::bounded::{Bounded, BudgetState, Shares};
use crate::clickhouse::ClickHouseSource;
use crate::files::FilesSource;
use crate::kafka::KafkaSource;
use crate::postgres::PostgresSource;
use crate::share::{Budget, Standing};
use crate::{BreakerState, Source};

/// Tells what is kept of a catalog that is not in the configuration, now.
pub type FindDefinition = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Option<CatalogDefinition>>> + Send + Sync>;

/// The sources of this process by catalog name. Nothing is connected until it is used.
///
/// An `Arc` of it is an extension of the `SessionConfig` wherever scans of sources run: on every executor, and on the
/// coordinator for what runs there.
pub struct SourceConnections {
    fixed: BTreeMap<String, Arc<dyn Source>>,
    /// The catalogs that were made, as far as they are known here.
    made: RwLock<BTreeMap<String, Made>>,
    find: Option<FindDefinition>,
    shares: Shares,
    /// What was said in the log: by catalog, the budget that is too small and what is needed.
    too_small: Mutex<BTreeMap<String, (Budget, usize)>>,
}

/// A catalog that was made.
#[derive(Clone)]
pub struct Made {
    /// As it is kept.
    pub definition: Arc<CatalogDefinition>,
    /// As a section of the configuration.
    pub config: Arc<CatalogConfig>,
    source: Arc<dyn Source>,
}

impl Made {
    /// The catalog of a definition. Nothing is connected yet.
    ///
    /// Errors: `INVALID_ARGUMENT`, whatever is wrong with its properties; `NOT_SUPPORTED` for an Iceberg catalog.
    pub fn new(definition: CatalogDefinition) -> Result<Self> {
        let config = definition.config()?;
        if let CatalogConfig::Files(files) = &config
            && files.local_path().is_some()
        {
            let message =
                format!("catalog {}: local files are read where the configuration says so only", definition.name);
            return Err(Error::new(ErrorCode::NotSupported, message)
                .with_hint("write it as [catalogs.<name>] on every node, or name a bucket (s3://…)"));
        }
        let source = source_of(&definition.name, &config).map_err(CatalogDefinition::refused)?.ok_or_else(|| {
            let message = format!("CREATE CATALOG {} USING iceberg is not supported", definition.name);
            Error::new(ErrorCode::NotSupported, message).with_hint("Iceberg catalogs are in the configuration")
        })?;
        Ok(Self { definition: Arc::new(definition), config: Arc::new(config), source })
    }
}

fn source_of(name: &str, catalog: &CatalogConfig) -> Result<Option<Arc<dyn Source>>> {
    Ok(Some(match catalog {
        CatalogConfig::Postgres(config) => Arc::new(PostgresSource::new(name, config)?),
        CatalogConfig::ClickHouse(config) => Arc::new(ClickHouseSource::new(name, config)?),
        CatalogConfig::BigQuery(config) => Arc::new(BigQuerySource::new(name, config)?),
        CatalogConfig::Kafka(config) => Arc::new(KafkaSource::new(name, config)?),
        CatalogConfig::Files(config) => Arc::new(FilesSource::new(name, config)?),
        CatalogConfig::Iceberg(_) => return Ok(None),
    }))
}

impl SourceConnections {
    /// The sources among `catalogs`; other kinds of catalogs are left to others.
    ///
    /// Errors: `CONFIG_INVALID`, naming the catalog and never its URL.
    pub fn from_config(catalogs: &BTreeMap<String, CatalogConfig>) -> Result<Arc<Self>> {
        Self::with_definitions(catalogs, None)
    }

    /// The same, with a way to learn of catalogs that were made.
    ///
    /// Errors: as [`SourceConnections::from_config`].
    pub fn with_definitions(
        catalogs: &BTreeMap<String, CatalogConfig>,
        find: Option<FindDefinition>,
    ) -> Result<Arc<Self>> {
        let mut fixed = BTreeMap::new();
        for (name, catalog) in catalogs {
            if let Some(source) = source_of(name, catalog)? {
                fixed.insert(name.clone(), source);
            }
        }
        let (made, too_small) = (RwLock::default(), Mutex::default());
        Ok(Arc::new(Self { fixed, made, find, shares: Shares::new(), too_small }))
    }

    /// The source of this name, as far as it is known here.
    pub fn source(&self, name: &str) -> Option<Arc<dyn Source>> {
        let fixed = self.fixed.get(name).cloned();
        fixed.or_else(|| self.made.read().get(name).map(|made| Arc::clone(&made.source)))
    }

    /// The names of the configuration's sources, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fixed.keys().map(String::as_str)
    }

    /// The catalogs that were made, as far as they are known here.
    pub fn made(&self) -> Vec<Made> {
        self.made.read().values().cloned().collect()
    }

    /// The catalog of this name that was made, as far as it is known here.
    pub fn made_named(&self, name: &str) -> Option<Made> {
        self.made.read().get(name).cloned()
    }

    fn all(&self) -> Vec<Arc<dyn Source>> {
        let made: Vec<_> = self.made.read().values().map(|made| Arc::clone(&made.source)).collect();
        let hidden = |source: &Arc<dyn Source>| self.fixed.contains_key(source.name());
        let made = made.into_iter().filter(|source| !hidden(source));
        self.fixed.values().cloned().chain(made).collect()
    }

    /// What the breakers of all sources have seen, by catalog.
    pub fn breakers(&self) -> Vec<BreakerState> {
        self.all().iter().map(|source| source.breaker()).collect()
    }

    /// The connection budgets of all sources that have one.
    pub fn budgets(&self) -> Vec<BudgetState> {
        let state = |source: &Arc<dyn Source>| {
            let bounded = source.bounded()?;
            Some(BudgetState {
                catalog: source.name().to_string(),
                budget: bounded.budget().connections,
                share: bounded.share(),
                used: bounded.used(),
                needed: self.shares.needed(bounded.budget()),
            })
        };
        self.all().iter().filter_map(state).collect()
    }

    /// Says where this process stands among all that use the sources. Until that `is_settled`, its shares of their connections shrink
    /// and none grows: others that have to shrink may not know it yet.
    pub fn stand(&self, standing: Standing, is_settled: bool) {
        self.shares.tell(standing, is_settled);
        for source in self.all() {
            if let Some(bounded) = source.bounded() {
                self.shares.apply(bounded);
                self.warn_of(source.name(), bounded);
            }
        }
    }

    /// Says it once when a budget comes to be less than all processes need.
    fn warn_of(&self, catalog: &str, bounded: &dyn Bounded) {
        if !self.shares.are_settled() {
            return;
        }
        let budget = bounded.budget();
        let needed = self.shares.needed(budget);
        let mut too_small = self.too_small.lock();
        if needed <= budget.connections {
            too_small.remove(catalog);
        } else if too_small.insert(catalog.to_string(), (budget, needed)) != Some((budget, needed)) {
            let connections = budget.connections;
            tracing::warn!(
                catalog,
                connections,
                needed,
                "`connections` of the catalog is less than its coordinators and executors need: it is not kept"
            );
        }
    }

    /// Learns of a catalog.
    pub fn put(&self, made: Made) {
        self.welcome(&made);
        self.made.write().insert(made.definition.name.clone(), made);
    }

    /// Gives a catalog that is new here its share.
    fn welcome(&self, made: &Made) {
        if let Some(bounded) = made.source.bounded() {
            self.shares.apply_first(bounded);
            self.warn_of(&made.definition.name, bounded);
        }
    }

    /// Forgets a catalog that was made. What reads it goes on until its end.
    pub fn forget(&self, name: &str) {
        let gone = self.made.write().remove(name);
        drop(gone); // outside the lock: connections close
    }

    /// Makes the catalogs that were made be these. One that cannot be is left out, and said in the log.
    pub fn set_made(&self, definitions: Vec<CatalogDefinition>) {
        let known = self.made.read().clone();
        let mut made = BTreeMap::new();
        for definition in definitions {
            let name = definition.name.clone();
            let same = known.get(&name).filter(|made| made.definition.id == definition.id).cloned();
            let new = || Made::new(definition).inspect(|made| self.welcome(made));
            match same.map_or_else(new, Ok) {
                Ok(catalog) => drop(made.insert(name, catalog)),
                Err(error) => tracing::warn!(catalog = %name, %error, "a catalog cannot be used here"),
            }
        }
        let before = std::mem::replace(&mut *self.made.write(), made);
        drop(before);
    }

    /// Learns what a catalog is now, unless it is in the configuration.
    ///
    /// Errors: those of the store that keeps it, and of a definition that is none here.
    pub async fn ensure(&self, name: &str) -> Result<()> {
        let Some(find) = self.find.as_ref().filter(|_| !self.fixed.contains_key(name)) else { return Ok(()) };
        match find(name.to_string()).await? {
            None => self.forget(name),
            Some(definition) => {
                let known = self.made_named(name).is_some_and(|made| made.definition.id == definition.id);
                if !known {
                    self.put(Made::new(definition)?);
                }
            }
        }
        Ok(())
    }

    /// The source of a catalog, for a scan that runs here.
    ///
    /// Errors: `CONFIG_INVALID` where this process has none of this name and kind.
    pub(crate) fn of<S: Source>(&self, name: &str) -> Result<Arc<S>> {
        let found = self.source(name).and_then(|source| (source as Arc<dyn Any + Send + Sync>).downcast::<S>().ok());
        found.ok_or_else(|| {
            let message = format!("catalog {name} is not known to the node that should read it");
            Error::new(ErrorCode::ConfigInvalid, message).with_hint(format!(
                "give every coordinator and executor the same [catalogs.{name}]; one that was made by CREATE CATALOG may have been \
                 dropped, or the node's [store] is another"
            ))
        })
    }
}

impl fmt::Debug for SourceConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.fixed.keys()).entries(self.made.read().keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn whatever_is_wrong_with_a_statement_is_an_invalid_argument() {
        for (kind, properties) in [
            ("postgres", json!({"url": "hunter2"})),
            ("postgres", json!({"ur": "postgres://u:hunter2@h/d"})),
            ("clickhouse", json!({"url": "ftp://u:hunter2@h/"})),
            ("files", json!({"location": "hunter2"})),
            ("kafka", json!({"brokers": ["a:1"], "tls": "require", "tls_ca": "/no/such/hunter2"})),
        ] {
            let serde_json::Value::Object(properties) = properties else { panic!("no object") };
            let text = |text: &str| text.to_string();
            let made = Made::new(CatalogDefinition {
                name: text("crm2"),
                id: text("1"),
                kind: text(kind),
                properties,
                owner: text("ann"),
            });
            let error = made.map(|_| ()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{kind}: {error}");
            assert!(error.message().contains("crm2"), "{kind}: {error}");
            assert!(kind == "kafka" || !format!("{error:?}").contains("hunter2"), "{kind}: {error:?}");
        }
    }
}
