//! Google BigQuery as a source: metadata and views over REST, rows over the Storage Read API (gRPC, Arrow).
//!
//! On the coordinator each table is planned into a recipe ([`provider`], [`filters`], [`discovery`]), with a read session whose
//! streams are the splits ([`storage`]), all of the moment that the query pinned ([`snapshot`]). On the executors each stream is read
//! ([`reader`]) and its Arrow messages are decoded ([`arrow_rows`]). What the Storage API cannot read is read by a query job
//! ([`job`], [`rest_rows`]).

mod arrow_rows;
mod auth;
mod channel;
mod client;
mod discovery;
mod error;
mod external_account;
mod filters;
mod job;
mod keys;
mod provider;
mod query;
mod reader;
mod recipe;
mod rest_rows;
mod scan;
mod snapshot;
mod sql;
mod storage;
mod types;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use townlake_common::config::BigQueryCatalog;
use townlake_common::{QueryContext, Result};

use self::client::Client;
use self::provider::BigQueryTable;
pub(crate) use self::scan::decode;
use crate::{Bounded, BreakerState, Source, SourceTable, TableKeys, pass_through};

/// The kind of this source.
pub(crate) const KIND: &str = "bigquery";

/// One configured project.
pub(crate) struct BigQuerySource {
    name: String,
    client: Arc<Client>,
    /// The only dataset that is shown.
    dataset: Option<String>,
    /// Whether queries of its own language may come.
    pass_through: bool,
}

impl BigQuerySource {
    /// The source of `[catalogs.<name>]`. Nothing is connected yet.
    ///
    /// Errors: `CONFIG_INVALID`.
    pub fn new(name: &str, config: &BigQueryCatalog) -> Result<Self> {
        let (client, dataset) = (Client::new(name, config)?, config.dataset.clone());
        Ok(Self { name: name.to_string(), client, dataset, pass_through: config.pass_through })
    }

    /// The way to its project.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    fn is_shown(&self, dataset: &str) -> bool {
        self.dataset.as_ref().is_none_or(|only| only == dataset)
    }
}

impl fmt::Debug for BigQuerySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BigQuerySource").field(&self.name).finish()
    }
}

#[async_trait]
impl Source for BigQuerySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    async fn list_schemas(&self, _query: &QueryContext) -> Result<Vec<String>> {
        let datasets = discovery::datasets(&self.client).await?;
        Ok(datasets.into_iter().filter(|dataset| self.is_shown(dataset)).collect())
    }

    async fn list_tables(&self, _query: &QueryContext, schema: &str) -> Result<Vec<SourceTable>> {
        if !self.is_shown(schema) {
            return Ok(Vec::new());
        }
        discovery::tables(&self.client, schema).await
    }

    async fn table(
        &self,
        _query: &Arc<QueryContext>,
        schema: &str,
        table: &str,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        if !self.is_shown(schema) {
            return Ok(None);
        }
        let relation = discovery::relation(&self.client, schema, table).await?;
        let table =
            |relation| Arc::new(BigQueryTable::new(Arc::clone(&self.client), relation)) as Arc<dyn TableProvider>;
        Ok(relation.map(table))
    }

    async fn query(&self, _query: &Arc<QueryContext>, sql: &str) -> Result<Arc<dyn TableProvider>> {
        let sql = sql.trim().trim_end_matches(';');
        pass_through::check(&self.name, self.pass_through, sql)?;
        let relation = query::relation(&self.client, sql).await?;
        Ok(Arc::new(BigQueryTable::new(Arc::clone(&self.client), relation)))
    }

    fn refresh(&self) {
        self.client.breaker().reset();
    }

    fn breaker(&self) -> BreakerState {
        self.client.breaker().state()
    }

    fn bounded(&self) -> Option<&dyn Bounded> {
        Some(self.client.bound())
    }

    /// Declared, and never enforced by BigQuery.
    async fn keys(&self, _query: &QueryContext, schema: &str, table: &str) -> Result<TableKeys> {
        if !self.is_shown(schema) {
            return Ok(TableKeys::default());
        }
        Ok(discovery::relation(&self.client, schema, table).await?.map(|relation| relation.keys).unwrap_or_default())
    }
}
