//! Looking after real tables: what goes, what stays, and what is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::prelude::SessionContext;
use iceberg::spec::MAIN_BRANCH;
use townlake_common::{ErrorCode, QueryId};

use super::{Deleted, Expiration, OrphanSearch};
use crate::testing::Lake;
use crate::{BranchMove, CreateTable, Delta, LoadedTable, PartitionField, SnapshotChoice, TableChange, plan_files};

const ALL: &str = "SELECT id FROM t ORDER BY id";
const DAY: u64 = 24 * 60 * 60;

fn rows(ids: &[i64]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
    RecordBatch::try_from_iter([("id", ids)]).unwrap()
}

async fn three_inserts() -> (Lake, SessionContext) {
    let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
    let context = lake.context();
    for id in 1..=3 {
        lake.insert(&context, "t", rows(&[id])).await;
    }
    (lake, context)
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Everything but the last snapshot.
fn expiration() -> Expiration {
    Expiration { now_ms: now_ms(), older_than_ms: Some(now_ms() + 1000), retain_last: None, pinned: BTreeSet::new() }
}

fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { assert!(files.insert(path)) }
        }
    }
    files
}

fn folder(lake: &Lake) -> PathBuf {
    lake.folder.path().join("warehouse/s/t")
}

/// Takes all files away that have a row of `id`, as a statement would.
async fn delete_files(lake: &Lake, number: usize) {
    let table = lake.load("t").await;
    let plan = plan_files(&table, &[]).await.unwrap();
    let gone = vec![plan.files[number].clone()];
    let delta = Delta::replacing(&plan, gone, Vec::new());
    lake.catalog.commit_delta(&table, &delta, &QueryId::generate()).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_only_old_snapshots_lead_to_is_deleted() {
    let (lake, context) = three_inserts().await;
    delete_files(&lake, 0).await;
    let before = files_below(&folder(&lake));
    let table = lake.load("t").await;
    let expiry = lake.catalog.expire_snapshots(&table, expiration(), BTreeSet::new).await.unwrap();
    assert_eq!((expiry.snapshots, expiry.references), (3, 0));
    // One data file was replaced by nothing; its manifest, and the lists of three snapshots.
    let expected = Deleted { data_files: 1, manifests: 1, manifest_lists: 3, ..Deleted::default() };
    assert_eq!(expiry.files, expected);
    let after = files_below(&folder(&lake));
    // One file of metadata came.
    assert_eq!(before.difference(&after).count(), 5);
    assert_eq!(lake.rows(&context, "t", "SELECT count(*) FROM t").await, [["2"]]);
    assert_eq!(lake.rows(&context, "t", ALL).await.len(), 2);
    let table = lake.load("t").await;
    let again = lake.catalog.expire_snapshots(&table, expiration(), BTreeSet::new).await.unwrap();
    assert_eq!((again.snapshots, again.files), (0, Deleted::default()));
}

#[tokio::test]
async fn what_running_queries_read_stays_also_of_those_that_came_meanwhile() {
    let (lake, _) = three_inserts().await;
    delete_files(&lake, 0).await;
    let table = lake.load("t").await;
    let second = table.metadata.snapshots().find(|s| s.sequence_number() == 2).unwrap().snapshot_id();
    // The first time nobody is asked for it: the query comes after the plan was made.
    let asked = std::sync::atomic::AtomicBool::new(false);
    let pinned = || match asked.swap(true, std::sync::atomic::Ordering::SeqCst) {
        false => BTreeSet::new(),
        true => BTreeSet::from([second]),
    };
    let expiry = lake.catalog.expire_snapshots(&table, expiration(), pinned).await.unwrap();
    assert_eq!((expiry.snapshots, expiry.files.data_files, expiry.files.manifest_lists), (3, 0, 2));
    let old = LoadedTable { snapshot: table.metadata.snapshot_by_id(second).cloned(), ..table.as_ref().clone() };
    assert_eq!(plan_files(&old, &[]).await.unwrap().files.len(), 2);
}

#[tokio::test]
async fn files_outside_of_the_table_are_left() {
    let (lake, context) = three_inserts().await;
    let outside = format!("file://{}/warehouse/elsewhere/f.parquet", lake.folder.path().display());
    let path = PathBuf::from(outside.strip_prefix("file://").unwrap());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, b"another table's").unwrap();
    let mut foreign = crate::testing::file(&lake.location("t"), "x", iceberg::spec::Struct::empty(), |f| {
        f.file_path(outside.clone());
    });
    foreign.rows = 10;
    lake.append("t", vec![foreign]).await;
    let number = plan_files(&*lake.load("t").await, &[]).await.unwrap().files.iter().position(|f| f.path == outside);
    delete_files(&lake, number.unwrap()).await;
    let table = lake.load("t").await;
    let expiry = lake.catalog.expire_snapshots(&table, expiration(), BTreeSet::new).await.unwrap();
    assert_eq!((expiry.files.data_files, expiry.files.left), (0, 1));
    assert!(path.exists());
    assert_eq!(lake.rows(&context, "t", ALL).await.len(), 3);
}

#[tokio::test]
async fn a_file_that_a_snapshot_names_in_another_spelling_stays() {
    let (lake, context) = three_inserts().await;
    let old = plan_files(&*lake.load("t").await, &[]).await.unwrap().files[0].clone();
    delete_files(&lake, 0).await;
    // Another engine adds the same file again, by the name that it has for it.
    let other = old.path.replace("file://", "file:");
    let again = crate::testing::file(&lake.location("t"), "x", iceberg::spec::Struct::empty(), |f| {
        f.file_path(other.clone()).file_size_in_bytes(old.size).record_count(old.record_count);
    });
    lake.append("t", vec![again]).await;
    let table = lake.load("t").await;
    let expiry = lake.catalog.expire_snapshots(&table, expiration(), BTreeSet::new).await.unwrap();
    assert!(expiry.snapshots > 0 && expiry.files.data_files == 0, "{:?}", expiry.files);
    assert_eq!(lake.rows(&context, "t", ALL).await, [["1"], ["2"], ["3"]]);
}

fn age(path: &Path, seconds: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn put(lake: &Lake, name: &str, seconds: u64) -> PathBuf {
    let path = folder(lake).join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, b"x").unwrap();
    age(&path, seconds);
    path
}

fn search(age: u64) -> OrphanSearch {
    OrphanSearch { now_ms: now_ms(), older_than_ms: Some(now_ms() - i64::try_from(age * 1000).unwrap()) }
}

#[tokio::test]
async fn orphans_are_old_and_nobody_leads_to_them() {
    let (lake, context) = three_inserts().await;
    for path in files_below(&folder(&lake)) {
        age(&path, 30 * DAY);
    }
    let known = files_below(&folder(&lake));
    let old = put(&lake, "data/p=1/old.parquet", 5 * DAY);
    let list = put(&lake, "metadata/snap-1.avro", 5 * DAY);
    let young = put(&lake, "data/young.parquet", 2 * DAY);
    let hidden = put(&lake, "data/_temporary/part", 5 * DAY);
    let table = lake.load("t").await;
    let default = OrphanSearch { now_ms: now_ms(), older_than_ms: None };
    let found = lake.catalog.remove_orphan_files(&table, default, true).await.unwrap();
    let uri = |path: &Path| format!("file://{}", path.display());
    assert_eq!(found.iter().map(|file| file.uri.clone()).collect::<Vec<_>>(), [uri(&old), uri(&list)]);
    assert!(old.exists() && found[0].size == 1, "only looked for");
    let gone = lake.catalog.remove_orphan_files(&table, search(DAY), false).await.unwrap();
    assert_eq!(gone.len(), 3);
    assert!(!old.exists() && !list.exists() && !young.exists() && hidden.exists());
    assert!(known.iter().all(|path| path.exists()));
    assert_eq!(lake.rows(&context, "t", ALL).await.len(), 3);
    let younger = lake.catalog.remove_orphan_files(&table, search(DAY - 60), true).await.unwrap_err();
    assert_eq!(younger.code(), ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn the_folder_of_a_renamed_table_is_not_cleaned_by_the_next_one_of_its_name() {
    let (lake, context) = three_inserts().await;
    assert!(lake.catalog.rename_table(("s", "t"), ("s", "u")).await.unwrap());
    lake.catalog.create_table(crate::testing::create_table("t", &[("id", DataType::Int64)], &[])).await.unwrap();
    for path in files_below(&folder(&lake)) {
        age(&path, 30 * DAY);
    }
    let table = lake.load("t").await;
    assert_eq!(table.metadata.location(), lake.load("u").await.metadata.location(), "what this test is about");
    let refused = lake.catalog.remove_orphan_files(&table, search(5 * DAY), false).await.unwrap_err();
    assert!(refused.code() == ErrorCode::NotSupported && refused.message().contains("lake.s.u"), "{refused}");
    assert_eq!(lake.rows(&context, "u", ALL).await.len(), 3);
    // Once the other one is dropped its files are nobody's.
    lake.catalog.drop_table("s", "u", false).await.unwrap();
    let gone = lake.catalog.remove_orphan_files(&table, search(5 * DAY), false).await.unwrap();
    assert_eq!(gone.iter().filter(|file| file.uri.ends_with(".parquet")).count(), 3);
}

#[tokio::test]
async fn what_another_table_writes_into_the_folder_stays() {
    let (lake, context) = three_inserts().await;
    let made = crate::testing::create_table("u", &[("id", DataType::Int64)], &[]);
    let properties = [("write.data.path".to_string(), format!("{}/data", lake.location("t")))].into();
    lake.catalog.create_table(CreateTable { properties, ..made }).await.unwrap();
    lake.insert(&context, "u", rows(&[7])).await;
    for path in files_below(&folder(&lake)) {
        age(&path, 30 * DAY);
    }
    let table = lake.load("t").await;
    let refused = lake.catalog.remove_orphan_files(&table, search(5 * DAY), false).await.unwrap_err();
    assert!(refused.code() == ErrorCode::NotSupported && refused.message().contains("lake.s.u"), "{refused}");
    assert_eq!(lake.rows(&context, "u", ALL).await, [["7"]]);
    // Nor are files taken from there into a third one.
    let below = folder(&lake).join("below");
    std::fs::create_dir(&below).unwrap();
    let file = std::fs::File::create(below.join("x.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, rows(&[1]).schema(), None).unwrap();
    writer.write(&rows(&[1])).unwrap();
    writer.close().unwrap();
    let below = format!("{}/below", lake.location("t"));
    let refused = lake.catalog.migrate("s", "v", &below, &QueryId::generate()).await.unwrap_err();
    assert!(refused.code() == ErrorCode::NotSupported && refused.message().contains("lake.s.t"), "{refused}");
    assert!(lake.catalog.load("s", "v", None).await.unwrap().is_none());
}

#[tokio::test]
async fn manifests_are_merged_and_files_keep_their_places_in_history() {
    let columns = [("id", DataType::Int64)];
    let partition = [PartitionField { column: "id".to_string(), transform: "bucket[2]".to_string() }];
    let lake = Lake::create(&columns, &partition).await;
    let context = lake.context();
    for id in 0..6 {
        lake.insert(&context, "t", rows(&[id, id + 100])).await;
    }
    delete_files(&lake, 0).await;
    let files = async |table: &LoadedTable| {
        let files = plan_files(table, &[]).await.unwrap().files;
        files.iter().map(|f| (f.path.clone(), f.data_sequence_number)).collect::<BTreeSet<_>>()
    };
    let (table, query) = (lake.load("t").await, QueryId::generate());
    let before = files(&table).await;
    let all = lake.rows(&context, "t", ALL).await;
    let list = async |table: &LoadedTable| {
        let (snapshot, version) = (table.snapshot.clone().unwrap(), table.metadata.format_version());
        let list = crate::plan::manifests::list(&table.objects, &snapshot, version).await.unwrap();
        list.iter().filter(|manifest| crate::plan::may_be_live(manifest)).count()
    };
    let (merged, snapshot) = lake.catalog.rewrite_manifests(&table, &query).await.unwrap().unwrap();
    assert!(merged >= 5 && merged == list(&table).await, "{merged}");
    let now = lake.load("t").await;
    assert_eq!(now.snapshot_id(), Some(snapshot));
    assert_eq!(list(&now).await, 1);
    assert_eq!(files(&now).await, before);
    assert_eq!(lake.rows(&context, "t", ALL).await, all);
    let summary = &now.snapshot.as_ref().unwrap().summary().additional_properties;
    assert_eq!(
        (summary["total-records"].as_str(), summary.get("added-records")),
        (all.len().to_string().as_str(), None)
    );
    assert_eq!(lake.catalog.rewrite_manifests(&now, &QueryId::generate()).await.unwrap(), None);
    // Who planned with the manifests of before finds them gone.
    let late = lake.catalog.rewrite_manifests(&table, &QueryId::generate()).await.unwrap_err();
    assert_eq!(late.code(), ErrorCode::CommitConflict);
    let metadata = folder(&lake).join("metadata");
    let left = files_below(&metadata).into_iter().filter(|f| f.to_string_lossy().ends_with("-m0.avro")).count();
    lake.catalog.expire_snapshots(&now, expiration(), BTreeSet::new).await.unwrap();
    assert_eq!(lake.rows(&context, "t", ALL).await, all);
    let manifests = files_below(&metadata).into_iter().filter(|f| f.to_string_lossy().ends_with("-m0.avro"));
    assert!(left > 1);
    assert_eq!(manifests.count(), 1, "also what the late one wrote is gone");
}

#[tokio::test]
async fn branches_move_back_and_ahead() {
    let (lake, context) = three_inserts().await;
    let table = lake.load("t").await;
    let ids: Vec<i64> = {
        let mut snapshots: Vec<_> = table.metadata.snapshots().collect();
        snapshots.sort_by_key(|snapshot| snapshot.sequence_number());
        snapshots.iter().map(|snapshot| snapshot.snapshot_id()).collect()
    };
    let to = async |to: SnapshotChoice| {
        let table = lake.load("t").await;
        lake.catalog.move_branch(&table, BranchMove { branch: MAIN_BRANCH.to_string(), to }).await
    };
    assert_eq!(to(SnapshotChoice::Past(ids[0])).await.unwrap(), (Some(ids[2]), Some(ids[0])));
    assert_eq!(lake.rows(&context, "t", ALL).await, [["1"]]);
    let refused = to(SnapshotChoice::Past(ids[2])).await.unwrap_err();
    assert!(
        refused.code() == ErrorCode::SnapshotNotFound && refused.message().contains("not in the past"),
        "{refused}"
    );
    assert_eq!(to(SnapshotChoice::Any(ids[2])).await.unwrap(), (Some(ids[0]), Some(ids[2])));
    let second = table.metadata.snapshot_by_id(ids[1]).unwrap().timestamp_ms();
    assert_eq!(to(SnapshotChoice::PastAt(second)).await.unwrap().1, Some(ids[1]));
    assert_eq!(to(SnapshotChoice::Past(ids[1])).await.unwrap(), (Some(ids[1]), Some(ids[1])), "it is so already");
    assert_eq!(to(SnapshotChoice::PastAt(1)).await.unwrap_err().code(), ErrorCode::SnapshotNotFound);
    assert_eq!(to(SnapshotChoice::Any(5)).await.unwrap_err().code(), ErrorCode::SnapshotNotFound);

    let branch = crate::CreateReference {
        name: "audit".to_string(),
        kind: crate::ReferenceKind::Branch,
        snapshot: Some(ids[2]),
        if_taken: crate::IfTaken::Refuse,
        max_age_ms: None,
        min_snapshots: None,
        max_snapshot_age_ms: None,
    };
    lake.catalog.alter_table("s", "t", &[TableChange::CreateReference(branch)]).await.unwrap();
    assert_eq!(to(SnapshotChoice::Ahead("audit".to_string())).await.unwrap(), (Some(ids[1]), Some(ids[2])));
    lake.insert(&context, "t", rows(&[4])).await;
    let apart = to(SnapshotChoice::Ahead("audit".to_string())).await.unwrap_err();
    assert!(apart.message().contains("does not continue"), "{apart}");
    assert_eq!(to(SnapshotChoice::Named("audit".to_string())).await.unwrap().1, Some(ids[2]));
    // A rollback is a change like any other: rows come on top of it.
    lake.insert(&context, "t", rows(&[5])).await;
    assert_eq!(lake.rows(&context, "t", ALL).await, [["1"], ["2"], ["3"], ["5"]]);
}

#[tokio::test]
async fn a_table_is_made_of_a_metadata_file() {
    let (lake, context) = three_inserts().await;
    let location = lake.load("t").await.metadata_location.clone();
    let registered = lake.catalog.register_table("s", "copy", &location).await.unwrap();
    assert_eq!(registered.metadata_location, location);
    assert_eq!(lake.rows(&context, "copy", ALL).await.len(), 3);
    let code = async |schema: &str, table: &str, location: &str| {
        lake.catalog.register_table(schema, table, location).await.unwrap_err().code()
    };
    assert_eq!(code("s", "t", &location).await, ErrorCode::AlreadyExists);
    assert_eq!(code("nowhere", "x", &location).await, ErrorCode::SchemaNotFound);
    assert_eq!(code("s", "x", &format!("{location}x")).await, ErrorCode::FileNotFound);
    let file = put(&lake, "data/x.json", 0);
    assert_eq!(code("s", "x", &format!("file://{}", file.display())).await, ErrorCode::DataCorrupt);
    assert_eq!(code("s", "x", "file:///etc/passwd").await, ErrorCode::PermissionDenied);
}
