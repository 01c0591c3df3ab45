//! Random filters over edge values: what the server makes of them is what DataFusion makes of the same rows here.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;

use super::Bq;
use crate::random_conditions::{Grammar, Kind, ROWS, Run, TEXTS, kind, value};

const KINDS: &[Kind] = &[
    kind(
        "i",
        "INTEGER",
        "Int64",
        &["-9223372036854775807", "-1", "0", "1", "8", "9007199254740993", "9223372036854775807"],
        true,
    ),
    kind(
        "n",
        "NUMERIC",
        "Decimal128(38, 9)",
        &[
            "-99999999999999999999999999999.999999999",
            "-0.000000001",
            "0.000000000",
            "0.000000001",
            "1.500000000",
            "99999999999999999999999999999.999999999",
        ],
        true,
    ),
    kind(
        "d",
        "DATE",
        "Date32",
        &["0001-01-01", "1582-10-10", "1969-12-31", "1970-01-01", "2024-02-29", "9999-12-31"],
        true,
    ),
    kind(
        "t",
        "DATETIME",
        "Timestamp(Microsecond, None)",
        &["0001-01-01 00:00:00", "1969-12-31 23:59:59.999999", "1970-01-01 00:00:00", "9999-12-31 23:59:59.999999"],
        true,
    ),
    kind(
        "z",
        "TIMESTAMP",
        "Timestamp(Microsecond, Some(\"+00:00\"))",
        &[
            "0001-01-02 00:00:00",
            "1969-12-31 23:59:59.999999",
            "1970-01-01 00:00:00",
            "2024-03-31 01:30:00",
            "9999-12-31 23:59:59.999999",
        ],
        true,
    ),
    kind("b", "BOOLEAN", "Boolean", &["true", "false"], true),
    kind("s", "STRING", "Utf8", TEXTS, false),
];

/// A table with two columns of each kind, `<kind>_a` and `<kind>_b`, of which the first is NULL in a fifth of the rows.
fn table(rng: &mut StdRng) -> [serde_json::Value; 2] {
    let mut fields = vec![json!(["id", "INTEGER", "REQUIRED"])];
    for kind in KINDS {
        fields.push(json!([format!("{}_a", kind.name), kind.declared, "NULLABLE"]));
        fields.push(json!([format!("{}_b", kind.name), kind.declared, "NULLABLE"]));
    }
    let rows = (0..ROWS).map(|id| {
        let mut row = vec![id.to_string()];
        for kind in KINDS {
            row.push(if rng.random_bool(0.2) { "NULL".to_string() } else { stored(rng, kind) });
            row.push(stored(rng, kind));
        }
        format!("({})", row.join(", "))
    });
    let insert = format!("INSERT INTO DS.edges VALUES {}", rows.collect::<Vec<_>>().join(", "));
    [json!({"table": "DS.edges", "fields": fields}), json!({"sql": insert})]
}

/// A value in an INSERT of BigQuery.
fn stored(rng: &mut StdRng, kind: &Kind) -> String {
    let value = value(rng, kind);
    match kind.declared {
        "INTEGER" | "BOOLEAN" => value.to_string(),
        "TIMESTAMP" => format!("TIMESTAMP '{value}+00'"),
        "STRING" => format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'")),
        declared => format!("{declared} '{value}'"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_filters_select_the_same_rows_there_and_here() {
    let mut run = Run::of("the emulator of BigQuery");
    let Some(bq) = Bq::with("random_filters", &table(&mut run.rng)).await else { return };
    let all = bq.query(&["edges"], "SELECT * FROM edges").await.unwrap();
    let kinds: Vec<_> = KINDS.iter().collect();
    let grammar = Grammar { kinds: &kinds, is_distinct_from: false, not_compared: &[] };
    run.compare(all, &grammar, async |query| bq.session(query, 2, &["edges"]).await, "row_restriction=").await;
}
