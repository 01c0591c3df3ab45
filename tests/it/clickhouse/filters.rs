//! Filters that the server applies, against the same filters applied here to the same rows.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

use super::{Ch, collect, query};

const ROWS: &[&str] = &[
    "CREATE TABLE DB.facts (id UInt32, n Nullable(Int32), k Int64, d Nullable(Decimal(10, 2)), f Nullable(Float64), day Nullable(Date), \
     at DateTime('Europe/Berlin'), nat Nullable(DateTime), t Nullable(String), v String, e Nullable(Enum8('sad' = 1, 'ok' = 2, 'A' = 3)), \
     u Nullable(UUID), fs FixedString(2), a Array(Int32)) ENGINE = MergeTree ORDER BY id",
    "INSERT INTO DB.facts SELECT number + 1 AS id, if(number % 7 = 3, NULL, toInt32(number % 7) - 2), toInt64(number % 11) * 1000000000000, \
     if(number % 13 = 5, NULL, toDecimal32(toInt32(number % 13) - 4, 2)), \
     if(number % 6 = 0, nan, if(number % 6 = 3, NULL, toFloat64(number))), if(number % 9 = 4, NULL, toDate('2024-02-27') + toUInt16(number % 9)), \
     toDateTime('2024-03-31 00:30:00', 'UTC') + toUInt32(number % 8) * 1800, \
     if(number % 8 = 2, NULL, toDateTime('2024-03-31 00:30:00', 'UTC') + toUInt32(number % 8) * 1800), \
     if(number % 10 = 8, NULL, arrayElement(['a', 'A', 'ä', '', ' ', 'b\\'', '%', 'a\\\\b', 'x', 'a\\0'], toUInt32(number % 10) + 1)), \
     arrayElement(['ab', 'ab ', 'AB', ''], toUInt32(number % 4) + 1), \
     CAST(if(number % 4 = 3, NULL, toInt8(number % 4) + 1) AS Nullable(Int8)) AS m, \
     if(number % 4 = 0, NULL, toUUID(concat('00000000-0000-0000-0000-00000000000', toString(number % 4)))), \
     'ab', [toInt32(number % 2)] FROM numbers(500)",
];

/// Filters and whether the server is expected to apply them.
const FILTERS: &[(&str, bool)] = &[
    ("id > 250", true),
    ("250 >= id", true),
    ("n = 1", true),
    ("n <> 1", true),
    ("NOT (n = 1)", true),
    ("n IN (1, 2, NULL)", true),
    ("n NOT IN (1, 2)", true),
    ("n NOT IN (1, NULL)", true),
    ("NOT (n IN (1, 2))", true),
    ("n NOT IN (1, 2, 3, -2, 0, 4, 5, 6)", true),
    ("n IS DISTINCT FROM 1", true),
    ("n IS NOT DISTINCT FROM 1", true),
    ("n IS NULL", true),
    ("n IS NOT NULL AND n < 2", true),
    ("(n = 1) IS NOT TRUE", true),
    ("(n = 1) IS UNKNOWN", true),
    ("k > 3000000000000", true),
    ("k BETWEEN 2000000000000 AND 4000000000000", true),
    ("k NOT BETWEEN 2000000000000 AND 4000000000000", true),
    ("d = 0.50 OR d = 1.00", true),
    ("d >= -1.00 AND d < 3.00", true),
    ("d IN (1.00, -1.00, 2.00)", true),
    ("NOT (d > 1.00)", true),
    ("f > 1", false),
    ("f IS NULL", true),
    ("day = DATE '2024-02-29'", true),
    ("day < '2024-03-01'", true),
    ("day BETWEEN '2024-02-28' AND '2024-02-29'", true),
    ("at > '2024-03-31 01:00:00Z'", true),
    ("at <= '2024-03-31T03:30:00+02:00'", true),
    ("nat = '2024-03-31 02:00:00Z'", true),
    ("nat <> '2024-03-31 02:00:00Z'", true),
    ("at > '2024-03-31 01:00:00.5Z'", false),
    ("t = 'a'", true),
    ("t <> 'a'", true),
    ("t = ''", true),
    ("t = 'ä'", true),
    ("t = 'b'''", true),
    ("t IN ('a\\b', '%', 'zz')", true),
    ("t NOT IN ('a', '%')", true),
    ("t > 'a'", false),
    ("t LIKE 'a%'", false),
    ("upper(t) = 'A'", false),
    ("v = 'ab '", true),
    ("t = v", true),
    ("CAST(id AS TEXT) = '7'", true),
    ("e = 'ok'", true),
    ("e <> 'ok'", true),
    ("e = 'no such label'", true),
    ("e NOT IN ('no such label', 'ok')", true),
    ("e > 'A'", false),
    ("u = '00000000-0000-0000-0000-000000000002'", true),
    ("u <> '00000000-0000-0000-0000-00000000000A'", true),
    ("u > '00000000-0000-0000-0000-000000000001'", false),
    ("fs = 'ab'", false),
    ("id + 1 = 10", false),
    ("n = 1 OR e = 'sad'", true),
    ("n = 1 OR f > 1", false),
    ("NOT (n = 1 AND d = 1.00)", true),
    ("NOT (n = 1 OR (d > 1.00 AND NOT (t = 'a')))", true),
    ("(n = 1) IS NOT TRUE AND NOT (t = 'a' OR day IS NULL)", true),
    ("CASE WHEN f > 5 THEN n = 2 ELSE n = 1 END", false),
];

async fn both(ch: &Ch, filter: &str, local: &SessionContext) -> (String, String, String) {
    let sql = format!("SELECT id FROM facts WHERE {filter} ORDER BY id");
    let query = query();
    let remote = ch.session(&query, 4, &["facts"]).await;
    let (_, plan) = ch.plan(&query, &["facts"], &sql).await;
    let format = |rows: Vec<RecordBatch>| pretty_format_batches(&rows).unwrap().to_string();
    let pushed = collect(&remote, &sql).await.unwrap_or_else(|error| panic!("{filter}: {error:?}\n{plan}"));
    let here = collect(local, &sql).await.unwrap_or_else(|error| panic!("{filter}: {error:?}"));
    (format(pushed), format(here), plan)
}

#[tokio::test]
async fn pushed_filters_mean_what_they_mean_here() {
    for ch in Ch::each("filters", ROWS).await {
        let all = ch.query(&["facts"], "SELECT * FROM facts").await.unwrap();
        let local = SessionContext::new();
        let schema = all[0].schema();
        local.register_table("facts", Arc::new(MemTable::try_new(schema, vec![all]).unwrap())).unwrap();
        let mut some_rows = 0;
        for (filter, is_pushed) in FILTERS {
            let (pushed, here, plan) = both(&ch, filter, &local).await;
            assert_eq!(pushed, here, "{:?} {filter}\n{plan}", ch.server.engine);
            assert_eq!(!plan.contains("FilterExec"), *is_pushed, "{filter}\n{plan}");
            assert_eq!(plan.contains("filtered_here=["), !is_pushed, "{filter}\n{plan}");
            some_rows += usize::from(here.lines().count() > 4);
        }
        assert!(some_rows > FILTERS.len() * 2 / 3, "most filters select something: {some_rows}");
    }
}

#[tokio::test]
async fn explain_tells_what_is_asked_and_what_stays() {
    for ch in Ch::each("explained", ROWS).await {
        let sql = "SELECT v FROM facts WHERE id > 5 AND f > 1 LIMIT 7";
        let (_, plan) = ch.plan(&query(), &["facts"], sql).await;
        assert!(plan.contains("ClickHouseScanExec: table=ch.explained.facts, splits=1"), "{plan}");
        assert!(plan.contains("WHERE (`id` > toUInt32('5'))]"), "the limit stays with the filter: {plan}");
        assert!(plan.contains("floating point compares differently"), "{plan}");
        let (_, plan) = ch.plan(&query(), &["facts"], "SELECT v FROM facts WHERE id > 5 LIMIT 7").await;
        assert!(plan.contains("WHERE (`id` > toUInt32('5')) LIMIT 7]"), "{plan}");
        let rows = ch.cells(&["facts"], "SELECT count(*) AS n FROM (SELECT v FROM facts WHERE id > 5 LIMIT 7)").await;
        assert_eq!(rows, [["7"]]);
    }
}

#[tokio::test]
async fn a_filter_that_is_too_long_stays_here() {
    for ch in Ch::each("long_filter", ROWS).await {
        let values: Vec<_> = (0..10_000).map(|value| (value * 2).to_string()).collect();
        let sql = format!("SELECT count(*) AS n FROM facts WHERE id IN ({})", values.join(", "));
        let (_, plan) = ch.plan(&query(), &["facts"], &sql).await;
        assert!(plan.contains("longer than 64 KiB"), "{}", &plan[plan.len() - 200..]);
        assert_eq!(ch.cells(&["facts"], &sql).await, [["250"]]);
    }
}
