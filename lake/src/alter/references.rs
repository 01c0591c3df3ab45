//! Branches and tags: names of snapshots.

use iceberg::spec::{MAIN_BRANCH, SnapshotReference, SnapshotRetention, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, Result};

use super::{CreateReference, IfTaken, Plan, ReferenceKind};
use crate::lake_catalog::no_such_reference;
use crate::refs;

impl ReferenceKind {
    fn of(reference: &SnapshotReference) -> Self {
        if reference.is_branch() { Self::Branch } else { Self::Tag }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Branch => "branch",
            Self::Tag => "tag",
        }
    }
}

impl CreateReference {
    fn retention(&self) -> SnapshotRetention {
        match self.kind {
            ReferenceKind::Tag => SnapshotRetention::Tag { max_ref_age_ms: self.max_age_ms },
            ReferenceKind::Branch => {
                SnapshotRetention::branch(self.min_snapshots, self.max_snapshot_age_ms, self.max_age_ms)
            }
        }
    }
}

impl Plan {
    pub(super) fn create_reference(
        &mut self,
        create: &CreateReference,
        metadata: &TableMetadata,
        table: &str,
    ) -> Result<()> {
        let name = &create.name;
        let there = refs::all(metadata).remove(name);
        if let Some(there) = &there {
            match create.if_taken {
                IfTaken::Keep => return Ok(()),
                IfTaken::Replace if ReferenceKind::of(there) == create.kind && name != MAIN_BRANCH => {}
                IfTaken::Refuse | IfTaken::Replace => {
                    let kind = ReferenceKind::of(there).as_str();
                    let message = format!("table {table} has the {kind} `{name}` already");
                    return Err(Error::new(ErrorCode::AlreadyExists, message));
                }
            }
        }
        let snapshot_id = snapshot_of(create, metadata, table)?;
        let reference = SnapshotReference::new(snapshot_id, create.retention());
        self.updates.push(TableUpdate::SetSnapshotRef { ref_name: name.clone(), reference });
        let snapshot_id = there.map(|there| there.snapshot_id);
        self.requirements.push(TableRequirement::RefSnapshotIdMatch { r#ref: name.clone(), snapshot_id });
        Ok(())
    }

    pub(super) fn drop_reference(
        &mut self,
        name: &str,
        kind: ReferenceKind,
        if_exists: bool,
        metadata: &TableMetadata,
        table: &str,
    ) -> Result<()> {
        if name == MAIN_BRANCH {
            let message = format!("the branch `{name}` of table {table} is the table itself");
            return Err(Error::new(ErrorCode::InvalidQuery, message).with_hint("DROP TABLE drops it"));
        }
        let there = match refs::all(metadata).remove(name) {
            Some(there) => there,
            None if if_exists => return Ok(()),
            None => return Err(no_such_reference(metadata, name, table)),
        };
        let is = ReferenceKind::of(&there);
        if is != kind {
            let message = format!("`{name}` of table {table} is a {}, not a {}", is.as_str(), kind.as_str());
            let hint = format!("ALTER TABLE … DROP {}", is.as_str().to_uppercase());
            return Err(Error::new(ErrorCode::InvalidQuery, message).with_hint(hint));
        }
        self.updates.push(TableUpdate::RemoveSnapshotRef { ref_name: name.to_string() });
        let snapshot_id = Some(there.snapshot_id);
        self.requirements.push(TableRequirement::RefSnapshotIdMatch { r#ref: name.to_string(), snapshot_id });
        Ok(())
    }
}

fn snapshot_of(create: &CreateReference, metadata: &TableMetadata, table: &str) -> Result<i64> {
    let missing = |message: String, hint: &str| Err(Error::new(ErrorCode::SnapshotNotFound, message).with_hint(hint));
    match (create.snapshot, metadata.current_snapshot_id()) {
        (Some(id), _) if metadata.snapshot_by_id(id).is_some() => Ok(id),
        (Some(id), _) => {
            missing(format!("table {table} does not have the snapshot {id}"), "\"table$snapshots\" lists them")
        }
        (None, Some(id)) => Ok(id),
        (None, None) => missing(format!("table {table} is empty: it has no snapshot"), "insert rows first"),
    }
}
