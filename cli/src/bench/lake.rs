//! `townlake bench lake`: what Iceberg costs. Scans with and without row-level deletes beside DataFusion on the same Parquet files,
//! pruned scans, appends, and merges in both modes.

use std::time::Instant;

use townlake_benchmarks::{Engine, SingleProcess, median};
use townlake_common::{Error, Result};

use super::{Bed, Door};

/// Data files of the scanned tables; one a million rows.
const FILES: usize = 6;
const ROWS_A_FILE: usize = 1_000_000;
const COLUMNS: &str = "v AS id, v * 7919 % 1000003 AS k, v * 0.5 AS d, concat('n', v % 5000) AS name";
/// What is read: two columns and a text, one column, and some rows of one.
const SCANS: [&str; 3] =
    ["SELECT sum(k), sum(d), max(name) FROM {}", "SELECT sum(k) FROM {}", "SELECT sum(d) FROM {} WHERE k < 20000"];

/// Runs the suite. Times are medians of `rounds`, all sides in turn.
pub(super) async fn run(rounds: usize) -> Result<()> {
    let bed = Bed::start(super::folder()?).await?;
    bed.connection.run("CREATE SCHEMA lake.bench").await?;
    bed.connection.run("USE lake.bench").await?;
    for table in ["plain", "marked"] {
        make(&bed, table).await?;
    }
    // Pseudo-random rows of every file.
    bed.connection.run("DELETE FROM marked WHERE k % 100 = 3").await?;
    let data = bed.folder.path().join("warehouse/bench/plain/data");
    let single = SingleProcess::new(2);
    single.register("plain", &data).await?;
    let door = Door(bed.connection.clone());
    println!("{} rows in {FILES} files; 2 executors × 1 slot beside one process with 2 threads", FILES * ROWS_A_FILE);
    println!(
        "{:<44} {:>10} {:>10} {:>12} {:>7} {:>7}",
        "", "DataFusion", "no deletes", "1 % deleted", "ratio", "ratio"
    );
    for scan in SCANS {
        let (plain, marked) = (scan.replace("{}", "plain"), scan.replace("{}", "marked"));
        let sides: [(&dyn Engine, &str); 3] = [(&single, &plain), (&door, &plain), (&door, &marked)];
        let [files, table, deleted] = times(&sides, rounds).await?;
        let (one, two) = (table / files, deleted / table);
        println!("{scan:<44} {files:>8.0}ms {table:>8.0}ms {deleted:>10.0}ms {one:>7.2} {two:>7.2}");
    }
    let full = "SELECT sum(d) FROM plain WHERE id >= 0";
    let pruned = "SELECT sum(d) FROM plain WHERE id BETWEEN 3000100 AND 3000200";
    let [full, pruned] = times(&[(&door, full), (&door, pruned)], rounds).await?;
    println!("a hundred rows of one file: {pruned:.0} ms, all rows: {full:.0} ms");
    write(&bed).await
}

async fn make(bed: &Bed, table: &str) -> Result<()> {
    bed.connection
        .run(&format!(
            "CREATE TABLE {table} (id BIGINT, k BIGINT, d DOUBLE, name VARCHAR) WITH ('write.delete.mode' = 'merge-on-read')"
        ))
        .await?;
    // One task a statement, so that there is one file.
    bed.connection.run("SET SESSION target_partitions = 1").await?;
    for file in 0..FILES {
        bed.connection.run(&insert(table, file * ROWS_A_FILE, ROWS_A_FILE)).await?;
    }
    bed.connection.run("RESET ALL").await.map(drop)
}

fn insert(table: &str, first: usize, rows: usize) -> String {
    format!("INSERT INTO {table} SELECT {COLUMNS} FROM generate_series({first}, {}) AS g(v)", first + rows - 1)
}

/// The median time of each side in milliseconds; the first round of each is not counted.
async fn times<const N: usize>(sides: &[(&dyn Engine, &str); N], rounds: usize) -> Result<[f64; N]> {
    let mut took = [const { Vec::new() }; N];
    for round in 0..=rounds.max(1) {
        for ((engine, sql), took) in sides.iter().zip(&mut took) {
            let started = Instant::now();
            engine.run(sql).await?;
            if round > 0 {
                took.push(started.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
    Ok(took.map(|took| median(&took).unwrap_or_default()))
}

/// Appends, and merges of one row in a hundred, in both modes.
async fn write(bed: &Bed) -> Result<()> {
    let rows = FILES * ROWS_A_FILE;
    bed.connection.run("CREATE TABLE appended (id BIGINT, k BIGINT, d DOUBLE, name VARCHAR)").await?;
    let append = timed(bed, "INSERT INTO appended SELECT * FROM plain").await?;
    println!("append: {rows} rows in {append:.2} s, {:.0} rows/s", rows as f64 / append);
    for mode in ["copy-on-write", "merge-on-read"] {
        let properties = format!("ALTER TABLE appended SET PROPERTIES 'write.merge.mode' = '{mode}'");
        bed.connection.run(&properties).await?;
        let merge = "MERGE INTO appended t USING (SELECT id, k FROM plain WHERE k % 100 = 7) s ON t.id = s.id \
                     WHEN MATCHED THEN UPDATE SET k = s.k + 1";
        let took = timed(bed, merge).await?;
        println!("merge, {mode}: {} rows of {rows} in {took:.2} s", rows / 100);
    }
    Ok(())
}

async fn timed(bed: &Bed, sql: &str) -> Result<f64> {
    let started = Instant::now();
    bed.connection.run(sql).await.map_err(|error| Error::internal(format!("{sql} failed")).with_source(error))?;
    Ok(started.elapsed().as_secs_f64())
}
