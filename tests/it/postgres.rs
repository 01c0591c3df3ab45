//! The Postgres connector against a real Postgres: discovery and types, filters, splits on one snapshot, the connection
//! budget, cancel, failures, pgbouncer, a hot standby.

mod budget;
mod consistency;
mod discovery;
mod failures;
mod filters;
mod odd_types;
mod operations;
mod pass_through;
mod pgbouncer;
mod random_filters;
mod random_queries;
mod refresh;
mod scans;
mod standby;
mod values;

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::TableProvider;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionContext;
use tokio_postgres::Client;
use townlake_common::{Error, QueryContext};
use townlake_connectors::{Source, SourceConnections};
use townlake_tests::postgres::Postgres;

use crate::sources::{collect, connections_of, query, session, typed};

/// One test's database, and the catalog `crm` over it.
struct Crm {
    postgres: Arc<Postgres>,
    admin: Client,
    connections: Arc<SourceConnections>,
}

impl Crm {
    /// A fresh database filled by `sql`; `None` where Postgres is not installed.
    async fn new(test: &str, sql: &str) -> Option<Self> {
        Self::configured(test, sql, "").await
    }

    /// The same with further keys of `[catalogs.crm]`.
    async fn configured(test: &str, sql: &str, keys: &str) -> Option<Self> {
        let postgres = Postgres::shared(test)?;
        let admin = postgres.create_database(test).await;
        admin.batch_execute(sql).await.expect("fill the test's database");
        let connections = connections(&postgres.url(test), keys);
        Some(Self { postgres, admin, connections })
    }

    fn source(&self) -> Arc<dyn Source> {
        self.connections.source("crm").expect("the catalog is configured")
    }

    async fn table(&self, query: &Arc<QueryContext>, name: &str) -> Arc<dyn TableProvider> {
        let table = self.source().table(query, "public", name).await.expect("look the table up");
        table.unwrap_or_else(|| panic!("there is no table {name}"))
    }

    /// A session of `query` in which each of `tables` has its own name.
    async fn session(&self, query: &Arc<QueryContext>, partitions: usize, tables: &[&str]) -> SessionContext {
        let session = session(query, &self.connections, partitions);
        for table in tables {
            session.register_table(*table, self.table(query, table).await).expect("register the table");
        }
        session
    }

    /// The rows of one query over `tables`, in a query of its own.
    async fn query(&self, tables: &[&str], sql: &str) -> Result<Vec<RecordBatch>, Error> {
        let query = query();
        let session = self.session(&query, 4, tables).await;
        collect(&session, sql).await
    }

    /// The same as a text table.
    async fn show(&self, tables: &[&str], sql: &str) -> String {
        let rows = self.query(tables, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        pretty_format_batches(&rows).expect("format rows").to_string()
    }

    /// The physical plan of `sql`, and its text.
    async fn plan(&self, query: &Arc<QueryContext>, tables: &[&str], sql: &str) -> (Arc<dyn ExecutionPlan>, String) {
        let session = self.session(query, 8, tables).await;
        let plan = session.sql(sql).await.expect("parse").create_physical_plan().await;
        let plan = plan.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let text = displayable(plan.as_ref()).indent(false).to_string();
        (plan, text)
    }

    /// What backends of `query` are doing: one line each of state and statement.
    async fn backends(&self, query: &QueryContext) -> Vec<String> {
        let name = format!("townlake {}", query.id);
        let sql = "SELECT state || ': ' || query FROM pg_stat_activity WHERE application_name = $1";
        let rows = self.admin.query(sql, &[&name]).await.expect("ask for backends");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits until no backend works for `query`, and tells how long that took; panics after two seconds.
    async fn wait_until_idle(&self, query: &QueryContext) -> Duration {
        let start = Instant::now();
        loop {
            let backends = self.backends(query).await;
            if backends.is_empty() {
                return start.elapsed();
            }
            assert!(start.elapsed() < Duration::from_secs(2), "still there after two seconds: {backends:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn connections(url: &str, keys: &str) -> Arc<SourceConnections> {
    let toml = format!("[catalogs.crm]\ntype = \"postgres\"\nurl = \"{url}\"\n{keys}");
    connections_of(&toml)
}
