//! Filters that the server applies, against the same filters applied here to the same rows.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

use super::{Crm, collect, query};

const ROWS: &str = "
CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'A');
CREATE TABLE facts (id int4 NOT NULL, i2 int2, i8 int8, n numeric(10,2), f float8, b bool, d date, ts timestamp, tz timestamptz,
  t text, odd text COLLATE blind, c char(5), v varchar(5) COLLATE \"C\", u uuid, m mood, j jsonb, a int4[], free numeric, by bytea, tm time);
INSERT INTO facts SELECT i, nullif(i % 7, 3) - 2, nullif(i % 11, 0) * 1000000000000, nullif(i % 13, 5) / 4.0 - 1,
  CASE i % 6 WHEN 0 THEN 'NaN' WHEN 1 THEN 0.0 WHEN 2 THEN -0.0 WHEN 3 THEN NULL ELSE i END,
  CASE i % 3 WHEN 0 THEN true WHEN 1 THEN false END,
  date '2024-02-27' + nullif(i % 9, 4), timestamp '2024-03-31 01:59:59.5' + nullif(i % 9, 2) * interval '30 minutes',
  timestamptz '2024-03-31 00:30:00+00' + nullif(i % 8, 2) * interval '30 minutes',
  (ARRAY['a', 'A', 'ä', '', ' ', 'b''', '%', 'a\\b', NULL, 'ß'])[i % 10 + 1], (ARRAY['a', 'A', 'b', NULL])[i % 4 + 1],
  (ARRAY['ab', 'ab ', 'AB', '', NULL])[i % 5 + 1], (ARRAY['ab', 'ab ', 'AB', '', NULL])[i % 5 + 1],
  CASE WHEN i % 4 > 0 THEN ('00000000-0000-0000-0000-00000000000' || (i % 4))::uuid END,
  (ARRAY['sad', 'ok', 'A', NULL]::mood[])[i % 4 + 1], jsonb_build_object('k', i % 3), ARRAY[i % 2], i % 5 / 2.0,
  decode(lpad(to_hex(i % 3), 2, '0'), 'hex'), time '00:00' + i % 5 * interval '1 hour'
FROM generate_series(1, 500) i;";

/// Filters and whether the server is expected to apply them.
const FILTERS: &[(&str, bool)] = &[
    ("id > 250", true),
    ("250 >= id", true),
    ("i2 = 1", true),
    ("i2 <> 1", true),
    ("i2 IN (1, 2, NULL)", true),
    ("i2 NOT IN (1, 2)", true),
    ("i2 NOT IN (1, NULL)", true),
    ("i2 NOT IN (1, 2, 3, -2, 0, NULL)", true),
    ("i2 IS DISTINCT FROM 1", true),
    ("i2 IS NOT DISTINCT FROM 1", true),
    ("i8 > 3000000000000", true),
    ("i8 BETWEEN 2000000000000 AND 4000000000000", true),
    ("i8 NOT BETWEEN 2000000000000 AND 4000000000000", true),
    ("i8 = i8", true),
    ("n = 0.5", true),
    ("n >= 0.25 AND n < 1.75", true),
    ("n IN (0.25, -1, 2)", true),
    ("f > 1", false),
    ("f = 0", false),
    ("f IS NULL", true),
    ("b", true),
    ("NOT b", true),
    ("b IS NOT TRUE", true),
    ("b IS UNKNOWN", true),
    ("b = false", true),
    ("d = DATE '2024-02-29'", true),
    ("d < '2024-03-01'", true),
    ("d BETWEEN '2024-02-28' AND '2024-02-29'", true),
    ("ts >= '2024-03-31 02:30:00'", true),
    ("ts = TIMESTAMP '2024-03-31 02:29:59.5'", true),
    ("tz > '2024-03-31 01:00:00Z'", true),
    ("tz <= '2024-03-31T03:30:00+02:00'", true),
    ("t = 'a'", true),
    ("t <> 'a'", true),
    ("t = ''", true),
    ("t = 'ä'", true),
    ("t = 'b'''", true),
    ("t IN ('a\\b', '%', 'zz')", true),
    ("t > 'a'", false),
    ("t LIKE 'a%'", false),
    ("upper(t) = 'A'", false),
    ("t = v", true),
    ("CAST(id AS TEXT) < CAST(i2 AS TEXT)", false),
    ("CAST(id AS TEXT) = '7'", true),
    ("odd = 'a'", false),
    ("odd IS NULL", true),
    ("c = 'ab'", true),
    ("c = 'ab '", true),
    ("v = 'ab '", true),
    ("u = '00000000-0000-0000-0000-000000000002'", true),
    ("u = '00000000-0000-0000-0000-00000000000A'", false),
    ("u > '00000000-0000-0000-0000-000000000001'", false),
    ("m = 'ok'", true),
    ("m = 'no such label'", true),
    ("m > 'A'", false),
    ("j = '{\"k\": 1}'", true),
    ("free = '1.5000000000000000'", true),
    ("a IS NOT NULL", true),
    ("tm > '02:00:00'", false),
    ("id + 1 = 10", false),
    ("i2 = 1 OR b", true),
    ("i2 = 1 OR f > 1", false),
    ("NOT (i2 = 1 AND b)", true),
    ("(i2 = 1) IS NOT TRUE AND NOT (t = 'a' OR d IS NULL)", true),
    ("CASE WHEN f > 5 THEN b ELSE i2 = 1 END", false),
];

async fn both(crm: &Crm, filter: &str, local: &SessionContext) -> (String, String, String) {
    let sql = format!("SELECT id FROM facts WHERE {filter} ORDER BY id");
    let query = query();
    let remote = crm.session(&query, 4, &["facts"]).await;
    let (_, plan) = crm.plan(&query, &["facts"], &sql).await;
    let format = |rows: Vec<RecordBatch>| pretty_format_batches(&rows).unwrap().to_string();
    let pushed = collect(&remote, &sql).await.unwrap_or_else(|error| panic!("{filter}: {error:?}"));
    let here = collect(local, &sql).await.unwrap_or_else(|error| panic!("{filter}: {error:?}"));
    (format(pushed), format(here), plan)
}

#[tokio::test]
async fn pushed_filters_mean_what_they_mean_here() {
    let Some(crm) = Crm::new("filters", ROWS).await else { return };
    let all = crm.query(&["facts"], "SELECT * FROM facts").await.unwrap();
    let local = SessionContext::new();
    let schema = all[0].schema();
    local.register_table("facts", Arc::new(MemTable::try_new(schema, vec![all]).unwrap())).unwrap();
    let mut some_rows = 0;
    for (filter, is_pushed) in FILTERS {
        let (pushed, here, plan) = both(&crm, filter, &local).await;
        assert_eq!(pushed, here, "{filter}\n{plan}");
        assert_eq!(!plan.contains("FilterExec"), *is_pushed, "{filter}\n{plan}");
        assert_eq!(plan.contains("filtered_here=["), !is_pushed, "{filter}\n{plan}");
        some_rows += usize::from(here.lines().count() > 4);
    }
    assert!(some_rows > FILTERS.len() * 2 / 3, "most filters select something: {some_rows}");
}

#[tokio::test]
async fn explain_tells_what_is_asked_and_what_stays() {
    let Some(crm) = Crm::new("explained", ROWS).await else { return };
    let sql = "SELECT t FROM facts WHERE id > 5 AND f > 1 LIMIT 7";
    let (_, plan) = crm.plan(&query(), &["facts"], sql).await;
    assert!(plan.contains("table=crm.public.facts, splits=1"), "{plan}");
    assert!(plan.contains("WHERE (\"id\"::int4 > '5'::int4)]"), "the limit stays with the filter: {plan}");
    assert!(plan.contains("floating point compares differently"), "{plan}");
    let (_, plan) = crm.plan(&query(), &["facts"], "SELECT t FROM facts WHERE id > 5 LIMIT 7").await;
    assert!(plan.contains("WHERE (\"id\"::int4 > '5'::int4) LIMIT 7]"), "{plan}");
    let rows = crm.show(&["facts"], "SELECT count(*) AS n FROM (SELECT t FROM facts WHERE id > 5 LIMIT 7)").await;
    assert!(rows.contains("| 7 |"), "{rows}");
}

#[tokio::test]
async fn a_filter_that_is_too_long_stays_here() {
    let Some(crm) = Crm::new("long_filter", ROWS).await else { return };
    let values: Vec<_> = (0..30_000).map(|value| (value * 2).to_string()).collect();
    let sql = format!("SELECT count(*) AS n FROM facts WHERE id IN ({})", values.join(", "));
    let (_, plan) = crm.plan(&query(), &["facts"], &sql).await;
    assert!(plan.contains("longer than 64 KiB"), "{}", &plan[plan.len() - 200..]);
    assert!(crm.show(&["facts"], &sql).await.contains("| 250 |"));
}
