//! Reads splits: joins the query's snapshot, runs COPY, decodes its bytes into bounded batches.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use tokio_postgres::CopyOutStream;
use townlake_common::{Error, ErrorCode, QueryId, Result};

use super::copy::CopyFrames;
use super::error::Server;
use super::pool::{Connection, Pool, Purpose};
use super::recipe::{Recipe, Split};
use super::values::{ColumnBuilder, ValueFault};
use crate::scan::ScanMetrics;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;
/// A batch of wide rows ends earlier, at this many bytes.
const BATCH_BYTES: usize = 8 << 20;

/// A running COPY. Dropped before its end, the statement is cancelled on the server.
pub(crate) struct SplitReader {
    recipe: Arc<Recipe>,
    split: Split,
    schema: SchemaRef,
    rows: Pin<Box<CopyOutStream>>,
    frames: CopyFrames,
    columns: Vec<ColumnBuilder>,
    metrics: ScanMetrics,
    server: Server,
    /// Until the server has said that there is no more; the stream must not be asked again after that. It stands after
    /// `rows`: the stream goes before the connection that carries it.
    connection: Option<Connection>,
}

impl SplitReader {
    /// Waits for a connection, joins the snapshot and starts the COPY of one split.
    pub async fn open(pool: &Arc<Pool>, recipe: &Arc<Recipe>, split: Split, metrics: &ScanMetrics) -> Result<Self> {
        let query = QueryId::parse(&recipe.query_id)?;
        let waited = metrics.connection_wait.timer();
        let connection = pool.begin(&query, Purpose::Split, Some(&recipe.snapshot)).await?;
        drop(waited);
        metrics.splits.add(1);
        let sql = format!("COPY ({}) TO STDOUT (FORMAT binary)", recipe.select(split));
        let started = connection.client()?.copy_out(&sql).await;
        let rows = started.map_err(|error| pool.server().error(&reading(recipe), error))?;
        Ok(Self {
            schema: recipe.arrow_schema(),
            rows: Box::pin(rows),
            frames: CopyFrames::new(recipe.columns.len()),
            columns: recipe.columns.iter().map(|column| ColumnBuilder::new(column.column_type)).collect(),
            recipe: Arc::clone(recipe),
            split,
            metrics: metrics.clone(),
            server: pool.server().clone(),
            connection: Some(connection),
        })
    }

    /// The next batch, and the reader for the one after it; `None` when the split is read to its end.
    pub async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        let (mut rows, mut bytes) = (0usize, 0usize);
        while self.connection.is_some() && rows < BATCH_ROWS && bytes < BATCH_BYTES {
            let chunk = self.rows.try_next().await;
            let chunk = chunk.map_err(|error| self.server.error(&reading(&self.recipe), error))?;
            let Some(chunk) = chunk else {
                if !self.frames.is_done() {
                    return Err(self.server.corrupt("a COPY that ends early"));
                }
                // Not at the next call: whoever has all rows that it wants may never make it.
                if let Some(connection) = self.connection.take() {
                    connection.check_snapshot(&self.recipe.snapshot).await?;
                    connection.finish_later();
                }
                break;
            };
            self.metrics.bytes_read.add(chunk.len());
            bytes += chunk.len();
            let _timer = self.metrics.baseline.elapsed_compute().timer();
            self.frames.push(&chunk);
            rows += append(&mut self.frames, &mut self.columns)
                .map_err(|fault| fault.into_error(&self.recipe, self.split, &self.server))?;
        }
        if rows == 0 {
            return Ok(None);
        }
        let batch = self.batch(rows)?;
        Ok(Some((batch, self)))
    }

    fn batch(&mut self, rows: usize) -> Result<RecordBatch> {
        let columns = self.columns.iter_mut().map(ColumnBuilder::finish).collect::<std::result::Result<_, _>>();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        columns
            .and_then(|columns| RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options))
            .map_err(|error| {
                let message = format!("{}: the rows do not have the shape of the table", name(&self.recipe));
                Error::new(ErrorCode::DataCorrupt, message).with_source(error)
            })
    }
}

/// What is wrong with a chunk.
enum Fault {
    Frame(&'static str),
    Value { column: usize, fault: ValueFault },
}

/// Appends every whole tuple that has come and tells how many.
fn append(frames: &mut CopyFrames, columns: &mut [ColumnBuilder]) -> std::result::Result<usize, Fault> {
    let mut rows = 0;
    while let Some(fields) = frames.next_tuple().map_err(Fault::Frame)? {
        for (index, (builder, field)) in columns.iter_mut().zip(fields).enumerate() {
            builder.append(field).map_err(|fault| Fault::Value { column: index, fault })?;
        }
        rows += 1;
    }
    Ok(rows)
}

impl Fault {
    fn into_error(self, recipe: &Recipe, split: Split, server: &Server) -> Error {
        let column = |index: usize| {
            let column = recipe.columns.get(index).map_or("?", |column| column.name.as_str());
            format!("column {}.{column}", name(recipe))
        };
        match self {
            Self::Frame(what) => server.corrupt(what),
            Self::Value { column: index, fault: ValueFault::Malformed } => {
                server.corrupt(&format!("a value of {}{}", column(index), place(split)))
            }
            Self::Value { column: index, fault: ValueFault::NotRepresentable(what) } => {
                let message =
                    format!("{} holds {what}{}, which the engine cannot represent", column(index), place(split));
                Error::new(ErrorCode::FormatNotSupported, message)
                    .with_hint("leave the column out, or read it through a Postgres view that casts it to text")
            }
        }
    }
}

/// Where in the table: its `ctid` tells a row's block.
fn place(split: Split) -> String {
    match (split.first, split.end) {
        (None, None) => " (in its only split)".to_string(),
        (first, Some(end)) => format!(" (in blocks {} to {})", first.unwrap_or_default(), end.saturating_sub(1)),
        (Some(first), None) => format!(" (in the blocks from {first} on)"),
    }
}

fn name(recipe: &Recipe) -> String {
    format!("{}.{}.{}", recipe.catalog, recipe.schema, recipe.table)
}

fn reading(recipe: &Recipe) -> String {
    format!("read table {}.{}", recipe.schema, recipe.table)
}
