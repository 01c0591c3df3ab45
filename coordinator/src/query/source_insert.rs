//! `INSERT INTO` a table of a source: the query runs like any other, and the coordinator hands its rows to the source, which writes them in one
//! transaction.

use std::sync::Arc;

use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::Column;
use datafusion::logical_expr::{DmlStatement, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::Statement as AstStatement;
use futures::StreamExt;
use townlake_common::{Error, ErrorCode, Result};
use townlake_connectors::{InsertInto, Source as DataSource};
use townlake_engine::error::from_datafusion;

use super::parse::name_of;
use super::planner::{Planned, Planner};
use super::registry::QueryState;
use super::rows::{Source, one_batch};
use super::service::{QueryService, Run, count_batch};
use super::statement::Statement;
use crate::catalogs::TableName;

/// A table of a source that rows are written to.
pub(super) struct SourceTarget {
    source: Arc<dyn DataSource>,
    into: InsertInto,
    pub name: TableName,
}

impl QueryService {
    /// Plans an INSERT into a table of a source; `None` where its catalog is none.
    ///
    /// Errors: `PERMISSION_DENIED`, `NOT_SUPPORTED` for a source that takes no rows, for OVERWRITE and branches, and those of planning.
    pub(super) async fn plan_source_insert(
        &self,
        planner: &Planner<'_>,
        statement: &Statement,
    ) -> Result<Option<(Planned, SourceTarget)>> {
        let Statement::Insert { table, branch, overwrite, ast } = statement else {
            return Err(Error::internal("another statement was taken for an INSERT"));
        };
        let name = planner.current.table(table.parts())?;
        let Some(source) = self.catalogs.source_to_write(planner.context, &name.catalog).await? else {
            return Ok(None);
        };
        if *overwrite || branch.is_some() {
            let what = if *overwrite { "INSERT OVERWRITE" } else { "a branch" };
            let message = format!("{what} of {name} is not supported: its catalog is no Iceberg catalog");
            return Err(Error::new(ErrorCode::NotSupported, message));
        }
        let planned = planner.plan(ast).await?;
        let LogicalPlan::Dml(dml) = &planned.plan else {
            return Err(Error::internal("an INSERT was planned as something else"));
        };
        let (plan, columns) = given(dml, ast)?;
        let into = InsertInto { schema: name.schema.clone(), table: name.table.clone(), columns };
        Ok(Some((Planned { plan, ..planned }, SourceTarget { source, into, name })))
    }
}

impl Run<'_> {
    /// Planned now, run when the row count is asked for.
    pub(super) async fn insert_into_source(&self, planned: Planned, target: SourceTarget) -> Result<Source> {
        let Planned { plan, state, mut catalogs } = planned;
        if !catalogs.contains(&target.name.catalog) {
            catalogs.push(target.name.catalog.clone());
        }
        self.tracked.set_catalogs(catalogs);
        let plan = self.bound(plan)?;
        let physical = state.create_physical_plan(&plan).await.map_err(|error| from_datafusion(&error))?;
        let (service, tracked) = (Arc::clone(self.service), Arc::clone(&self.tracked));
        let always_cluster = self.settings.always_cluster;
        Ok(Source::Lazy(Box::pin(async move {
            let rows = service.run_plan(Arc::clone(&tracked), physical, state, always_cluster).await?;
            let rows = rows.map(|batch| batch.map_err(|error| from_datafusion(&error))).boxed();
            let count = target.source.insert(&tracked.context, &target.into, rows).await?;
            tracked.enter(QueryState::Finishing);
            tracked.count(count, 0);
            Ok(one_batch(count_batch(count)?))
        })))
    }
}

/// The query of the columns that the statement gives, and these columns. The others are left to the source, which may have defaults.
fn given(dml: &DmlStatement, ast: &AstStatement) -> Result<(LogicalPlan, Vec<FieldRef>)> {
    let AstStatement::Insert(insert) = ast else { return Err(Error::internal("an INSERT is something else")) };
    let schema = dml.target.schema();
    let mut places = Vec::new();
    for column in &insert.columns {
        let name = name_of(column)?;
        let [name] = name.parts() else {
            return Err(Error::new(ErrorCode::InvalidQuery, format!("{name} is not the name of a column")));
        };
        places.push(schema.index_of(name).map_err(|error| Error::internal("a column is lost").with_source(error))?);
    }
    if places.is_empty() {
        places = (0..schema.fields().len()).collect();
    }
    let column = |place: &usize| Expr::Column(Column::from(dml.input.schema().qualified_field(*place)));
    let exprs: Vec<_> = places.iter().map(column).collect();
    let plan = LogicalPlanBuilder::from(dml.input.as_ref().clone()).project(exprs).and_then(LogicalPlanBuilder::build);
    let columns = places.iter().filter_map(|place| schema.fields().get(*place).cloned()).collect();
    Ok((plan.map_err(|error| from_datafusion(&error))?, columns))
}
