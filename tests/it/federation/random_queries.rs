//! Random queries across five systems: what they do of a query by themselves changes no answer.
//!
//! Each query runs with pushdown, without, and in one process over copies of the same rows. `make test` runs a slice with a fixed
//! seed, `make soak` 5,000 with a seed of the moment, which is printed; `TOWNLAKE_SEED=<number>` runs that one again.

use rand::SeedableRng;
use rand::rngs::StdRng;
use townlake_cli::connection::Connection;
use townlake_tests::bed::{BedSpec, TestBed};

use super::data::{TABLES, TOPIC, copies, facts, lines, load};
use super::statements::statement;
use crate::sources::seed;

const SLICE: usize = 150;
const SOAK: usize = 5000;
const ROWS: usize = 130;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_queries_give_the_same_rows_wherever_they_are_worked_on() {
    let spec = BedSpec { executors: 2, scale: 0.0, federation: true, toml: TOPIC.to_string(), ..BedSpec::default() };
    let Some(bed) = TestBed::start("random_queries", spec).await else { return };
    let seed = seed();
    let count = if std::env::var_os("TOWNLAKE_SOAK").is_some() { SOAK } else { SLICE };
    println!("{count} random queries over five systems, TOWNLAKE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let tables: Vec<_> = TABLES.iter().map(|_| facts(&mut rng, ROWS)).collect();
    load(&bed, &tables).await;
    let local = copies(&bed, &tables).await;
    let pushing = bed.connect().await;
    bed.run("SET SESSION source_pushdown = 'none'").await;

    let (mut filtered, mut more) = (0, 0);
    for number in 0..count {
        let sql = statement(&mut rng);
        let told = format!("TOWNLAKE_SEED={seed}, query {number}: {sql}");
        // Small queries run in the coordinator unless they are sent.
        let execution = if number % 2 == 0 { "cluster" } else { "auto" };
        let set = format!("SET SESSION execution = '{execution}'");
        pushing.run(&set).await.unwrap_or_else(|error| panic!("{set}: {error:?}"));
        let plan = asked(&pushing, &sql, &told).await;
        let there = answer(&pushing, &sql, &told).await;
        let plain = answer(&bed.connection, &sql, &told).await;
        let here = local.sql(&sql).await.unwrap_or_else(|error| panic!("{told}\n{error}"));
        let here = lines(&here.collect().await.unwrap_or_else(|error| panic!("{told}\n{error}")));
        assert_eq!(plain, here, "without pushdown\n{told}");
        assert_eq!(there, here, "with pushdown\n{told}\n{}", plan.join("\n"));
        assert_eq!(bed.faults(&[]), "", "{told}");
        filtered += usize::from(plan.iter().any(|scan| has_filter(scan)));
        more += usize::from(plan.iter().any(|scan| has_more(scan)));
    }
    println!("of {count} queries {filtered} had a source filter, {more} had one do more");
    assert!(filtered * 100 >= count * 60, "only {filtered} of {count} pushed a filter");
    assert!(more * 100 >= count * 25, "only {more} of {count} pushed more than a filter");
    bed.finish(&[]);
}

async fn answer(connection: &Connection, sql: &str, told: &str) -> Vec<String> {
    let (_, batches) = connection.collect(sql).await.unwrap_or_else(|error| panic!("{told}\n{error:?}"));
    lines(&batches)
}

/// The lines of EXPLAIN that say what a source is asked.
async fn asked(connection: &Connection, sql: &str, told: &str) -> Vec<String> {
    let (_, batches) =
        connection.collect(&format!("EXPLAIN {sql}")).await.unwrap_or_else(|error| panic!("{told}\n{error:?}"));
    let text = datafusion::arrow::util::pretty::pretty_format_batches(&batches).expect("a plan").to_string();
    let is_scan = |line: &&str| line.contains("ScanExec: table=") || line.contains("DataSourceExec: file_groups=");
    text.lines().filter(is_scan).map(str::to_string).collect()
}

fn has_filter(scan: &str) -> bool {
    [" WHERE ", "restriction=", "predicate="].iter().any(|sign| scan.contains(sign))
}

fn has_more(scan: &str) -> bool {
    [" GROUP BY ", " ORDER BY ", " JOIN ", " LIMIT ", "SELECT count(", "SELECT min(", "SELECT max(", "SELECT sum("]
        .iter()
        .any(|sign| scan.contains(sign))
}
