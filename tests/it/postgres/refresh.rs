//! What is remembered of a source, and forgotten by `CALL <catalog>.system.refresh()`; the breaker in front of one that is down.

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use townlake_cli::connection::Connection;
use townlake_common::{Error, ErrorCode};
use townlake_tests::postgres::Postgres;
use townlake_tests::town::{Town, TownSpec};

async fn count(connection: &Connection, table: &str) -> Result<i64, Error> {
    let (_, batches) = connection.collect(&format!("SELECT count(*) FROM {table}")).await?;
    Ok(batches[0].column(0).as_primitive::<Int64Type>().value(0))
}

async fn metric(town: &Town, name: &str) -> Option<f64> {
    let text = reqwest::get(town.metrics_url()).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{catalog=\"crm\"}}")))?;
    line.split_whitespace().last()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_down_is_not_tried_by_each_query_until_it_is_refreshed() {
    let Some(postgres) = Postgres::start("a_source_that_is_down") else { return };
    let admin = postgres.create_database("crm").await;
    admin.batch_execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 10) i").await.unwrap();
    let catalog = format!(
        "[catalogs.crm]\ntype = \"postgres\"\nurl = \"{}\"\nreaders = [\"ann\"]\nconnect_timeout = \"2s\"\n\
         breaker_failures = 3\nbreaker_pause = \"1h\"",
        postgres.url("crm")
    );
    let spec = TownSpec::default().executors(1).user("ann", "a password", &[]).user("eve", "a password", &[]);
    let town = spec.lake("lake", &[], &["ann"]).toml(&catalog).start().await;
    let ann = town.connect("ann", "a password").await;
    assert_eq!(count(&ann, "crm.public.t").await.unwrap(), 10);
    // What the source answers is no failure to reach it.
    for _ in 0..5 {
        assert_eq!(count(&ann, "crm.public.nothing").await.unwrap_err().code(), ErrorCode::TableNotFound);
    }
    assert_eq!(metric(&town, "townlake_source_breaker_open").await, Some(0.0));

    postgres.stop();
    for _ in 0..3 {
        let error = count(&ann, "crm.public.t").await.unwrap_err();
        assert!(
            error.code() == ErrorCode::SourceUnavailable && error.message().contains("cannot be reached"),
            "{error}"
        );
    }
    postgres.restart();
    let error = count(&ann, "crm.public.t").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceUnavailable);
    let named = format!("catalog crm: Postgres at 127.0.0.1:{} could not be reached 3 times in a row", postgres.port());
    assert!(error.message().starts_with(&named) && error.message().contains("tried again in 3600 s"), "{error}");
    assert!(error.is_retryable() && error.hint().unwrap().contains("crm.system.refresh()"), "{error:?}");
    assert_eq!(metric(&town, "townlake_source_breaker_open").await, Some(1.0));
    assert_eq!(metric(&town, "townlake_source_failures_total").await, Some(3.0));
    assert!(metric(&town, "townlake_source_refused_total").await.unwrap() >= 1.0);

    // For those who may read it, and for them alone.
    let eve = town.connect("eve", "a password").await;
    assert_eq!(eve.run("CALL crm.system.refresh()").await.unwrap_err().code(), ErrorCode::CatalogNotFound);
    assert_eq!(ann.run("CALL lake.system.refresh()").await.unwrap_err().code(), ErrorCode::NotSupported);
    assert_eq!(ann.run("CALL crm.system.refresh('t')").await.unwrap_err().code(), ErrorCode::InvalidArgument);
    assert!(count(&ann, "crm.public.t").await.is_err());
    ann.run("CALL crm.system.refresh()").await.unwrap();
    assert_eq!(count(&ann, "crm.public.t").await.unwrap(), 10);
    assert_eq!(metric(&town, "townlake_source_breaker_open").await, Some(0.0));

    // Tables and columns are looked up in each query.
    let admin = postgres.connect("crm").await;
    admin.batch_execute("CREATE TABLE nothing AS SELECT 1 AS a").await.unwrap();
    assert_eq!(count(&ann, "crm.public.nothing").await.unwrap(), 1);
    admin.batch_execute("ALTER TABLE nothing ADD b int4").await.unwrap();
    ann.run("USE crm.public").await.unwrap();
    ann.run("CALL system.refresh()").await.unwrap();
    assert_eq!(count(&ann, "nothing WHERE b IS NULL").await.unwrap(), 1);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_finds_it_again_by_itself() {
    let Some(postgres) = Postgres::start("a_probe_finds_it_again") else { return };
    let admin = postgres.create_database("crm").await;
    admin.batch_execute("CREATE TABLE t AS SELECT 1 AS i").await.unwrap();
    let keys = "connect_timeout = \"2s\"\nbreaker_failures = 2\nbreaker_pause = \"300ms\"";
    let sources = super::connections(&postgres.url("crm"), keys);
    let source = sources.source("crm").unwrap();
    postgres.stop();
    for _ in 0..2 {
        assert!(source.list_schemas(&super::query()).await.is_err());
    }
    assert!(source.breaker().is_open);
    postgres.restart();
    tokio::time::sleep(std::time::Duration::from_millis(350)).await;
    assert_eq!(source.list_schemas(&super::query()).await.unwrap(), ["public"]);
    assert!(!source.breaker().is_open);
}
