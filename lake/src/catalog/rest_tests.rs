//! The REST client against a small REST server whose tables are those of an SQL catalog.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::{DataType, Field};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use iceberg::spec::Struct;
use iceberg::{TableRequirement, TableUpdate};
use serde_json::{Value, json};
use std::collections::HashMap;
use townlake_common::config::{CatalogConfig, Config};
use townlake_common::{ErrorCode, QueryId};

use super::sql::SqlCatalog;
use super::{Catalog, CommitOutcome, NewTable, TableName};
use crate::testing::{Lake, create_table, file};
use crate::{LakeCatalog, TableChange, plan_files};

struct Server {
    sql: SqlCatalog,
    tokens: AtomicUsize,
    /// Commits that are answered by 503 after they happened.
    lost: AtomicUsize,
    /// Commits that are answered by 409 without happening.
    conflicts: AtomicUsize,
    /// Commits that are answered by 409 after they happened: a proxy on the way sent them twice.
    doubled: AtomicUsize,
    /// Loads that are answered by 404 although the table is there.
    hidden: AtomicUsize,
    /// Token requests that are answered by 503.
    busy: AtomicUsize,
}

fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

type Answer = (StatusCode, Json<Value>);
type Shared = State<Arc<Server>>;

fn error(status: u16) -> Answer {
    let body = json!({ "error": { "message": "no such luck", "type": "X", "code": status } });
    (StatusCode::from_u16(status).unwrap(), Json(body))
}

fn ok(body: Value) -> Answer {
    (StatusCode::OK, Json(body))
}

/// Only the second token is good: the first has expired when it is used after the configuration.
fn allowed(server: &Server, headers: &HeaderMap) -> bool {
    let current = format!("Bearer token-{}", server.tokens.load(Ordering::SeqCst));
    headers.get("authorization").is_some_and(|given| given.to_str().unwrap() == current)
}

async fn token(State(server): Shared, body: String) -> Answer {
    if take(&server.busy) {
        return error(503);
    }
    assert!(body.contains("client_secret=hunter2") && body.contains("scope=catalog"), "{body}");
    let n = server.tokens.fetch_add(1, Ordering::SeqCst) + 1;
    ok(json!({ "access_token": format!("token-{n}"), "token_type": "bearer", "expires_in": 3600 }))
}

async fn config(State(server): Shared, headers: HeaderMap, Query(query): Query<HashMap<String, String>>) -> Answer {
    assert!(allowed(&server, &headers) && query["warehouse"].ends_with("warehouse"));
    server.tokens.fetch_add(1, Ordering::SeqCst); // what was given so far has expired now
    ok(json!({ "defaults": {}, "overrides": { "prefix": "my/prefix" } }))
}

async fn namespaces(State(server): Shared, headers: HeaderMap, Query(query): Query<HashMap<String, String>>) -> Answer {
    if !allowed(&server, &headers) {
        return error(401);
    }
    match query.get("parent").map(String::as_str) {
        // Two pages at the top.
        None if query["pageToken"].is_empty() => ok(json!({ "namespaces": [["s"]], "next-page-token": "2" })),
        None => ok(json!({ "namespaces": [["deep"]], "next-page-token": null })),
        Some("deep") => ok(json!({ "namespaces": [["deep", "er"]] })),
        Some(_) => ok(json!({ "namespaces": [] })),
    }
}

async fn list(State(server): Shared, Path(namespace): Path<String>) -> Answer {
    let tables = server.sql.list_tables(&namespace).await.unwrap();
    let tables: Vec<_> = tables.iter().map(|name| json!({ "namespace": [namespace], "name": name })).collect();
    ok(json!({ "identifiers": tables }))
}

async fn create(State(server): Shared, Path(namespace): Path<String>, Json(body): Json<Value>) -> Answer {
    let part = |name: &str| body[name].clone();
    let table = NewTable {
        schema: serde_json::from_value(part("schema")).unwrap(),
        spec: serde_json::from_value(part("partition-spec")).unwrap(),
        sort_order: serde_json::from_value(part("write-order")).unwrap(),
        properties: serde_json::from_value(part("properties")).unwrap(),
        location: serde_json::from_value(part("location")).unwrap(),
    };
    let name = TableName::new(&namespace, body["name"].as_str().unwrap());
    match server.sql.create_table(&name, table).await {
        Ok(head) => ok(json!({ "metadata-location": head.metadata_location, "metadata": *head.metadata })),
        // As SeaweedFS does it: the table that is there.
        Err(e) if e.code() == ErrorCode::AlreadyExists => {
            let head = server.sql.load(&name).await.unwrap().unwrap();
            ok(json!({ "metadata-location": head.metadata_location, "metadata": *head.metadata }))
        }
        Err(e) => panic!("{e}"),
    }
}

async fn load(State(server): Shared, Path((namespace, table)): Path<(String, String)>) -> Answer {
    if take(&server.hidden) {
        return error(404);
    }
    match server.sql.load(&TableName::new(&namespace, &table)).await.unwrap() {
        Some(head) => ok(json!({ "metadata-location": head.metadata_location, "metadata": *head.metadata })),
        None => error(404),
    }
}

async fn commit(
    State(server): Shared,
    Path((namespace, table)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Answer {
    if take(&server.conflicts) {
        return error(409);
    }
    let requirements: Vec<TableRequirement> = serde_json::from_value(body["requirements"].clone()).unwrap();
    let updates: Vec<TableUpdate> = serde_json::from_value(body["updates"].clone()).unwrap();
    let name = TableName::new(&namespace, &table);
    let base = server.sql.load(&name).await.unwrap().unwrap();
    match server.sql.commit(&name, &base, requirements, updates).await {
        CommitOutcome::Committed if take(&server.lost) => error(503),
        CommitOutcome::Committed if take(&server.doubled) => error(409),
        CommitOutcome::Committed => ok(json!({})),
        CommitOutcome::Conflict(_) => error(409),
        other => panic!("{other:?}"),
    }
}

/// One table gets another name; the answer may be lost on its way.
async fn rename(State(server): Shared, Json(body): Json<Value>) -> Answer {
    let name = |of: &str| {
        let part = &body[of];
        TableName::new(part["namespace"][0].as_str().unwrap(), part["name"].as_str().unwrap())
    };
    match server.sql.rename_table(&name("source"), &name("destination")).await {
        Ok(true) if take(&server.lost) => error(503),
        Ok(true) => (StatusCode::NO_CONTENT, Json(Value::Null)),
        Ok(false) => error(404),
        Err(e) if e.code() == ErrorCode::AlreadyExists => error(409),
        Err(e) => panic!("{e}"),
    }
}

async fn namespace(Path(namespace): Path<String>) -> Answer {
    if namespace == "s" { ok(json!({ "namespace": ["s"] })) } else { error(404) }
}

async fn start(lake: &Lake, lost: usize, conflicts: usize) -> (Arc<Server>, Arc<LakeCatalog>) {
    let (sql, _) = lake.sql().await;
    let counter = AtomicUsize::new;
    let (tokens, hidden, busy, doubled) = (counter(0), counter(0), counter(0), counter(0));
    let server = Server { sql, tokens, lost: counter(lost), conflicts: counter(conflicts), doubled, hidden, busy };
    let server = Arc::new(server);
    let prefix = "/api/v1/my/prefix/namespaces";
    let router = Router::new()
        .route("/api/v1/oauth/tokens", post(token))
        .route("/api/v1/config", get(config))
        .route("/api/v1/my/prefix/tables/rename", post(rename))
        .route(prefix, get(namespaces))
        .route(&format!("{prefix}/{{namespace}}"), get(namespace))
        .route(&format!("{prefix}/{{namespace}}/tables"), get(list).post(create))
        .route(&format!("{prefix}/{{namespace}}/tables/{{table}}"), get(load).post(commit))
        .with_state(Arc::clone(&server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let text = format!(
        "[catalogs.rest]\ntype = \"iceberg\"\ncatalog = \"rest\"\nuri = \"http://{address}/api\"\n\
         warehouse = \"file://{}/warehouse\"\ncredential = \"me:hunter2\"",
        lake.folder.path().display()
    );
    let Some(CatalogConfig::Iceberg(config)) = Config::from_toml(&text).unwrap().catalogs.remove("rest") else {
        panic!("no catalog")
    };
    (server, LakeCatalog::open("rest", &config).await.unwrap())
}

#[tokio::test]
async fn lists_creates_loads_and_commits_with_a_token_that_expires() {
    let lake = Lake::empty().await;
    let (server, rest) = start(&lake, 0, 0).await;
    assert_eq!(rest.list_schemas().await.unwrap(), ["deep", "deep.er", "s"]);
    assert_eq!(server.tokens.load(Ordering::SeqCst), 3, "a fresh token after the first had expired");
    assert!(rest.load("s", "t", None).await.unwrap().is_none());
    let columns = [("id", DataType::Int64)];
    let table = rest.create_table(create_table("t", &columns, &[])).await.unwrap().unwrap();
    let again = rest.create_table(create_table("t", &columns, &[])).await.unwrap_err();
    assert_eq!(again.code(), ErrorCode::AlreadyExists);
    // Another makes it between our look and our call.
    server.hidden.store(1, Ordering::SeqCst);
    let other = rest.create_table(create_table("t", &[("other", DataType::Int64)], &[])).await.unwrap_err();
    assert_eq!((other.code(), server.hidden.load(Ordering::SeqCst)), (ErrorCode::AlreadyExists, 0));
    let files = vec![file(&lake.location("t"), "a", Struct::empty(), |_| {})];
    let id = rest.commit_append(&table, files, &QueryId::generate()).await.unwrap();
    let table = rest.load("s", "t", None).await.unwrap().unwrap();
    assert_eq!(table.snapshot_id(), id);
    assert_eq!(plan_files(&table, &[]).await.unwrap().files.len(), 1);
    assert_eq!(rest.list_tables("s").await.unwrap(), ["t"]);
}

#[tokio::test]
async fn conflicts_are_retried_and_lost_answers_looked_up() {
    let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
    let (server, rest) = start(&lake, 1, 2).await;
    let table = rest.load("s", "t", None).await.unwrap().unwrap();
    let files = vec![file(&lake.location("t"), "a", Struct::empty(), |_| {})];
    let id = rest.commit_append(&table, files, &QueryId::generate()).await.unwrap();
    assert_eq!((server.lost.load(Ordering::SeqCst), server.conflicts.load(Ordering::SeqCst)), (0, 0), "faults fired");
    let table = rest.load("s", "t", None).await.unwrap().unwrap();
    assert_eq!((table.snapshot_id(), table.metadata.snapshots().len()), (id, 1));
}

#[tokio::test]
async fn a_conflict_with_ourselves_is_a_commit() {
    let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
    let (server, rest) = start(&lake, 0, 1).await;
    server.doubled.store(1, Ordering::SeqCst);
    let table = rest.load("s", "t", None).await.unwrap().unwrap();
    let files = vec![file(&lake.location("t"), "a", Struct::empty(), |_| {})];
    let id = rest.commit_append(&table, files, &QueryId::generate()).await.unwrap();
    assert_eq!(server.doubled.load(Ordering::SeqCst), 0, "the fault fired");
    let table = rest.load("s", "t", None).await.unwrap().unwrap();
    assert_eq!((table.snapshot_id(), table.metadata.snapshots().len()), (id, 1));
    assert_eq!(plan_files(&table, &[]).await.unwrap().files.len(), 1, "its manifest list is there");
}

#[tokio::test]
async fn a_busy_server_is_not_taken_for_a_refusal() {
    let lake = Lake::empty().await;
    let (server, rest) = start(&lake, 0, 0).await;
    server.busy.store(100, Ordering::SeqCst); // the token has expired by now
    let error = rest.list_schemas().await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (ErrorCode::SourceUnavailable, true), "{error}");
    server.busy.store(1, Ordering::SeqCst);
    assert_eq!(rest.list_schemas().await.unwrap(), ["deep", "deep.er", "s"]);
}

#[tokio::test]
async fn a_table_is_changed_and_renamed_once() {
    let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
    let (server, rest) = start(&lake, 1, 1).await;
    let path = |name: &str| vec![name.to_string()];
    let column = Arc::new(Field::new("extra", DataType::Utf8, true));
    let changes = [
        TableChange::AddColumn { path: path("extra"), column, position: None, if_not_exists: false },
        TableChange::RenameColumn { path: path("id"), to: "number".to_string() },
        TableChange::SetProperties(vec![("k".to_string(), "v".to_string())]),
    ];
    assert_eq!(rest.alter_table("s", "t", &changes).await.unwrap(), Some(true));
    assert_eq!((server.lost.load(Ordering::SeqCst), server.conflicts.load(Ordering::SeqCst)), (0, 0), "faults fired");
    let table = rest.load("s", "t", None).await.unwrap().unwrap();
    let names: Vec<_> = table.arrow_schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!((names, table.metadata.schemas_iter().len()), (vec!["number", "extra"], 2));

    server.lost.store(1, Ordering::SeqCst);
    assert!(rest.rename_table(("s", "t"), ("s", "u")).await.unwrap(), "the table tells what the answer did not");
    assert_eq!(server.lost.load(Ordering::SeqCst), 0, "the fault fired");
    assert!(!rest.rename_table(("s", "t"), ("s", "v")).await.unwrap());
    rest.create_table(create_table("w", &[("id", DataType::Int64)], &[])).await.unwrap();
    let taken = rest.rename_table(("s", "u"), ("s", "w")).await.unwrap_err();
    assert_eq!(taken.code(), ErrorCode::AlreadyExists);
    let nowhere = rest.rename_table(("s", "u"), ("none", "u")).await.unwrap_err();
    assert_eq!(nowhere.code(), ErrorCode::SchemaNotFound);
}
