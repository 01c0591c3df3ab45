//! Servers that are down, closed, restarted, or whose answers end in an error.

use datafusion::physical_plan::execute_stream;
use futures::StreamExt;
use townlake_common::{Error, ErrorCode};
use townlake_tests::clickhouse::{ClickHouse, Engine, PASSWORD};

use super::{Ch, collect, connections, query, session, typed};

fn tells_no_secret(error: &Error) {
    let told = format!("{error} {error:?} {}", error.to_wire());
    assert!(!told.contains(PASSWORD) && !told.contains("http://"), "{told}");
}

#[tokio::test]
async fn a_server_that_is_down_is_named_and_a_restart_is_survived() {
    let Some(server) = ClickHouse::start(Engine::Old, "a_server_that_is_down") else { return };
    server.run("CREATE TABLE t ENGINE = MergeTree ORDER BY i AS SELECT number AS i FROM numbers(10)").await;
    let sources = connections(&server.url(), "connect_timeout = \"2s\"");
    let source = sources.source("ch").unwrap();
    let read = async |sql: &str| {
        let query = query();
        let session = session(&query, &sources, 2);
        session.register_table("t", source.table(&query, "default", "t").await?.unwrap()).unwrap();
        collect(&session, sql).await
    };
    assert_eq!(read("SELECT i FROM t").await.unwrap()[0].num_rows(), 10);

    server.stop();
    let error = read("SELECT i FROM t").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceUnavailable, "{error}");
    assert!(error.is_retryable());
    let host = format!("127.0.0.1:{}", server.port());
    assert!(error.message().contains("catalog ch") && error.message().contains(&host), "{error}");
    tells_no_secret(&error);

    server.restart();
    assert_eq!(read("SELECT i FROM t").await.unwrap()[0].num_rows(), 10);
}

#[tokio::test]
async fn refusals_are_typed() {
    let statements = ["CREATE TABLE DB.t (i Int32) ENGINE = MergeTree ORDER BY i", "INSERT INTO DB.t VALUES (0)"];
    for ch in Ch::each("refused", &statements).await {
        let query = query();
        let session = ch.session(&query, 2, &["t"]).await;
        ch.server.run("DROP TABLE refused.t").await;
        let error = collect(&session, "SELECT * FROM t").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::TableNotFound, "{error}");
        assert!(error.message().contains("code 60"), "{error}");
        tells_no_secret(&error);
    }
    let Some(ch) = Ch::of(Engine::Old, "refused_users", &[], "").await else { return };
    for url in [ch.server.url().replace(PASSWORD, "wrong-password"), ch.server.url_of("nobody")] {
        let error = connections(&url, "").source("ch").unwrap().list_schemas(&query()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SourceDenied, "{error}");
        let told = format!("{error:?}");
        assert!(!told.contains("wrong-password") && !told.contains("nobody"), "{told}");
        tells_no_secret(&error);
    }
}

#[tokio::test]
async fn an_error_behind_rows_is_an_error() {
    // Rows of many blocks first, so that they are on their way when the error comes. One is at the end of the answer.
    let statements = [
        "CREATE VIEW DB.broken AS SELECT number AS n, throwIf(number = 3000000) AS t, 'secret-data' AS s FROM system.numbers LIMIT 4000000",
        "CREATE VIEW DB.last AS SELECT number AS n, throwIf(number = 2999999) AS t, 'secret-data' AS s FROM system.numbers LIMIT 3000000",
    ];
    let Some(ch) = Ch::of(Engine::Old, "error_behind_rows", &statements, "").await else { return };
    for table in ["broken", "last"] {
        let query = query();
        let (plan, _) = ch.plan(&query, &[table], &format!("SELECT n, t, s FROM {table}")).await;
        let mut stream = execute_stream(plan, session(&query, &ch.connections, 1).task_ctx()).unwrap();
        let mut rows = 0;
        let error = loop {
            match stream.next().await.expect("the answer ends with an error") {
                Ok(batch) => rows += batch.num_rows(),
                Err(error) => break typed(error),
            }
        };
        assert!((1..3_000_000).contains(&rows), "{table}: {rows} rows before the error");
        assert_eq!(error.code(), ErrorCode::SourceError, "{error}");
        let told = format!("error_behind_rows.{table}");
        assert!(error.message().contains(&told) && error.message().contains("code 395"), "{error}");
        assert!(!error.to_string().contains("secret-data"), "{error}");
        assert!(stream.next().await.is_none(), "nothing after it");
    }
}

#[tokio::test]
async fn accounts_that_may_change_nothing_read_whole_answers_or_none() {
    let statements = ["CREATE TABLE DB.t ENGINE = MergeTree ORDER BY n AS SELECT number AS n FROM numbers(200000)"];
    let Some(ch) = Ch::of(Engine::Old, "accounts", &statements, "").await else { return };
    let count = async |user: &str| {
        let sources = connections(&ch.server.url_of(user), "");
        let query = query();
        let session = session(&query, &sources, 2);
        let table = sources.source("ch").unwrap().table(&query, "accounts", "t").await?.unwrap();
        session.register_table("t", table).unwrap();
        let rows = collect(&session, "SELECT n FROM t").await?;
        Ok::<_, Error>(rows.iter().map(|batch| batch.num_rows()).sum::<usize>())
    };
    assert_eq!(count("reader").await.unwrap(), 200_000);
    let error = count("cut").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceDenied, "{error}");
    assert!(error.message().contains("result_overflow_mode"), "{error}");
    // This one may change its settings: the limit becomes an error.
    let error = count("loose").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceError, "{error}");
    assert!(error.message().contains("code 396") || error.message().contains("code 158"), "{error}");
}

#[tokio::test]
async fn tls_is_verified() {
    let Some(ch) = Ch::of(Engine::Old, "tls", &[], "").await else { return };
    let Some(authority) = ch.server.authority() else {
        eprintln!("SKIPPED tls_is_verified: there is no openssl to make a certificate");
        return;
    };
    let schemas = async |url: &str, keys: &str| {
        let sources = connections(url, keys);
        sources.source("ch").unwrap().list_schemas(&query()).await
    };
    let ca = format!("tls_ca = \"{}\"", authority.display());
    let url = ch.server.tls_url();
    assert!(schemas(&url, &ca).await.unwrap().contains(&"tls".to_string()));
    // Of an authority that nobody knows, and not for this name.
    for (url, keys) in [(url.clone(), ""), (url.replace("127.0.0.1", "localhost"), ca.as_str())] {
        let error = schemas(&url, keys).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SourceDenied, "{error}");
        assert!(error.message().contains("TLS") && !error.is_retryable(), "{error}");
        tells_no_secret(&error);
    }
}
