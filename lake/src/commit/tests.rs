//! Appends against a real SQLite catalog: concurrent, repeated, conflicting, lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::DataType;
use async_trait::async_trait;
use iceberg::spec::Struct;
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, QueryId, Result};

use crate::catalog::sql::SqlCatalog;
use crate::catalog::{Catalog, CommitOutcome, NewTable, TableHead, TableName};
use crate::testing::{Lake, create_table, file};
use crate::{TableVersion, WrittenFile, plan_files};

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
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
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

/// A catalog that loses the answer of the first commits, after or before they happened.
struct Lossy {
    sql: SqlCatalog,
    happens: bool,
    losses: AtomicUsize,
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
        self.sql.load(name).await
    }
    async fn create_table(&self, name: &TableName, table: NewTable) -> Result<TableHead> {
        self.sql.create_table(name, table).await
    }
    async fn drop_table(&self, name: &TableName) -> Result<bool> {
        self.sql.drop_table(name).await
    }
    async fn commit(
        &self,
        name: &TableName,
        base: &TableHead,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> CommitOutcome {
        let lost = || CommitOutcome::Unknown(Error::new(ErrorCode::SourceUnavailable, "lost").retryable());
        if self.losses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err() {
            return self.sql.commit(name, base, requirements, updates).await;
        }
        if self.happens {
            assert!(matches!(self.sql.commit(name, base, requirements, updates).await, CommitOutcome::Committed));
        }
        lost()
    }
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_and_the_commit_is_there_once() {
    for happens in [true, false] {
        let lake = lake().await;
        let (sql, _) = lake.sql().await;
        let lossy = Lossy { sql, happens, losses: AtomicUsize::new(1) };
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
