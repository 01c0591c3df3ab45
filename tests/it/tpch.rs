//! All 22 TPC-H queries, every table in Iceberg, on a coordinator and two executors, each a process of its own: value by
//! value what single-process DataFusion makes of the same Parquet files, and really spread.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use townlake_benchmarks::{Engine, SingleProcess, checksum};
use townlake_cli::args::LoadMode;
use townlake_cli::load;
use townlake_cli::tpch::{QUERIES, Table};
use townlake_tests::bed::{BedSpec, TestBed};

const SCALE: f64 = 0.05;

#[tokio::test(flavor = "multi_thread")]
async fn all_22_queries_are_right_and_spread_over_two_executors() {
    let spec = BedSpec { executors: 2, memory: "2GB", executor_wait: "10s", scale: 0.0, postgres: false };
    let Some(bed) = TestBed::start("tpch", spec).await else { return };
    load::tpch(&bed.connection, "lake", "tpch", SCALE, &Table::ALL, LoadMode::Create).await.expect("load TPC-H");
    bed.run("USE lake.tpch").await;
    bed.run("SET SESSION execution = 'cluster'").await;
    let single = SingleProcess::new(2);
    for table in Table::ALL {
        let folder = bed.folder().join("warehouse").join("tpch").join(table.name()).join("data");
        single.register(table.name(), &folder).await.expect("register the same files");
    }

    let mut wrong = Vec::new();
    let mut ids = BTreeMap::new();
    for (number, sql) in (1..).zip(QUERIES) {
        let query = bed.connection.query(sql).await.unwrap_or_else(|error| panic!("q{number}: {error:?}"));
        ids.insert(number, query.id.clone().expect("the server names the query"));
        let ours = read(&bed, &query).await.unwrap_or_else(|error| panic!("q{number}: {error:?}"));
        let theirs = single.run(sql).await.unwrap_or_else(|error| panic!("q{number}: {error:?}"));
        let rows = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        assert!(rows(&theirs) > 0, "q{number} says nothing: it proves nothing");
        if rows(&ours) != rows(&theirs) || checksum(&ours) != checksum(&theirs) {
            wrong.push(format!("q{number}: {} rows, expected {}", rows(&ours), rows(&theirs)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let mut spread = 0;
    for (number, id) in &ids {
        let tasks = bed.tasks(id).await;
        let stages: BTreeSet<_> = tasks.iter().map(|task| task.stage).collect();
        let executors: BTreeSet<_> = tasks.iter().map(|task| task.executor.clone()).collect();
        assert!(tasks.iter().all(|task| task.attempt == 1), "q{number}: a task was tried again: {tasks:?}");
        // Every query of TPC-H has an exchange.
        assert!(stages.len() >= 2, "q{number} ran in {} stages: {tasks:?}", stages.len());
        // A stage of two tasks on two idle executors goes to both.
        let wide = stages.iter().any(|stage| tasks.iter().filter(|task| task.stage == *stage).count() >= 2);
        assert!(!wide || executors.len() == 2, "q{number} ran on {executors:?}: {tasks:?}");
        spread += usize::from(executors.len() == 2);
    }
    assert!(spread >= 20, "only {spread} of 22 queries ran on both executors");
    bed.finish(&[]);
}

async fn read(bed: &TestBed, query: &townlake_cli::connection::Query) -> townlake_common::Result<Vec<RecordBatch>> {
    use futures::TryStreamExt;
    bed.connection.rows(query).await?.batches.try_collect().await
}
