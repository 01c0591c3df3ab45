//! Random filters over edge values: what the server makes of them is what DataFusion makes of the same rows here.
//!
//! `make test` runs a slice with a fixed seed. `make soak` (`TOWNLAKE_SOAK=1`) runs many with a seed of the moment, which is
//! printed; `TOWNLAKE_SEED=<number>` runs that one again.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::{Bq, collect, query, typed};
use crate::sources::seed;

const SLICE: usize = 150;
const SOAK: usize = 5000;
const ROWS: usize = 400;
/// Deepest nesting of AND, OR, NOT and IS.
const DEPTH: usize = 3;

/// A type of the allow-list: its BigQuery type, its Arrow type in `arrow_cast`, its edge values (without quotes).
struct Kind {
    name: &'static str,
    declared: &'static str,
    arrow: &'static str,
    values: &'static [&'static str],
    is_ordered: bool,
}

const fn kind(
    name: &'static str,
    declared: &'static str,
    arrow: &'static str,
    values: &'static [&'static str],
    is_ordered: bool,
) -> Kind {
    Kind { name, declared, arrow, values, is_ordered }
}

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
    kind(
        "s",
        "STRING",
        "Utf8",
        &["", " ", "a", "A", "ä", "ß", "ss", "a ", "b'", "a\\b", "%", "a_b", "é", "e\u{301}", "\u{10FFFF}"],
        false,
    ),
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

fn value(rng: &mut StdRng, kind: &Kind) -> &'static str {
    kind.values.choose(rng).expect("a kind has values")
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

/// A value in a filter here; now and then NULL.
fn operand(rng: &mut StdRng, kind: &Kind) -> String {
    if rng.random_bool(0.08) {
        return "NULL".to_string();
    }
    let value = value(rng, kind).replace('\'', "''");
    match kind.arrow {
        "Utf8" => format!("'{value}'"),
        "Boolean" => value,
        arrow => format!("arrow_cast('{value}', '{arrow}')"),
    }
}

fn condition(rng: &mut StdRng, depth: usize) -> String {
    if depth == 0 || rng.random_bool(0.35) {
        return atom(rng);
    }
    let inner = condition(rng, depth - 1);
    match rng.random_range(0..8) {
        0..3 => format!("({inner} AND {})", condition(rng, depth - 1)),
        3..6 => format!("({inner} OR {})", condition(rng, depth - 1)),
        6 => format!("(NOT {inner})"),
        _ => {
            let tests = ["TRUE", "FALSE", "UNKNOWN", "NOT TRUE", "NOT FALSE", "NOT UNKNOWN"];
            format!("({inner} IS {})", tests.choose(rng).expect("tests"))
        }
    }
}

fn atom(rng: &mut StdRng) -> String {
    let kind = KINDS.choose(rng).expect("kinds");
    let column = format!("{}_{}", kind.name, if rng.random_bool(0.6) { "a" } else { "b" });
    let operators: &[&str] = match kind.is_ordered {
        true => &["=", "<>", "<", "<=", ">", ">="],
        false => &["=", "<>"],
    };
    let operator = operators.choose(rng).expect("operators");
    let not = if rng.random_bool(0.3) { "NOT " } else { "" };
    match rng.random_range(0..9) {
        0..3 => format!("({column} {operator} {})", operand(rng, kind)),
        3 => format!("({} {operator} {column})", operand(rng, kind)),
        4 => format!("({0}_a {operator} {0}_b)", kind.name),
        5 => format!("({column} IS {not}NULL)"),
        6 if kind.is_ordered => {
            format!("({column} {not}BETWEEN {} AND {})", operand(rng, kind), operand(rng, kind))
        }
        7 if kind.name == "b" => column,
        _ => {
            let values: Vec<_> = (0..rng.random_range(1..6)).map(|_| operand(rng, kind)).collect();
            format!("({column} {not}IN ({}))", values.join(", "))
        }
    }
}

fn ids(rows: &[RecordBatch]) -> Vec<i64> {
    let mut ids: Vec<_> =
        rows.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_filters_select_the_same_rows_there_and_here() {
    let seed = seed();
    let count = if std::env::var_os("TOWNLAKE_SOAK").is_some() { SOAK } else { SLICE };
    println!("{count} random filters, TOWNLAKE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let Some(bq) = Bq::with("random_filters", &table(&mut rng)).await else { return };
    let all = bq.query(&["edges"], "SELECT * FROM edges").await.unwrap();
    assert_eq!(ids(&all).len(), ROWS);
    let local = SessionContext::new();
    local.register_table("edges", Arc::new(MemTable::try_new(all[0].schema(), vec![all]).unwrap())).unwrap();

    let (mut pushed, mut telling) = (0, 0);
    for number in 0..count {
        let filter = condition(&mut rng, DEPTH);
        let told = format!("TOWNLAKE_SEED={seed}, filter {number}: {filter}");
        let sql = format!("SELECT id FROM edges WHERE {filter}");
        let here = collect(&local, &sql).await.unwrap_or_else(|error| panic!("{told}\n{error:?}"));
        let query = query();
        let session = bq.session(&query, 2, &["edges"]).await;
        let plan = session.sql(&sql).await.unwrap_or_else(|error| panic!("{told}\n{error}"));
        let plan = plan.create_physical_plan().await.unwrap_or_else(|error| panic!("{told}\n{:?}", typed(error)));
        let text = displayable(plan.as_ref()).indent(false).to_string();
        let there = datafusion::physical_plan::collect(plan, session.task_ctx()).await;
        let there = there.unwrap_or_else(|error| panic!("{told}\n{text}\n{:?}", typed(error)));
        let (here, there) = (ids(&here), ids(&there));
        assert_eq!(there, here, "{told}\n{text}");
        // A filter that is never true, or always, leaves no condition to push.
        pushed += usize::from(text.contains("row_restriction=") && !text.contains("FilterExec"));
        telling += usize::from(!here.is_empty() && here.len() < ROWS);
    }
    println!("{pushed} were applied by the server alone, {telling} selected some rows and not all");
    assert!(pushed * 10 >= count * 7, "only {pushed} of {count} filters were applied by the server alone");
    assert!(telling * 2 >= count, "only {telling} of {count} filters selected some rows and not all");
}
