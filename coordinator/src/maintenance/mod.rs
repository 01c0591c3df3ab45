//! Maintenance by the clock: what a table's properties ask for (`townlake.optimize.every = '1h'`) is called as a statement,
//! in the name of the principal that the configuration says.
//!
//! Every coordinator looks; the store tells which of those that share it begins ([`Store::claim_maintenance`]). One that dies
//! in the middle leaves the table as a killed `CALL` does, and the next run is due after another interval.

mod schedule;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use townlake_common::config::MaintenanceConfig;
use townlake_common::{Error, Principal, Result};
use townlake_engine::error::from_datafusion;
use townlake_engine::identifier::quoted;
use townlake_store::Store;

use self::schedule::{Wanted, wanted};
use crate::catalogs::{INFORMATION_SCHEMA, TableName};
use crate::query::QueryService;
use crate::session::Session;

/// Tables whose properties are read at the same time.
const TABLES_AT_ONCE: usize = 4;

/// Looks after tables in the background.
pub(crate) struct ScheduledMaintenance {
    queries: Arc<QueryService>,
    store: Store,
    /// The incarnation of this coordinator.
    node: String,
    check_every: Duration,
    principal: Principal,
}

impl ScheduledMaintenance {
    /// `node` is the incarnation of this coordinator.
    pub fn new(queries: Arc<QueryService>, store: Store, node: &str, config: &MaintenanceConfig) -> Self {
        let (node, principal) = (node.to_string(), Principal::new(&config.principal, Vec::new()));
        Self { queries, store, node, check_every: config.check_every, principal }
    }

    /// Looks and works until `stopping`. Procedures run one after another: they have the cluster's tasks for themselves.
    pub async fn run(self, stopping: CancellationToken) {
        if self.check_every.is_zero() {
            return;
        }
        let mut ticks = tokio::time::interval(self.check_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Not at once: executors come after the coordinator.
        ticks.tick().await;
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let looked = async {
                for catalog in self.queries.catalogs().list_catalogs(&self.principal) {
                    if let Err(error) = self.look_after(&catalog).await {
                        tracing::warn!(%catalog, %error, "what is due in a catalog cannot be told");
                    }
                }
            };
            if stopping.run_until_cancelled(looked).await.is_none() {
                return;
            }
        }
    }

    async fn look_after(&self, catalog: &str) -> Result<()> {
        // Catalogs that the principal may not write, and those that nobody can, have nothing due.
        let Ok(lake) = self.queries.catalogs().writable(&self.principal, catalog).await else { return Ok(()) };
        if lake.check_maintained_by_us().is_err() {
            return Ok(());
        }
        for schema in lake.list_schemas().await?.into_iter().filter(|schema| schema != INFORMATION_SCHEMA) {
            let tables = lake.list_tables(&schema).await?.into_iter().map(|table| {
                let (lake, name) = (Arc::clone(&lake), TableName::new(catalog, &schema, &table));
                async move {
                    let loaded = lake.load(&name.schema, &name.table, None).await;
                    Ok::<_, Error>(loaded.map(|table| (name, table.map(|table| Arc::clone(&table.metadata)))))
                }
            });
            let mut loading = stream::iter(tables).buffered(TABLES_AT_ONCE);
            while let Some(loaded) = loading.try_next().await? {
                match loaded {
                    Ok((name, Some(metadata))) => {
                        self.look_after_table(&name, &wanted(&name, metadata.properties())).await
                    }
                    Ok((_, None)) => {}
                    Err(error) => tracing::warn!(%error, "what is due for a table cannot be told"),
                }
            }
        }
        Ok(())
    }

    async fn look_after_table(&self, name: &TableName, wanted: &[Wanted]) {
        for Wanted { procedure, every } in wanted {
            match self.claim(name, procedure, *every).await {
                Ok(false) => {}
                Ok(true) => match self.call(name, procedure).await {
                    Ok(()) => tracing::info!(table = %name, procedure, "maintenance is done"),
                    Err(error) => tracing::warn!(table = %name, procedure, %error, "maintenance failed"),
                },
                Err(error) => tracing::warn!(table = %name, procedure, %error, "maintenance cannot be begun"),
            }
        }
    }

    async fn claim(&self, name: &TableName, procedure: &str, every: Duration) -> Result<bool> {
        let now = Utc::now();
        let interval = chrono::TimeDelta::from_std(every).unwrap_or(chrono::TimeDelta::MAX);
        let due_before = now.checked_sub_signed(interval).unwrap_or(DateTime::<Utc>::MIN_UTC);
        self.store.claim_maintenance(&name.to_string(), procedure, now, due_before, &self.node).await
    }

    /// Calls the procedure as a client would: it is audited, listed, and may be killed.
    async fn call(&self, name: &TableName, procedure: &str) -> Result<()> {
        let [catalog, schema, table] = [&name.catalog, &name.schema, &name.table].map(|part| quoted(part));
        let of = format!("{schema}.{table}").replace('\'', "''");
        let statement = format!("CALL {catalog}.system.{procedure}(table => '{of}')");
        let session = Session::detached(self.principal.clone());
        let prepared = self.queries.prepare(&session, &statement).await?;
        let running = self.queries.execute(&session, &prepared, None, None).await?;
        running.rows.try_for_each(|_| async { Ok(()) }).await.map_err(|error| from_datafusion(&error))
    }
}
