//! Plain Parquet, CSV and JSON files of one folder as a source: the worked example of a source (docs/sources.md).
//!
//! A table is a file, or a folder of files ([`listing`]). On the coordinator its columns are learnt from its first file
//! ([`formats`]) and a scan is planned into a recipe and splits ([`provider`]); on the executors each split is read
//! ([`reader`]).

mod csv_rows;
mod csv_values;
mod formats;
mod json_rows;
mod json_types;
mod listing;
mod misfit;
mod numbers;
mod parquet_file;
mod provider;
mod reader;
mod recipe;
mod scan;
mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use townlake_common::config::FilesCatalog;
use townlake_common::{QueryContext, Result};

use self::listing::tables;
use self::provider::FilesTable;
pub(crate) use self::scan::decode;
use self::store::Store;
use crate::{BreakerState, Source, SourceTable, TableKeys, TableKind};

/// The kind of this source.
pub(crate) const KIND: &str = "files";

/// The only schema.
const SCHEMA: &str = "default";

/// One configured folder.
pub(crate) struct FilesSource {
    store: Arc<Store>,
    max_splits: usize,
}

impl FilesSource {
    /// The source of `[catalogs.<name>]`. Nothing is connected yet.
    ///
    /// Errors: `CONFIG_INVALID`.
    pub fn new(name: &str, config: &FilesCatalog) -> Result<Self> {
        Ok(Self { store: Arc::new(Store::new(name, config)?), max_splits: config.max_splits })
    }

    /// Where its files lie.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

impl fmt::Debug for FilesSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FilesSource").field(&self.store.catalog).finish()
    }
}

#[async_trait]
impl Source for FilesSource {
    fn name(&self) -> &str {
        &self.store.catalog
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    async fn list_schemas(&self, _query: &QueryContext) -> Result<Vec<String>> {
        Ok(vec![SCHEMA.to_string()])
    }

    async fn list_tables(&self, _query: &QueryContext, schema: &str) -> Result<Vec<SourceTable>> {
        if schema != SCHEMA {
            return Ok(Vec::new());
        }
        let entry = |table: listing::Table| SourceTable {
            comment: Some(format!("{} file(s) of {}", table.files.len(), table.format)),
            name: table.name,
            kind: TableKind::Table,
        };
        Ok(tables(&self.store, None).await?.into_iter().map(entry).collect())
    }

    async fn table(
        &self,
        _query: &Arc<QueryContext>,
        schema: &str,
        table: &str,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        if schema != SCHEMA {
            return Ok(None);
        }
        let found = tables(&self.store, Some(table)).await?.into_iter().find(|found| found.name == table);
        let Some(found) = found else { return Ok(None) };
        let table = FilesTable::of(Arc::clone(&self.store), found, self.max_splits).await?;
        Ok(Some(Arc::new(table)))
    }

    /// Nothing is remembered but failures.
    fn refresh(&self) {
        self.store.breaker.reset();
    }

    fn breaker(&self) -> BreakerState {
        self.store.breaker.state()
    }

    async fn keys(&self, _query: &QueryContext, _schema: &str, _table: &str) -> Result<TableKeys> {
        Ok(TableKeys::default())
    }
}
