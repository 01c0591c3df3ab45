//! Where each row lies: the number of its data file in the plan, and its position in that file.
//!
//! Statements that change rows read both beside the table's columns. The number is a constant of each file; the position
//! is counted by the Parquet reader, so filters, pruning and deletes are what they are for every other scan.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion_datasource::TableSchema;
use iceberg::metadata_columns::RESERVED_FIELD_ID_FILE;
use parquet::arrow::{PARQUET_FIELD_ID_META_KEY, RowNumber};

/// The column with the number of the data file, as it stands in [`crate::FilePlan::files`].
pub const FILE: &str = "$file";
/// The column with the position of the row in its file, from 0.
pub const POSITION: &str = "$position";

/// Both columns, in this order.
pub(crate) fn fields() -> [FieldRef; 2] {
    let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_string(), RESERVED_FIELD_ID_FILE.to_string())]);
    let file = Field::new(FILE, DataType::Int64, false).with_metadata(id);
    [Arc::new(file), Arc::new(Field::new(POSITION, DataType::Int64, false).with_extension_type(RowNumber))]
}

/// These columns, with that of the file behind them.
pub(super) fn with_file(columns: &Schema) -> SchemaRef {
    let [file, _] = fields();
    Arc::new(Schema::new(columns.fields().iter().cloned().chain([file]).collect::<Vec<_>>()))
}

/// The schema of a scan that counts rows, behind its columns.
pub(crate) fn with_position(columns: SchemaRef) -> TableSchema {
    let [_, position] = fields();
    TableSchema::builder(columns).with_virtual_columns(vec![position]).build()
}

/// What the column of the file reads as in this one.
pub(super) fn constant(number: usize) -> (i32, ScalarValue) {
    (RESERVED_FIELD_ID_FILE, ScalarValue::Int64(i64::try_from(number).ok()))
}
