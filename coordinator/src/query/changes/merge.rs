//! `MERGE` as a join: each of its rows is a row of the table, of the source, or both, and the first WHEN clause that takes
//! it says what becomes of it.

use std::collections::HashMap;

use datafusion::sql::sqlparser::ast::{
    Expr, Join, JoinConstraint, JoinOperator, Merge, MergeAction, MergeClause, MergeClauseKind, MergeInsertExpr,
    MergeInsertKind, MergeUpdateExpr, SelectItem, SelectItemQualifiedWildcardKind, Statement as AstStatement,
    TableAlias, TableFactor, TableWithJoins, WildcardAdditionalOptions,
};
use townlake_common::{Error, ErrorCode, Result};
use townlake_lake::{FILE, LoadedTable};

use super::columns::Columns;
use super::expressions::{and, boolean, case, column, ident, named, null, or, select};
use super::one_side::OneSide;
use super::select::{ANEW, marked, new_value, places};
use super::statement::{alias_of, refuse_if};

/// The column that is there where a row of the source is.
const SOURCE: &str = "$source";

/// What a clause makes of a row.
enum Becomes {
    /// Nothing: it is deleted.
    Gone,
    /// These values; what is not given stays (a changed row) or is NULL (a new one).
    Row { values: HashMap<String, Expr>, is_new: bool },
}

/// The SELECT of the changes. See [`super::select::select_of`].
pub(super) fn merge(statement: &Merge, table: &LoadedTable) -> Result<AstStatement> {
    let target = alias_of(&statement.table).unwrap_or_default();
    let source = alias_of(&statement.source).unwrap_or_else(|| SOURCE.to_string());
    if target == source {
        let message = format!("MERGE: the table and the source are both called {target}");
        return Err(Error::new(ErrorCode::InvalidQuery, message).with_hint("give one of them another name with AS"));
    }
    let columns = Columns { table: table.full_name(), alias: &target, schema: &table.arrow_schema };
    let mut taken = Vec::new();
    for clause in &statement.clauses {
        let side = side_of(clause, &target, &source);
        taken.push((condition(clause, &target, &source, side)?, becomes(clause, &columns, side)?));
    }
    let mut projection = places(&target);
    let is_anew = |becomes: &Becomes| boolean(matches!(becomes, Becomes::Row { .. }));
    projection.push(named(case(taken.iter().map(|(when, becomes)| (when.clone(), is_anew(becomes)))), ANEW));
    projection.extend(table.arrow_schema.fields().iter().map(|field| {
        let value = |becomes: &Becomes| value_of(becomes, &target, field.name());
        new_value(case(taken.iter().map(|(when, becomes)| (when.clone(), value(becomes)))), field.name())
    }));
    let any = taken.into_iter().map(|(when, _)| when).reduce(or);
    select(false, projection, vec![joined(statement, &source)?], any)
}

/// Table and source side by side, with the rows of each alone that some clause takes.
fn joined(statement: &Merge, source: &str) -> Result<TableWithJoins> {
    let has = |kinds: &[MergeClauseKind]| statement.clauses.iter().any(|clause| kinds.contains(&clause.clause_kind));
    let inserts = has(&[MergeClauseKind::NotMatched, MergeClauseKind::NotMatchedByTarget]);
    let of_table_alone = has(&[MergeClauseKind::NotMatchedBySource]);
    let on = JoinConstraint::On(statement.on.as_ref().clone());
    let join_operator = match (inserts, of_table_alone) {
        (false, false) => JoinOperator::Inner(on),
        (true, false) => JoinOperator::LeftOuter(on),
        (false, true) => JoinOperator::RightOuter(on),
        (true, true) => JoinOperator::FullOuter(on),
    };
    let join = Join { relation: marked(&statement.table), global: false, join_operator };
    Ok(TableWithJoins { relation: with_presence(&statement.source, source)?, joins: vec![join] })
}

/// `(SELECT source.*, true AS "$source" FROM … AS source) AS source`.
fn with_presence(factor: &TableFactor, name: &str) -> Result<TableFactor> {
    let mut inner = factor.clone();
    if let TableFactor::Derived { alias, .. } | TableFactor::NestedJoin { alias, .. } | TableFactor::Table { alias, .. } =
        &mut inner
        && alias.is_none()
    {
        *alias = Some(alias_named(name));
    }
    let all = SelectItem::QualifiedWildcard(
        SelectItemQualifiedWildcardKind::ObjectName(vec![ident(name)].into()),
        WildcardAdditionalOptions::default(),
    );
    let from = TableWithJoins { relation: inner, joins: Vec::new() };
    match select(false, vec![all, named(boolean(true), SOURCE)], vec![from], None)? {
        AstStatement::Query(subquery) => {
            Ok(TableFactor::Derived { lateral: false, subquery, alias: Some(alias_named(name)), sample: None })
        }
        _ => Err(Error::internal("the source of a MERGE could not be made")),
    }
}

fn alias_named(name: &str) -> TableAlias {
    TableAlias { explicit: true, name: ident(name), columns: Vec::new(), at: None }
}

/// Which rows a clause is about. The first one that takes a row has it: that is the order of CASE.
fn condition(clause: &MergeClause, target: &str, source: &str, side: Option<OneSide<'_>>) -> Result<Expr> {
    let in_table = || Expr::IsNotNull(Box::new(column(target, FILE)));
    let in_source = || Expr::IsNotNull(Box::new(column(source, SOURCE)));
    let only = |there: Expr, missing: Expr| and(there, missing);
    let kind = match clause.clause_kind {
        MergeClauseKind::Matched => and(in_table(), in_source()),
        MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => {
            only(in_source(), Expr::IsNull(Box::new(column(target, FILE))))
        }
        MergeClauseKind::NotMatchedBySource => only(in_table(), Expr::IsNull(Box::new(column(source, SOURCE)))),
    };
    Ok(match &clause.predicate {
        Some(predicate) => and(kind, scoped(predicate, side)?),
        None => kind,
    })
}

/// The side that a clause has a row of, where it is one only.
fn side_of<'a>(clause: &MergeClause, target: &'a str, source: &'a str) -> Option<OneSide<'a>> {
    match clause.clause_kind {
        MergeClauseKind::Matched => None,
        MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => {
            Some(OneSide { own: source, missing: target, clause: "WHEN NOT MATCHED" })
        }
        MergeClauseKind::NotMatchedBySource => {
            Some(OneSide { own: target, missing: source, clause: "WHEN NOT MATCHED BY SOURCE" })
        }
    }
}

fn scoped(expr: &Expr, side: Option<OneSide<'_>>) -> Result<Expr> {
    side.map_or_else(|| Ok(expr.clone()), |side| side.of(expr))
}

fn scoped_values(values: HashMap<String, &Expr>, side: Option<OneSide<'_>>) -> Result<HashMap<String, Expr>> {
    values.into_iter().map(|(name, value)| Ok((name, scoped(value, side)?))).collect()
}

fn becomes(clause: &MergeClause, columns: &Columns<'_>, side: Option<OneSide<'_>>) -> Result<Becomes> {
    match &clause.action {
        MergeAction::Delete { .. } => Ok(Becomes::Gone),
        MergeAction::Update(MergeUpdateExpr { assignments, update_predicate, delete_predicate, .. }) => {
            refuse_if(update_predicate.is_some() || delete_predicate.is_some(), "WHERE after UPDATE SET of a MERGE")?;
            Ok(Becomes::Row { values: scoped_values(columns.assigned(assignments)?, side)?, is_new: false })
        }
        MergeAction::Insert(MergeInsertExpr { columns: names, kind, insert_predicate, .. }) => {
            refuse_if(insert_predicate.is_some(), "WHERE after INSERT of a MERGE")?;
            let MergeInsertKind::Values(values) = kind else {
                return refuse_if(true, "INSERT ROW of a MERGE").map(|()| Becomes::Gone);
            };
            let [row] = values.rows.as_slice() else {
                let message = "INSERT of a MERGE takes one row of values";
                return Err(Error::new(ErrorCode::SyntaxError, message));
            };
            Ok(Becomes::Row { values: scoped_values(columns.inserted(names, row)?, side)?, is_new: true })
        }
    }
}

fn value_of(becomes: &Becomes, target: &str, name: &str) -> Expr {
    match becomes {
        Becomes::Gone => null(),
        Becomes::Row { values, is_new } => match values.get(name) {
            Some(value) => value.clone(),
            None if *is_new => null(),
            None => column(target, name),
        },
    }
}
