//! What a view stands for in the plan of a statement: the plan of its query, in the columns that the view was made with.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::Column;
use datafusion::datasource::ViewTable;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::sql::sqlparser::ast::{Query, Statement as AstStatement};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::from_datafusion;
use townlake_lake::LoadedView;

use super::bounds::check_expanded;
use super::text::{current_of, names_its_columns, query_of};
use crate::catalogs::{TableName, sql_type};
use crate::query::insert_target::plain_type;
use crate::query::parameters::parameters_of;
use crate::query::planner::{Planned, Planner};

/// Views read views to this depth.
const MAX_NESTED: usize = 16;

/// What one statement has found by name, in the queries of its views too: each table and view is looked up once, so that the
/// statement sees one state of it.
#[derive(Default)]
pub(in crate::query) struct Found {
    /// The catalogs that were touched.
    pub touched: BTreeSet<String>,
    tables: HashMap<TableName, Arc<dyn TableProvider>>,
    /// The views that are being planned, the outermost first.
    chain: Vec<TableName>,
    /// A view was read.
    views: bool,
    /// The error says already in which view it came up.
    blamed: bool,
}

impl Found {
    /// Inside this view, which is being made.
    pub(super) fn inside(view: TableName) -> Self {
        Self { chain: vec![view], ..Self::default() }
    }

    /// This table is what the name stands for.
    pub(in crate::query) fn insert(&mut self, name: TableName, table: Arc<dyn TableProvider>) {
        self.tables.insert(name, table);
    }
}

impl Planner<'_> {
    /// The table or view of this name.
    ///
    /// Errors: `*_NOT_FOUND` with the nearest visible name; for a view, all that its query can be wrong in.
    pub(in crate::query) async fn relation(
        &self,
        name: &TableName,
        found: &mut Found,
    ) -> Result<Arc<dyn TableProvider>> {
        if let Some(table) = found.tables.get(name) {
            return Ok(Arc::clone(table));
        }
        found.touched.insert(name.catalog.clone());
        let table = match self.catalogs.table(self.context, name, None).await? {
            Some(table) => table,
            None => {
                let view = self.view(name).await?;
                self.expand(name, &view, found).await?
            }
        };
        found.insert(name.clone(), Arc::clone(&table));
        Ok(table)
    }

    /// The view of this name, also one that is made in this moment.
    async fn view(&self, name: &TableName) -> Result<LoadedView> {
        if let Some(view) = self.catalogs.view(self.context, name).await? {
            return Ok(view);
        }
        let missing = self.catalogs.not_found(self.context, name).await;
        let is_there_now = missing.code() == ErrorCode::NotSupported;
        let view = if is_there_now { self.catalogs.view(self.context, name).await? } else { None };
        view.ok_or(missing)
    }

    /// Checks a plan that views may be part of.
    pub(in crate::query) fn check_expanded(plan: &LogicalPlan, found: &Found) -> Result<()> {
        if found.views { check_expanded(plan) } else { Ok(()) }
    }

    async fn expand(&self, name: &TableName, view: &LoadedView, found: &mut Found) -> Result<Arc<dyn TableProvider>> {
        check_chain(name, found)?;
        found.views = true;
        found.chain.push(name.clone());
        let planned = Box::pin(self.plan_view(view, found)).await;
        found.chain.pop();
        match planned {
            Ok(plan) => Ok(Arc::new(ViewTable::new(plan, None))),
            Err(error) if found.blamed => Err(error),
            Err(error) => {
                found.blamed = true;
                Err(blame(view, error))
            }
        }
    }

    async fn plan_view(&self, view: &LoadedView, found: &mut Found) -> Result<LogicalPlan> {
        let statement = query_of(view)?;
        let planner = Planner { current: current_of(view), session_id: self.session_id.clone(), ..*self };
        let plan = planner.plan_whole(&statement, found).await?;
        let AstStatement::Query(query) = statement.as_ref() else {
            return Err(Error::internal("a view was planned that is no query"));
        };
        in_columns_of(view, query, plan)
    }

    /// Plans the query of a view to its final types.
    ///
    /// Errors: as [`Planner::plan`]; `NOT_SUPPORTED` for parameters.
    pub(super) async fn plan_whole(&self, query: &AstStatement, found: &mut Found) -> Result<LogicalPlan> {
        let Planned { plan, state, .. } = self.plan_over(query, None, found).await?;
        if !parameters_of(&plan)?.fields().is_empty() {
            return Err(Error::new(ErrorCode::NotSupported, "a parameter (? or $1) in a view is not supported"));
        }
        state
            .analyzer()
            .execute_and_check(plan, state.config_options(), |_, _| {})
            .map_err(|error| from_datafusion(&error))
    }
}

fn check_chain(name: &TableName, found: &mut Found) -> Result<()> {
    let chain = || {
        let names: Vec<String> = found.chain.iter().chain([name]).map(ToString::to_string).collect();
        names.join(" → ")
    };
    let error = if found.chain.contains(name) {
        Error::new(ErrorCode::InvalidQuery, format!("view {name} reads itself: {}", chain()))
            .with_hint("CREATE OR REPLACE one of them with another query")
    } else if found.chain.len() >= MAX_NESTED {
        let message = format!("views read views deeper than {MAX_NESTED} levels: {}", chain());
        Error::new(ErrorCode::NotSupported, message).with_hint("write one of them into a table")
    } else {
        return Ok(());
    };
    found.blamed = true;
    Err(error)
}

/// The error of a view's query, with the view named. Whoever reads a view need not know of the catalogs that it names.
fn blame(view: &LoadedView, error: Error) -> Error {
    match error.code() {
        ErrorCode::CatalogNotFound => {
            let message = format!("view {} reads a catalog that does not exist, or not for you", view.full_name());
            Error::new(ErrorCode::CatalogNotFound, message).with_hint(
                "a view reads what its reader may read; engines that share views give catalogs the same names",
            )
        }
        _ if error.message().contains(&view.full_name()) => error,
        _ => error.within(&format!("view {} cannot be read", view.full_name())),
    }
}

/// The plan of a view's query in the view's columns and types.
///
/// A query that names its columns gives them in their order for ever. What `*` gives is found by name: tables get columns.
fn in_columns_of(view: &LoadedView, query: &Query, plan: LogicalPlan) -> Result<LogicalPlan> {
    let columns = view.described.fields();
    let given: Vec<&str> = plan.schema().fields().iter().map(|field| field.name().as_str()).collect();
    let wanted: Vec<String> = match view.query_columns() {
        Some(names) if names.len() == columns.len() => names,
        _ => columns.iter().map(|column| column.name().clone()).collect(),
    };
    let in_place = names_its_columns(query) || wanted == given;
    if in_place && given.len() != columns.len() {
        let what = format!("its query gives {} columns, and it was made with {}", given.len(), columns.len());
        return Err(stale(view, &what));
    }
    let mut exprs = Vec::with_capacity(columns.len());
    for (index, (column, name)) in columns.iter().zip(&wanted).enumerate() {
        let position =
            if in_place { index } else { position_of(name, &given).ok_or_else(|| gone(view, name, &given))? };
        let (qualifier, field) = plan.schema().qualified_field(position);
        if !view.fits(index, field) {
            let (then, now) = (sql_type(column.data_type()), sql_type(field.data_type()));
            return Err(stale(view, &format!("its column {} was {then} and is {now} now", column.name())));
        }
        let value = Expr::Column(Column::from((qualifier, field)));
        let target = plain_type(column.data_type());
        let value = if plain_type(field.data_type()) == target { value } else { cast(value, target) };
        exprs.push(value.alias(column.name()));
    }
    LogicalPlanBuilder::from(plan)
        .project(exprs)
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| from_datafusion(&error))
}

fn position_of(name: &str, given: &[&str]) -> Option<usize> {
    let mut positions = given.iter().enumerate().filter(|(_, given)| **given == name).map(|(position, _)| position);
    match (positions.next(), positions.next()) {
        (Some(position), None) => Some(position),
        _ => None,
    }
}

fn gone(view: &LoadedView, name: &str, given: &[&str]) -> Error {
    match given.contains(&name) {
        true => stale(view, &format!("its query gives several columns {name} by now")),
        false => stale(view, &format!("its query does not give the column {name} any more")),
    }
}

fn stale(view: &LoadedView, what: &str) -> Error {
    Error::new(ErrorCode::InvalidQuery, format!("view {} is stale: {what}", view.full_name()))
        .with_hint("CREATE OR REPLACE VIEW makes it anew")
}
