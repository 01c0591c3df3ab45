//! From a statement that changes rows to the SELECT of the changes.

use datafusion::sql::sqlparser::ast::{
    Delete, Expr, FromTable, Ident, SelectItem, Statement as AstStatement, TableFactor, TableWithJoins, Update,
};
use townlake_common::{Error, Result};
use townlake_lake::{FILE, LoadedTable, POSITION};

use super::columns::Columns;
use super::expressions::{boolean, column, named, select};
use super::merge::merge;
use super::statement::{ChangeStatement, alias_of, from_of};

/// The column that says whether a row has a new state.
pub(super) const ANEW: &str = "$anew";
/// The mark of the table factor that is the changed table, in the place of its partitions (which nobody else can name so).
pub(in crate::query) const TARGET: &str = "$target";

/// The SELECT whose rows are the changes: `$file`, `$position`, and unless rows are only deleted `$anew` and the columns of
/// `table`.
///
/// Errors: those of [`Columns`]; `NOT_SUPPORTED` and `SYNTAX_ERROR` for clauses of MERGE.
pub(super) fn select_of(statement: &ChangeStatement, table: &LoadedTable) -> Result<AstStatement> {
    match statement.ast.as_ref() {
        AstStatement::Delete(delete) => select_deleted(delete),
        AstStatement::Update(update) => select_updated(update, table),
        AstStatement::Merge(statement) => merge(statement, table),
        _ => Err(Error::internal("another statement was taken for a change of rows")),
    }
}

fn select_deleted(delete: &Delete) -> Result<AstStatement> {
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    let Some(target) = from.first() else { return Err(Error::internal("a DELETE has no table")) };
    let alias = alias_of(&target.relation).unwrap_or_default();
    let mut from = vec![TableWithJoins { relation: marked(&target.relation), joins: Vec::new() }];
    from.extend(delete.using.iter().flatten().cloned());
    select(delete.using.is_some(), places(&alias), from, delete.selection.clone())
}

fn select_updated(update: &Update, table: &LoadedTable) -> Result<AstStatement> {
    let alias = alias_of(&update.table.relation).unwrap_or_default();
    let columns = Columns { table: table.full_name(), alias: &alias, schema: &table.arrow_schema };
    let values = columns.assigned(&update.assignments)?;
    let mut projection = places(&alias);
    projection.push(named(boolean(true), ANEW));
    projection.extend(table.arrow_schema.fields().iter().map(|field| {
        let value = values.get(field.name()).map_or_else(|| column(&alias, field.name()), |value| (*value).clone());
        new_value(value, field.name())
    }));
    let mut from = vec![TableWithJoins { relation: marked(&update.table.relation), joins: Vec::new() }];
    from.extend(from_of(update).iter().cloned());
    select(false, projection, from, update.selection.clone())
}

/// Where the old state of a row lies.
pub(super) fn places(alias: &str) -> Vec<SelectItem> {
    [FILE, POSITION].map(|name| named(column(alias, name), name)).to_vec()
}

/// A new value of a column. The name is its own: `$file` and the rest cannot be taken for it.
pub(super) fn new_value(value: Expr, column: &str) -> SelectItem {
    named(value, &format!("$new {column}"))
}

/// The table factor as the one whose rows are changed.
pub(super) fn marked(factor: &TableFactor) -> TableFactor {
    let mut factor = factor.clone();
    if let TableFactor::Table { partitions, version, .. } = &mut factor {
        *partitions = vec![Ident::with_quote('"', TARGET)];
        *version = None; // the table is loaded with its branch
    }
    factor
}
