//! Appends, changes of rows, and replacements: what tasks wrote becomes one snapshot, once per query, whatever happens on the
//! way.
//!
//! Each attempt starts from the table as it is now and first looks for a snapshot of this query: so a commit whose answer
//! was lost is found, and never made twice. Retrying is safe even while an earlier attempt may still be under way, since
//! both compare with the same old state and only one of them can win. No failed attempt is the end: a last look follows
//! it, for an answer may be wrong too (a proxy that sends a request twice says "conflict" of a commit that happened).

mod alter;
mod conflicts;
mod delta;
#[cfg(test)]
mod delta_tests;
mod merging;
mod removal;
mod replace;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iceberg::spec::{
    MAIN_BRANCH, Operation, Snapshot, SnapshotRef, SnapshotReference, SnapshotRetention, TableMetadata,
};
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, QueryId, Result, fault};

pub(crate) use self::alter::alter;
pub use self::delta::{Delta, RowCommand, merges_on_read};
use self::replace::Change;
pub use self::replace::Replacement;
use self::snapshot::{Attempt, Draft, Going, QUERY_ID};
use crate::catalog::{Catalog, CommitOutcome, TableHead, TableName};
use crate::maintenance::ManifestRewrite;
use crate::{LoadedTable, WrittenFile, refs};

pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a commit takes at most, beside the requests that are on their way.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// For attempts: none begins later.
    attempts: Duration,
    /// For looking what became of an attempt without an answer, from its end on. It may have used up all of the other
    /// limit: one request to a REST catalog may take as long.
    looks: Duration,
}

const LIMITS: Limits = Limits { attempts: Duration::from_secs(60), looks: Duration::from_secs(60) };

/// Appends files to the table's branch and returns the id of the snapshot; `None` without files.
///
/// After a definite failure the files are deleted. Errors: `COMMIT_CONFLICT` when the table was dropped and made anew or
/// too many others wrote; `COMMIT_STATE_UNKNOWN` when the catalog does not tell whether the commit happened (the files
/// are kept); `TABLE_NOT_FOUND`; `FORMAT_NOT_SUPPORTED`; those of catalog and object store.
pub(crate) async fn append(
    catalog: &dyn Catalog,
    table: &LoadedTable,
    files: Vec<WrittenFile>,
    query: &QueryId,
) -> Result<Option<i64>> {
    if files.is_empty() {
        return Ok(None);
    }
    once(LIMITS, catalog, table, What::Append, &files, query).await.map(Some)
}

/// Appends files that were there before and are not ours, and sets properties of the table with them: whatever becomes of the
/// commit, none of the files is deleted.
///
/// Errors: as [`append`].
pub(crate) async fn import(
    catalog: &dyn Catalog,
    table: &LoadedTable,
    files: Vec<WrittenFile>,
    properties: &HashMap<String, String>,
    query: &QueryId,
) -> Result<i64> {
    once(LIMITS, catalog, table, What::Import(properties), &files, query).await
}

/// Makes a change of rows and returns the id of the snapshot; `None` where nothing changes.
///
/// Errors: as [`append`]; also `COMMIT_CONFLICT` when others changed what the statement has read so that its change would
/// undo theirs.
pub(crate) async fn change(
    catalog: &dyn Catalog,
    table: &LoadedTable,
    delta: &Delta,
    query: &QueryId,
) -> Result<Option<i64>> {
    if delta.is_empty() {
        return Ok(None);
    }
    once(LIMITS, catalog, table, What::Delta(delta), &delta.added, query).await.map(Some)
}

/// Makes the files the whole table, in its new columns, and returns the id of the snapshot. No files: the table is empty.
///
/// Errors: as [`append`]; also `COMMIT_CONFLICT` when the table's columns were changed meanwhile.
pub(crate) async fn replace(
    catalog: &dyn Catalog,
    replacement: &Replacement,
    files: Vec<WrittenFile>,
    query: &QueryId,
) -> Result<i64> {
    once(LIMITS, catalog, replacement.table(), What::Replacement(&replacement.change), &files, query).await
}

/// Merges manifests and returns the id of the snapshot; `None` where there is nothing to merge.
///
/// Errors: as [`append`]; also `COMMIT_CONFLICT` when one of the manifests was replaced meanwhile.
pub(crate) async fn merge_manifests(
    catalog: &dyn Catalog,
    table: &LoadedTable,
    rewrite: &ManifestRewrite,
    query: &QueryId,
) -> Result<Option<i64>> {
    if rewrite.bins.is_empty() {
        return Ok(None);
    }
    once(LIMITS, catalog, table, What::Manifests(rewrite), &[], query).await.map(Some)
}

/// What is done to the table.
#[derive(Clone, Copy)]
enum What<'a> {
    /// Files are added to what is there.
    Append,
    /// As [`What::Append`], with files that are not ours, and with these properties.
    Import(&'a HashMap<String, String>),
    /// Files come and go.
    Delta(&'a Delta),
    /// The table is changed, and the files are all that it has.
    Replacement(&'a Change),
    /// Manifests take the place of others, files stay.
    Manifests(&'a ManifestRewrite),
}

impl What<'_> {
    fn replacement(&self) -> Option<&Change> {
        match self {
            Self::Replacement(change) => Some(change),
            _ => None,
        }
    }

    fn delta(&self) -> Option<&Delta> {
        match self {
            Self::Delta(delta) => Some(delta),
            _ => None,
        }
    }
}

async fn once(
    limits: Limits,
    catalog: &dyn Catalog,
    table: &LoadedTable,
    what: What<'_>,
    files: &[WrittenFile],
    query: &QueryId,
) -> Result<i64> {
    let mut commit = Commit {
        catalog,
        table,
        what,
        files,
        query,
        until: Instant::now() + limits.attempts,
        looks: limits.looks,
        draft: None,
        refused: Vec::new(),
        absent: false,
        unknown_until: None,
    };
    let result = commit.run().await;
    commit.clean_up(result.as_ref().ok()).await;
    result.map(|committed| committed.snapshot_id)
}

/// The snapshot that holds the rows.
struct Committed {
    snapshot_id: i64,
    list: String,
}

struct Commit<'a> {
    catalog: &'a dyn Catalog,
    table: &'a LoadedTable,
    what: What<'a>,
    files: &'a [WrittenFile],
    query: &'a QueryId,
    /// No attempt begins later.
    until: Instant,
    /// How long an attempt without an answer is looked for.
    looks: Duration,
    /// The manifests of the files, once they are written.
    draft: Option<Draft<'a>>,
    /// What attempts wrote that the catalog refused, each with its manifest list last.
    refused: Vec<Vec<String>>,
    /// Whether the table was seen without a commit of this query since the last attempt. Before the first one an earlier
    /// call may have made it.
    absent: bool,
    /// Set when an attempt may have happened unseen, or may yet: then no file is deleted. Until when it is looked for.
    unknown_until: Option<Instant>,
}

impl<'a> Commit<'a> {
    async fn run(&mut self) -> Result<Committed> {
        let name = TableName::new(&self.table.schema, &self.table.table);
        let mut pause = FIRST_PAUSE;
        let mut failure: Option<Error> = None;
        for attempt in 0.. {
            let head = match self.look(&name).await {
                Ok(head) => head,
                Err(error) if error.is_retryable() && self.may_look_again() => {
                    wait(&mut pause).await;
                    continue;
                }
                Err(error) => return Err(self.explain(error)),
            };
            if let Some(snapshot) = committed_by(&head.metadata, self.query) {
                let (snapshot_id, list) = (snapshot.snapshot_id(), snapshot.manifest_list().to_string());
                return Ok(Committed { snapshot_id, list });
            }
            self.absent = true;
            match failure.take() {
                Some(error) if Instant::now() >= self.until => {
                    if !self.may_look_again() {
                        return Err(self.explain(error));
                    }
                    failure = Some(error);
                }
                _ => match self.attempt(&name, &head, attempt).await {
                    Ok(committed) => return Ok(committed),
                    Err(Failed::Finally(error)) => return Err(self.explain(error)),
                    Err(Failed::ForNow(error)) => {
                        let table = self.table.full_name();
                        tracing::debug!(%table, query = %self.query, attempt, ?error, "commit not done yet");
                        failure = Some(error);
                    }
                },
            }
            wait(&mut pause).await;
        }
        Err(Error::internal("a commit ended without an outcome"))
    }

    async fn attempt(
        &mut self,
        name: &TableName,
        head: &TableHead,
        attempt: usize,
    ) -> std::result::Result<Committed, Failed> {
        fault::point("commit.begin");
        let current = self.current(head)?;
        if let Some(delta) = self.what.delta() {
            conflicts::check(self.table, &current, delta).await?;
        }
        let draft = match self.draft.take() {
            Some(draft) => draft,
            None => self.prepare(&current).await?,
        };
        let draft = self.draft.insert(draft);
        fault::point("commit.manifests");
        let (nothing, no_manifests) = (HashSet::new(), HashSet::new());
        let (going, operation) = match self.what {
            What::Append | What::Import(_) | What::Replacement(_) => {
                (Going { files: &nothing, manifests: no_manifests }, Operation::Append)
            }
            What::Delta(delta) => (Going { files: &delta.removed, manifests: no_manifests }, delta.operation.clone()),
            What::Manifests(rewrite) => (Going { files: &nothing, manifests: rewrite.replaced() }, Operation::Replace),
        };
        let Attempt { snapshot, written } = draft.write_list(&current, attempt, &going, operation).await?;
        fault::point("commit.list");
        let committed = Committed { snapshot_id: draft.snapshot_id, list: snapshot.manifest_list().to_string() };
        let branch = &self.table.branch;
        let (requirements, updates) = changes(&head.metadata, branch, self.what, snapshot);
        let outcome = self.catalog.commit(name, head, requirements, updates).await;
        fault::point("commit.done");
        self.absent = matches!(outcome, CommitOutcome::Rejected(_));
        match outcome {
            CommitOutcome::Committed => Ok(committed),
            CommitOutcome::Rejected(error) => {
                self.refused.push(written);
                Err(Failed::Finally(error))
            }
            CommitOutcome::Conflict(error) => {
                self.refused.push(written);
                Err(Failed::ForNow(error))
            }
            CommitOutcome::Unknown(error) => {
                self.unknown_until = Some(Instant::now() + self.looks);
                Err(Failed::ForNow(error))
            }
        }
    }

    fn may_look_again(&self) -> bool {
        self.unknown_until.is_some_and(|until| Instant::now() < until)
    }

    /// The table as it is now.
    async fn look(&mut self, name: &TableName) -> Result<TableHead> {
        let head = self.catalog.load(name).await?;
        head.ok_or_else(|| {
            self.absent = true;
            let message = format!("table {} does not exist any more", self.table.full_name());
            Error::new(ErrorCode::TableNotFound, message)
        })
    }

    /// The table as the change finds it, if it still is the one that was written for.
    fn current(&self, head: &TableHead) -> Result<LoadedTable> {
        if head.metadata.uuid() != self.table.metadata.uuid() {
            let message = format!("table {} was dropped and created anew", self.table.full_name());
            return Err(Error::new(ErrorCode::CommitConflict, message).with_hint("run the statement again"));
        }
        let branch = &self.table.branch;
        let snapshot = refs::head(&head.metadata, branch).cloned();
        if snapshot.is_none() && branch != MAIN_BRANCH {
            let message = format!("table {} does not have the branch `{branch}` any more", self.table.full_name());
            return Err(Error::new(ErrorCode::CommitConflict, message));
        }
        let current = LoadedTable {
            snapshot,
            iceberg_schema: head.metadata.current_schema().clone(),
            metadata: head.metadata.clone(),
            ..self.table.clone()
        };
        current.check_writable()?;
        match self.what.replacement() {
            Some(change) => {
                Ok(LoadedTable { snapshot: None, metadata: Arc::new(change.apply(&head.metadata)?), ..current })
            }
            None => Ok(current),
        }
    }

    /// Deletes what no snapshot names and none will: the lists of attempts in vain, after a definite failure everything.
    async fn clean_up(&mut self, committed: Option<&Committed>) {
        let mut refused = std::mem::take(&mut self.refused);
        if let Some(committed) = committed {
            refused.retain(|written| written.last() != Some(&committed.list));
        }
        let mut orphans: Vec<String> = refused.into_iter().flatten().collect();
        match committed {
            Some(_) => {}
            None if self.unknown_until.is_some() || !self.absent => {
                let table = self.table.full_name();
                tracing::warn!(%table, query = %self.query, "the state of a commit is unknown, its files are kept");
                return;
            }
            None => {
                orphans.extend(self.draft.iter().flat_map(Draft::manifests).map(str::to_string));
                if !matches!(self.what, What::Import(_)) {
                    orphans.extend(self.files.iter().map(|file| file.data_file.file_path().to_string()));
                }
            }
        }
        self.table.objects.discard(orphans).await;
    }

    async fn prepare(&self, base: &LoadedTable) -> Result<Draft<'a>> {
        if let What::Manifests(rewrite) = self.what {
            return Draft::merging(self.table, self.query, base, rewrite).await;
        }
        let sequence_number = self.what.delta().and_then(|delta| delta.sequence_number);
        Draft::prepare(&self.table.objects, self.query, &base.metadata, self.files, sequence_number).await
    }

    fn explain(&self, error: Error) -> Error {
        if self.unknown_until.is_some() {
            let message = format!("nobody knows whether the change of table {} was made", self.table.full_name());
            return Error::new(ErrorCode::CommitStateUnknown, message)
                .with_hint(format!("look for {QUERY_ID} = {} in the table's snapshots", self.query))
                .with_source(error);
        }
        match error.code() {
            ErrorCode::CommitConflict => error.retryable(),
            _ => error,
        }
    }
}

/// Why an attempt did not succeed.
enum Failed {
    /// Another may.
    ForNow(Error),
    /// No other will.
    Finally(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Finally(error)
    }
}

pub(crate) async fn wait(pause: &mut Duration) {
    let jitter = rand::random_range(0.5..1.5);
    tokio::time::sleep(pause.mul_f64(jitter)).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

/// Whether a snapshot of the table as it is now holds rows of this query. A table that is gone has none.
pub(crate) async fn is_committed(catalog: &dyn Catalog, name: &TableName, query: &QueryId) -> Result<bool> {
    let head = catalog.load(name).await?;
    Ok(head.is_some_and(|head| committed_by(&head.metadata, query).is_some()))
}

/// The snapshot that this query has committed already.
fn committed_by<'a>(metadata: &'a TableMetadata, query: &QueryId) -> Option<&'a SnapshotRef> {
    metadata
        .snapshots()
        .find(|snapshot| snapshot.summary().additional_properties.get(QUERY_ID).is_some_and(|id| id == query.as_str()))
}

fn changes(
    base: &TableMetadata,
    branch: &str,
    what: What<'_>,
    snapshot: Snapshot,
) -> (Vec<TableRequirement>, Vec<TableUpdate>) {
    let mut requirements = vec![
        TableRequirement::UuidMatch { uuid: base.uuid() },
        TableRequirement::RefSnapshotIdMatch {
            r#ref: branch.to_string(),
            snapshot_id: refs::head(base, branch).map(|snapshot| snapshot.snapshot_id()),
        },
    ];
    let reference = SnapshotReference::new(snapshot.snapshot_id(), retention_of(branch, base));
    let mut updates = match what {
        What::Replacement(change) => {
            requirements.extend(change.requirements());
            change.updates.clone()
        }
        What::Import(properties) if !properties.is_empty() => {
            vec![TableUpdate::SetProperties { updates: properties.clone() }]
        }
        _ => Vec::new(),
    };
    updates.push(TableUpdate::AddSnapshot { snapshot });
    updates.push(TableUpdate::SetSnapshotRef { ref_name: branch.to_string(), reference });
    (requirements, updates)
}

/// The branch keeps its retention.
fn retention_of(branch: &str, base: &TableMetadata) -> SnapshotRetention {
    let none = || SnapshotRetention::branch(None, None, None);
    refs::all(base).remove(branch).map_or_else(none, |reference| reference.retention)
}
