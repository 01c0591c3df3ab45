//! `townlake load`: files, or generated TPC-H data, into Iceberg tables through a running server.

use std::path::Path;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, ParquetReadOptions, SessionContext};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use townlake_common::{Error, ErrorCode, Result};

use crate::args::{FileType, LoadArgs, LoadMode};
use crate::connection::Connection;
use crate::tpch::Table;

/// Batches in flight between the reader and the wire: enough to keep both busy, little enough to stay small.
const BATCHES_AHEAD: usize = 4;

/// Runs the command.
pub async fn run(args: LoadArgs) -> Result<()> {
    let connection = Connection::open(&args.connect).await?;
    if args.sources.as_slice() == ["tpch"] {
        let tables = match args.tables.as_slice() {
            [] => Table::ALL.to_vec(),
            names => names.iter().map(|name| Table::parse(name)).collect::<Result<_>>()?,
        };
        return tpch(&connection, &args.catalog, &args.schema, args.scale, &tables, args.mode).await;
    }
    let table = args.table.as_deref().ok_or_else(|| {
        Error::new(ErrorCode::InvalidArgument, "which table?").with_hint("add --table catalog.schema.table")
    })?;
    let target = three_parts(table)?;
    for source in &args.sources {
        let mode = if source == &args.sources[0] { args.mode } else { LoadMode::Append };
        let batches = read_file(Path::new(source), args.file_type).await?;
        load(&connection, target, mode, source, batches).await?;
    }
    Ok(())
}

/// Generates TPC-H tables and loads them. Every table is one commit.
pub async fn tpch(
    connection: &Connection,
    catalog: &str,
    schema: &str,
    scale: f64,
    tables: &[Table],
    mode: LoadMode,
) -> Result<()> {
    if !(scale > 0.0 && scale <= 1000.0) {
        return Err(Error::new(ErrorCode::InvalidArgument, format!("the scale {scale} is not between 0 and 1000")));
    }
    connection.run(&format!("CREATE SCHEMA IF NOT EXISTS {}.{}", quote(catalog), quote(schema))).await?;
    for table in tables {
        let label = format!("{catalog}.{schema}.{table}");
        load(connection, [catalog, schema, table.name()], mode, &label, generate(*table, scale)).await?;
    }
    Ok(())
}

/// Sends one stream of batches into one table, with a progress line.
async fn load(
    connection: &Connection,
    target: [&str; 3],
    mode: LoadMode,
    label: &str,
    batches: BoxStream<'static, Result<RecordBatch>>,
) -> Result<()> {
    let started = Instant::now();
    let progress = spinner();
    progress.set_message(label.to_string());
    let counter = progress.clone();
    let counted = batches.inspect_ok(move |batch| counter.inc(batch.num_rows() as u64));
    let outcome = connection.ingest(target, mode, counted.boxed()).await;
    progress.finish_and_clear();
    let rows = outcome?;
    eprintln!("  {label}: {rows} rows into {} in {:.1} s", target.join("."), started.elapsed().as_secs_f64());
    Ok(())
}

fn spinner() -> ProgressBar {
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}: {human_pos} rows, {per_sec}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(120));
    progress
}

/// The generated rows of a table as a stream; the generator runs on a thread of its own.
fn generate(table: Table, scale: f64) -> BoxStream<'static, Result<RecordBatch>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(BATCHES_AHEAD);
    tokio::task::spawn_blocking(move || {
        for batch in table.batches(scale) {
            let batch = batch.map_err(|e| Error::internal(format!("generating {table} failed")).with_source(e));
            if sender.blocking_send(batch).is_err() {
                break; // the load ended
            }
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|batch| (batch, receiver)) })
        .boxed()
}

/// The rows of one file. CSV and JSON have their types inferred from the first thousand records.
async fn read_file(path: &Path, file_type: Option<FileType>) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let shown = path.display().to_string();
    if !path.is_file() {
        return Err(Error::new(ErrorCode::InvalidArgument, format!("there is no file {shown}")));
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_string();
    let file_type = file_type.map_or_else(|| type_of(&shown, &extension), Ok)?;
    let context = SessionContext::new();
    let frame = match file_type {
        FileType::Parquet => context.read_parquet(&shown, ParquetReadOptions::new().file_extension(&extension)).await,
        FileType::Csv => context.read_csv(&shown, CsvReadOptions::new().file_extension(&extension)).await,
        FileType::Json => context.read_json(&shown, JsonReadOptions::default().file_extension(&extension)).await,
    };
    let broken = move |error: datafusion::error::DataFusionError| {
        Error::new(ErrorCode::DataCorrupt, format!("{shown} cannot be read: {}", error.strip_backtrace()))
    };
    let stream = match frame {
        Ok(frame) => frame.execute_stream().await.map_err(&broken)?,
        Err(error) => return Err(broken(error)),
    };
    Ok(stream.map_err(broken).boxed())
}

fn type_of(path: &str, extension: &str) -> Result<FileType> {
    match extension.to_lowercase().as_str() {
        "parquet" | "pq" => Ok(FileType::Parquet),
        "csv" => Ok(FileType::Csv),
        "json" | "jsonl" | "ndjson" => Ok(FileType::Json),
        _ => Err(Error::new(ErrorCode::InvalidArgument, format!("the type of {path} is not told by its name"))
            .with_hint("add --file-type parquet, csv or json")),
    }
}

fn three_parts(table: &str) -> Result<[&str; 3]> {
    let parts: Vec<_> = table.split('.').collect();
    match parts.as_slice() {
        [catalog, schema, name] if parts.iter().all(|part| !part.is_empty()) => Ok([catalog, schema, name]),
        _ => Err(Error::new(ErrorCode::InvalidArgument, format!("`{table}` is not catalog.schema.table"))),
    }
}

/// A name as a quoted SQL identifier.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
