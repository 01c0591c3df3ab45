//! Appends: what tasks wrote becomes one snapshot, once per query, whatever happens on the way.
//!
//! Each attempt starts from the table as it is now and first looks for a snapshot of this query: so a commit whose answer
//! was lost is found, and never made twice. Retrying is safe even while an earlier attempt may still be under way, since
//! both compare with the same old state and only one of them can win.

mod snapshot;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use iceberg::spec::{MAIN_BRANCH, Snapshot, SnapshotReference, SnapshotRetention, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, QueryId, Result};

use self::snapshot::{Append, QUERY_ID};
use crate::catalog::{Catalog, CommitOutcome, TableHead, TableName};
use crate::{LoadedTable, WrittenFile};

/// How long a commit is tried.
const DEADLINE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Appends files to the table's main branch and returns the id of the snapshot; `None` without files.
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
    let mut commit = Commit { catalog, table, files: &files, query, append: None, looked: false, unknown: false };
    let result = commit.run().await;
    if result.is_err() {
        commit.clean_up().await;
    }
    result.map(Some)
}

struct Commit<'a> {
    catalog: &'a dyn Catalog,
    table: &'a LoadedTable,
    files: &'a [WrittenFile],
    query: &'a QueryId,
    /// The manifest, once it is written.
    append: Option<Append<'a>>,
    /// Whether the table was seen without a commit of this query. Before that an earlier call may have made it.
    looked: bool,
    /// Whether an attempt may have happened unseen: then no file is deleted.
    unknown: bool,
}

impl<'a> Commit<'a> {
    async fn run(&mut self) -> Result<i64> {
        let name = TableName::new(&self.table.schema, &self.table.table);
        let until = Instant::now() + DEADLINE;
        let mut pause = FIRST_PAUSE;
        for attempt in 0.. {
            let base = match self.base(&name).await {
                Ok(base) => base,
                Err(error) if self.unknown && error.is_retryable() && Instant::now() < until => {
                    wait(&mut pause).await;
                    continue;
                }
                Err(error) => return Err(self.explain(error)),
            };
            if let Some(id) = committed_by(&base.metadata, self.query) {
                return Ok(id);
            }
            if self.append.is_none() {
                self.append = Some(self.prepare(&base.metadata).await?);
            }
            let Some(append) = &self.append else { break };
            let snapshot = append.write_list(&base.metadata, attempt).await.map_err(|error| self.explain(error))?;
            let list = snapshot.manifest_list().to_string();
            let (requirements, updates) = changes(&base.metadata, snapshot);
            let error = match self.catalog.commit(&name, &base, requirements, updates).await {
                CommitOutcome::Committed => return Ok(append.snapshot_id),
                CommitOutcome::Rejected(error) => {
                    self.table.objects.discard(vec![list]).await;
                    return Err(self.explain(error));
                }
                CommitOutcome::Conflict(error) => {
                    self.table.objects.discard(vec![list]).await;
                    error
                }
                CommitOutcome::Unknown(error) => {
                    self.unknown = true;
                    error
                }
            };
            tracing::debug!(table = %self.table.full_name(), query = %self.query, attempt, ?error, "commit not done yet");
            if Instant::now() >= until {
                return Err(self.explain(error));
            }
            wait(&mut pause).await;
        }
        Err(Error::internal("a commit ended without an outcome"))
    }

    /// The table as it is now, if it still is the table that was written for.
    async fn base(&mut self, name: &TableName) -> Result<TableHead> {
        let head = self.catalog.load(name).await?;
        self.looked = true;
        let Some(head) = head else {
            let message = format!("table {} does not exist any more", self.table.full_name());
            return Err(Error::new(ErrorCode::TableNotFound, message));
        };
        if head.metadata.uuid() != self.table.metadata.uuid() {
            let message = format!("table {} was dropped and created anew", self.table.full_name());
            return Err(Error::new(ErrorCode::CommitConflict, message).with_hint("run the statement again"));
        }
        let current = LoadedTable {
            snapshot: head.metadata.current_snapshot().cloned(),
            iceberg_schema: head.metadata.current_schema().clone(),
            metadata: head.metadata.clone(),
            ..self.table.clone()
        };
        current.check_writable()?;
        Ok(head)
    }

    /// Deletes the files of a definite failure: no snapshot names them, and none will.
    async fn clean_up(&self) {
        if self.unknown || !self.looked {
            let table = self.table.full_name();
            tracing::warn!(%table, query = %self.query, "the state of a commit is unknown, its files are kept");
            return;
        }
        if let Some(append) = &self.append {
            append.discard().await;
        }
        let orphans = self.files.iter().map(|file| file.data_file.file_path().to_string()).collect();
        self.table.objects.discard(orphans).await;
    }

    async fn prepare(&self, base: &TableMetadata) -> Result<Append<'a>> {
        // What the tasks wrote follows the spec that the table had when it was loaded.
        let spec = self.table.metadata.default_partition_spec_id();
        Append::prepare(&self.table.objects, self.query, base, spec, self.files).await
    }

    fn explain(&self, error: Error) -> Error {
        if self.unknown {
            let message = format!("nobody knows whether the rows were added to table {}", self.table.full_name());
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

async fn wait(pause: &mut Duration) {
    let jitter = rand::random_range(0.5..1.5);
    tokio::time::sleep(pause.mul_f64(jitter)).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

/// The snapshot that this query has committed already.
fn committed_by(metadata: &TableMetadata, query: &QueryId) -> Option<i64> {
    let ours = |snapshot: &&iceberg::spec::SnapshotRef| {
        snapshot.summary().additional_properties.get(QUERY_ID).is_some_and(|id| id == query.as_str())
    };
    metadata.snapshots().find(ours).map(|snapshot| snapshot.snapshot_id())
}

fn changes(base: &TableMetadata, snapshot: Snapshot) -> (Vec<TableRequirement>, Vec<TableUpdate>) {
    let requirements = vec![
        TableRequirement::UuidMatch { uuid: base.uuid() },
        TableRequirement::RefSnapshotIdMatch {
            r#ref: MAIN_BRANCH.to_string(),
            snapshot_id: base.current_snapshot_id(),
        },
    ];
    let reference = SnapshotReference::new(snapshot.snapshot_id(), retention_of_main(base));
    let updates = vec![
        TableUpdate::AddSnapshot { snapshot },
        TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_string(), reference },
    ];
    (requirements, updates)
}

/// The branch keeps its retention. The crate shows references only in the JSON of the metadata.
fn retention_of_main(base: &TableMetadata) -> SnapshotRetention {
    let none = || SnapshotRetention::branch(None, None, None);
    let Ok(json) = serde_json::to_value(base) else { return none() };
    let reference = json.get("refs").and_then(|refs| refs.get(MAIN_BRANCH)).cloned();
    let reference = reference.and_then(|reference| serde_json::from_value::<SnapshotReference>(reference).ok());
    reference.map_or_else(none, |reference| reference.retention)
}
