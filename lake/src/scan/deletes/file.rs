//! Reading the columns of a Parquet delete file, with errors that name the file.

use std::error::Error as _;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_datasource::PartitionedFile;
use datafusion_datasource_parquet::ParquetFileReaderFactory;
use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use townlake_common::{Error, ErrorCode, Result};
use townlake_proto::lake::DeleteFile;

use crate::objects::from_object_store;
use crate::scan::reader::Readers;
use crate::scan::unchanging;

/// What is known of a delete file.
pub(super) struct File {
    uri: String,
    pub(super) sequence_number: i64,
}

/// A delete file of which nothing is read yet.
pub(super) struct Source {
    pub(super) file: Arc<File>,
    reader: Box<dyn AsyncFileReader>,
}

impl Source {
    /// Makes a reader of the file.
    pub(super) fn open(readers: &Readers, file: &DeleteFile) -> Result<Self> {
        let failed = || Error::internal(format!("there is no reader for the delete file {}", file.uri));
        let location = Path::parse(&file.path).map_err(|e| failed().with_source(e))?;
        let opened = PartitionedFile::new_from_meta(unchanging(location, file.size));
        // The counters of the scan are of its data files.
        let reader = readers.create_reader(0, opened, None, &ExecutionPlanMetricsSet::new());
        let reader = reader.map_err(|e| failed().with_source(e))?;
        let file = File { uri: file.uri.clone(), sequence_number: file.sequence_number };
        Ok(Self { file: Arc::new(file), reader })
    }

    /// The columns that `pick` names of the file's fields, in its order, as batches of the file's types. Or `pick` says what
    /// is wrong with the fields.
    ///
    /// Errors: `FILE_NOT_FOUND`, `DATA_CORRUPT`, those of the object store.
    pub(super) async fn columns(
        self,
        pick: impl FnOnce(&Schema) -> std::result::Result<Vec<usize>, String>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let Self { file, reader } = self;
        let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(|error| failed(&file.uri, error))?;
        let picked = pick(builder.schema()).map_err(|what| file.damaged(&what))?;
        let mask = ProjectionMask::roots(builder.parquet_schema(), picked.iter().copied());
        let stream = builder.with_projection(mask).build().map_err(|error| failed(&file.uri, error))?;
        // The reader gives columns in the order of the file.
        let mut order = picked.clone();
        order.sort_unstable();
        order.dedup();
        let places: Vec<usize> = picked.iter().filter_map(|index| order.binary_search(index).ok()).collect();
        let project = move |batch: Result<RecordBatch, ParquetError>| {
            let batch = batch.map_err(|error| failed(&file.uri, error))?;
            batch.project(&places).map_err(|error| file.damaged("has not the columns that it says").with_source(error))
        };
        Ok(stream.map(project).boxed())
    }
}

impl File {
    /// The file is not what a delete file must be.
    pub(super) fn damaged(&self, what: &str) -> Error {
        damaged(&self.uri, what)
    }
}

/// The delete file is not what it must be.
pub(super) fn damaged(uri: &str, what: &str) -> Error {
    Error::new(ErrorCode::DataCorrupt, format!("the delete file {uri} {what}"))
}

/// The typed error of a reader, which hides that of the object store in one of its own.
fn failed(uri: &str, error: ParquetError) -> Error {
    let ParquetError::External(inner) = error else {
        return damaged(uri, "cannot be decoded").with_source(error);
    };
    match inner.downcast::<object_store::Error>() {
        Ok(error) => unreachable(uri, *error),
        Err(inner) => damaged(uri, &format!("cannot be read: {inner}")),
    }
}

/// The typed error of an object store.
pub(super) fn unreachable(uri: &str, error: object_store::Error) -> Error {
    let own = error.source().and_then(|source| source.downcast_ref::<Error>());
    match own.map(Error::code) {
        // What the store found out by itself: that the file is cut short.
        Some(ErrorCode::DataCorrupt) => damaged(uri, "is cut short").with_source(error),
        _ => from_object_store(uri, error),
    }
}
