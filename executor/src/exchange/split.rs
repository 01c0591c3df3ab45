//! How the rows of a task are cut into partitions.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::BatchCoalescer;
use arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;
use townlake_engine::batches;

/// Rows that the pieces of all partitions together may wait to be put into batches, in batches.
const WAITING_BATCHES: usize = 32;
/// The smallest batches that pieces are put into, in rows.
const SMALLEST_BATCH: usize = 256;

/// The layout of an output.
#[derive(Debug, Clone)]
pub(crate) enum Layout {
    /// Each partition of the input is one of the output.
    AsInput,
    /// Rows go where the hash of these expressions says, over so many partitions.
    ByHash(Vec<Arc<dyn PhysicalExpr>>, usize),
}

/// Cuts the rows of one input partition.
pub(crate) enum Splitter {
    AsInput { done: Vec<RecordBatch> },
    ByHash { partitioner: Box<BatchPartitioner>, parts: Vec<Part> },
}

/// What one partition has of the input's rows.
pub(crate) struct Part {
    waiting: BatchCoalescer,
    done: Vec<RecordBatch>,
}

impl Splitter {
    /// `time` grows by what the hashing takes.
    ///
    /// Errors: no partitions.
    pub(crate) fn new(layout: &Layout, schema: &SchemaRef, batch_size: usize, time: Time) -> Result<Self> {
        let Layout::ByHash(keys, count) = layout else { return Ok(Self::AsInput { done: Vec::new() }) };
        // Pieces that are large enough are kept as they are: there is nothing to win by one more copy.
        let rows = (batch_size * WAITING_BATCHES / count.max(&1)).clamp(SMALLEST_BATCH.min(batch_size), batch_size);
        let part = || Part {
            waiting: BatchCoalescer::new(Arc::clone(schema), rows).with_biggest_coalesce_batch_size(Some(rows / 4)),
            done: Vec::new(),
        };
        let partitioner = BatchPartitioner::new_hash_partitioner(keys.clone(), *count, time)?;
        Ok(Self::ByHash { partitioner: Box::new(partitioner), parts: (0..*count).map(|_| part()).collect() })
    }

    /// Takes a batch. Returns the bytes that are kept more than before.
    ///
    /// Errors: a key that cannot be computed.
    pub(crate) fn push(&mut self, batch: RecordBatch) -> Result<usize> {
        match self {
            Self::AsInput { done } => {
                let own = batches::own_batch(&batches::compact_batch(&batch)?)?;
                let bytes = own.get_array_memory_size();
                done.push(own);
                Ok(bytes)
            }
            Self::ByHash { partitioner, parts } => {
                let mut bytes = 0;
                partitioner.partition(batch, |partition, piece| {
                    if let Some(part) = parts.get_mut(partition) {
                        part.waiting.push_batch(piece)?;
                        bytes += part.take_completed()?;
                    }
                    Ok(())
                })?;
                Ok(bytes)
            }
        }
    }

    /// Ends what waits. Returns the bytes that are kept more than before.
    ///
    /// Errors: an array that is not well formed.
    pub(crate) fn finish(&mut self) -> Result<usize> {
        let Self::ByHash { parts, .. } = self else { return Ok(0) };
        let mut bytes = 0;
        for part in parts {
            part.waiting.finish_buffered_batch()?;
            bytes += part.take_completed()?;
        }
        Ok(bytes)
    }

    /// What was cut: for each partition of the output, or the one of the input.
    pub(crate) fn into_parts(self) -> Vec<Vec<RecordBatch>> {
        match self {
            Self::AsInput { done } => vec![done],
            Self::ByHash { parts, .. } => parts.into_iter().map(|part| part.done).collect(),
        }
    }
}

impl Part {
    fn take_completed(&mut self) -> Result<usize> {
        let mut bytes = 0;
        while let Some(batch) = self.waiting.next_completed_batch() {
            let batch = batches::compact_batch(&batch)?;
            bytes += batch.get_array_memory_size();
            self.done.push(batch);
        }
        Ok(bytes)
    }
}

/// What batches take, as a task reports it of a partition.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Size {
    pub(crate) batches: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

impl Size {
    /// Of these batches.
    pub(crate) fn of(batches: &[RecordBatch]) -> Self {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Self {
            batches: count(batches.len()),
            rows: count(batches.iter().map(RecordBatch::num_rows).sum()),
            bytes: count(batches.iter().map(RecordBatch::get_array_memory_size).sum()),
        }
    }
}

/// The batches of several input partitions, partition by partition of the output.
pub(crate) fn merged(inputs: Vec<Vec<Vec<RecordBatch>>>) -> Vec<Vec<RecordBatch>> {
    let mut merged: Vec<Vec<RecordBatch>> = Vec::new();
    for parts in inputs {
        merged.resize_with(merged.len().max(parts.len()), Vec::new);
        for (into, part) in merged.iter_mut().zip(parts) {
            into.extend(part);
        }
    }
    merged
}
