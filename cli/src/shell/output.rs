//! Rows as a table, CSV, JSON lines or a Parquet file on standard output.

use std::io::{self, Stdout, Write};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use townlake_common::{Error, ErrorCode, Result};

use super::plain::{csv_lacks, json_lacks, parquet_lacks, plain, plain_schema};
use crate::args::OutputFormat;
use crate::connection::affected_rows;

/// Rows that one printed table shows at most; a longer result goes on in a next table, so that memory stays bounded.
const TABLE_ROWS: usize = 1000;

/// Prints the batches of one result.
pub struct Printer {
    form: Form,
    schema: SchemaRef,
    rows: u64,
    affected: Option<u64>,
}

enum Form {
    Table { pending: Vec<RecordBatch>, pending_rows: usize, printed: bool },
    Csv(Box<arrow::csv::Writer<Pipe>>),
    Json(Box<arrow::json::LineDelimitedWriter<Pipe>>),
    Parquet(Box<ArrowWriter<Pipe>>),
    Nothing,
}

/// Standard output. When its reader is gone (`| head`), the process ends quietly, as other tools do.
struct Pipe(Stdout);

impl Pipe {
    fn ours<T>(outcome: io::Result<T>) -> io::Result<T> {
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            other => other,
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::ours(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::ours(self.0.flush())
    }
}

impl Printer {
    /// A printer for rows of this schema.
    pub fn new(format: OutputFormat, schema: SchemaRef) -> Result<Self> {
        let out = Pipe(io::stdout());
        let form = match format {
            OutputFormat::Table => Form::Table { pending: Vec::new(), pending_rows: 0, printed: false },
            OutputFormat::Csv => Form::Csv(Box::new(arrow::csv::WriterBuilder::new().with_header(true).build(out))),
            // every line has every key: a NULL is written, not left out
            OutputFormat::Json => {
                Form::Json(Box::new(arrow::json::WriterBuilder::new().with_explicit_nulls(true).build(out)))
            }
            OutputFormat::Quiet => Form::Nothing,
            OutputFormat::Parquet => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let schema = plain_schema(&schema, parquet_lacks);
                Form::Parquet(Box::new(ArrowWriter::try_new(out, schema, Some(properties)).map_err(unwritable)?))
            }
        };
        Ok(Self { form, schema, rows: 0, affected: None })
    }

    /// Prints one batch.
    pub fn print(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        self.affected = self.affected.or_else(|| affected_rows(batch));
        match &mut self.form {
            Form::Nothing => Ok(()),
            Form::Csv(writer) => writer.write(&plain(batch, csv_lacks).map_err(unwritable)?).map_err(unwritable),
            Form::Json(writer) => writer.write(&plain(batch, json_lacks).map_err(unwritable)?).map_err(unwritable),
            Form::Parquet(writer) => {
                writer.write(&plain(batch, parquet_lacks).map_err(unwritable)?).map_err(unwritable)
            }
            Form::Table { pending, pending_rows, printed } => {
                let mut offset = 0;
                while offset < batch.num_rows() {
                    let take = (TABLE_ROWS - *pending_rows).min(batch.num_rows() - offset);
                    pending.push(batch.slice(offset, take));
                    *pending_rows += take;
                    offset += take;
                    if *pending_rows == TABLE_ROWS {
                        print_table(&self.schema, pending)?;
                        (*pending_rows, *printed) = (0, true);
                        pending.clear();
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes what is pending; says how much there was.
    pub fn finish(self) -> Result<String> {
        match self.form {
            Form::Table { pending, pending_rows, printed } => {
                if pending_rows > 0 || !printed {
                    print_table(&self.schema, &pending)?;
                }
            }
            Form::Json(mut writer) => writer.finish().map_err(unwritable)?,
            Form::Parquet(writer) => {
                writer.close().map_err(unwritable)?;
            }
            // a result without rows still has its header line
            Form::Csv(mut writer) if self.rows == 0 => {
                let empty = RecordBatch::new_empty(plain_schema(&self.schema, csv_lacks));
                writer.write(&empty).map_err(unwritable)?;
            }
            Form::Csv(_) | Form::Nothing => {}
        }
        Ok(match (self.affected, self.rows) {
            (Some(rows), _) => format!("{rows} rows affected"),
            (None, 1) => "1 row".to_string(),
            (None, rows) => format!("{rows} rows"),
        })
    }
}

fn print_table(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
    let empty = [RecordBatch::new_empty(schema.clone())];
    let batches = if batches.is_empty() { &empty } else { batches };
    let options = FormatOptions::default().with_null("NULL").with_display_error(true);
    let table = pretty_format_batches_with_options(batches, &options).map_err(unwritable)?;
    // data may hold terminal escapes and tabs: shown, not obeyed
    let safe = table.to_string().replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
    writeln!(Pipe(io::stdout()), "{safe}").map_err(unwritable)
}

fn unwritable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorCode::InvalidArgument, format!("the rows cannot be written: {error}")).with_source(error)
}
