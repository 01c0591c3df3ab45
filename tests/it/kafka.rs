//! The Kafka connector against a real Apache Kafka, filled by librdkafka and by Kafka's own tools: values, ranges of offsets,
//! transactions, failures.

mod avro;
mod failures;
mod federated;
mod keys;
mod protobuf;
mod ranges;
mod refresh;
mod registered;
mod transactions;
mod values;

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::TableProvider;
use datafusion::physical_plan::{ExecutionPlan, collect as collect_plan, displayable};
use datafusion::prelude::SessionContext;
use townlake_common::{Error, QueryContext};
use townlake_connectors::{Source, SourceConnections};
use townlake_tests::kafka::Kafka;

use crate::sources::{collect, connections_of, query, session, typed};

/// One test's topics, and the catalog `bus` over them.
struct Bus {
    server: Arc<Kafka>,
    connections: Arc<SourceConnections>,
}

impl Bus {
    /// The shared broker after a script of Python, and the catalog with further keys and `[[catalogs.bus.tables]]`.
    fn of(test: &str, script: &str, keys: &str) -> Option<Self> {
        let server = Kafka::shared(test)?;
        server.python(script);
        let connections = connections(&server.broker(), keys);
        Some(Self { server, connections })
    }

    fn source(&self) -> Arc<dyn Source> {
        self.connections.source("bus").expect("the catalog is configured")
    }

    async fn table(&self, query: &Arc<QueryContext>, name: &str) -> Arc<dyn TableProvider> {
        let table = self.source().table(query, "default", name).await.expect("look the table up");
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
        let rows = self.query(tables, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        cells(&rows)
    }

    /// The rows, cells between blanks.
    async fn lines(&self, tables: &[&str], sql: &str) -> Vec<String> {
        self.cells(tables, sql).await.iter().map(|row| row.join(" ")).collect()
    }

    /// The physical plan of `sql`, its text, and a session to run it in.
    async fn plan(
        &self,
        query: &Arc<QueryContext>,
        tables: &[&str],
        sql: &str,
    ) -> (Arc<dyn ExecutionPlan>, String, SessionContext) {
        let session = self.session(query, 4, tables).await;
        let plan = session.sql(sql).await.expect("parse").create_physical_plan().await;
        let plan = plan.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let text = displayable(plan.as_ref()).indent(false).to_string();
        (plan, text, session)
    }
}

fn connections(brokers: &str, keys: &str) -> Arc<SourceConnections> {
    let toml = format!("[catalogs.bus]\ntype = \"kafka\"\nbrokers = [\"{brokers}\"]\n{keys}");
    connections_of(&toml)
}

async fn run(plan: &Arc<dyn ExecutionPlan>, session: &SessionContext) -> Result<Vec<RecordBatch>, Error> {
    collect_plan(Arc::clone(plan), session.task_ctx()).await.map_err(typed)
}

fn cells(rows: &[RecordBatch]) -> Vec<Vec<String>> {
    let text = pretty_format_batches(rows).expect("format rows").to_string();
    let lines = text.lines().skip(3).filter(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect()).collect()
}
