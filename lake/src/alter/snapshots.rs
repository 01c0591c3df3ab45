//! Which snapshot a branch names, and which snapshots there are.

use std::collections::BTreeMap;

use iceberg::spec::{MAIN_BRANCH, SnapshotReference, SnapshotRetention, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, Result};

use super::Plan;
use crate::lake_catalog::no_such_reference;
use crate::maintenance::{Expiration, ancestors};
use crate::refs;

/// A branch that is to name another snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchMove {
    /// Its name.
    pub branch: String,
    /// Where to.
    pub to: SnapshotChoice,
}

/// A snapshot, seen from a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotChoice {
    /// One of its own past.
    Past(i64),
    /// The one of its own past that was the last one at this time, in milliseconds since the epoch.
    PastAt(i64),
    /// Any of the table.
    Any(i64),
    /// What this branch or tag names.
    Named(String),
    /// What this branch or tag names, if the branch has only to go forward for it.
    Ahead(String),
}

impl Plan {
    pub(super) fn move_branch(&mut self, change: &BranchMove, metadata: &TableMetadata, table: &str) -> Result<()> {
        let BranchMove { branch, to } = change;
        let all = refs::all(metadata);
        let now = all.get(branch);
        if now.is_some_and(|now| !now.is_branch()) {
            let message = format!("`{branch}` of table {table} is a tag, which stays where it is");
            return Err(Error::new(ErrorCode::InvalidQuery, message));
        }
        let snapshot_id = chosen(to, branch, &all, metadata, table)?;
        if now.is_some_and(|now| now.snapshot_id == snapshot_id) {
            return Ok(());
        }
        let retention = now.map_or_else(|| SnapshotRetention::branch(None, None, None), |now| now.retention.clone());
        let reference = SnapshotReference::new(snapshot_id, retention);
        self.updates.push(TableUpdate::SetSnapshotRef { ref_name: branch.clone(), reference });
        let snapshot_id = now.map(|now| now.snapshot_id);
        self.requirements.push(TableRequirement::RefSnapshotIdMatch { r#ref: branch.clone(), snapshot_id });
        Ok(())
    }

    pub(super) fn expire_snapshots(
        &mut self,
        expiration: &Expiration,
        metadata: &TableMetadata,
        table: &str,
    ) -> Result<()> {
        let expired = expiration.of(metadata, table)?;
        if expired.snapshots.is_empty() && expired.references.is_empty() {
            return Ok(());
        }
        // What is named must still be what it was when the snapshots were counted.
        for (name, reference) in refs::all(metadata) {
            let snapshot_id = Some(reference.snapshot_id);
            self.requirements.push(TableRequirement::RefSnapshotIdMatch { r#ref: name, snapshot_id });
        }
        let references = expired.references.into_iter();
        self.updates.extend(references.map(|ref_name| TableUpdate::RemoveSnapshotRef { ref_name }));
        if !expired.snapshots.is_empty() {
            self.updates.push(TableUpdate::RemoveSnapshots { snapshot_ids: expired.snapshots });
        }
        Ok(())
    }
}

fn chosen(
    to: &SnapshotChoice,
    branch: &str,
    all: &BTreeMap<String, SnapshotReference>,
    metadata: &TableMetadata,
    table: &str,
) -> Result<i64> {
    let missing = |message: String| Error::new(ErrorCode::SnapshotNotFound, message);
    let head = all.get(branch).map(|reference| reference.snapshot_id);
    let mut past = ancestors(metadata, head);
    let named = |name: &str| {
        let reference = all.get(name).ok_or_else(|| no_such_reference(metadata, name, table))?;
        Ok::<_, Error>(reference.snapshot_id)
    };
    match to {
        SnapshotChoice::Any(id) if metadata.snapshot_by_id(*id).is_some() => Ok(*id),
        SnapshotChoice::Past(id) if past.any(|snapshot| snapshot.snapshot_id() == *id) => Ok(*id),
        SnapshotChoice::Past(id) if metadata.snapshot_by_id(*id).is_some() => {
            Err(missing(format!("the snapshot {id} of table {table} is not in the past of the branch `{branch}`"))
                .with_hint("set_current_snapshot takes any snapshot of the table"))
        }
        SnapshotChoice::Any(id) | SnapshotChoice::Past(id) => {
            Err(missing(format!("table {table} does not have the snapshot {id}"))
                .with_hint("\"table$snapshots\" lists them"))
        }
        SnapshotChoice::PastAt(time) => past
            .find(|snapshot| snapshot.timestamp_ms() <= *time)
            .map(|snapshot| snapshot.snapshot_id())
            .ok_or_else(|| {
                let at = chrono::DateTime::from_timestamp_millis(*time).map(|time| time.to_rfc3339());
                let at = at.unwrap_or_else(|| format!("{time} ms"));
                missing(format!("the branch `{branch}` of table {table} has no snapshot as old as {at}"))
                    .with_hint("\"table$snapshots\" lists them")
            }),
        SnapshotChoice::Named(name) => named(name),
        SnapshotChoice::Ahead(name) => {
            let target = named(name)?;
            let is_ahead = ancestors(metadata, Some(target)).any(|snapshot| Some(snapshot.snapshot_id()) == head);
            if head.is_none() && branch == MAIN_BRANCH || head.is_some() && !is_ahead {
                let message = format!("`{name}` of table {table} does not continue the branch `{branch}`");
                return Err(Error::new(ErrorCode::InvalidQuery, message)
                    .with_hint("the branch has snapshots that are not in the past of the other one"));
            }
            Ok(target)
        }
    }
}
