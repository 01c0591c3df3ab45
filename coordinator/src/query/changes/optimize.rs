//! `optimize`: the same rows in fewer and bigger files, without deletes.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::sqlparser::ast::{Expr, Statement as AstStatement};
use townlake_common::{Error, ErrorCode, Result};
use townlake_engine::error::from_datafusion;
use townlake_engine::identifier::quoted;
use townlake_lake::{
    Checksums, Clustering, Compaction, Delta, FilePlan, LakeCatalog, Leftovers, LoadedTable, RowOrder, Which,
    plan_compaction, rewrite_plan, written_files,
};

use super::run::{Changed, collect, commit};
use super::statement::parse_change;
use crate::catalogs::TableName;
use crate::query::depth::check_depth;
use crate::query::distinct_from::{put_back, with_operators};
use crate::query::parse::{expect_end, parse_ast, parse_error, parser};
use crate::query::service::Run;
use crate::query::statement::Statement;
use crate::query::tokens::tokens_of_one_statement;

/// Files below this size are small, unless the statement says otherwise: Trino's default.
pub(in crate::query) const SMALL_FILE_BYTES: u64 = 100 << 20;

/// What is to be written anew.
#[derive(Debug, Clone)]
pub(in crate::query) struct Optimization {
    /// Files below this size are small, in bytes.
    pub threshold: u64,
    /// The order of the rows over all files, which are then all written anew.
    pub order: Option<RowOrder>,
    /// How large new files become, in bytes; `None`: as the table says.
    pub target: Option<u64>,
    /// A condition: files that have no row of it are left alone.
    pub filter: Option<String>,
}

/// What was written anew.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::query) struct Optimized {
    pub rewritten_files: usize,
    pub added_files: usize,
    /// Of the files that are gone.
    pub rewritten_bytes: u64,
}

impl Run<'_> {
    /// Writes small files and those with deletes anew.
    pub(in crate::query) async fn optimize(&self, name: &TableName, wanted: &Optimization) -> Result<Optimized> {
        let context = &self.tracked.context;
        let (catalog, table, among) = self.to_optimize(name, wanted).await?;
        catalog.check_maintained_by_us()?;
        table.check_writable()?;
        let table = match wanted.target {
            Some(bytes) => Arc::new(table.with_target_file_bytes(bytes)?),
            None => table,
        };
        let clustering = wanted.order.as_ref().map(|order| Clustering::new(&table, order)).transpose()?;
        let which = if clustering.is_some() { Which::All } else { Which::Small { threshold: wanted.threshold } };
        let compaction = plan_compaction(&table, which, among.as_ref()).await?;
        let gone = compaction.chosen.files.clone();
        if gone.is_empty() {
            return Ok(Optimized::default());
        }
        let mut state = self.planner().empty_state();
        // Each task writes files of its own: more tasks than the rows need files would leave small ones again.
        let tasks = self.settings.target_partitions.min(compaction.files_needed).max(1);
        let plan = match &clustering {
            Some(clustering) => self.clustered(&table, clustering, &compaction, tasks).await?,
            None => {
                state.config_mut().options_mut().execution.target_partitions = tasks;
                rewrite_plan(&table, compaction.chosen.clone(), &state, context)?
            }
        };
        let leftovers = Leftovers::new(&catalog, &table, &context.id);
        let always_cluster = self.settings.always_cluster;
        let answers = collect(self.service, &self.tracked, plan, state, always_cluster).await?;
        let written = written_files(&answers, &table)?;
        let before = self.checksums(&table, compaction.chosen).await?;
        before.check_rewritten(&self.checksums(&table, Checksums::written(&written)).await?, &table)?;
        let done = Optimized {
            rewritten_files: gone.len(),
            added_files: written.len(),
            rewritten_bytes: gone.iter().map(|file| file.size).sum(),
        };
        let delta = Delta::compacting(&table, &compaction.all, gone, written)?;
        let rows = delta.rows();
        commit(Arc::clone(&self.tracked), catalog, &table, Changed { delta, needless: Vec::new(), rows }, leftovers)
            .await?;
        Ok(done)
    }

    /// The plan that writes the rows of these files in an order over all of them, after a look at some of the rows.
    async fn clustered(
        &self,
        table: &LoadedTable,
        clustering: &Clustering,
        compaction: &Compaction,
        tasks: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (files, context) = (&compaction.chosen, &self.tracked.context);
        let state = self.planner().empty_state();
        let plan = clustering.sample_plan(table, files.clone(), &state, context)?;
        let samples = collect(self.service, &self.tracked, plan, state, self.settings.always_cluster).await?;
        let ranges = clustering.ranges(&samples, tasks)?;
        clustering.rewrite_plan(table, files.clone(), ranges, &self.planner().empty_state(), context)
    }

    /// The sums of the rows of these files, as executors read them.
    async fn checksums(&self, table: &LoadedTable, files: FilePlan) -> Result<Checksums> {
        let state = self.planner().empty_state();
        let plan = Checksums::plan(table, files, &state, &self.tracked.context)?;
        let answers = collect(self.service, &self.tracked, plan, state, self.settings.always_cluster).await?;
        Checksums::of(&answers)
    }

    /// The table, and those of its files that may have rows of the condition.
    async fn to_optimize(
        &self,
        name: &TableName,
        wanted: &Optimization,
    ) -> Result<(Arc<LakeCatalog>, Arc<LoadedTable>, Option<FilePlan>)> {
        let Some(filter) = &wanted.filter else {
            let (catalog, table) = self.service.catalogs.table_to_write(&self.tracked.context, name).await?;
            return Ok((catalog, table, None));
        };
        // Which files those are is what a DELETE of these rows would read.
        let invalid = |error: Error| {
            let message = format!("where: '{filter}' is not a condition of table {name}: {}", error.message());
            Error::new(ErrorCode::InvalidArgument, message).with_source(error)
        };
        let delete = delete_where(name, filter).map_err(invalid)?;
        let Statement::Change(delete) = parse_change(delete)? else {
            return Err(Error::internal("a DELETE is no change of rows"));
        };
        let planned = self.service.plan_change(&self.planner(), &delete).await?;
        let (plan, state) = (&planned.planned.plan, &planned.planned.state);
        state.create_physical_plan(plan).await.map_err(|error| invalid(from_datafusion(&error)))?;
        let files = planned.target.planned().files;
        Ok((planned.catalog, Arc::clone(planned.target.loaded()), Some(files)))
    }
}

fn delete_where(name: &TableName, filter: &str) -> Result<AstStatement> {
    let condition = condition(filter)?;
    let [catalog, schema, table] = [&name.catalog, &name.schema, &name.table].map(|part| quoted(part));
    let delete = tokens_of_one_statement(&format!("DELETE FROM {catalog}.{schema}.{table}"))?;
    let mut statement = parse_ast(&delete)?;
    if let AstStatement::Delete(delete) = &mut statement {
        delete.selection = Some(condition);
    }
    Ok(statement)
}

fn condition(text: &str) -> Result<Expr> {
    let tokens = tokens_of_one_statement(text)?;
    check_depth(&tokens)?;
    let tokens = with_operators(&tokens);
    let mut parser = parser(&tokens);
    let mut condition = parser.parse_expr().map_err(|error| parse_error(&tokens, &parser, error))?;
    expect_end(&tokens, &mut parser)?;
    put_back(&mut condition);
    Ok(condition)
}
