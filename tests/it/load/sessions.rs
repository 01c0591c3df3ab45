//! Everyone has a session: what `USE` and `SET SESSION` say holds for the next statement, whatever one came in with.

use townlake_cli::args::{ConnectArgs, LoadMode};
use townlake_cli::connection::Connection;
use townlake_common::ErrorCode;
use townlake_tests::town::TownSpec;

use super::streams::{batch, stream};
use super::{Host, TOKEN, rows};

#[tokio::test(flavor = "multi_thread")]
async fn use_holds_for_a_token() {
    let host = Host::start().await;
    host.run("CREATE TABLE lake.web.t AS SELECT 1 AS id").await;
    let ci = host.town.connect_with_token(TOKEN).await;
    ci.run("USE lake.web").await.expect("USE");
    ci.run("SET SESSION query_timeout = '77s'").await.expect("SET SESSION");
    assert_eq!(rows(&ci, "SELECT id FROM t").await, ["1"]);
    let session = rows(&ci, "SHOW SESSION").await.join("\n");
    assert!(session.contains("77s") || session.contains("1m 17s"), "{session}");
    // another of the same token has a session of its own
    let other = host.town.connect_with_token(TOKEN).await;
    assert!(other.collect("SELECT id FROM t").await.is_err());
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn use_holds_for_one_without_credentials() {
    let spec = TownSpec::default().executors(1).toml("[auth]\nanonymous = true").lake("lake", &[], &["anonymous"]);
    let town = spec.start().await;
    let args = ConnectArgs { url: town.url(), user: None, password: None, token: None };
    let anyone = Connection::open(&args).await.expect("come in");
    for sql in ["CREATE SCHEMA lake.web", "USE lake.web", "CREATE TABLE t AS SELECT 1 AS id"] {
        anyone.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    assert_eq!(rows(&anyone, "SELECT id FROM t").await, ["1"]);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_the_door_stays_shut_where_it_must() {
    let host = Host::start().await;
    let args = ConnectArgs { url: host.town.url(), user: None, password: None, token: None };
    let error = Connection::open(&args).await.err().expect("nobody comes in like that");
    assert_eq!(error.code(), ErrorCode::Unauthenticated);
    host.town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_gone_is_followed_by_a_new_one() {
    let host = Host::start().await;
    host.run("CREATE TABLE lake.web.t AS SELECT 1 AS id").await;
    host.run("USE lake.web").await;
    assert_eq!(host.rows("SELECT id FROM t").await, ["1"]);
    // closed here, as the server does with one that is silent for too long
    host.ann.close().await;
    assert_eq!(host.rows("SELECT id FROM lake.web.t").await, ["1"]);
    assert!(host.ann.collect("SELECT id FROM t").await.is_err(), "USE is forgotten");
    host.ann.close().await;
    let loaded = host.ann.ingest(["lake", "web", "t"], LoadMode::Append, stream(vec![Ok(batch(2))])).await;
    assert_eq!(loaded.expect("an ingest in a new session"), 2);
    assert_eq!(host.rows("SELECT count(*) FROM lake.web.t").await, ["3"]);
    host.town.stop().await;
}
