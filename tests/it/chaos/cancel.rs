//! Queries whose client goes away, and queries that are cancelled: the work stops, down to the source.

use std::time::{Duration, Instant};

use futures::StreamExt;
use townlake_common::ErrorCode;
use townlake_tests::bed::{Asked, BedSpec, TestBed, poll};

use super::{COUNTED_PAIRS, LONG_STAGE, MANY_ROWS, NO_PAIRS};

/// Within this a query whose client went away is cancelled.
const CANCELLED: Duration = Duration::from_secs(2);
/// Within this, counted from the cancel, its work has stopped on every executor.
const STOPPED: Duration = Duration::from_secs(1);

/// Pairs by the hundred million that all go on to the next operator.
const ALL_PAIRS: &str = "SELECT sum(a.l_extendedprice * b.l_extendedprice) FROM lake.chaos.items a \
    JOIN lake.chaos.items b ON a.l_suppkey % 100 = b.l_suppkey % 100";

async fn until_cancelled(bed: &TestBed, query: &str) {
    let start = Instant::now();
    poll("the query is CANCELLED", CANCELLED, async || {
        (bed.query_state(query).await == ("CANCELLED".to_string(), "CANCELLED".to_string())).then_some(())
    })
    .await;
    eprintln!("  cancelled after {:.2} s", start.elapsed().as_secs_f64());
}

/// The work has stopped; `cancel` is when it was told to.
async fn until_stopped(bed: &TestBed, query: &str, cancel: Instant) {
    let idle = bed.until_idle(Duration::from_secs(10)).await;
    let took = idle.saturating_duration_since(cancel);
    eprintln!("  executors idle after {:.2} s", took.as_secs_f64());
    assert!(took < STOPPED, "the executors worked on for {took:?}");
    until_cancelled(bed, query).await;
    let tasks = bed.tasks(query).await;
    assert!(tasks.iter().all(|task| task.state != "RUNNING"), "{tasks:#?}");
}

/// A query that keeps the executors busy.
async fn busy(bed: &TestBed, sql: &str) -> Asked {
    let asked = bed.ask(sql).await;
    bed.running_task(&asked.id, LONG_STAGE).await;
    let before = bed.executors_cpu();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let used = bed.executors_cpu() - before;
    assert!(used > Duration::from_millis(100), "the executors do nothing: {used:?}");
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_mid_stream_ends_its_query() {
    let Some(bed) = TestBed::start("mid_stream", BedSpec::default()).await else { return };
    let query = bed.connection.query(MANY_ROWS).await.expect("plan");
    let mut rows = bed.connection.rows(&query).await.expect("rows");
    rows.batches.next().await.expect("a batch").expect("rows");
    let id = query.id.clone().expect("an id");
    assert_eq!(bed.query_state(&id).await.0, "RUNNING");
    drop(rows);
    until_cancelled(&bed, &id).await;
    bed.until_no_output(Duration::from_secs(5)).await;
    bed.finish(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_query_stops_its_work() {
    let Some(bed) = TestBed::start("cancelled", BedSpec::default()).await else { return };
    for sql in [ALL_PAIRS, COUNTED_PAIRS, NO_PAIRS] {
        eprintln!("  its client goes away: {sql}");
        let asked = busy(&bed, sql).await;
        let cancel = Instant::now();
        asked.rows.abort();
        until_stopped(&bed, &asked.id, cancel).await;

        eprintln!("  kill_query");
        let asked = busy(&bed, sql).await;
        let (id, other) = (asked.id.clone(), bed.connect().await);
        let cancel = Instant::now();
        other.run(&format!("CALL system.runtime.kill_query('{id}')")).await.expect("kill it");
        let error = asked.answer(CANCELLED).await.expect_err("it is cancelled");
        assert_eq!(error.code(), ErrorCode::Cancelled, "{error:?}");
        until_stopped(&bed, &id, cancel).await;
    }

    eprintln!("  CancelFlightInfo");
    let query = bed.connection.query(COUNTED_PAIRS).await.expect("plan");
    let id = query.id.clone().expect("an id");
    let (reading, cancelling) = (bed.connection.rows(&query), async {
        bed.running_task(&id, LONG_STAGE).await;
        (Instant::now(), bed.connection.cancel(&query).await)
    });
    let (rows, (cancel, cancelled)) = tokio::join!(reading, cancelling);
    cancelled.expect("the cancel is taken");
    assert_eq!(rows.err().expect("no rows").code(), ErrorCode::Cancelled);
    until_stopped(&bed, &id, cancel).await;

    let count = bed.rows("SELECT count(*) FROM lake.chaos.items").await;
    assert_eq!(count, bed.rows("SELECT count(*) FROM lake.tpch.lineitem").await, "all slots are free again");
    // Whoever is about to fetch when the query ends finds nothing any more.
    bed.finish(&["grpc client failed to fetch partition"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_query_is_cancelled_in_postgres() {
    let spec = BedSpec { executors: 2, scale: 0.0, postgres: true, ..BedSpec::default() };
    let Some(bed) = TestBed::start("cancelled_in_postgres", spec).await else { return };
    let admin = bed.postgres.as_ref().expect("a Postgres").connect("postgres").await.expect("connect to Postgres");
    let slow = "CREATE TABLE few AS SELECT generate_series(1, 100) AS id; CREATE VIEW slow AS SELECT id, pg_sleep(0.01)::text AS nap FROM generate_series(1, 100000) AS t(id)";
    admin.batch_execute(slow).await.expect("make the view");
    let backends = async |condition: &str| -> i64 {
        let sql =
            format!("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'townlake %' AND {condition}");
        admin.query_one(&sql, &[]).await.expect("ask Postgres").get(0)
    };
    // More queries than the connection budget holds snapshots: one that has ended holds nothing.
    let start = Instant::now();
    for number in 0..12 {
        let sql = format!("SELECT count(*) FROM crm.public.few WHERE id > {number}");
        assert_eq!(bed.rows(&sql).await, [[(100 - number).to_string()]]);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    for kill in [false, true] {
        let asked = bed.ask("SELECT id, nap FROM crm.public.slow").await;
        let id = asked.id.clone();
        poll("Postgres works for the query", Duration::from_secs(10), async || {
            (backends("state = 'active' AND query LIKE '%slow%'").await > 0).then_some(())
        })
        .await;
        if kill {
            bed.run(&format!("CALL system.runtime.kill_query('{id}')")).await;
            let error = asked.answer(CANCELLED).await.expect_err("it is cancelled");
            assert_eq!(error.code(), ErrorCode::Cancelled, "{error:?}");
        } else {
            asked.rows.abort();
        }
        until_cancelled(&bed, &id).await;
        let start = Instant::now();
        poll("Postgres has no backend of the query", Duration::from_secs(3), async || {
            (backends("true").await == 0).then_some(())
        })
        .await;
        eprintln!("  Postgres is free after {:.2} s", start.elapsed().as_secs_f64());
    }
    bed.finish(&[]);
}
