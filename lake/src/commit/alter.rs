//! Changes of a table without rows. Each attempt plans against the table as it is, so a change that another writer has made
//! impossible is refused as if it had been asked for later.
//!
//! When a catalog does not tell whether it made a change, the table tells: either it is what the change would have made of
//! it, or it is still what it was, and then trying again is safe, for both attempts compare with the same old state. (Two who
//! ask for the very same change at once may so both be told that it is made.)

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iceberg::spec::TableMetadata;
use townlake_common::{Error, ErrorCode, Result};

use super::{FIRST_PAUSE, LIMITS, wait};
use crate::alter::{Plan, TableChange};
use crate::catalog::{Catalog, CommitOutcome, TableHead, TableName};
use crate::{LoadedTable, refs};

/// What a table was, and what it is after a change.
pub(crate) struct Altered {
    pub before: Arc<TableMetadata>,
    pub after: TableMetadata,
}

/// Makes the changes, all or none. `None`: there was nothing to do.
///
/// Errors: what the changes themselves are refused with; `COMMIT_CONFLICT` when the table was dropped and made anew or too
/// many others wrote; `COMMIT_STATE_UNKNOWN`; `TABLE_NOT_FOUND`; those of catalog and object store.
pub(crate) async fn alter(
    catalog: &dyn Catalog,
    table: &LoadedTable,
    changes: &[TableChange],
) -> Result<Option<Altered>> {
    alter_within(LIMITS.attempts, catalog, table, changes).await
}

async fn alter_within(
    limit: Duration,
    catalog: &dyn Catalog,
    table: &LoadedTable,
    changes: &[TableChange],
) -> Result<Option<Altered>> {
    let (name, full_name) = (TableName::new(&table.schema, &table.table), table.full_name());
    let until = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    // What the table is if the attempt before has happened after all: also a conflict may be a proxy's that asked twice.
    let mut wanted: Option<Altered> = None;
    let mut in_doubt = false;
    loop {
        let failure = match attempt(catalog, table, &name, changes, &mut wanted).await {
            Ok(Outcome::Done(altered)) => return Ok(altered.map(|altered| *altered)),
            Ok(Outcome::Failed { error, unknown, wanted: would_be }) => {
                wanted = Some(*would_be);
                in_doubt |= unknown;
                error.retryable()
            }
            // the look failed, not the change
            Err(error) if in_doubt && error.is_retryable() => error,
            Err(error) => return Err(doubtful(error, in_doubt, &full_name)),
        };
        if Instant::now() >= until {
            return Err(doubtful(failure, in_doubt, &full_name));
        }
        tracing::debug!(table = %full_name, error = ?failure, "a change of a table is not done yet");
        wait(&mut pause).await;
    }
}

enum Outcome {
    Done(Option<Box<Altered>>),
    /// For now. `unknown`: it may have happened, or may yet.
    Failed {
        error: Error,
        unknown: bool,
        wanted: Box<Altered>,
    },
}

async fn attempt(
    catalog: &dyn Catalog,
    table: &LoadedTable,
    name: &TableName,
    changes: &[TableChange],
    before: &mut Option<Altered>,
) -> Result<Outcome> {
    let full_name = table.full_name();
    let gone = || Error::new(ErrorCode::TableNotFound, format!("table {full_name} does not exist any more"));
    let head = catalog.load(name).await?.ok_or_else(gone)?;
    if before.as_ref().is_some_and(|wanted| is_as(&head.metadata, &wanted.after)) {
        return Ok(Outcome::Done(before.take().map(Box::new)));
    }
    check(table, &head)?;
    let plan = Plan::of(&head.metadata, changes, &full_name)?;
    if plan.updates.is_empty() {
        return Ok(Outcome::Done(None));
    }
    let after = plan.apply(&head.metadata, &full_name)?;
    let wanted = Box::new(Altered { before: Arc::clone(&head.metadata), after });
    match catalog.commit(name, &head, plan.requirements, plan.updates).await {
        CommitOutcome::Committed => Ok(Outcome::Done(Some(wanted))),
        CommitOutcome::Rejected(error) => Err(error),
        CommitOutcome::Conflict(error) => Ok(Outcome::Failed { error, unknown: false, wanted }),
        CommitOutcome::Unknown(error) => Ok(Outcome::Failed { error, unknown: true, wanted }),
    }
}

/// Whether it still is the table that was asked for, and one that we may write.
fn check(table: &LoadedTable, head: &TableHead) -> Result<()> {
    if head.metadata.uuid() != table.metadata.uuid() {
        let message = format!("table {} was dropped and created anew", table.full_name());
        return Err(Error::new(ErrorCode::CommitConflict, message).with_hint("run the statement again"));
    }
    LoadedTable {
        snapshot: head.metadata.current_snapshot().cloned(),
        iceberg_schema: head.metadata.current_schema().clone(),
        metadata: head.metadata.clone(),
        ..table.clone()
    }
    .check_writable()
}

/// Whether a table has the columns, layout, properties, branches, tags and snapshots of another state of it.
fn is_as(metadata: &TableMetadata, wanted: &TableMetadata) -> bool {
    metadata.current_schema().as_struct() == wanted.current_schema().as_struct()
        && metadata.default_partition_spec().fields() == wanted.default_partition_spec().fields()
        && metadata.default_sort_order().fields == wanted.default_sort_order().fields
        && metadata.properties() == wanted.properties()
        && refs::all(metadata) == refs::all(wanted)
        && snapshots(metadata) == snapshots(wanted)
}

fn snapshots(metadata: &TableMetadata) -> BTreeSet<i64> {
    metadata.snapshots().map(|snapshot| snapshot.snapshot_id()).collect()
}

fn doubtful(error: Error, in_doubt: bool, table: &str) -> Error {
    if !in_doubt {
        return error;
    }
    let message = format!("nobody knows whether table {table} was changed");
    Error::new(ErrorCode::CommitStateUnknown, message)
        .with_hint("DESCRIBE it, and see what it is now")
        .with_source(error)
}
