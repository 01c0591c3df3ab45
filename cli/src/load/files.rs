//! The rows of files, as a stream.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format as CsvFormat;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, ParquetReadOptions, SessionContext};
use futures::{StreamExt, TryStreamExt};
use townlake_common::{Error, ErrorCode, Result};
use url::Url;

use super::types::{Format, Known, is_code, merged};
use crate::args::FileType;
use crate::connection::Rows;

const TEXT_HINT: &str = "--types column=varchar reads a column as text";

/// Records of each CSV file that its types are inferred from.
const SAMPLE: usize = 1000;

/// Files to read, all of one type.
#[derive(Debug)]
pub struct Files {
    /// As the user names them.
    names: Vec<String>,
    paths: Vec<PathBuf>,
    /// The same as URLs: a path would have its `*` and `[` taken for a pattern.
    urls: Vec<String>,
    file_type: FileType,
    csv: CsvLook,
}

/// What CSV files look like.
#[derive(Debug, Clone, Copy)]
pub struct CsvLook {
    /// Between two values.
    pub delimiter: u8,
    /// Whether the first line has the names of the columns; else they are `column_1` and so on.
    pub has_header: bool,
}

impl Files {
    /// Files that are there. Their type is told by their names unless it is given.
    ///
    /// Errors: `INVALID_ARGUMENT` for what is not a file, or not of one type.
    pub fn new(sources: &[String], file_type: Option<FileType>, csv: CsvLook) -> Result<Self> {
        let mut urls = Vec::with_capacity(sources.len());
        let (mut paths, mut types) = (Vec::with_capacity(sources.len()), Vec::with_capacity(sources.len()));
        for source in sources {
            let missing = || Error::new(ErrorCode::InvalidArgument, format!("there is no file {source}"));
            let path = std::path::absolute(source).map_err(|_| missing())?;
            if !path.is_file() {
                return Err(missing());
            }
            urls.push(Url::from_file_path(&path).map_err(|()| missing())?.to_string());
            paths.push(path);
            types.push(file_type.map_or_else(|| type_of(source), Ok)?);
        }
        let several = || {
            Error::new(ErrorCode::InvalidArgument, "the files are of several types")
                .with_hint("load each type by itself")
        };
        let first = *types.first().ok_or_else(several)?;
        if types.iter().any(|other| *other != first) {
            return Err(several());
        }
        Ok(Self { names: sources.to_vec(), paths, urls, file_type: first, csv })
    }

    /// What to call them.
    pub fn label(&self) -> String {
        match self.names.as_slice() {
            [one] => one.clone(),
            many => format!("{} files", many.len()),
        }
    }

    /// The rows of all of them. CSV is read in the types that are `known`, else in those of its first records; JSON is looked
    /// through whole for its fields and their types first.
    ///
    /// Errors: `DATA_CORRUPT` naming the file; the stream has them too.
    pub async fn rows(&self, known: &Known) -> Result<Rows> {
        let context = SessionContext::new();
        let urls = self.urls.clone();
        // any ending will do: the type is known already
        let frame = match self.file_type {
            FileType::Parquet if known.is_said() => {
                return Err(Error::new(ErrorCode::InvalidArgument, "Parquet files have types of their own")
                    .with_hint("--types is for CSV and JSON"));
            }
            FileType::Parquet => context.read_parquet(urls, ParquetReadOptions::new().file_extension("")).await,
            FileType::Csv => {
                let schema = known.apply(&self.csv_schema()?, Format::Csv)?;
                context.read_csv(urls, self.csv_options().schema(&schema)).await
            }
            FileType::Json => {
                let mut options = JsonReadOptions::default().file_extension("");
                // a field that only a late record has would be dropped without a word
                options.schema_infer_max_records = usize::MAX;
                let looked = context.read_json(urls.clone(), options).await.map_err(|error| self.broken(&error))?;
                let schema = known.apply(looked.schema().as_arrow(), Format::Json)?;
                let mut options = JsonReadOptions::default().file_extension("");
                options.schema = Some(&schema);
                context.read_json(urls, options).await
            }
        };
        let stream = match frame {
            Ok(frame) => frame.execute_stream().await.map_err(|error| self.broken(&error))?,
            Err(error) => return Err(self.broken(&error)),
        };
        let (names, file_type) = (self.names.join(", "), self.file_type);
        let schema = stream.schema();
        let batches = stream.map_err(move |error| broken(&names, file_type, &error));
        Ok(Rows { schema, batches: batches.boxed() })
    }

    fn csv_options(&self) -> CsvReadOptions<'_> {
        CsvReadOptions::new()
            .file_extension("")
            .delimiter(self.csv.delimiter)
            .has_header(self.csv.has_header)
            .newlines_in_values(true)
    }

    /// The columns of the CSV files, which have the same in the same order: values go by their place in the line.
    fn csv_schema(&self) -> Result<Schema> {
        let mut whole: Option<Vec<(String, DataType)>> = None;
        for (name, path) in self.names.iter().zip(&self.paths) {
            let looked = look(path, self.csv).map_err(|error| {
                Error::new(ErrorCode::DataCorrupt, format!("{name} cannot be read: {error}")).with_hint(TEXT_HINT)
            })?;
            let Some(whole) = &mut whole else {
                whole = Some(looked);
                continue;
            };
            if !whole.iter().map(|(column, _)| column).eq(looked.iter().map(|(column, _)| column)) {
                let message = format!("{name} does not have the columns of {}", self.names.first().unwrap_or(name));
                return Err(Error::new(ErrorCode::InvalidArgument, message)
                    .with_hint("load files with other columns, or another order of them, by themselves"));
            }
            for ((_, one), (_, other)) in whole.iter_mut().zip(looked) {
                *one = merged(one, &other);
            }
        }
        let fields = whole.unwrap_or_default().into_iter().map(|(column, data_type)| match data_type {
            // nothing but empty values so far: whatever comes is a text
            DataType::Null => Field::new(column, DataType::Utf8, true),
            data_type => Field::new(column, data_type, true),
        });
        Ok(Schema::new(fields.collect::<Vec<_>>()))
    }

    fn broken(&self, error: &DataFusionError) -> Error {
        broken(&self.names.join(", "), self.file_type, error)
    }
}

fn broken(names: &str, file_type: FileType, error: &DataFusionError) -> Error {
    let cause = error.find_root().strip_backtrace().replace('\n', " ");
    let error = Error::new(ErrorCode::DataCorrupt, format!("{names} cannot be read: {cause}"));
    match file_type {
        FileType::Parquet => error,
        FileType::Csv | FileType::Json => error.with_hint(TEXT_HINT),
    }
}

/// The columns that the first records of a CSV file seem to have; those with codes (`007`) among their numbers are text.
///
/// (DataFusion's own look cuts the file at line breaks first, also at those inside of quotes.)
fn look(path: &Path, look: CsvLook) -> Result<Vec<(String, DataType)>, ArrowError> {
    let CsvLook { delimiter, has_header } = look;
    let format = CsvFormat::default().with_delimiter(delimiter).with_header(has_header);
    let (inferred, _) = format.infer_schema(File::open(path)?, Some(SAMPLE))?;
    let mut columns: Vec<(String, DataType)> =
        inferred.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
    if !columns.iter().any(|(_, data_type)| data_type.is_numeric()) {
        return Ok(columns);
    }
    let texts: Vec<Field> = columns.iter().map(|(name, _)| Field::new(name, DataType::Utf8, true)).collect();
    let reader = ReaderBuilder::new(Arc::new(Schema::new(texts))).with_delimiter(delimiter).with_header(has_header);
    let Some(sample) = reader.with_batch_size(SAMPLE).build(File::open(path)?)?.next().transpose()? else {
        return Ok(columns);
    };
    for ((_, data_type), values) in columns.iter_mut().zip(sample.columns()) {
        if data_type.is_numeric() && values.as_string::<i32>().iter().flatten().any(is_code) {
            *data_type = DataType::Utf8;
        }
    }
    Ok(columns)
}

fn type_of(path: &str) -> Result<FileType> {
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_lowercase().as_str() {
        "parquet" | "pq" => Ok(FileType::Parquet),
        "csv" => Ok(FileType::Csv),
        "json" | "jsonl" | "ndjson" => Ok(FileType::Json),
        _ => Err(Error::new(ErrorCode::InvalidArgument, format!("the type of {path} is not told by its name"))
            .with_hint("add --file-type parquet, csv or json")),
    }
}
