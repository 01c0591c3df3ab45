//! Every type, at its edges.

use townlake_common::ErrorCode;

use super::Crm;

const TYPES: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN cents AS numeric(10,2) CHECK (VALUE >= 0);
CREATE DOMAIN wallet AS cents[];
CREATE TYPE pair AS (a int, b text);
CREATE TABLE types (
  id int4 PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, o oid, f4 float4, f8 float8,
  n numeric(15,2), wide numeric(60,20), round numeric(3,-2), small numeric(2,5), free numeric,
  t text, v varchar(10), c char(5), nm name, by bytea, d date, tm time, ts timestamp, tz timestamptz, iv interval,
  u uuid, j json, jb jsonb, m mood, dom cents, mon money, ip inet, p pair, r int4range, ch \"char\",
  ai int4[], at text[], an numeric(10,2)[], am mood[], aw wallet, atz timestamptz[]);
INSERT INTO types VALUES (1, true, -32768, -2147483648, -9223372036854775808, 4294967295, '-Infinity', 'NaN',
  -9999999999999.99, 1234567890123456789012345678901234567890.12345678901234567891, 12300, 0.00012, 1e-30,
  'héllo\t''\"', 'x', 'ab', 'nm', '\\x00ff', '0001-01-01', '00:00', '4713-01-01 00:00:00 BC', '294246-01-01 00:00:00+00',
  '1 year -2 days 00:00:00.000001', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{\"a\": 1}', '{\"b\":  [2]}', 'ok', 12.5, 12.5,
  '10.0.0.1/8', '(1,x)', '[1,5)', 'z', '{1,NULL,-3}', '{}', '{1.5,NaN}', '{ok,NULL}', '{1.25}', '{2024-01-01 00:00:00+02}');
UPDATE types SET an = '{1.5}';
INSERT INTO types VALUES (2, false, 32767, 2147483647, 9223372036854775807, 0, 'Infinity', '-0', 9999999999999.99, -1e-20, -500,
  -0.00099, 123456789012345678901234567890123456789012345678901234567890.5, '', '', '', '', '', '5874897-12-31', '23:59:59.999999',
  '1969-12-31 23:59:59.999999', '2024-06-30 12:00:00+02', '-1 month', '00000000-0000-0000-0000-000000000000', '[]', 'null', 'sad', 0, 0,
  '::1', '(,)', 'empty', '', '[5:6]={7,8}', '{\"a,b\",NULL}', '{}', '{}', '{}', '{}');
INSERT INTO types (id) VALUES (3);";

#[tokio::test]
async fn every_type_at_its_edges() {
    let Some(crm) = Crm::new("every_type_at_its_edges", TYPES).await else { return };
    let show = |columns: &'static str| {
        let sql = format!("SELECT {columns} FROM types ORDER BY id");
        let crm = &crm;
        async move { crm.show(&["types"], &sql).await }
    };
    let rows = |text: &str| -> Vec<Vec<String>> {
        let lines = text.lines().skip(3).filter(|line| line.starts_with('|'));
        lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect()).collect()
    };

    let numbers = rows(&show("b, i2, i4, i8, o, f4, f8, n, wide, round, small, free").await);
    let first = "true -32768 -2147483648 -9223372036854775808 4294967295 -inf NaN -9999999999999.99 \
        1234567890123456789012345678901234567890.12345678901234567891 12300 0.00012 0.000000000000000000000000000001";
    let second = "false 32767 2147483647 9223372036854775807 0 inf -0.0 9999999999999.99 -0.00000000000000000001 -500 -0.00099 \
        123456789012345678901234567890123456789012345678901234567890.5";
    assert_eq!(numbers[0].join(" "), first);
    assert_eq!(numbers[1].join(" "), second);

    let texts = rows(&show("t, v, length(c), nm, by, j, jb, m, mon, ip, p, r, ch, u").await);
    assert_eq!(texts[0][0].replace('\t', "~"), "héllo~'\"");
    let rest =
        "x 2 nm 00ff {\"a\": 1} {\"b\": [2]} ok $12.50 10.0.0.1/8 (1,x) [1,5) z a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    assert_eq!(texts[0][1..].join(" "), rest);
    assert_eq!(texts[1][2], "0", "char(n) comes without its padding");

    let times = rows(&show("d, tm, ts, tz, iv, dom").await);
    assert_eq!(times[0][0], "0001-01-01");
    assert_eq!(times[0][2], "-4712-01-01T00:00:00");
    assert_eq!(times[1][1..4].join(" "), "23:59:59.999999 1969-12-31T23:59:59.999999 2024-06-30T10:00:00Z");
    assert_eq!(times[0][4], "12 mons -2 days 0.000001000 secs");
    assert_eq!(times[0][5], "12.50");
    let edges = rows(&show("CAST(d AS int), CAST(tz AS bigint)").await);
    assert_eq!(edges[1][0], "2145042905", "the last date of Postgres");
    assert_eq!(edges[0][1], "9223339708800000000", "a time beyond what chrono prints");

    let lists = rows(&show("ai, at, an, am, aw, atz").await);
    assert_eq!(lists[0].join(" "), "[1, , -3] [] [1.50] [ok, ] [1.25] [2023-12-31T22:00:00Z]");
    assert_eq!(lists[1].join(" "), "[7, 8] [a,b, ] [] [] [] []");

    for cell in [&numbers[2], &texts[2], &times[2], &lists[2]].into_iter().flatten() {
        assert_eq!(cell, "", "NULLs stay NULL");
    }
}

#[tokio::test]
async fn what_cannot_be_represented_is_named() {
    let sql = "CREATE TABLE odd (kind text, d date, ts timestamp, tz timestamptz, n numeric(5,2), tm time, a int4[], iv interval);
        INSERT INTO odd (kind, d) VALUES ('d', 'infinity');
        INSERT INTO odd (kind, ts) VALUES ('ts', '-infinity');
        INSERT INTO odd (kind, tz) VALUES ('tz', 'infinity');
        INSERT INTO odd (kind, n) VALUES ('n', 'NaN');
        INSERT INTO odd (kind, tm) VALUES ('tm', '24:00');
        INSERT INTO odd (kind, a) VALUES ('a', '{{1,2},{3,4}}');
        INSERT INTO odd (kind, iv) VALUES ('iv', '9999999 hours');";
    let Some(crm) = Crm::new("what_cannot_be_represented", sql).await else { return };
    let kinds = [("d", "infinity"), ("ts", "-infinity"), ("tz", "infinity"), ("n", "NaN"), ("tm", "24:00:00")];
    for (column, value) in kinds.into_iter().chain([("a", "other dimensions than are declared"), ("iv", "292 years")]) {
        let error =
            crm.query(&["odd"], &format!("SELECT {column} FROM odd WHERE kind = '{column}'")).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::FormatNotSupported, "{error}");
        let named = format!("column crm.public.odd.{column} holds");
        assert!(error.message().contains(&named) && error.message().contains(value), "{error}");
        assert!(error.message().contains(" (in "), "{error}");
    }
    // The rest of the table is not affected.
    let rows = crm.show(&["odd"], "SELECT count(*) AS n, count(kind) AS k FROM odd").await;
    assert!(rows.contains("| 7 | 7 |"), "{rows}");
}

#[tokio::test]
async fn a_column_that_changes_its_type_is_never_misread() {
    let sql = "CREATE TABLE changing (a int4); INSERT INTO changing VALUES (1), (2);";
    let Some(crm) = Crm::new("changing_type", sql).await else { return };
    let query = super::query();
    let session = crm.session(&query, 4, &["changing"]).await;
    crm.admin.batch_execute("ALTER TABLE changing ALTER a TYPE float4").await.unwrap();
    let rows = super::collect(&session, "SELECT sum(a) AS s FROM changing").await.unwrap();
    let text = datafusion::arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
    assert!(text.contains("| 3 |"), "{text}");
}
