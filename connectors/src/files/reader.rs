//! Reads one split into batches of the table's columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::ObjectMeta;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use townlake_common::{Error, ErrorCode, Result};

use super::formats::{Format, csv_columns};
use super::parquet_file::ParquetFile;
use super::recipe::{Recipe, Split};
use super::store::Store;
use crate::scan::ScanMetrics;

const BATCH_ROWS: usize = 8192;
/// The line of names of a CSV file lies in its first bytes.
const HEADER_BYTES: usize = 64 << 10;

/// A split that is being read.
pub(crate) struct SplitReader {
    store: Arc<Store>,
    recipe: Arc<Recipe>,
    split: Split,
    path: Path,
    rows: Rows,
    /// Rows that may still come.
    left: u64,
}

enum Rows {
    Parquet(Box<ParquetRecordBatchStream<ParquetFile>>),
    Lines(Box<Lines>),
}

/// Text that is decoded as it comes.
struct Lines {
    chunks: BoxStream<'static, object_store::Result<Bytes>>,
    chunk: Bytes,
    decoder: Decoder,
    metrics: ScanMetrics,
}

enum Decoder {
    Csv(Box<arrow::csv::reader::Decoder>),
    Json(Box<arrow::json::reader::Decoder>),
}

impl SplitReader {
    /// Begins to read a split.
    ///
    /// Errors: `SOURCE_ERROR` (retryable) for a file that is another one by now; those of the store.
    pub async fn open(store: Arc<Store>, recipe: Arc<Recipe>, split: Split, metrics: &ScanMetrics) -> Result<Self> {
        let path =
            Path::parse(&split.path).map_err(|error| Error::internal("the path of a split").with_source(error))?;
        metrics.splits.add(1);
        let rows = match recipe.format {
            Format::Parquet => {
                is_unchanged(&store, &split, &path).await?;
                Rows::Parquet(Box::new(parquet(&store, &recipe, &split, &path).await?))
            }
            format => {
                let file = store.get(&path).await?;
                is_same(&store, &split, &file.meta)?;
                let chunks = file.into_stream();
                let lines = Lines::of(format, &recipe.schema, chunks, metrics).await;
                Rows::Lines(Box::new(lines.map_err(|error| error.told(&store, &recipe, &path))?))
            }
        };
        let left = recipe.limit.unwrap_or(u64::MAX);
        Ok(Self { store, recipe, split, path, rows, left })
    }

    /// The next batch, and the reader for the one after it; `None` when the split is read to its end.
    pub async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        if self.left == 0 {
            return Ok(None);
        }
        let batch = match &mut self.rows {
            Rows::Parquet(stream) => stream.try_next().await.map_err(Fault::from),
            Rows::Lines(lines) => lines.next().await,
        };
        let batch = match batch {
            Ok(Some(batch)) => batch,
            Ok(None) => {
                // Was it the same file to the end?
                is_unchanged(&self.store, &self.split, &self.path).await?;
                return Ok(None);
            }
            Err(fault) => {
                is_unchanged(&self.store, &self.split, &self.path).await?;
                return Err(fault.told(&self.store, &self.recipe, &self.path));
            }
        };
        let rows = batch.num_rows().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= rows as u64;
        let batch = self.shaped(&batch.slice(0, rows))?;
        Ok(Some((batch, self)))
    }

    /// The batch with the columns of the table: by name, in its types; NULL where the file has none.
    fn shaped(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let column = |field: &Arc<Field>| -> Result<ArrayRef> {
            let Some(column) = batch.column_by_name(field.name()) else {
                return Ok(new_null_array(field.data_type(), batch.num_rows()));
            };
            cast_with_options(column, field.data_type(), &options).map_err(|_| {
                let message = format!(
                    "catalog {}: file {}: column {} holds {}, and a value that is no {} of the table's first file",
                    self.recipe.catalog,
                    self.path,
                    field.name(),
                    column.data_type(),
                    field.data_type()
                );
                Error::new(ErrorCode::DataCorrupt, message).with_hint("give files of other types a folder of their own")
            })
        };
        let columns = self.recipe.schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.recipe.schema), columns, &options)
            .map_err(|error| Error::internal("a batch of a file").with_source(error))
    }
}

/// An error unless the file is what it was when the scan was planned.
async fn is_unchanged(store: &Store, split: &Split, path: &Path) -> Result<()> {
    is_same(store, split, &store.head(path).await?)
}

fn is_same(store: &Store, split: &Split, file: &ObjectMeta) -> Result<()> {
    if split.is_of(file) {
        return Ok(());
    }
    let message = format!("catalog {}: file {} was changed while it was read", store.catalog, file.location);
    Err(Error::new(ErrorCode::SourceError, message).with_hint("run the query again").moment_lost())
}

async fn parquet(
    store: &Store,
    recipe: &Recipe,
    split: &Split,
    path: &Path,
) -> Result<ParquetRecordBatchStream<ParquetFile>> {
    let told = |error: ParquetError| Fault::from(error).told(store, recipe, path);
    let reader = ParquetFile { store: Arc::clone(&store.objects), path: path.clone(), size: split.size };
    let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, ArrowReaderOptions::new()).await;
    let builder = builder.map_err(told)?;
    let wanted = builder.schema().fields().iter().enumerate();
    let wanted = wanted.filter(|(_, field)| recipe.schema.column_with_name(field.name()).is_some());
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.map(|(place, _)| place));
    let groups = builder.metadata().row_groups().iter().enumerate().filter(|(_, group)| {
        let start = group.columns().first().map_or(0, |column| column.byte_range().0);
        let middle = start + u64::try_from(group.compressed_size()).unwrap_or_default() / 2;
        (split.start..split.end).contains(&middle)
    });
    let groups = groups.map(|(place, _)| place).collect();
    let mut builder = builder.with_projection(mask).with_row_groups(groups).with_batch_size(BATCH_ROWS);
    if let Some(limit) = recipe.limit {
        builder = builder.with_limit(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    builder.build().map_err(told)
}

impl Lines {
    async fn of(
        format: Format,
        schema: &SchemaRef,
        mut chunks: BoxStream<'static, object_store::Result<Bytes>>,
        metrics: &ScanMetrics,
    ) -> std::result::Result<Self, Fault> {
        let chunk = chunks.try_next().await?.unwrap_or_default();
        let decoder = match format {
            Format::Csv => {
                let columns = csv_columns(&chunk.slice(..chunk.len().min(HEADER_BYTES)), 0)?;
                let builder = arrow::csv::ReaderBuilder::new(Arc::new(as_in(&columns, schema)));
                let wanted = columns.fields().iter().enumerate();
                let wanted = wanted.filter(|(_, field)| schema.column_with_name(field.name()).is_some());
                let wanted = wanted.map(|(place, _)| place).collect();
                let builder = builder.with_header(true).with_batch_size(BATCH_ROWS).with_projection(wanted);
                Decoder::Csv(Box::new(builder.build_decoder()))
            }
            _ => {
                let builder = arrow::json::ReaderBuilder::new(Arc::clone(schema)).with_batch_size(BATCH_ROWS);
                Decoder::Json(Box::new(builder.build_decoder()?))
            }
        };
        Ok(Self { chunks, chunk, decoder, metrics: metrics.clone() })
    }

    async fn next(&mut self) -> std::result::Result<Option<RecordBatch>, Fault> {
        loop {
            if self.chunk.is_empty() {
                self.chunk = self.chunks.try_next().await?.unwrap_or_default();
                self.metrics.bytes_read.add(self.chunk.len());
            }
            let _timer = self.metrics.baseline.elapsed_compute().timer();
            let decoded = match &mut self.decoder {
                Decoder::Csv(decoder) => decoder.decode(&self.chunk)?,
                Decoder::Json(decoder) => decoder.decode(&self.chunk)?,
            };
            self.chunk.advance(decoded);
            // A batch is full, or there is no more.
            if decoded == 0 {
                break;
            }
        }
        Ok(match &mut self.decoder {
            Decoder::Csv(decoder) => decoder.flush()?,
            Decoder::Json(decoder) => decoder.flush()?,
        })
    }
}

/// The columns of a file in the types of the table; text where the table has no such column.
fn as_in(columns: &Schema, table: &SchemaRef) -> Schema {
    let typed = |field: &Arc<Field>| match table.field_with_name(field.name()) {
        Ok(known) => known.clone(),
        Err(_) => Field::new(field.name(), arrow::datatypes::DataType::Utf8, true),
    };
    Schema::new(columns.fields().iter().map(typed).collect::<Vec<_>>())
}

/// What went wrong in a file.
enum Fault {
    Store(object_store::Error),
    /// Text that does not parse; the parser's words quote values, and are dropped.
    Text,
    Parquet(ParquetError),
}

impl Fault {
    fn told(self, store: &Store, recipe: &Recipe, path: &Path) -> Error {
        let format = recipe.format;
        let message =
            format!("catalog {}: file {path} is no {format} file of the table's columns, or damaged", store.catalog);
        match self {
            Self::Store(error) => store.failed(path, error),
            Self::Parquet(ParquetError::External(error)) => match error.downcast::<object_store::Error>() {
                Ok(error) => store.failed(path, *error),
                Err(error) => Error::new(ErrorCode::DataCorrupt, message).with_source(ParquetError::External(error)),
            },
            Self::Parquet(error) => Error::new(ErrorCode::DataCorrupt, message).with_source(error),
            Self::Text => Error::new(ErrorCode::DataCorrupt, message).with_hint(
                "types are learnt from the first rows of the first file: load the files with `townlake load --types` where they mislead",
            ),
        }
    }
}

impl From<object_store::Error> for Fault {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<ArrowError> for Fault {
    fn from(_error: ArrowError) -> Self {
        Self::Text
    }
}

impl From<ParquetError> for Fault {
    fn from(error: ParquetError) -> Self {
        Self::Parquet(error)
    }
}
