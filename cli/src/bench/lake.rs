//! `townlake bench lake`: what Iceberg costs. Scans with and without row-level deletes beside DataFusion on the same Parquet files, in
//! this process and through a cluster, beside other engines; pruned scans, appends, and merges in both modes.

use std::path::Path;
use std::time::Instant;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use townlake_benchmarks::{Engine, SingleProcess, median};
use townlake_common::config::{CatalogConfig, Config};
use townlake_common::{Error, Result};
use townlake_lake::{LakeCatalog, LakeObjects, LakeTable};

use super::{Bed, Door};

/// Data files of the scanned tables; one a million rows.
const FILES: usize = 6;
const ROWS_A_FILE: usize = 1_000_000;
const COLUMNS: &str = "v AS id, v * 7919 % 1000003 AS k, v * 0.5 AS d, concat('n', v % 5000) AS name";
/// What is read: two columns and a text, one column, and some rows of one.
const SCANS: [&str; 3] =
    ["SELECT sum(k), sum(d), max(name) FROM {}", "SELECT sum(k) FROM {}", "SELECT sum(d) FROM {} WHERE k < 20000"];
/// Scans the same tables with other engines; the variable names a Python that has the engine.
const OTHERS: &str = include_str!("lake.py");
const OTHER_ENGINES: [(&str, &str); 2] = [("duckdb", "TOWNLAKE_DUCKDB_PYTHON"), ("pyiceberg", "TOWNLAKE_PYTHON")];

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
    let within = Within::new(bed.folder.path(), &["plain", "marked"]).await?;
    println!(
        "{} rows in {FILES} files; all in one process with 2 threads, the last two in 2 executors × 1 slot",
        FILES * ROWS_A_FILE
    );
    println!(
        "{:<44} {:>10} {:>16} {:>17} {:>16} {:>17}",
        "", "DataFusion", "no deletes", "1 % deleted", "no deletes", "1 % deleted"
    );
    for scan in SCANS {
        let (plain, marked) = (scan.replace("{}", "plain"), scan.replace("{}", "marked"));
        let sides: [(&dyn Engine, &str); 5] =
            [(&single, &plain), (&within, &plain), (&within, &marked), (&door, &plain), (&door, &marked)];
        let [files, table, deleted, cluster, cluster_deleted] = times(&sides, rounds).await?;
        let shown = |took: f64, beside: f64| format!("{took:.0}ms ({:.2})", took / beside);
        println!(
            "{scan:<44} {files:>8.0}ms {:>16} {:>17} {:>16} {:>17}",
            shown(table, files),
            shown(deleted, table),
            shown(cluster, files),
            shown(cluster_deleted, cluster)
        );
    }
    for (engine, variable) in OTHER_ENGINES {
        other(engine, variable, bed.folder.path(), rounds).await?;
    }
    let full = "SELECT sum(d) FROM plain WHERE id >= 0";
    let pruned = "SELECT sum(d) FROM plain WHERE id BETWEEN 3000100 AND 3000200";
    let [full, pruned] = times(&[(&door, full), (&door, pruned)], rounds).await?;
    println!("a hundred rows of one file: {pruned:.0} ms, all rows: {full:.0} ms");
    write(&bed).await
}

/// Our scan of the lake's tables in DataFusion in this process: what a scan costs without stages and clients.
struct Within(SessionContext);

impl Within {
    /// Over tables of the schema `bench` as they are now.
    async fn new(folder: &Path, tables: &[&str]) -> Result<Self> {
        let config = Config::from_toml(&super::catalog(folder))?;
        let Some(CatalogConfig::Iceberg(lake)) = config.catalogs.get("lake") else {
            return Err(Error::internal("the benchmark has no lake"));
        };
        let context = super::planning::context(&LakeObjects::from_config(&config.catalogs)?)?;
        let catalog = LakeCatalog::open("lake", lake).await?;
        for name in tables {
            let table = catalog.load("bench", name, None).await?;
            let table = table.ok_or_else(|| Error::internal("a table of the benchmark is gone"))?;
            context.register_table(*name, LakeTable::new(table)).map_err(|error| failed(name, error))?;
        }
        Ok(Self(context))
    }
}

#[async_trait]
impl Engine for Within {
    fn name(&self) -> &str {
        "Town Lake, 1 process"
    }

    async fn run(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let rows = self.0.sql(sql).await.map_err(|error| failed(sql, error))?;
        rows.collect().await.map_err(|error| failed(sql, error))
    }
}

fn failed(what: &str, error: datafusion::error::DataFusionError) -> Error {
    Error::internal(format!("{what} failed")).with_source(error)
}

/// The scans in another engine.
async fn other(engine: &str, variable: &str, folder: &Path, rounds: usize) -> Result<()> {
    let Some(python) = std::env::var_os(variable) else {
        println!("{engine}: set {variable} to a Python that has it");
        return Ok(());
    };
    let scans: Vec<_> = SCANS.iter().flat_map(|scan| ["plain", "marked"].map(|table| (scan, table))).collect();
    let scans = serde_json::json!(scans).to_string();
    let (folder, rounds) = (folder.display().to_string(), rounds.max(1).to_string());
    let arguments = [engine, folder.as_str(), rounds.as_str(), scans.as_str()];
    let output = tokio::process::Command::new(python).arg("-c").arg(OTHERS).args(arguments).output().await;
    let output = output.map_err(|e| Error::internal(format!("{engine} does not start")).with_source(e))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("{engine}: {line}");
    }
    if !output.status.success() {
        println!("{engine} fails: {}", String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default());
    }
    Ok(())
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
