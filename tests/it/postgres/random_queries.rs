//! Random queries over edge values: groups, top rows and joins that the server does give what DataFusion makes of the same rows here.
//!
//! Counts and seeds as in [`super::random_filters`].

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use townlake_engine::session::physical_rules;

use super::random_filters::{DEPTH, KINDS, Kind, condition, seed, table};
use super::{Crm, collect, query, typed};

const SLICE: usize = 200;
const SOAK: usize = 5000;

fn column(rng: &mut StdRng, kind: &Kind) -> String {
    format!("{}_{}", kind.name, if rng.random_bool(0.5) { "a" } else { "b" })
}

fn any_column(rng: &mut StdRng) -> String {
    let kind = KINDS.choose(rng).expect("kinds");
    column(rng, kind)
}

fn aggregate(rng: &mut StdRng) -> String {
    let of = |rng: &mut StdRng, names: &[&str]| {
        let kind = KINDS.iter().filter(|kind| names.contains(&kind.name)).collect::<Vec<_>>();
        let kind = *kind.choose(rng).expect("kinds");
        column(rng, kind)
    };
    match rng.random_range(0..7) {
        0 => "count(*)".to_string(),
        1 => format!("count({})", any_column(rng)),
        2 | 3 => format!("sum({})", of(rng, &["i2", "i4", "i8", "n"])),
        4 => format!("avg({})", of(rng, &["i2", "i4", "n"])),
        5 => format!("min({})", of(rng, &["i2", "i4", "i8", "n", "w", "d", "ts", "tz", "t"])),
        _ => format!("max({})", of(rng, &["i2", "i4", "i8", "n", "w", "d", "ts", "tz", "t"])),
    }
}

fn filter(rng: &mut StdRng) -> String {
    if rng.random_bool(0.5) { format!(" WHERE {}", condition(rng, DEPTH - 1)) } else { String::new() }
}

fn groups(rng: &mut StdRng) -> String {
    let by: Vec<_> = (0..rng.random_range(0..3)).map(|_| any_column(rng)).collect();
    let mut listed: Vec<_> = by.clone();
    listed.extend((0..rng.random_range(1..4)).map(|_| aggregate(rng)));
    // Names of their own: a column may come twice.
    let listed: Vec<_> = listed.iter().enumerate().map(|(place, sql)| format!("{sql} AS c{place}")).collect();
    let group_by = if by.is_empty() { String::new() } else { format!(" GROUP BY {}", by.join(", ")) };
    format!("SELECT {} FROM edges{}{group_by}", listed.join(", "), filter(rng))
}

fn distinct(rng: &mut StdRng) -> String {
    format!("SELECT DISTINCT {} AS a, {} AS b FROM edges{}", any_column(rng), any_column(rng), filter(rng))
}

/// In an order in which no two rows are equal.
fn top(rng: &mut StdRng) -> String {
    let key = |rng: &mut StdRng| {
        let direction = ["ASC", "DESC"].choose(rng).expect("two");
        let nulls = ["FIRST", "LAST"].choose(rng).expect("two");
        format!("{} {direction} NULLS {nulls}", any_column(rng))
    };
    let (first, second) = (key(rng), key(rng));
    let limit = rng.random_range(1..40);
    format!(
        "SELECT id, {} AS v FROM edges{} ORDER BY {first}, {second}, id LIMIT {limit}",
        any_column(rng),
        filter(rng)
    )
}

fn join(rng: &mut StdRng) -> String {
    let more = match rng.random_range(0..3) {
        0 => format!(" AND e.{0} = o.{0}", any_column(rng)),
        _ => String::new(),
    };
    let on = match rng.random_range(0..3) {
        0 => format!("e.{0} = o.{0}", any_column(rng)),
        _ => "e.id = o.id".to_string(),
    };
    let shown = format!("e.id AS a, o.id AS b, e.{} AS c, o.{} AS d", any_column(rng), any_column(rng));
    let inner = format!(
        "SELECT {shown} FROM edges AS e JOIN others AS o ON {on}{more} WHERE o.id < {}",
        rng.random_range(1..90)
    );
    match rng.random_range(0..3) {
        0 => format!("SELECT d, count(*) AS n, sum(a) AS s FROM ({inner}) AS j GROUP BY d"),
        _ => inner,
    }
}

fn statement(rng: &mut StdRng) -> String {
    match rng.random_range(0..10) {
        0..4 => groups(rng),
        4 => distinct(rng),
        5..8 => top(rng),
        _ => join(rng),
    }
}

fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
        rows.extend(
            (0..batch.num_rows())
                .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" | ")),
        );
    }
    rows.sort_unstable();
    rows
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

    let (mut grouped, mut topped, mut joined, mut filtered) = (0, 0, 0, 0);
    for number in 0..count {
        let sql = statement(&mut rng);
        let told = format!("TOWNLAKE_SEED={seed}, query {number}: {sql}");
        let here = collect(&local, &sql).await.unwrap_or_else(|error| panic!("{told}\n{error:?}"));
        let query = query();
        let config = SessionConfig::new()
            .with_target_partitions(3)
            .with_extension(Arc::clone(&query))
            .with_extension(Arc::clone(&crm.connections));
        let state = SessionStateBuilder::new_with_default_features().with_config(config);
        let session = SessionContext::new_with_state(state.with_physical_optimizer_rules(physical_rules(true)).build());
        for name in ["edges", "others"] {
            session.register_table(name, crm.table(&query, name).await).expect("register");
        }
        let plan = session.sql(&sql).await.unwrap_or_else(|error| panic!("{told}\n{error}"));
        let plan = plan.create_physical_plan().await.unwrap_or_else(|error| panic!("{told}\n{:?}", typed(error)));
        let text = displayable(plan.as_ref()).indent(false).to_string();
        let there = datafusion::physical_plan::collect(plan, session.task_ctx()).await;
        let there = there.unwrap_or_else(|error| panic!("{told}\n{text}\n{:?}", typed(error)));
        assert_eq!(rows(&there), rows(&here), "{told}\n{text}");
        let is_grouped = sql.contains("count(") || sql.contains("sum(") || sql.contains("DISTINCT");
        grouped += usize::from(is_grouped && text.contains("PostgresScanExec") && !text.contains("mode=Partial"));
        topped += usize::from(text.contains(" ORDER BY "));
        joined += usize::from(text.contains(" JOIN "));
        filtered += usize::from(text.contains(" WHERE "));
    }
    println!("{grouped} were grouped by the server, {topped} cut to top rows, {joined} joined, {filtered} filtered");
    for (what, share, least) in [("grouped", grouped, 15), ("topped", topped, 10), ("joined", joined, 5)] {
        assert!(share * 100 >= count * least, "only {share} of {count} were {what} by the server");
    }
}
