//! Streams that end before their end: none of their rows is ever there.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use futures::StreamExt;
use townlake_cli::args::{ConnectArgs, LoadMode};
use townlake_cli::connection::{Connection, Rows};
use townlake_common::{Error, ErrorCode, Result};
use townlake_tests::bed::poll;

use super::{Host, PASSWORD, USER};

const TARGET: [&str; 3] = ["lake", "web", "t"];

/// Times that a stream is cut: what is looked for is a race.
const CUTS: usize = 20;

pub(super) fn batch(rows: i64) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(0..rows))]).expect("a batch")
}

pub(super) fn stream(batches: Vec<Result<RecordBatch>>) -> Rows {
    Rows { schema: batch(0).schema(), batches: futures::stream::iter(batches).boxed() }
}

/// A batch, and then nothing, not even an end.
fn endless() -> Rows {
    let first = futures::stream::iter([Ok(batch(1_000))]);
    Rows { schema: batch(0).schema(), batches: first.chain(futures::stream::pending()).boxed() }
}

/// Waits until `count` ingests have begun to write.
async fn begun(host: &Host, count: usize) {
    let sql = "SELECT count(*) FROM system.runtime.queries WHERE sql LIKE '-- bulk ingest%' AND started IS NOT NULL";
    poll("the ingest runs", Duration::from_secs(30), async || {
        let begun: usize = host.rows(sql).await[0].parse().expect("a count");
        (begun >= count).then_some(())
    })
    .await;
}

async fn table(host: &Host) {
    host.run("CREATE TABLE lake.web.t (id BIGINT)").await;
    host.run("INSERT INTO lake.web.t VALUES (-1)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_a_source_comes_out_and_no_row_goes_in() {
    let host = Host::start().await;
    table(&host).await;
    for mode in [LoadMode::Append, LoadMode::Replace] {
        for before in [0, 1, 40] {
            let mut batches: Vec<_> = (0..before).map(|_| Ok(batch(1_000))).collect();
            batches.push(Err(Error::new(ErrorCode::DataCorrupt, "the source broke")));
            let error = host.ann.ingest(TARGET, mode, stream(batches)).await.expect_err("a source that breaks");
            assert_eq!((error.code(), error.message()), (ErrorCode::DataCorrupt, "the source broke"));
            host.settle().await;
            assert_eq!(host.rows("SELECT id FROM lake.web.t").await, ["-1"], "{mode:?} after {before} batches");
        }
    }
    assert_eq!(host.ann.ingest(TARGET, LoadMode::Append, stream(vec![Ok(batch(3))])).await.expect("a whole one"), 3);
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_taken_back_commits_nothing() {
    let host = Host::start().await;
    table(&host).await;
    for cut in 1..=CUTS {
        let connection = host.ann.clone();
        let load = tokio::spawn(async move { connection.ingest(TARGET, LoadMode::Append, endless()).await });
        begun(&host, cut).await;
        load.abort();
        host.settle().await;
        assert_eq!(host.rows("SELECT id FROM lake.web.t").await, ["-1"], "cut {cut}");
    }
    let ended = "SELECT DISTINCT state FROM system.runtime.queries WHERE sql LIKE '-- bulk ingest%'";
    assert_eq!(host.rows(ended).await, ["CANCELLED"]);
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_commits_nothing() {
    let host = Host::start().await;
    table(&host).await;
    let url = host.town.url();
    for (number, target) in [(1, TARGET), (2, ["lake", "web", "fresh"])] {
        // the runtime is all that the client has: its sockets are closed with it, in the midst of the stream
        let client =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let (user, password) = (Some(USER.to_string()), Some(PASSWORD.to_string()));
        let args = ConnectArgs { url: url.clone(), user, password, token: None };
        client.spawn(async move {
            let connection = Connection::open(&args).await.expect("sign in");
            connection.ingest(target, LoadMode::Append, endless()).await
        });
        begun(&host, number).await;
        client.shutdown_background();
        host.settle().await;
    }
    assert_eq!(host.rows("SELECT id FROM lake.web.t").await, ["-1"]);
    host.is_gone("lake.web.fresh").await;
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_load_drops_its_own_table_and_no_other() {
    let host = Host::start().await;
    let connection = host.ann.clone();
    let load = tokio::spawn(async move { connection.ingest(TARGET, LoadMode::Create, endless()).await });
    begun(&host, 1).await;
    poll("the table is there", Duration::from_secs(30), async || host.ann.run("DROP TABLE lake.web.t").await.ok())
        .await;
    table(&host).await;
    load.abort();
    host.settle().await;
    // the drop would come after the query's end: a look at a moment is not enough
    for _ in 0..20 {
        assert_eq!(host.rows("SELECT id FROM lake.web.t").await, ["-1"]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    host.town.stop().await;
}
