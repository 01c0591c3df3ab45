//! BigQuery beside the lake through the door, on executors.

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use serde_json::json;
use townlake_tests::bigquery::BigQuery;
use townlake_tests::town::TownSpec;

#[tokio::test(flavor = "multi_thread")]
async fn usage_of_bigquery_joins_accounts_of_the_lake() {
    let Some(server) = BigQuery::start("federated") else { return };
    let (server, commands) = (
        std::sync::Arc::new(server),
        [
            json!({"dataset": "usage"}),
            json!({"table": "usage.events", "fields": [["account", "INTEGER", "NULLABLE"], ["kind", "STRING", "NULLABLE"],
                ["seen", "TIMESTAMP", "NULLABLE"], ["amount", "NUMERIC", "NULLABLE"]]}),
            json!({"sql": "INSERT INTO usage.events (account, kind, seen, amount) SELECT MOD(n, 1000), IF(MOD(n, 2) = 0, 'view', 'sale'), \
                TIMESTAMP_ADD(TIMESTAMP '2024-01-01 00:00:00+00', INTERVAL MOD(n, 300) DAY), IF(MOD(n, 5) = 0, NULL, CAST(MOD(n, 7) AS NUMERIC)) \
                FROM UNNEST(GENERATE_ARRAY(0, 59999)) AS n"}),
        ],
    );
    let made = std::sync::Arc::clone(&server);
    tokio::task::spawn_blocking(move || made.client(&commands)).await.unwrap();
    let catalog = format!("[catalogs.bq]\n{}readers = [\"ann\"]", server.keys());
    let spec = TownSpec::default().user("ann", "a password", &[]).lake("lake", &[], &["ann"]).toml(&catalog);
    let town = spec.start().await;
    let connection = town.connect("ann", "a password").await;
    for statement in [
        "CREATE SCHEMA lake.books",
        "CREATE TABLE lake.books.accounts AS SELECT account AS id, account % 3 AS tier FROM bq.usage.events WHERE kind = 'view' GROUP BY account",
        "SET SESSION execution = 'cluster'",
    ] {
        connection.run(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let join = "SELECT count(*) AS n, count(amount) AS known, CAST(sum(amount) AS BIGINT) AS total FROM bq.usage.events \
         JOIN lake.books.accounts ON id = account WHERE kind = 'view' AND tier = 1 AND seen >= TIMESTAMP '2024-03-01 00:00:00+00:00'";
    let wanted = (0..60_000i64).filter(|n| n % 2 == 0 && n % 1000 % 3 == 1 && n % 300 >= 60);
    let known: Vec<_> = wanted.clone().filter(|n| n % 5 != 0).map(|n| n % 7).collect();
    for pushdown in ["all", "none"] {
        connection.run(&format!("SET SESSION source_pushdown = '{pushdown}'")).await.unwrap();
        let (_, batches) = connection.collect(join).await.unwrap_or_else(|error| panic!("{error:?}"));
        let found = [0, 1, 2].map(|column| batches[0].column(column).as_primitive::<Int64Type>().value(0));
        assert_eq!(found, [wanted.clone().count() as i64, known.len() as i64, known.iter().sum()], "{pushdown}");
        let (_, plan) = connection.collect(&format!("EXPLAIN {join}")).await.unwrap();
        let plan = datafusion::arrow::util::pretty::pretty_format_batches(&plan).unwrap().to_string();
        assert!(plan.contains("BigQueryScanExec: table=bq.usage.events"), "{plan}");
        assert_eq!(plan.contains("`kind` = 'view'"), pushdown == "all", "{plan}");
        assert!(!plan.contains("127.0.0.1"), "{plan}");
    }
    let columns = "SELECT count(*) FROM bq.information_schema.columns WHERE table_schema = 'usage'";
    let (_, rows) = connection.collect(columns).await.unwrap();
    assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0), 4);
    town.stop().await;
}
