//! Limits of connections: ours, where queries queue, and the server's own, which is told.

use std::time::Duration;

use tonic::Status;
use townlake_common::ErrorCode;
use townlake_tests::clickhouse::PASSWORD as CLICKHOUSE_PASSWORD;
use townlake_tests::postgres::PASSWORD;
use townlake_tests::town::TownSpec;

use super::scene::{ALL, BigQuery, Sources, rows, tells_no_secret};
use crate::bigquery::mock_google::Step;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn more_queries_than_connections_wait_their_turn() {
    let Some(sources) = Sources::start("small_budgets").await else { return };
    let catalogs = sources.catalogs().replace("breaker_failures = 0", "breaker_failures = 0\nconnections = 2");
    let town = TownSpec::default().user("ann", "a password", &[]).toml(&catalogs).start().await;
    for kind in ALL {
        let (sql, answer) = kind.read_all();
        let queries = (0..5).map(|_| async {
            let ann = town.connect("ann", "a password").await;
            rows(&ann, &sql).await
        });
        let (found, most) = tokio::join!(futures::future::join_all(queries), async {
            let mut most = 0;
            for _ in 0..50 {
                most = most.max(sources.line(kind).open());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            most
        });
        for found in found {
            assert_eq!(found.unwrap_or_else(|error| panic!("{kind:?}: {error:?}")), [answer.as_str()], "{kind:?}");
        }
        // Two executors and the coordinator, and requests to end a statement beside them.
        assert!(kind == BigQuery || (1..=12).contains(&most), "{kind:?}: {most} connections");
        eprintln!("  {kind:?}: {most} connections at most");
        sources.until_gone(kind, "all queries have ended").await;
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_servers_own_limit_is_told() {
    let Some(sources) = Sources::start("servers_limits").await else { return };
    let admin = sources.postgres.connect("postgres").await;
    let role =
        format!("CREATE ROLE single LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 1; GRANT SELECT ON big TO single");
    admin.batch_execute(&role).await.unwrap();
    let catalogs =
        sources.catalogs().replace("postgres:hunter2", "single:hunter2").replace("default:hunter2", "single:hunter2");
    let town = TownSpec::default().user("ann", "a password", &[]).toml(&catalogs).start().await;
    let ann = town.connect("ann", "a password").await;
    let full = |error: townlake_common::Error, names: &[&str]| {
        assert_eq!(error.code(), ErrorCode::SourceUnavailable, "{error:?}");
        assert!(error.is_retryable() && names.iter().all(|name| error.message().contains(name)), "{error:?}");
        tells_no_secret(&error);
    };

    let url = sources.postgres.url("postgres").replace("postgres:hunter2", "single:hunter2");
    let (holder, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let few = "SELECT id FROM pg.public.big WHERE id < 2";
    full(rows(&ann, few).await.unwrap_err(), &["catalog pg", "too many connections", "53300"]);
    drop(holder);
    tokio::time::sleep(Duration::from_millis(300)).await;
    admin.batch_execute("ALTER ROLE single CONNECTION LIMIT 20").await.unwrap();
    assert_eq!(rows(&ann, few).await.unwrap().len(), 2, "it is asked again");

    let held = reqwest::Client::new()
        .post(format!("http://127.0.0.1:{}/", sources.clickhouse.port()))
        .header("X-ClickHouse-User", "single")
        .header("X-ClickHouse-Key", CLICKHOUSE_PASSWORD)
        .body("SELECT count() FROM system.numbers WHERE NOT ignore(sleep(0.01))");
    let held = tokio::spawn(held.send());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let few = "SELECT id FROM ch.big.big WHERE id < 2";
    full(rows(&ann, few).await.unwrap_err(), &["catalog ch", "simultaneous queries", "code 202"]);
    held.abort();

    sources.bigquery.state().refusals = [Status::resource_exhausted("Concurrent read sessions")].into();
    let error = rows(&ann, &BigQuery.read_all().0).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ResourceExhausted, "{error:?}");
    assert!(error.message().contains("catalog bq") && error.message().contains("Concurrent read"), "{error:?}");
    sources.bigquery_answers([vec![Step::Below(5)]]);
    assert_eq!(rows(&ann, "SELECT id FROM bq.d.t").await.unwrap().len(), 5);
    town.stop().await;
}
