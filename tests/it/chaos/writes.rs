//! Writes: in parallel, committed once, or not at all.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use townlake_common::ErrorCode;
use townlake_tests::bed::{BedSpec, TestBed, poll};

/// The newest metadata of a table in the schema `chaos`, as it lies in the warehouse.
fn metadata(bed: &TestBed, table: &str) -> Value {
    let folder = bed.folder().join("warehouse/chaos").join(table).join("metadata");
    let files = std::fs::read_dir(folder).expect("the table's metadata").flatten().map(|entry| entry.path());
    let mut versions: Vec<_> = files.filter(|path| path.to_string_lossy().ends_with(".metadata.json")).collect();
    versions.sort();
    let newest = std::fs::read(versions.last().expect("a version")).expect("read metadata");
    serde_json::from_slice(&newest).expect("metadata is JSON")
}

fn data_files(bed: &TestBed, table: &str) -> usize {
    count_files(&bed.folder().join("warehouse/chaos").join(table).join("data"))
}

fn count_files(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, |entries| entries.flatten().count())
}

/// What the last snapshot added.
fn added_files(metadata: &Value) -> u64 {
    let snapshots = metadata["snapshots"].as_array().expect("snapshots");
    let last = snapshots.last().expect("a snapshot");
    last["summary"]["added-data-files"].as_str().expect("a count").parse().expect("a number")
}

/// A write whose last stage ran on at least two executors that wrote; the files that they wrote.
async fn written_by_several(bed: &TestBed, sql: &str) -> u64 {
    let asked = bed.ask(sql).await;
    let id = asked.id.clone();
    asked.answer(super::ANSWER).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let tasks = bed.tasks(&id).await;
    let last = tasks.iter().map(|task| task.stage).max().expect("the write ran on the cluster");
    // A task of the write gives one row for each file.
    let writers: Vec<_> = tasks.iter().filter(|task| task.stage == last && task.rows > 0).collect();
    let executors: HashSet<_> = writers.iter().map(|task| &task.executor).collect();
    assert!(executors.len() >= 2, "{tasks:#?}");
    writers.iter().map(|task| task.rows).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_made_by_several_executors_and_committed_once() {
    let Some(bed) = TestBed::start("parallel_writes", BedSpec::default()).await else { return };
    let expected = bed.rows("SELECT count(*), sum(l_orderkey) FROM lake.chaos.items").await;

    let files = written_by_several(&bed, "CREATE TABLE lake.chaos.copy AS SELECT * FROM lake.chaos.items").await;
    let created = metadata(&bed, "copy");
    assert_eq!(created["snapshots"].as_array().map(Vec::len), Some(1), "one commit");
    assert_eq!(added_files(&created), files);
    assert_eq!(data_files(&bed, "copy") as u64, files);
    assert_eq!(bed.rows("SELECT count(*), sum(l_orderkey) FROM lake.chaos.copy").await, expected);

    let more = written_by_several(&bed, "INSERT INTO lake.chaos.copy SELECT * FROM lake.chaos.items").await;
    let appended = metadata(&bed, "copy");
    assert_eq!(appended["snapshots"].as_array().map(Vec::len), Some(2), "one commit more");
    assert_eq!(added_files(&appended), more);
    let twice = bed.rows("SELECT count(*) / 2, sum(l_orderkey) / 2 FROM lake.chaos.copy").await;
    assert_eq!(twice, expected);
    bed.finish(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_leaves_nothing() {
    let Some(bed) = TestBed::start("failed_writes", BedSpec::default()).await else { return };
    // One row, of order 32001, cannot be computed.
    let broken = "SELECT l_orderkey, 1 / (l_orderkey - 32001) AS quotient FROM lake.chaos.items";
    assert_ne!(bed.rows("SELECT count(*) FROM lake.chaos.items WHERE l_orderkey = 32001").await[0][0], "0");
    let error = bed.connection.run(&format!("CREATE TABLE lake.chaos.broken AS {broken}")).await.expect_err("division");
    assert_eq!(error.code(), ErrorCode::ArithmeticError, "{error:?}");
    poll("the table is gone", Duration::from_secs(5), async || {
        let error = bed.try_rows("SELECT * FROM lake.chaos.broken").await.err()?;
        (error.code() == ErrorCode::TableNotFound).then_some(())
    })
    .await;

    bed.run("CREATE TABLE lake.chaos.kept (l_orderkey BIGINT, quotient BIGINT)").await;
    bed.run("INSERT INTO lake.chaos.kept VALUES (1, 1)").await;
    let before = metadata(&bed, "kept");
    let error = bed.connection.run(&format!("INSERT INTO lake.chaos.kept {broken}")).await.expect_err("division");
    assert_eq!(error.code(), ErrorCode::ArithmeticError, "{error:?}");
    assert_eq!(bed.rows("SELECT * FROM lake.chaos.kept").await, [["1", "1"]]);
    assert_eq!(metadata(&bed, "kept"), before, "nothing was committed");
    // Some tasks had written their files and told of them before another failed.
    poll("only the file of the table is left", Duration::from_secs(30), async || {
        (data_files(&bed, "kept") == 1 && data_files(&bed, "broken") == 0).then_some(())
    })
    .await;
    bed.run("INSERT INTO lake.chaos.kept VALUES (2, 2)").await;
    assert_eq!(bed.rows("SELECT count(*) FROM lake.chaos.kept").await, [["2"]]);
    bed.finish(&[]);
}
