//! Random filters over edge values: what the server makes of them is what DataFusion makes of the same rows here.

use std::fmt::Write as _;

use rand::Rng;
use rand::rngs::StdRng;

use super::Crm;
use crate::random_conditions::{Grammar, Kind, ROWS, Run, TEXTS, kind, value};

const MICROS: &str = "Timestamp(Microsecond, Some(\"+00:00\"))";

pub(super) const KINDS: &[Kind] = &[
    kind("i2", "int2", "Int16", &["-32768", "-1", "0", "1", "7", "32767"], true),
    kind("i4", "int4", "Int32", &["-2147483648", "-1", "0", "1", "8", "2147483647"], true),
    kind(
        "i8",
        "int8",
        "Int64",
        &["-9223372036854775808", "-1", "0", "1", "9007199254740993", "9223372036854775807"],
        true,
    ),
    kind(
        "n",
        "numeric(15,2)",
        "Decimal128(15, 2)",
        &["-9999999999999.99", "-0.01", "0.00", "0.01", "1.50", "9999999999999.99"],
        true,
    ),
    kind(
        "w",
        "numeric(38,10)",
        "Decimal128(38, 10)",
        &["-9999999999999999999999999999.9999999999", "0.0000000000", "0.0000000001", "1.5000000000"],
        true,
    ),
    kind(
        "d",
        "date",
        "Date32",
        &["0001-01-01", "1582-10-15", "1969-12-31", "1970-01-01", "2024-02-29", "9999-12-31"],
        true,
    ),
    kind(
        "ts",
        "timestamp",
        "Timestamp(Microsecond, None)",
        &[
            "0001-01-01T00:00:00",
            "1969-12-31T23:59:59.999999",
            "1970-01-01T00:00:00",
            "2024-03-31T02:30:00.000001",
            "9999-12-31T23:59:59.999999",
        ],
        true,
    ),
    kind(
        "tz",
        "timestamptz",
        MICROS,
        &[
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59.999999Z",
            "1970-01-01T00:00:00Z",
            "2024-03-31T01:30:00Z",
            "2024-03-31T03:30:00+02:00",
            "9999-12-31T23:59:59.999999Z",
        ],
        true,
    ),
    kind("b", "bool", "Boolean", &["true", "false"], true),
    kind("t", "text", "Utf8", TEXTS, false),
    kind("v", "varchar(9) COLLATE \"C\"", "Utf8", TEXTS, false),
    kind("c", "char(4)", "Utf8", &["", "a", "A", "ab", "abcd"], false),
    kind("u", "uuid", "Utf8", &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"], false),
    kind("m", "mood", "Utf8", &["sad", "ok", "A"], false),
];

/// What its filters are made of.
pub(super) fn grammar<'a>(kinds: &'a [&'a Kind]) -> Grammar<'a> {
    Grammar { kinds, is_distinct_from: true, not_compared: &[] }
}

/// A table with two columns of each kind, `<kind>_a` and `<kind>_b`, a fifth of the values NULL.
pub(super) fn table(rng: &mut StdRng) -> String {
    let columns = KINDS.iter().map(|kind| format!("{0}_a {1}, {0}_b {1}", kind.name, kind.declared));
    let columns: Vec<_> = columns.collect();
    let mut sql = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'A');\n".to_string();
    let _ = write!(sql, "CREATE TABLE edges (id int4 NOT NULL, {});\nINSERT INTO edges VALUES ", columns.join(", "));
    for id in 0..ROWS {
        let mut row = vec![id.to_string()];
        for kind in KINDS {
            row.extend((0..2).map(|_| if rng.random_bool(0.2) { "NULL".to_string() } else { stored(rng, kind) }));
        }
        let _ = write!(sql, "{}({})", if id == 0 { "" } else { ",\n" }, row.join(", "));
    }
    sql
}

/// A value in an INSERT of Postgres.
fn stored(rng: &mut StdRng, kind: &Kind) -> String {
    let value = value(rng, kind);
    if kind.name == "b" { value.to_string() } else { format!("'{}'", value.replace('\'', "''")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_filters_select_the_same_rows_there_and_here() {
    let mut run = Run::of("Postgres");
    let Some(crm) = Crm::new("random_filters", &table(&mut run.rng)).await else { return };
    let all = crm.query(&["edges"], "SELECT * FROM edges").await.unwrap();
    let kinds: Vec<_> = KINDS.iter().collect();
    run.compare(all, &grammar(&kinds), async |query| crm.session(query, 2, &["edges"]).await, " WHERE ").await;
}
