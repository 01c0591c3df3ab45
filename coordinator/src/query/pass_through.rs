//! `TABLE(catalog.system.query('…'))`: a query in a source's own language, as a table.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::{Result as DFResult, TableReference};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanning};
use datafusion::logical_expr::{LogicalPlanBuilder, TableSource};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Statement as AstStatement, TableAlias,
    TableFactor, Value, Visit, Visitor,
};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::to_datafusion;

use super::parse::name_of;

/// The schema and name of the function in each catalog of a source.
const FUNCTION: [&str; 2] = ["system", "query"];

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub catalog: String,
    /// In the source's language.
    pub sql: String,
}

/// The tables that the calls of one statement are.
#[derive(Default)]
pub(super) struct PassedThrough(Vec<(Call, Arc<dyn TableSource>)>);

impl PassedThrough {
    pub(super) fn add(&mut self, call: Call, source: Arc<dyn TableSource>) {
        self.0.push((call, source));
    }

    /// The plan of `TABLE(…)`.
    pub(super) fn plan(&self, expr: &Expr, alias: Option<TableAlias>) -> DFResult<RelationPlanning> {
        let call = call_of(expr).map_err(to_datafusion)?;
        let found = self.0.iter().find(|(known, _)| *known == call);
        let (_, source) = found.ok_or_else(|| {
            to_datafusion(Error::internal(format!("the query for {} was not resolved before planning", call.catalog)))
        })?;
        let plan = LogicalPlanBuilder::scan(TableReference::bare("query"), Arc::clone(source), None)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// Every call in a statement.
///
/// Errors: `NOT_SUPPORTED` for another function in `TABLE(…)`, `INVALID_QUERY` for arguments that are not one text.
pub(super) fn calls(statement: &AstStatement) -> Result<Vec<Call>> {
    let mut collect = Collect { found: Vec::new() };
    match statement.visit(&mut collect) {
        ControlFlow::Continue(()) => Ok(collect.found),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Collect {
    found: Vec<Call>,
}

impl Visitor for Collect {
    type Break = Box<Error>;

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Box<Error>> {
        let TableFactor::TableFunction { expr, .. } = factor else { return ControlFlow::Continue(()) };
        match call_of(expr) {
            Ok(call) => {
                if !self.found.contains(&call) {
                    self.found.push(call);
                }
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

fn call_of(expr: &Expr) -> Result<Call> {
    let other = || {
        let message = "TABLE(…) takes catalog.system.query('…'), and nothing else";
        Error::new(ErrorCode::NotSupported, message).with_hint("other table functions stand in FROM by themselves")
    };
    let Expr::Function(Function { name, args: FunctionArguments::List(arguments), .. }) = expr else {
        return Err(other());
    };
    let name = name_of(name)?;
    let [catalog, schema, function] = name.parts() else { return Err(other()) };
    if [schema.as_str(), function.as_str()] != FUNCTION {
        return Err(other());
    }
    match arguments.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))] if arguments.clauses.is_empty() => {
            match &value.value {
                Value::SingleQuotedString(sql) | Value::EscapedStringLiteral(sql) => {
                    Ok(Call { catalog: catalog.clone(), sql: sql.clone() })
                }
                Value::DollarQuotedString(sql) => Ok(Call { catalog: catalog.clone(), sql: sql.value.clone() }),
                _ => Err(no_text(&name)),
            }
        }
        _ => Err(no_text(&name)),
    }
}

fn no_text(name: &super::statement::Name) -> Error {
    let message = format!("{name} takes one text: the query, as it is, in single quotes");
    Error::new(ErrorCode::InvalidQuery, message).with_hint("a quote inside is doubled; it takes no parameters")
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse_ast;
    use super::super::tokens::tokens_of_one_statement;
    use super::*;

    fn calls_in(sql: &str) -> Result<Vec<Call>> {
        calls(&parse_ast(&tokens_of_one_statement(sql).unwrap()).unwrap())
    }

    #[test]
    fn calls_are_found_wherever_they_stand() {
        let sql = "SELECT * FROM TABLE(crm.system.query('SELECT 1')) AS a JOIN b ON a.x = b.x \
                   WHERE EXISTS (SELECT 1 FROM TABLE(\"Crm\".SYSTEM.query('it''s')))";
        let call = |catalog: &str, sql: &str| Call { catalog: catalog.to_string(), sql: sql.to_string() };
        assert_eq!(calls_in(sql).unwrap(), [call("crm", "SELECT 1"), call("Crm", "it's")]);
        assert_eq!(calls_in("SELECT 1").unwrap(), []);
    }

    #[test]
    fn others_are_refused() {
        for (call, code) in [
            ("generate_series(1, 2)", ErrorCode::NotSupported),
            ("crm.system.run('x')", ErrorCode::NotSupported),
            ("system.query('x')", ErrorCode::NotSupported),
            ("crm.system.query()", ErrorCode::InvalidQuery),
            ("crm.system.query(1)", ErrorCode::InvalidQuery),
            ("crm.system.query($1)", ErrorCode::InvalidQuery),
            ("crm.system.query('a', 'b')", ErrorCode::InvalidQuery),
        ] {
            assert_eq!(calls_in(&format!("SELECT * FROM TABLE({call})")).unwrap_err().code(), code, "{call}");
        }
    }
}
