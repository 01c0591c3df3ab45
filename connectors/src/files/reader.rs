//! Reads one split into batches of the table's columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, SchemaRef};
use bytes::{Buf, Bytes};
use futures::stream::{BoxStream, Fuse};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use townlake_common::{Error, ErrorCode, Result};

use super::csv_rows::{CsvBatch, CsvRows};
use super::csv_values::parsed;
use super::formats::Format;
use super::json_rows::JsonRows;
use super::misfit::Misfit;
use super::parquet_file::ParquetFile;
use super::recipe::{Recipe, Split};
use super::store::Store;
use crate::scan::ScanMetrics;

const BATCH_ROWS: usize = 8192;

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
    chunks: Fuse<BoxStream<'static, object_store::Result<Bytes>>>,
    chunk: Bytes,
    decoder: Decoder,
    metrics: ScanMetrics,
}

enum Decoder {
    Csv(Box<CsvRows>, SchemaRef),
    Json(Box<JsonRows>),
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
                Rows::Lines(Box::new(Lines::of(format, &recipe.schema, chunks, metrics)?))
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
    fn of(
        format: Format,
        schema: &SchemaRef,
        chunks: BoxStream<'static, object_store::Result<Bytes>>,
        metrics: &ScanMetrics,
    ) -> Result<Self> {
        let decoder = match format {
            Format::Csv => {
                let wanted = schema.fields().iter().map(|field| field.name().clone()).collect();
                Decoder::Csv(Box::new(CsvRows::new(Some(wanted), BATCH_ROWS)), Arc::clone(schema))
            }
            _ => Decoder::Json(Box::new(JsonRows::new(Arc::clone(schema), BATCH_ROWS)?)),
        };
        Ok(Self { chunks: chunks.fuse(), chunk: Bytes::new(), decoder, metrics: metrics.clone() })
    }

    async fn next(&mut self) -> std::result::Result<Option<RecordBatch>, Fault> {
        loop {
            while self.chunk.is_empty() {
                let Some(chunk) = self.chunks.try_next().await? else { break };
                self.metrics.bytes_read.add(chunk.len());
                self.chunk = chunk;
            }
            let _timer = self.metrics.baseline.elapsed_compute().timer();
            let decoded = match &mut self.decoder {
                Decoder::Csv(rows, _) => rows.decode(&self.chunk)?,
                Decoder::Json(rows) => rows.decode(&self.chunk)?,
            };
            self.chunk.advance(decoded);
            // A batch is full, or there is no more.
            if decoded == 0 {
                break;
            }
        }
        Ok(match &mut self.decoder {
            Decoder::Csv(rows, schema) => rows.flush().map(|batch| typed(&batch, schema)).transpose()?,
            Decoder::Json(rows) => rows.flush()?,
        })
    }
}

/// The rows in the types of the table.
fn typed(batch: &CsvBatch, schema: &SchemaRef) -> std::result::Result<RecordBatch, Misfit> {
    let (rows, first) = (batch.lines.len(), batch.lines.first().copied().unwrap_or_default());
    let column = |field: &Arc<Field>| -> std::result::Result<ArrayRef, Misfit> {
        let Some((_, values)) = batch.columns.iter().find(|(name, _)| name == field.name()) else {
            return Ok(new_null_array(field.data_type(), rows));
        };
        let line = |row: usize| batch.lines.get(row).copied().unwrap_or_default();
        parsed(values, field.data_type()).map_err(|row| Misfit::value(line(row), field.name(), field.data_type()))
    };
    let columns = schema.fields().iter().map(column).collect::<std::result::Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options);
    batch.map_err(|_| Misfit::row(first, "no row of the table"))
}

/// What went wrong in a file.
enum Fault {
    Store(object_store::Error),
    Text(Misfit),
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
            Self::Text(misfit) => Error::new(
                ErrorCode::DataCorrupt,
                format!("catalog {}: file {path} is no {format} file of the table's columns: {misfit}", store.catalog),
            )
            .with_hint(
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

impl From<Misfit> for Fault {
    fn from(misfit: Misfit) -> Self {
        Self::Text(misfit)
    }
}

impl From<ParquetError> for Fault {
    fn from(error: ParquetError) -> Self {
        Self::Parquet(error)
    }
}
