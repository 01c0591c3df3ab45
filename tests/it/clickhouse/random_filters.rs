//! Random filters over edge values: what the server makes of them is what DataFusion makes of the same rows here.
//!
//! `make test` runs a slice with a fixed seed. `make soak` (`TOWNLAKE_SOAK=1`) runs many with a seed of the moment, which is
//! printed; `TOWNLAKE_SEED=<number>` runs that one again.

use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int32Type;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use townlake_tests::clickhouse::Engine;

use super::{Ch, collect, query, typed};
use crate::sources::seed;

const SLICE: usize = 150;
const SOAK: usize = 5000;
const ROWS: usize = 400;
/// Deepest nesting of AND, OR, NOT and IS.
pub(super) const DEPTH: usize = 3;

/// A type of the allow-list: its ClickHouse type, its Arrow type in `arrow_cast`, its edge values (without quotes).
pub(super) struct Kind {
    pub(super) name: &'static str,
    sql: &'static str,
    arrow: &'static str,
    values: &'static [&'static str],
    pub(super) is_ordered: bool,
}

const TEXTS: &[&str] =
    &["", " ", "a", "A", "ä", "ß", "ss", "a ", "b'", "a\\b", "%", "a_b", "é", "e\u{301}", "\u{10FFFF}"];
const MICROS: &str = "Timestamp(Microsecond, Some(\"+00:00\"))";

const fn kind(
    name: &'static str,
    sql: &'static str,
    arrow: &'static str,
    values: &'static [&'static str],
    is_ordered: bool,
) -> Kind {
    Kind { name, sql, arrow, values, is_ordered }
}

/// In both engines.
pub(super) const KINDS: &[Kind] = &[
    kind("i1", "Int8", "Int8", &["-128", "-1", "0", "1", "127"], true),
    kind("i4", "Int32", "Int32", &["-2147483648", "-1", "0", "1", "8", "2147483647"], true),
    kind(
        "i8",
        "Int64",
        "Int64",
        &["-9223372036854775808", "-1", "0", "1", "9007199254740993", "9223372036854775807"],
        true,
    ),
    kind("u2", "UInt16", "UInt16", &["0", "1", "32768", "65535"], true),
    kind(
        "u8",
        "UInt64",
        "UInt64",
        &["0", "1", "9007199254740993", "9223372036854775808", "18446744073709551615"],
        true,
    ),
    kind(
        "n",
        "Decimal(9, 2)",
        "Decimal128(9, 2)",
        &["-9999999.99", "-0.01", "0.00", "0.01", "1.50", "9999999.99"],
        true,
    ),
    kind(
        "w",
        "Decimal(18, 4)",
        "Decimal128(18, 4)",
        &["-99999999999999.9999", "0.0000", "0.0001", "1.5000", "99999999999999.9999"],
        true,
    ),
    kind(
        "x",
        "Decimal(38, 10)",
        "Decimal128(38, 10)",
        &["-9999999999999999999999999999.9999999999", "0.0000000000", "1.5000000000"],
        true,
    ),
    kind("d", "Date", "Date32", &["1970-01-01", "1970-01-02", "2024-02-29", "2105-12-31"], true),
    kind(
        "t",
        "DateTime",
        MICROS,
        &["1970-01-01 00:00:00", "2024-03-31 01:30:00", "2038-01-19 03:14:08", "2105-12-31 23:59:59"],
        true,
    ),
    kind("s", "String", "Utf8", TEXTS, false),
    kind("e", "Enum8('sad' = -1, 'ok' = 2, 'A' = 3)", "Utf8", &["sad", "ok", "A"], false),
    kind("g", "UUID", "Utf8", &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"], false),
];

/// In the modern engine besides.
pub(super) const MODERN: &[Kind] = &[
    kind("b", "Bool", "Boolean", &["true", "false"], true),
    kind("y", "Date32", "Date32", &["1900-01-01", "1969-12-31", "1970-01-01", "2024-02-29", "2299-12-31"], true),
    kind(
        "m",
        "DateTime64(3)",
        MICROS,
        &["1950-01-01 00:00:00.001", "1970-01-01 00:00:00.000", "2024-03-31 01:30:00.500", "2250-12-31 23:59:59.999"],
        true,
    ),
    kind(
        "c",
        "DateTime64(6)",
        MICROS,
        &["1950-01-01 00:00:00.000001", "1970-01-01 00:00:00.000000", "2024-03-31 01:30:00.500000"],
        true,
    ),
    kind(
        "z",
        "Decimal(50, 5)",
        "Decimal256(50, 5)",
        &["-1.00000", "0.00000", "0.00001", "123456789012345678901234567890.12345"],
        true,
    ),
    kind(
        "o",
        "DateTime64(9)",
        "Timestamp(Nanosecond, Some(\"+00:00\"))",
        &["1950-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000000", "2024-03-31 01:30:00.500000000"],
        true,
    ),
    kind("l", "LowCardinality(String)", "Utf8", TEXTS, false),
];

/// A table with two columns of each kind, `<kind>_a` that may be NULL and is so in a fifth of the rows, and `<kind>_b`.
pub(super) fn table(rng: &mut StdRng, kinds: &[&Kind]) -> [String; 2] {
    let nullable = |kind: &Kind| match kind.name {
        "l" => "LowCardinality(Nullable(String))".to_string(),
        _ => format!("Nullable({})", kind.sql),
    };
    let columns = kinds.iter().map(|kind| format!("{0}_a {1}, {0}_b {2}", kind.name, nullable(kind), kind.sql));
    let columns: Vec<_> = columns.collect();
    let create =
        format!("CREATE TABLE DB.edges (id Int32, {}) ENGINE = MergeTree ORDER BY (i4_b, s_b)", columns.join(", "));
    let mut insert = "INSERT INTO DB.edges VALUES ".to_string();
    for id in 0..ROWS {
        let mut row = vec![id.to_string()];
        for kind in kinds {
            row.push(if rng.random_bool(0.2) { "NULL".to_string() } else { stored(rng, kind) });
            row.push(stored(rng, kind));
        }
        let _ = write!(insert, "{}({})", if id == 0 { "" } else { ",\n" }, row.join(", "));
    }
    [create, insert]
}

fn value(rng: &mut StdRng, kind: &Kind) -> &'static str {
    kind.values.choose(rng).expect("a kind has values")
}

/// A value in an INSERT of ClickHouse.
fn stored(rng: &mut StdRng, kind: &Kind) -> String {
    let value = value(rng, kind);
    let is_bare = kind.name == "b" || kind.arrow.starts_with("Decimal") || kind.arrow.contains("Int");
    if is_bare { value.to_string() } else { format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'")) }
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

pub(super) fn condition(rng: &mut StdRng, kinds: &[&Kind], depth: usize) -> String {
    if depth == 0 || rng.random_bool(0.35) {
        return atom(rng, kinds);
    }
    let inner = condition(rng, kinds, depth - 1);
    match rng.random_range(0..8) {
        0..3 => format!("({inner} AND {})", condition(rng, kinds, depth - 1)),
        3..6 => format!("({inner} OR {})", condition(rng, kinds, depth - 1)),
        6 => format!("(NOT {inner})"),
        _ => {
            let tests = ["TRUE", "FALSE", "UNKNOWN", "NOT TRUE", "NOT FALSE", "NOT UNKNOWN"];
            format!("({inner} IS {})", tests.choose(rng).expect("tests"))
        }
    }
}

fn atom(rng: &mut StdRng, kinds: &[&Kind]) -> String {
    let kind = kinds.choose(rng).expect("kinds");
    let column = format!("{}_{}", kind.name, if rng.random_bool(0.6) { "a" } else { "b" });
    let operators: &[&str] = match kind.is_ordered {
        true => &["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"],
        false => &["=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"],
    };
    let operator = operators.choose(rng).expect("operators");
    let not = if rng.random_bool(0.3) { "NOT " } else { "" };
    match rng.random_range(0..9) {
        0..3 => format!("({column} {operator} {})", operand(rng, kind)),
        3 => format!("({} {operator} {column})", operand(rng, kind)),
        4 if kind.name != "e" => format!("({0}_a {operator} {0}_b)", kind.name),
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

fn ids(rows: &[RecordBatch]) -> Vec<i32> {
    let mut ids: Vec<_> =
        rows.iter().flat_map(|batch| batch.column(0).as_primitive::<Int32Type>().values().to_vec()).collect();
    ids.sort_unstable();
    ids
}

async fn compare(engine: Engine, database: &'static str, kinds: &[&Kind]) {
    let seed = seed();
    let count = if std::env::var_os("TOWNLAKE_SOAK").is_some() { SOAK } else { SLICE };
    println!("{count} random filters in {engine:?}, TOWNLAKE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let [create, insert] = table(&mut rng, kinds);
    let Some(ch) = Ch::of(engine, database, &[&create, &insert], "").await else { return };
    let all = ch.query(&["edges"], "SELECT * FROM edges").await.unwrap();
    assert_eq!(ids(&all).len(), ROWS);
    let local = SessionContext::new();
    local.register_table("edges", Arc::new(MemTable::try_new(all[0].schema(), vec![all]).unwrap())).unwrap();

    let (mut pushed, mut telling) = (0, 0);
    for number in 0..count {
        let filter = condition(&mut rng, kinds, DEPTH);
        let told = format!("{engine:?}, TOWNLAKE_SEED={seed}, filter {number}: {filter}");
        let sql = format!("SELECT id FROM edges WHERE {filter}");
        let here = collect(&local, &sql).await.unwrap_or_else(|error| panic!("{told}\n{error:?}"));
        let query = query();
        let session = ch.session(&query, 2, &["edges"]).await;
        let plan = session.sql(&sql).await.unwrap_or_else(|error| panic!("{told}\n{error}"));
        let plan = plan.create_physical_plan().await.unwrap_or_else(|error| panic!("{told}\n{:?}", typed(error)));
        let text = displayable(plan.as_ref()).indent(false).to_string();
        let there = datafusion::physical_plan::collect(plan, session.task_ctx()).await;
        let there = there.unwrap_or_else(|error| panic!("{told}\n{text}\n{:?}", typed(error)));
        let (here, there) = (ids(&here), ids(&there));
        assert_eq!(there, here, "{told}\n{text}");
        // A filter that is never true, or always, leaves no condition to push.
        pushed += usize::from(text.contains(" WHERE ") && !text.contains("FilterExec"));
        telling += usize::from(!here.is_empty() && here.len() < ROWS);
    }
    println!("{pushed} were applied by the server alone, {telling} selected some rows and not all");
    assert!(pushed * 10 >= count * 7, "only {pushed} of {count} filters were applied by the server alone");
    assert!(telling * 2 >= count, "only {telling} of {count} filters selected some rows and not all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_filters_select_the_same_rows_there_and_here() {
    compare(Engine::Old, "random_filters", &KINDS.iter().collect::<Vec<_>>()).await;
    compare(Engine::Modern, "random_filters", &KINDS.iter().chain(MODERN).collect::<Vec<_>>()).await;
}
