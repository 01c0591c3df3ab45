//! `townlake load`: files, or generated TPC-H data, into Iceberg tables through a running server.

mod files;
mod types;

use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatchReader;
use datafusion::common::TableReference;
use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use townlake_common::{Error, ErrorCode, Result};

use self::files::{CsvLook, Files};
use self::types::Known;
use crate::args::{LoadArgs, LoadMode};
use crate::connection::{Connection, Rows};
use crate::tpch::Table;

/// Batches in flight between the reader and the wire: enough to keep both busy, little enough to stay small.
const BATCHES_AHEAD: usize = 4;

/// Runs the command.
pub async fn run(args: LoadArgs) -> Result<()> {
    let connection = Connection::open(&args.connect).await?;
    let outcome = run_on(&connection, &args).await;
    connection.close().await;
    outcome
}

async fn run_on(connection: &Connection, args: &LoadArgs) -> Result<()> {
    if args.sources.as_slice() == ["tpch"] {
        let tables = match args.tables.as_slice() {
            [] => Table::ALL.to_vec(),
            names => names.iter().map(|name| Table::parse(name)).collect::<Result<_>>()?,
        };
        // generated rows are the same each time: a second run must not double them
        let mode = args.mode.unwrap_or(LoadMode::Create);
        return tpch(connection, &args.catalog, &args.schema, args.scale, &tables, mode).await;
    }
    let table = args.table.as_deref().ok_or_else(|| {
        Error::new(ErrorCode::InvalidArgument, "which table?").with_hint("add --table catalog.schema.table")
    })?;
    let [catalog, schema, name] = three_parts(table)?;
    let target = [catalog.as_str(), schema.as_str(), name.as_str()];
    let mode = args.mode.unwrap_or(LoadMode::Append);
    let look = CsvLook { delimiter: args.delimiter, has_header: !args.no_header };
    let files = Files::new(&args.sources, args.file_type, look)?;
    let there = if mode == LoadMode::Append { columns_of(connection, target).await? } else { None };
    let known = Known::new(args.types.as_deref(), there).await?;
    let rows = files.rows(&known).await?;
    create_schema(connection, target[0], target[1]).await?;
    load(connection, target, mode, &files.label(), rows).await
}

/// The columns of the table; `None` when there is no such table.
async fn columns_of(connection: &Connection, table: [&str; 3]) -> Result<Option<SchemaRef>> {
    match connection.collect(&format!("SELECT * FROM {} LIMIT 0", table.map(quote).join("."))).await {
        Ok((schema, _)) => Ok(Some(schema)),
        Err(error) if matches!(error.code(), ErrorCode::TableNotFound | ErrorCode::SchemaNotFound) => Ok(None),
        Err(error) => Err(error),
    }
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
    let rows = outcome.map_err(|error| match error.code() {
        ErrorCode::AlreadyExists => {
            error.with_hint("--mode replace puts the rows in place of the table's, --mode append adds them")
        }
        _ => error,
    })?;
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

/// The parts of a table's name, as SQL reads them: lower case unless quoted.
fn three_parts(table: &str) -> Result<[String; 3]> {
    match TableReference::parse_str(table) {
        TableReference::Full { catalog, schema, table }
            if [&catalog, &schema, &table].iter().all(|p| !p.is_empty()) =>
        {
            Ok([catalog, schema, table].map(|part| part.to_string()))
        }
        _ => Err(Error::new(ErrorCode::InvalidArgument, format!("`{table}` is not catalog.schema.table"))
            .with_hint("a part that is no plain name is quoted: 'lake.hr.\"New people\"'")),
    }
}

/// A name as a quoted SQL identifier.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_as_in_sql() {
        assert_eq!(three_parts("Lake.HR.People").unwrap(), ["lake", "hr", "people"]);
        assert_eq!(three_parts("lake.\"HR\".\"New.people\"").unwrap(), ["lake", "HR", "New.people"]);
        for wrong in
            ["people", "hr.people", "a.b.c.d", "lake..people", "lake.hr.new-people", "lake.hr.", "", "a.b.\"\""]
        {
            assert_eq!(three_parts(wrong).unwrap_err().code(), ErrorCode::InvalidArgument, "{wrong}");
        }
    }
}
