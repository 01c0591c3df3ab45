//! The columns that a statement assigns to.

use std::collections::HashMap;

use datafusion::arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast::{Assignment, AssignmentTarget, Expr, ObjectName};
use townlake_common::{Error, ErrorCode, Result, nearest};

use crate::query::parse::name_of;

/// A table that is assigned to, as a statement sees it.
pub(super) struct Columns<'a> {
    /// For messages.
    pub table: String,
    /// The name that the statement gives it.
    pub alias: &'a str,
    pub schema: &'a Schema,
}

impl Columns<'_> {
    /// What is assigned to each column.
    ///
    /// Errors: `COLUMN_NOT_FOUND` with the nearest; `INVALID_QUERY` for a column that is assigned to twice; `NOT_SUPPORTED`
    /// for a field in a column and for several columns at once.
    pub fn assigned<'e>(&self, assignments: &'e [Assignment]) -> Result<HashMap<String, &'e Expr>> {
        let mut values = HashMap::new();
        for assignment in assignments {
            let AssignmentTarget::ColumnName(name) = &assignment.target else {
                let message = "SET (a, b) = (…) is not supported";
                return Err(Error::new(ErrorCode::NotSupported, message).with_hint("assign to each column by itself"));
            };
            let column = self.column(name)?;
            if values.insert(column.clone(), &assignment.value).is_some() {
                return Err(self.twice(&column));
            }
        }
        Ok(values)
    }

    /// The values of an INSERT by column; `names` may be empty: all columns in their order.
    ///
    /// Errors: as [`Columns::assigned`]; `INVALID_QUERY` for another number of values than columns.
    pub fn inserted<'e>(&self, names: &[ObjectName], row: &'e [Expr]) -> Result<HashMap<String, &'e Expr>> {
        let columns: Vec<String> = match names {
            [] => self.schema.fields().iter().map(|field| field.name().clone()).collect(),
            names => names.iter().map(|name| self.column(name)).collect::<Result<_>>()?,
        };
        if columns.len() != row.len() {
            let message = format!("INSERT gives {} values for {} columns of {}", row.len(), columns.len(), self.table);
            return Err(Error::new(ErrorCode::InvalidQuery, message));
        }
        let mut values = HashMap::new();
        for (column, value) in columns.into_iter().zip(row) {
            if values.insert(column.clone(), value).is_some() {
                return Err(self.twice(&column));
            }
        }
        Ok(values)
    }

    fn column(&self, name: &ObjectName) -> Result<String> {
        let name = name_of(name)?;
        let is_column = |part: &String| self.schema.index_of(part).is_ok();
        match name.parts() {
            [column] if is_column(column) => Ok(column.clone()),
            [table, column] if table == self.alias && is_column(column) => Ok(column.clone()),
            [column, _, ..] if is_column(column) => {
                let message = format!("assigning to {name}, a field in a column, is not supported");
                Err(Error::new(ErrorCode::NotSupported, message).with_hint(format!("assign to {column} as a whole")))
            }
            _ => {
                let message = format!("table {} has no column {name}", self.table);
                let error = Error::new(ErrorCode::ColumnNotFound, message);
                let last = name.parts().last().map(String::as_str).unwrap_or_default();
                Err(match nearest(last, self.schema.fields().iter().map(|field| field.name().as_str())) {
                    Some(near) => error.with_hint(format!("did you mean {near}?")),
                    None => error,
                })
            }
        }
    }

    fn twice(&self, column: &str) -> Error {
        let message = format!("column {column} of {} is assigned to twice", self.table);
        Error::new(ErrorCode::InvalidQuery, message)
    }
}
