//! Planning and running changes of rows.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Column;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use townlake_common::{Error, Result};
use townlake_engine::error::from_datafusion;
use townlake_lake::{
    Delta, FILE, LakeCatalog, Leftovers, LoadedTable, POSITION, RowCommand, TargetTable, WrittenFile, changed_files,
    merges_on_read, plan_files, rewrite_plan, row_delta_plan, written_files,
};

use super::select::{ANEW, select_of};
use super::statement::ChangeStatement;
use crate::query::parameters::bind;
use crate::query::planner::{Planned, Planner};
use crate::query::registry::{QueryState, Tracked};
use crate::query::rows::{Source, one_batch};
use crate::query::service::{QueryService, Run, count_batch};
use crate::query::struct_fields::check_assigned;

/// The columns before those of the table: [`FILE`], [`POSITION`], [`ANEW`].
const BEFORE: usize = 3;

/// A change that is planned: the query whose rows are the changes, and the table that it reads for that.
pub(in crate::query) struct PlannedChange {
    pub planned: Planned,
    pub catalog: Arc<LakeCatalog>,
    pub target: Arc<TargetTable>,
}

impl QueryService {
    /// Plans the query of a change, in the table's types.
    ///
    /// Errors: those of [`Catalogs::table_to_write`], of [`select_of`] and of planning a query.
    pub(in crate::query) async fn plan_change(
        &self,
        planner: &Planner<'_>,
        statement: &ChangeStatement,
    ) -> Result<PlannedChange> {
        let name = planner.current.table(statement.table.parts())?;
        let (catalog, table) = self.catalogs.table_to_write(planner.context, &name).await?;
        let table = match &statement.branch {
            Some(branch) => Arc::new(table.on_branch(branch)?),
            None => table,
        };
        let select = select_of(statement, &table)?;
        let target = TargetTable::new(table)?;
        let mut planned = planner.plan_change(&select, name, Arc::clone(&target)).await?;
        planned.plan = typed(planned.plan, target.loaded())?;
        Ok(PlannedChange { planned, catalog, target })
    }
}

/// The plan with the columns of the table in its types. Nested ones are left to the writer, which goes by name.
fn typed(plan: LogicalPlan, table: &LoadedTable) -> Result<LogicalPlan> {
    let place = |name: &str, of: DataType| -> FieldRef { Arc::new(Field::new(name, of, true)) };
    let places = [(FILE, DataType::Int64), (POSITION, DataType::Int64), (ANEW, DataType::Boolean)];
    let targets =
        places.map(|(name, of)| place(name, of)).into_iter().chain(table.arrow_schema.fields().iter().cloned());
    let exprs = plan.schema().iter().zip(targets).map(|((qualifier, field), target)| {
        let column = Expr::Column(Column::from((qualifier, field)));
        let stays = field.data_type() == target.data_type() || target.data_type().is_nested();
        let value = if stays { column } else { cast(column, target.data_type().clone()) };
        value.alias(target.name())
    });
    let exprs: Vec<Expr> = exprs.collect();
    LogicalPlanBuilder::from(plan)
        .project(exprs)
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| from_datafusion(&error))
}

/// A change that is to be run.
struct Change {
    catalog: Arc<LakeCatalog>,
    target: Arc<TargetTable>,
    command: RowCommand,
    input: Arc<dyn ExecutionPlan>,
    state: SessionState,
    /// A row that is found twice is an error.
    once: bool,
    always_cluster: bool,
}

impl Run<'_> {
    /// `DELETE`, `UPDATE`, `MERGE`: planned now, run when the row count is asked for.
    pub(in crate::query) async fn change_rows(&self, statement: &ChangeStatement) -> Result<Source> {
        let PlannedChange { planned, catalog, target } = self.service.plan_change(&self.planner(), statement).await?;
        let Planned { plan, state, catalogs } = planned;
        self.tracked.set_catalogs(catalogs);
        let plan = bind(plan, self.parameters.as_ref())?;
        if statement.deletes_all()
            && let Some(changed) = all_files(target.loaded()).await?
        {
            let (tracked, table) = (Arc::clone(&self.tracked), Arc::clone(target.loaded()));
            return Ok(Source::Lazy(Box::pin(async move {
                let leftovers = Leftovers::new(&catalog, &table, &tracked.context.id);
                Ok(one_batch(count_batch(commit(tracked, catalog, &table, changed, leftovers).await?)?))
            })));
        }
        if statement.command != RowCommand::Delete {
            check_assigned(&plan, BEFORE, target.loaded(), &state)?;
        }
        let input = state.create_physical_plan(&plan).await.map_err(|error| from_datafusion(&error))?;
        let (command, once) = (statement.command, statement.may_repeat_rows());
        let always_cluster = self.settings.always_cluster;
        let change = Change { catalog, target, command, input, state, once, always_cluster };
        let (service, tracked) = (Arc::clone(self.service), Arc::clone(&self.tracked));
        Ok(Source::Lazy(Box::pin(async move { Ok(one_batch(count_batch(run(service, tracked, change).await?)?)) })))
    }
}

/// All files of a table as a change that takes them away; `None` where it has deletes, so that its rows must be counted.
async fn all_files(table: &LoadedTable) -> Result<Option<Changed>> {
    let plan = plan_files(table, &[]).await?;
    let rows = plan.files.iter().map(|file| file.record_count).sum();
    let delta = Delta::replacing(&plan, plan.files.clone(), Vec::new());
    Ok(plan.deletes.is_empty().then_some(Changed { delta, needless: Vec::new(), rows }))
}

/// Runs the change to its commit and gives the number of rows that are new, changed, or gone.
async fn run(service: Arc<QueryService>, tracked: Arc<Tracked>, change: Change) -> Result<u64> {
    let Change { catalog, target, command, input, state, once, always_cluster } = change;
    let (table, planned) = (target.loaded(), target.planned());
    let merges_on_read = merges_on_read(table, command)?;
    let plan = row_delta_plan(table, &planned.files, input, &tracked.context.id, once)?;
    let leftovers = Leftovers::new(&catalog, table, &tracked.context.id);
    let answers = collect(&service, &tracked, plan, state.clone(), always_cluster).await?;
    let delta = Delta::of_rows(table, command, &planned, changed_files(&answers, table, &planned.files)?)?;
    let rows = delta.rows();
    let (delta, needless) = if merges_on_read {
        delta.without_needless()
    } else {
        let files = delta.to_rewrite(&planned.files);
        let mut rewritten = Vec::new();
        if !files.files.is_empty() {
            let plan = rewrite_plan(table, files, &state, &tracked.context)?;
            let answers = collect(&service, &tracked, plan, state, always_cluster).await?;
            rewritten = written_files(&answers, table)?;
        }
        delta.rewritten(rewritten)
    };
    commit(tracked, catalog, table, Changed { delta, needless, rows }, leftovers).await
}

/// Runs a plan that writes, and gives its answers.
pub(in crate::query) async fn collect(
    service: &Arc<QueryService>,
    tracked: &Arc<Tracked>,
    plan: Arc<dyn ExecutionPlan>,
    state: SessionState,
    always_cluster: bool,
) -> Result<Vec<RecordBatch>> {
    let rows = Arc::clone(service).run_plan(Arc::clone(tracked), plan, state, always_cluster).await?;
    rows.try_collect().await.map_err(|error| from_datafusion(&error))
}

/// A change that is written.
pub(in crate::query) struct Changed {
    pub delta: Delta,
    /// Files that were written on the way and are not part of it.
    pub needless: Vec<WrittenFile>,
    /// Rows that are new, changed, or gone.
    pub rows: u64,
}

/// Commits the change, once, and gives the number of rows. Like every commit it is not interrupted by a client that goes away.
pub(in crate::query) async fn commit(
    tracked: Arc<Tracked>,
    catalog: Arc<LakeCatalog>,
    table: &Arc<LoadedTable>,
    changed: Changed,
    leftovers: Leftovers,
) -> Result<u64> {
    let Changed { delta, needless, rows } = changed;
    tracked.enter(QueryState::Finishing);
    tracked.count(rows, delta.bytes());
    let (query, table) = (tracked.context.id.clone(), Arc::clone(table));
    let committing = tokio::spawn(async move {
        let leftovers = leftovers.without(delta.added());
        let committed = catalog.commit_delta(&table, &delta, &query).await;
        if committed.is_ok() {
            table.discard(needless).await;
        }
        leftovers.settle(committed.as_ref().err());
        committed
    });
    committing.await.map_err(|error| Error::internal("the commit stopped").with_source(error))??;
    Ok(rows)
}
