//! Appends against a real SQLite catalog: concurrent, repeated, conflicting, lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use iceberg::spec::Struct;
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, QueryId, Result};

use crate::catalog::sql::SqlCatalog;
use crate::catalog::views::ViewCatalog;
use crate::catalog::{Catalog, CommitOutcome, NewTable, TableHead, TableName};
use crate::testing::{Lake, create_table, file};
use crate::{TableChange, TableVersion, WrittenFile, plan_files};

async fn lake() -> Lake {
    Lake::create(&[("id", DataType::Int64), ("name", DataType::Utf8)], &[]).await
}

fn data(lake: &Lake, name: &str) -> Vec<WrittenFile> {
    vec![file(&lake.location("t"), name, Struct::empty(), |_| {})]
}

#[tokio::test]
async fn create_append_and_read_back() {
    let lake = lake().await;
    let empty = lake.load("t").await;
    assert!(empty.snapshot.is_none() && empty.metadata_location.contains("/metadata/00000-"));
    assert!(plan_files(&empty, &[]).await.unwrap().files.is_empty());

    let first = lake.append("t", data(&lake, "a")).await;
    let second = lake.append("t", data(&lake, "b")).await;
    let table = lake.load("t").await;
    assert_eq!(table.snapshot_id(), Some(second));
    assert!(table.metadata_location.contains("/metadata/00002-"), "{}", table.metadata_location);
    let summary = &table.snapshot.as_ref().unwrap().summary().additional_properties;
    let number = |key: &str| summary.get(key).map(String::as_str);
    assert_eq!((number("added-records"), number("total-records")), (Some("10"), Some("20")));
    assert_eq!((number("added-data-files"), number("total-data-files")), (Some("1"), Some("2")));
    let files = plan_files(&table, &[]).await.unwrap().files;
    let sequences: Vec<_> = files.iter().map(|f| (f.record_count, f.data_sequence_number)).collect();
    assert_eq!(sequences, [(10, 1), (10, 2)]);

    let at = |version| async move { lake.catalog.load("s", "t", Some(&version)).await };
    let old = at(TableVersion::SnapshotId(first)).await.unwrap().unwrap();
    assert_eq!(plan_files(&old, &[]).await.unwrap().files.len(), 1);
}

#[tokio::test]
async fn time_travel_by_time_and_name() {
    let lake = lake().await;
    let first = lake.append("t", data(&lake, "a")).await;
    let then = lake.load("t").await.snapshot.as_ref().unwrap().timestamp_ms();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let second = lake.append("t", data(&lake, "b")).await;
    let load = async |version| lake.catalog.load("s", "t", Some(&version)).await.map(|t| t.unwrap().snapshot_id());
    assert_eq!(load(TableVersion::TimestampMillis(then)).await.unwrap(), Some(first));
    assert_eq!(load(TableVersion::TimestampMillis(i64::MAX)).await.unwrap(), Some(second));
    assert_eq!(load(TableVersion::Reference("main".to_string())).await.unwrap(), Some(second));
    for missing in [TableVersion::TimestampMillis(0), TableVersion::SnapshotId(1), TableVersion::Reference("x".into())]
    {
        assert_eq!(load(missing).await.unwrap_err().code(), ErrorCode::SnapshotNotFound);
    }
}

#[tokio::test]
async fn concurrent_appends_all_land() {
    let lake = Arc::new(lake().await);
    let stale = lake.load("t").await; // all commit on a state that is old for all but one
    let mut running = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (lake, stale) = (Arc::clone(&lake), Arc::clone(&stale));
        running.spawn(async move {
            let node = lake.again().await;
            node.commit_append(&stale, data(&lake, &format!("f{n}")), &QueryId::generate()).await
        });
    }
    while let Some(done) = running.join_next().await {
        assert!(done.unwrap().unwrap().is_some());
    }
    let table = lake.load("t").await;
    let plan = plan_files(&table, &[]).await.unwrap();
    let mut names: Vec<_> = plan.files.iter().map(|f| f.path.clone()).collect();
    names.dedup();
    assert_eq!((names.len(), table.metadata.snapshots().len()), (8, 8));
    let totals = &table.snapshot.as_ref().unwrap().summary().additional_properties;
    assert_eq!(totals["total-records"], "80");
}

#[tokio::test]
async fn one_query_commits_once() {
    let lake = lake().await;
    let query = QueryId::generate();
    let first = lake.try_append("t", data(&lake, "a"), &query).await.unwrap();
    let again = lake.try_append("t", data(&lake, "a"), &query).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(lake.load("t").await.metadata.snapshots().len(), 1);
    assert_eq!(lake.try_append("t", vec![], &QueryId::generate()).await.unwrap(), None);
}

#[tokio::test]
async fn the_compare_and_swap_lets_one_win() {
    let lake = lake().await;
    let (sql, _) = lake.sql().await;
    let name = TableName::new("s", "t");
    let base = sql.load(&name).await.unwrap().unwrap();
    let update =
        |value: &str| vec![TableUpdate::SetProperties { updates: [("k".to_string(), value.to_string())].into() }];
    assert!(matches!(sql.commit(&name, &base, vec![], update("1")).await, CommitOutcome::Committed));
    assert!(matches!(sql.commit(&name, &base, vec![], update("2")).await, CommitOutcome::Conflict(_)));
    let wrong = vec![TableRequirement::UuidMatch { uuid: uuid::Uuid::nil() }];
    assert!(matches!(sql.commit(&name, &base, wrong, update("3")).await, CommitOutcome::Conflict(_)));
    assert_eq!(lake.load("t").await.metadata.properties()["k"], "1");
    let metadata = lake.folder.path().join("warehouse/s/t/metadata");
    assert_eq!(std::fs::read_dir(metadata).unwrap().count(), 2, "the loser's file is removed");
}

#[tokio::test]
async fn a_table_made_anew_is_a_conflict_and_the_files_go() {
    let lake = lake().await;
    let table = lake.load("t").await;
    let written = lake.folder.path().join("warehouse/s/t/data/a.parquet");
    std::fs::create_dir_all(written.parent().unwrap()).unwrap();
    std::fs::write(&written, b"x").unwrap();
    assert!(lake.catalog.drop_table("s", "t", false).await.unwrap());
    lake.catalog.create_table(create_table("t", &[("id", DataType::Int64)], &[])).await.unwrap();
    let error = lake.catalog.commit_append(&table, data(&lake, "a"), &QueryId::generate()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CommitConflict);
    assert!(!written.exists());
}

/// A catalog that answers the first commits wrongly, whether or not they happened, and is away for a while then.
struct Lossy {
    sql: SqlCatalog,
    happens: bool,
    answer: fn(Error) -> CommitOutcome,
    losses: AtomicUsize,
    /// Loads that fail after a loss.
    away: AtomicUsize,
}

impl Lossy {
    async fn new(lake: &Lake, happens: bool) -> Self {
        let (sql, _) = lake.sql().await;
        let (losses, away) = (AtomicUsize::new(1), AtomicUsize::new(0));
        Self { sql, happens, answer: CommitOutcome::Unknown, losses, away }
    }

    fn unavailable() -> Error {
        Error::new(ErrorCode::SourceUnavailable, "lost").retryable()
    }
}

fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

#[async_trait]
impl Catalog for Lossy {
    async fn list_namespaces(&self) -> Result<Vec<String>> {
        self.sql.list_namespaces().await
    }
    async fn namespace_exists(&self, namespace: &str) -> Result<bool> {
        self.sql.namespace_exists(namespace).await
    }
    async fn create_namespace(&self, namespace: &str) -> Result<()> {
        self.sql.create_namespace(namespace).await
    }
    async fn drop_namespace(&self, namespace: &str) -> Result<bool> {
        self.sql.drop_namespace(namespace).await
    }
    async fn list_tables(&self, namespace: &str) -> Result<Vec<String>> {
        self.sql.list_tables(namespace).await
    }
    async fn load(&self, name: &TableName) -> Result<Option<TableHead>> {
        if self.losses.load(Ordering::SeqCst) == 0 && take(&self.away) {
            return Err(Self::unavailable());
        }
        self.sql.load(name).await
    }
    async fn create_table(&self, name: &TableName, table: NewTable) -> Result<TableHead> {
        self.sql.create_table(name, table).await
    }
    async fn register_table(&self, name: &TableName, metadata_location: &str) -> Result<TableHead> {
        self.sql.register_table(name, metadata_location).await
    }
    async fn drop_table(&self, name: &TableName) -> Result<bool> {
        self.sql.drop_table(name).await
    }
    async fn rename_table(&self, from: &TableName, to: &TableName) -> Result<bool> {
        self.sql.rename_table(from, to).await
    }
    async fn commit(
        &self,
        name: &TableName,
        base: &TableHead,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> CommitOutcome {
        if !take(&self.losses) {
            return self.sql.commit(name, base, requirements, updates).await;
        }
        if self.happens {
            assert!(matches!(self.sql.commit(name, base, requirements, updates).await, CommitOutcome::Committed));
        }
        (self.answer)(Self::unavailable())
    }
    fn views(&self) -> &dyn ViewCatalog {
        self.sql.views()
    }
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_and_the_commit_is_there_once() {
    for happens in [true, false] {
        let lake = lake().await;
        let lossy = Lossy::new(&lake, happens).await;
        let table = lake.load("t").await;
        let id = super::append(&lossy, &table, data(&lake, "a"), &QueryId::generate()).await.unwrap();
        assert_eq!(lossy.losses.load(Ordering::SeqCst), 0, "the fault fired");
        let table = lake.load("t").await;
        assert_eq!((table.snapshot_id(), table.metadata.snapshots().len()), (id, 1), "happens: {happens}");
        assert_eq!(plan_files(&table, &[]).await.unwrap().files.len(), 1);
    }
}

#[tokio::test]
async fn files_of_a_commit_that_was_never_looked_for_are_kept() {
    let lake = lake().await;
    let table = lake.load("t").await;
    let written = lake.folder.path().join("warehouse/s/t/data/a.parquet");
    std::fs::create_dir_all(written.parent().unwrap()).unwrap();
    std::fs::write(&written, b"x").unwrap();
    // A table that was changed and whose metadata cannot be read now: an earlier call of this query may have done it.
    lake.append("t", data(&lake, "b")).await;
    std::fs::remove_dir_all(lake.folder.path().join("warehouse/s/t/metadata")).unwrap();
    let (sql, _) = lake.sql().await;
    let result = super::append(&sql, &table, data(&lake, "a"), &QueryId::generate()).await;
    assert_eq!(result.unwrap_err().code(), ErrorCode::FileNotFound);
    assert!(written.exists());
}

const HASTE: super::Limits = super::Limits { attempts: Duration::ZERO, looks: Duration::from_millis(300) };

/// A data file that is there, of the table's.
fn real_file(lake: &Lake, name: &str) -> std::path::PathBuf {
    let written = lake.folder.path().join(format!("warehouse/s/t/data/{name}.parquet"));
    std::fs::create_dir_all(written.parent().unwrap()).unwrap();
    std::fs::write(&written, b"x").unwrap();
    written
}

/// Manifest lists in the table's folder.
fn lists(lake: &Lake) -> usize {
    let folder = std::fs::read_dir(lake.folder.path().join("warehouse/s/t/metadata")).unwrap();
    folder.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("snap-")).count()
}

#[tokio::test]
async fn an_attempt_that_takes_all_the_time_is_looked_up_all_the_same() {
    for happens in [true, false] {
        let lake = lake().await;
        let lossy = Lossy { away: AtomicUsize::new(2), ..Lossy::new(&lake, happens).await };
        let (table, written) = (lake.load("t").await, real_file(&lake, "a"));
        let result =
            super::once(HASTE, &lossy, &table, super::What::Append, &data(&lake, "a"), &QueryId::generate()).await;
        assert_eq!(lossy.away.load(Ordering::SeqCst), 0, "it was looked for until the catalog was back");
        let table = lake.load("t").await;
        match result {
            Ok(id) => assert!(happens && table.snapshot_id() == Some(id)),
            Err(error) => {
                assert_eq!((happens, error.code()), (false, ErrorCode::CommitStateUnknown));
                assert!(table.snapshot_id().is_none() && error.hint().unwrap().contains("town.query-id"));
            }
        }
        assert!(written.exists(), "it is the table's, or may become so");
    }
}

#[tokio::test]
async fn a_commit_that_happened_and_is_answered_by_conflict_keeps_its_files() {
    for limits in [HASTE, super::LIMITS] {
        let lake = lake().await;
        let lossy = Lossy { answer: CommitOutcome::Conflict, ..Lossy::new(&lake, true).await };
        let (table, written) = (lake.load("t").await, real_file(&lake, "a"));
        let id = super::once(limits, &lossy, &table, super::What::Append, &data(&lake, "a"), &QueryId::generate())
            .await
            .unwrap();
        let table = lake.load("t").await;
        assert_eq!((table.snapshot_id(), lists(&lake)), (Some(id), 1));
        assert_eq!(plan_files(&table, &[]).await.unwrap().files.len(), 1, "the manifest list is there");
        assert!(written.exists());
    }
}

#[tokio::test]
async fn a_conflict_at_the_end_of_the_time_is_definite_and_leaves_nothing() {
    let lake = lake().await;
    let lossy = Lossy { answer: CommitOutcome::Conflict, ..Lossy::new(&lake, false).await };
    let (table, written) = (lake.load("t").await, real_file(&lake, "a"));
    let result = super::once(HASTE, &lossy, &table, super::What::Append, &data(&lake, "a"), &QueryId::generate()).await;
    assert_eq!(result.unwrap_err().code(), ErrorCode::SourceUnavailable, "the catalog's error, as it is");
    assert!(!written.exists() && lists(&lake) == 0);
}

#[tokio::test]
async fn lists_of_attempts_in_vain_go_once_another_has_landed() {
    let lake = lake().await;
    let lossy = Lossy { answer: CommitOutcome::Conflict, ..Lossy::new(&lake, false).await };
    lossy.losses.store(3, Ordering::SeqCst);
    let table = lake.load("t").await;
    super::append(&lossy, &table, data(&lake, "a"), &QueryId::generate()).await.unwrap();
    assert_eq!(lists(&lake), 1);
    assert_eq!(plan_files(lake.load("t").await.as_ref(), &[]).await.unwrap().files.len(), 1);
}

#[tokio::test]
async fn a_commit_is_found_also_where_no_other_could_be_made_any_more() {
    let lake = lake().await;
    let (query, written) = (QueryId::generate(), real_file(&lake, "a"));
    let first = lake.try_append("t", data(&lake, "a"), &query).await.unwrap();
    let (sql, _) = lake.sql().await;
    let name = TableName::new("s", "t");
    let base = sql.load(&name).await.unwrap().unwrap();
    let upgrade = vec![TableUpdate::UpgradeFormatVersion { format_version: iceberg::spec::FormatVersion::V3 }];
    assert!(matches!(sql.commit(&name, &base, vec![], upgrade).await, CommitOutcome::Committed));
    assert_eq!(lake.try_append("t", data(&lake, "a"), &query).await.unwrap(), first);
    assert!(written.exists());
    let other = lake.try_append("t", data(&lake, "b"), &QueryId::generate()).await.unwrap_err();
    assert_eq!(other.code(), ErrorCode::FormatNotSupported);
}

fn columns(columns: &[(&str, DataType)]) -> Vec<arrow::datatypes::FieldRef> {
    create_table("t", columns, &[]).columns
}

#[tokio::test]
async fn a_replacement_is_one_commit_and_the_past_stays() {
    let lake = Lake::create(
        &[("id", DataType::Int64), ("name", DataType::Utf8)],
        &[crate::PartitionField { column: "name".to_string(), transform: "truncate[2]".to_string() }],
    )
    .await;
    let text = |text: &str| Struct::from_iter([Some(iceberg::spec::Literal::string(text))]);
    let old = vec![file(&lake.location("t"), "a", text("xy"), |_| {})];
    let first = lake.append("t", old).await;

    let before = lake.load("t").await;
    let replacement = lake.catalog.plan_replace(&before, &columns(&[("id", DataType::Utf8)])).unwrap();
    let written_for = replacement.table();
    assert!(written_for.metadata.default_partition_spec().fields().is_empty());
    let id = crate::schema::field_id(written_for.arrow_schema.field(0));
    assert_eq!(id, Some(3), "ids of the past are not given again");
    let spec = written_for.metadata.default_partition_spec_id();
    let files = vec![WrittenFile { spec_id: spec, ..file(&lake.location("t"), "b", Struct::empty(), |_| {}) }];
    let query = QueryId::generate();
    let second = lake.catalog.commit_replace(&replacement, files.clone(), &query).await.unwrap();
    assert_eq!(
        lake.catalog.commit_replace(&replacement, files, &query).await.unwrap(),
        second,
        "one query commits once"
    );

    let table = lake.load("t").await;
    assert_eq!((table.snapshot_id(), table.metadata.snapshots().len()), (Some(second), 2));
    assert_eq!((&table.arrow_schema, table.metadata.uuid()), (&written_for.arrow_schema, before.metadata.uuid()));
    let plan = plan_files(&table, &[]).await.unwrap();
    assert!(plan.files.len() == 1 && plan.files[0].path.ends_with("/b.parquet"), "{plan:?}");
    let totals = &table.snapshot.as_ref().unwrap().summary().additional_properties;
    assert_eq!(totals["total-records"], "10");
    let past = lake.catalog.load("s", "t", Some(&TableVersion::SnapshotId(first))).await.unwrap().unwrap();
    assert_eq!(past.arrow_schema, before.arrow_schema);
    let plan = plan_files(&past, &[]).await.unwrap();
    assert!(plan.files.len() == 1 && plan.files[0].path.ends_with("/a.parquet"), "{plan:?}");
}

#[tokio::test]
async fn a_replacement_by_the_same_columns_keeps_ids_and_no_rows_make_an_empty_table() {
    let lake = lake().await;
    lake.append("t", data(&lake, "a")).await;
    let before = lake.load("t").await;
    let same = columns(&[("id", DataType::Int64), ("name", DataType::Utf8)]);
    let replacement = lake.catalog.plan_replace(&before, &same).unwrap();
    // a row that comes in the meantime goes as well
    lake.append("t", data(&lake, "b")).await;
    lake.catalog.commit_replace(&replacement, vec![], &QueryId::generate()).await.unwrap();
    let table = lake.load("t").await;
    assert_eq!(table.arrow_schema, before.arrow_schema);
    assert!(plan_files(&table, &[]).await.unwrap().files.is_empty());
    lake.append("t", data(&lake, "c")).await;
    assert_eq!(plan_files(lake.load("t").await.as_ref(), &[]).await.unwrap().files.len(), 1);
}

#[tokio::test]
async fn of_two_replacements_with_other_columns_the_second_is_a_conflict_and_its_files_go() {
    let lake = lake().await;
    let before = lake.load("t").await;
    let plan = |name| lake.catalog.plan_replace(&before, &columns(&[(name, DataType::Int64)])).unwrap();
    let (one, two) = (plan("one"), plan("two"));
    lake.catalog.commit_replace(&one, data(&lake, "a"), &QueryId::generate()).await.unwrap();
    let written = lake.folder.path().join("warehouse/s/t/data/b.parquet");
    std::fs::create_dir_all(written.parent().unwrap()).unwrap();
    std::fs::write(&written, b"x").unwrap();
    let error = lake.catalog.commit_replace(&two, data(&lake, "b"), &QueryId::generate()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CommitConflict);
    assert!(!written.exists());
    assert_eq!(lake.load("t").await.arrow_schema.field(0).name(), "one");
    let error = lake.catalog.plan_replace(&before, &columns(&[("x", DataType::Null)])).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotSupported);
}

#[tokio::test]
async fn a_lost_answer_to_a_replacement_is_looked_up_too() {
    for happens in [true, false] {
        let lake = lake().await;
        let lossy = Lossy::new(&lake, happens).await;
        let before = lake.load("t").await;
        let replacement = lake.catalog.plan_replace(&before, &columns(&[("one", DataType::Int64)])).unwrap();
        let id = super::replace(&lossy, &replacement, data(&lake, "a"), &QueryId::generate()).await.unwrap();
        let table = lake.load("t").await;
        assert_eq!((table.snapshot_id(), table.metadata.snapshots().len()), (Some(id), 1), "happens: {happens}");
    }
}

#[tokio::test]
async fn only_the_table_that_was_made_is_dropped_again() {
    let lake = lake().await;
    let made = lake.load("t").await;
    lake.catalog.drop_table("s", "t", false).await.unwrap();
    lake.catalog.drop_created(&made).await.unwrap();
    lake.catalog.create_table(create_table("t", &[("id", DataType::Int64)], &[])).await.unwrap();
    lake.catalog.drop_created(&made).await.unwrap();
    let other = lake.load("t").await;
    lake.catalog.drop_created(&other).await.unwrap();
    assert!(lake.catalog.load("s", "t", None).await.unwrap().is_none());
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_made_once() {
    let add = || {
        let column = Arc::new(Field::new("extra", DataType::Int32, true));
        TableChange::AddColumn { path: vec!["extra".to_string()], column, position: None, if_not_exists: false }
    };
    for (happens, answer) in [
        (true, CommitOutcome::Unknown as fn(Error) -> CommitOutcome),
        (false, CommitOutcome::Unknown),
        (true, CommitOutcome::Conflict),
        (false, CommitOutcome::Conflict),
    ] {
        let lake = lake().await;
        let lossy = Lossy { answer, ..Lossy::new(&lake, happens).await };
        let table = lake.load("t").await;
        assert!(super::alter(&lossy, &table, &[add()]).await.unwrap().is_some(), "happens: {happens}");
        assert_eq!(lossy.losses.load(Ordering::SeqCst), 0, "the fault fired");
        let changed = lake.load("t").await;
        let columns = changed.iceberg_schema.as_struct().fields().len();
        assert_eq!((columns, changed.metadata.schemas_iter().len()), (3, 2));
        let again = super::alter(&lossy, &table, &[add()]).await.err().unwrap();
        assert_eq!(again.code(), ErrorCode::AlreadyExists);
    }
}

#[tokio::test]
async fn changes_by_two_at_once_are_both_made() {
    let lake = lake().await;
    let other = lake.again().await;
    let set = |key: &str| vec![TableChange::SetProperties(vec![(key.to_string(), "1".to_string())])];
    let (a, b) = (set("a"), set("b"));
    let (one, two) = tokio::join!(lake.catalog.alter_table("s", "t", &a), other.alter_table("s", "t", &b));
    assert_eq!((one.unwrap(), two.unwrap()), (Some(true), Some(true)));
    let properties = lake.load("t").await.metadata.properties().clone();
    assert!(properties.contains_key("a") && properties.contains_key("b"), "{properties:?}");
}
