//! Sources that are down: before a query, between two, in the middle of a scan; and sources that are slow.

use std::time::{Duration, Instant};

use townlake_common::ErrorCode;
use townlake_tests::line::Mode;

use super::scene::{ALL, BigQuery, InClickHouse, InKafka, InPostgres, Kind, Sources, rows, tells_no_secret};

/// The longest that an error may take.
const TOLD: Duration = Duration::from_secs(45);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_source_that_is_down_is_named_between_queries_and_in_mid_scan() {
    let Some(sources) = Sources::start("down").await else { return };
    let town = sources.town().await;
    let ann = town.connect("ann", "a password").await;
    for kind in ALL {
        let (sql, answer) = kind.read_all();
        let line = sources.line(kind);
        sources.bigquery_reads_all();
        // Down before the first query of all.
        line.set(Mode::Cut);
        down(&sources, kind, rows(&ann, &sql).await);
        line.set(Mode::Open);
        assert_eq!(rows(&ann, &sql).await.unwrap(), [answer.as_str()], "{kind:?}");
        // Gone since: connections that were kept are dead.
        line.set(Mode::Cut);
        down(&sources, kind, rows(&ann, &sql).await);
        line.set(Mode::Open);
        assert_eq!(rows(&ann, &sql).await.unwrap(), [answer.as_str()], "{kind:?}");

        // In mid-scan, for good.
        sources.bigquery_reads_all();
        sources.stop_in_the_middle(kind, Mode::Cut);
        let since = Instant::now();
        down(&sources, kind, rows(&ann, &sql).await);
        assert_eq!(line.mode(), Mode::Cut, "{kind:?} went down in mid-scan");
        assert!(since.elapsed() < TOLD, "{kind:?}: told after {:?}", since.elapsed());
        line.set(Mode::Open);
        sources.until_gone(kind, "it went down in mid-scan").await;

        // In mid-scan, for a moment: all rows or an error, and never fewer rows.
        sources.bigquery_reads_all();
        sources.stop_in_the_middle(kind, Mode::Cut);
        let (found, ()) = tokio::join!(rows(&ann, &sql), async {
            sources.until_in_the_middle(kind).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            line.set(Mode::Open);
        });
        match found {
            Ok(found) => assert_eq!(found, [answer.as_str()], "{kind:?}"),
            Err(error) => assert!(error.is_retryable() && kind != InKafka, "{kind:?}: {error:?}"),
        }
        sources.until_gone(kind, "it was away for a moment").await;
    }
    town.stop().await;
}

fn down(sources: &Sources, kind: Kind, found: townlake_common::Result<Vec<String>>) {
    let error = found.expect_err("the source is down");
    assert_eq!(error.code(), ErrorCode::SourceUnavailable, "{kind:?}: {error:?}");
    let named = format!("catalog {}", kind.catalog());
    assert!(error.message().contains(&named) && error.message().contains(&sources.host(kind)), "{kind:?}: {error:?}");
    assert!(error.is_retryable(), "{error:?}");
    tells_no_secret(&error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_source_ends_in_an_error_that_names_the_setting() {
    let Some(sources) = Sources::start("slow").await else { return };
    let town = sources.town().await;
    let ann = town.connect("ann", "a password").await;
    // It stops in mid-scan. Postgres and ClickHouse may take as long as the query: it ends by its own limit.
    for (kind, code, setting) in [
        (InPostgres, ErrorCode::Timeout, "query_timeout"),
        (InClickHouse, ErrorCode::Timeout, "query_timeout"),
        // No answer, and none to whoever connects anew.
        (InKafka, ErrorCode::SourceUnavailable, "_timeout` in [catalogs.bus]"),
        (BigQuery, ErrorCode::SourceUnavailable, "`read_timeout` in [catalogs.bq]"),
    ] {
        let limit = if code == ErrorCode::Timeout { "3s" } else { "0s" };
        ann.run(&format!("SET SESSION query_timeout = '{limit}'")).await.unwrap();
        sources.bigquery_reads_all();
        sources.stop_in_the_middle(kind, Mode::Silent);
        let since = Instant::now();
        let error = rows(&ann, &kind.read_all().0).await.expect_err("it is slow");
        assert_eq!(error.code(), code, "{kind:?}: {error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains(setting)), "{kind:?}: {error:?}");
        assert!(since.elapsed() < TOLD, "{kind:?}: told after {:?}", since.elapsed());
        eprintln!("  {kind:?}: told after {:.1} s", since.elapsed().as_secs_f64());
        sources.until_gone(kind, "it was too slow").await;
        sources.line(kind).set(Mode::Open);
    }
    ann.run("SET SESSION query_timeout = '0s'").await.unwrap();
    // It takes connections and says nothing.
    let fresh = sources.town().await;
    let ann = fresh.connect("ann", "a password").await;
    for kind in [InPostgres, InKafka] {
        sources.line(kind).set(Mode::Silent);
        let error = rows(&ann, &kind.read_all().0).await.expect_err("it does not answer");
        assert_eq!(error.code(), ErrorCode::SourceUnavailable, "{kind:?}: {error:?}");
        let setting = format!("`connect_timeout` in [catalogs.{}]", kind.catalog());
        assert!(error.hint().is_some_and(|hint| hint.contains(&setting)), "{kind:?}: {error:?}");
        sources.line(kind).set(Mode::Open);
    }
    fresh.stop().await;
    town.stop().await;
}
