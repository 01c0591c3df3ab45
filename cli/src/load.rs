//! `townlake load`: files, or generated TPC-H data, into Iceberg tables through a running server.

use std::path::Path;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatchReader;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, ParquetReadOptions, SessionContext};
use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use townlake_common::{Error, ErrorCode, Result};

use crate::args::{FileType, LoadArgs, LoadMode};
use crate::connection::{Connection, Rows};
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
    let label = match args.sources.as_slice() {
        [one] => one.clone(),
        many => format!("{} files", many.len()),
    };
    let rows = read_files(&args.sources, args.file_type).await?;
    create_schema(&connection, target[0], target[1]).await?;
    load(&connection, target, args.mode, &label, rows).await
}

async fn create_schema(connection: &Connection, catalog: &str, schema: &str) -> Result<()> {
    connection.run(&format!("CREATE SCHEMA IF NOT EXISTS {}.{}", quote(catalog), quote(schema))).await.map(drop)
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
    create_schema(connection, catalog, schema).await?;
    for table in tables {
        load(connection, [catalog, schema, table.name()], mode, table.name(), generate(*table, scale)).await?;
    }
    Ok(())
}

/// Sends rows into one table, in one commit, with a progress line.
async fn load(connection: &Connection, target: [&str; 3], mode: LoadMode, label: &str, rows: Rows) -> Result<()> {
    let started = Instant::now();
    let progress = spinner();
    progress.set_message(label.to_string());
    let counter = progress.clone();
    let counted = rows.batches.inspect_ok(move |batch| counter.inc(batch.num_rows() as u64)).boxed();
    let outcome = connection.ingest(target, mode, Rows { schema: rows.schema, batches: counted }).await;
    progress.finish_and_clear();
    let rows = outcome?;
    eprintln!("  {label}: {rows} row(s) into {} in {:.1} s", target.join("."), started.elapsed().as_secs_f64());
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
fn generate(table: Table, scale: f64) -> Rows {
    let generator = table.batches(scale);
    let schema = generator.schema();
    let (sender, receiver) = tokio::sync::mpsc::channel(BATCHES_AHEAD);
    tokio::task::spawn_blocking(move || {
        for batch in generator {
            let batch = batch.map_err(|e| Error::internal(format!("generating {table} failed")).with_source(e));
            if sender.blocking_send(batch).is_err() {
                break; // the load ended
            }
        }
    });
    let batches = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|batch| (batch, receiver))
    });
    Rows { schema, batches: batches.boxed() }
}

/// The rows of all files, which are of one type. CSV and JSON have their types inferred from the first thousand records.
async fn read_files(sources: &[String], file_type: Option<FileType>) -> Result<Rows> {
    for source in sources {
        if !Path::new(source).is_file() {
            return Err(Error::new(ErrorCode::InvalidArgument, format!("there is no file {source}")));
        }
    }
    let types: Vec<_> =
        sources.iter().map(|source| file_type.map_or_else(|| type_of(source), Ok)).collect::<Result<_>>()?;
    if types.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(Error::new(ErrorCode::InvalidArgument, "the files are of several types")
            .with_hint("load each type by itself"));
    }
    let context = SessionContext::new();
    let paths = sources.to_vec();
    // any ending will do: the type is known already
    let frame = match types.first() {
        Some(FileType::Parquet) => context.read_parquet(paths, ParquetReadOptions::new().file_extension("")).await,
        Some(FileType::Csv) => context.read_csv(paths, CsvReadOptions::new().file_extension("")).await,
        _ => context.read_json(paths, JsonReadOptions::default().file_extension("")).await,
    };
    let shown = sources.join(", ");
    let broken = move |error: datafusion::error::DataFusionError| {
        let cause = error.find_root().strip_backtrace().replace('\n', " ");
        Error::new(ErrorCode::DataCorrupt, format!("{shown} cannot be read: {cause}"))
    };
    let stream = match frame {
        Ok(frame) => frame.execute_stream().await.map_err(&broken)?,
        Err(error) => return Err(broken(error)),
    };
    Ok(Rows { schema: stream.schema(), batches: stream.map_err(broken).boxed() })
}

fn type_of(path: &str) -> Result<FileType> {
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
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
