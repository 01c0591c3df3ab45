//! `townlake bench planning`: how long the plan of a scan takes where a table has many files.
//!
//! The tables have manifests and no data files: entries with bounds of seven columns, a thousand to a manifest, a hundred
//! to a day, which is the partition.

use std::path::Path;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::prelude::{SessionConfig, SessionContext};
use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat, Datum, Literal, Struct};
use townlake_benchmarks::median;
use townlake_common::config::{CatalogConfig, Config};
use townlake_common::{Error, ErrorCode, Principal, QueryContext, QueryId, Result};
use townlake_lake::{
    CreateTable, LakeCatalog, LakeObjects, LakeTable, LoadedTable, PartitionField, WrittenFile, plan_files,
};

use crate::connection::Connection;

const FILES_A_MANIFEST: usize = 1000;
const FILES_A_DAY: usize = 100;
const ROWS_A_FILE: i64 = 100_000;
const FIRST_DAY: i32 = 19_000;
/// How often a warm plan is made; medians are shown.
const ROUNDS: usize = 5;
/// What pyiceberg plans the same table with, where `TOWNLAKE_PYTHON` names a Python that has it.
const PYICEBERG: &str = include_str!("planning.py");

/// Makes a table of each of these sizes and plans scans of it: in this process, in pyiceberg, and through a server.
pub(super) async fn run(sizes: &[usize]) -> Result<()> {
    let folder = super::folder()?;
    let text = super::catalog(folder.path());
    let config = Config::from_toml(&text)?;
    let Some(CatalogConfig::Iceberg(lake)) = config.catalogs.get("lake") else {
        return Err(Error::internal("the benchmark has no lake"));
    };
    let catalog = LakeCatalog::open("lake", lake).await?;
    catalog.create_schema("s", true).await?;
    let context = context(&LakeObjects::from_config(&config.catalogs)?)?;
    println!("{:<9} {:<22} {:>8} {:>12} {:>12}", "files", "scan of", "planned", "file list", "whole scan");
    for size in sizes {
        let table = make_table(&catalog, *size).await?;
        measure(&context, table, *size).await?;
        pyiceberg(folder.path(), *size).await?;
    }
    through_a_server(folder, sizes).await
}

fn name(files: usize) -> String {
    format!("files_{files}")
}

async fn make_table(catalog: &LakeCatalog, files: usize) -> Result<LoadedTable> {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = [
        ("id", DataType::Int64),
        ("day", DataType::Date32),
        ("at", timestamp),
        ("quantity", DataType::Int32),
        ("price", DataType::Float64),
        ("region", DataType::Utf8),
        ("name", DataType::Utf8),
    ];
    let create = CreateTable {
        schema: "s".to_string(),
        table: name(files),
        columns: columns.into_iter().map(|(name, of)| Field::new(name, of, true).into()).collect(),
        partition: vec![PartitionField { column: "day".to_string(), transform: "identity".to_string() }],
        ..CreateTable::default()
    };
    catalog.create_table(create).await?;
    let load = || async {
        let loaded = catalog.load("s", &name(files), None).await?;
        loaded.ok_or_else(|| Error::internal("the table of the benchmark is gone"))
    };
    for first in (0..files).step_by(FILES_A_MANIFEST) {
        let table = load().await?;
        let entries = (first..files.min(first + FILES_A_MANIFEST)).map(|n| entry(table.metadata.location(), n));
        let entries = entries.collect::<Result<Vec<_>>>()?;
        catalog.commit_append(&table, entries, &QueryId::generate()).await?;
    }
    load().await.map(|table| table.as_ref().clone())
}

/// The manifest entry of a file that is not there.
fn entry(location: &str, n: usize) -> Result<WrittenFile> {
    let number = n as i64;
    let day = FIRST_DAY + i32::try_from(n / FILES_A_DAY).unwrap_or(i32::MAX);
    let midnight = i64::from(day) * 86_400_000_000;
    let bounds = |end: i64| {
        let of = [
            (1, Datum::long(number * ROWS_A_FILE + end * (ROWS_A_FILE - 1))),
            (2, Datum::date(day)),
            (3, Datum::timestamp_micros(midnight + end * 86_399_999_999)),
            (4, Datum::int(1 + i32::try_from(end).unwrap_or(0) * 49)),
            (5, Datum::double(0.5 + end as f64 * 1e5)),
            (6, Datum::string(if end == 0 { "AFRICA" } else { "MIDDLE EAST" })),
            (7, Datum::string(if end == 0 { "Customer#0000001" } else { "Customer#0001500" })),
        ];
        of.into()
    };
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(format!("{location}/data/day={day}/00000-{n}-3f1c9a52-77ad-4a55-9c0e-0b1d4d4b6c9e-0-00001.parquet"))
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::from_iter([Some(Literal::date(day))]))
        .partition_spec_id(0)
        .record_count(ROWS_A_FILE.unsigned_abs())
        .file_size_in_bytes(4 << 20)
        .column_sizes((1..8).map(|id| (id, 600_000)).collect())
        .value_counts((1..8).map(|id| (id, ROWS_A_FILE.unsigned_abs())).collect())
        .null_value_counts((1..8).map(|id| (id, 0)).collect())
        .nan_value_counts([(5, 0)].into())
        .lower_bounds(bounds(0))
        .upper_bounds(bounds(1))
        .split_offsets(Some(vec![4]));
    let data_file = builder.build().map_err(|e| Error::internal("a manifest entry is not whole").with_source(e))?;
    Ok(WrittenFile { data_file, spec_id: 0, rows: ROWS_A_FILE.unsigned_abs(), bytes: 4 << 20 })
}

/// DataFusion in this process, which finds the files of these catalogs.
pub(super) fn context(objects: &LakeObjects) -> Result<SessionContext> {
    let runtime = RuntimeEnvBuilder::new().with_object_store_registry(objects.registry()).build_arc();
    let runtime = runtime.map_err(|e| Error::internal("no runtime for the benchmark").with_source(e))?;
    let query = QueryContext::new(QueryId::generate(), Principal::new("bench", vec![]));
    let config = SessionConfig::new().with_target_partitions(2).with_extension(query);
    let state = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features();
    Ok(SessionContext::new_with_state(state.build()))
}

/// What is planned: how it is called, and its filters.
fn scans(files: usize) -> [(&'static str, Vec<Expr>); 4] {
    let wanted = files / 2;
    let day = FIRST_DAY + i32::try_from(wanted / FILES_A_DAY).unwrap_or(i32::MAX);
    let by_id = col("id").eq(lit(wanted as i64 * ROWS_A_FILE + 7));
    let by_day = col("day").eq(lit(ScalarValue::Date32(Some(day))));
    [
        ("everything, cold", vec![]),
        ("everything, warm", vec![]),
        ("one id, warm", vec![by_id.clone()]),
        ("one id of one day, warm", vec![by_day, by_id]),
    ]
}

async fn measure(context: &SessionContext, table: LoadedTable, files: usize) -> Result<()> {
    let (before, mut listed_bytes) = (resident_bytes(), 0);
    let provider = LakeTable::new(table.clone().into());
    let state = context.state();
    for (number, (label, filters)) in scans(files).into_iter().enumerate() {
        let (mut listed, mut scanned, mut planned) = (Vec::new(), Vec::new(), 0);
        for _ in 0..if number == 0 { 1 } else { ROUNDS } {
            let started = Instant::now();
            planned = plan_files(&table, &filters).await?.files.len();
            listed.push(started.elapsed().as_secs_f64());
            if number == 0 {
                listed_bytes = settled_bytes().await;
            }
            let started = Instant::now();
            provider.scan(&state, None, &filters, None).await.map_err(not_planned)?;
            scanned.push(started.elapsed().as_secs_f64());
        }
        let shown = |times: &[f64]| median(times).map_or("-".to_string(), |s| format!("{:.1} ms", s * 1000.0));
        // The first scan finds what its file list has read: only the list was cold.
        println!("{files:<9} {label:<22} {planned:>8} {:>12} {:>12}", shown(&listed), shown(&scanned));
    }
    let grown = |now: u64| now.saturating_sub(before) >> 20;
    let (listed, scanned) = (grown(listed_bytes), grown(settled_bytes().await));
    println!("{files:<9} the process has grown by {listed} MiB for the file list, {scanned} MiB after the scans");
    Ok(())
}

fn not_planned(error: datafusion::common::DataFusionError) -> Error {
    Error::internal("a scan cannot be planned").with_source(error)
}

/// The resident memory of this process once the allocator has given back what is free.
async fn settled_bytes() -> u64 {
    tokio::time::sleep(Duration::from_secs(2)).await;
    resident_bytes()
}

/// The resident memory of this process.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|value| value.trim().parse().ok());
    kilobytes.unwrap_or(0_u64) << 10
}

/// The same table and scans in pyiceberg.
async fn pyiceberg(folder: &Path, files: usize) -> Result<()> {
    let Some(python) = std::env::var_os("TOWNLAKE_PYTHON") else {
        println!("{files:<9} pyiceberg: set TOWNLAKE_PYTHON to a Python that has it");
        return Ok(());
    };
    let day = FIRST_DAY as usize + files / 2 / FILES_A_DAY;
    let id = (files / 2) as i64 * ROWS_A_FILE + 7;
    let arguments = [folder.display().to_string(), name(files), day.to_string(), id.to_string()];
    let output = tokio::process::Command::new(python).arg("-c").arg(PYICEBERG).args(arguments).output().await;
    let output = output.map_err(|e| Error::new(ErrorCode::Internal, "pyiceberg does not start").with_source(e))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("{files:<9} pyiceberg, {line}");
    }
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new(ErrorCode::Internal, format!("pyiceberg fails: {}", String::from_utf8_lossy(&output.stderr))))
}

async fn through_a_server(folder: tempfile::TempDir, sizes: &[usize]) -> Result<()> {
    let bed = super::Bed::start(folder).await?;
    for size in sizes {
        let (table, wanted) = (name(*size), (*size / 2) as i64 * ROWS_A_FILE + 7);
        for (label, sql) in [
            ("everything", format!("EXPLAIN SELECT * FROM lake.s.{table}")),
            ("one id", format!("EXPLAIN SELECT * FROM lake.s.{table} WHERE id = {wanted}")),
        ] {
            let cold = explain(&bed.connection, &sql).await?;
            let mut warm = Vec::new();
            for _ in 0..ROUNDS {
                warm.push(explain(&bed.connection, &sql).await?);
            }
            let warm = median(&warm).unwrap_or_default();
            println!("{size:<9} EXPLAIN of {label}: first {:.1} ms, then {:.1} ms", cold * 1000.0, warm * 1000.0);
        }
    }
    Ok(())
}

async fn explain(connection: &Connection, sql: &str) -> Result<f64> {
    let started = Instant::now();
    connection.collect(sql).await?;
    Ok(started.elapsed().as_secs_f64())
}
