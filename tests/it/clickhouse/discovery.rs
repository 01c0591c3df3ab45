//! What is found in a server.

use std::collections::BTreeSet;

use datafusion::arrow::datatypes::DataType;
use townlake_common::ErrorCode;
use townlake_connectors::{SourceTable, TableKeys, TableKind};
use townlake_tests::clickhouse::Engine;

use super::{Ch, connections, query};

const TABLES: &[&str] = &[
    "CREATE TABLE DB.customer (id UInt64, name String COMMENT 'legal name', code FixedString(2), at DateTime('Asia/Tokyo'), \
     double UInt64 ALIAS id * 2, made UInt8 MATERIALIZED 7) ENGINE = MergeTree ORDER BY id",
    "CREATE VIEW DB.named AS SELECT id, name FROM DB.customer",
    "CREATE MATERIALIZED VIEW DB.counted ENGINE = SummingMergeTree ORDER BY id AS SELECT id, count() AS n FROM DB.customer GROUP BY id",
    "CREATE TABLE DB.`T;--\\'` (`A \"b` Int32, `group` String, `back\\`tick` UInt8) ENGINE = Memory",
    "INSERT INTO DB.`T;--\\'` VALUES (7, 'x', 1)",
];

#[tokio::test]
async fn tables_and_columns_are_found() {
    for ch in Ch::each("discovery", TABLES).await {
        let (query, source) = (query(), ch.source());
        let schemas = source.list_schemas(&query).await.unwrap();
        assert!(schemas.contains(&"discovery".to_string()) && !schemas.contains(&"system".to_string()), "{schemas:?}");
        assert!(!schemas.iter().any(|name| name.eq_ignore_ascii_case("information_schema")), "{schemas:?}");

        let entry = |name: &str, kind| SourceTable { name: name.to_string(), kind, comment: None };
        let expected = [
            entry("T;--'", TableKind::Table),
            entry("counted", TableKind::MaterializedView),
            entry("customer", TableKind::Table),
            entry("named", TableKind::View),
        ];
        assert_eq!(source.list_tables(&query, "discovery").await.unwrap(), expected);

        let schema = ch.table(&query, "customer").await.schema();
        let field = |name: &str| schema.field_with_name(name).unwrap().clone();
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names[..4], ["id", "name", "code", "at"]);
        // Old servers show computed columns behind the others.
        assert_eq!(BTreeSet::from_iter(names[4..].iter().copied()), BTreeSet::from(["double", "made"]));
        assert!(!field("id").is_nullable());
        assert_eq!(field("id").data_type(), &DataType::UInt64);
        assert_eq!(field("name").metadata()["comment"], "legal name");
        assert_eq!(field("code").metadata()["townlake.source_type"], "FixedString(2)");
        assert!(field("code").metadata()["townlake.note"].contains("bytes"));
        assert!(field("at").metadata()["townlake.note"].contains("UTC"));
        assert!(field("double").metadata()["townlake.note"].contains("ALIAS"));
        assert!(!field("id").metadata().contains_key("townlake.note"));

        assert_eq!(source.keys(&query, "discovery", "customer").await.unwrap(), TableKeys::default());
        assert!(source.table(&query, "discovery", "nothing").await.unwrap().is_none());
        assert!(source.table(&query, "system", "processes").await.unwrap().is_none());
        assert!(source.table(&query, "nothing", "nothing").await.unwrap().is_none());
        assert!(source.list_tables(&query, "system").await.unwrap().is_empty());
        assert!(source.list_tables(&query, "nothing").await.unwrap().is_empty());

        let only = connections(&ch.server.url(), "database = \"default\"").source("ch").unwrap();
        assert_eq!(only.list_schemas(&query).await.unwrap(), ["default"]);
        assert!(only.list_tables(&query, "discovery").await.unwrap().is_empty());
        assert!(only.table(&query, "discovery", "customer").await.unwrap().is_none());
    }
}

#[tokio::test]
async fn odd_names_and_computed_columns_are_read() {
    for ch in Ch::each("odd_names", TABLES).await {
        let odd = ch.table(&query(), "T;--'").await;
        let query = query();
        let session = ch.session(&query, 2, &["customer"]).await;
        session.register_table("odd", odd).unwrap();
        let rows =
            super::collect(&session, "SELECT \"A \"\"b\", \"group\" FROM odd WHERE \"back`tick\" = 1").await.unwrap();
        assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
        ch.server
            .run("INSERT INTO odd_names.customer (id, name, code, at) VALUES (3, 'x', 'DE', '2024-01-01 00:00:00')")
            .await;
        let cells = ch.cells(&["customer"], "SELECT double, made FROM customer").await;
        assert_eq!(cells, [["6", "7"]]);
        let cells = ch.cells(&["counted"], "SELECT id, n FROM counted").await;
        assert_eq!(cells, [["3", "1"]], "a materialised view gives what it stores");
    }
}

#[tokio::test]
async fn comments_of_tables_are_shown_where_there_are_any() {
    let statements = ["CREATE TABLE DB.t (a UInt8) ENGINE = Memory COMMENT 'who buys'"];
    let Some(ch) = Ch::of(Engine::Modern, "table_comments", &statements, "").await else { return };
    let tables = ch.source().list_tables(&query(), "table_comments").await.unwrap();
    assert_eq!(tables[0].comment.as_deref(), Some("who buys"));
}

#[tokio::test]
async fn a_read_once_table_is_not_read() {
    let engine = "ENGINE = Kafka SETTINGS kafka_broker_list = '127.0.0.1:1', kafka_topic_list = 't', kafka_group_name = 'g', \
         kafka_format = 'JSONEachRow'";
    let statements = [format!("CREATE TABLE DB.topic (a UInt8) {engine}")];
    let Some(ch) = Ch::of(Engine::Old, "read_once", &[&statements[0]], "").await else { return };
    let query = query();
    assert!(ch.source().list_tables(&query, "read_once").await.unwrap().is_empty());
    let error = ch.source().table(&query, "read_once", "topic").await.err().unwrap();
    assert_eq!(error.code(), ErrorCode::NotSupported, "{error}");
}
