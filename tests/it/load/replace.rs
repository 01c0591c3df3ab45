//! Replacing a table: the old one stays until the new rows are written.

use std::sync::Arc;

use arrow::array::{ArrayRef, NullArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::StreamExt;
use townlake_cli::args::LoadMode;
use townlake_cli::connection::Rows;
use townlake_common::ErrorCode;

use super::Host;
use super::streams::{batch, stream};

const TARGET: [&str; 3] = ["lake", "web", "t"];

fn one_column(name: &str, data_type: DataType, values: ArrayRef) -> Rows {
    let schema = Arc::new(Schema::new(vec![Field::new(name, data_type, true)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![values]).expect("a batch");
    Rows { schema, batches: futures::stream::iter([Ok(batch)]).boxed() }
}

/// A moment between the commit before and the one after, by the server's clock.
async fn a_moment(host: &Host) -> String {
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let now = host.rows("SELECT CAST(now() AS TIMESTAMP)").await.remove(0);
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    now
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_that_fails_leaves_the_old_table() {
    let host = Host::start().await;
    host.run("CREATE TABLE lake.web.t (id BIGINT, name VARCHAR) PARTITIONED BY (bucket(2, id))").await;
    host.run("INSERT INTO lake.web.t VALUES (1, 'old')").await;
    let ask = "SELECT id, name FROM lake.web.t";

    let nothing: ArrayRef = Arc::new(NullArray::new(1));
    let rows = one_column("id", DataType::Null, nothing);
    let error = host.ann.ingest(TARGET, LoadMode::Replace, rows).await.expect_err("a type that Iceberg has not");
    assert_eq!(error.code(), ErrorCode::NotSupported);
    assert_eq!(host.rows(ask).await, ["1|old"]);

    let connection = host.ann.clone();
    let cut = Rows {
        schema: batch(0).schema(),
        batches: futures::stream::iter([Ok(batch(9))]).chain(futures::stream::pending()).boxed(),
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(2), async move {
        connection.ingest(TARGET, LoadMode::Replace, cut).await
    });
    assert!(waited.await.is_err(), "a stream without an end was committed");
    host.settle().await;
    assert_eq!(host.rows(ask).await, ["1|old"]);
    host.run("INSERT INTO lake.web.t VALUES (2, 'still')").await;
    assert_eq!(host.rows("SELECT count(*) FROM lake.web.t").await, ["2"], "it can be written as before");
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_has_its_own_columns_and_the_past_stays_readable() {
    let host = Host::start().await;
    host.run("CREATE TABLE lake.web.t (id BIGINT, name VARCHAR) PARTITIONED BY (truncate(2, name))").await;
    host.run("INSERT INTO lake.web.t VALUES (1, 'old'), (2, 'older')").await;
    let then = a_moment(&host).await;
    // other columns, one of them with an old name and another type
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let rows = one_column("id", DataType::Utf8, texts);
    assert_eq!(host.ann.ingest(TARGET, LoadMode::Replace, rows).await.expect("replace"), 3);
    assert_eq!(host.rows("SELECT * FROM lake.web.t ORDER BY 1").await, ["a", "b", "c"]);
    host.run("INSERT INTO lake.web.t VALUES ('d')").await;
    assert_eq!(host.rows("SELECT count(*), max(id) FROM lake.web.t WHERE id > 'a'").await, ["3|d"]);
    // and again with the same columns, and with no row at all
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["z"]));
    assert_eq!(
        host.ann.ingest(TARGET, LoadMode::Replace, one_column("id", DataType::Utf8, texts)).await.expect("replace"),
        1
    );
    assert_eq!(host.rows("SELECT * FROM lake.web.t").await, ["z"]);
    assert_eq!(host.ann.ingest(TARGET, LoadMode::Replace, stream(vec![])).await.expect("replace by nothing"), 0);
    assert!(host.rows("SELECT id + 1 FROM lake.web.t").await.is_empty());
    host.run("INSERT INTO lake.web.t VALUES (7)").await;
    assert_eq!(host.rows("SELECT id FROM lake.web.t").await, ["7"]);
    let past = format!("SELECT id, name FROM lake.web.t FOR TIMESTAMP AS OF TIMESTAMP '{then}' WHERE id > 1");
    assert_eq!(host.rows(&past).await, ["2|older"]);
    // one that is not there is made
    let fresh = ["lake", "web", "fresh"];
    assert_eq!(
        host.ann.ingest(fresh, LoadMode::Replace, stream(vec![Ok(batch(2))])).await.expect("replace nothing"),
        2
    );
    host.town.stop().await;
}
