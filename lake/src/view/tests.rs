use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use iceberg::spec::ViewMetadata;
use townlake_common::ErrorCode;

use super::*;
use crate::testing::{Lake, create_table};

fn column(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, true))
}

fn create(view: &str, sql: &str) -> CreateView {
    CreateView {
        schema: "s".to_string(),
        view: view.to_string(),
        sql: sql.to_string(),
        default_schema: "s".to_string(),
        columns: vec![column("id", DataType::Int64)],
        query_columns: vec!["id".to_string()],
        ..CreateView::default()
    }
}

#[tokio::test]
async fn views_come_change_and_go() {
    let lake = Lake::empty().await;
    let catalog = &lake.catalog;
    let first = CreateView { comment: Some("c".to_string()), ..create("v", "SELECT 1 AS id") };
    assert!(catalog.create_view(&first).await.unwrap());
    assert_eq!(catalog.create_view(&first).await.unwrap_err().code(), ErrorCode::AlreadyExists);
    assert!(!catalog.create_view(&CreateView { if_not_exists: true, ..first.clone() }).await.unwrap());
    let view = catalog.load_view("s", "v").await.unwrap().unwrap();
    assert_eq!((view.text().unwrap().1, view.comment()), ("SELECT 1 AS id", Some("c")));
    assert_eq!((view.default_catalog(), view.default_schema().as_str()), ("lake", "s"));

    let second = CreateView {
        replace: true,
        sql: "SELECT 2 AS id, 'x' AS name".to_string(),
        columns: vec![column("id", DataType::Int64), column("name", DataType::Utf8)],
        ..create("v", "")
    };
    assert!(catalog.create_view(&second).await.unwrap());
    let again = lake.again().await.load_view("s", "v").await.unwrap().unwrap();
    assert_eq!((again.metadata.uuid(), again.metadata.versions().len()), (view.metadata.uuid(), 2));
    assert_eq!((again.described.fields().len(), again.comment()), (2, None));

    assert!(catalog.comment_view("s", "v", Some("d")).await.unwrap());
    assert!(catalog.rename_view(("s", "v"), ("s", "w")).await.unwrap());
    assert_eq!(catalog.list_views("s").await.unwrap(), ["w"]);
    assert_eq!(catalog.load_view("s", "w").await.unwrap().unwrap().comment(), Some("d"));
    assert!(catalog.drop_view("s", "w").await.unwrap() && !catalog.drop_view("s", "w").await.unwrap());
    assert!(!catalog.comment_view("s", "w", None).await.unwrap());
    assert!(!catalog.rename_view(("s", "w"), ("s", "v")).await.unwrap());
}

#[tokio::test]
async fn a_name_is_that_of_a_table_or_of_a_view() {
    let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
    let catalog = &lake.catalog;
    let view = CreateView { replace: true, ..create("t", "SELECT 1 AS id") };
    let error = catalog.create_view(&view).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::AlreadyExists);
    assert!(error.message().contains("lake.s.t is a table"), "{error}");
    assert!(catalog.create_view(&create("v", "SELECT 1 AS id")).await.unwrap());
    let table = crate::CreateTable { if_not_exists: true, ..create_table("v", &[("id", DataType::Int64)], &[]) };
    let error = catalog.create_table(table).await.unwrap_err();
    assert!(error.message().contains("lake.s.v is a view"), "{error}");
    for error in [
        catalog.rename_table(("s", "t"), ("s", "v")).await.unwrap_err(),
        catalog.rename_view(("s", "v"), ("s", "t")).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), ErrorCode::AlreadyExists);
    }
    assert!(!catalog.drop_view("s", "t").await.unwrap() && !catalog.drop_table("s", "v", true).await.unwrap());
    assert_eq!(
        (catalog.list_tables("s").await.unwrap(), catalog.list_views("s").await.unwrap()),
        (vec!["t".to_string()], vec!["v".to_string()])
    );
    let bad = create("v$files", "SELECT 1 AS id");
    assert_eq!(catalog.create_view(&bad).await.unwrap_err().code(), ErrorCode::InvalidQuery);
    let nowhere = CreateView { schema: "none".to_string(), ..create("v", "SELECT 1 AS id") };
    assert_eq!(catalog.create_view(&nowhere).await.unwrap_err().code(), ErrorCode::SchemaNotFound);
}

/// A catalog that an older client made has no views until one is made; then everyone sees that it is none of the tables.
#[tokio::test]
async fn an_older_catalog_gets_its_column_with_the_first_view() {
    let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
    let path = format!("sqlite://{}/catalog.db", lake.folder.path().display());
    let database = sqlx::SqlitePool::connect(&path).await.unwrap();
    sqlx::query("ALTER TABLE iceberg_tables DROP COLUMN iceberg_type").execute(&database).await.unwrap();
    let (one, other) = (lake.again().await, lake.again().await);
    assert_eq!(other.list_tables("s").await.unwrap(), ["t"]);
    assert!(other.list_views("s").await.unwrap().is_empty() && !other.drop_view("s", "v").await.unwrap());
    assert!(one.create_view(&create("v", "SELECT 1 AS id")).await.unwrap());
    assert_eq!(other.list_tables("s").await.unwrap(), ["t"]);
    assert_eq!(other.list_views("s").await.unwrap(), ["v"]);
    assert!(other.load("s", "v", None).await.unwrap().is_none() && other.load("s", "t", None).await.unwrap().is_some());
}

fn written_for(dialects: &[&str]) -> LoadedView {
    let texts: Vec<_> = dialects
        .iter()
        .map(|dialect| serde_json::json!({ "type": "sql", "sql": format!("for {dialect}"), "dialect": dialect }))
        .collect();
    let metadata: ViewMetadata = serde_json::from_value(serde_json::json!({
        "format-version": 1, "view-uuid": "fa6506c3-7681-40c8-86dc-e36561f83385", "location": "s3://b/v",
        "current-version-id": 1, "properties": {}, "version-log": [{ "timestamp-ms": 1, "version-id": 1 }],
        "schemas": [{ "schema-id": 0, "type": "struct", "fields": [
            { "id": 1, "name": "id", "required": false, "type": "long" }] }],
        "versions": [{ "version-id": 1, "timestamp-ms": 1, "schema-id": 0, "summary": {}, "representations": texts,
            "default-catalog": "hive", "default-namespace": ["a", "b"] }],
    }))
    .unwrap();
    let head = ViewHead { metadata: Arc::new(metadata), metadata_location: String::new() };
    LoadedView::new("lake", &TableName::new("s", "v"), head).unwrap()
}

#[test]
fn the_best_known_dialect_is_read() {
    assert_eq!(written_for(&["spark", "Trino"]).text().unwrap(), ("Trino", "for Trino"));
    assert_eq!(written_for(&["spark", "trino", "townlake"]).text().unwrap(), ("townlake", "for townlake"));
    let view = written_for(&["duckdb", "hive"]);
    let error = view.text().unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotSupported);
    assert!(error.message().contains("duckdb, hive") && error.message().contains("lake.s.v"), "{error}");
    assert_eq!((view.default_catalog(), view.default_schema().as_str()), ("hive", "a.b"));
    assert_eq!(view.query_columns(), None);
}

#[test]
fn what_grew_narrower_fits_and_what_grew_wider_does_not() {
    let view = written_for(&["spark"]);
    for fitting in [DataType::Int64, DataType::Int32, DataType::Int8, DataType::UInt32] {
        assert!(view.fits(0, &column("any", fitting.clone())), "{fitting}");
    }
    for not in [DataType::Utf8, DataType::Float64, DataType::UInt64, DataType::Null] {
        assert!(!view.fits(0, &column("any", not.clone())), "{not}");
    }
    assert!(!view.fits(1, &column("any", DataType::Int64)));
}

#[tokio::test]
async fn the_comment_of_a_column_is_part_of_a_new_version() {
    let lake = Lake::empty().await;
    let catalog = &lake.catalog;
    assert!(!catalog.comment_view_column(("s", "v"), "id", Some("x")).await.unwrap());
    catalog.create_view(&create("v", "SELECT 1 AS id")).await.unwrap();
    let error = catalog.comment_view_column(("s", "v"), "idd", Some("x")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ColumnNotFound);
    for comment in [Some("x"), Some("y"), None] {
        assert!(catalog.comment_view_column(("s", "v"), "id", comment).await.unwrap());
        let view = catalog.load_view("s", "v").await.unwrap().unwrap();
        assert_eq!(view.described.field(0).metadata().get(COMMENT).map(String::as_str), comment);
        assert_eq!(view.text().unwrap(), ("townlake", "SELECT 1 AS id"));
        assert_eq!(view.query_columns(), Some(vec!["id".to_string()]));
        assert!(view.fits(0, &column("id", DataType::Int64)));
    }
}

#[tokio::test]
async fn of_many_who_replace_a_view_each_has_its_version() {
    let lake = Lake::empty().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let catalog = Arc::clone(&lake.again().await);
        writers.spawn(async move {
            for round in 0..5 {
                let sql = format!("SELECT {writer}{round} AS id");
                assert!(catalog.create_view(&CreateView { replace: true, ..create("v", &sql) }).await.unwrap());
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    // Versions are kept up to the property version.history.num-entries, 10 by default.
    let view = lake.catalog.load_view("s", "v").await.unwrap().unwrap();
    assert_eq!((view.metadata.current_version_id(), view.metadata.history().len()), (40, 10));
}

#[tokio::test]
async fn packed_metadata_are_read_and_damage_is_named() {
    let lake = Lake::empty().await;
    let catalog = &lake.catalog;
    catalog.create_view(&create("v", "SELECT 1 AS id")).await.unwrap();
    let folder = lake.folder.path().join("warehouse/s/v/metadata");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let plain = std::fs::read(&file).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &plain).unwrap();
    let packed = packed.finish().unwrap();
    std::fs::write(&file, &packed).unwrap();
    assert_eq!(catalog.load_view("s", "v").await.unwrap().unwrap().text().unwrap().1, "SELECT 1 AS id");
    // As Java names it; the next one is plain, and so is its name.
    let java = file.to_str().unwrap().replace(".metadata.json", ".gz.metadata.json");
    std::fs::rename(&file, &java).unwrap();
    let path = format!("sqlite://{}/catalog.db", lake.folder.path().display());
    let database = sqlx::SqlitePool::connect(&path).await.unwrap();
    let sql = "UPDATE iceberg_tables SET metadata_location = $1";
    sqlx::query(sql).bind(format!("file://{java}")).execute(&database).await.unwrap();
    assert!(catalog.comment_view("s", "v", Some("x")).await.unwrap());
    let sql = "SELECT metadata_location FROM iceberg_tables";
    let location: String = sqlx::query_scalar(sql).fetch_one(&database).await.unwrap();
    assert!(location.contains("/00001-") && !location.contains(".gz"), "{location}");
    let file = location.strip_prefix("file://").unwrap();
    assert!(std::fs::read(file).unwrap().starts_with(b"{"));
    let nested = "[".repeat(1 << 20).into_bytes();
    for damaged in [&packed[..packed.len() - 9], &plain[..plain.len() - 9], b"{}", b"", &nested] {
        std::fs::write(file, damaged).unwrap();
        let error = catalog.load_view("s", "v").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::DataCorrupt);
        assert!(
            error.message().contains("view lake.s.v") && error.hint().unwrap().contains("metadata.json"),
            "{error}"
        );
    }
    assert!(catalog.drop_view("s", "v").await.unwrap());
}
