//! Servers that are down, tables that are gone.

use std::time::{Duration, Instant};

use serde_json::json;
use townlake_common::ErrorCode;
use townlake_tests::bigquery::BigQuery;

use super::{Bq, collect, connections, query, session};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_down_is_named_at_each_step() {
    let Some(server) = BigQuery::start("a_server_that_goes_down") else { return };
    let server = std::sync::Arc::new(server);
    let made = std::sync::Arc::clone(&server);
    let commands = [json!({"dataset": "d"}), json!({"sql": "CREATE TABLE d.t AS SELECT CAST(1 AS INT64) AS id"})];
    tokio::task::spawn_blocking(move || made.client(&commands)).await.unwrap();
    let connections = connections(&format!("{}connect_timeout = \"1s\"", server.keys()));
    let (source, query) = (connections.source("bq").unwrap(), query());
    let session = session(&query, &connections, 2);
    session.register_table("t", source.table(&query, "d", "t").await.unwrap().unwrap()).unwrap();
    let plan = session.sql("SELECT id FROM t").await.unwrap().create_physical_plan().await.unwrap();
    let rows = datafusion::physical_plan::collect(std::sync::Arc::clone(&plan), session.task_ctx()).await.unwrap();
    assert_eq!(rows[0].num_rows(), 1);

    server.stop();
    let since = Instant::now();
    let looked_up = source.table(&query, "d", "t").await.unwrap_err();
    let planned = collect(&session, "SELECT id FROM t").await.unwrap_err();
    let read = super::typed(datafusion::physical_plan::collect(plan, session.task_ctx()).await.unwrap_err());
    for (error, port) in [(looked_up, server.rest_port()), (planned, server.grpc_port()), (read, server.grpc_port())] {
        assert_eq!(error.code(), ErrorCode::SourceUnavailable, "{error}");
        let host = format!("127.0.0.1:{port}");
        assert!(
            error.is_retryable() && error.message().contains("catalog bq") && error.message().contains(&host),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("http://"), "{error:?}");
    }
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_dropped_meanwhile_is_gone_by_name() {
    let commands = [
        json!({"sql": "CREATE TABLE DS.t AS SELECT CAST(1 AS INT64) AS id"}),
        json!({"sql": "CREATE VIEW DS.v AS SELECT id FROM DS.t"}),
    ];
    let Some(bq) = Bq::with("dropped", &commands).await else { return };
    let query = query();
    let session = bq.session(&query, 2, &["t", "v"]).await;
    let server = std::sync::Arc::clone(&bq.server);
    let drop = [json!({"sql": "DROP TABLE dropped.t"})];
    tokio::task::spawn_blocking(move || server.client(&drop)).await.unwrap();
    let error = collect(&session, "SELECT id FROM t").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TableNotFound, "{error}");
    assert!(error.message().contains("dropped.t"), "{error}");
    let error = collect(&session, "SELECT id FROM v").await.unwrap_err();
    assert!(error.message().contains("dropped.v"), "{error}");
    assert!(bq.source().table(&query, "dropped", "t").await.unwrap().is_none());
}
