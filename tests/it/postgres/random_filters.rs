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

use super::{Crm, collect, query, typed};
use crate::sources::seed;

const SLICE: usize = 150;
const SOAK: usize = 5000;
const ROWS: usize = 400;
/// Deepest nesting of AND, OR, NOT and IS.
pub(super) const DEPTH: usize = 3;

/// A type of the allow-list: what Postgres calls it, its edge values (without quotes), and whether its order is pushed.
pub(super) struct Kind {
    pub(super) name: &'static str,
    sql: &'static str,
    values: &'static [&'static str],
    pub(super) is_ordered: bool,
}

const TEXTS: &[&str] =
    &["", " ", "a", "A", "ä", "ß", "ss", "a ", "b'", "a\\b", "%", "a_b", "é", "e\u{301}", "\u{10FFFF}"];

pub(super) const KINDS: &[Kind] = &[
    Kind { name: "i2", sql: "int2", values: &["-32768", "-1", "0", "1", "7", "32767"], is_ordered: true },
    Kind { name: "i4", sql: "int4", values: &["-2147483648", "-1", "0", "1", "8", "2147483647"], is_ordered: true },
    Kind {
        name: "i8",
        sql: "int8",
        values: &["-9223372036854775808", "-1", "0", "1", "9007199254740993", "9223372036854775807"],
        is_ordered: true,
    },
    Kind {
        name: "n",
        sql: "numeric(15,2)",
        values: &["-9999999999999.99", "-0.01", "0.00", "0.01", "1.50", "9999999999999.99"],
        is_ordered: true,
    },
    Kind {
        name: "w",
        sql: "numeric(38,10)",
        values: &["-9999999999999999999999999999.9999999999", "0.0000000000", "0.0000000001", "1.5000000000"],
        is_ordered: true,
    },
    Kind {
        name: "d",
        sql: "date",
        values: &["0001-01-01", "1582-10-15", "1969-12-31", "1970-01-01", "2024-02-29", "9999-12-31"],
        is_ordered: true,
    },
    Kind {
        name: "ts",
        sql: "timestamp",
        values: &[
            "0001-01-01T00:00:00",
            "1969-12-31T23:59:59.999999",
            "1970-01-01T00:00:00",
            "2024-03-31T02:30:00.000001",
            "9999-12-31T23:59:59.999999",
        ],
        is_ordered: true,
    },
    Kind {
        name: "tz",
        sql: "timestamptz",
        values: &[
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59.999999Z",
            "1970-01-01T00:00:00Z",
            "2024-03-31T01:30:00Z",
            "2024-03-31T03:30:00+02:00",
            "9999-12-31T23:59:59.999999Z",
        ],
        is_ordered: true,
    },
    Kind { name: "b", sql: "bool", values: &["true", "false"], is_ordered: true },
    Kind { name: "t", sql: "text", values: TEXTS, is_ordered: false },
    Kind { name: "v", sql: "varchar(9) COLLATE \"C\"", values: TEXTS, is_ordered: false },
    Kind { name: "c", sql: "char(4)", values: &["", "a", "A", "ab", "abcd"], is_ordered: false },
    Kind {
        name: "u",
        sql: "uuid",
        values: &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
        is_ordered: false,
    },
    Kind { name: "m", sql: "mood", values: &["sad", "ok", "A"], is_ordered: false },
];

/// A table with two columns of each kind, `<kind>_a` and `<kind>_b`, a fifth of the values NULL.
pub(super) fn table(rng: &mut StdRng) -> String {
    let columns = KINDS.iter().map(|kind| format!("{0}_a {1}, {0}_b {1}", kind.name, kind.sql));
    let columns: Vec<_> = columns.collect();
    let mut sql = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'A');\n".to_string();
    let _ = write!(sql, "CREATE TABLE edges (id int4 NOT NULL, {});\nINSERT INTO edges VALUES ", columns.join(", "));
    for id in 0..ROWS {
        let mut row = vec![id.to_string()];
        for kind in KINDS {
            row.extend((0..2).map(|_| if rng.random_bool(0.2) { "NULL".to_string() } else { constant(rng, kind) }));
        }
        let _ = write!(sql, "{}({})", if id == 0 { "" } else { ",\n" }, row.join(", "));
    }
    sql
}

/// A value of the kind as both engines read it.
fn constant(rng: &mut StdRng, kind: &Kind) -> String {
    let value = kind.values.choose(rng).expect("a kind has values");
    match kind.name {
        "b" => value.to_string(),
        _ => format!("'{}'", value.replace('\'', "''")),
    }
}

/// The same in a filter, where a number has no quotes and now and then there is a NULL.
fn operand(rng: &mut StdRng, kind: &Kind) -> String {
    if rng.random_bool(0.08) {
        return "NULL".to_string();
    }
    let value = constant(rng, kind);
    match kind.name {
        // The text of a number is what both make a number of its type from, also of the smallest.
        "i2" => format!("CAST({value} AS SMALLINT)"),
        "i4" => format!("CAST({value} AS INTEGER)"),
        "i8" => format!("CAST({value} AS BIGINT)"),
        "n" => format!("CAST({value} AS DECIMAL(15, 2))"),
        "w" => format!("CAST({value} AS DECIMAL(38, 10))"),
        // A bare string would become a time in nanoseconds, which the years 1 and 9999 do not fit into.
        "ts" => format!("arrow_cast({value}, 'Timestamp(Microsecond, None)')"),
        "tz" => format!("arrow_cast({value}, 'Timestamp(Microsecond, Some(\"+00:00\"))')"),
        _ => value,
    }
}

pub(super) fn condition(rng: &mut StdRng, depth: usize) -> String {
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
    let column = format!("{}_{}", kind.name, if rng.random_bool(0.5) { "a" } else { "b" });
    let operators: &[&str] = match kind.is_ordered {
        true => &["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"],
        false => &["=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"],
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

fn ids(rows: &[RecordBatch]) -> Vec<i32> {
    let mut ids: Vec<_> =
        rows.iter().flat_map(|batch| batch.column(0).as_primitive::<Int32Type>().values().to_vec()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_filters_select_the_same_rows_there_and_here() {
    let seed = seed();
    let count = if std::env::var_os("TOWNLAKE_SOAK").is_some() { SOAK } else { SLICE };
    println!("{count} random filters, TOWNLAKE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let Some(crm) = Crm::new("random_filters", &table(&mut rng)).await else { return };
    let all = crm.query(&["edges"], "SELECT * FROM edges").await.unwrap();
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
        let session = crm.session(&query, 2, &["edges"]).await;
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
