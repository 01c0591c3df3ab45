//! The rows of a query on their way to its client: started when they are first asked for, counted, ended by their end, an
//! error, a limit, a cancel, or by being dropped.
//!
//! A client that stops reading asks for nothing, so its query cannot end by itself when it is cancelled or out of time. What
//! the query holds lies where a watchdog finds it: whoever comes first, the reader or the watchdog, ends it.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use datafusion::arrow::array::RecordBatchOptions;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use futures::{FutureExt, Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::{from_datafusion, to_datafusion};

use super::again::{Again, too_late};
use super::registry::{Begun, Tracked};

/// How soon the watchdog looks again at a query whose rows are computed this very moment.
const BUSY: Duration = Duration::from_millis(10);

/// Where the rows come from.
pub(super) enum Source {
    /// A run that begins when the first row is asked for.
    Lazy(BoxFuture<'static, Result<SendableRecordBatchStream>>),
    /// Rows that flow.
    Open(SendableRecordBatchStream),
}

impl Source {
    /// The rows, once they flow.
    ///
    /// Errors: those of the run.
    pub(super) async fn open(self) -> Result<SendableRecordBatchStream> {
        match self {
            Self::Lazy(start) => start.await,
            Self::Open(rows) => Ok(rows),
        }
    }

    /// Rows that are here already.
    pub(super) fn batch(batch: RecordBatch) -> Self {
        Self::Open(one_batch(batch))
    }

    fn poll_next(&mut self, schema: &SchemaRef, cx: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        if let Self::Lazy(start) = self {
            match ready!(start.poll_unpin(cx)) {
                Ok(opened) => *self = Self::Open(opened),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let Self::Open(stream) = self else { return Poll::Ready(None) };
        let item = ready!(stream.poll_next_unpin(cx));
        Poll::Ready(item.map(|batch| match batch {
            Ok(batch) => conform(&batch, schema),
            Err(error) => Err(from_datafusion(&error)),
        }))
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
        tokio::select! {
            biased;
            error = self.over() => Err(error),
            result = caught(work) => result,
        }
    }

    /// Waits until the query is cancelled or out of time.
    async fn over(&self) -> Error {
        let out_of_time = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => cancelled(),
            () = out_of_time => self::out_of_time(),
        }
    }

    /// Why the query may not go on now.
    fn are_over(&self) -> Option<Error> {
        if self.cancel.is_cancelled() {
            return Some(cancelled());
        }
        self.deadline.filter(|deadline| *deadline <= Instant::now()).map(|_| out_of_time())
    }
}

fn cancelled() -> Error {
    Error::new(ErrorCode::Cancelled, "the query was cancelled")
}

fn out_of_time() -> Error {
    Error::new(ErrorCode::Timeout, "the query ran into its time limit")
        .with_hint("the limit is limits.query_timeout or the setting query_timeout")
}

/// `work`, whose panic is an error of its own query and not the end of the connection on which it runs.
pub(super) async fn caught<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> Error {
    Error::internal("the engine panicked on this query").with_hint("the coordinator's log says where")
}

/// The rows of `source`, or of the runs that come in its place, in the columns of `schema`. They own the query: its end is theirs.
///
/// `counted`: whether these rows are the query's own (a write's one row is not; its written rows are counted elsewhere).
pub(super) fn rows(
    begun: Begun,
    schema: SchemaRef,
    (source, again): (Source, Option<Again>),
    limits: Limits,
    counted: bool,
) -> SendableRecordBatchStream {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::Running(Body { source, again, rows_are_out: false, begun })),
        reader: AtomicWaker::new(),
        limits,
    });
    let watchdog = tokio::spawn(watch(Arc::downgrade(&shared), shared.limits.clone())).abort_handle();
    let reader = Reader { shared, watchdog, schema: Arc::clone(&schema), counted };
    Box::pin(RecordBatchStreamAdapter::new(schema, reader.map(|item| item.map_err(to_datafusion))))
}

/// What reader and watchdog share. The reader holds `state` while it computes; nobody waits for it.
struct Shared {
    state: Mutex<State>,
    /// The reader, when it waits for rows that will not come.
    reader: AtomicWaker,
    limits: Limits,
}

/// What a running query holds: fields drop in order, so first what runs is stopped, then the query has ended.
struct Body {
    source: Source,
    again: Option<Again>,
    rows_are_out: bool,
    begun: Begun,
}

impl Body {
    fn poll_next(&mut self, schema: &SchemaRef, cx: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        loop {
            let item = ready!(self.source.poll_next(schema, cx));
            match (item, &mut self.again) {
                (Some(Err(error)), Some(again)) if error.is_moment_lost() => {
                    if self.rows_are_out {
                        return Poll::Ready(Some(Err(too_late(error))));
                    }
                    match again.after(error) {
                        // The run that failed ends here, before the next begins.
                        Ok(next) => self.source = next,
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    }
                }
                (item, _) => {
                    self.rows_are_out |= matches!(&item, Some(Ok(batch)) if batch.num_rows() > 0);
                    return Poll::Ready(item);
                }
            }
        }
    }
}

enum State {
    Running(Body),
    /// Its end is written down, then the reader is told.
    Ending(JoinHandle<()>, Option<Error>),
    Over,
}

impl State {
    /// Ends the query, if it has not ended.
    fn end(&mut self, outcome: Option<Error>) {
        if let Self::Running(Body { source, begun, .. }) = std::mem::replace(self, Self::Over) {
            drop(source);
            let told = outcome.clone();
            // A task: it is written down also when the client goes away meanwhile.
            let written = tokio::spawn(async move { begun.end(outcome.as_ref()).await });
            *self = Self::Ending(written, told);
        }
    }
}

/// Ends a query that is cancelled or out of time, whatever its reader does.
async fn watch(shared: Weak<Shared>, limits: Limits) {
    let error = limits.over().await;
    while let Some(shared) = shared.upgrade() {
        if let Some(mut state) = shared.state.try_lock() {
            if matches!(*state, State::Running(_)) {
                state.end(Some(error));
            }
            drop(state);
            shared.reader.wake();
            return;
        }
        drop(shared);
        tokio::time::sleep(BUSY).await;
    }
}

struct Reader {
    shared: Arc<Shared>,
    watchdog: AbortHandle,
    schema: SchemaRef,
    counted: bool,
}

impl Stream for Reader {
    type Item = Result<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.shared.reader.register(cx.waker());
        let mut state = self.shared.state.lock();
        if let State::Running(body) = &mut *state {
            let item = match self.shared.limits.are_over() {
                Some(error) => Some(Err(error)),
                None => {
                    let next = || body.poll_next(&self.schema, cx);
                    ready!(catch_unwind(AssertUnwindSafe(next)).unwrap_or_else(|_| Poll::Ready(Some(Err(panicked())))))
                }
            };
            match item {
                Some(Ok(batch)) => {
                    if let (true, Ok(tracked)) = (self.counted, body.begun.tracked()) {
                        count(tracked, &batch);
                    }
                    return Poll::Ready(Some(Ok(batch)));
                }
                Some(Err(error)) => state.end(Some(error)),
                None => state.end(None),
            }
        }
        let State::Ending(written, _) = &mut *state else { return Poll::Ready(None) };
        // A panic in there is in the log; the query has ended all the same.
        drop(ready!(written.poll_unpin(cx)));
        match std::mem::replace(&mut *state, State::Over) {
            State::Ending(_, Some(error)) => Poll::Ready(Some(Err(error))),
            _ => Poll::Ready(None),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.watchdog.abort();
        // Dropping what it holds cancels a query that has not ended.
        drop(std::mem::replace(&mut *self.shared.state.lock(), State::Over));
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
