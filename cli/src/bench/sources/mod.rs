//! `townlake bench sources`: how fast each source is read beside its own fastest client, and what a join with few rows of the lake moves
//! with and without what sources do for it, counted by the source itself. Then one statement over three systems, beside other engines. (The
//! emulator of BigQuery is no measure of BigQuery.)

mod clickhouse;
mod federated;
mod kafka;
mod postgres;

use std::time::Instant;

use townlake_benchmarks::median;
use townlake_common::{Error, ErrorCode, Result};

use super::Bed;
use crate::local::{ClickHouse, Kafka};

/// Rows of each source's table `big`.
const ROWS: usize = 3_000_000;

/// What is measured of a source.
struct Subject<'a> {
    /// Rows, all columns: nothing is left to the source but to give them.
    scan: &'a str,
    /// A join with one percent of the rows, which lie all over the table.
    join: Option<&'a str>,
    /// What the client beside us is.
    client: &'a str,
}

/// Runs the suite. Times are medians of `rounds`, all sides in turn. A source that is not installed is left out, and said so.
pub(super) async fn run(rounds: usize) -> Result<()> {
    let folder = super::folder()?;
    let postgres = postgres::start().await?;
    let clickhouse = if ClickHouse::is_installed() { Some(ClickHouse::start(folder.path()).await?) } else { None };
    let kafka = if Kafka::is_installed() { Some(Kafka::start(folder.path()).await?) } else { None };
    let mut catalogs = postgres::catalog(&postgres);
    let modern = clickhouse::Modern::given();
    if let Some(modern) = &modern {
        modern.fill().await?;
        catalogs.push_str(&modern.catalog());
    }
    if let Some(clickhouse) = &clickhouse {
        clickhouse::fill(clickhouse).await?;
        catalogs.push_str(&clickhouse::catalog(clickhouse));
    }
    if let Some(kafka) = &kafka {
        kafka::fill(kafka).await?;
        catalogs.push_str(&kafka::catalog(kafka));
    }
    let bed = Bed::start_with(folder, &catalogs).await?;
    bed.connection.run("CREATE SCHEMA lake.bench").await?;
    let few = format!(
        "CREATE TABLE lake.bench.few AS SELECT CAST(value * 7919 % {ROWS} AS INT) + 1 AS id FROM generate_series(1, {}) AS g(value)",
        ROWS / 100
    );
    bed.connection.run(&few).await?;
    println!("{ROWS} rows in each source; 2 executors × 1 slot; medians of {} rounds", rounds.max(1));
    postgres::run(&bed, &postgres, rounds).await?;
    match &clickhouse {
        Some(clickhouse) => clickhouse::run(&bed, clickhouse, rounds).await?,
        None => println!("ClickHouse: not installed"),
    }
    match &modern {
        Some(modern) => modern.run(&bed, rounds).await?,
        None => println!("ClickHouse of today: {} is not set", clickhouse::MODERN_URL),
    }
    match &kafka {
        Some(kafka) => kafka::run(&bed, kafka, rounds).await?,
        None => println!("Kafka: not installed (`make demo-federation` fetches it)"),
    }
    if let Some(clickhouse) = &clickhouse {
        federated::run(&bed, &postgres, clickhouse, rounds).await?;
    }
    Ok(())
}

/// The scan in 1, 2 and 4 splits, in turn with the source's own client, which says how many seconds it took.
async fn scans(bed: &Bed, subject: &Subject<'_>, rounds: usize, client: impl AsyncFn() -> Result<f64>) -> Result<()> {
    bed.connection.run("SET SESSION source_pushdown = 'filters'").await?;
    let splits = [1, 2, 4];
    let (mut theirs, mut ours) = (Vec::new(), vec![Vec::new(); splits.len()]);
    for _ in 0..rounds.max(1) {
        theirs.push(client().await?);
        for (times, splits) in ours.iter_mut().zip(splits) {
            bed.connection.run(&format!("SET SESSION target_partitions = {splits}")).await?;
            times.push(timed(bed, subject.scan).await?);
        }
    }
    bed.connection.run("RESET SESSION target_partitions").await?;
    bed.connection.run("RESET SESSION source_pushdown").await?;
    let beside = median(&theirs).unwrap_or_default();
    println!("{}: {beside:.2} s", subject.client);
    for (times, splits) in ours.iter().zip(splits) {
        let took = median(times).unwrap_or_default();
        println!("  our scan in {splits} split(s): {took:.2} s, rate {:.2} of that", beside / took);
    }
    Ok(())
}

/// The join with less and more that the source does; `reset` and `moved` ask the source's counter of rows that it gave.
async fn joins(
    bed: &Bed,
    subject: &Subject<'_>,
    rounds: usize,
    reset: impl AsyncFn() -> Result<()>,
    moved: impl AsyncFn() -> Result<u64>,
) -> Result<()> {
    let Some(join) = subject.join else { return Ok(()) };
    println!("  join of {} rows of the lake with all of it:", ROWS / 100);
    let mut plain = None;
    for pushdown in ["none", "filters", "all"] {
        bed.connection.run(&format!("SET SESSION source_pushdown = '{pushdown}'")).await?;
        let (mut times, mut rows) = (Vec::new(), 0);
        for _ in 0..rounds.max(1) {
            reset().await?;
            times.push(timed(bed, join).await?);
            rows = moved().await?;
        }
        let took = median(&times).unwrap_or_default();
        let beside = *plain.get_or_insert(took);
        let share = rows as f64 * 100.0 / ROWS as f64;
        println!(
            "  source_pushdown = {pushdown:<7} {took:>6.2} s ({:.2})   rows moved {rows:>8} ({share:.1} %)",
            took / beside
        );
    }
    bed.connection.run("RESET SESSION source_pushdown").await?;
    Ok(())
}

async fn timed(bed: &Bed, sql: &str) -> Result<f64> {
    let started = Instant::now();
    bed.connection.collect(sql).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// Runs a client nobody here wrote to its end; its standard output, and how many seconds it took.
async fn client(mut command: tokio::process::Command, package: &str) -> Result<(String, f64)> {
    let started = Instant::now();
    let output = command.output().await.map_err(|error| {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        Error::new(ErrorCode::ConfigInvalid, format!("{program} does not start"))
            .with_hint(format!("apt-get install {package}"))
            .with_source(error)
    })?;
    let took = started.elapsed().as_secs_f64();
    match output.status.success() {
        true => Ok((String::from_utf8_lossy(&output.stdout).into_owned(), took)),
        false => Err(Error::internal(format!("a client failed: {}", String::from_utf8_lossy(&output.stderr)))),
    }
}
