//! Random filters over edge values: what the server makes of them is what DataFusion makes of the same rows here.

use std::fmt::Write as _;

use rand::Rng;
use rand::rngs::StdRng;
use townlake_tests::clickhouse::Engine;

use super::Ch;
use crate::random_conditions::{Grammar, Kind, ROWS, Run, TEXTS, kind, value};

const MICROS: &str = "Timestamp(Microsecond, Some(\"+00:00\"))";

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

/// What its filters are made of.
pub(super) fn grammar<'a>(kinds: &'a [&'a Kind]) -> Grammar<'a> {
    Grammar { kinds, is_distinct_from: true, not_compared: &["e"] }
}

/// A table with two columns of each kind, `<kind>_a` that may be NULL and is so in a fifth of the rows, and `<kind>_b`.
pub(super) fn table(rng: &mut StdRng, kinds: &[&Kind]) -> [String; 2] {
    let nullable = |kind: &Kind| match kind.name {
        "l" => "LowCardinality(Nullable(String))".to_string(),
        _ => format!("Nullable({})", kind.declared),
    };
    let columns = kinds.iter().map(|kind| format!("{0}_a {1}, {0}_b {2}", kind.name, nullable(kind), kind.declared));
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

/// A value in an INSERT of ClickHouse.
fn stored(rng: &mut StdRng, kind: &Kind) -> String {
    let value = value(rng, kind);
    let is_bare = kind.name == "b" || kind.arrow.starts_with("Decimal") || kind.arrow.contains("Int");
    if is_bare { value.to_string() } else { format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'")) }
}

async fn compare(engine: Engine, database: &'static str, kinds: &[&Kind]) {
    let mut run = Run::of(&format!("ClickHouse ({engine:?})"));
    let [create, insert] = table(&mut run.rng, kinds);
    let Some(ch) = Ch::of(engine, database, &[&create, &insert], "").await else { return };
    let all = ch.query(&["edges"], "SELECT * FROM edges").await.unwrap();
    run.compare(all, &grammar(kinds), async |query| ch.session(query, 2, &["edges"]).await, " WHERE ").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_filters_select_the_same_rows_there_and_here() {
    compare(Engine::Old, "random_filters", &KINDS.iter().collect::<Vec<_>>()).await;
    compare(Engine::Modern, "random_filters", &KINDS.iter().chain(MODERN).collect::<Vec<_>>()).await;
}
