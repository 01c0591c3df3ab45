//! What clients send: updates, parameters of prepared statements, bulk data.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::server::PeekableFlightDataStream;
use arrow_flight::sql::{CommandStatementIngest, TableExistsOption, TableNotExistOption};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt, stream};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::{from_datafusion, to_datafusion};

use super::results;
use super::service::Parts;
use super::statements::Statement;
use crate::query::{IngestMode, IngestTarget, Prepared, StatementKind};
use crate::session::Session;

/// Rows of parameters that one call may bind. More than a handful is a case for bulk ingest.
const MAX_PARAMETER_ROWS: usize = 10_000;

/// Runs a statement to its end and gives the rows that it changed; 0 for one that changes no rows (`USE`, `CREATE TABLE`),
/// -1 for a query, whose rows are dropped.
///
/// Errors: what the statement reports.
pub async fn run_update(
    parts: &Parts,
    session: &Arc<Session>,
    prepared: &Arc<Prepared>,
    parameters: Option<RecordBatch>,
) -> Result<i64> {
    let mut counted = parts.metrics.query_started();
    let outcome = async {
        let mut rows = parts.queries.execute(session, prepared, parameters, None).await?.rows;
        let mut changed = 0_i64;
        while let Some(batch) = rows.try_next().await.map_err(|e| from_datafusion(&e))? {
            if prepared.kind == StatementKind::Update {
                changed = changed.saturating_add(count(&batch)?);
            }
        }
        Ok(if prepared.kind == StatementKind::Query { -1 } else { changed })
    }
    .await;
    match &outcome {
        Ok(_) => counted.finished(),
        Err(error) => counted.failed(Error::code(error)),
    }
    outcome
}

/// The number in the one column of an update's answer.
fn count(batch: &RecordBatch) -> Result<i64> {
    let Some(column) = batch.columns().first() else { return Ok(0) };
    let counts =
        cast(column, &DataType::Int64).map_err(|e| Error::internal("an update gave no count").with_source(e))?;
    Ok(counts.as_primitive::<Int64Type>().iter().flatten().sum())
}

/// Runs a prepared update with all rows of parameters, or once when there are none.
///
/// The rows of an `INSERT … VALUES` are inserted together, as a whole or not at all. For any other statement each row is a
/// statement of its own: what those before one that fails did stays.
pub async fn run_prepared_update(parts: &Parts, statement: &Statement, data: PeekableFlightDataStream) -> Result<i64> {
    let Statement { session, prepared, parameters } = statement;
    let (schema, batches) = parameter_rows(data).await?;
    if schema.is_none_or(|schema| schema.fields().is_empty()) {
        return run_update(parts, session, prepared, parameters.clone()).await;
    }
    if prepared.takes_many_rows()
        && let Some(first) = batches.first()
    {
        let rows = concat_batches(&first.schema(), &batches)
            .map_err(|e| unreadable("the rows of parameters").with_source(e))?;
        return if rows.num_rows() == 0 { Ok(0) } else { run_update(parts, session, prepared, Some(rows)).await };
    }
    let mut changed = 0_i64;
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let rows = run_update(parts, session, prepared, Some(batch.slice(row, 1))).await?;
            changed = changed.saturating_add(rows.max(0));
        }
    }
    Ok(changed)
}

/// The one row of parameters for a query; `None` when none are bound.
///
/// Errors: `INVALID_ARGUMENT` for several rows: a query has one result.
pub async fn one_row(data: PeekableFlightDataStream) -> Result<Option<RecordBatch>> {
    let (_, batches) = parameter_rows(data).await?;
    let mut rows = batches.into_iter().filter(|batch| batch.num_columns() > 0 && batch.num_rows() > 0);
    let first = rows.next();
    let several = first.as_ref().is_some_and(|batch| batch.num_rows() > 1) || rows.next().is_some();
    if several {
        let message = "several rows of parameters are bound to a query, which runs once";
        return Err(Error::new(ErrorCode::InvalidArgument, message).with_hint("bind one row and run it for each"));
    }
    Ok(first)
}

async fn parameter_rows(data: PeekableFlightDataStream) -> Result<(Option<SchemaRef>, Vec<RecordBatch>)> {
    // A statement without parameters may come with a first message that holds the command and no data at all.
    let data = data.try_filter(|message| std::future::ready(!message.data_header.is_empty()));
    let mut decoded = FlightRecordBatchStream::new_from_flight_data(data.map_err(FlightError::from));
    let (mut batches, mut rows) = (Vec::new(), 0);
    while let Some(batch) = decoded.try_next().await.map_err(received)? {
        rows += batch.num_rows();
        if rows > MAX_PARAMETER_ROWS {
            let message = format!("at most {MAX_PARAMETER_ROWS} rows of parameters can be bound in one call");
            return Err(Error::new(ErrorCode::ResourceExhausted, message).with_hint("use bulk ingest"));
        }
        batches.push(batch);
    }
    // A call that its client took back looks as if its rows had ended: it is dropped here, before it changes anything.
    tokio::task::yield_now().await;
    Ok((decoded.schema().cloned(), batches))
}

/// The parameters as drivers are told them. One whose type is open is offered as text, which converts to whatever it is
/// compared with: drivers that bind by this schema cannot bind a value of the null type.
pub fn parameter_schema(parameters: &Schema) -> SchemaRef {
    let wire = results::wire_schema(parameters);
    let fields: Vec<Field> = wire
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Null => field.as_ref().clone().with_data_type(DataType::Utf8),
            _ => field.as_ref().clone(),
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// Bulk ingest: rows as a client streams them into a table. Gives the number of rows.
///
/// Errors: `INVALID_ARGUMENT`, `NOT_SUPPORTED` for what the command asks; what the table's catalog reports.
pub async fn ingest(
    parts: &Parts,
    session: &Arc<Session>,
    command: CommandStatementIngest,
    data: PeekableFlightDataStream,
) -> Result<i64> {
    if command.temporary {
        return Err(Error::new(ErrorCode::NotSupported, "there are no temporary tables"));
    }
    let mode = ingest_mode(&command)?;
    if command.table.is_empty() {
        return Err(Error::new(ErrorCode::InvalidArgument, "bulk ingest names no table"));
    }
    let none_if_empty = |name: Option<String>| name.filter(|name| !name.is_empty());
    let target = IngestTarget {
        catalog: none_if_empty(command.catalog),
        schema: none_if_empty(command.schema),
        table: command.table,
        mode,
    };
    let rows = received_rows(data).await?;
    let mut counted = parts.metrics.query_started();
    let outcome = parts.queries.ingest(session, target, rows).await;
    match &outcome {
        Ok(_) => counted.finished(),
        Err(error) => counted.failed(error.code()),
    }
    outcome.map(|rows| i64::try_from(rows).unwrap_or(i64::MAX))
}

fn ingest_mode(command: &CommandStatementIngest) -> Result<IngestMode> {
    use {TableExistsOption as Exists, TableNotExistOption as Missing};
    let options = command.table_definition_options.unwrap_or_default();
    let missing = Missing::try_from(options.if_not_exist).unwrap_or(Missing::Unspecified);
    let exists = Exists::try_from(options.if_exists).unwrap_or(Exists::Unspecified);
    match (missing, exists) {
        (Missing::Create, Exists::Fail) => Ok(IngestMode::Create),
        (Missing::Fail, Exists::Append) => Ok(IngestMode::Append),
        (Missing::Create, Exists::Replace) => Ok(IngestMode::Replace),
        (Missing::Create, Exists::Append) => Ok(IngestMode::CreateAppend),
        _ => Err(Error::new(ErrorCode::InvalidArgument, "bulk ingest does not say what to do with the table")
            .with_hint("use one of the modes create, append, replace, create_append")),
    }
}

/// The rows of a client as a stream: read as they are written on, never all at once.
async fn received_rows(data: PeekableFlightDataStream) -> Result<SendableRecordBatchStream> {
    let mut decoded = FlightRecordBatchStream::new_from_flight_data(data.map_err(FlightError::from));
    // The schema is known when the first batch, or the end, is there.
    let first = decoded.try_next().await.map_err(received)?;
    let schema = decoded.schema().cloned();
    let schema = schema.ok_or_else(|| Error::new(ErrorCode::InvalidArgument, "bulk ingest sends no schema"))?;
    let rows = stream::iter(first.map(Ok)).chain(decoded).map_err(|error| to_datafusion(received(error)));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

/// What a client sent wrongly. Only that it was wrong is told: the rest could be data.
fn received(error: FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => Error::from_status("receiving from the client", &status),
        other => unreadable("the data that the client sent").with_source(other),
    }
}

/// What a client sent cannot be decoded.
pub fn unreadable(what: &str) -> Error {
    Error::new(ErrorCode::InvalidArgument, format!("{what} cannot be read"))
}
