//! What a catalog offers for looking after its tables.

use std::collections::{BTreeSet, HashSet};

use townlake_common::{Error, QueryId, Result};

use super::Expiration;
use super::cleanup::{Deleted, delete_unreachable};
use super::manifests::ManifestRewrite;
use super::orphans::{OrphanFile, OrphanSearch, delete_orphans, find_orphans};
use crate::{BranchMove, LakeCatalog, LoadedTable, TableChange, commit, refs};

/// What became of an expiration.
#[derive(Debug, Clone, Default)]
pub struct Expiry {
    /// How many snapshots went.
    pub snapshots: u64,
    /// How many branches and tags went.
    pub references: u64,
    /// How many files went with them.
    pub files: Deleted,
}

impl LakeCatalog {
    /// Makes a branch name another snapshot. Returns the one that it named and the one that it names now.
    ///
    /// Errors: `SNAPSHOT_NOT_FOUND`, `INVALID_QUERY`; those of [`LakeCatalog::alter_table`].
    pub async fn move_branch(&self, table: &LoadedTable, change: BranchMove) -> Result<(Option<i64>, Option<i64>)> {
        let branch = change.branch.clone();
        let altered = commit::alter(self.tables(), table, &[TableChange::MoveBranch(change)]).await?;
        let named = |metadata| refs::all(metadata).get(&branch).map(|reference| reference.snapshot_id);
        Ok(match &altered {
            Some(altered) => (named(&altered.before), named(&altered.after)),
            None => (named(&table.metadata), named(&table.metadata)),
        })
    }

    /// Takes old snapshots, branches and tags out of a table and deletes the files that only they led to. `pinned` tells
    /// which snapshots running queries read; it is asked again before files are deleted, for a query may have begun
    /// meanwhile.
    ///
    /// Errors: those of [`LakeCatalog::alter_table`]; `NOT_SUPPORTED` where `gc.enabled` is false. Where the files cannot
    /// be told, the snapshots are gone and the error says so.
    pub async fn expire_snapshots(
        &self,
        table: &LoadedTable,
        expiration: Expiration,
        pinned: impl Fn() -> BTreeSet<i64> + Send,
    ) -> Result<Expiry> {
        let expiration = Expiration { pinned: pinned(), ..expiration };
        let changes = [TableChange::ExpireSnapshots(expiration)];
        let Some(altered) = commit::alter(self.tables(), table, &changes).await? else { return Ok(Expiry::default()) };
        let (before, after) = (altered.before, altered.after);
        let kept: HashSet<i64> = pinned().into_iter().collect();
        let files = delete_unreachable(table, &before, &after, &kept).await.map_err(|error| {
            let message = format!("snapshots of {} are expired, but their files are left", table.full_name());
            Error::new(error.code(), message).with_hint("remove_orphan_files finds them later").with_source(error)
        })?;
        let fewer = |before: usize, after: usize| before.saturating_sub(after) as u64;
        Ok(Expiry {
            snapshots: fewer(before.snapshots().len(), after.snapshots().len()),
            references: fewer(refs::all(&before).len(), refs::all(&after).len()),
            files,
        })
    }

    /// The files in a table's folder that nothing leads to, deleted unless `dry_run`.
    ///
    /// Errors: `INVALID_ARGUMENT` for files younger than 24 hours; `NOT_SUPPORTED` where another table has files there or
    /// `gc.enabled` is false; `DATA_CORRUPT` and those of the object store, before anything is deleted.
    pub async fn remove_orphan_files(
        &self,
        table: &LoadedTable,
        search: OrphanSearch,
        dry_run: bool,
    ) -> Result<Vec<OrphanFile>> {
        let orphans = find_orphans(self, table, &search).await?;
        match dry_run {
            true => Ok(orphans),
            false => Ok(delete_orphans(table, orphans).await),
        }
    }

    /// Merges small manifests. Returns how many there were, and the id of the snapshot; `None` where there is nothing to
    /// merge.
    ///
    /// Errors: `COMMIT_CONFLICT` where one of them was replaced meanwhile; those of [`LakeCatalog::commit_append`].
    pub async fn rewrite_manifests(&self, table: &LoadedTable, query: &QueryId) -> Result<Option<(usize, i64)>> {
        table.check_writable()?;
        let rewrite = ManifestRewrite::plan(table).await?;
        let merged = commit::merge_manifests(self.tables(), table, &rewrite, query).await?;
        Ok(merged.map(|snapshot| (rewrite.replaced().len(), snapshot)))
    }
}
