//! `TRUNCATE`, and `INSERT OVERWRITE`, which replaces the partitions that its rows belong to.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::sql::sqlparser::ast::{Statement as AstStatement, Truncate};
use townlake_common::{Error, Result};
use townlake_lake::{Delta, LakeCatalog, Leftovers, LoadedTable, WrittenFile, plan_files};

use super::run::{Changed, commit};
use super::statement::refuse_if;
use crate::query::parse::name_of;
use crate::query::registry::Tracked;
use crate::query::service::{Run, command_batch};
use crate::query::statement::{Name, Statement};

/// Takes a parsed `TRUNCATE TABLE`.
///
/// Errors: `NOT_SUPPORTED` naming the clause.
pub(in crate::query) fn parse_truncate(ast: AstStatement) -> Result<Statement> {
    let AstStatement::Truncate(Truncate { table_names, partitions, if_exists, identity, cascade, on_cluster, .. }) =
        ast
    else {
        return Err(Error::internal("another statement was taken for a TRUNCATE"));
    };
    refuse_if(table_names.len() != 1, "TRUNCATE of several tables")?;
    refuse_if(partitions.is_some(), "TRUNCATE with PARTITION")?;
    let others = identity.is_some() || cascade.is_some() || on_cluster.is_some() || if_exists;
    refuse_if(others, "TRUNCATE with more than the name of a table")?;
    let name = table_names.first().map(|target| name_of(&target.name));
    let table = name.unwrap_or_else(|| Err(Error::internal("a TRUNCATE has no table")))?;
    Ok(Statement::Truncate { table })
}

impl Run<'_> {
    /// `TRUNCATE`: the table is empty, and its old snapshots stay.
    pub(in crate::query) async fn truncate(&self, name: &Name) -> Result<RecordBatch> {
        let name = self.planner().current.table(name.parts())?;
        self.tracked.set_catalogs(vec![name.catalog.clone()]);
        let (catalog, table) = self.service.catalogs.table_to_write(&self.tracked.context, &name).await?;
        table.check_writable()?;
        let plan = plan_files(&table, &[]).await?;
        let delta = Delta::replacing(&plan, plan.files.clone(), Vec::new());
        let leftovers = Leftovers::new(&catalog, &table, &self.tracked.context.id);
        let changed = Changed { delta, needless: Vec::new(), rows: 0 };
        commit(Arc::clone(&self.tracked), catalog, &table, changed, leftovers).await?;
        command_batch("TRUNCATE TABLE")
    }
}

/// Commits what an `INSERT OVERWRITE` has written, in place of what its partitions had.
///
/// Errors: `NOT_SUPPORTED` for a table that has files of another partition spec.
pub(in crate::query) async fn commit_overwrite(
    tracked: Arc<Tracked>,
    catalog: Arc<LakeCatalog>,
    table: &Arc<LoadedTable>,
    files: Vec<WrittenFile>,
    leftovers: Leftovers,
) -> Result<u64> {
    let plan = plan_files(table, &[]).await?;
    let delta = Delta::overwriting(table, &plan, files)?;
    let rows = delta.rows();
    commit(tracked, catalog, table, Changed { delta, needless: Vec::new(), rows }, leftovers).await
}
