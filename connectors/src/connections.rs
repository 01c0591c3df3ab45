//! The connections of one process to all configured sources.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use townlake_common::config::CatalogConfig;
use townlake_common::{Error, ErrorCode, Result};

use crate::Source;
use crate::clickhouse::ClickHouseSource;
use crate::kafka::KafkaSource;
use crate::postgres::PostgresSource;

/// The sources of this process by catalog name. Nothing is connected until it is used.
///
/// An `Arc` of it is an extension of the `SessionConfig` wherever scans of sources run: on every executor, and on the
/// coordinator for what runs there.
pub struct SourceConnections {
    sources: BTreeMap<String, Arc<dyn Source>>,
}

impl SourceConnections {
    /// The sources among `catalogs`; other kinds of catalogs are left to others.
    ///
    /// Errors: `CONFIG_INVALID`, naming the catalog and never its URL.
    pub fn from_config(catalogs: &BTreeMap<String, CatalogConfig>) -> Result<Arc<Self>> {
        let mut sources: BTreeMap<String, Arc<dyn Source>> = BTreeMap::new();
        for (name, catalog) in catalogs {
            let source: Arc<dyn Source> = match catalog {
                CatalogConfig::Postgres(config) => Arc::new(PostgresSource::new(name, config)?),
                CatalogConfig::Kafka(config) => Arc::new(KafkaSource::new(name, config)?),
                CatalogConfig::ClickHouse(config) => Arc::new(ClickHouseSource::new(name, config)?),
                CatalogConfig::Iceberg(_) => continue,
            };
            sources.insert(name.clone(), source);
        }
        Ok(Arc::new(Self { sources }))
    }

    /// The source of this name.
    pub fn source(&self, name: &str) -> Option<Arc<dyn Source>> {
        self.sources.get(name).cloned()
    }

    /// The names of all sources, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// The source of a catalog, for a scan that runs here.
    ///
    /// Errors: `CONFIG_INVALID` where this process has none of this name and kind.
    pub(crate) fn of<S: Source>(&self, name: &str) -> Result<Arc<S>> {
        let found = self.source(name).and_then(|source| (source as Arc<dyn Any + Send + Sync>).downcast::<S>().ok());
        found.ok_or_else(|| {
            let message = format!("catalog {name} is not in the configuration of the node that should read it");
            Error::new(ErrorCode::ConfigInvalid, message)
                .with_hint(format!("give every coordinator and executor the same [catalogs.{name}]"))
        })
    }
}

impl fmt::Debug for SourceConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sources.keys()).finish()
    }
}
