//! From Arrow batches to the text of a test file.

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};
use sqllogictest::{ColumnType, DBOutput};

/// The type of a column, as one letter of `query IRT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `I`: integers of all widths.
    Integer,
    /// `R`: floats and decimals.
    Real,
    /// `T`: text.
    Text,
    /// `B`: booleans.
    Boolean,
    /// `D`: dates, times, intervals.
    Date,
    /// `P`: points in time.
    Timestamp,
    /// `?`: everything else.
    Other,
}

impl ColumnType for Kind {
    fn from_char(letter: char) -> Option<Self> {
        Some(match letter {
            'I' => Self::Integer,
            'R' => Self::Real,
            'T' => Self::Text,
            'B' => Self::Boolean,
            'D' => Self::Date,
            'P' => Self::Timestamp,
            '?' => Self::Other,
            _ => return None,
        })
    }

    fn to_char(&self) -> char {
        match self {
            Self::Integer => 'I',
            Self::Real => 'R',
            Self::Text => 'T',
            Self::Boolean => 'B',
            Self::Date => 'D',
            Self::Timestamp => 'P',
            Self::Other => '?',
        }
    }
}

fn kind(data_type: &DataType) -> Kind {
    match data_type {
        data_type if data_type.is_integer() => Kind::Integer,
        data_type if data_type.is_floating() => Kind::Real,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            Kind::Real
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
        DataType::Boolean => Kind::Boolean,
        DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) | DataType::Interval(_) => {
            Kind::Date
        }
        DataType::Timestamp(..) => Kind::Timestamp,
        _ => Kind::Other,
    }
}

/// What a test file shows of a result.
pub fn output(schema: &SchemaRef, batches: &[RecordBatch]) -> DBOutput<Kind> {
    if schema.fields().is_empty() {
        return DBOutput::StatementComplete(0);
    }
    let types = schema.fields().iter().map(|field| kind(field.data_type())).collect();
    DBOutput::Rows { types, rows: batches.iter().flat_map(rows).collect() }
}

fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL").with_duration_format(DurationFormat::Pretty);
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| (column.as_ref(), ArrayFormatter::try_new(column, &options).expect("a column that can be shown")))
        .collect();
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|(column, formatter)| cell(*column, formatter, row)).collect())
        .collect()
}

fn cell(column: &dyn Array, formatter: &ArrayFormatter<'_>, row: usize) -> String {
    let text = formatter.value(row).to_string();
    match column.data_type() {
        _ if column.is_null(row) => text,
        // Sums of floats depend on the order of their parts in the last digits.
        DataType::Float32 => text.parse::<f32>().map_or(text, |number| significant(number.into(), 6)),
        DataType::Float64 => text.parse::<f64>().map_or(text, |number| significant(number, 12)),
        _ if text.is_empty() => "(empty)".to_string(),
        // what an editor would take away, or a test file would take for its own
        _ if text.trim() != text => format!("{text:?}"),
        _ => text.replace('\n', "\\n"),
    }
}

/// A number rounded to so many significant digits; very large and very small ones with an exponent.
fn significant(number: f64, digits: usize) -> String {
    let rounded = format!("{number:.*e}", digits - 1).parse::<f64>().unwrap_or(number);
    match rounded.abs() {
        size if !size.is_finite() => number.to_string(),
        size if size != 0.0 && !(1e-6..1e16).contains(&size) => format!("{rounded:e}"),
        _ => rounded.to_string(),
    }
}
