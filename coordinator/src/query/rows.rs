//! The rows of a query on their way to its client: started when they are first asked for, counted, ended by their end, an
//! error, a limit, a cancel, or by being dropped.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatchOptions;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::BoxFuture;
use futures::stream::unfold;
use futures::{FutureExt, StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::{from_datafusion, to_datafusion};

use super::registry::{Begun, Tracked};

/// Where the rows come from.
pub(super) enum Source {
    /// A run that begins when the first row is asked for.
    Lazy(BoxFuture<'static, Result<SendableRecordBatchStream>>),
    /// Rows that flow.
    Open(SendableRecordBatchStream),
    /// None any more.
    Ended,
}

impl Source {
    /// Rows that are here already.
    pub(super) fn batch(batch: RecordBatch) -> Self {
        Self::Open(one_batch(batch))
    }
}

/// A stream of one batch.
pub(super) fn one_batch(batch: RecordBatch) -> SendableRecordBatchStream {
    let schema = batch.schema();
    Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter([Ok(batch)])))
}

/// What ends a query from outside.
#[derive(Clone)]
pub(super) struct Limits {
    pub cancel: CancellationToken,
    pub deadline: Option<Instant>,
}

impl Limits {
    /// `work`, unless the query is cancelled or out of time before: then `work` is dropped. A panic in it is `INTERNAL`.
    pub(super) async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let out_of_time = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Error::new(ErrorCode::Cancelled, "the query was cancelled")),
            () = out_of_time => Err(Error::new(ErrorCode::Timeout, "the query ran into its time limit")
                .with_hint("the limit is limits.query_timeout or the setting query_timeout")),
            result = caught(work) => result,
        }
    }
}

/// `work`, whose panic is an error of its own query and not the end of the connection on which it runs.
pub(super) async fn caught<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        Err(Error::internal("the engine panicked on this query").with_hint("the coordinator's log says where"))
    })
}

/// The rows of `source` in the columns of `schema`. They own the query: its end is theirs.
///
/// `counted`: whether these rows are the query's own (a write's one row is not; its written rows are counted elsewhere).
pub(super) fn rows(
    begun: Begun,
    schema: SchemaRef,
    source: Source,
    limits: Limits,
    counted: bool,
) -> SendableRecordBatchStream {
    let reading = Reading { begun: Some(begun), schema: Arc::clone(&schema), source, limits, counted };
    let batches = unfold(reading, |mut reading| async move { reading.next().await.map(|item| (item, reading)) });
    let batches = batches.map(|item| item.map_err(to_datafusion));
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}

struct Reading {
    begun: Option<Begun>,
    schema: SchemaRef,
    source: Source,
    limits: Limits,
    counted: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        let begun = self.begun.as_ref()?;
        let limits = self.limits.clone();
        let item = limits.guard(next_batch(&mut self.source, &self.schema)).await;
        match item {
            Ok(Some(batch)) => {
                if let (true, Ok(tracked)) = (self.counted, begun.tracked()) {
                    count(tracked, &batch);
                }
                Some(Ok(batch))
            }
            Ok(None) => {
                self.source = Source::Ended;
                if let Some(begun) = self.begun.take() {
                    begun.end(None).await;
                }
                None
            }
            Err(error) => {
                // First what runs is stopped, then the query has ended.
                self.source = Source::Ended;
                if let Some(begun) = self.begun.take() {
                    begun.end(Some(&error)).await;
                }
                Some(Err(error))
            }
        }
    }
}

async fn next_batch(source: &mut Source, schema: &SchemaRef) -> Result<Option<RecordBatch>> {
    if let Source::Lazy(start) = source {
        let opened = start.await?;
        *source = Source::Open(opened);
    }
    let Source::Open(stream) = source else { return Ok(None) };
    match stream.next().await {
        Some(Ok(batch)) => conform(&batch, schema).map(Some),
        Some(Err(error)) => Err(from_datafusion(&error)),
        None => Ok(None),
    }
}

fn count(tracked: &Tracked, batch: &RecordBatch) {
    let bytes = townlake_engine::batches::used_bytes(batch).unwrap_or_else(|_| batch.get_array_memory_size());
    tracked.count(batch.num_rows() as u64, bytes as u64);
}

/// The batch with exactly the columns that the client was told of: a physical plan may differ from its logical one in
/// nullability and in the kind of strings.
pub(super) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let misfit = |error| Error::internal("a result does not have the columns of its plan").with_source(error);
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => cast(column, field.data_type()),
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(misfit)?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(misfit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_query() {
        let limits = Limits { cancel: CancellationToken::new(), deadline: None };
        let error = limits.guard::<()>(async { panic!("a fault of the engine") }).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Internal);
        assert!(!error.message().contains("a fault of the engine"), "what a panic says may hold data: {error}");
    }
}
