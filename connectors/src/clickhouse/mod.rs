//! ClickHouse as a source, over HTTP: discovery, filters that the server applies, parallel splits, ArrowStream or RowBinary.
//!
//! On the coordinator each table is planned into a recipe and splits ([`provider`], [`splits`], [`filters`]), with what the
//! server can ([`facts`]). On the executors each split is one statement ([`reader`], [`client`]), whose answer is decoded as it
//! comes ([`arrowstream`], [`rowbinary`]) and made into the columns' types ([`values`]).
//!
//! There is no snapshot: each statement reads what is there when it begins.

mod arrowstream;
mod client;
mod discovery;
mod error;
mod facts;
mod filters;
mod operations;
mod parse;
mod provider;
mod reader;
mod recipe;
mod rowbinary;
mod scan;
mod splits;
mod sql;
mod types;
mod values;
mod wire;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use townlake_common::config::ClickHouseCatalog;
use townlake_common::{QueryContext, Result};

pub(crate) use self::client::Client;
use self::discovery::{Discovery, is_system};
use self::facts::Facts;
use self::provider::ClickHouseTable;
pub(crate) use self::scan::decode;
use crate::{Bounded, BreakerState, Source, SourceTable, TableKeys, pass_through};

/// The kind of this source.
pub(crate) const KIND: &str = "clickhouse";

/// One configured ClickHouse server.
pub(crate) struct ClickHouseSource {
    name: String,
    client: Arc<Client>,
    /// The only database that is shown.
    database: Option<String>,
    options: Options,
    pass_through: bool,
}

/// How tables are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// 0: as many as the session has partitions.
    pub max_splits: usize,
    /// Whether Replacing tables are read with FINAL.
    pub read_final: bool,
}

impl ClickHouseSource {
    /// The source of `[catalogs.<name>]`. Nothing is connected yet.
    ///
    /// Errors: `CONFIG_INVALID`.
    pub fn new(name: &str, config: &ClickHouseCatalog) -> Result<Self> {
        Ok(Self {
            name: name.to_string(),
            client: Client::new(name, config)?,
            database: config.database.clone(),
            options: Options { max_splits: config.max_splits, read_final: config.read_final },
            pass_through: config.pass_through,
        })
    }

    /// The way to its server.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    fn is_shown(&self, database: &str) -> bool {
        !is_system(database) && self.database.as_ref().is_none_or(|only| only == database)
    }

    fn discovery<'a>(&'a self, query: &'a QueryContext) -> Discovery<'a> {
        Discovery { client: &self.client, query: &query.id }
    }
}

impl fmt::Debug for ClickHouseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClickHouseSource").field(&self.name).finish()
    }
}

#[async_trait]
impl Source for ClickHouseSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    async fn list_schemas(&self, query: &QueryContext) -> Result<Vec<String>> {
        let databases = self.discovery(query).databases().await?;
        Ok(databases.into_iter().filter(|database| self.is_shown(database)).collect())
    }

    async fn list_tables(&self, query: &QueryContext, schema: &str) -> Result<Vec<SourceTable>> {
        if !self.is_shown(schema) {
            return Ok(Vec::new());
        }
        let facts = Facts::of(&self.client, &query.id).await?;
        self.discovery(query).tables(schema, facts.has_table_comments).await
    }

    async fn table(
        &self,
        query: &Arc<QueryContext>,
        schema: &str,
        table: &str,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        if !self.is_shown(schema) {
            return Ok(None);
        }
        let relation = self.discovery(query).relation(schema, table).await?;
        Ok(relation.map(|relation| {
            Arc::new(ClickHouseTable::new(Arc::clone(&self.client), relation, self.options)) as Arc<dyn TableProvider>
        }))
    }

    async fn query(&self, query: &Arc<QueryContext>, sql: &str) -> Result<Arc<dyn TableProvider>> {
        let sql = sql.trim().trim_end_matches(';');
        pass_through::check(&self.name, self.pass_through, sql)?;
        let relation = self.discovery(query).query(&self.name, sql).await?;
        Ok(Arc::new(ClickHouseTable::new(Arc::clone(&self.client), relation, self.options)))
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

    /// None: ClickHouse's primary key is an order and says nothing about duplicates.
    async fn keys(&self, _query: &QueryContext, _schema: &str, _table: &str) -> Result<TableKeys> {
        Ok(TableKeys::default())
    }
}
