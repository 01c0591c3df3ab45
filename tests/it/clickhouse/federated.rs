//! ClickHouse beside the lake through the door, on executors.

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use townlake_tests::clickhouse::{ClickHouse, Engine, PASSWORD};
use townlake_tests::town::TownSpec;

const EVENTS: &[&str] = &[
    "CREATE TABLE events (account UInt32, kind LowCardinality(String), at DateTime, amount Nullable(Decimal(12, 2))) \
     ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY account",
    "INSERT INTO events SELECT number % 1000, arrayElement(['view', 'sale'], toUInt32(number % 2) + 1), \
     toDateTime('2024-01-01 00:00:00') + toUInt32(number % 300) * 86400, if(number % 5 = 0, NULL, toDecimal64(number % 7, 2)) FROM numbers(600000)",
];

#[tokio::test(flavor = "multi_thread")]
async fn events_of_clickhouse_join_accounts_of_the_lake() {
    for engine in [Engine::Old, Engine::Modern] {
        let Some(server) = ClickHouse::start(engine, "federated") else { continue };
        for sql in EVENTS {
            // Debian's server calls this an experiment.
            let sql =
                if engine == Engine::Old { sql.replace("LowCardinality(String)", "String") } else { sql.to_string() };
            server.run(&sql).await;
        }
        let catalog = format!("[catalogs.ch]\ntype = \"clickhouse\"\nurl = \"{}\"\nreaders = [\"ann\"]", server.url());
        let spec = TownSpec::default().user("ann", "a password", &[]).lake("lake", &[], &["ann"]).toml(&catalog);
        let town = spec.start().await;
        let connection = town.connect("ann", "a password").await;
        for statement in [
            "CREATE SCHEMA lake.books",
            "CREATE TABLE lake.books.accounts AS SELECT CAST(account AS BIGINT) AS id, account % 3 AS tier FROM ch.default.events \
             WHERE kind = 'view' GROUP BY account",
            "SET SESSION execution = 'cluster'",
        ] {
            connection.run(statement).await.unwrap_or_else(|error| panic!("{engine:?} {statement}: {error:?}"));
        }
        let join = "SELECT count(*) AS n, count(amount) AS known, CAST(sum(amount) AS BIGINT) AS total FROM ch.default.events \
             JOIN lake.books.accounts ON id = account WHERE kind = 'view' AND tier = 1 AND at >= TIMESTAMP '2024-03-01 00:00:00+00:00'";
        let (_, batches) = connection.collect(join).await.unwrap_or_else(|error| panic!("{engine:?}: {error:?}"));
        let found = [0, 1, 2].map(|column| batches[0].column(column).as_primitive::<Int64Type>().value(0));
        let wanted = (0..600_000u32).filter(|n| n % 2 == 0 && n % 1000 % 3 == 1 && n % 300 >= 60);
        let known: Vec<_> = wanted.clone().filter(|n| n % 5 != 0).map(|n| i64::from(n % 7)).collect();
        assert_eq!(found, [wanted.count() as i64, known.len() as i64, known.iter().sum()], "{engine:?}");

        let (_, plan) = connection.collect(&format!("EXPLAIN {join}")).await.unwrap();
        let plan = datafusion::arrow::util::pretty::pretty_format_batches(&plan).unwrap().to_string();
        assert!(
            plan.contains("ClickHouseScanExec: table=ch.default.events") && plan.contains("`kind` = 'view'"),
            "{plan}"
        );
        assert!(!plan.contains(PASSWORD) && !plan.contains("127.0.0.1"), "{plan}");
        let error = connection.collect("SELECT nothing FROM ch.default.events").await.unwrap_err();
        assert!(!format!("{error:?}").contains(PASSWORD), "{error:?}");
        town.stop().await;
    }
}
