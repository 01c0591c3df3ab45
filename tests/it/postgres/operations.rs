//! What the server groups, orders and joins: the shapes in which other engines gave wrong rows, each beside the same query of which
//! nothing is pushed.

use townlake_common::ErrorCode;

use super::{Crm, collect, query};
use crate::pushed::Both;
use crate::sources::pushing;

const TABLES: &[&str] = &["accounts", "moves", "words", "empty"];
const DATA: &str = "
    CREATE TABLE accounts (id int4 PRIMARY KEY, region text, big int8, rate numeric(12, 3), day date, code char(4));
    INSERT INTO accounts SELECT i, 'r' || i % 7, CASE WHEN i % 11 = 0 THEN NULL ELSE 9223372036854775807 - i END,
        i * 1.125, DATE '2024-01-01' + i % 30, CASE i % 3 WHEN 0 THEN 'ab' WHEN 1 THEN 'ab  ' END FROM generate_series(1, 2000) i;
    CREATE TABLE moves (account int4, amount numeric(12, 3), at timestamptz);
    INSERT INTO moves SELECT CASE WHEN i % 13 = 0 THEN NULL ELSE i % 1000 END, i * 0.5, '2024-01-01'::timestamptz + i * interval '1 hour'
        FROM generate_series(1, 6000) i;
    CREATE TABLE words (id int4, word text, odd text COLLATE \"und-x-icu\");
    INSERT INTO words VALUES (1, 'z', 'z'), (2, 'ä', 'ä'), (3, 'Z', 'Z'), (4, 'a', 'a'), (5, NULL, NULL), (6, '', ''), (7, 'é', 'é');
    CREATE TABLE empty (id int4, v numeric(9, 2));
    ANALYZE";

async fn both(test: &str) -> Option<(Crm, Both)> {
    let crm = Crm::new(test, DATA).await?;
    let both = Both::new(crm.source(), &crm.connections, "public", TABLES);
    Some((crm, both))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_made_by_the_server() {
    let Some((_crm, both)) = both("groups").await else { return };
    both.asked("SELECT region, count(*), sum(id), avg(rate) FROM accounts GROUP BY region", &["GROUP BY 1", "nullif"])
        .await;
    both.asked("SELECT DISTINCT region FROM accounts WHERE id < 1000", &["GROUP BY 1", "WHERE"]).await;
    both.asked("SELECT min(day), max(rate), count(big), sum(rate) FROM accounts", &["min(", "max(", "count("]).await;
    both.asked("SELECT code, count(*) FROM accounts GROUP BY code", &["GROUP BY 1"]).await;
    both.asked("SELECT region FROM accounts GROUP BY region HAVING count(*) > 285", &["GROUP BY 1"]).await;
    // What becomes a group of the values first.
    both.asked("SELECT count(DISTINCT day), sum(id) FROM accounts", &["GROUP BY 1"]).await;
    // Past 64 bits.
    both.asked("SELECT region, sum(big) FROM accounts GROUP BY region", &["mod("]).await;
    // Without a row, and without a group.
    both.asked("SELECT count(*), sum(v), avg(v), min(id) FROM empty", &["count("]).await;
    both.asked("SELECT count(*), sum(id), avg(rate) FROM accounts WHERE id < 0", &["count("]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_differ_is_grouped_here() {
    let Some((_crm, both)) = both("groups_here").await else { return };
    let group = &["GROUP BY", "sum(", "max("];
    both.not_asked("SELECT region, max(word) FROM accounts JOIN words USING (id) GROUP BY region", group).await;
    both.not_asked("SELECT avg(big) FROM accounts", group).await;
    both.not_asked("SELECT sum(rate + 1) FROM accounts", group).await;
    both.not_asked("SELECT sum(rate) FILTER (WHERE id > 5) FROM accounts", group).await;
    both.not_asked("SELECT count(DISTINCT day), count(DISTINCT region) FROM accounts", group).await;
    both.not_asked("SELECT id, count(*) FROM accounts GROUP BY id", group).await;
    both.not_asked("SELECT region, sum(id) FROM accounts WHERE region LIKE 'r%' GROUP BY region", group).await;
    both.not_asked("SELECT max(word), sum(CAST(id AS DOUBLE)) FROM words", group).await;
    both.not_asked("SELECT region, sum(id) FROM accounts GROUP BY ROLLUP (region)", group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_rows_come_from_the_server() {
    let Some((_crm, both)) = both("first_rows").await else { return };
    both.asked(
        "SELECT id, big FROM accounts ORDER BY big DESC NULLS LAST, id LIMIT 7",
        &["DESC NULLS LAST", "LIMIT 7"],
    )
    .await;
    both.asked("SELECT id FROM accounts ORDER BY big NULLS FIRST, id DESC LIMIT 5 OFFSET 3", &["LIMIT 8"]).await;
    // In the order of bytes: Z before a, ä after z.
    both.asked("SELECT word FROM words ORDER BY word LIMIT 5", &["COLLATE \"C\" ASC NULLS LAST"]).await;
    both.asked("SELECT odd FROM words ORDER BY odd DESC NULLS LAST LIMIT 3", &["COLLATE \"C\""]).await;
    both.not_asked("SELECT id FROM accounts ORDER BY rate * -1, id LIMIT 3", &["ORDER BY"]).await;
    both.not_asked("SELECT id FROM accounts WHERE region LIKE '%3' ORDER BY id LIMIT 3", &["LIMIT"]).await;
}

/// The first rows of a table, in a query on top of them.
const FIRST: &str = "(SELECT * FROM accounts ORDER BY id DESC LIMIT 50) AS t";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_under_a_join_stays_there() {
    let Some((_crm, both)) = both("limit_join").await else { return };
    let sql = format!("SELECT t.id, m.amount FROM {FIRST} JOIN moves AS m ON m.account = t.id - 1500");
    both.not_asked(&sql, &["JOIN"]).await;
    let sql = format!("SELECT t.id, w.word FROM {FIRST} JOIN words AS w ON w.id = t.id - 1950");
    both.not_asked(&sql, &["JOIN"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_above_a_limit_stays_above_it() {
    let Some((_crm, both)) = both("limit_filter").await else { return };
    both.not_asked(&format!("SELECT id FROM {FIRST} WHERE region = 'r3'"), &["r3"]).await;
    both.not_asked(&format!("SELECT region, count(*) FROM {FIRST} GROUP BY region"), &["GROUP BY"]).await;
    both.plan(&format!("SELECT id FROM {FIRST} ORDER BY rate, id LIMIT 3")).await;
    both.plan(&format!("SELECT DISTINCT region FROM {FIRST}")).await;
    both.plan("SELECT count(*) FROM (SELECT DISTINCT region FROM accounts LIMIT 3) AS t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_in_exists_and_in_a_subquery_is_its_own() {
    let Some((_crm, both)) = both("limit_exists").await else { return };
    both.plan(
        "SELECT count(*) FROM accounts AS a WHERE EXISTS (SELECT 1 FROM moves AS m WHERE m.account = a.id LIMIT 1)",
    )
    .await;
    both.plan(
        "SELECT id FROM accounts WHERE id IN (SELECT account FROM moves ORDER BY amount DESC LIMIT 4) AND id > 0",
    )
    .await;
    both.plan("SELECT id FROM accounts WHERE rate = (SELECT max(rate) FROM accounts WHERE region = 'r1')").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_is_not_asked_for_because_its_name_is_known_there() {
    // Each of them is a function of Postgres as well, and means something else of some values.
    let more = "CREATE FUNCTION nullif2(int4) RETURNS int4 LANGUAGE sql AS 'SELECT 7'";
    let Some((crm, both)) = both("functions").await else { return };
    crm.admin.batch_execute(more).await.unwrap();
    for condition in [
        "round(rate) = 1126",
        "upper(region) = 'R3'",
        "trim(code) = 'ab'",
        "length(code) = 2",
        "concat(region, NULL) = 'r3'",
        "substr(region, 0, 2) = 'r'",
        "date_trunc('month', day) = TIMESTAMP '2024-01-01'",
        "id / 7 = 3",
        "id % -7 = 3",
        "abs(id) = 3",
        "coalesce(big, 0) = 0",
        "region LIKE 'r_'",
    ] {
        let sql = format!("SELECT count(*) AS n, min(id) AS least FROM accounts WHERE {condition}");
        let name = condition.split(['(', ' ']).next().unwrap();
        let calls = format!("{name}(");
        both.not_asked(&sql, &[&calls, " LIKE ", " / ", " % "]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_one_catalog_are_joined_by_the_server() {
    let Some((_crm, both)) = both("joins").await else { return };
    let join = "moves AS m JOIN accounts AS a ON a.id = m.account";
    both.asked(&format!("SELECT a.region, m.amount FROM {join} WHERE a.region = 'r2'"), &[" JOIN ", "WHERE"]).await;
    both.asked(
        &format!("SELECT a.region, sum(m.amount), count(*) FROM {join} GROUP BY a.region"),
        &[" JOIN ", "GROUP BY"],
    )
    .await;
    both.asked(&format!("SELECT m.amount, a.code FROM {join} ORDER BY m.amount DESC LIMIT 3"), &[" JOIN ", "LIMIT 3"])
        .await;
    both.asked(&format!("SELECT w.word, m.at FROM {join} JOIN words AS w ON w.id = a.id"), &[" JOIN "]).await;
    // A name twice, and a table with itself.
    both.asked("SELECT a.id, b.id FROM accounts AS a JOIN accounts AS b ON a.id = b.id WHERE b.id < 20", &[" JOIN "])
        .await;
    for other in ["LEFT", "RIGHT", "FULL"] {
        let sql = format!("SELECT a.id, m.amount FROM accounts AS a {other} JOIN moves AS m ON a.id = m.account");
        both.not_asked(&sql, &[" JOIN "]).await;
    }
    let more = "SELECT a.id FROM accounts AS a JOIN moves AS m ON a.id = m.account AND m.amount > a.rate";
    both.not_asked(more, &[" JOIN "]).await;
    let unequal = "SELECT w.id FROM words AS w JOIN accounts AS a ON w.odd = a.region OR w.id = a.id";
    both.not_asked(unequal, &[" JOIN "]).await;
    let many = "SELECT count(*) FROM accounts AS a JOIN accounts AS b ON a.region = b.region";
    both.not_asked(many, &[" JOIN "]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_cannot_be_represented_is_an_error_also_in_a_sum() {
    let Some(crm) = Crm::new("sums", "CREATE TABLE t (v numeric(9, 2)); INSERT INTO t VALUES (1), ('NaN')").await
    else {
        return;
    };
    for sql in ["SELECT sum(v) FROM t", "SELECT max(v) FROM t", "SELECT v FROM t"] {
        let query = query();
        let session = pushing(&query, &crm.connections, true);
        session.register_table("t", crm.table(&query, "t").await).unwrap();
        let error = collect(&session, sql).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::FormatNotSupported, "{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_is_asked_for_in_several_splits() {
    let more = "INSERT INTO moves SELECT i % 2000, i, now() FROM generate_series(1, 60000) i; ANALYZE moves";
    let Some((crm, both)) = both("split_joins").await else { return };
    crm.admin.batch_execute(more).await.unwrap();
    let join = "moves AS m JOIN accounts AS a ON a.id = m.account";
    let asked = &[" JOIN ", "splits=3"];
    both.asked(&format!("SELECT a.region, count(*), sum(m.amount) FROM {join} GROUP BY a.region"), asked).await;
    both.asked(&format!("SELECT a.region, m.amount FROM {join} WHERE a.region = 'r2'"), asked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_small_side_go_into_the_scan() {
    let more = "INSERT INTO moves SELECT i % 1000, i, now() FROM generate_series(1, 20000) i; ANALYZE moves";
    let Some((crm, both)) = both("dynamic").await else { return };
    crm.admin.batch_execute(more).await.unwrap();
    let few = "SELECT * FROM (VALUES (CAST(7 AS INT), 'a'), (11, 'b'), (NULL, 'c'), (5000, 'd')) AS k(id, name)";
    let join =
        |kind: &str| format!("SELECT k.name, m.amount FROM keys AS k {kind} JOIN moves AS m ON k.id = m.account");
    for (kind, is_filtered) in [("INNER", true), ("LEFT", true), ("RIGHT", false), ("FULL", false)] {
        let text = both.with_keys(few, &join(kind)).await;
        assert_eq!(text.contains("IN ('7'::int4, '11'::int4, '5000'::int4)"), is_filtered, "{kind}\n{text}");
    }
    for (sql, is_filtered) in [
        ("SELECT amount FROM moves WHERE account IN (SELECT id FROM keys)", true),
        ("SELECT name FROM keys AS k WHERE NOT EXISTS (SELECT 1 FROM moves AS m WHERE m.account = k.id)", true),
        ("SELECT amount FROM moves AS m WHERE NOT EXISTS (SELECT 1 FROM keys AS k WHERE m.account = k.id)", false),
        // What may have other rows the second time.
        ("SELECT m.amount FROM (SELECT id FROM keys LIMIT 5) AS k JOIN moves AS m ON k.id = m.account", false),
        ("SELECT m.amount FROM keys AS k JOIN moves AS m ON k.id = m.account WHERE k.id + random() * 0 >= 0", false),
        // Below a filter that stays here, and in a group that is pushed.
        (
            "SELECT m.amount FROM keys AS k JOIN (SELECT * FROM moves WHERE amount * 2 > 10) AS m ON k.id = m.account",
            true,
        ),
        (
            "SELECT k.name, m.s FROM keys AS k JOIN (SELECT account, sum(amount) AS s FROM moves GROUP BY account) AS m \
             ON k.id = m.account",
            false,
        ),
    ] {
        let text = both.with_keys(few, sql).await;
        assert_eq!(text.contains(" IN ('7'::int4"), is_filtered, "{sql}\n{text}");
    }
    // No key at all, and too many for a list.
    let text = both.with_keys(&format!("{few} WHERE id > 6000"), &join("INNER")).await;
    assert!(text.contains("WHERE FALSE"), "{text}");
    let many = "SELECT CAST(v AS INT) AS id, 'x' AS name FROM generate_series(100, 1300) AS g(v)";
    let text = both.with_keys(many, &join("INNER")).await;
    assert!(text.contains("= ANY ('{100,101,102,") && text.contains(",1300}'::int4[])"), "{text}");
    let text = both.with_keys(&many.replace("1300", "60200"), &join("INNER")).await;
    assert!(text.contains("BETWEEN '100'::int4 AND '60200'::int4"), "{text}");
    // Decimals are a list of constants, as long as it is short enough.
    let decimals = "SELECT CAST(v AS DECIMAL(12, 3)) AS amount FROM generate_series(1, 30000) AS g(v)";
    let sql = "SELECT m.account FROM keys AS k JOIN moves AS m ON k.amount = m.amount";
    let text = both.with_keys(decimals, sql).await;
    assert!(text.contains("BETWEEN '1.000'::numeric AND '30000.000'::numeric"), "{text}");
}
