//! Types with edge values, and discovery.

use serde_json::{Value, json};
use townlake_common::ErrorCode;
use townlake_connectors::{SOURCE_TYPE, TableKind, column_comment};

use super::{Bq, query};

fn field(name: &str, declared: &str) -> Value {
    json!([name, declared, "NULLABLE"])
}

fn tables() -> Vec<Value> {
    let nested = json!(["ars", "RECORD", "REPEATED", [["x", "INTEGER", "NULLABLE"], ["y", "STRING", "REPEATED"]]]);
    let fields = [
        json!(["i", "INTEGER", "REQUIRED"]),
        field("f", "FLOAT"),
        field("n", "NUMERIC"),
        field("bo", "BOOLEAN"),
        field("s", "STRING"),
        field("byt", "BYTES"),
        field("d", "DATE"),
        field("dt", "DATETIME"),
        field("ti", "TIME"),
        field("ts", "TIMESTAMP"),
        json!(["st", "RECORD", "NULLABLE", [["a", "INTEGER", "NULLABLE"], ["b", "STRING", "NULLABLE"]]]),
        json!(["ar", "INTEGER", "REPEATED"]),
        field("g", "GEOGRAPHY"),
        field("j", "JSON"),
        field("iv", "INTERVAL"),
        nested,
    ];
    let insert = "INSERT INTO DS.ty (i, f, bo, s, byt, d, dt, ti, ts, st, ar, g, j) VALUES ";
    vec![
        json!({"table": "DS.ty", "fields": fields}),
        json!({"sql": format!(
            "{insert} (9223372036854775807, 1.5, true, 'it''s ä\u{10FFFF}'\
             , FROM_HEX('00ff'), DATE '0001-01-01', DATETIME '9999-12-31 23:59:59.999999', TIME '23:59:59.999999', \
             TIMESTAMP '1969-12-31 23:59:59.999999+00', STRUCT(1, 'y'), [1, 2], ST_GEOGPOINT(1, 2), JSON '{{\"a\":1}}')"
        ).replace("''", "\\'")}),
        json!({"sql": "INSERT INTO DS.ty (i, n, bo, s) VALUES (-9223372036854775807, NUMERIC '-99999999999999999999999999999.999999999', false, '')"}),
        json!({"sql": "INSERT INTO DS.ty (i, n) VALUES (1, NUMERIC '0.000000001')"}),
        json!({"sql": "INSERT INTO DS.ty (i) VALUES (0)"}),
        json!({"sql": "CREATE TABLE DS.big AS SELECT CAST(1 AS INT64) AS b"}),
        json!({"table": "DS.span", "fields": [["i", "INTEGER", "NULLABLE"]]}),
        json!({"sql": "CREATE VIEW DS.seen AS SELECT i, s FROM DS.ty"}),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_come_as_they_are() {
    let Some(bq) = Bq::with("typed_values", &tables()).await else { return };
    let cells = bq.cells(&["ty"], "SELECT i, f, n, bo, s, byt, d, dt, ti, ts FROM ty ORDER BY i DESC").await;
    let first = [
        "9223372036854775807",
        "1.5",
        "",
        "true",
        "it's ä\u{10FFFF}",
        "00ff",
        "0001-01-01",
        "9999-12-31T23:59:59.999999",
        "23:59:59.999999",
        "1969-12-31T23:59:59.999999Z",
    ];
    assert_eq!(cells[0], first);
    assert_eq!(cells[1][..3], ["1", "", "0.000000001"]);
    assert_eq!(cells[2], ["0", "", "", "", "", "", "", "", "", ""]);
    assert_eq!(cells[3][..5], ["-9223372036854775807", "", "-99999999999999999999999999999.999999999", "false", ""]);
    let nested = bq.cells(&["ty"], "SELECT st, st.b, ar, ars, j FROM ty ORDER BY i DESC LIMIT 1").await;
    assert_eq!(nested, [["{a: 1, b: y}", "y", "[1, 2]", "", "{\"a\":1}"]]);
    let empty =
        bq.cells(&["ty"], "SELECT count(*), count(s), count(st), count(ts) FROM ty WHERE s = '' OR s IS NULL").await;
    assert_eq!(empty, [["3", "1", "0", "0"]]);
}

/// Google sends GEOGRAPHY as text (WKT), the emulator as bytes (WKB): we keep to Google's, and such bytes are an error, not a
/// wrong value. INTERVAL is not read at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_names_its_column() {
    let Some(bq) = Bq::with("unreadable", &tables()).await else { return };
    let error = bq.query(&["ty"], "SELECT iv FROM ty").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::FormatNotSupported, "{error}");
    assert!(error.message().contains("bq.unreadable.ty.iv") && error.message().contains("INTERVAL"), "{error}");
    let error = bq.query(&["ty"], "SELECT g FROM ty").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DataCorrupt, "{error}");
    assert!(error.message().contains("bq.unreadable.ty.g") && error.message().contains("(in stream "), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_found() {
    let Some(bq) = Bq::with("found", &tables()).await else { return };
    let (source, query) = (bq.source(), query());
    assert!(source.list_schemas(&query).await.unwrap().contains(&"found".to_string()));
    let tables = source.list_tables(&query, "found").await.unwrap();
    let tables: Vec<_> = tables.iter().map(|table| (table.name.as_str(), table.kind)).collect();
    let expected =
        [("big", TableKind::Table), ("seen", TableKind::View), ("span", TableKind::Table), ("ty", TableKind::Table)];
    assert_eq!(tables, expected);
    assert_eq!(source.list_tables(&query, "nowhere").await.unwrap(), []);
    for name in ["nothing", "..", "ty/../span", "ty?x", "", "ty`"] {
        assert!(source.table(&query, "found", name).await.unwrap().is_none(), "{name}");
        assert!(source.table(&query, name, "ty").await.unwrap().is_none(), "{name}");
    }
    let schema = bq.table(&query, "ty").await.schema();
    let of = |name: &str| schema.field_with_name(name).unwrap().clone();
    assert!(!of("i").is_nullable() && of("s").is_nullable());
    assert_eq!(of("st").metadata()[SOURCE_TYPE], "STRUCT<a INT64, b STRING>");
    assert_eq!(of("ars").metadata()[SOURCE_TYPE], "ARRAY<STRUCT<x INT64, y ARRAY<STRING>>>");
    assert!(column_comment(&of("iv")).unwrap().contains("cannot be read"));
    let only = Bq::of("found_only", &[], "dataset = \"found_only\"").await.unwrap();
    assert_eq!(only.source().list_schemas(&query).await.unwrap(), ["found_only"]);
    assert!(only.source().table(&query, "found", "ty").await.unwrap().is_none());
}
