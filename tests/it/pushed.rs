//! The same query of a source that is asked all that it may be, and of one that is asked for rows alone.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionContext;
use townlake_connectors::dynamic_filters::{RunPlan, with_dynamic_filters};
use townlake_connectors::{NothingPushed, Source, SourceConnections};

use crate::sources::{collect, pushing, query, typed};

/// Tables of one schema of a source.
pub struct Both {
    source: Arc<dyn Source>,
    connections: Arc<SourceConnections>,
    schema: &'static str,
    tables: &'static [&'static str],
}

impl Both {
    /// These tables.
    pub fn new(
        source: Arc<dyn Source>,
        connections: &Arc<SourceConnections>,
        schema: &'static str,
        tables: &'static [&'static str],
    ) -> Self {
        Self { source, connections: Arc::clone(connections), schema, tables }
    }

    async fn session(&self, pushed: bool) -> SessionContext {
        let query = query();
        let session = pushing(&query, &self.connections, pushed);
        for name in self.tables {
            let table = self.source.table(&query, self.schema, name).await.expect("look the table up");
            let table = table.unwrap_or_else(|| panic!("there is no table {name}"));
            let table = if pushed { table } else { Arc::new(NothingPushed(table)) };
            session.register_table(*name, table).expect("register");
        }
        session
    }

    /// The plan's text, once the rows are those of the query of which nothing is pushed. (In the order of their text.)
    pub async fn plan(&self, sql: &str) -> String {
        let (with, without) = (self.session(true).await, self.session(false).await);
        let plan = with.sql(sql).await.expect("parse").create_physical_plan().await;
        let plan = plan.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let (text, rows) = compared(sql, plan, &with, &without).await;
        assert!(rows > 0, "{sql} gives no row");
        text
    }

    /// As [`Both::plan`]; the server is asked for all of these.
    pub async fn asked(&self, sql: &str, parts: &[&str]) {
        let text = self.plan(sql).await;
        for part in parts {
            assert!(text.contains(part), "{sql}\nis not asked for {part}:\n{text}");
        }
    }

    /// As [`Both::plan`]; the server is asked for none of these.
    pub async fn not_asked(&self, sql: &str, parts: &[&str]) {
        let text = self.plan(sql).await;
        // What stays here is told behind it.
        let sql_of =
            |line: &str| Some(line.split_once("remote_sql=[")?.1.split("], filtered_here=[").next()?.to_string());
        let asked: Vec<String> = text.lines().filter_map(sql_of).collect();
        for part in parts {
            assert!(!asked.iter().any(|line| line.contains(part)), "{sql}\nis asked for {part}:\n{text}");
        }
    }

    /// The plan of a query of a table `keys` of files with the dynamic filters that the coordinator would make, once the rows are those
    /// of the query of which nothing is pushed.
    pub async fn with_keys(&self, keys: &str, sql: &str) -> String {
        let (with, without) = (self.session(true).await, self.session(false).await);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.parquet").display().to_string();
        collect(&with, &format!("COPY ({keys}) TO '{file}'")).await.unwrap();
        for session in [&with, &without] {
            session.register_parquet("keys", file.clone(), Default::default()).await.unwrap();
        }
        let plan = with.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let (plan, _) = with_dynamic_filters(plan, &InTask(with.task_ctx())).await;
        compared(sql, plan, &with, &without).await.0
    }
}

/// The plan's text, and how many lines its rows have, once they are those without pushdown.
async fn compared(
    sql: &str,
    plan: Arc<dyn ExecutionPlan>,
    with: &SessionContext,
    without: &SessionContext,
) -> (String, usize) {
    let text = displayable(plan.as_ref()).indent(false).to_string();
    let here = collect(without, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let there = datafusion::physical_plan::collect(plan, with.task_ctx()).await;
    let there = there.unwrap_or_else(|error| panic!("{sql}\n{text}\n{:?}", typed(error)));
    let (here, there) = (sorted(&here), sorted(&there));
    assert_eq!(there, here, "{sql}\n{text}");
    (text, here.len().saturating_sub(1))
}

/// The lines of the table, but for its head.
fn sorted(batches: &[RecordBatch]) -> Vec<String> {
    let shown = pretty_format_batches(batches).unwrap().to_string();
    let mut lines: Vec<_> = shown.lines().skip(3).map(str::to_string).collect();
    lines.sort();
    lines
}

/// Runs small plans in the task of a test.
pub struct InTask(pub Arc<TaskContext>);

#[async_trait::async_trait]
impl RunPlan for InTask {
    async fn run(&self, plan: Arc<dyn ExecutionPlan>) -> townlake_common::Result<SendableRecordBatchStream> {
        Ok(datafusion::physical_plan::execute_stream(plan, Arc::clone(&self.0)).unwrap())
    }

    fn connections(&self) -> Option<Arc<SourceConnections>> {
        self.0.session_config().get_extension()
    }
}
