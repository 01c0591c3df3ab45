//! What bounds a query: time and cancel also where nobody reads, memory, and values that fit.

use std::time::{Duration, Instant};

use datafusion::arrow::array::{ArrayRef, Date32Array, Float64Array, NullArray, TimestampMicrosecondArray};
use futures::StreamExt;

use super::*;
use crate::query::{QueryState, Running};

/// Long, and read a batch at a time.
const LONG: &str = "SELECT * FROM generate_series(1, 1000000000)";

/// A query of which one batch was read and no more is asked for.
async fn stalled(door: &Door, session: &Arc<Session>, sql: &str) -> Running {
    let prepared = door.service.prepare(session, sql).await.unwrap();
    let mut running = door.service.execute(session, &prepared, None, None).await.unwrap();
    running.rows.try_next().await.unwrap().unwrap();
    running
}

async fn until(what: &str, limit: Duration, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_nobody_reads_ends_when_it_is_cancelled() {
    let (door, ann) = (Door::open_with("concurrent_queries = 1").await, session("ann"));
    let mut running = stalled(&door, &ann, LONG).await;
    assert_eq!(door.service.registry().info(&running.id).unwrap().state, QueryState::Running);
    door.service.cancel(&ann.principal, &running.id).await.unwrap();
    until("the query ends", Duration::from_secs(2), || door.service.registry().running() == 0).await;
    let ended = door.service.registry().info(&running.id).unwrap();
    assert_eq!((ended.state, ended.code), (QueryState::Cancelled, Some(ErrorCode::Cancelled)));
    // Its place is free: there is one.
    let next = stalled(&door, &ann, LONG);
    drop(tokio::time::timeout(Duration::from_secs(2), next).await.unwrap());
    let error = running.rows.next().await.unwrap().unwrap_err();
    assert_eq!(from_datafusion(&error).code(), ErrorCode::Cancelled, "the reader is told when it comes back");
    assert!(running.rows.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_nobody_reads_ends_when_it_is_out_of_time() {
    let (door, ann) = (Door::open_with("concurrent_queries = 1").await, session("ann"));
    door.run(&ann, "SET SESSION query_timeout = '300ms'").await.unwrap();
    let mut running = stalled(&door, &ann, LONG).await;
    until("the query ends", Duration::from_secs(2), || door.service.registry().running() == 0).await;
    assert_eq!(door.service.registry().info(&running.id).unwrap().code, Some(ErrorCode::Timeout));
    let next = stalled(&door, &ann, LONG);
    drop(tokio::time::timeout(Duration::from_secs(2), next).await.unwrap());
    let error = running.rows.next().await.unwrap().unwrap_err();
    assert_eq!(from_datafusion(&error).code(), ErrorCode::Timeout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_wakes_a_reader_that_waits() {
    let (door, ann) = (Door::open().await, session("ann"));
    let endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000000) b";
    let prepared = door.service.prepare(&ann, endless).await.unwrap();
    let running = door.service.execute(&ann, &prepared, None, None).await.unwrap();
    let id = running.id.clone();
    let reader = tokio::spawn(running.rows.try_collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_millis(100)).await;
    door.service.cancel(&ann.principal, &id).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(2), reader).await.expect("the reader is woken").unwrap();
    assert_eq!(from_datafusion(&answer.unwrap_err()).code(), ErrorCode::Cancelled);
    assert_eq!(door.service.registry().running(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_over_its_memory_fails_alone() {
    let (door, ann) = (Door::open_with("coordinator_memory = \"64MB\"").await, session("ann"));
    let sorted = "SELECT value FROM generate_series(1, 1000000) ORDER BY value DESC";
    let mut neighbour = stalled(&door, &ann, sorted).await;
    let join = "SELECT count(*) FROM generate_series(1, 3000000) a JOIN generate_series(1, 3000000) b USING (value)";
    let error = door.error(&ann, join).await;
    assert_eq!(error.code(), ErrorCode::MemoryLimit, "{error}");
    assert!(error.hint().unwrap().contains("limits.coordinator_memory"), "{error}");
    let mut rows = 0;
    while let Some(batch) = neighbour.rows.try_next().await.unwrap() {
        rows += batch.num_rows();
    }
    assert!(rows > 900_000, "the neighbour reads on: {rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_the_clock_cannot_tell_is_none() {
    let (door, ann) = (Door::open_with("query_timeout = \"300000000000y\"").await, session("ann"));
    assert_eq!(number(&door.run(&ann, "SELECT 1").await.unwrap()), 1);
    let error = door.error(&ann, "SET SESSION query_timeout = '300000000000y'").await;
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_waits_for_executors_is_queued() {
    let (door, ann) = (Door::open_with("executor_wait = \"500ms\"").await, session("ann"));
    door.run(&ann, "CREATE SCHEMA lake.s").await.unwrap();
    door.run(&ann, "CREATE TABLE lake.s.t AS SELECT 1 AS id").await.unwrap();
    let prepared =
        door.service.prepare(&ann, "SELECT count(*) FROM lake.s.t a JOIN lake.s.t b USING (id)").await.unwrap();
    let running = door.service.execute(&ann, &prepared, None, None).await.unwrap();
    let id = running.id.clone();
    let rows = tokio::spawn(running.rows.try_collect::<Vec<_>>());
    let state = || door.service.registry().info(&id).unwrap().state;
    until("it waits", Duration::from_secs(5), || state() == QueryState::Queued).await;
    until("it fails", Duration::from_secs(5), || {
        assert_ne!(state(), QueryState::Running);
        state() == QueryState::Failed
    })
    .await;
    assert_eq!(from_datafusion(&rows.await.unwrap().unwrap_err()).code(), ErrorCode::NoExecutors);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_lose_nothing() {
    let (door, ann) = (Door::open().await, session("ann"));
    door.run(&ann, "CREATE SCHEMA lake.s").await.unwrap();
    door.run(&ann, "USE lake.s").await.unwrap();
    door.run(&ann, "CREATE TABLE t (id BIGINT, day DATE)").await.unwrap();
    door.run(&ann, "INSERT INTO t VALUES (1, DATE '1970-01-02'), (2, NULL)").await.unwrap();
    let row = |value: ArrayRef| RecordBatch::try_from_iter_with_nullable([("p", value, true)]).unwrap();
    let float = |value: f64| row(Arc::new(Float64Array::from(vec![value])));
    let moment = |micros: i64| row(Arc::new(TimestampMicrosecondArray::from(vec![micros])));
    let day = 24 * 3_600_000_000_i64;

    let by_id = "SELECT count(*) FROM t WHERE id = ?";
    assert_eq!(number(&door.run_with(&ann, by_id, Some(float(1.0))).await.unwrap()), 1);
    let error = door.run_with(&ann, by_id, Some(float(1.5))).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert!(error.message().contains("$1") && !error.message().contains("1.5"), "{error}");
    let cast = "SELECT count(*) FROM t WHERE id < CAST(? AS DOUBLE)";
    assert_eq!(number(&door.run_with(&ann, cast, Some(float(1.5))).await.unwrap()), 1, "as the hint says");

    let by_day = "SELECT count(*) FROM t WHERE day = ?";
    assert_eq!(number(&door.run_with(&ann, by_day, Some(moment(day))).await.unwrap()), 1);
    let error = door.run_with(&ann, by_day, Some(moment(day + 1))).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);

    let nulls: [ArrayRef; 2] = [Arc::new(NullArray::new(1)), Arc::new(Float64Array::from(vec![None]))];
    for null in nulls {
        assert_eq!(number(&door.run_with(&ann, by_id, Some(row(Arc::clone(&null)))).await.unwrap()), 0);
        door.run_with(&ann, "INSERT INTO t (id) VALUES (?)", Some(row(null))).await.unwrap();
    }
    let null: ArrayRef = Arc::new(Date32Array::from(vec![None]));
    door.run_with(&ann, "INSERT INTO t (day) VALUES (?)", Some(row(null))).await.unwrap();
    assert_eq!(number(&door.run(&ann, "SELECT count(*) FROM t WHERE id IS NULL AND day IS NULL").await.unwrap()), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_and_settings_can_be_typed_as_they_are_shown() {
    let (door, ann) = (Door::open().await, session("ann"));
    door.run(&ann, "CREATE SCHEMA lake.s").await.unwrap();
    door.run(&ann, "USE lake.s").await.unwrap();
    door.run(&ann, "CREATE TABLE \"Big Table\" AS SELECT 1 AS \"Id\"").await.unwrap();
    let error = door.error(&ann, "SELECT id FROM \"Big Table\"").await;
    assert_eq!((error.code(), error.hint()), (ErrorCode::ColumnNotFound, Some("did you mean \"Id\"?")));
    let error = door.error(&ann, "SELECT * FROM \"big table\"").await;
    assert_eq!(error.hint(), Some("did you mean lake.s.\"Big Table\"?"));

    door.run(&ann, "SET SESSION batch_size = 128").await.unwrap();
    let shown = door.text(&ann, "SHOW batch_size").await;
    assert!(shown.contains("| batch_size | 128 "), "{shown}");
    assert_eq!(texts(&door.run(&ann, "SHOW batch_size").await.unwrap()).len(), 1);
    let error = door.error(&ann, "SHOW batch_sise").await;
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert!(error.hint().unwrap().contains("batch_size"), "{error}");
}
