//! The connections of one process to all configured sources.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use townlake_common::config::CatalogConfig;
use townlake_common::{Error, ErrorCode, Result};

use crate::Source;
use crate::postgres::{Pool, PostgresSource};

/// The sources of this process by catalog name. Nothing is connected until it is used.
///
/// An `Arc` of it is an extension of the `SessionConfig` wherever scans of sources run: on every executor, and on the
/// coordinator for what runs there.
pub struct SourceConnections {
    postgres: BTreeMap<String, Arc<PostgresSource>>,
}

impl SourceConnections {
    /// The sources among `catalogs`; other kinds of catalogs are left to others.
    ///
    /// Errors: `CONFIG_INVALID`, naming the catalog and never its URL.
    pub fn from_config(catalogs: &BTreeMap<String, CatalogConfig>) -> Result<Arc<Self>> {
        let mut postgres = BTreeMap::new();
        for (name, catalog) in catalogs {
            if let CatalogConfig::Postgres(config) = catalog {
                postgres.insert(name.clone(), Arc::new(PostgresSource::new(name, config)?));
            }
        }
        Ok(Arc::new(Self { postgres }))
    }

    /// The source of this name.
    pub fn source(&self, name: &str) -> Option<Arc<dyn Source>> {
        self.postgres.get(name).map(|source| Arc::clone(source) as Arc<dyn Source>)
    }

    /// The names of all sources, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.postgres.keys().map(String::as_str)
    }

    /// The connections of a Postgres catalog, for a scan that runs here.
    pub(crate) fn postgres(&self, name: &str) -> Result<Arc<Pool>> {
        let source = self.postgres.get(name).ok_or_else(|| {
            let message = format!("catalog {name} is not in the configuration of the node that should read it");
            Error::new(ErrorCode::ConfigInvalid, message)
                .with_hint(format!("give every coordinator and executor the same [catalogs.{name}]"))
        })?;
        Ok(Arc::clone(source.pool()))
    }
}

impl fmt::Debug for SourceConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.postgres.keys()).finish()
    }
}
