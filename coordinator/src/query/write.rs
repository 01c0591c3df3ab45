//! Writes: rows become data files where the query runs, and one commit here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Column;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::Statement as AstStatement;
use futures::TryStreamExt;
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::from_datafusion;
use townlake_lake::{CreateTable, LakeCatalog, Leftovers, LoadedTable, Replacement, write_plan, written_files};

use super::changes::commit_overwrite;
use super::insert_target::planned_target;
use super::many_rows::bind_rows;
use super::new_table::NewTable;
use super::parameters::bind;
use super::planner::{Planned, Planner};
use super::registry::{QueryState, Tracked};
use super::rows::{Source, one_batch};
use super::service::{QueryService, Run, command_batch, count_batch};
use super::statement::{CreateTableStatement, Statement};
use super::struct_fields::check_assigned;
use crate::catalogs::TableName;

/// A write that is planned: where its rows come from and where they go.
struct Write {
    catalog: Arc<LakeCatalog>,
    table: Arc<LoadedTable>,
    input: Arc<dyn ExecutionPlan>,
    state: SessionState,
    /// The table is as new as its rows.
    new_table: Option<NewTable>,
    /// The rows take the place of those that their partitions have.
    overwrite: bool,
    always_cluster: bool,
}

impl QueryService {
    /// Plans an INSERT: its input, in the table's columns and types, and the table.
    pub(super) async fn plan_insert(
        &self,
        planner: &Planner<'_>,
        statement: &Statement,
    ) -> Result<(Planned, Arc<LakeCatalog>, Arc<LoadedTable>)> {
        let Statement::Insert { table, branch, ast, .. } = statement else {
            return Err(Error::internal("another statement was taken for an INSERT"));
        };
        let name = planner.current.table(table.parts())?;
        let (catalog, _) = self.catalogs.table_to_write(planner.context, &name).await?;
        let planned = planner.plan(ast).await?;
        let LogicalPlan::Dml(dml) = &planned.plan else {
            return Err(Error::internal("an INSERT was planned as something else"));
        };
        // The table as it was planned for: it may have got other columns since it was looked at first.
        let loaded =
            planned_target(dml).ok_or_else(|| Error::internal("an INSERT was planned for no table of the lake"))?;
        let loaded = match branch {
            Some(branch) => Arc::new(loaded.on_branch(branch)?),
            None => loaded,
        };
        let input = dml.input.as_ref().clone();
        Ok((Planned { plan: input, ..planned }, catalog, loaded))
    }

    /// Plans the query of a CTAS, after checking that the table may be made.
    pub(super) async fn plan_create_as(&self, planner: &Planner<'_>, create: &CreateTableStatement) -> Result<Planned> {
        let name = planner.current.table(create.name.parts())?;
        self.catalogs.writable(&planner.context.principal, &name.catalog).await?;
        self.catalogs.check_schema(planner.context, &name.catalog, &name.schema).await?;
        let AstStatement::CreateTable(ast) = create.ast.as_ref() else {
            return Err(Error::internal("another statement was taken for a CREATE TABLE"));
        };
        let query = ast.query.clone().ok_or_else(|| Error::internal("this CREATE TABLE has no query"))?;
        let mut planned = planner.plan(&AstStatement::Query(query)).await?;
        if !planned.catalogs.contains(&name.catalog) {
            planned.catalogs.push(name.catalog);
        }
        Ok(planned)
    }
}

impl Run<'_> {
    /// `INSERT`: planned now, run when its row count is asked for. Several rows of parameters are one write of all of them.
    pub(super) async fn insert(&self, statement: &Statement) -> Result<Source> {
        if let Some((planned, target)) = self.service.plan_source_insert(&self.planner(), statement).await? {
            return self.insert_into_source(planned, target).await;
        }
        let (planned, catalog, table) = self.service.plan_insert(&self.planner(), statement).await?;
        let Planned { plan, state, mut catalogs } = planned;
        if !catalogs.contains(&table.catalog) {
            catalogs.push(table.catalog.clone());
        }
        self.tracked.set_catalogs(catalogs);
        let plan = self.bound(plan)?;
        check_assigned(&plan, 0, &table, &state)?;
        let input = state.create_physical_plan(&plan).await.map_err(|error| from_datafusion(&error))?;
        let always_cluster = self.settings.always_cluster;
        let overwrite = matches!(statement, Statement::Insert { overwrite: true, .. });
        Ok(self.run_write(Write { catalog, table, input, state, new_table: None, overwrite, always_cluster }))
    }

    /// The plan of an INSERT with its parameters: several rows of them are one write of all.
    pub(super) fn bound(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        match &self.parameters {
            Some(rows) if rows.num_rows() > 1 => bind_rows(plan, rows),
            one => bind(plan, one.as_ref()),
        }
    }

    /// `CREATE TABLE AS`: the table is made now, filled when the row count is asked for, dropped again when that fails.
    pub(super) async fn create_table_as(&self, create: &CreateTableStatement) -> Result<Source> {
        let planner = self.planner();
        let Planned { plan, state, catalogs } = self.service.plan_create_as(&planner, create).await?;
        self.tracked.set_catalogs(catalogs);
        let plan = bind(plan, self.parameters.as_ref())?;
        let analyzed = state
            .analyzer()
            .execute_and_check(plan, state.config_options(), |_, _| {})
            .map_err(|error| from_datafusion(&error))?;
        let columns = analyzed.schema().fields().iter().map(|field| {
            let nullable = field.as_ref().clone().with_nullable(true);
            Arc::new(nullable)
        });
        let name = planner.current.table(create.name.parts())?;
        let catalog = self.service.catalogs.writable(&self.session.principal, &name.catalog).await?;
        let created = catalog.create_table(table_of(create, &name, columns.collect())?).await?;
        let Some(table) = created else { return Ok(Source::batch(count_batch(0)?)) };
        let new_table = Some(NewTable::new(&catalog, &table));
        let plan = cast_to(analyzed, &table.arrow_schema)?;
        let input = state.create_physical_plan(&plan).await.map_err(|error| from_datafusion(&error))?;
        let always_cluster = self.settings.always_cluster;
        let overwrite = false;
        Ok(self.run_write(Write { catalog, table, input, state, new_table, overwrite, always_cluster }))
    }

    /// `CREATE TABLE` with columns.
    pub(super) async fn create_table(&self, create: &CreateTableStatement) -> Result<RecordBatch> {
        let planner = self.planner();
        let name = planner.current.table(create.name.parts())?;
        self.tracked.set_catalogs(vec![name.catalog.clone()]);
        let catalogs = &self.service.catalogs;
        let catalog = catalogs.writable(&self.session.principal, &name.catalog).await?;
        catalogs.check_schema(&self.tracked.context, &name.catalog, &name.schema).await?;
        let columns = columns_of(&planner.empty_state(), create.ast.as_ref().clone()).await?;
        let created = catalog.create_table(table_of(create, &name, columns)?).await?;
        command_batch(if created.is_some() { "CREATE TABLE" } else { "CREATE TABLE: it is there already" })
    }

    fn run_write(&self, write: Write) -> Source {
        let service = Arc::clone(self.service);
        let tracked = Arc::clone(&self.tracked);
        Source::Lazy(Box::pin(async move {
            let made = write.new_table.as_ref().map(|_| (Arc::clone(&write.catalog), Arc::clone(&write.table)));
            match (run(service, tracked, write).await, made) {
                (Ok(rows), _) => Ok(one_batch(count_batch(rows)?)),
                (Err(error), Some((catalog, table))) if error.code() != ErrorCode::CommitStateUnknown => {
                    wait_until_gone(&catalog, &table).await;
                    Err(error)
                }
                (Err(error), _) => Err(error),
            }
        }))
    }
}

/// Runs the write to its commit and gives the number of rows.
async fn run(service: Arc<QueryService>, tracked: Arc<Tracked>, write: Write) -> Result<u64> {
    let Write { catalog, table, input, state, new_table, overwrite, always_cluster } = write;
    let plan = write_plan(&table, input, &tracked.context.id)?;
    let leftovers = Leftovers::new(&catalog, &table, &tracked.context.id);
    let rows = service.run_plan(Arc::clone(&tracked), plan, state, always_cluster).await?;
    let batches: Vec<RecordBatch> = rows.try_collect().await.map_err(|error| from_datafusion(&error))?;
    if overwrite {
        let files = written_files(&batches, &table)?;
        return commit_overwrite(tracked, catalog, &table, files, leftovers).await;
    }
    let outcome = commit(tracked, catalog, &table, None, batches, leftovers).await;
    if let Some(new_table) = new_table {
        new_table.committed(&outcome);
    }
    outcome
}

/// Commits what was written, once: to what is in the table, or as the whole table by a replacement. It is not interrupted by
/// a client that goes away: a commit half asked for would leave nobody who knows whether it happened.
pub(super) async fn commit(
    tracked: Arc<Tracked>,
    catalog: Arc<LakeCatalog>,
    table: &Arc<LoadedTable>,
    replacement: Option<Replacement>,
    batches: Vec<RecordBatch>,
    leftovers: Leftovers,
) -> Result<u64> {
    tracked.enter(QueryState::Finishing);
    let files = written_files(&batches, table)?;
    let rows = files.iter().map(|file| file.rows).sum();
    let bytes = files.iter().map(|file| file.bytes).sum();
    if !files.is_empty() || replacement.is_some() {
        let (query, table) = (tracked.context.id.clone(), Arc::clone(table));
        let committing = tokio::spawn(async move {
            let leftovers = leftovers.without(&files);
            let committed = match replacement {
                Some(replacement) => catalog.commit_replace(&replacement, files, &query).await.map(Some),
                None => catalog.commit_append(&table, files, &query).await,
            };
            leftovers.settle(committed.as_ref().err());
            committed
        });
        committing.await.map_err(|error| Error::internal("the commit stopped").with_source(error))??;
    } else {
        leftovers.settle(None);
    }
    tracked.count(rows, bytes);
    Ok(rows)
}

/// The plan's columns, by position, in the types of `schema`.
pub(super) fn cast_to(plan: LogicalPlan, schema: &SchemaRef) -> Result<LogicalPlan> {
    let exprs = plan.schema().iter().zip(schema.fields()).map(|((qualifier, field), target)| {
        let column = Expr::Column(Column::from((qualifier, field)));
        let same = field.data_type() == target.data_type();
        let value = if same { column } else { cast(column, target.data_type().clone()) };
        value.alias(target.name())
    });
    let exprs: Vec<Expr> = exprs.collect();
    LogicalPlanBuilder::from(plan)
        .project(exprs)
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| from_datafusion(&error))
}

/// The columns of `CREATE TABLE (…)`, in the types that the planner gives their SQL names.
pub(super) async fn columns_of(state: &SessionState, create: AstStatement) -> Result<Vec<FieldRef>> {
    let statement = DataFusionStatement::Statement(Box::new(create));
    let plan = state.statement_to_plan(statement).await.map_err(|error| from_datafusion(&error))?;
    Ok(plan.inputs().first().map(|input| input.schema().fields().iter().cloned().collect()).unwrap_or_default())
}

fn table_of(create: &CreateTableStatement, name: &TableName, columns: Vec<FieldRef>) -> Result<CreateTable> {
    let mut properties = BTreeMap::new();
    let mut location = None;
    for (key, value) in &create.properties {
        let twice = match key.as_str() {
            "location" => location.replace(value.clone()).is_some(),
            _ => properties.insert(key.clone(), value.clone()).is_some(),
        };
        if twice {
            return Err(Error::new(ErrorCode::InvalidArgument, format!("the property {key} is given twice")));
        }
    }
    Ok(CreateTable {
        schema: name.schema.clone(),
        table: name.table.clone(),
        columns,
        partition: create.partition.clone(),
        sort: create.sort.clone(),
        properties,
        comment: create.comment.clone(),
        location,
        if_not_exists: create.if_not_exists,
    })
}

/// The table of a failed statement is dropped beside it ([`NewTable`]): its error is told when that is done, or takes too long.
async fn wait_until_gone(catalog: &LakeCatalog, table: &LoadedTable) {
    let gone = async {
        while let Ok(Some(there)) = catalog.load(&table.schema, &table.table, None).await
            && there.metadata.uuid() == table.metadata.uuid()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // The error counts more than the wait.
    let _ = tokio::time::timeout(Duration::from_secs(2), gone).await;
}
