//! More queries than connections, a budget over all nodes, a server that lets no more in, and an account with time limits of its own.

use std::time::Duration;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use townlake_cli::connection::Connection;
use townlake_common::ErrorCode;
use townlake_tests::postgres::PASSWORD;
use townlake_tests::town::{Town, TownSpec};

use super::{Crm, collect, connections, query, session};

const QUERIES: usize = 20;
/// A town of two executors over a database of its own, and a user's connection to it.
async fn town_over(crm: &Crm, database: &str, budget: i64) -> (Town, Connection) {
    let url = crm.postgres.url(database);
    let catalog = format!(
        "[catalogs.crm]\ntype = \"postgres\"\nurl = \"{url}\"\nconnections = {budget}\nreaders = [\"ann\"]\n\
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
    (town, connection)
}

/// `QUERIES` federated joins at once; the most connections that the database had meanwhile.
async fn most_connections(crm: &Crm, database: &str, connection: &Connection) -> i64 {
    let join = "SELECT count(*) AS n, sum(weight) AS w FROM crm.public.accounts \
        JOIN crm.public.kinds USING (kind) JOIN lake.books.weights USING (kind) WHERE name <> 'kind 3'";
    let asked = (0..QUERIES).map(|_| {
        let connection = connection.clone();
        tokio::spawn(async move { connection.collect(join).await })
    });
    let asked: Vec<_> = asked.collect();
    let open = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name LIKE 'townlake%'"
    );
    let mut most = 0;
    while !asked.iter().all(|task| task.is_finished()) {
        most = most.max(crm.admin.query_one(&open, &[]).await.unwrap().get::<_, i64>(0));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (number, task) in asked.into_iter().enumerate() {
        let (_, batches) = task.await.unwrap().unwrap_or_else(|error| panic!("query {number}: {error:?}"));
        let number = |column: usize| batches[0].column(column).as_primitive::<Int64Type>().value(0);
        assert_eq!((number(0), number(1)), (18_000, 2000 * (45 - 3) * 2));
    }
    most
}

const TABLES: &str = "CREATE TABLE accounts AS SELECT i::int8 AS id, i % 10 AS kind FROM generate_series(1, 20000) i;
    CREATE TABLE kinds AS SELECT i AS kind, 'kind ' || i AS name FROM generate_series(0, 9) i;";

/// Four connections are the least that a coordinator and two executors work with: one snapshot at a time.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_federated_queries_share_four_connections_of_the_cluster() {
    let Some(crm) = Crm::new("twenty_at_once", TABLES).await else { return };
    let (town, connection) = town_over(&crm, "twenty_at_once", 4).await;
    let most = most_connections(&crm, "twenty_at_once", &connection).await;
    assert!((3..=4).contains(&most), "{most} connections");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_comes_or_goes_changes_the_shares() {
    let Some(crm) = Crm::new("one_more", TABLES).await else { return };
    let (mut town, connection) = town_over(&crm, "one_more", 10).await;
    let share = "townlake_source_connections_share{catalog=\"crm\"}";
    town.wait_for_metric(share, |share| share == 5.0).await;
    let most = most_connections(&crm, "one_more", &connection).await;
    assert!((5..=10).contains(&most), "{most} connections");
    town.one_more().await;
    town.wait_for_metric(share, |share| share == 4.0).await;
    let most = most_connections(&crm, "one_more", &connection).await;
    assert!((5..=10).contains(&most), "{most} connections");
    town.executors.remove(0).stop().await;
    town.executors.remove(0).stop().await;
    town.wait_for_metric(share, |share| share == 5.0).await;
    let most = most_connections(&crm, "one_more", &connection).await;
    assert!((3..=10).contains(&most), "{most} connections");
    let url = format!("http://{}/metrics", town.executors[0].http_addr());
    let metrics = reqwest::get(&url).await.unwrap().text().await.unwrap();
    assert!(metrics.contains(&format!("{share} 5")), "{metrics}");
    town.stop().await;
}

/// Other clients have taken what the server gives: splits try on, look-ups say what is the matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lets_no_more_in_is_asked_again_for_splits() {
    let sql = "CREATE TABLE t AS SELECT i FROM generate_series(1, 30000) i; ANALYZE t;
        CREATE ROLE narrow LOGIN PASSWORD 'narrow-secret' CONNECTION LIMIT 3;
        GRANT SELECT ON t TO narrow;";
    let Some(crm) = Crm::new("narrow", sql).await else { return };
    let url = crm.postgres.url("narrow").replace(&format!("postgres:{PASSWORD}@"), "narrow:narrow-secret@");
    let sources = connections(&url, "connections = 8\nmax_splits = 4");
    let other = || async {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let (first, second, third) = (other().await, other().await, other().await);
    let context = query();
    let source = sources.source("crm").unwrap();
    let error = source.table(&context, "public", "t").await.unwrap_err();
    assert!(error.is_retryable() && error.message().contains("SQLSTATE 53300"), "{error:?}");
    assert!(error.hint().unwrap().contains("max_connections"), "{error:?}");
    assert_eq!(error.code(), ErrorCode::SourceUnavailable);

    // One for the snapshot, and none for the splits until another client goes.
    drop(third);
    let session = session(&context, &sources, 4);
    let table = loop {
        // The server needs a moment to see that a client is gone.
        match source.table(&context, "public", "t").await {
            Ok(table) => break table.unwrap(),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    session.register_table("t", table).unwrap();
    let reading = tokio::spawn(async move { collect(&session, "SELECT i FROM t").await });
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!reading.is_finished(), "there is no connection for a split");
    drop((first, second));
    let rows = reading.await.unwrap().unwrap();
    assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 30_000);
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
