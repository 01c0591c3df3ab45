//! Postgres as a source: discovery, filters that the server applies, parallel splits on one exported snapshot, binary COPY.
//!
//! On the coordinator a query takes one snapshot per catalog ([`snapshot`]) and plans each table into a recipe and splits
//! ([`provider`], [`splits`], [`filters`]). On the executors each split joins that snapshot and is read by COPY
//! ([`scan`], [`reader`], [`copy`], [`values`]).

mod cancel;
mod copy;
mod discovery;
mod error;
mod filters;
mod insert;
mod numeric;
mod operations;
mod pool;
mod provider;
mod reader;
mod recipe;
mod scan;
mod snapshot;
mod splits;
mod sql;
pub(crate) mod tls;
mod types;
mod values;

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use futures::stream::BoxStream;
use townlake_common::config::PostgresCatalog;
use townlake_common::{Error, ErrorCode, QueryContext, Result};

use self::discovery::{Discovery, is_system};
pub(crate) use self::pool::Pool;
use self::pool::{Connection, Purpose};
use self::provider::PostgresTable;
pub(crate) use self::scan::decode;
use crate::{Bounded, BreakerState, InsertInto, Source, SourceTable, TableKeys, pass_through};

/// The kind of this source.
pub(crate) const KIND: &str = "postgres";

/// One configured Postgres database.
pub(crate) struct PostgresSource {
    name: String,
    pool: Arc<Pool>,
    max_splits: usize,
    pass_through: bool,
}

impl PostgresSource {
    /// The source of `[catalogs.<name>]`. Nothing is connected yet.
    ///
    /// Errors: `CONFIG_INVALID`.
    pub fn new(name: &str, config: &PostgresCatalog) -> Result<Self> {
        Ok(Self {
            name: name.to_string(),
            pool: Pool::new(name, config)?,
            max_splits: config.max_splits,
            pass_through: config.pass_through,
        })
    }

    /// Its connections.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    async fn connect(&self, query: &QueryContext) -> Result<Connection> {
        self.pool.begin(&query.id, Purpose::Planning, None).await
    }
}

impl fmt::Debug for PostgresSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresSource").field(&self.name).finish()
    }
}

fn discovery(connection: &Connection) -> Result<Discovery<'_>> {
    Ok(Discovery { client: connection.client()?, server: connection.server() })
}

#[async_trait]
impl Source for PostgresSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    async fn list_schemas(&self, query: &QueryContext) -> Result<Vec<String>> {
        let connection = self.connect(query).await?;
        let schemas = discovery(&connection)?.schemas().await?;
        connection.finish().await;
        Ok(schemas)
    }

    async fn list_tables(&self, query: &QueryContext, schema: &str) -> Result<Vec<SourceTable>> {
        if is_system(schema) {
            return Ok(Vec::new());
        }
        let connection = self.connect(query).await?;
        let tables = discovery(&connection)?.tables(schema).await?;
        connection.finish().await;
        Ok(tables)
    }

    async fn table(
        &self,
        query: &Arc<QueryContext>,
        schema: &str,
        table: &str,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        if is_system(schema) {
            return Ok(None);
        }
        let connection = self.connect(query).await?;
        let relation = discovery(&connection)?.relation(schema, table).await?;
        connection.finish().await;
        Ok(relation.map(|relation| {
            Arc::new(PostgresTable::new(Arc::clone(&self.pool), relation, self.max_splits)) as Arc<dyn TableProvider>
        }))
    }

    async fn query(&self, query: &Arc<QueryContext>, sql: &str) -> Result<Arc<dyn TableProvider>> {
        let sql = sql.trim().trim_end_matches(';');
        pass_through::check(&self.name, self.pass_through, sql)?;
        let connection = self.connect(query).await?;
        let relation = discovery(&connection)?.query(sql).await?;
        connection.finish_prepared().await;
        Ok(Arc::new(PostgresTable::new(Arc::clone(&self.pool), relation, 1)))
    }

    async fn insert(
        &self,
        query: &QueryContext,
        into: &InsertInto,
        rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64> {
        if is_system(&into.schema) {
            let message = format!("table {}.{}.{} does not exist", self.name, into.schema, into.table);
            return Err(Error::new(ErrorCode::TableNotFound, message));
        }
        insert::insert(&self.pool, &query.id, into, rows).await
    }

    fn takes_rows(&self) -> bool {
        true
    }

    fn refresh(&self) {
        self.pool.refresh();
    }

    fn breaker(&self) -> BreakerState {
        self.pool.breaker().state()
    }

    fn bounded(&self) -> Option<&dyn Bounded> {
        Some(self.pool.as_ref())
    }

    async fn keys(&self, query: &QueryContext, schema: &str, table: &str) -> Result<TableKeys> {
        if is_system(schema) {
            return Ok(TableKeys::default());
        }
        let connection = self.connect(query).await?;
        let keys = discovery(&connection)?.keys(schema, table).await?;
        connection.finish().await;
        Ok(keys)
    }
}
