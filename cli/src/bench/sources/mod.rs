//! `townlake bench sources`: how fast Postgres is read beside `psql`'s own COPY, and what a join with few rows of the lake moves with and
//! without what sources do for it. Rows are counted by the server itself (`pg_stat_statements`).

use std::process::Stdio;
use std::time::Instant;

use townlake_benchmarks::median;
use townlake_common::{Error, ErrorCode, Result};

use super::Bed;
use crate::local::Postgres;

const ROWS: usize = 3_000_000;
const MAKE: &str = "CREATE TABLE big (id int PRIMARY KEY, account bigint, amount numeric(12, 2), day date, note text)";
/// What each of both sides reads: every column of every row.
const COLUMNS: &str = "id, account, amount, day, note";
const SCAN: &str = "SELECT count(*), sum(id), max(account), max(amount), max(day), max(note) FROM crm.public.big";
/// One percent of the rows, which lie all over the table.
const JOIN: &str = "SELECT count(*), sum(b.amount) FROM lake.bench.few AS f JOIN crm.public.big AS b ON b.id = f.id";
const MOVED: &str = "SELECT coalesce(sum(rows), 0)::int8 FROM pg_stat_statements WHERE query LIKE 'COPY%'";

/// Runs the suite. Times are medians of `rounds`, all sides in turn.
pub(super) async fn run(rounds: usize) -> Result<()> {
    let postgres = Postgres::start(&["shared_preload_libraries=pg_stat_statements", "shared_buffers=1GB"]).await?;
    let admin = postgres.connect("postgres").await?;
    let fill = format!(
        "CREATE EXTENSION pg_stat_statements; {MAKE}; INSERT INTO big SELECT i, i % 1000003, (i % 100000) / 4.0, \
         DATE '2024-01-01' + i % 700, 'note number ' || i % 5000 FROM generate_series(1, {ROWS}) i; VACUUM ANALYZE big"
    );
    for statement in fill.split("; ") {
        admin.batch_execute(statement).await.map_err(|error| failed(statement, error))?;
    }
    let crm =
        format!("[catalogs.crm]\ntype = \"postgres\"\nurl = \"{}\"\nreaders = [\"bench\"]\n", postgres.url("postgres"));
    let bed = Bed::start_with(super::folder()?, &crm).await?;
    bed.connection.run("CREATE SCHEMA lake.bench").await?;
    let few = format!(
        "CREATE TABLE lake.bench.few AS SELECT CAST(value * 7919 % {ROWS} AS INT) + 1 AS id FROM generate_series(1, {}) AS g(value)",
        ROWS / 100
    );
    bed.connection.run(&few).await?;
    println!("{ROWS} rows of 5 columns in Postgres; 2 executors × 1 slot; medians of {rounds} rounds");
    scans(&bed, &postgres, rounds).await?;
    joins(&bed, &admin, rounds).await
}

async fn scans(bed: &Bed, postgres: &Postgres, rounds: usize) -> Result<()> {
    // Rows, not what the server makes of them.
    bed.connection.run("SET SESSION source_pushdown = 'filters'").await?;
    let splits = [1, 2, 4];
    let (mut copies, mut ours) = (Vec::new(), vec![Vec::new(); splits.len()]);
    for _ in 0..rounds.max(1) {
        copies.push(copy(postgres).await?);
        for (times, splits) in ours.iter_mut().zip(splits) {
            bed.connection.run(&format!("SET SESSION target_partitions = {splits}")).await?;
            times.push(timed(bed, SCAN).await?);
        }
    }
    bed.connection.run("RESET SESSION target_partitions").await?;
    let copy = median(&copies).unwrap_or_default();
    println!("psql COPY TO STDOUT (FORMAT binary), one process: {copy:.2} s");
    for (times, splits) in ours.iter().zip(splits) {
        let took = median(times).unwrap_or_default();
        println!("scan in {splits} split(s): {took:.2} s, rate {:.2} of psql's", copy / took);
    }
    Ok(())
}

async fn joins(bed: &Bed, admin: &tokio_postgres::Client, rounds: usize) -> Result<()> {
    println!("join of {} rows of the lake with all of Postgres:", ROWS / 100);
    let mut plain = None;
    for pushdown in ["none", "filters", "all"] {
        bed.connection.run(&format!("SET SESSION source_pushdown = '{pushdown}'")).await?;
        let (mut times, mut moved) = (Vec::new(), 0);
        for _ in 0..rounds.max(1) {
            admin.batch_execute("SELECT pg_stat_statements_reset()").await.map_err(|error| failed("reset", error))?;
            times.push(timed(bed, JOIN).await?);
            let row = admin.query_one(MOVED, &[]).await.map_err(|error| failed(MOVED, error))?;
            moved = row.get::<_, i64>(0);
        }
        let took = median(&times).unwrap_or_default();
        let beside = *plain.get_or_insert(took);
        let share = moved as f64 * 100.0 / ROWS as f64;
        println!(
            "source_pushdown = {pushdown:<7} {took:>6.2} s ({:.2})   rows moved {moved:>8} ({share:.1} %)",
            took / beside
        );
    }
    Ok(())
}

async fn timed(bed: &Bed, sql: &str) -> Result<f64> {
    let started = Instant::now();
    bed.connection.collect(sql).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// The server's own fastest client, its rows thrown away.
async fn copy(postgres: &Postgres) -> Result<f64> {
    let started = Instant::now();
    let sql = format!("COPY (SELECT {COLUMNS} FROM big) TO STDOUT (FORMAT binary)");
    let status = tokio::process::Command::new("psql")
        .args([
            "--no-psqlrc",
            "--quiet",
            "-h",
            "127.0.0.1",
            "-p",
            &postgres.port().to_string(),
            "-U",
            "postgres",
            "-c",
            &sql,
        ])
        .env("PGPASSWORD", postgres.password())
        .stdout(Stdio::null())
        .status()
        .await;
    match status {
        Ok(status) if status.success() => Ok(started.elapsed().as_secs_f64()),
        Ok(status) => Err(Error::internal(format!("psql failed: {status}"))),
        Err(error) => Err(Error::new(ErrorCode::ConfigInvalid, "psql does not start")
            .with_hint("apt-get install postgresql-client")
            .with_source(error)),
    }
}

fn failed(what: &str, error: tokio_postgres::Error) -> Error {
    Error::internal(format!("Postgres: {what} failed")).with_source(error)
}
