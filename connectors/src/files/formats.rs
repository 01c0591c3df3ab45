//! The formats, and how columns are learnt from a file.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use object_store::ObjectMeta;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::parquet_to_arrow_schema;
use townlake_common::{Error, ErrorCode, Result};
use townlake_proto::files as wire;

use super::parquet_file::ParquetFile;
use super::store::Store;

/// CSV and JSON: columns are learnt from so many bytes, and at most so many rows.
const SAMPLE_BYTES: u64 = 1 << 20;
const SAMPLE_ROWS: usize = 10_000;

/// What the files of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Parquet,
    /// With a line of names.
    Csv,
    /// An object a line.
    Json,
}

impl Format {
    /// The format by a file's ending, and the name without it.
    pub fn of(name: &str) -> Option<(&str, Self)> {
        let (stem, ending) = name.rsplit_once('.')?;
        let format = match ending {
            "parquet" => Self::Parquet,
            "csv" => Self::Csv,
            "json" | "jsonl" | "ndjson" => Self::Json,
            _ => return None,
        };
        Some((stem, format))
    }

    /// The format on the wire.
    pub fn to_wire(self) -> wire::Format {
        match self {
            Self::Parquet => wire::Format::Parquet,
            Self::Csv => wire::Format::Csv,
            Self::Json => wire::Format::Json,
        }
    }

    /// The format that [`Format::to_wire`] wrote.
    pub fn from_wire(format: wire::Format) -> Option<Self> {
        Some(match format {
            wire::Format::Parquet => Self::Parquet,
            wire::Format::Csv => Self::Csv,
            wire::Format::Json => Self::Json,
            wire::Format::Unknown => return None,
        })
    }

    /// The columns of a file.
    ///
    /// Errors: `DATA_CORRUPT` for a file that is none of this format, those of the store.
    pub async fn columns(self, store: &Store, file: &ObjectMeta) -> Result<SchemaRef> {
        let schema = match self {
            Self::Parquet => {
                let (objects, path) = (Arc::clone(&store.objects), file.location.clone());
                let mut reader = ParquetFile { store: objects, path, size: file.size };
                let metadata = reader.get_metadata(None).await.map_err(|error| corrupt(store, file, error))?;
                let metadata = metadata.file_metadata();
                let schema = parquet_to_arrow_schema(metadata.schema_descr(), metadata.key_value_metadata());
                schema.map_err(|error| corrupt(store, file, error))?
            }
            Self::Csv => {
                csv_columns(&sample(store, file).await?, SAMPLE_ROWS).map_err(|_| unlike(store, file, self))?
            }
            Self::Json => {
                let sample = sample(store, file).await?;
                let learnt = arrow::json::reader::infer_json_schema(sample.as_ref(), Some(SAMPLE_ROWS));
                learnt.map_err(|_| unlike(store, file, self))?.0
            }
        };
        let plain = |field: &Arc<Field>| Field::new(field.name(), plain(field.data_type()), true);
        let fields: Vec<_> = schema.fields().iter().map(plain).collect();
        if let Some(twice) =
            fields.iter().enumerate().find(|(n, field)| fields[..*n].iter().any(|f| f.name() == field.name()))
        {
            let message = format!("{}: column {} is there twice", name(store, file), twice.1.name());
            return Err(Error::new(ErrorCode::FormatNotSupported, message));
        }
        Ok(Arc::new(Schema::new(fields)))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parquet => "Parquet",
            Self::Csv => "CSV",
            Self::Json => "JSON",
        })
    }
}

/// The names of a CSV file's columns, and types that its first rows have.
pub(crate) fn csv_columns(sample: &Bytes, rows: usize) -> std::result::Result<Schema, ArrowError> {
    Ok(arrow::csv::reader::Format::default().with_header(true).infer_schema(sample.as_ref(), Some(rows))?.0)
}

/// The beginning of a file, up to the end of a line.
async fn sample(store: &Store, file: &ObjectMeta) -> Result<Bytes> {
    let bytes = store.first_bytes(file, SAMPLE_BYTES).await?;
    if bytes.len() as u64 == file.size {
        return Ok(bytes);
    }
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => Ok(bytes.slice(..=end)),
        None => Err(Error::new(
            ErrorCode::FormatNotSupported,
            format!("{}: its first line is longer than 1 MiB", name(store, file)),
        )),
    }
}

/// Without dictionaries and without a second kind of text: types that every file of the table can be given in.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain(values),
        DataType::RunEndEncoded(_, values) => plain(values.data_type()),
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        // a column of which the sample holds no value
        DataType::Null => DataType::Utf8,
        other => other.clone(),
    }
}

/// A file in an error.
pub(crate) fn name(store: &Store, file: &ObjectMeta) -> String {
    format!("catalog {}: file {}", store.catalog, file.location)
}

fn corrupt(store: &Store, file: &ObjectMeta, error: parquet::errors::ParquetError) -> Error {
    Error::new(ErrorCode::DataCorrupt, format!("{} is no Parquet file, or cut short", name(store, file)))
        .with_source(error)
}

/// Without the parser's own words: they quote values.
fn unlike(store: &Store, file: &ObjectMeta, format: Format) -> Error {
    Error::new(
        ErrorCode::DataCorrupt,
        format!("{} is no {format} file: its first rows do not parse", name(store, file)),
    )
}
