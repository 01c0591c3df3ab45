//! Random queries over edge values: groups, top rows and joins that the server does give what DataFusion makes of the same rows here.
//!
//! Counts and seeds as in [`crate::random_conditions`].

use std::sync::Arc;

use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::random_filters::{KINDS, grammar, table};
use super::{Crm, query};
use crate::random_conditions::DEPTH;
use crate::random_statements::{Columns, compare, is_grouped_there};
use crate::sources::seed;

const SLICE: usize = 200;
const SOAK: usize = 5000;

/// Both columns of the kinds of these names.
fn columns(names: &[&str]) -> Vec<String> {
    let wanted = KINDS.iter().filter(|kind| names.is_empty() || names.contains(&kind.name));
    wanted.flat_map(|kind| [format!("{}_a", kind.name), format!("{}_b", kind.name)]).collect()
}

fn made_of() -> Columns<'static> {
    Columns {
        all: columns(&[]),
        summed: columns(&["i2", "i4", "i8", "n"]),
        averaged: columns(&["i2", "i4", "n"]),
        ordered: columns(&["i2", "i4", "i8", "n", "w", "d", "ts", "tz", "t"]),
        condition: &|rng| grammar(&KINDS.iter().collect::<Vec<_>>()).condition(rng, DEPTH - 1),
    }
}

fn join(rng: &mut StdRng, made_of: &Columns<'_>) -> String {
    let more = match rng.random_range(0..3) {
        0 => format!(" AND e.{0} = o.{0}", made_of.any(rng)),
        _ => String::new(),
    };
    let on = match rng.random_range(0..3) {
        0 => format!("e.{0} = o.{0}", made_of.any(rng)),
        _ => "e.id = o.id".to_string(),
    };
    let shown = format!("e.id AS a, o.id AS b, e.{} AS c, o.{} AS d", made_of.any(rng), made_of.any(rng));
    let inner = format!(
        "SELECT {shown} FROM edges AS e JOIN others AS o ON {on}{more} WHERE o.id < {}",
        rng.random_range(1..90)
    );
    match rng.random_range(0..3) {
        0 => format!("SELECT d, count(*) AS n, sum(a) AS s FROM ({inner}) AS j GROUP BY d"),
        _ => inner,
    }
}

fn statement(rng: &mut StdRng, made_of: &Columns<'_>) -> String {
    match rng.random_range(0..10) {
        0..4 => made_of.groups(rng),
        4 => made_of.distinct(rng),
        5..8 => made_of.top(rng),
        _ => join(rng, made_of),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_queries_give_the_same_rows_there_and_here() {
    let seed = seed();
    let count = if std::env::var_os("TOWNLAKE_SOAK").is_some() { SOAK } else { SLICE };
    println!("{count} random queries, TOWNLAKE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let data = format!("{}; CREATE TABLE others AS SELECT * FROM edges WHERE id < 90; ANALYZE", table(&mut rng));
    let Some(crm) = Crm::new("random_queries", &data).await else { return };
    let local = SessionContext::new();
    for name in ["edges", "others"] {
        let all = crm.query(&[name], &format!("SELECT * FROM {name}")).await.unwrap();
        let table = MemTable::try_new(all[0].schema(), vec![all]).unwrap();
        local.register_table(name, Arc::new(table)).unwrap();
    }

    let made_of = made_of();
    let (mut grouped, mut topped, mut joined, mut filtered) = (0, 0, 0, 0);
    for number in 0..count {
        let sql = statement(&mut rng, &made_of);
        let told = format!("TOWNLAKE_SEED={seed}, query {number}: {sql}");
        let query = query();
        let tables = [("edges", crm.table(&query, "edges").await), ("others", crm.table(&query, "others").await)];
        let text = compare(&sql, &told, (&query, &crm.connections), &tables, &local).await;
        grouped += usize::from(is_grouped_there(&sql, &text));
        topped += usize::from(text.contains(" ORDER BY "));
        joined += usize::from(text.contains(" JOIN "));
        filtered += usize::from(text.contains(" WHERE "));
    }
    println!("{grouped} were grouped by the server, {topped} cut to top rows, {joined} joined, {filtered} filtered");
    for (what, share, least) in [("grouped", grouped, 15), ("topped", topped, 10), ("joined", joined, 5)] {
        assert!(share * 100 >= count * least, "only {share} of {count} were {what} by the server");
    }
}
