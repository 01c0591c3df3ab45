//! Queries in Postgres' own SQL, as tables.

use std::sync::Arc;

use townlake_common::ErrorCode;

use super::{Crm, collect, query, session};

const DATA: &str = "
    CREATE TYPE mood AS ENUM ('ok', 'bad');
    CREATE DOMAIN cents AS numeric(12, 2);
    CREATE TABLE t (id int4, name text, mood mood, price cents, tags text[]);
    INSERT INTO t SELECT i, 'n' || i, CASE WHEN i % 2 = 0 THEN 'ok'::mood END, i * 1.25, ARRAY['x', i::text] FROM generate_series(1, 100) i;
    CREATE TABLE u (id int4, v int8); INSERT INTO u SELECT i, i * i FROM generate_series(1, 100) i; ANALYZE";

/// The rows of `sql`, in which `q` is the table of the query `passed`.
async fn ask(crm: &Crm, passed: &str, sql: &str) -> Result<String, townlake_common::Error> {
    let context = query();
    let session = session(&context, &crm.connections, 4);
    session.register_table("q", crm.source().query(&context, passed).await?).expect("register");
    session.register_table("u", crm.table(&context, "u").await).expect("register");
    let rows = collect(&session, sql).await?;
    Ok(datafusion::arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_a_table_with_its_types() {
    let Some(crm) = Crm::configured("passed", DATA, "pass_through = true").await else { return };
    let passed = "SELECT mood, price, tags, id AS \"the Id\", to_char(id, '000') AS c FROM t WHERE id < 3 -- so";
    let text = ask(&crm, passed, "SELECT * FROM q ORDER BY \"the Id\"").await.unwrap();
    let lines: Vec<_> = text.lines().skip(1).collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
        "| mood | price | tags | the Id | c |",
        "{text}"
    );
    assert!(lines[2].contains("1.25") && lines[2].contains("[x, 1]") && lines[2].contains(" 001"), "{text}");
    assert!(lines[3].contains("ok") && lines[3].contains("2.50"), "{text}");
    // A semicolon at its end, what only reads, a filter on top, a group.
    let sql = "SELECT count(*) AS n, sum(q.v) AS s FROM q JOIN u ON q.id = u.id WHERE q.v > 9000";
    let text = ask(&crm, "WITH w AS (SELECT * FROM u) SELECT id, v FROM w;", sql).await.unwrap();
    assert!(text.contains("| 6 "), "{text}");
    let context = query();
    let session = session(&context, &crm.connections, 4);
    let table = crm.source().query(&context, "SELECT id, name FROM t").await.unwrap();
    session.register_table("q", Arc::clone(&table)).expect("register");
    let plan =
        session.sql("SELECT name FROM q WHERE id = 7 AND name < 'z'").await.unwrap().create_physical_plan().await;
    let text = datafusion::physical_plan::displayable(plan.unwrap().as_ref()).indent(false).to_string();
    assert!(text.contains("table=crm.system.query, splits=1") && text.contains("\"id\"::int4 = '7'::int4"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_off_by_default() {
    let Some(crm) = Crm::new("passed_off", DATA).await else { return };
    let error = crm.source().query(&query(), "SELECT 1 AS x").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotSupported);
    assert!(error.hint().unwrap().contains("pass_through = true"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_only_reads_and_is_one_query() {
    let Some(crm) = Crm::configured("passed_reads", DATA, "pass_through = true").await else { return };
    for passed in [
        "DELETE FROM t",
        "DELETE FROM t RETURNING id",
        "WITH d AS (DELETE FROM t RETURNING id) SELECT * FROM d",
        "SELECT * INTO kept FROM t",
        "SELECT 1 AS x; DELETE FROM t",
        "SELECT 1 AS x) AS a; DELETE FROM t; --",
        "SELECT 1 AS x) AS a(x), (SELECT 2",
        "CREATE TABLE kept AS SELECT 1",
        "SELECT * FROM t FOR UPDATE",
        "COMMIT",
        "SET ROLE postgres",
        "EXPLAIN ANALYZE DELETE FROM t",
        "SELECT $1::int AS x",
        "SELECT 1 AS x, 2 AS x",
        "SELECT no_such FROM t",
        "SELECT setval('seq', 7) AS x",
        "",
    ] {
        let outcome = ask(&crm, passed, "SELECT count(*) FROM q").await;
        assert!(outcome.is_err(), "{passed}: {outcome:?}");
    }
    let error = ask(&crm, "SELECT no_such FROM t", "SELECT * FROM q").await.unwrap_err();
    assert!(error.message().contains("no_such") && error.message().contains("crm"), "{error}");
    let rows: i64 = crm.admin.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(rows, 100);
    assert!(crm.admin.query_opt("SELECT 1 FROM pg_class WHERE relname = 'kept'", &[]).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_reads_at_the_moment_of_the_query() {
    let Some(crm) = Crm::configured("passed_moment", DATA, "pass_through = true").await else { return };
    let context = query();
    let session = session(&context, &crm.connections, 4);
    session.register_table("u", crm.table(&context, "u").await).expect("register");
    session.register_table("q", crm.source().query(&context, "SELECT count(*) AS n FROM u").await.unwrap()).unwrap();
    let sql = "SELECT (SELECT n FROM q) = (SELECT count(*) FROM u) AS same";
    let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    crm.admin.batch_execute("DELETE FROM u WHERE id > 50").await.unwrap();
    let rows = datafusion::physical_plan::collect(plan, session.task_ctx()).await.unwrap();
    let text = datafusion::arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
    assert!(text.contains("true"), "{text}");
}
