//! `SELECT a, CAST(a AS INT), a`: SQL has nothing against columns of one name, and DataFusion has. The later ones are called `a_1`,
//! `a_2`, as in DuckDB.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SetExpr, Statement as AstStatement, VisitMut, VisitorMut,
};

use super::parse::normalize;

/// Whether planning has failed for columns of one name.
pub(super) fn is_of_equal_names(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::Plan(message) if message.contains("require unique expression names"))
}

/// The statement with a name of its own for each column of each `SELECT` list that has the name of one before.
pub(super) fn with_names_apart(statement: &AstStatement) -> AstStatement {
    let mut statement = statement.clone();
    let _: ControlFlow<()> = statement.visit(&mut NamesApart);
    statement
}

struct NamesApart;

impl VisitorMut for NamesApart {
    type Break = ();

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let mut taken = HashSet::new();
        // A wildcard may have any name.
        let mut any = false;
        for item in &mut select.projection {
            match item {
                SelectItem::UnnamedExpr(expr) => {
                    let name = name_of(expr);
                    if any || taken.contains(&name) {
                        let alias = apart(&name, &taken);
                        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', &alias) };
                        taken.insert(alias);
                    } else {
                        taken.insert(name);
                    }
                }
                SelectItem::ExprWithAlias { alias, .. } => {
                    let name = normalize(alias.clone());
                    if taken.contains(&name) {
                        *alias = Ident::with_quote('"', apart(&name, &taken));
                    }
                    taken.insert(normalize(alias.clone()));
                }
                _ => any = true,
            }
        }
        ControlFlow::Continue(())
    }
}

/// The first of `name_1`, `name_2`, … that is free.
fn apart(name: &str, taken: &HashSet<String>) -> String {
    (1..).map(|n| format!("{name}_{n}")).find(|name| !taken.contains(name)).unwrap_or_default()
}

/// What a column is called that has no alias: casts do not count.
fn name_of(expr: &Expr) -> String {
    match expr {
        Expr::Cast { expr, .. } | Expr::Nested(expr) => name_of(expr),
        Expr::Subquery(query) => name_of_first(query).unwrap_or_else(|| expr.to_string().to_lowercase()),
        Expr::Identifier(name) => normalize(name.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().cloned().map(normalize).unwrap_or_default(),
        other => other.to_string().to_lowercase(),
    }
}

/// The name of a scalar subquery is that of its column.
fn name_of_first(query: &Query) -> Option<String> {
    let mut body = query.body.as_ref();
    let select = loop {
        match body {
            SetExpr::Select(select) => break select,
            SetExpr::Query(query) => body = query.body.as_ref(),
            SetExpr::SetOperation { left, .. } => body = left.as_ref(),
            _ => return None,
        }
    };
    match select.projection.first()? {
        SelectItem::UnnamedExpr(expr) => Some(name_of(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(normalize(alias.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::parse::parse_ast;
    use crate::query::tokens::tokens_of_one_statement;

    #[test]
    fn later_columns_of_a_name_get_another() {
        let apart =
            |sql: &str| with_names_apart(&parse_ast(&tokens_of_one_statement(sql).unwrap()).unwrap()).to_string();
        for (sql, expected) in [
            ("SELECT a, CAST(a AS INT), t.a FROM t", "SELECT a, CAST(a AS INT) AS \"a_1\", t.a AS \"a_2\" FROM t"),
            (
                "SELECT count(*), COUNT(*), 1 AS \"A\", a FROM t",
                "SELECT count(*), COUNT(*) AS \"count(*)_1\", 1 AS \"A\", a FROM t",
            ),
            ("SELECT a, a AS a_1, A FROM t", "SELECT a, a AS a_1, A AS \"a_2\" FROM t"),
            ("SELECT 1 AS a, 2 AS a", "SELECT 1 AS a, 2 AS \"a_1\""),
            (
                "SELECT count(*), (SELECT count(*) FROM u), (SELECT a AS \"count(*)\" FROM t) FROM t",
                "SELECT count(*), (SELECT count(*) FROM u) AS \"count(*)_1\", (SELECT a AS \"count(*)\" FROM t) AS \"count(*)_2\" FROM t",
            ),
            ("SELECT *, a FROM t", "SELECT *, a AS \"a_1\" FROM t"),
            ("SELECT * FROM (SELECT b, b FROM t)", "SELECT * FROM (SELECT b, b AS \"b_1\" FROM t)"),
        ] {
            assert_eq!(apart(sql), expected);
        }
    }
}
