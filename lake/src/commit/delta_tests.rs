//! Changes of rows on a real table: planned, written, committed, read back; alone and beside others.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::PhysicalPlanNode;
use townlake_common::{ErrorCode, QueryContext, QueryId, Result};

use crate::scan::fixture::LakeCodec;
use crate::testing::Lake;
use crate::{
    Delta, LoadedTable, PartitionField, PlannedTarget, RowCommand, TableChange, TargetTable, changed_files,
    merges_on_read, plan_files, rewrite_plan, row_delta_plan, written_files,
};

const COLUMNS: [(&str, DataType); 2] = [("id", DataType::Int64), ("v", DataType::Utf8)];
const ALL: &str = "SELECT id, v FROM t ORDER BY id, v";
const DELETED: &str = "\"$file\", \"$position\"";

fn rows(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("v{id}"))));
    let ids: ArrayRef = Arc::new(Int64Array::from(ids));
    RecordBatch::try_from_iter([("id", ids), ("v", texts)]).unwrap()
}

/// A change that is planned and written, but not committed.
struct Change {
    table: Arc<LoadedTable>,
    target: PlannedTarget,
    delta: Delta,
    query: QueryId,
}

/// Over the wire and back, as an executor gets the plan.
fn sent(context: &SessionContext, plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let bytes = PhysicalPlanNode::try_from_physical_plan(plan, &LakeCodec).unwrap();
    bytes.try_into_physical_plan(&context.task_ctx(), &LakeCodec).unwrap()
}

async fn write(lake: &Lake, context: &SessionContext, command: RowCommand, sql: &str) -> Result<Change> {
    let (table, query) = (lake.load("t").await, QueryId::generate());
    let target = TargetTable::new(Arc::clone(&table))?;
    context.deregister_table("target").unwrap();
    context.register_table("target", Arc::clone(&target) as _).unwrap();
    let input = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let planned = target.planned();
    let plan = row_delta_plan(&table, &planned.files, input, &query, command == RowCommand::Merge)?;
    let answers = collect(sent(context, plan), context.task_ctx()).await;
    let answers = answers.map_err(|e| townlake_common::Error::internal(e.to_string()))?;
    let files = changed_files(&answers, &table, &planned.files)?;
    let delta = Delta::of_rows(&table, command, &planned, files)?;
    Ok(Change { table, target: planned, delta, query })
}

async fn commit(lake: &Lake, context: &SessionContext, command: RowCommand, change: Change) -> Result<u64> {
    let Change { table, target, delta, query } = change;
    let rows = delta.rows();
    let (delta, _) = if merges_on_read(&table, command)? {
        delta.without_needless()
    } else {
        let state = context.state();
        let context_of_query = state.config().get_extension::<QueryContext>().unwrap();
        let plan = rewrite_plan(&table, delta.to_rewrite(&target.files), &state, &context_of_query).unwrap();
        let answers = collect(plan, context.task_ctx()).await.unwrap();
        delta.rewritten(written_files(&answers, &table).unwrap())
    };
    lake.catalog.commit_delta(&table, &delta, &query).await.map(|_| rows)
}

async fn change(lake: &Lake, context: &SessionContext, command: RowCommand, sql: &str) -> Result<u64> {
    let change = write(lake, context, command, sql).await?;
    commit(lake, context, command, change).await
}

async fn set(lake: &Lake, properties: &[(&str, &str)]) {
    let properties = properties.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    lake.catalog.alter_table("s", "t", &[TableChange::SetProperties(properties)]).await.unwrap();
}

const MERGE_ON_READ: [(&str, &str); 3] = [
    ("write.delete.mode", "merge-on-read"),
    ("write.update.mode", "merge-on-read"),
    ("write.merge.mode", "merge-on-read"),
];

async fn lake(merge_on_read: bool, partition: &[PartitionField]) -> (Lake, SessionContext) {
    let lake = Lake::create(&COLUMNS, partition).await;
    if merge_on_read {
        set(&lake, &MERGE_ON_READ).await;
    }
    let context = lake.context();
    for ids in [0..6, 6..12, 12..18] {
        lake.insert(&context, "t", rows(ids)).await;
    }
    (lake, context)
}

fn delete(predicate: &str) -> String {
    format!("SELECT {DELETED} FROM target WHERE {predicate}")
}

fn update(value: &str, predicate: &str) -> String {
    format!("SELECT {DELETED}, true, id, {value} FROM target WHERE {predicate}")
}

async fn ids(lake: &Lake, context: &SessionContext) -> Vec<i64> {
    let rows = lake.rows(context, "t", ALL).await;
    rows.iter().map(|row| row[0].parse().unwrap()).collect()
}

#[tokio::test]
async fn rows_are_deleted_and_updated_in_both_modes() {
    for merge_on_read in [false, true] {
        let (lake, context) = lake(merge_on_read, &[]).await;
        let deleted =
            change(&lake, &context, RowCommand::Delete, &delete("id IN (1, 4, 7) OR id >= 12")).await.unwrap();
        assert_eq!(deleted, 9);
        assert_eq!(ids(&lake, &context).await, [0, 2, 3, 5, 6, 8, 9, 10, 11]);
        let table = lake.load("t").await;
        let plan = plan_files(&table, &[]).await.unwrap();
        let expected = if merge_on_read { (2, 2) } else { (1, 0) };
        assert_eq!((plan.files.len(), plan.deletes.len()), expected, "one file is gone whole");
        let updated =
            change(&lake, &context, RowCommand::Update, &update("v || '!'", "id > 8 OR v = 'v0'")).await.unwrap();
        assert_eq!(updated, 4);
        let rows = lake.rows(&context, "t", "SELECT id, v FROM t WHERE v LIKE '%!' ORDER BY id").await;
        let expected = [["0", "v0!"], ["9", "v9!"], ["10", "v10!"], ["11", "v11!"]];
        assert_eq!(rows, expected);
        assert_eq!(ids(&lake, &context).await, [0, 2, 3, 5, 6, 8, 9, 10, 11]);
        // Once more on top of the deletes that are there.
        assert_eq!(change(&lake, &context, RowCommand::Delete, &delete("id < 9")).await.unwrap(), 6);
        assert_eq!(ids(&lake, &context).await, [9, 10, 11]);
        let summary = lake.load("t").await.snapshot.as_ref().unwrap().summary().additional_properties.clone();
        assert!(summary.contains_key("town.query-id") && summary.contains_key("total-records"), "{summary:?}");
        // Nothing to delete: no commit.
        let before = lake.load("t").await.snapshot_id();
        assert_eq!(change(&lake, &context, RowCommand::Delete, &delete("id < 9")).await.unwrap(), 0);
        assert_eq!(lake.load("t").await.snapshot_id(), before);
    }
}

#[tokio::test]
async fn partitions_stay_what_they_are() {
    let partition = [PartitionField { column: "id".to_string(), transform: "truncate[4]".to_string() }];
    for merge_on_read in [false, true] {
        let (lake, context) = lake(merge_on_read, &partition).await;
        assert_eq!(change(&lake, &context, RowCommand::Delete, &delete("id = 5 OR id = 6")).await.unwrap(), 2);
        let moved = format!("SELECT {DELETED}, true, id + 100, v FROM target WHERE id < 2");
        assert_eq!(change(&lake, &context, RowCommand::Update, &moved).await.unwrap(), 2);
        let expected: Vec<i64> = (2..18).filter(|id| ![5, 6].contains(id)).chain([100, 101]).collect();
        assert_eq!(ids(&lake, &context).await, expected);
        let filtered = lake.rows(&context, "t", "SELECT id FROM t WHERE id BETWEEN 4 AND 7 ORDER BY id").await;
        assert_eq!(filtered, [["4"], ["7"]]);
    }
}

#[tokio::test]
async fn a_row_is_changed_once() {
    let (lake, context) = lake(true, &[]).await;
    let twice = format!("SELECT {DELETED}, true, id, v FROM target CROSS JOIN (VALUES (1), (2)) WHERE id = 3");
    let error = write(&lake, &context, RowCommand::Merge, &twice).await.err().unwrap();
    assert!(error.to_string().contains("changed twice"), "{error}");
    // Rows that are new, changed and gone, in one change.
    let merge = "SELECT t.\"$file\", t.\"$position\", s.v IS NOT NULL, s.id, s.v
         FROM (VALUES (3, NULL), (4, 'four'), (50, 'fifty')) AS s (id, v) LEFT JOIN target t ON s.id = t.id";
    assert_eq!(change(&lake, &context, RowCommand::Merge, merge).await.unwrap(), 3);
    let rows = lake.rows(&context, "t", "SELECT id, v FROM t WHERE id IN (3, 4, 50) ORDER BY id").await;
    assert_eq!(rows, [["4", "four"], ["50", "fifty"]]);
}

#[tokio::test]
async fn changes_beside_each_other() {
    use RowCommand::{Delete, Update};
    // (the first to be committed, the second, whether the second is a conflict, in which mode)
    let cases = [
        (Delete, "id = 1", Delete, "id = 2", false, true),
        (Delete, "id = 1", Delete, "id = 1", false, true),
        (Delete, "id = 1", Delete, "id = 2", true, false),
        (Delete, "id = 1", Delete, "id = 7", false, false),
        (Delete, "id = 1", Update, "id = 1", true, true),
        (Delete, "id = 1", Update, "id = 7", false, true),
        (Update, "id = 1", Update, "id = 1", true, true),
        (Update, "id = 1", Update, "id = 2", true, false),
        (Delete, "id < 6", Delete, "id = 2", true, true),
    ];
    for (first, of_first, second, of_second, conflicts, merge_on_read) in cases {
        let name = format!("{first:?} {of_first} beside {second:?} {of_second}, merge on read: {merge_on_read}");
        let (lake, context) = lake(merge_on_read, &[]).await;
        let sql = |command, predicate| match command {
            Delete => delete(predicate),
            _ => update("'new'", predicate),
        };
        let late = write(&lake, &context, second, &sql(second, of_second)).await.unwrap();
        change(&lake, &context, first, &sql(first, of_first)).await.unwrap();
        let before = lake.rows(&context, "t", ALL).await;
        let result = commit(&lake, &context, second, late).await;
        assert_eq!(result.as_ref().err().map(|e| e.code()), conflicts.then_some(ErrorCode::CommitConflict), "{name}");
        if conflicts {
            assert_eq!(lake.rows(&context, "t", ALL).await, before, "{name}");
        }
    }
}

#[tokio::test]
async fn rows_that_come_meanwhile_stay_unless_the_table_says_otherwise() {
    for (isolation, conflicts) in [("snapshot", false), ("serializable", true)] {
        let (lake, context) = lake(true, &[]).await;
        set(&lake, &[("write.delete.isolation-level", isolation)]).await;
        let late = write(&lake, &context, RowCommand::Delete, &delete("id > 3")).await.unwrap();
        lake.insert(&context, "t", rows([100])).await;
        let result = commit(&lake, &context, RowCommand::Delete, late).await;
        assert_eq!(result.err().map(|e| e.code()), conflicts.then_some(ErrorCode::CommitConflict), "{isolation}");
        assert!(ids(&lake, &context).await.contains(&100), "{isolation}");
        // What cannot match is none of its business.
        let late = write(&lake, &context, RowCommand::Delete, &delete("id = 2")).await.unwrap();
        lake.insert(&context, "t", rows([200])).await;
        commit(&lake, &context, RowCommand::Delete, late).await.unwrap();
    }
}

#[tokio::test]
async fn a_column_that_hides_where_rows_lie_is_refused() {
    let lake = Lake::create(&[("$file", DataType::Int64)], &[]).await;
    let error = TargetTable::new(lake.load("t").await).err().unwrap();
    assert_eq!(error.code(), ErrorCode::NotSupported);
}
