//! A node around another that changes its stream and nothing else.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_core::error::BallistaError;
use ballista_core::execution_plans::{RangeShuffleReaderExec, ShuffleReaderExec};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use townlake_common::{Error, ErrorCode};
use townlake_engine::batches;
use townlake_engine::error::{from_datafusion, to_datafusion};

use crate::exchange::{ExchangeReaderExec, Replays};

/// What happens to the stream of the node inside.
#[derive(Debug, Clone)]
enum Change {
    /// It ends with an error once the token is cancelled.
    Cancel(CancellationToken),
    /// Its batches hold only the bytes that they use.
    Compact,
    /// The memory of its batches is theirs alone.
    Own,
    /// It begins with what somebody else took of it.
    Replay(Arc<Replays>),
}

/// `inner` with a changed stream.
///
/// Around an interior node it is transparent: name, children, metrics and downcasts are those of the node inside, because
/// Ballista decides by downcast how partitions are numbered and matches metrics by position. A leaf is held as a child
/// instead, because the engine replaces shuffle readers, and would replace a transparent wrapper with them; there
/// the wrapper has no metrics, so that positions stay.
#[derive(Debug)]
pub(crate) struct WrapExec {
    inner: Arc<dyn ExecutionPlan>,
    above_leaf: bool,
    change: Change,
}

impl WrapExec {
    /// `inner`, stopped by `token`.
    pub(crate) fn cancelled_by(inner: Arc<dyn ExecutionPlan>, token: CancellationToken) -> Arc<dyn ExecutionPlan> {
        let above_leaf = inner.children().is_empty();
        Arc::new(Self { inner, above_leaf, change: Change::Cancel(token) })
    }

    /// `inner` with compacted batches.
    pub(crate) fn compacted(inner: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let above_leaf = inner.children().is_empty();
        Arc::new(Self { inner, above_leaf, change: Change::Compact })
    }

    /// `inner` with batches that share no memory.
    pub(crate) fn owned(inner: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let above_leaf = inner.children().is_empty();
        Arc::new(Self { inner, above_leaf, change: Change::Own })
    }

    /// `inner`, whose partitions may be begun.
    pub(crate) fn replayed(inner: Arc<dyn ExecutionPlan>, begun: &Arc<Replays>) -> Arc<dyn ExecutionPlan> {
        let above_leaf = inner.children().is_empty();
        Arc::new(Self { inner, above_leaf, change: Change::Replay(Arc::clone(begun)) })
    }
}

impl DisplayAs for WrapExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.above_leaf {
            true => f.write_str("WrapExec"),
            false => self.inner.fmt_as(format, f),
        }
    }
}

impl ExecutionPlan for WrapExec {
    fn name(&self) -> &str {
        if self.above_leaf { "WrapExec" } else { self.inner.name() }
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        (!self.above_leaf).then_some(self.inner.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        if self.above_leaf { vec![&self.inner] } else { self.inner.children() }
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        if self.above_leaf { Ok(TreeNodeRecursion::Continue) } else { self.inner.apply_expressions(f) }
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = match (self.above_leaf, children.len()) {
            (true, 1) => children.remove(0),
            _ => Arc::clone(&self.inner)
                .replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))?,
        };
        Ok(Arc::new(Self { inner, above_leaf: self.above_leaf, change: self.change.clone() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if let Change::Replay(begun) = &self.change
            && let Some(rows) = begun.take(partition, self.inner.schema())
        {
            return Ok(rows);
        }
        let mut rows = self.inner.execute(partition, context)?;
        if self.above_leaf && is_reader(self.inner.as_ref()) {
            rows = Box::pin(RecordBatchStreamAdapter::new(rows.schema(), rows.map_err(unreadable)));
        }
        Ok(match &self.change {
            Change::Cancel(token) => Box::pin(CancelStream::new(rows, token.clone())),
            Change::Compact => each(rows, batches::compact_batch),
            Change::Own => each(rows, batches::own_batch),
            Change::Replay(_) => rows,
        })
    }

    fn metrics(&self) -> Option<MetricsSet> {
        if self.above_leaf { None } else { self.inner.metrics() }
    }
}

fn is_reader(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<ExchangeReaderExec>() || plan.is::<ShuffleReaderExec>() || plan.is::<RangeShuffleReaderExec>()
}

fn each(rows: SendableRecordBatchStream, change: fn(&RecordBatch) -> Result<RecordBatch>) -> SendableRecordBatchStream {
    let schema = rows.schema();
    Box::pin(RecordBatchStreamAdapter::new(schema, rows.map(move |batch| batch.and_then(|batch| change(&batch)))))
}

/// The error of a partition that could not be read from another executor. A connection that breaks before its first block
/// comes from Ballista as data that cannot be decoded, without the name of the executor; whichever of the two it is, the
/// task is to be tried again: then a dead executor is found dead.
fn unreadable(error: DataFusionError) -> DataFusionError {
    match from_datafusion(&error).code() {
        ErrorCode::DataCorrupt => {
            let lost = Error::new(ErrorCode::ExecutorLost, "the output of another executor could not be read");
            to_datafusion(lost.retryable().with_source(error))
        }
        _ => error,
    }
}

/// A stream that ends with [`BallistaError::Cancelled`] once its token is cancelled, and drops what it reads from.
struct CancelStream {
    schema: SchemaRef,
    rows: Option<SendableRecordBatchStream>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl CancelStream {
    fn new(rows: SendableRecordBatchStream, token: CancellationToken) -> Self {
        Self { schema: rows.schema(), rows: Some(rows), cancelled: Box::pin(token.cancelled_owned()) }
    }
}

impl Stream for CancelStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(rows) = this.rows.as_mut() else { return Poll::Ready(None) };
        if this.cancelled.as_mut().poll(context).is_ready() {
            this.rows = None;
            return Poll::Ready(Some(Err(BallistaError::Cancelled.into_datafusion())));
        }
        let next = rows.as_mut().poll_next(context);
        if matches!(next, Poll::Ready(None)) {
            this.rows = None;
        }
        next
    }
}

impl RecordBatchStream for CancelStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
    use datafusion::physical_plan::empty::EmptyExec;
    use std::time::Duration;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]))
    }

    #[tokio::test]
    async fn a_stream_that_never_yields_is_stopped() {
        let silent = RecordBatchStreamAdapter::new(schema(), futures::stream::pending());
        let token = CancellationToken::new();
        let mut rows = CancelStream::new(Box::pin(silent), token.clone());
        let canceller = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            token.cancel();
        });
        let next = tokio::time::timeout(Duration::from_secs(1), rows.next()).await.unwrap();
        let error = townlake_engine::error::from_datafusion(&next.unwrap().unwrap_err());
        assert_eq!(error.code(), townlake_common::ErrorCode::Cancelled);
        assert!(rows.next().await.is_none());
        canceller.await.unwrap();
    }

    #[tokio::test]
    async fn a_stream_that_is_always_ready_is_stopped() {
        let batch = RecordBatch::new_empty(schema());
        let busy = RecordBatchStreamAdapter::new(schema(), futures::stream::repeat_with(move || Ok(batch.clone())));
        let token = CancellationToken::new();
        let mut rows = CancelStream::new(Box::pin(busy), token.clone());
        assert!(rows.next().await.unwrap().is_ok());
        token.cancel();
        assert!(rows.next().await.unwrap().is_err());
    }

    #[test]
    fn a_partition_that_breaks_off_is_tried_again() {
        let ipc = |text: &str| arrow::error::ArrowError::IpcError(text.to_string());
        let broken = DataFusionError::ArrowError(Box::new(ipc("h2 protocol error")), None);
        let error = from_datafusion(&unreadable(BallistaError::from(broken).into_datafusion()));
        assert!(error.code() == ErrorCode::ExecutorLost && error.is_retryable(), "{error:?}");
        let fetch = BallistaError::FetchFailed("e1".to_string(), 2, 3, "gone".to_string());
        let kept: BallistaError = unreadable(fetch.into_datafusion()).into();
        assert!(matches!(kept, BallistaError::FetchFailed(executor, 2, 3, _) if executor == "e1"));
    }

    #[test]
    fn interior_nodes_keep_their_identity_and_leaves_become_children() {
        let token = CancellationToken::new();
        let leaf = WrapExec::cancelled_by(Arc::new(EmptyExec::new(schema())), token.clone());
        assert!(!leaf.is::<EmptyExec>() && leaf.children().len() == 1 && leaf.metrics().is_none());
        let node = WrapExec::cancelled_by(Arc::new(CoalescePartitionsExec::new(leaf)), token);
        assert!(node.is::<CoalescePartitionsExec>() && node.metrics().is_some());
        assert_eq!(node.name(), "CoalescePartitionsExec");
        let children = node.children().into_iter().cloned().collect();
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        let again = node.replace_children(children, options).unwrap();
        assert!(again.is::<CoalescePartitionsExec>());
    }
}
