//! Random queries over edge values: groups and top rows that the server makes are what DataFusion makes of the same rows here.
//!
//! Counts and seeds as in [`crate::random_conditions`].

use std::sync::Arc;

use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use townlake_tests::clickhouse::Engine;

use super::random_filters::{KINDS, MODERN, grammar, table};
use super::{Ch, query};
use crate::random_conditions::{DEPTH, Kind};
use crate::random_statements::{Columns, compare, is_grouped_there};
use crate::sources::seed;

const SLICE: usize = 150;
const SOAK: usize = 5000;

/// Both columns of the kinds of these names.
fn columns(kinds: &[&Kind], is_wanted: impl Fn(&Kind) -> bool) -> Vec<String> {
    let wanted = kinds.iter().filter(|kind| is_wanted(kind));
    wanted.flat_map(|kind| [format!("{}_a", kind.name), format!("{}_b", kind.name)]).collect()
}

async fn run(engine: Engine, kinds: &[&Kind]) {
    let seed = seed();
    let count = if std::env::var_os("TOWNLAKE_SOAK").is_some() { SOAK } else { SLICE };
    println!("{count} random queries in {engine:?}, TOWNLAKE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let [create, insert] = table(&mut rng, kinds);
    let Some(ch) = Ch::of(engine, "random_queries", &[&create, &insert], "").await else { return };
    let all = ch.query(&["edges"], "SELECT * FROM edges").await.unwrap();
    let local = SessionContext::new();
    local.register_table("edges", Arc::new(MemTable::try_new(all[0].schema(), vec![all]).unwrap())).unwrap();
    let made_of = Columns {
        all: columns(kinds, |_| true),
        summed: columns(kinds, |kind| ["i1", "i4", "i8", "u2", "u8", "n", "w"].contains(&kind.name)),
        averaged: columns(kinds, |kind| ["i1", "i4", "u2", "n", "w"].contains(&kind.name)),
        ordered: columns(kinds, |kind| kind.is_ordered || kind.name == "s"),
        condition: &|rng: &mut StdRng| grammar(kinds).condition(rng, DEPTH - 1),
    };
    let (mut grouped, mut topped) = (0, 0);
    for number in 0..count {
        let sql = match rng.random_range(0..10) {
            0..5 => made_of.groups(&mut rng),
            5 | 6 => made_of.distinct(&mut rng),
            _ => made_of.top(&mut rng),
        };
        let told = format!("{engine:?}, TOWNLAKE_SEED={seed}, query {number}: {sql}");
        let query = query();
        let tables = [("edges", ch.table(&query, "edges").await)];
        let plan = compare(&sql, &told, (&query, &ch.connections), &tables, &local).await;
        grouped += usize::from(is_grouped_there(&sql, &plan));
        topped += usize::from(plan.contains(" ORDER BY "));
    }
    println!("{grouped} were grouped by the server, {topped} cut to top rows");
    for (what, share, least) in [("grouped", grouped, 30), ("topped", topped, 10)] {
        assert!(share * 100 >= count * least, "only {share} of {count} were {what} by the server");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_queries_give_the_same_rows_there_and_here() {
    run(Engine::Old, &KINDS.iter().collect::<Vec<_>>()).await;
    run(Engine::Modern, &KINDS.iter().chain(MODERN).collect::<Vec<_>>()).await;
}
