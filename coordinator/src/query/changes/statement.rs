//! What is taken of `DELETE`, `UPDATE` and `MERGE`; the rest of what the parser knows is refused by name.

use datafusion::sql::sqlparser::ast::{
    Delete, FromTable, Merge, Statement as AstStatement, TableFactor, TableWithJoins, Update, UpdateTableFromKind,
};
use townlake_common::{Error, ErrorCode, Result};
use townlake_lake::RowCommand;

use crate::query::parse::{name_of, normalize};
use crate::query::statement::{Name, Statement};
use crate::query::time_travel::{branch_of, from_ast};

/// A statement that changes rows of one table.
#[derive(Debug, Clone)]
pub struct ChangeStatement {
    /// The table.
    pub table: Name,
    /// The branch of it; `None`: main.
    pub branch: Option<String>,
    /// Which kind it is.
    pub command: RowCommand,
    /// The statement.
    pub ast: Box<AstStatement>,
}

impl ChangeStatement {
    /// Whether it is a DELETE of all rows, whatever they are.
    pub(super) fn deletes_all(&self) -> bool {
        matches!(self.ast.as_ref(), AstStatement::Delete(Delete { selection: None, using: None, .. }))
    }

    /// Whether one row may be found several times: the table is joined with something.
    pub(super) fn may_repeat_rows(&self) -> bool {
        match self.ast.as_ref() {
            AstStatement::Update(update) => update.from.is_some(),
            // Rows that a DELETE finds several times are found once (SELECT DISTINCT).
            AstStatement::Delete(_) => false,
            _ => true,
        }
    }
}

/// Takes a parsed statement.
///
/// Errors: `NOT_SUPPORTED` naming the clause.
pub(in crate::query) fn parse_change(ast: AstStatement) -> Result<Statement> {
    let (command, factor) = match &ast {
        AstStatement::Delete(delete) => (RowCommand::Delete, check_delete(delete)?),
        AstStatement::Update(update) => (RowCommand::Update, check_update(update)?),
        AstStatement::Merge(merge) => (RowCommand::Merge, check_merge(merge)?),
        _ => return Err(Error::internal("another statement was taken for a change of rows")),
    };
    let (table, branch) = target_of(factor)?;
    Ok(Statement::Change(Box::new(ChangeStatement { table, branch, command, ast: Box::new(ast) })))
}

fn check_delete(delete: &Delete) -> Result<&TableFactor> {
    refuse_if(!delete.tables.is_empty(), "DELETE from several tables")?;
    refuse_if(delete.returning.is_some() || delete.output.is_some(), "DELETE with RETURNING")?;
    refuse_if(!delete.order_by.is_empty() || delete.limit.is_some(), "DELETE with ORDER BY or LIMIT")?;
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    match from.as_slice() {
        [one] => without_joins(one, "DELETE"),
        _ => Err(refused("DELETE from several tables")),
    }
}

fn check_update(update: &Update) -> Result<&TableFactor> {
    refuse_if(update.returning.is_some() || update.output.is_some(), "UPDATE with RETURNING")?;
    refuse_if(!update.order_by.is_empty() || update.limit.is_some(), "UPDATE with ORDER BY or LIMIT")?;
    refuse_if(update.or.is_some(), "UPDATE OR …")?;
    without_joins(&update.table, "UPDATE")
}

fn check_merge(merge: &Merge) -> Result<&TableFactor> {
    refuse_if(merge.output.is_some(), "MERGE with OUTPUT or RETURNING")?;
    if merge.clauses.is_empty() {
        let message = "MERGE does nothing without a WHEN clause";
        return Err(Error::new(ErrorCode::SyntaxError, message).with_hint("WHEN [NOT] MATCHED THEN …"));
    }
    Ok(&merge.table)
}

fn without_joins<'a>(table: &'a TableWithJoins, what: &str) -> Result<&'a TableFactor> {
    match table.joins.is_empty() {
        true => Ok(&table.relation),
        false => {
            Err(refused(&format!("{what} of a join")).with_hint("name one table, and join in USING, FROM or MERGE"))
        }
    }
}

/// The table that is changed, and its branch.
fn target_of(factor: &TableFactor) -> Result<(Name, Option<String>)> {
    let TableFactor::Table { name, alias, args: None, version, sample, .. } = factor else {
        return Err(refused("a change of something that is no table"));
    };
    let version = version.as_ref().map(|version| from_ast(version).ok_or_else(|| refused("a change of this version")));
    let branch = version.transpose()?.map(branch_of).transpose()?;
    refuse_if(sample.is_some(), "a change of a TABLESAMPLE")?;
    refuse_if(
        alias.as_ref().is_some_and(|alias| !alias.columns.is_empty()),
        "names for the columns of the changed table",
    )?;
    Ok((name_of(name)?, branch))
}

/// The name by which a statement knows a table's columns.
pub(super) fn alias_of(factor: &TableFactor) -> Option<String> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::NestedJoin { alias: Some(alias), .. } => Some(normalize(alias.name.clone())),
        TableFactor::Table { name, .. } => name_of(name).ok().and_then(|name| name.parts().last().cloned()),
        _ => None,
    }
}

/// The tables after FROM.
pub(super) fn from_of(update: &Update) -> &[TableWithJoins] {
    match &update.from {
        Some(UpdateTableFromKind::BeforeSet(tables) | UpdateTableFromKind::AfterSet(tables)) => tables,
        None => &[],
    }
}

pub(super) fn refuse_if(is_there: bool, what: &str) -> Result<()> {
    if is_there { Err(refused(what)) } else { Ok(()) }
}

fn refused(what: &str) -> Error {
    Error::new(ErrorCode::NotSupported, format!("{what} is not supported"))
}
