//! More queries than connections, and an account with time limits of its own.

use std::time::Duration;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use townlake_tests::postgres::PASSWORD;
use townlake_tests::town::TownSpec;

use super::{Crm, collect, connections, query, session};

const QUERIES: usize = 20;
const BUDGET: i64 = 4;

/// `QUERIES` federated joins at once through the door. Four connections a process are two snapshots at a time.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_federated_queries_share_four_connections() {
    let sql = "CREATE TABLE accounts AS SELECT i::int8 AS id, i % 10 AS kind FROM generate_series(1, 20000) i;
        CREATE TABLE kinds AS SELECT i AS kind, 'kind ' || i AS name FROM generate_series(0, 9) i;";
    let Some(crm) = Crm::new("twenty_at_once", sql).await else { return };
    let url = crm.postgres.url("twenty_at_once");
    let catalog = format!(
        "[catalogs.crm]\ntype = \"postgres\"\nurl = \"{url}\"\nconnections = {BUDGET}\nreaders = [\"ann\"]\n\
         [limits]\nconcurrent_queries = 64"
    );
    let spec = TownSpec::default().user("ann", "a password", &[]).lake("lake", &[], &["ann"]).toml(&catalog);
    let town = spec.start().await;
    let connection = town.connect("ann", "a password").await;
    for statement in [
        "CREATE SCHEMA lake.books",
        "CREATE TABLE lake.books.weights AS SELECT kind, CAST(kind AS BIGINT) * 2 AS weight FROM crm.public.kinds",
        "SET SESSION execution = 'cluster'",
    ] {
        connection.run(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let join = "SELECT count(*) AS n, sum(weight) AS w FROM crm.public.accounts \
        JOIN crm.public.kinds USING (kind) JOIN lake.books.weights USING (kind) WHERE name <> 'kind 3'";
    let asked = (0..QUERIES).map(|_| {
        let connection = connection.clone();
        tokio::spawn(async move { connection.collect(join).await })
    });
    let asked: Vec<_> = asked.collect();
    let open =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'twenty_at_once' AND application_name LIKE 'townlake%'";
    let mut most = 0;
    while !asked.iter().all(|task| task.is_finished()) {
        most = most.max(crm.admin.query_one(open, &[]).await.unwrap().get::<_, i64>(0));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (number, task) in asked.into_iter().enumerate() {
        let (_, batches) = task.await.unwrap().unwrap_or_else(|error| panic!("query {number}: {error:?}"));
        let number = |column: usize| batches[0].column(column).as_primitive::<Int64Type>().value(0);
        assert_eq!((number(0), number(1)), (18_000, 2000 * (45 - 3) * 2));
    }
    // A coordinator and two executors, each with a budget of its own.
    assert!((3..=3 * BUDGET).contains(&most), "{most} connections");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_of_the_account_end_no_query_of_ours() {
    let sql = "CREATE TABLE t AS SELECT i FROM generate_series(1, 3) i;
        CREATE VIEW slow AS SELECT i, pg_sleep(0.2)::text AS s FROM t;
        CREATE VIEW limits AS SELECT current_setting('statement_timeout') AS statement;
        CREATE ROLE hurried LOGIN PASSWORD 'hurried-secret';
        ALTER ROLE hurried SET statement_timeout = '150ms';
        ALTER ROLE hurried SET idle_in_transaction_session_timeout = '150ms';
        ALTER ROLE hurried SET idle_session_timeout = '150ms';
        GRANT SELECT ON t, slow, limits TO hurried;";
    let Some(crm) = Crm::new("hurried", sql).await else { return };
    let url = crm.postgres.url("hurried").replace(&format!("postgres:{PASSWORD}@"), "hurried:hurried-secret@");
    let sources = connections(&url, "");
    let read = async |table: &str| {
        let query = query();
        let session = session(&query, &sources, 2);
        let source = sources.source("crm").unwrap();
        session.register_table("t", source.table(&query, "public", table).await.unwrap().unwrap()).unwrap();
        collect(&session, "SELECT * FROM t").await.unwrap_or_else(|error| panic!("{table}: {error:?}"))
    };
    // Longer than all three limits: the statement itself, and the snapshot that idles in its transaction meanwhile.
    assert_eq!(read("slow").await.iter().map(|batch| batch.num_rows()).sum::<usize>(), 3);
    tokio::time::sleep(Duration::from_millis(400)).await;
    let limits = read("limits").await;
    assert_eq!(limits[0].column(0).as_string::<i32>().value(0), "0");
    // What lies idle may be ended; nothing that works.
    let log = crm.postgres.log();
    let ended: Vec<_> = log.lines().filter(|line| line.contains("timeout") && line.contains("FATAL")).collect();
    assert!(ended.iter().all(|line| line.contains("idle-session timeout")), "{ended:?}");
}
