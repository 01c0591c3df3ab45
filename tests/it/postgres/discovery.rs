//! What is found in a database, and who may see it.

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::DataType;
use townlake_common::{ErrorCode, QueryContext};
use townlake_connectors::{ForeignKey, SourceTable, TableKeys, TableKind};
use townlake_tests::postgres::PASSWORD;
use townlake_tests::town::TownSpec;

use super::{Crm, connections, query};

const SCHEMA: &str = "
CREATE SCHEMA \"Odd \"\"Name\";
CREATE TABLE customer (id int8 PRIMARY KEY, name text NOT NULL, ip inet, amount numeric, note char(4));
COMMENT ON TABLE customer IS 'who buys';
COMMENT ON COLUMN customer.name IS 'legal name';
CREATE TABLE orders (id int8, line int4, customer int8 REFERENCES customer, PRIMARY KEY (line, id));
CREATE TABLE refund (order_line int4, order_id int8,
  CONSTRAINT refund_order FOREIGN KEY (order_line, order_id) REFERENCES orders (line, id));
CREATE VIEW named AS SELECT id, name FROM customer;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM customer;
CREATE TABLE \"Odd \"\"Name\".\"T;--'\" (\"A \"\"b\" int4, \"group\" text);
INSERT INTO \"Odd \"\"Name\".\"T;--'\" VALUES (7, 'x');
CREATE TABLE dropped (a int4, gone text, b int4 NOT NULL);
ALTER TABLE dropped DROP gone;";

#[tokio::test]
async fn tables_columns_and_keys_are_found() {
    let Some(crm) = Crm::new("discovery", SCHEMA).await else { return };
    let (query, source) = (query(), crm.source());
    let schemas = source.list_schemas(&query).await.unwrap();
    assert_eq!(schemas, ["Odd \"Name", "public"], "the server's own are not shown");

    let tables = source.list_tables(&query, "public").await.unwrap();
    let entry = |name: &str, kind, comment: Option<&str>| SourceTable {
        name: name.to_string(),
        kind,
        comment: comment.map(str::to_string),
    };
    let expected = [
        entry("counted", TableKind::MaterializedView, None),
        entry("customer", TableKind::Table, Some("who buys")),
        entry("dropped", TableKind::Table, None),
        entry("named", TableKind::View, None),
        entry("orders", TableKind::Table, None),
        entry("refund", TableKind::Table, None),
    ];
    assert_eq!(tables, expected);

    let schema = crm.table(&query, "customer").await.schema();
    let field = |name: &str| schema.field_with_name(name).unwrap().clone();
    assert!(!field("id").is_nullable() && !field("name").is_nullable() && field("ip").is_nullable());
    assert_eq!(field("name").metadata()["comment"], "legal name");
    assert_eq!(field("ip").data_type(), &DataType::Utf8);
    assert_eq!(field("ip").metadata()["townlake.source_type"], "inet");
    assert!(field("ip").metadata()["townlake.note"].contains("read as text"));
    assert!(field("amount").metadata()["townlake.note"].contains("declares no precision"));
    assert!(field("note").metadata()["townlake.note"].contains("padding"));
    let names: Vec<_> = crm.table(&query, "dropped").await.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["a", "b"]);

    let keys = source.keys(&query, "public", "refund").await.unwrap();
    let foreign = ForeignKey {
        name: "refund_order".into(),
        columns: vec!["order_line".into(), "order_id".into()],
        referenced_schema: "public".into(),
        referenced_table: "orders".into(),
        referenced_columns: vec!["line".into(), "id".into()],
    };
    assert_eq!(keys, TableKeys { primary: vec![], foreign: vec![foreign] });
    assert_eq!(source.keys(&query, "public", "orders").await.unwrap().primary, ["line", "id"]);
    assert!(source.table(&query, "public", "nothing").await.unwrap().is_none());
    assert!(source.table(&query, "pg_catalog", "pg_stat_activity").await.unwrap().is_none());
    assert!(source.list_tables(&query, "information_schema").await.unwrap().is_empty());
    assert!(source.list_tables(&query, "nothing").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_lists_columns_is_told_how_they_are_read() {
    let Some(crm) = Crm::new("column_comments", SCHEMA).await else { return };
    let url = crm.postgres.url("column_comments");
    let catalog = format!("[catalogs.crm]\ntype = \"postgres\"\nurl = \"{url}\"\nreaders = [\"ann\"]");
    let town = TownSpec::default().executors(1).user("ann", "a password", &[]).toml(&catalog).start().await;
    let connection = town.connect("ann", "a password").await;
    let expected = [
        ("id", None),
        ("name", Some("legal name")),
        ("ip", Some("inet, read as text: type inet is not known to the engine")),
        ("amount", Some("numeric, read as text: this numeric declares no precision; cast it where it is used")),
        ("note", Some("character(4), read without the padding blanks")),
    ];
    let select = "SELECT column_name AS \"column\", comment FROM crm.information_schema.columns \
        WHERE table_schema = 'public' AND table_name = 'customer' ORDER BY ordinal_position";
    for sql in ["DESCRIBE crm.public.customer", "SHOW COLUMNS FROM crm.public.customer", select] {
        let (_, batches) = connection.collect(sql).await.unwrap();
        let text = |name: &str| {
            let column = |batch: &datafusion::arrow::array::RecordBatch| {
                let column = batch.column_by_name(name).unwrap_or_else(|| panic!("{sql} has no column {name}"));
                column.as_string::<i32>().iter().map(|text| text.map(str::to_string)).collect::<Vec<_>>()
            };
            batches.iter().flat_map(column).collect::<Vec<_>>()
        };
        let told: Vec<_> = text("column").into_iter().map(Option::unwrap).zip(text("comment")).collect();
        let told: Vec<_> = told.iter().map(|(name, comment)| (name.as_str(), comment.as_deref())).collect();
        assert_eq!(told, expected, "{sql}");
    }
    town.stop().await;
}

#[tokio::test]
async fn odd_names_are_quoted() {
    let Some(crm) = Crm::new("odd_names", SCHEMA).await else { return };
    let query = query();
    let table = crm.source().table(&query, "Odd \"Name", "T;--'").await.unwrap().unwrap();
    let session = crm.session(&query, 2, &[]).await;
    session.register_table("odd", table).unwrap();
    let sql = "SELECT \"A \"\"b\" AS a, \"group\" AS g FROM odd WHERE \"group\" = 'x' AND \"A \"\"b\" > 6";
    let rows = super::collect(&session, sql).await.unwrap();
    assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
}

const GUARDED: &str = "
CREATE TABLE guarded (id int4, region text) PARTITION BY RANGE (id);
CREATE TABLE guarded_low PARTITION OF guarded FOR VALUES FROM (0) TO (50000);
CREATE TABLE guarded_high PARTITION OF guarded FOR VALUES FROM (50000) TO (100000);
INSERT INTO guarded SELECT i, CASE WHEN i % 2 = 0 THEN 'north' ELSE 'south' END FROM generate_series(0, 99999) i;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY north ON guarded USING (region = 'north');
CREATE TABLE closed (id int4);
DROP ROLE IF EXISTS reader;
CREATE ROLE reader LOGIN PASSWORD 'reader-secret';
GRANT SELECT ON guarded TO reader;";

#[tokio::test]
async fn rights_and_row_security_of_the_connection_hold_for_every_split() {
    let Some(crm) = Crm::new("row_security", GUARDED).await else { return };
    let url = crm.postgres.url("row_security").replace("postgres:", "reader:").replace(PASSWORD, "reader-secret");
    let url = url.replace("reader://", "postgres://");
    let limited = Crm {
        postgres: crm.postgres.clone(),
        admin: crm.postgres.connect("row_security").await,
        connections: connections(&url, ""),
    };
    let query = query();
    let tables = limited.source().list_tables(&query, "public").await.unwrap();
    let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["guarded"], "what the connection may not read is not listed");

    // The partitions themselves are closed to this user and have no policy: only the parent may be read.
    let (_, plan) = limited.plan(&query, &["guarded"], "SELECT id FROM guarded").await;
    assert!(plan.contains("splits=6") || plan.contains("splits=7") || plan.contains("splits=8"), "{plan}");
    let sql = "SELECT count(*) AS n, count(DISTINCT id) AS d, min(region) AS low, max(region) AS high FROM guarded";
    let rows = limited.show(&["guarded"], sql).await;
    assert!(rows.contains("| 50000 | 50000 | north | north |"), "{rows}");

    let error = limited.query(&["closed"], "SELECT * FROM closed").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceDenied, "{error}");
    assert!(!format!("{error:?}").contains("reader-secret"));
}

#[tokio::test]
async fn the_servers_own_estimates_reach_the_planner() {
    let sql = "CREATE TABLE big AS SELECT i AS id, i % 10 AS kind, CASE WHEN i % 4 = 0 THEN NULL ELSE 'x' END AS t
        FROM generate_series(1, 20000) i; ANALYZE big;";
    let Some(crm) = Crm::new("estimates", sql).await else { return };
    let query: std::sync::Arc<QueryContext> = query();
    let (plan, _) = crm.plan(&query, &["big"], "SELECT kind, t FROM big WHERE kind = 3").await;
    #[expect(deprecated, reason = "the new call needs the engine's statistics context")]
    let statistics = plan.partition_statistics(None).unwrap();
    let rows = *statistics.num_rows.get_value().unwrap();
    assert!((1000..4000).contains(&rows), "about 2000 rows of kind 3, not {rows}");
    assert_eq!(statistics.num_rows.is_exact(), Some(false), "an estimate is never exact");
    assert_eq!(statistics.column_statistics[0].distinct_count.get_value(), Some(&10));
    let nulls = *statistics.column_statistics[1].null_count.get_value().unwrap();
    assert!((rows / 5..rows / 3).contains(&nulls), "{nulls} of {rows}");
}
