//! Servers that are down, closed, restarted or not who they should be.

use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use townlake_common::{Error, ErrorCode};
use townlake_tests::postgres::{PASSWORD, Postgres};

use super::{Crm, collect, connections, query, session, typed};

async fn schemas(url: &str, keys: &str) -> Result<Vec<String>, Error> {
    connections(url, keys).source("crm").unwrap().list_schemas(&query()).await
}

fn tells_no_secret(error: &Error) {
    let told = format!("{error} {error:?} {}", error.to_wire());
    assert!(!told.contains(PASSWORD) && !told.contains("postgres://"), "{told}");
}

#[tokio::test]
async fn a_server_that_is_down_is_named_and_a_restart_is_survived() {
    let Some(postgres) = Postgres::start("a_server_that_is_down") else { return };
    let admin = postgres.create_database("crm").await;
    admin.batch_execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 10) i").await.unwrap();
    let sources = connections(&postgres.url("crm"), "connect_timeout = \"2s\"");
    let source = sources.source("crm").unwrap();
    let read = async |sql: &str| {
        let query = query();
        let session: SessionContext = session(&query, &sources, 2);
        session.register_table("t", source.table(&query, "public", "t").await?.unwrap()).unwrap();
        collect(&session, sql).await
    };
    assert_eq!(read("SELECT i FROM t").await.unwrap()[0].num_rows(), 10);

    postgres.stop();
    let error = read("SELECT i FROM t").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceUnavailable, "{error}");
    assert!(error.is_retryable());
    let host = format!("127.0.0.1:{}", postgres.port());
    assert!(error.message().contains("catalog crm") && error.message().contains(&host), "{error}");
    tells_no_secret(&error);

    postgres.restart();
    assert_eq!(read("SELECT i FROM t").await.unwrap()[0].num_rows(), 10, "dead connections are replaced");
    // Idle connections that died while nobody looked are replaced too.
    postgres.restart();
    assert_eq!(read("SELECT i FROM t").await.unwrap()[0].num_rows(), 10);
}

#[tokio::test]
async fn refusals_are_typed() {
    let Some(crm) = Crm::new(
        "refused",
        "CREATE TABLE t (i int4); INSERT INTO t VALUES (0);
        CREATE VIEW broken AS SELECT 1 / i AS x, 'secret-data'::text || i AS s FROM t;
        CREATE VIEW quoting AS SELECT ('secret-data' || i)::int4 AS x FROM t;",
    )
    .await
    else {
        return;
    };
    let url = crm.postgres.url("refused");
    let error = schemas(&url.replace(PASSWORD, "wrong-password"), "").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceDenied, "{error}");
    assert!(!format!("{error:?}").contains("wrong-password"), "{error:?}");
    let error = schemas(&url.replace("/refused", "/no_such_database"), "").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceError, "{error}");
    tells_no_secret(&error);

    let error = crm.query(&["broken"], "SELECT * FROM broken").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceError, "{error}");
    assert!(error.message().contains("public.broken") && error.message().contains("22012"), "{error}");
    let error = crm.query(&["quoting"], "SELECT * FROM quoting").await.unwrap_err();
    assert!(!error.to_string().contains("secret-data"), "an error text quotes no row: {error}");

    let ended = query();
    let (plan, _) = crm.plan(&ended, &["t"], "SELECT * FROM t").await;
    drop(ended);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let mut stream = execute_stream(plan, session(&query(), &crm.connections, 2).task_ctx()).unwrap();
    let error = typed(stream.next().await.unwrap().unwrap_err());
    assert!(error.is_retryable() && error.message().contains("snapshot in Postgres"), "{error}");

    let query = query();
    let session = crm.session(&query, 2, &["t"]).await;
    crm.admin.batch_execute("DROP TABLE t CASCADE").await.unwrap();
    let error = collect(&session, "SELECT * FROM t").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TableNotFound, "{error}");
}

#[tokio::test]
async fn tls_is_used_as_configured() {
    let Some(crm) = Crm::new("tls_modes", "").await else { return };
    let Some(authority) = crm.postgres.authority() else {
        eprintln!("SKIPPED tls_is_used_as_configured: there is no openssl to make a certificate");
        return;
    };
    let url = crm.postgres.url("tls_modes");
    let encrypted = "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.datname = 'tls_modes' \
         AND a.application_name = 'townlake'";
    let ca = format!("tls_ca = \"{}\"", authority.display());
    let cases = [
        ("tls = \"disable\"".to_string(), false),
        ("tls = \"prefer\"".to_string(), true),
        ("tls = \"require\"".to_string(), true),
        (format!("tls = \"require\"\n{ca}"), true),
        (format!("tls = \"verify-full\"\n{ca}"), true),
    ];
    for (keys, is_encrypted) in cases {
        let sources = connections(&url, &keys);
        sources.source("crm").unwrap().list_schemas(&query()).await.unwrap_or_else(|error| panic!("{keys}: {error:?}"));
        let rows = crm.admin.query(encrypted, &[]).await.unwrap();
        let states: Vec<bool> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(states, [is_encrypted], "{keys}");
        drop(sources);
        while !crm.admin.query(encrypted, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    // Of an authority that the system does not know, and not for this name.
    let error = schemas(&url, "tls = \"verify-full\"").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceDenied, "{error}");
    assert!(error.message().contains("TLS"), "{error}");
    let error =
        schemas(&url.replace("127.0.0.1", "localhost"), &format!("tls = \"verify-full\"\n{ca}")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceDenied, "{error}");
    tells_no_secret(&error);

    // With an authority, `require` asks who signed the certificate, and not for which host.
    let by_name = url.replace("127.0.0.1", "localhost");
    schemas(&by_name, &format!("tls = \"require\"\n{ca}")).await.unwrap();
    let stranger = authority_of_nobody();
    let error = schemas(&url, &format!("tls = \"require\"\ntls_ca = \"{}\"", stranger.path().display())).await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceDenied, "{error}");
    assert!(error.message().contains("TLS") && error.message().contains("UnknownIssuer"), "{error}");
    tells_no_secret(&error);
}

/// The certificate of an authority that signed nothing.
fn authority_of_nobody() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a stranger", "-keyout", "/dev/null"]);
    let output = openssl.arg("-out").arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    file
}
