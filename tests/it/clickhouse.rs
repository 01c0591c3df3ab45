//! The ClickHouse connector against Debian's old server and the modern engine: discovery and types, filters, splits, the end of
//! statements that nobody wants, failures.

mod discovery;
mod failures;
mod federated;
mod filters;
mod operations;
mod pass_through;
mod random_filters;
mod random_queries;
mod scans;
mod values;

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::TableProvider;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionContext;
use townlake_common::{Error, QueryContext};
use townlake_connectors::{Source, SourceConnections};
use townlake_tests::clickhouse::{ClickHouse, Engine};

use crate::sources::{collect, connections_of, query, session, typed};

/// One test's database in one engine, and the catalog `ch` over it.
struct Ch {
    server: Arc<ClickHouse>,
    connections: Arc<SourceConnections>,
    database: &'static str,
}

impl Ch {
    /// A fresh database filled by statements, in each engine that is installed.
    async fn each(database: &'static str, statements: &[&str]) -> Vec<Self> {
        let mut all = Vec::new();
        for engine in [Engine::Old, Engine::Modern] {
            all.extend(Self::of(engine, database, statements, "").await);
        }
        all
    }

    /// The same in one engine, with further keys of `[catalogs.ch]`.
    async fn of(engine: Engine, database: &'static str, statements: &[&str], keys: &str) -> Option<Self> {
        let server = ClickHouse::shared(engine, database)?;
        server.create_database(database).await;
        for sql in statements {
            server.run(&sql.replace("DB.", &format!("{database}."))).await;
        }
        let connections = connections(&server.url(), keys);
        Some(Self { server, connections, database })
    }

    fn source(&self) -> Arc<dyn Source> {
        self.connections.source("ch").expect("the catalog is configured")
    }

    async fn table(&self, query: &Arc<QueryContext>, name: &str) -> Arc<dyn TableProvider> {
        let table = self.source().table(query, self.database, name).await.expect("look the table up");
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
        let rows =
            self.query(tables, sql).await.unwrap_or_else(|error| panic!("{:?}: {sql}: {error:?}", self.server.engine));
        pretty_format_batches(&rows).expect("format rows").to_string()
    }

    /// The cells of the same, row by row.
    async fn cells(&self, tables: &[&str], sql: &str) -> Vec<Vec<String>> {
        let text = self.show(tables, sql).await;
        let lines = text.lines().skip(3).filter(|line| line.starts_with('|'));
        lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect()).collect()
    }

    /// The physical plan of `sql`, and its text.
    async fn plan(&self, query: &Arc<QueryContext>, tables: &[&str], sql: &str) -> (Arc<dyn ExecutionPlan>, String) {
        let session = self.session(query, 8, tables).await;
        let plan = session.sql(sql).await.expect("parse").create_physical_plan().await;
        let plan = plan.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let text = displayable(plan.as_ref()).indent(false).to_string();
        (plan, text)
    }
}

fn connections(url: &str, keys: &str) -> Arc<SourceConnections> {
    let toml = format!("[catalogs.ch]\ntype = \"clickhouse\"\nurl = \"{url}\"\n{keys}");
    connections_of(&toml)
}
