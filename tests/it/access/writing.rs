//! Who may read may not write.

use futures::StreamExt;
use townlake_cli::args::LoadMode;
use townlake_cli::connection::Rows;
use townlake_common::ErrorCode;

use super::{assert_code, cells, connect, error, town};

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_cannot_write() {
    let town = town().await;
    let (ann, bob) = (connect(&town, "ann").await, connect(&town, "bob").await);
    for sql in [
        "INSERT INTO lake.sales.orders VALUES (1, 1)",
        "INSERT INTO lake.sales.orders SELECT * FROM lake.sales.orders",
        "EXPLAIN INSERT INTO lake.sales.orders SELECT * FROM lake.sales.orders",
        "CREATE SCHEMA lake.mine",
        "CREATE SCHEMA IF NOT EXISTS lake.sales",
        "CREATE TABLE lake.sales.mine (x INT)",
        "CREATE TABLE IF NOT EXISTS lake.sales.orders (x INT)",
        "CREATE TABLE lake.sales.mine AS SELECT 1 AS x",
        "DROP TABLE lake.sales.orders",
        "DROP TABLE IF EXISTS lake.sales.nothing",
        "ALTER TABLE lake.sales.orders ADD COLUMN x INT",
        "ALTER TABLE lake.sales.orders RENAME TO mine",
        "ALTER TABLE lake.sales.orders CREATE TAG mine",
        "ALTER TABLE IF EXISTS lake.sales.nothing DROP COLUMN x",
        "COMMENT ON TABLE lake.sales.orders IS 'mine'",
        "DROP SCHEMA lake.sales",
        "DROP SCHEMA IF EXISTS lake.nothing",
    ] {
        let refused = error(&bob, sql).await;
        assert_code(&refused, ErrorCode::PermissionDenied, sql);
        assert!(refused.message().contains("lake"), "{sql}: {refused}");
        assert!(!refused.to_string().contains("ann"), "who may is not bob's business: {refused}");
    }
    for mode in [LoadMode::Append, LoadMode::Create, LoadMode::Replace] {
        let (schema, batches) = ann.collect("SELECT * FROM lake.sales.orders LIMIT 1").await.expect("a row");
        let rows = Rows { schema, batches: futures::stream::iter(batches.into_iter().map(Ok)).boxed() };
        let refused = bob.ingest(["lake", "sales", "orders"], mode, rows).await.expect_err("bulk ingest");
        assert_code(&refused, ErrorCode::PermissionDenied, "ingest");
    }
    assert_eq!(cells(&ann, "SELECT count(*) FROM lake.sales.orders").await, ["1000"]);
    assert_eq!(cells(&ann, "SHOW TABLES FROM lake.sales").await[0], "orders");
    town.stop().await;
}
