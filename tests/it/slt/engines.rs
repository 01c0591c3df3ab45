//! What the files are run against.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider};
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};
use sqllogictest::{AsyncDB, DBOutput};
use townlake_cli::connection::Connection;
use townlake_common::{Error, ErrorCode};

use super::cells::{self, Kind};

/// Single-process DataFusion with the catalogs `lake` and `crm` in memory.
#[derive(Clone)]
pub struct Oracle(SessionContext);

impl Oracle {
    /// An engine in which `lake.<schema>` is current.
    pub async fn new(schema: &str) -> Self {
        let config = SessionConfig::new().with_target_partitions(4).with_default_catalog_and_schema("lake", schema);
        // The time zone of a Town Lake session.
        let config =
            config.with_create_default_catalog_and_schema(false).set_str("datafusion.execution.time_zone", "UTC");
        let context = SessionContext::new_with_config(config);
        for name in ["lake", "crm"] {
            let catalog = Arc::new(MemoryCatalogProvider::new());
            catalog.register_schema(schema, Arc::new(MemorySchemaProvider::new())).expect("a schema in memory");
            context.register_catalog(name, catalog);
        }
        Self(context)
    }
}

#[async_trait]
impl AsyncDB for Oracle {
    type Error = DataFusionError;
    type ColumnType = Kind;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Kind>, DataFusionError> {
        let plan = self.0.sql(sql).await?.create_physical_plan().await?;
        let schema = plan.schema();
        let batches = datafusion::physical_plan::collect(plan, self.0.task_ctx()).await?;
        let lower = sql.trim_start().to_ascii_lowercase();
        Ok(completed(&lower, &batches).unwrap_or_else(|| cells::output(&schema, &batches)))
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "datafusion"
    }
}

/// The cluster, through its Flight SQL door.
#[derive(Clone)]
pub struct Door {
    connection: Connection,
    /// Errors `INTERNAL`, which are never what a file expects.
    pub faults: Arc<Mutex<Vec<String>>>,
}

impl Door {
    /// A session in which `lake.<schema>` is current. `spread` has executors do every scan, also a tiny one.
    pub async fn open(connection: Connection, schema: &str, spread: bool) -> Self {
        let mut setup = vec![
            format!("CREATE SCHEMA lake.{schema}"),
            format!("CREATE SCHEMA crm.{schema}"),
            format!("USE lake.{schema}"),
        ];
        if spread {
            setup.push("SET SESSION execution = 'cluster'".to_string());
        }
        for statement in setup {
            connection.run(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        Self { connection, faults: Arc::default() }
    }
}

#[async_trait]
impl AsyncDB for Door {
    type Error = Error;
    type ColumnType = Kind;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Kind>, Error> {
        let answer = self.connection.collect(sql).await;
        if let Err(error) = &answer
            && error.code() == ErrorCode::Internal
        {
            self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{sql}: {error:?}"));
        }
        let (schema, batches) = answer?;
        let lower = sql.trim_start().to_ascii_lowercase();
        Ok(completed(&lower, &batches).unwrap_or_else(|| cells::output(&schema, &batches)))
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "townlake"
    }
}

/// The rows that a statement wrote, in both engines' words.
fn completed(sql: &str, batches: &[RecordBatch]) -> Option<DBOutput<Kind>> {
    const WRITES: [&str; 7] = ["insert ", "create ", "drop ", "delete ", "update ", "merge ", "truncate "];
    let writes = WRITES.iter().any(|word| sql.starts_with(word));
    let count = || batches.first().and_then(townlake_cli::connection::affected_rows).unwrap_or_default();
    writes.then(|| DBOutput::StatementComplete(count()))
}
