//! What the random filters of all sources have in common: conditions over columns of edge values, and their rows there and here.
//!
//! `make test` runs a slice with a fixed seed. `make soak` (`TOWNLAKE_SOAK=1`) runs many with a seed of the moment, which is
//! printed; `TOWNLAKE_SEED=<number>` runs that one again.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use townlake_common::QueryContext;

use crate::sources::{collect, query, seed, typed};

const SLICE: usize = 150;
const SOAK: usize = 5000;
/// Rows of a table `edges`.
pub const ROWS: usize = 400;
/// Deepest nesting of AND, OR, NOT and IS.
pub const DEPTH: usize = 3;

/// A type of a source's allow-list. A table has two columns of each, `<name>_a` and `<name>_b`.
pub struct Kind {
    pub name: &'static str,
    /// What the source calls it.
    pub declared: &'static str,
    /// What `arrow_cast` calls it.
    pub arrow: &'static str,
    /// Its edge values, without quotes.
    pub values: &'static [&'static str],
    /// Whether its order is pushed.
    pub is_ordered: bool,
}

/// A [`Kind`] in one line.
pub const fn kind(
    name: &'static str,
    declared: &'static str,
    arrow: &'static str,
    values: &'static [&'static str],
    is_ordered: bool,
) -> Kind {
    Kind { name, declared, arrow, values, is_ordered }
}

/// Texts that collations, escapes and encodings differ in.
pub const TEXTS: &[&str] =
    &["", " ", "a", "A", "ä", "ß", "ss", "a ", "b'", "a\\b", "%", "a_b", "é", "e\u{301}", "\u{10FFFF}"];

/// One of its edge values.
pub fn value(rng: &mut StdRng, kind: &Kind) -> &'static str {
    kind.values.choose(rng).expect("a kind has values")
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

/// Which conditions a source may be given.
pub struct Grammar<'a> {
    pub kinds: &'a [&'a Kind],
    /// Whether it knows `IS DISTINCT FROM`.
    pub is_distinct_from: bool,
    /// Kinds whose two columns it cannot compare with each other.
    pub not_compared: &'a [&'a str],
}

impl Grammar<'_> {
    /// A condition, at most so deep.
    pub fn condition(&self, rng: &mut StdRng, depth: usize) -> String {
        if depth == 0 || rng.random_bool(0.35) {
            return self.atom(rng);
        }
        let inner = self.condition(rng, depth - 1);
        match rng.random_range(0..8) {
            0..3 => format!("({inner} AND {})", self.condition(rng, depth - 1)),
            3..6 => format!("({inner} OR {})", self.condition(rng, depth - 1)),
            6 => format!("(NOT {inner})"),
            _ => {
                let tests = ["TRUE", "FALSE", "UNKNOWN", "NOT TRUE", "NOT FALSE", "NOT UNKNOWN"];
                format!("({inner} IS {})", tests.choose(rng).expect("tests"))
            }
        }
    }

    fn atom(&self, rng: &mut StdRng) -> String {
        let kind = self.kinds.choose(rng).expect("kinds");
        let column = format!("{}_{}", kind.name, if rng.random_bool(0.6) { "a" } else { "b" });
        let mut operators = vec!["=", "<>"];
        if kind.is_ordered {
            operators.extend(["<", "<=", ">", ">="]);
        }
        if self.is_distinct_from {
            operators.extend(["IS DISTINCT FROM", "IS NOT DISTINCT FROM"]);
        }
        let operator = operators.choose(rng).expect("operators");
        let not = if rng.random_bool(0.3) { "NOT " } else { "" };
        match rng.random_range(0..9) {
            0..3 => format!("({column} {operator} {})", operand(rng, kind)),
            3 => format!("({} {operator} {column})", operand(rng, kind)),
            4 if !self.not_compared.contains(&kind.name) => format!("({0}_a {operator} {0}_b)", kind.name),
            5 => format!("({column} IS {not}NULL)"),
            6 if kind.is_ordered => {
                format!("({column} {not}BETWEEN {} AND {})", operand(rng, kind), operand(rng, kind))
            }
            7 if kind.arrow == "Boolean" => column,
            _ => {
                let values: Vec<_> = (0..rng.random_range(1..6)).map(|_| operand(rng, kind)).collect();
                format!("({column} {not}IN ({}))", values.join(", "))
            }
        }
    }
}

/// A run of random filters.
pub struct Run {
    who: String,
    seed: u64,
    count: usize,
    /// What a table is filled from, and its filters.
    pub rng: StdRng,
}

impl Run {
    /// The run of a source, which it names.
    pub fn of(who: &str) -> Self {
        let seed = seed();
        let count = if std::env::var_os("TOWNLAKE_SOAK").is_some() { SOAK } else { SLICE };
        println!("{count} random filters in {who}, TOWNLAKE_SEED={seed}");
        Self { who: who.to_string(), seed, count, rng: StdRng::seed_from_u64(seed) }
    }

    /// Filters over `all` rows of a table `edges` here, and over `edges` in sessions of the source, select the same. `asked`: how a plan
    /// shows that the source has a filter.
    pub async fn compare(
        mut self,
        all: Vec<RecordBatch>,
        grammar: &Grammar<'_>,
        session: impl AsyncFn(&Arc<QueryContext>) -> SessionContext,
        asked: &str,
    ) {
        assert_eq!(ids(&all).len(), ROWS);
        let local = SessionContext::new();
        local.register_table("edges", Arc::new(MemTable::try_new(all[0].schema(), vec![all]).unwrap())).unwrap();
        let (mut pushed, mut telling) = (0, 0);
        for number in 0..self.count {
            let filter = grammar.condition(&mut self.rng, DEPTH);
            let told = format!("{}, TOWNLAKE_SEED={}, filter {number}: {filter}", self.who, self.seed);
            let sql = format!("SELECT id FROM edges WHERE {filter}");
            let here = collect(&local, &sql).await.unwrap_or_else(|error| panic!("{told}\n{error:?}"));
            let query = query();
            let session = session(&query).await;
            let plan = session.sql(&sql).await.unwrap_or_else(|error| panic!("{told}\n{error}"));
            let plan = plan.create_physical_plan().await.unwrap_or_else(|error| panic!("{told}\n{:?}", typed(error)));
            let text = displayable(plan.as_ref()).indent(false).to_string();
            let there = datafusion::physical_plan::collect(plan, session.task_ctx()).await;
            let there = there.unwrap_or_else(|error| panic!("{told}\n{text}\n{:?}", typed(error)));
            let (here, there) = (ids(&here), ids(&there));
            assert_eq!(there, here, "{told}\n{text}");
            // A filter that is never true, or always, leaves no condition to push.
            pushed += usize::from(text.contains(asked) && !text.contains("FilterExec"));
            telling += usize::from(!here.is_empty() && here.len() < ROWS);
        }
        let count = self.count;
        println!("{pushed} were applied by the server alone, {telling} selected some rows and not all");
        assert!(pushed * 10 >= count * 7, "only {pushed} of {count} filters were applied by the server alone");
        assert!(telling * 2 >= count, "only {telling} of {count} filters selected some rows and not all");
    }
}

fn ids(rows: &[RecordBatch]) -> Vec<i64> {
    let of = |batch: &RecordBatch| {
        let ids = cast(batch.column_by_name("id").expect("an id"), &DataType::Int64).expect("numbers");
        ids.as_primitive::<Int64Type>().values().to_vec()
    };
    let mut ids: Vec<_> = rows.iter().flat_map(of).collect();
    ids.sort_unstable();
    ids
}
