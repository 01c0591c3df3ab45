//! Reads splits: a stream of the read session, or the result of the query job.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use townlake_common::{Error, ErrorCode, Result};

use super::arrow_rows::{Decoder, Fault};
use super::client::Client;
use super::job::RunningJob;
use super::recipe::{Recipe, Way};
use super::rest_rows::RestRows;
use super::storage::{Asked, RowStream, table_path};
use super::types::Column;
use crate::places::Place;
use crate::scan::ScanMetrics;

/// One split that is read. Dropped before its end, it ends what the server does for it.
pub(crate) struct SplitReader {
    recipe: Arc<Recipe>,
    client: Arc<Client>,
    /// The columns of what comes: the recipe's, or the one that is read for none.
    wanted: SchemaRef,
    rows: Rows,
    /// Rows that may still be given.
    left: u64,
    metrics: ScanMetrics,
    _place: Place,
}

/// Where rows come from.
enum Rows {
    None,
    Streams(Box<Streams>),
    Rest(RestRows),
}

/// Streams of a session, one after another.
struct Streams {
    names: Vec<String>,
    open: Option<RowStream>,
    schema: Vec<u8>,
    decoder: Option<Decoder>,
}

impl Rows {
    fn of_session(names: Vec<String>, schema: Vec<u8>) -> Self {
        Self::Streams(Box::new(Streams { names, open: None, schema, decoder: None }))
    }
}

impl SplitReader {
    /// Waits for a place and opens one split.
    pub async fn open(
        client: &Arc<Client>,
        recipe: Arc<Recipe>,
        stream: String,
        metrics: &ScanMetrics,
    ) -> Result<Self> {
        let waited = metrics.connection_wait.timer();
        let place = client.patient_place().await?;
        drop(waited);
        metrics.splits.add(1);
        let rows = match &recipe.way {
            _ if recipe.limit == Some(0) => Rows::None,
            Way::Session { .. } if stream.is_empty() => Rows::None,
            Way::Session { arrow_schema, .. } => Rows::of_session(vec![stream], arrow_schema.clone()),
            Way::Job(_) => result_of_job(client, &recipe).await?,
        };
        let wanted = match recipe.columns.is_empty() {
            // Only counted.
            true => Arc::new(Schema::empty()),
            false => recipe.arrow_schema(),
        };
        let left = recipe.limit.unwrap_or(u64::MAX);
        Ok(Self { recipe, client: Arc::clone(client), wanted, rows, left, metrics: metrics.clone(), _place: place })
    }

    /// The next batch, and the reader for the one after it; `None` when the split is read to its end, or far enough.
    pub async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        while self.left > 0 {
            let Some(batch) = self.batch().await? else { break };
            let rows = batch.num_rows();
            if rows == 0 {
                continue;
            }
            let taken = usize::try_from(self.left).map_or(rows, |left| left.min(rows));
            self.left -= taken as u64;
            if self.left == 0 {
                self.rows = Rows::None;
            }
            return Ok(Some((batch.slice(0, taken), self)));
        }
        Ok(None)
    }

    async fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let Self { recipe, client, wanted, rows, metrics, .. } = self;
        match rows {
            Rows::None => Ok(None),
            Rows::Rest(rest) => rest.next(client, recipe, wanted, metrics).await,
            Rows::Streams(streams) => streams.next(client, recipe, wanted, metrics).await,
        }
    }
}

impl Streams {
    async fn next(
        &mut self,
        client: &Arc<Client>,
        recipe: &Recipe,
        wanted: &SchemaRef,
        metrics: &ScanMetrics,
    ) -> Result<Option<RecordBatch>> {
        loop {
            let stream = match &mut self.open {
                Some(stream) => stream,
                None => match self.names.pop() {
                    Some(name) => self.open.insert(RowStream::new(Arc::clone(client), name, recipe.reading())),
                    None => return Ok(None),
                },
            };
            let Some(piece) = stream.next().await? else {
                self.open = None;
                continue;
            };
            // The schema comes with the session, and again with the first rows.
            if self.schema.is_empty()
                && let Some(sent) = piece.arrow_schema
            {
                self.schema = sent;
            }
            let Some(bytes) = piece.batch else { continue };
            metrics.bytes_read.add(bytes.len());
            let _timer = metrics.baseline.elapsed_compute().timer();
            let told = |fault| told(client, recipe, fault, &stream.place());
            let decoder = match &mut self.decoder {
                Some(decoder) => decoder,
                None => self.decoder.insert(Decoder::new(&self.schema, Arc::clone(wanted)).map_err(told)?),
            };
            let batch = decoder.batch(&bytes).map_err(told)?;
            if i64::try_from(batch.num_rows()) != Ok(piece.rows) {
                return Err(client.storage_server().corrupt("a batch of another number of rows than it says"));
            }
            return Ok(Some(batch));
        }
    }
}

/// The rows of a job's result: its anonymous table through the Storage API, or over REST where that does not find it.
async fn result_of_job(client: &Arc<Client>, recipe: &Recipe) -> Result<Rows> {
    let job = RunningJob::start(client, recipe).await?;
    let done = job.finish().await?;
    if let Some((project, dataset, table)) = &done.destination {
        let asked = Asked {
            table: table_path(project, dataset, table),
            selected_fields: recipe.selected_fields(),
            row_restriction: "",
            snapshot_micros: None,
            max_streams: 1,
            query_id: &recipe.query_id,
        };
        match client.create_session(&recipe.reading(), &asked).await {
            Ok(session) => return Ok(Rows::of_session(session.streams, session.arrow_schema)),
            Err(error) if error.code() == ErrorCode::TableNotFound => {
                tracing::debug!(catalog = %recipe.catalog, "the result of a job is read over REST");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Rows::Rest(RestRows::new(done)))
}

/// What was wrong with the bytes, with the column's name and the place.
pub(super) fn told(client: &Client, recipe: &Recipe, fault: Fault, place: &str) -> Error {
    match fault {
        Fault::Malformed(what) => client.storage_server().corrupt(what),
        Fault::Column(column, what) => {
            let message = format!("column {}.{column} {what} ({place})", recipe.name());
            Error::new(ErrorCode::DataCorrupt, message)
                .with_hint("if the table was changed meanwhile, run the query again")
        }
    }
}

/// The error for columns that cannot be read.
pub(super) fn refuse_unreadable(name: &str, columns: &[Column]) -> Result<()> {
    let found = columns.iter().find_map(|column| Some((column, column.unreadable()?)));
    let Some((column, declared)) = found else { return Ok(()) };
    let message = format!("column {name}.{} is of type {declared}, which cannot be read", column.name);
    Err(Error::new(ErrorCode::FormatNotSupported, message)
        .with_hint("leave the column out, or read it through a view that converts it"))
}
