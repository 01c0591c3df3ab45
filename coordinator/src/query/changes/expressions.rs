//! Small pieces of parsed SQL.

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, Ident, SelectItem, SetExpr, Statement as AstStatement, TableWithJoins, Value,
};
use townlake_common::{Error, Result};

use crate::query::parse::parse_ast;
use crate::query::tokens::tokens_of_one_statement;

/// `"name"`, as it is.
pub(super) fn ident(name: &str) -> Ident {
    Ident::with_quote('"', name)
}

/// `"table"."column"`.
pub(super) fn column(table: &str, column: &str) -> Expr {
    Expr::CompoundIdentifier(vec![ident(table), ident(column)])
}

pub(super) fn null() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

pub(super) fn boolean(value: bool) -> Expr {
    Expr::Value(Value::Boolean(value).with_empty_span())
}

/// `left AND right`, each in parentheses.
pub(super) fn and(left: Expr, right: Expr) -> Expr {
    binary(left, BinaryOperator::And, right)
}

/// `left OR right`, each in parentheses.
pub(super) fn or(left: Expr, right: Expr) -> Expr {
    binary(left, BinaryOperator::Or, right)
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    let nested = |expr| Box::new(Expr::Nested(Box::new(expr)));
    Expr::BinaryOp { left: nested(left), op, right: nested(right) }
}

/// `CASE WHEN … THEN … END`.
pub(super) fn case(branches: impl IntoIterator<Item = (Expr, Expr)>) -> Expr {
    let when = |(condition, result)| CaseWhen { condition, result };
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: branches.into_iter().map(when).collect(),
        else_result: None,
    }
}

/// `expr AS "name"`.
pub(super) fn named(expr: Expr, name: &str) -> SelectItem {
    SelectItem::ExprWithAlias { expr, alias: ident(name) }
}

/// `SELECT [DISTINCT] … FROM … WHERE …`.
pub(super) fn select(
    distinct: bool,
    projection: Vec<SelectItem>,
    from: Vec<TableWithJoins>,
    selection: Option<Expr>,
) -> Result<AstStatement> {
    let template = if distinct { "SELECT DISTINCT 1" } else { "SELECT 1" };
    let mut statement = parse_ast(&tokens_of_one_statement(template)?)?;
    let AstStatement::Query(query) = &mut statement else { return Err(broken()) };
    let SetExpr::Select(select) = query.body.as_mut() else { return Err(broken()) };
    select.projection = projection;
    select.from = from;
    select.selection = selection;
    Ok(statement)
}

fn broken() -> Error {
    Error::internal("the SELECT of a change of rows could not be made")
}
