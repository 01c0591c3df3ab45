//! An output in memory as the bytes that a peer expects: the IPC stream that a file would hold.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use arrow::error::ArrowError;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use futures::{Stream, stream};
use prost::bytes::Bytes;

use super::memory::TaskOutput;

/// The most bytes of a block: as those of Ballista's files.
const BLOCK_BYTES: usize = 8 << 20;
/// Small batches are put into one block up to about this.
const SMALL_BLOCK_BYTES: usize = 1 << 20;

/// Encodes one partition, block by block as it is asked for.
struct Encoder {
    output: Arc<TaskOutput>,
    partition: usize,
    next: usize,
    writer: Option<StreamWriter<Vec<u8>>>,
    ready: VecDeque<Bytes>,
}

impl Encoder {
    fn new(output: Arc<TaskOutput>, partition: usize) -> Result<Self, ArrowError> {
        let options = IpcWriteOptions::default().try_with_compression(output.compression)?;
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &output.schema, options)?;
        // The schema goes alone: a reader that finds it whole in its first block puts no blocks together.
        let schema = mem::take(writer.get_mut());
        Ok(Self { output, partition, next: 0, writer: Some(writer), ready: VecDeque::from([schema.into()]) })
    }

    fn block(&mut self) -> Result<Option<Bytes>, ArrowError> {
        while self.ready.is_empty() {
            let Some(mut writer) = self.writer.take() else { return Ok(None) };
            let batches = self.output.batches(self.partition);
            while writer.get_ref().len() < SMALL_BLOCK_BYTES
                && let Some(batch) = batches.get(self.next)
            {
                writer.write(batch)?;
                self.next += 1;
            }
            let encoded = if self.next < batches.len() {
                let encoded = mem::take(writer.get_mut());
                self.writer = Some(writer);
                encoded
            } else {
                writer.finish()?;
                writer.into_inner()?
            };
            let mut encoded = Bytes::from(encoded);
            while encoded.len() > BLOCK_BYTES {
                self.ready.push_back(encoded.split_to(BLOCK_BYTES));
            }
            self.ready.push_back(encoded);
        }
        Ok(self.ready.pop_front())
    }
}

/// The blocks of a partition. An error ends them.
pub(crate) fn blocks(
    output: Arc<TaskOutput>,
    partition: usize,
) -> impl Stream<Item = Result<Bytes, ArrowError>> + Send {
    let encoder = Encoder::new(output, partition);
    stream::try_unfold(Some(encoder), |encoder| async move {
        let Some(encoder) = encoder else { return Ok(None) };
        let mut encoder = encoder?;
        Ok(encoder.block()?.map(|block| (block, Some(Ok(encoder)))))
    })
}
