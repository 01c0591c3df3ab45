//! Where text does not hold what it should: its line and column, never the value.

use std::fmt;

use arrow::datatypes::DataType;

/// One row of text is of more bytes: a quote that nobody closed.
pub(super) const LONGEST_ROW: usize = 64 << 20;
/// A batch is full with so many bytes of text, however few rows they are.
pub(super) const BATCH_BYTES: usize = 16 << 20;

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// From 1 on; that in which the row ends.
    pub line: u64,
    pub column: Option<String>,
    pub what: String,
}

impl Misfit {
    /// A value that is none of the column's type.
    pub fn value(line: u64, column: &str, data_type: &DataType) -> Self {
        Self { line, column: Some(column.to_string()), what: format!("no {}", type_name(data_type)) }
    }

    /// A row that is none.
    pub fn row(line: u64, what: impl Into<String>) -> Self {
        Self { line, column: None, what: what.into() }
    }

    /// A row of more bytes than are taken.
    pub fn too_long(line: u64) -> Self {
        Self::row(line, format!("a row of more than {} MiB", LONGEST_ROW >> 20))
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(column) = &self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// The type's name in SQL.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_string(),
        DataType::Int64 => "bigint".to_string(),
        DataType::Float64 => "double that keeps its digits".to_string(),
        DataType::Date32 => "date".to_string(),
        DataType::Timestamp(unit, zone) => {
            let digits = super::csv_values::digits(*unit);
            let zone = if zone.is_some() { "with" } else { "without" };
            format!("timestamp({digits}) {zone} time zone")
        }
        DataType::Utf8 => "text".to_string(),
        DataType::List(_) => "array".to_string(),
        DataType::Struct(_) => "object".to_string(),
        other => other.to_string(),
    }
}
