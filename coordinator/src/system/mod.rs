//! The catalog `system`: `system.runtime.{nodes,queries,tasks}`, from the memory of this coordinator.
//!
//! Everyone sees the nodes. Queries and tasks are one's own, or all for an administrator.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray, UInt32Array, UInt64Array};
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::arrow::record_batch::RecordBatch;
use townlake_cluster::{Node, Role, State};
use townlake_common::{Error, Principal, QueryId, Result};

use crate::query::{QueryInfo, Registry};
use crate::scheduling::{Scheduler, TaskRow};

/// Its one schema.
pub const RUNTIME: &str = "runtime";

/// The tables of `system.runtime`.
pub const TABLES: &[&str] = &["nodes", "queries", "tasks"];

/// What the tables are read from.
pub struct System {
    scheduler: Arc<Scheduler>,
    registry: Arc<Registry>,
    admins: Vec<String>,
}

impl System {
    /// `admins` are the users and groups who see every query.
    pub fn new(scheduler: Arc<Scheduler>, registry: Arc<Registry>, admins: Vec<String>) -> Arc<Self> {
        Arc::new(Self { scheduler, registry, admins })
    }

    /// Whether the principal may see and kill the queries of others.
    pub fn is_admin(&self, principal: &Principal) -> bool {
        principal.is_any_of(&self.admins)
    }

    /// The rows of a table at this moment; `None` when there is no such table.
    pub fn table(&self, principal: &Principal, schema: &str, table: &str) -> Result<Option<RecordBatch>> {
        if schema != RUNTIME {
            return Ok(None);
        }
        match table {
            "nodes" => nodes(&self.scheduler.nodes()).map(Some),
            "queries" => queries(&self.visible(principal)).map(Some),
            "tasks" => {
                let mut tasks = self.scheduler.tasks();
                if !self.is_admin(principal) {
                    let own: HashSet<QueryId> = self.visible(principal).into_iter().map(|query| query.id).collect();
                    tasks.retain(|task| own.contains(&task.query));
                }
                self::tasks(&tasks).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn visible(&self, principal: &Principal) -> Vec<QueryInfo> {
        let all = self.is_admin(principal);
        self.registry.list().into_iter().filter(|query| all || query.user == principal.name).collect()
    }
}

fn nodes(nodes: &[Node]) -> Result<RecordBatch> {
    let role = |node: &Node| match node.role() {
        Role::Coordinator => "coordinator",
        Role::Executor => "executor",
        Role::Unspecified => "unknown",
    };
    let state = |node: &Node| match node.state() {
        State::Active => "ACTIVE",
        State::Draining => "DRAINING",
        State::Unspecified => "UNKNOWN",
    };
    build(vec![
        ("node_id", text(nodes.iter().map(|node| Some(node.incarnation.as_str())))),
        ("role", text(nodes.iter().map(|node| Some(role(node))))),
        ("state", text(nodes.iter().map(|node| Some(state(node))))),
        ("address", text(nodes.iter().map(|node| Some(node.address.as_str())))),
        ("slots", Arc::new(nodes.iter().map(|node| Some(node.slots)).collect::<UInt32Array>())),
        ("memory_bytes", Arc::new(nodes.iter().map(|node| Some(node.memory_bytes)).collect::<UInt64Array>())),
        ("build", text(nodes.iter().map(|node| Some(node.build.as_str())))),
        ("started", times(nodes.iter().map(|node| Some(node.started_at_ms * 1000)))),
    ])
}

fn queries(queries: &[QueryInfo]) -> Result<RecordBatch> {
    let pins: Vec<_> = queries.iter().map(|query| query.pins.join(", ")).collect();
    let cuts: Vec<_> = queries.iter().map(|query| (!query.cut.is_empty()).then(|| query.cut.to_text())).collect();
    build(vec![
        ("id", text(queries.iter().map(|query| Some(query.id.as_str())))),
        ("user", text(queries.iter().map(|query| Some(query.user.as_str())))),
        ("sql", text(queries.iter().map(|query| Some(&*query.sql)))),
        ("state", text(queries.iter().map(|query| Some(query.state.as_str())))),
        ("code", text(queries.iter().map(|query| query.code.map(|code| code.as_str())))),
        ("created", times(queries.iter().map(|query| Some(query.created.timestamp_micros())))),
        ("started", times(queries.iter().map(|query| query.started.map(|time| time.timestamp_micros())))),
        ("ended", times(queries.iter().map(|query| query.ended.map(|time| time.timestamp_micros())))),
        ("rows", Arc::new(queries.iter().map(|query| Some(query.rows)).collect::<UInt64Array>())),
        ("bytes", Arc::new(queries.iter().map(|query| Some(query.bytes)).collect::<UInt64Array>())),
        ("stages", Arc::new(queries.iter().map(|query| u32::try_from(query.stages).ok()).collect::<UInt32Array>())),
        ("pins", text(pins.iter().map(|pins| Some(pins.as_str())))),
        ("cut", text(cuts.iter().map(Option::as_deref))),
    ])
}

fn tasks(tasks: &[TaskRow]) -> Result<RecordBatch> {
    let states: Vec<_> = tasks.iter().map(|task| task.state.as_str().to_uppercase()).collect();
    let number =
        |value: fn(&TaskRow) -> Option<u32>| Arc::new(tasks.iter().map(value).collect::<UInt32Array>()) as ArrayRef;
    let count =
        |value: fn(&TaskRow) -> Option<u64>| Arc::new(tasks.iter().map(value).collect::<UInt64Array>()) as ArrayRef;
    build(vec![
        ("query_id", text(tasks.iter().map(|task| Some(task.query.as_str())))),
        ("stage", number(|task| Some(task.stage))),
        ("task", number(|task| Some(task.task))),
        ("attempt", number(|task| Some(task.attempt))),
        ("executor", text(tasks.iter().map(|task| Some(task.executor.as_str())))),
        ("address", text(tasks.iter().map(|task| Some(task.address.as_str())))),
        ("state", text(states.iter().map(|state| Some(state.as_str())))),
        ("partitions", number(|task| Some(task.partitions))),
        ("started", times(tasks.iter().map(|task| Some(task.started_ms * 1000)))),
        ("ended", times(tasks.iter().map(|task| task.ended_ms.map(|ms| ms * 1000)))),
        ("rows", count(|task| task.rows)),
        ("bytes", count(|task| task.bytes)),
    ])
}

fn text<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

/// Microseconds since the epoch as points in time.
fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn build(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(|error| Error::internal("a system table could not be built").with_source(error))
}
