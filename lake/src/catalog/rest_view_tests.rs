//! Views over REST where the server is of no help: it has no views, or does not say what became of a change. What a real
//! server does is tried by `tests/python/test_views.py`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::{Json, Router};
use iceberg::spec::ViewMetadata;
use serde_json::{Value, json};
use townlake_common::ErrorCode;
use townlake_common::config::{CatalogConfig, Config};

use super::TableName;
use super::rest_views::without_known;
use crate::{CreateView, LakeCatalog};

fn metadata() -> Value {
    json!({
        "format-version": 1, "view-uuid": "fa6506c3-7681-40c8-86dc-e36561f83385", "location": "s3://b/v",
        "current-version-id": 1, "properties": {}, "version-log": [{ "timestamp-ms": 1, "version-id": 1 }],
        "schemas": [{ "schema-id": 0, "type": "struct", "fields": [
            { "id": 1, "name": "id", "required": false, "type": "long" }] }],
        "versions": [{ "version-id": 1, "timestamp-ms": 1, "schema-id": 0, "summary": {}, "default-namespace": ["s"],
            "representations": [{ "type": "sql", "sql": "SELECT 1 AS id", "dialect": "townlake" }] }],
    })
}

/// How a server answers what is about views.
#[derive(Clone, Copy)]
enum Answers {
    /// This status to everything.
    Always(u16),
    /// There is a view `v`; changes are answered so.
    Changes(u16),
}

async fn answer(State(answers): State<Answers>, method: Method, uri: Uri) -> (StatusCode, Json<Value>) {
    let of_views = uri.path().contains("/views");
    let status = match (uri.path(), answers) {
        ("/v1/config", _) => return (StatusCode::OK, Json(json!({ "defaults": {}, "overrides": {} }))),
        ("/v1/namespaces/s", _) => return (StatusCode::OK, Json(json!({ "namespace": ["s"] }))),
        (_, Answers::Always(status)) if of_views => status,
        (_, Answers::Changes(_)) if of_views && method == Method::GET => {
            return (StatusCode::OK, Json(json!({ "metadata-location": "s3://b/v.json", "metadata": metadata() })));
        }
        (_, Answers::Changes(status)) if of_views => status,
        _ => 404,
    };
    let body = json!({ "error": { "message": "no such luck", "type": "X", "code": status } });
    (StatusCode::from_u16(status).unwrap(), Json(body))
}

async fn start(answers: Answers) -> Arc<LakeCatalog> {
    let router = Router::new().fallback(answer).with_state(answers);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let text = format!(
        "[catalogs.rest]\ntype = \"iceberg\"\ncatalog = \"rest\"\nuri = \"http://{address}\"\nwarehouse = \"s3://b/w\""
    );
    let Some(CatalogConfig::Iceberg(config)) = Config::from_toml(&text).unwrap().catalogs.remove("rest") else {
        panic!("no catalog")
    };
    LakeCatalog::open("rest", &config).await.unwrap()
}

fn create(sql: &str) -> CreateView {
    CreateView {
        schema: "s".to_string(),
        view: "v".to_string(),
        sql: sql.to_string(),
        default_schema: "s".to_string(),
        columns: vec![Arc::new(Field::new("id", DataType::Int64, true))],
        query_columns: vec!["id".to_string()],
        ..CreateView::default()
    }
}

#[tokio::test]
async fn a_server_without_views_has_none() {
    for status in [400, 404, 405, 406, 501] {
        let rest = start(Answers::Always(status)).await;
        assert!(rest.list_views("s").await.unwrap().is_empty(), "{status}");
        assert!(rest.load_view("s", "v").await.unwrap().is_none(), "{status}");
        assert!(
            !rest.drop_view("s", "v").await.unwrap() && !rest.drop_table("s", "v", true).await.unwrap(),
            "{status}"
        );
        assert!(!rest.rename_view(("s", "v"), ("s", "w")).await.unwrap(), "{status}");
        let error = rest.create_view(&create("SELECT 1 AS id")).await.unwrap_err();
        let expected = if status == 400 { ErrorCode::SourceError } else { ErrorCode::NotSupported };
        assert_eq!(error.code(), expected, "{status}: {error}");
    }
    let busy = start(Answers::Always(503)).await;
    assert_eq!(busy.list_views("s").await.unwrap_err().code(), ErrorCode::SourceUnavailable, "it may have some");
    assert_eq!(busy.load_view("s", "v").await.unwrap_err().code(), ErrorCode::SourceUnavailable);
    assert_eq!(busy.drop_table("s", "v", true).await.unwrap_err().code(), ErrorCode::SourceUnavailable);
    // Rights on tables and on views are apart: what is done with tables needs none on views.
    let denied = start(Answers::Always(403)).await;
    assert!(denied.list_views("s").await.unwrap().is_empty());
    assert_eq!(denied.load_view("s", "v").await.unwrap_err().code(), ErrorCode::SourceDenied);
    assert_eq!(denied.drop_view("s", "v").await.unwrap_err().code(), ErrorCode::SourceDenied);
    assert!(!denied.drop_table("s", "v", true).await.unwrap());
    assert!(denied.check_no_view(&TableName::new("s", "v")).await.is_ok());
}

#[tokio::test]
async fn what_becomes_of_a_change_is_told_as_far_as_it_is_known() {
    let replace = CreateView { replace: true, ..create("SELECT 2 AS id") };
    for (status, code) in [
        (403, ErrorCode::SourceDenied),
        (422, ErrorCode::SourceError),
        (500, ErrorCode::CommitStateUnknown),
        (503, ErrorCode::CommitStateUnknown),
    ] {
        let rest = start(Answers::Changes(status)).await;
        assert_eq!(rest.create_view(&replace).await.unwrap_err().code(), code, "{status}");
        assert_eq!(rest.comment_view("s", "v", Some("x")).await.unwrap_err().code(), code, "{status}");
    }
}

#[test]
fn what_the_view_has_is_named_by_its_id() {
    let base: ViewMetadata = serde_json::from_value(metadata()).unwrap();
    let schema = base.current_schema().as_ref().clone();
    let changed = |sql: &str, schema: iceberg::spec::Schema| {
        let mut version = serde_json::to_value(base.current_version().as_ref()).unwrap();
        version["representations"][0]["sql"] = json!(sql);
        let version = serde_json::from_value(version).unwrap();
        let built = base.clone().into_builder().set_current_version(version, schema).unwrap().build().unwrap();
        without_known(serde_json::to_value(&built.changes).unwrap(), &base, &built.metadata)
    };
    let actions = |updates: &Value| -> Vec<String> {
        updates.as_array().unwrap().iter().map(|update| update["action"].as_str().unwrap().to_string()).collect()
    };
    let same_columns = changed("SELECT 2 AS id", schema.clone());
    assert_eq!(actions(&same_columns), ["add-view-version", "set-current-view-version"]);
    assert_eq!(same_columns[0]["view-version"]["schema-id"], 0);
    assert_eq!(same_columns[1]["view-version-id"], -1);
    let mut fields: Vec<_> = schema.as_struct().fields().to_vec();
    fields.push(Arc::new(iceberg::spec::NestedField::optional(2, "more", iceberg::spec::PrimitiveType::Int.into())));
    let more_columns =
        changed("SELECT 2 AS id, 3 AS more", iceberg::spec::Schema::builder().with_fields(fields).build().unwrap());
    assert_eq!(actions(&more_columns), ["add-schema", "add-view-version", "set-current-view-version"]);
    assert_eq!(more_columns[1]["view-version"]["schema-id"], -1);
}
