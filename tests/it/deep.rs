//! Deep expressions on the executors: they run, or are refused before anything is launched, and the cluster lives.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use townlake_cli::connection::Connection;
use townlake_common::{ErrorCode, Result};
use townlake_engine::runtime::THREAD_STACK_BYTES;
use townlake_tests::town::TownSpec;

#[test]
fn deep_expressions_run_on_executors_or_are_refused() {
    // The doors are in this process: on threads like those of the real ones.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().thread_stack_size(THREAD_STACK_BYTES).build().expect("a runtime");
    runtime.block_on(async { tokio::spawn(deep_expressions()).await.expect("the test") });
}

async fn deep_expressions() {
    let spec = TownSpec::default().executors(1).user("ann", "a password", &[]).lake("lake", &[], &["ann"]);
    let town = spec.start().await;
    let ann = town.connect("ann", "a password").await;
    for sql in [
        "CREATE SCHEMA lake.s",
        "USE lake.s",
        "CREATE TABLE t AS SELECT value AS id FROM generate_series(1, 10000)",
        "SET SESSION execution = 'cluster'",
    ] {
        ann.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let chain = |count: usize, operator: &str, term: &dyn Fn(usize) -> String| {
        (0..count).map(term).collect::<Vec<_>>().join(operator)
    };
    let any = chain(1_500, " OR ", &|i| format!("id = {i}"));
    let all = chain(1_500, " AND ", &|i| format!("id <> {}", i + 3));
    let sum = chain(800, " + ", &|_| "id".to_string());
    for (sql, value) in [
        (format!("SELECT count(*) FROM t WHERE {any}"), 1_499),
        (format!("SELECT count(*) FROM t WHERE {all}"), 8_500),
        (format!("SELECT max({sum}) FROM t"), 8_000_000),
        (format!("SELECT max(id{}) FROM t", " + id - id".repeat(10)), 10_000),
        (format!("SELECT max({}id{}) FROM t", "abs(".repeat(25), ")".repeat(25)), 10_000),
    ] {
        let shown = &sql[sql.len() - 60..];
        assert_eq!(number(&ann, &sql).await.unwrap_or_else(|error| panic!("…{shown}: {error:?}")), value, "…{shown}");
    }
    for sql in [
        format!("SELECT max(id{}) FROM t", " + id - id".repeat(60)),
        format!("SELECT count(*) FROM t WHERE {}", chain(3_000, " OR ", &|i| format!("id = {i}"))),
        format!("SELECT max({}id{}) FROM t", "abs(".repeat(60), ")".repeat(60)),
    ] {
        let error = number(&ann, &sql).await.expect_err("too deep");
        assert_eq!(error.code(), ErrorCode::NotSupported, "{error:?}");
    }
    // What executors do not take runs here.
    ann.run("SET SESSION execution = 'auto'").await.expect("SET");
    let mixed = format!("SELECT max(id{}) FROM t", " + id - id".repeat(60));
    assert_eq!(number(&ann, &mixed).await.expect("it runs in the coordinator"), 10_000);
    town.stop().await;
}

async fn number(connection: &Connection, sql: &str) -> Result<i64> {
    let (_, batches) = connection.collect(sql).await?;
    Ok(batches[0].column(0).as_primitive::<Int64Type>().value(0))
}
