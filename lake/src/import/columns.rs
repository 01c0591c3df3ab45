//! The columns of files that make one table, and whether those of files fit a table that is there.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use chrono::NaiveDate;
use townlake_common::{Error, ErrorCode, Result};

use super::folder::{Folder, ParquetFile};
use crate::scan::conform::is_readable_as;
use crate::{LoadedTable, schema};

/// The columns of the table that these files make: those of all files, by name, each in the widest of its types, and those of
/// the partitions. All may be NULL.
///
/// Errors: `NOT_SUPPORTED` naming the files and the column whose types have nothing in common, or whose type Iceberg has not.
pub(super) fn columns_of(folder: &Folder) -> Result<Vec<FieldRef>> {
    let mut columns: Vec<(FieldRef, &ParquetFile)> = Vec::new();
    for file in &folder.files {
        let of_file: Vec<FieldRef> = file.columns.fields().iter().map(nullable).collect();
        let of_file = in_lake_types(&of_file).map_err(|error| in_file(file, error))?;
        for field in of_file {
            match columns.iter_mut().find(|(known, _)| known.name() == field.name()) {
                None => columns.push((field, file)),
                Some((known, first)) => match wider(known, &field) {
                    Some(wider) => *known = wider,
                    None => {
                        let (of, other) = (known.data_type(), field.data_type());
                        let (first, second, name) = (&first.uri, &file.uri, field.name());
                        let message = format!("column {name} is {of} in {first} and {other} in {second}");
                        return Err(Error::new(ErrorCode::NotSupported, message));
                    }
                },
            }
        }
    }
    let mut columns: Vec<FieldRef> = columns.into_iter().map(|(field, _)| field).collect();
    for (number, name) in folder.partition_columns()?.into_iter().enumerate() {
        if columns.iter().any(|column| *column.name() == name) {
            continue; // the files have it too
        }
        let values = folder.files.iter().filter_map(|file| file.partition.get(number)?.1.as_deref());
        columns.push(Arc::new(Field::new(name, type_of(values), true)));
    }
    Ok(columns)
}

fn nullable(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_nullable(true))
}

/// The columns in the types that a table of them has.
fn in_lake_types(columns: &[FieldRef]) -> Result<Vec<FieldRef>> {
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    let arrow = schema::to_arrow(&schema::from_arrow(columns)?)?;
    Ok(arrow.fields().iter().map(|field| without_ids(field)).collect())
}

fn without_ids(field: &Field) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| without_ids(field)).collect()),
        DataType::List(element) => DataType::List(without_ids(element)),
        DataType::Map(entries, sorted) => DataType::Map(without_ids(entries), *sorted),
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()))
}

fn wider(a: &FieldRef, b: &FieldRef) -> Option<FieldRef> {
    let (of_a, of_b) = (a.data_type(), b.data_type());
    // Text and bytes are read as each other, but no table would want that of the other's.
    let widens = |from: &DataType, to: &DataType| from == to || (from.is_numeric() && is_readable_as(from, to));
    if widens(of_b, of_a) {
        return Some(Arc::clone(a));
    }
    widens(of_a, of_b).then(|| Arc::clone(b))
}

/// What all values of a partition are: whole numbers, days, or texts.
fn type_of<'a>(values: impl Iterator<Item = &'a str> + Clone) -> DataType {
    let all = |is: fn(&str) -> bool| values.clone().next().is_some() && values.clone().all(is);
    // A number that is written otherwise than numbers are (007) is a text.
    if all(|value| value.parse::<i64>().is_ok_and(|number| number.to_string() == value)) {
        return DataType::Int64;
    }
    if all(|value| value.len() == 10 && value.parse::<NaiveDate>().is_ok()) {
        return DataType::Date32;
    }
    DataType::Utf8View
}

/// Checks that each column of each file is one of the table, in a type that can be read as the table's, and that none is
/// missing which may not be NULL.
///
/// Errors: `NOT_SUPPORTED` naming the file and the column.
pub(super) fn check_columns(table: &LoadedTable, folder: &Folder) -> Result<()> {
    let refuse = |file: &ParquetFile, what: String| {
        let message = format!("{} does not fit table {}: {what}", file.uri, table.full_name());
        Err(Error::new(ErrorCode::NotSupported, message))
    };
    for file in &folder.files {
        let of_file: Vec<FieldRef> = file.columns.fields().iter().map(nullable).collect();
        let of_file = in_lake_types(&of_file).map_err(|error| in_file(file, error))?;
        for field in &of_file {
            let Ok(column) = table.arrow_schema.field_with_name(field.name()) else {
                return refuse(file, format!("the table has no column {}", field.name()));
            };
            let (from, to) = (field.data_type(), without_ids(column));
            let fits = if from.is_nested() { same(from, to.data_type()) } else { is_readable_as(from, to.data_type()) };
            if !fits {
                return refuse(file, format!("column {} is {from} there and {} here", field.name(), to.data_type()));
            }
        }
        let has = |name: &str| {
            of_file.iter().any(|field| field.name() == name) || file.partition.iter().any(|(column, _)| column == name)
        };
        if let Some(missing) = table.arrow_schema.fields().iter().find(|f| !f.is_nullable() && !has(f.name())) {
            return refuse(file, format!("it has no column {}, which must have a value", missing.name()));
        }
    }
    Ok(())
}

/// Whether nested types are the same but for what may be NULL.
fn same(a: &DataType, b: &DataType) -> bool {
    let field = |a: &FieldRef, b: &FieldRef| a.name() == b.name() && same(a.data_type(), b.data_type());
    match (a, b) {
        (DataType::Struct(a), DataType::Struct(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| field(a, b)),
        (DataType::List(a), DataType::List(b)) | (DataType::Map(a, _), DataType::Map(b, _)) => field(a, b),
        (a, b) => a == b,
    }
}

fn in_file(file: &ParquetFile, error: Error) -> Error {
    Error::new(error.code(), format!("{}: {}", file.uri, error.message())).with_source(error)
}
