//! Nothing runs in a source for a query that is over: cancelled, at its LIMIT, or whose client stopped reading.

use std::time::{Duration, Instant};

use townlake_common::ErrorCode;
use townlake_tests::line::Mode;

use super::scene::{ALL, BigQuery, InClickHouse, InKafka, InPostgres, Kind, Sources, ask, rows};
use crate::bigquery::mock_google::Step;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancelled_query_leaves_nothing_running_in_any_source() {
    let Some(sources) = Sources::start("cancelled").await else { return };
    let town = sources.town().await;
    let (ann, other) = (town.connect("ann", "a password").await, town.connect("ann", "a password").await);
    for kind in ALL {
        for kill in [false, true] {
            sources.bigquery_reads_all();
            sources.until_quiet(kind).await;
            sources.stop_in_the_middle(kind, Mode::Silent);
            let (id, reading) = ask(&ann, &kind.read_all().0).await;
            sources.until_in_the_middle(kind).await;
            sources.until_running(kind).await;
            if kill {
                other.run(&format!("CALL system.runtime.kill_query('{id}')")).await.unwrap();
                let error = reading.await.unwrap().expect_err("it is cancelled");
                assert_eq!(error.code(), ErrorCode::Cancelled, "{error:?}");
            } else {
                reading.abort();
            }
            sources.until_gone(kind, if kill { "kill_query" } else { "the client went away" }).await;
            sources.line(kind).set(Mode::Open);
        }
        // And the next query has all that it needs.
        sources.bigquery_reads_all();
        let (sql, answer) = kind.read_all();
        assert_eq!(rows(&ann, &sql).await.unwrap(), [answer], "{kind:?}");
    }
    town.stop().await;
}

/// A table without an end (Kafka: all of a topic; a range of offsets has an end).
fn endless(kind: Kind) -> &'static str {
    match kind {
        InPostgres => "TABLE(pg.system.query('SELECT generate_series(1, 1000000000000) AS id')) AS q",
        InClickHouse => "TABLE(ch.system.query('SELECT number AS id FROM system.numbers')) AS q",
        InKafka | BigQuery => kind.table(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_limit_stops_an_endless_answer() {
    let Some(sources) = Sources::start("endless_limit").await else { return };
    let town = sources.town().await;
    let ann = town.connect("ann", "a password").await;
    let endless_stream = || sources.bigquery_answers((0..50).map(|_| vec![Step::Endless]));
    for kind in ALL {
        // With a filter that stays here, too: then the source knows of no limit.
        for filter in ["", " WHERE sin({key}) < 2"] {
            endless_stream();
            let filter = filter.replace("{key}", kind.key());
            let before = sources.line(kind).bytes();
            let sql = format!("SELECT {} FROM {}{filter} LIMIT 10", kind.key(), endless(kind));
            let since = Instant::now();
            assert_eq!(rows(&ann, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).len(), 10, "{sql}");
            assert!(since.elapsed() < Duration::from_secs(10), "{sql} took {:?}", since.elapsed());
            sources.until_gone(kind, "the limit was reached").await;
            let moved = sources.line(kind).bytes() - before;
            eprintln!("  {kind:?}{filter}: {moved} bytes");
            assert!(moved < 16 << 20, "{sql} moved {moved} bytes");
        }
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_stops_reading_an_endless_answer_holds_no_memory_and_stops_the_source() {
    let Some(sources) = Sources::start("endless_client").await else { return };
    let town = sources.town().await;
    let ann = town.connect("ann", "a password").await;
    for (kind, table) in [(InPostgres, "pg.public.endless"), (InClickHouse, "ch.big.endless"), (BigQuery, "bq.d.t")] {
        sources.bigquery_answers((0..50).map(|_| vec![Step::Endless]));
        let before = resident();
        let (_, reading) = ask(&ann, &format!("SELECT * FROM {table}")).await;
        sources.until_running(kind).await;
        let began = sources.line(kind).bytes();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (grown, moved) = (resident().saturating_sub(before), sources.line(kind).bytes() - began);
        eprintln!("  {kind:?}: {} MiB came, memory grew by {} MiB", moved >> 20, grown >> 20);
        assert!(moved > 8 << 20, "{kind:?} sent only {moved} bytes");
        assert!(grown < 300 << 20, "{kind:?}: memory grew by {} MiB", grown >> 20);
        assert!(!reading.is_finished(), "{kind:?}: an endless answer has ended");
        reading.abort();
        sources.until_gone(kind, "the client stopped reading").await;
        let stopped = sources.line(kind).bytes();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(sources.line(kind).bytes(), stopped, "{kind:?} still sends");
    }
    // What it had written on its way to the client is gone, too.
    let since = Instant::now();
    while written(town.folder()) > 0 {
        assert!(since.elapsed() < Duration::from_secs(10), "{} bytes lie on executors", written(town.folder()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    town.stop().await;
}

/// The memory of this process, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() << 10
}

/// Bytes of exchange files in the folders of executors.
fn written(folder: &std::path::Path) -> u64 {
    fn size(folder: &std::path::Path) -> u64 {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| match entry.metadata() {
                Ok(data) if data.is_dir() => size(&entry.path()),
                Ok(data) => data.len(),
                Err(_) => 0,
            })
            .sum()
    }
    (1..=2).map(|number| size(&folder.join(format!("executor-{number}/shuffle")))).sum()
}
