//! `townlake bench`: starts a real cluster, loads the data, and hands both engines to the harness in `benchmarks/`.

mod lake;
mod planning;
mod sources;

use std::path::Path;
use std::time::Instant;

use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use futures::TryStreamExt;
use tempfile::TempDir;
use townlake_benchmarks::{Engine, Query, SingleProcess, compare, median};
use townlake_common::{Error, ErrorCode, Result};

use crate::args::{BenchArgs, BenchSuite, LoadMode};
use crate::connection::Connection;
use crate::load;
use crate::local::{Cluster, ClusterSpec, Etcd};
use crate::tpch::{QUERIES, Table};

/// Runs the command.
pub async fn run(args: BenchArgs) -> Result<()> {
    match args.suite {
        BenchSuite::Tpch { scale, rounds, queries, settings, explain } => {
            tpch(scale, rounds, &queries, &settings, explain).await
        }
        BenchSuite::Latency { calls } => latency(calls).await,
        BenchSuite::Lake { rounds } => lake::run(rounds).await,
        BenchSuite::Sources { rounds } => sources::run(rounds).await,
        BenchSuite::Planning { files } => planning::run(&files).await,
    }
}

/// A cluster over the lake of a folder.
struct Bed {
    connection: Connection,
    _cluster: Cluster,
    _etcd: Etcd,
    folder: TempDir,
}

fn folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("townlake-bench-").tempdir();
    folder.map_err(|e| Error::internal("no temporary folder for the benchmark").with_source(e))
}

/// The catalog `lake` in a folder, in TOML.
fn catalog(folder: &Path) -> String {
    let path = folder.display();
    format!(
        "[catalogs.lake]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite://{path}/catalog.db\"\n\
         warehouse = \"file://{path}/warehouse\"\nwriters = [\"bench\"]\n"
    )
}

impl Bed {
    async fn start(folder: TempDir) -> Result<Self> {
        Self::start_with(folder, "").await
    }

    /// The same with more catalogs, in TOML.
    async fn start_with(folder: TempDir, catalogs: &str) -> Result<Self> {
        let etcd = Etcd::start(folder.path()).await?;
        let (user, password) = ("bench".to_string(), "bench-on-loopback".to_string());
        let sections = format!(
            "[[auth.users]]\nname = \"bench\"\npassword_hash = \"{}\"\n{}{catalogs}",
            townlake_governance::hash_password(&password)?,
            catalog(folder.path())
        );
        let cluster = Cluster::start(ClusterSpec {
            binary: std::env::current_exe().map_err(|e| Error::internal("where is this binary?").with_source(e))?,
            folder: folder.path().to_path_buf(),
            etcd: etcd.endpoint(),
            executors: 2,
            slots: 1,
            memory: "6GB".to_string(),
            sections,
            user: (user, password),
            standard_ports: false,
        })
        .await?;
        let connection = Connection::open(&cluster.connect_args()).await?;
        Ok(Self { connection, _cluster: cluster, _etcd: etcd, folder })
    }

    /// One with TPC-H in its lake.
    async fn with_tpch(scale: f64) -> Result<Self> {
        let bed = Self::start(folder()?).await?;
        load::tpch(&bed.connection, "lake", "tpch", scale, &Table::ALL, LoadMode::Create).await?;
        bed.connection.run("USE lake.tpch").await?;
        Ok(bed)
    }
}

async fn tpch(scale: f64, rounds: usize, only: &[usize], settings: &[String], explain: bool) -> Result<()> {
    let bed = Bed::with_tpch(scale).await?;
    for setting in settings {
        bed.connection.run(&format!("SET SESSION {setting}")).await?;
    }
    let single = SingleProcess::new(2);
    for table in Table::ALL {
        single.register(table.name(), &data_folder(bed.folder.path(), table)?).await?;
    }
    let queries: Vec<_> = (1..)
        .zip(QUERIES)
        .filter(|(number, _)| only.is_empty() || only.contains(number))
        .map(|(number, text)| Query { label: format!("q{number:02}"), texts: vec![text.to_string(); 2] })
        .collect();
    println!(
        "TPC-H derived, scale {scale}: 2 executors × 1 slot beside one process, the same Parquet files, {rounds} rounds"
    );
    let report = compare(&[&Door(bed.connection.clone()), &single], &queries, rounds.max(1)).await;
    println!("{report}");
    if explain {
        for query in &queries {
            println!("{}\n{}", query.label, stages(&bed.connection, &query.texts[0]).await?);
        }
    }
    if report.is_right() {
        Ok(())
    } else {
        Err(Error::new(ErrorCode::Internal, "a query failed, or its answers differ between the engines"))
    }
}

/// Runs a query once more and tells how long each of its stages took, from the start of its first task to the end of its
/// last, and all its tasks together.
async fn stages(connection: &Connection, sql: &str) -> Result<String> {
    let query = connection.query(sql).await?;
    connection.rows(&query).await?.batches.try_for_each(|_| async { Ok(()) }).await?;
    let id = query.id.ok_or_else(|| Error::internal("the server names no query"))?;
    let stages = format!(
        "SELECT stage, count(*) AS tasks, count(DISTINCT executor) AS executors, sum(rows) AS rows, sum(bytes) AS bytes, \
         (max(CAST(ended AS BIGINT)) - min(CAST(started AS BIGINT))) / 1000 AS took_ms, \
         sum(CAST(ended AS BIGINT) - CAST(started AS BIGINT)) / 1000 AS all_tasks_ms \
         FROM system.runtime.tasks WHERE query_id = '{id}' GROUP BY stage ORDER BY stage"
    );
    let (_, batches) = connection.collect(&stages).await?;
    let shown = pretty_format_batches(&batches);
    shown.map(|table| table.to_string()).map_err(|error| Error::internal("stages cannot be shown").with_source(error))
}

/// The folder with a table's Parquet files.
fn data_folder(folder: &Path, table: Table) -> Result<std::path::PathBuf> {
    let data = folder.join("warehouse").join("tpch").join(table.name()).join("data");
    if data.is_dir() { Ok(data) } else { Err(Error::internal(format!("{table} has no folder {}", data.display()))) }
}

/// Our door, with a session that stands in `lake.tpch`.
struct Door(Connection);

#[async_trait]
impl Engine for Door {
    fn name(&self) -> &str {
        "Town Lake, 2 × 1"
    }

    async fn run(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        Ok(self.0.collect(sql).await?.1)
    }
}

async fn latency(calls: usize) -> Result<()> {
    let bed = Bed::with_tpch(0.1).await?;
    for sql in ["SELECT 1", "SELECT * FROM lineitem LIMIT 10", "SELECT count(*) FROM orders"] {
        let mut times = Vec::with_capacity(calls);
        for call in 0..calls + 10 {
            let started = Instant::now();
            bed.connection.collect(sql).await?;
            if call >= 10 {
                times.push(started.elapsed().as_secs_f64() * 1000.0);
            }
        }
        times.sort_by(f64::total_cmp);
        let p99 = times.get(times.len() * 99 / 100).or(times.last()).copied().unwrap_or_default();
        println!("{sql:<36} median {:>7.2} ms   p99 {p99:>7.2} ms", median(&times).unwrap_or_default());
    }
    Ok(())
}
