//! The data files that one task writes: one open file a partition, bounded in number, size and memory.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::row::OwnedRow;
use bytes::Bytes;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Struct};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use townlake_common::{Error, ErrorCode, Result, fault};

use super::WriteSpec;
use super::metrics::{NanCounts, of_file, split_offsets};
use super::parquet_format;
use super::partition::{Partition, Partitioner};
use super::upload::{Untold, Upload};
use crate::objects::from_object_store;

/// Files that are open at the same time. Rows of more partitions than that, in no order, would make more and smaller files: they
/// are sorted first ([`super::crowded`]).
const MAX_OPEN: usize = 64;
/// Files that are finished at the same time when the rows have ended.
const CLOSED_AT_ONCE: usize = 8;

/// A finished file.
pub(super) struct Finished {
    pub(super) data_file: DataFile,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Writes the rows of one task.
pub(super) struct TaskFiles {
    spec: Arc<WriteSpec>,
    store: Arc<dyn ObjectStore>,
    task: usize,
    partitioner: Option<Arc<Partitioner>>,
    open: HashMap<Option<OwnedRow>, OpenFile>,
    clock: u64,
    finished: Vec<Finished>,
    untold: Untold,
    memory: MemoryReservation,
}

struct OpenFile {
    writer: ArrowWriter<Vec<u8>>,
    upload: Upload,
    uri: String,
    partition: Struct,
    nans: NanCounts,
    rows: u64,
    last_used: u64,
}

impl TaskFiles {
    /// For task number `task` of the write. No file is opened before its first row.
    pub(super) fn new(
        spec: Arc<WriteSpec>,
        store: Arc<dyn ObjectStore>,
        task: usize,
        memory: MemoryReservation,
    ) -> Result<Self> {
        let partitioner = match spec.partition_spec.fields().is_empty() {
            true => None,
            false => {
                let partitioner = Partitioner::new(&spec.partition_spec, &spec.partition_type, &spec.arrow_schema)?;
                Some(Arc::new(partitioner))
            }
        };
        let untold = Untold::new(Arc::clone(&store));
        let (open, finished) = (HashMap::new(), Vec::new());
        Ok(Self { spec, store, task, partitioner, open, clock: 0, finished, untold, memory })
    }

    /// Appends rows that have the table's columns already, in whatever order they come.
    pub(super) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.write_if(batch, |_| true).await.map(drop)
    }

    /// Appends rows unless they are of too many partitions: then nothing is written, and the rows are to be sorted first.
    pub(super) async fn write_unless_crowded(&mut self, batch: &RecordBatch) -> Result<bool> {
        self.write_if(batch, |files| files <= MAX_OPEN).await
    }

    /// What rows are sorted by.
    pub(super) fn partitioner(&self) -> Option<Arc<Partitioner>> {
        self.partitioner.clone()
    }

    /// `may`: whether so many files may be open.
    async fn write_if(&mut self, batch: &RecordBatch, may: impl Fn(usize) -> bool) -> Result<bool> {
        if batch.num_rows() == 0 {
            return Ok(true);
        }
        let Some(partitioner) = &self.partitioner else {
            let whole = Partition { values: Struct::empty(), path: String::new() };
            self.write_piece(None, whole, batch).await?;
            return self.account().map(|()| true);
        };
        let pieces = partitioner.split(batch).map_err(|e| {
            let message = format!("the partition of a row of {} cannot be computed", self.spec.table);
            Error::new(ErrorCode::ArithmeticError, message).with_source(e)
        })?;
        let new = pieces.iter().filter(|piece| !self.open.contains_key(&Some(piece.key.clone()))).count();
        if !may(self.open.len() + new) {
            return Ok(false);
        }
        for piece in pieces {
            self.write_piece(Some(piece.key), piece.partition, &piece.rows).await?;
        }
        self.account().map(|()| true)
    }

    async fn write_piece(&mut self, key: Option<OwnedRow>, partition: Partition, rows: &RecordBatch) -> Result<()> {
        self.clock += 1;
        if !self.open.contains_key(&key) {
            if self.open.len() >= MAX_OPEN {
                self.close_least_recent().await?;
            }
            let file = self.open_file(partition)?;
            self.open.insert(key.clone(), file);
        }
        let Some(file) = self.open.get_mut(&key) else { return Ok(()) };
        file.last_used = self.clock;
        file.write(rows).await?;
        if file.bytes() >= self.spec.target_file_bytes
            && let Some(full) = self.open.remove(&key)
        {
            self.close(full).await?;
        }
        Ok(())
    }

    fn open_file(&self, partition: Partition) -> Result<OpenFile> {
        // The last part is new for each attempt: a task that runs again never overwrites a file that its first run told of.
        let name = format!("{}-{:05}-{}.parquet", self.spec.query_id, self.task, uuid::Uuid::new_v4().simple());
        let below = if partition.path.is_empty() { name } else { format!("{}/{name}", partition.path) };
        let uri = format!("{}/{below}", self.spec.data_location.trim_end_matches('/'));
        let key = format!("{}/{below}", self.spec.data_path.as_ref());
        let path = Path::parse(key.trim_start_matches('/'))
            .map_err(|e| Error::internal(format!("{uri} is not a path that a store takes")).with_source(e))?;
        let spec = &self.spec;
        let writer = parquet_format::options(&spec.schema, &spec.arrow_schema, &spec.compression, spec.row_group_bytes)
            .and_then(|o| ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&spec.arrow_schema), o))
            .map_err(|e| parquet_error(&uri, e))?;
        let upload = Upload::new(Arc::clone(&self.store), path);
        let (partition, nans) = (partition.values, NanCounts::default());
        Ok(OpenFile { writer, upload, uri, partition, nans, rows: 0, last_used: self.clock })
    }

    async fn close_least_recent(&mut self) -> Result<()> {
        let oldest = self.open.iter().min_by_key(|(_, file)| file.last_used).map(|(key, _)| key.clone());
        match oldest.and_then(|key| self.open.remove(&key)) {
            Some(file) => self.close(file).await,
            None => Ok(()),
        }
    }

    async fn close(&mut self, file: OpenFile) -> Result<()> {
        let (finished, untold) = file.finish(&self.spec).await?;
        self.untold.take_over(untold);
        self.finished.push(finished);
        Ok(())
    }

    /// Tells the memory pool what is held. Where that is too much, row groups are closed early, the biggest first.
    fn account(&mut self) -> Result<()> {
        while self.memory.try_resize(self.open.values().map(OpenFile::held).sum()).is_err() {
            let biggest = self.open.values_mut().max_by_key(|file| file.writer.memory_size());
            match biggest.filter(|file| file.writer.in_progress_rows() > 0) {
                Some(file) => file.writer.flush().map_err(|e| parquet_error(&file.uri, e))?,
                None => {
                    let message = format!("writing {} needs more memory than the query may have", self.spec.table);
                    return Err(Error::new(ErrorCode::MemoryLimit, message));
                }
            }
        }
        Ok(())
    }

    /// Closes all files and hands them over. From here on the caller answers for them.
    pub(super) async fn finish(mut self) -> Result<(Vec<Finished>, Untold)> {
        let closing = std::mem::take(&mut self.open).into_values().map(|file| {
            let spec = Arc::clone(&self.spec);
            async move { file.finish(&spec).await }
        });
        // Together: each waits for its store, or for the disk.
        let mut closing = futures::stream::iter(closing.collect::<Vec<_>>()).buffer_unordered(CLOSED_AT_ONCE);
        while let Some((finished, untold)) = closing.try_next().await? {
            self.untold.take_over(untold);
            self.finished.push(finished);
        }
        drop(closing);
        Ok((self.finished, self.untold))
    }
}

impl OpenFile {
    async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.nans.add(rows);
        self.rows += rows.num_rows() as u64;
        self.writer.write(rows).map_err(|e| parquet_error(&self.uri, e))?;
        self.drain().await
    }

    /// Hands the encoded bytes to the upload.
    async fn drain(&mut self) -> Result<()> {
        let bytes = std::mem::take(self.writer.inner_mut());
        if bytes.is_empty() {
            return Ok(());
        }
        self.upload.put(Bytes::from(bytes)).await.map_err(|e| from_object_store(&self.uri, e))
    }

    /// Bytes so far, the open row group as it is estimated.
    fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    fn held(&self) -> usize {
        self.writer.memory_size() + self.upload.buffered()
    }

    async fn finish(mut self, spec: &WriteSpec) -> Result<(Finished, Untold)> {
        let metadata = self.writer.finish().map_err(|e| parquet_error(&self.uri, e))?;
        self.drain().await?;
        let bytes = self.writer.bytes_written() as u64;
        fault::point("write.file");
        let untold = self.upload.finish().await.map_err(|e| from_object_store(&self.uri, e))?;
        fault::point("write.finished");
        let metrics = of_file(&metadata, &spec.schema);
        let mut data_file = DataFileBuilder::default();
        if let Some(id) = spec.sort_order_id {
            data_file.sort_order_id(id);
        }
        let data_file = data_file
            .content(DataContentType::Data)
            .file_path(self.uri.clone())
            .file_format(DataFileFormat::Parquet)
            .partition(self.partition)
            .partition_spec_id(spec.partition_spec.spec_id())
            .record_count(self.rows)
            .file_size_in_bytes(bytes)
            .column_sizes(metrics.sizes)
            .value_counts(metrics.values)
            .null_value_counts(metrics.nulls)
            .nan_value_counts(self.nans.into_inner())
            .lower_bounds(metrics.lower)
            .upper_bounds(metrics.upper)
            .split_offsets(Some(split_offsets(&metadata)))
            .build()
            .map_err(|e| Error::internal(format!("the record of {} is not complete", self.uri)).with_source(e))?;
        Ok((Finished { data_file, rows: self.rows, bytes }, untold))
    }
}

fn parquet_error(uri: &str, error: parquet::errors::ParquetError) -> Error {
    Error::internal(format!("the data file {uri} cannot be encoded")).with_source(error)
}
