//! Query results on the wire: types that every client knows, frames that every client accepts.
//!
//! A batch is cut, compacted and only then encoded, one at a time and only when the client asks for more: the stream holds
//! no more than one batch. Dropping it (the client went away) drops the query behind it, which cancels it.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use tonic::Status;
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::batches::{self, MAX_BATCH_BYTES};
use townlake_engine::error::from_datafusion;

use crate::http::{Metrics, RunningQuery};

/// Messages as tonic sends them.
pub type FlightStream = Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send>>;

/// The most rows of one frame.
const MAX_FRAME_ROWS: usize = 64 * 1024;

/// The largest message, in bytes. Only a frame of a single wide row comes near it; a wider row is refused.
pub const MAX_MESSAGE: usize = 64 << 20;

/// The schema as clients see it. String and binary views and dictionaries are ours to compute with; Java and older
/// clients do not read them, so they leave as plain arrays.
pub fn wire_schema(schema: &Schema) -> SchemaRef {
    let fields: Fields = schema.fields().iter().map(wire_field).collect();
    Arc::new(Schema::new(fields))
}

/// Of a field's metadata a client is told its extension type (uuid, for one), not the ids of our files.
fn wire_field(field: &FieldRef) -> FieldRef {
    let metadata = field.metadata().iter().filter(|(key, _)| key.starts_with("ARROW:extension:"));
    let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
    Arc::new(Field::new(field.name(), wire_type(field.data_type()), field.is_nullable()).with_metadata(metadata))
}

fn wire_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => wire_type(values),
        DataType::RunEndEncoded(_, values) => wire_type(values.data_type()),
        DataType::List(item) | DataType::ListView(item) => DataType::List(wire_field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => DataType::LargeList(wire_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(wire_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(wire_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(wire_field(entries), *sorted),
        plain => plain.clone(),
    }
}

/// The frames of one batch, in the types of `schema` ([`wire_schema`] of the batch's).
///
/// Errors: a batch of another shape than the schema, an internal fault.
fn frames(batch: &RecordBatch, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let pieces = batches::pieces(batch, MAX_FRAME_ROWS, MAX_BATCH_BYTES).map_err(|e| from_datafusion(&e))?;
    pieces.iter().map(|piece| plain(piece, schema)).collect()
}

fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let misfit = |e| Error::internal("a result does not have the columns that its plan promised").with_source(e);
    // A value that does not fit is an error and never NULL.
    let strictly = CastOptions { safe: false, ..CastOptions::default() };
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => cast_with_options(column, field.data_type(), &strictly),
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(misfit)?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(misfit)
}

/// The few rows that a statement which is no query answers, when it has run to its end.
///
/// Errors: what the statement reports.
pub async fn read_whole(rows: SendableRecordBatchStream) -> Result<SendableRecordBatchStream> {
    let schema = rows.schema();
    let batches: Vec<RecordBatch> = rows.try_collect().await.map_err(|e| from_datafusion(&e))?;
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(batches.into_iter().map(Ok)))))
}

/// Streams the rows of a query. The first message is the schema, which must be what `GetFlightInfo` promised. `running` is
/// told how the query ended.
pub fn stream_rows(
    rows: SendableRecordBatchStream,
    schema: SchemaRef,
    mut running: RunningQuery,
    metrics: &Arc<Metrics>,
) -> FlightStream {
    let promised = Arc::clone(&schema);
    let frames =
        rows.map(move |batch| batch.map_err(|e| from_datafusion(&e)).and_then(|batch| frames(&batch, &promised)));
    // The end of the rows is an item too: it tells `running`, which otherwise counts a client that went away.
    let frames = frames.map(Some).chain(stream::once(std::future::ready(None))).filter_map(move |frames| {
        match &frames {
            None => running.finished(),
            Some(Err(error)) => running.failed(error.code()),
            Some(Ok(_)) => {}
        }
        std::future::ready(frames)
    });
    let frames = frames
        .map_ok(|frames| stream::iter(frames.into_iter().map(Ok)))
        .try_flatten()
        .map_err(|error: Error| FlightError::from(Status::from(error)));
    encode(frames, schema, metrics)
}

/// Streams batches that are there already: metadata.
pub fn stream_batch(batch: &RecordBatch, metrics: &Arc<Metrics>) -> Result<FlightStream> {
    let schema = wire_schema(&batch.schema());
    let frames = frames(batch, &schema)?;
    Ok(encode(stream::iter(frames.into_iter().map(Ok)), schema, metrics))
}

fn encode(
    frames: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static,
    schema: SchemaRef,
    metrics: &Arc<Metrics>,
) -> FlightStream {
    let open = metrics.stream_opened();
    // The frames are cut already: by what they use, where the encoder's own cutting goes by the size of whole buffers.
    let messages = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_max_flight_data_size(MAX_MESSAGE)
        .build(frames)
        .map_err(Status::from)
        .and_then(move |message| {
            let bytes = message.encoded_len();
            open.sent(bytes);
            std::future::ready(if bytes > MAX_MESSAGE { Err(Status::from(too_wide(bytes))) } else { Ok(message) })
        });
    Box::pin(messages)
}

fn too_wide(bytes: usize) -> Error {
    let message = format!("a row of the result takes {bytes} bytes, and at most {MAX_MESSAGE} can be sent");
    Error::new(ErrorCode::ResourceExhausted, message).with_hint("select fewer or shorter columns")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, AsArray, Int64Array, ListBuilder, StringViewArray, StringViewBuilder};
    use arrow_flight::decode::FlightRecordBatchStream;

    fn views(rows: usize, bytes: usize) -> RecordBatch {
        let text: ArrayRef =
            Arc::new(StringViewArray::from_iter_values((0..rows).map(|i| format!("{}{i:05}", "0".repeat(bytes)))));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        for i in 0..rows {
            lists.append_value([Some(format!("item {i}")), None]);
        }
        let lists: ArrayRef = Arc::new(lists.finish());
        RecordBatch::try_from_iter([("n", numbers), ("t", text), ("l", lists)]).unwrap()
    }

    async fn send(batch: RecordBatch) -> Vec<Result<FlightData, Status>> {
        let schema = batch.schema();
        let rows = RecordBatchStreamAdapter::new(Arc::clone(&schema), stream::iter([Ok(batch)]));
        let metrics = Arc::new(Metrics::new().unwrap());
        stream_rows(Box::pin(rows), wire_schema(&schema), metrics.query_started(), &metrics).collect().await
    }

    #[tokio::test]
    async fn frames_are_small_and_plain_and_whole() {
        // Slices of one large batch: each keeps the buffers of all 30 MB.
        let batch = views(30_000, 1000);
        let messages = send(batch.slice(5, 29_000)).await;
        let sizes: Vec<_> = messages.iter().map(|m| m.as_ref().unwrap().encoded_len()).collect();
        assert!(sizes.iter().all(|size| *size < 2 << 20), "{sizes:?}");
        assert!(sizes.len() < 80, "cut too fine: {}", sizes.len());
        let decoded = FlightRecordBatchStream::new_from_flight_data(stream::iter(messages).map_err(FlightError::from));
        let batches: Vec<RecordBatch> = decoded.try_collect().await.unwrap();
        let mut expected = 5_i64;
        for batch in &batches {
            assert_eq!(batch.schema().field(1).data_type(), &DataType::Utf8);
            let numbers = batch.column(0).as_primitive::<arrow::datatypes::Int64Type>();
            let text = batch.column(1).as_string::<i32>();
            for row in 0..batch.num_rows() {
                assert_eq!(numbers.value(row), expected);
                assert_eq!(text.value(row).parse::<i64>().unwrap(), expected);
                let list = batch.column(2).as_list::<i32>().value(row);
                assert_eq!(list.as_string::<i32>().value(0), format!("item {expected}"));
                expected += 1;
            }
        }
        assert_eq!(expected, 29_005);
    }

    #[tokio::test]
    async fn a_wide_row_passes_and_a_monstrous_one_is_refused() {
        let messages = send(views(1, 5 << 20)).await;
        assert!(messages.iter().all(Result::is_ok));
        let messages = send(views(1, MAX_MESSAGE + 1)).await;
        let status = messages.last().unwrap().as_ref().unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn no_rows_still_have_a_schema() {
        let messages = send(views(0, 1)).await;
        assert_eq!(messages.len(), 1);
    }
}
