//! The formats, and how columns are learnt from a file.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use object_store::ObjectMeta;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::parquet_to_arrow_schema;
use townlake_common::{Error, ErrorCode, Result};
use townlake_proto::files as wire;

use super::csv_rows::CsvRows;
use super::csv_values::type_of;
use super::json_types;
use super::misfit::Misfit;
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
                let sample = sample(store, file).await?;
                let learnt = csv_columns(&sample, sample.len() as u64 == file.size);
                learnt.map_err(|misfit| unlike(store, file, self, &misfit))?
            }
            Self::Json => {
                let learnt = json_types::columns(&sample(store, file).await?, SAMPLE_ROWS);
                learnt.map_err(|misfit| unlike(store, file, self, &misfit))?
            }
        };
        let plain = |field: &Arc<Field>| Field::new(field.name(), plain(field.data_type()), true);
        let fields: Vec<_> = schema.fields().iter().map(plain).collect();
        if let Some(twice) = twice(fields.iter().map(|field| field.name().as_str())) {
            let message = format!("{}: column {twice} is there twice", name(store, file));
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

/// The names of a CSV file's columns, and types that its first rows have. What is not the whole file may end within a row.
fn csv_columns(sample: &[u8], is_whole: bool) -> std::result::Result<Schema, Misfit> {
    let mut rows = CsvRows::new(None, SAMPLE_ROWS);
    let mut left = sample;
    while is_whole || !left.is_empty() {
        let taken = rows.decode(left)?;
        left = &left[taken..];
        if taken == 0 {
            break;
        }
    }
    let fields: Vec<_> = match rows.flush() {
        Some(batch) => batch.columns.iter().map(|(name, values)| Field::new(name, type_of(values), true)).collect(),
        None => rows.names().unwrap_or_default().iter().map(|name| Field::new(name, DataType::Utf8, true)).collect(),
    };
    Ok(Schema::new(fields))
}

/// A name that is there twice.
pub(crate) fn twice<'n>(names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
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

fn unlike(store: &Store, file: &ObjectMeta, format: Format, misfit: &Misfit) -> Error {
    Error::new(ErrorCode::DataCorrupt, format!("{} is no {format} file: {misfit}", name(store, file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_may_end_within_quotes() {
        let text = b"a,b\n1,x\n2,\"y\n";
        let learnt = csv_columns(text, false).unwrap();
        assert_eq!(learnt.field(0).data_type(), &DataType::Int64);
        assert_eq!(csv_columns(b"a,b\n1,x\n2", true).unwrap_err().line, 3);
        assert_eq!(csv_columns(b"a,b\n", true).unwrap().fields().len(), 2);
    }
}
