//! What the server groups and orders, each beside the same query of which nothing is pushed; in both engines.

use townlake_tests::clickhouse::Engine;

use super::Ch;
use crate::pushed::Both;

const TABLES: &[&str] = &["accounts", "empty"];
const DATA: &[&str] = &[
    "CREATE TABLE DB.accounts (id UInt32, region String, big Nullable(Int64), small Nullable(Int16), rate Decimal(12, 3), day Date, \
     seen Nullable(DateTime), weight Float64, mood Enum8('sad' = -1, 'ok' = 2)) ENGINE = MergeTree PARTITION BY id % 3 ORDER BY id",
    "INSERT INTO DB.accounts SELECT toUInt32(number), concat('r', toString(number % 7)), if(number % 11 = 0, NULL, \
     toInt64(9223372036854775807) - toInt64(number)), if(number % 5 = 0, NULL, toInt16(number % 300)), toDecimal64(number, 3), \
     toDate(19000 + number % 30), if(number % 2 = 0, NULL, toDateTime(1700000000 + number % 50)), number / 3, \
     CAST(number % 2 = 0 ? 'sad' : 'ok' AS Enum8('sad' = -1, 'ok' = 2)) FROM numbers(2000)",
    "CREATE TABLE DB.empty (id UInt32, v Decimal(9, 2), n Nullable(Int64)) ENGINE = MergeTree ORDER BY id",
];

async fn each(test: &'static str) -> Vec<(Ch, Both)> {
    let all = Ch::each(test, DATA).await.into_iter();
    all.map(|ch| {
        let both = Both::new(ch.source(), &ch.connections, ch.database, TABLES);
        (ch, both)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_made_by_the_server() {
    for (_ch, both) in each("groups").await {
        both.asked("SELECT region, count(*), sum(id), max(rate) FROM accounts GROUP BY region", &["GROUP BY `region`"])
            .await;
        both.asked("SELECT mood, min(day), max(seen), count(seen) FROM accounts GROUP BY mood", &["GROUP BY `mood`"])
            .await;
        both.asked(
            "SELECT seen, avg(small), avg(rate), sum(rate) FROM accounts WHERE id > 9 GROUP BY seen",
            &["GROUP BY `seen`"],
        )
        .await;
        both.asked("SELECT avg(id), sum(small), sum(big) FROM accounts WHERE region = 'r3'", &["toFloat64(sum(`id`))"])
            .await;
        both.not_asked("SELECT avg(big) FROM accounts", &["sum("]).await;
        both.asked("SELECT DISTINCT day, mood FROM accounts", &["GROUP BY `day`, `mood`"]).await;
        // Of nothing: a count of 0, all else NULL.
        both.asked("SELECT count(*), count(n), sum(v), min(id), avg(id), max(n) FROM empty", &["count()"]).await;
        both.asked("SELECT id, sum(v) FROM empty GROUP BY id UNION ALL SELECT 1, 2", &["GROUP BY `id`"]).await;
        // A sum of 64 bits wraps around on both sides.
        both.asked("SELECT region, sum(big) FROM accounts GROUP BY region", &["sum(`big`)"]).await;
        // What the server counts for itself.
        both.asked("SELECT count(*) FROM accounts WHERE weight > 1", &[]).await;
        both.not_asked("SELECT region, sum(weight) FROM accounts WHERE id < 3 GROUP BY region", &["GROUP BY"]).await;
        both.not_asked("SELECT weight, count(*) FROM accounts GROUP BY weight", &["GROUP BY"]).await;
        both.not_asked("SELECT max(region) FROM accounts", &["max("]).await;
        both.asked("SELECT count(DISTINCT region), sum(id) FROM accounts", &["GROUP BY `region`"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_rows_come_from_the_server() {
    for (_ch, both) in each("first_rows").await {
        let order = "ORDER BY `big` DESC NULLS FIRST, `id` ASC NULLS LAST LIMIT 5";
        both.asked("SELECT id, big FROM accounts ORDER BY big DESC NULLS FIRST, id LIMIT 5", &[order]).await;
        both.asked("SELECT id FROM accounts WHERE day > DATE '2022-01-20' ORDER BY seen, id LIMIT 7", &["LIMIT 7"])
            .await;
        both.not_asked("SELECT id FROM accounts ORDER BY region, id LIMIT 7", &["ORDER BY"]).await;
        both.not_asked("SELECT id FROM accounts ORDER BY weight, id LIMIT 7", &["ORDER BY"]).await;
        // A filter above a limit is not one below it.
        let first = "(SELECT * FROM accounts ORDER BY id DESC LIMIT 50) AS t";
        both.not_asked(&format!("SELECT id FROM {first} WHERE region = 'r3'"), &["r3"]).await;
        both.not_asked(&format!("SELECT region, count(*) FROM {first} GROUP BY region"), &["GROUP BY"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_of_a_small_side_go_into_the_scan() {
    let data = [
        "CREATE TABLE DB.large (id UInt32, rate Decimal(12, 3)) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO DB.large SELECT toUInt32(number), toDecimal64(number % 1000, 3) FROM numbers(60000)",
    ];
    for ch in Ch::each("many_keys", &data).await {
        let both = Both::new(ch.source(), &ch.connections, ch.database, &["large"]);
        let keys = |last: usize| {
            format!("SELECT arrow_cast(v, 'UInt32') AS id, 'x' AS name FROM generate_series(100, {last}) AS g(v)")
        };
        let sql = "SELECT k.name, a.rate FROM keys AS k JOIN large AS a ON k.id = a.id";
        let text = both.with_keys(&keys(15_099), sql).await;
        assert!(text.contains("IN (100,101,102") && text.contains(",15099)"), "{:?}\n{text}", ch.server.engine);
        let text = both.with_keys(&keys(50_099), sql).await;
        assert!(text.contains("`id` >= toUInt32('100')") && text.contains("'50099'"), "{:?}\n{text}", ch.server.engine);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_the_newest_rows_alone() {
    let data = [
        "CREATE TABLE DB.versions (id UInt32, k UInt8, version UInt32) ENGINE = ReplacingMergeTree(version) ORDER BY id",
        "INSERT INTO DB.versions SELECT number, number % 3, 1 FROM numbers(100)",
        "INSERT INTO DB.versions SELECT number, number % 3 + 10, 2 FROM numbers(50)",
    ];
    for engine in [Engine::Old, Engine::Modern] {
        let Some(ch) = Ch::of(engine, "newest_groups", &data, "final = true").await else { continue };
        let both = Both::new(ch.source(), &ch.connections, ch.database, &["versions"]);
        both.asked("SELECT k, count(*), max(version) FROM versions GROUP BY k", &["FINAL GROUP BY `k`"]).await;
        let cells = ch.cells(&["versions"], "SELECT count(*) FROM versions").await;
        assert_eq!(cells, [["100"]]);
    }
}
