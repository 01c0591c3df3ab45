//! The BigQuery connector against the named emulator, whose data Google's own client makes: discovery and types, filters, streams,
//! views by query job, failures; and against mocks where there is nothing real (their names say so).

mod failures;
mod federated;
mod filters;
mod keys;
pub(crate) mod mock_google;
mod mock_streams;
pub(crate) mod mock_tokens;
mod pass_through;
mod random_filters;
mod recorded;
mod scans;
mod values;
mod views;

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::TableProvider;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionContext;
use serde_json::{Value, json};
use townlake_common::{Error, QueryContext};
use townlake_connectors::{Source, SourceConnections};
use townlake_tests::bigquery::BigQuery;

use crate::sources::{collect, connections_of, query, session, typed};

/// One test's dataset, and the catalog `bq` over it.
struct Bq {
    server: Arc<BigQuery>,
    connections: Arc<SourceConnections>,
    dataset: &'static str,
}

impl Bq {
    /// A fresh dataset that Google's client fills; `DS.` in statements stands for it.
    async fn with(dataset: &'static str, commands: &[Value]) -> Option<Self> {
        Self::of(dataset, commands, "").await
    }

    /// The same with further keys of `[catalogs.bq]`.
    async fn of(dataset: &'static str, commands: &[Value], keys: &str) -> Option<Self> {
        let server = BigQuery::shared(dataset)?;
        let mut all = vec![json!({"dataset": dataset})];
        for command in commands {
            let text = command.to_string().replace("DS.", &format!("{dataset}."));
            all.push(serde_json::from_str(&text).expect("a command"));
        }
        let made = Arc::clone(&server);
        tokio::task::spawn_blocking(move || made.client(&all)).await.expect("Google's client makes the data");
        let connections = connections(&format!("{}{keys}", server.keys()));
        Some(Self { server, connections, dataset })
    }

    fn source(&self) -> Arc<dyn Source> {
        self.connections.source("bq").expect("the catalog is configured")
    }

    async fn table(&self, query: &Arc<QueryContext>, name: &str) -> Arc<dyn TableProvider> {
        let table = self.source().table(query, self.dataset, name).await.expect("look the table up");
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

    /// The cells of the same, row by row.
    async fn cells(&self, tables: &[&str], sql: &str) -> Vec<Vec<String>> {
        let rows =
            self.query(tables, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}\n{}", self.server.log()));
        let text = pretty_format_batches(&rows).expect("format rows").to_string();
        let lines = text.lines().skip(3).filter(|line| line.starts_with('|'));
        lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect()).collect()
    }

    /// The physical plan of `sql`, and its text.
    async fn plan(&self, query: &Arc<QueryContext>, tables: &[&str], sql: &str) -> (Arc<dyn ExecutionPlan>, String) {
        let session = self.session(query, 8, tables).await;
        let plan = session.sql(sql).await.expect("parse").create_physical_plan().await;
        let plan = plan.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let text = displayable(plan.as_ref()).indent(true).to_string();
        (plan, text)
    }
}

fn connections(keys: &str) -> Arc<SourceConnections> {
    connections_of(&format!("[catalogs.bq]\n{keys}"))
}
