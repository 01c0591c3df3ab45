//! `ALTER TABLE … EXECUTE optimize`: the same rows in fewer and bigger files, without deletes.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use townlake_common::Result;
use townlake_lake::{Delta, Leftovers, plan_compaction, rewrite_plan, written_files};

use super::run::{Changed, collect, commit};
use crate::catalogs::TableName;
use crate::query::service::{Run, command_batch};

/// Files below this size are small, unless the statement says otherwise: Trino's default.
pub(in crate::query) const SMALL_FILE_BYTES: u64 = 100 << 20;

impl Run<'_> {
    /// Writes small files and those with deletes anew.
    pub(in crate::query) async fn optimize(&self, name: &TableName, threshold: u64) -> Result<RecordBatch> {
        let context = &self.tracked.context;
        let (catalog, table) = self.service.catalogs.table_to_write(context, name).await?;
        table.check_writable()?;
        let compaction = plan_compaction(&table, threshold).await?;
        let gone = compaction.chosen.files.clone();
        if gone.is_empty() {
            return command_batch("OPTIMIZE: nothing to do");
        }
        let mut state = self.planner().empty_state();
        // Each task writes files of its own: more tasks than the rows need files would leave small ones again.
        let tasks = self.settings.target_partitions.min(compaction.files_needed).max(1);
        state.config_mut().options_mut().execution.target_partitions = tasks;
        let plan = rewrite_plan(&table, compaction.chosen, &state, context)?;
        let leftovers = Leftovers::new(&catalog, &table, &context.id);
        let answers = collect(self.service, &self.tracked, plan, state, self.settings.always_cluster).await?;
        let written = written_files(&answers, &table)?;
        let done = format!("OPTIMIZE: {} files became {}", gone.len(), written.len());
        let delta = Delta::compacting(&table, &compaction.all, gone, written)?;
        let rows = delta.rows();
        commit(Arc::clone(&self.tracked), catalog, &table, Changed { delta, needless: Vec::new(), rows }, leftovers)
            .await?;
        command_batch(done)
    }
}
