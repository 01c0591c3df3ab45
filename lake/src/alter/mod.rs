//! `ALTER TABLE`: what a statement changes, as what Iceberg's catalogs take (requirements and updates).
//!
//! A change is planned against the table as it is at that moment, and planned anew whenever another writer was faster: so
//! what is refused (a name that is taken, a column that partitions the table) is refused by the state that counts.

mod columns;
mod fields;
mod partitioning;
mod properties;
mod references;
mod snapshots;
mod sorting;
#[cfg(test)]
mod tests;

use arrow::datatypes::{DataType, FieldRef};
use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, Result};

use self::columns::Columns;
pub use self::snapshots::{BranchMove, SnapshotChoice};
pub use self::sorting::SortKey;
pub(crate) use self::sorting::sort_order;
use crate::PartitionField;
use crate::maintenance::Expiration;

/// Stands for what the same commit has just added.
const LAST_ADDED: i32 = -1;

/// One change of a table. A path names a column, or a field inside of it: the fields of a struct by their names, those of
/// lists and maps by `element`, `key` and `value`.
#[derive(Debug, Clone, PartialEq)]
pub enum TableChange {
    /// `ADD COLUMN`. The column may be NULL: rows that are there have no value for it.
    AddColumn {
        /// Where; the last part is the new name.
        path: Vec<String>,
        /// Its type, and its comment as metadata (`comment`).
        column: FieldRef,
        /// Among its siblings; `None`: last.
        position: Option<Position>,
        /// Do nothing when the name is taken.
        if_not_exists: bool,
    },
    /// `DROP COLUMN`.
    DropColumn {
        /// Which.
        path: Vec<String>,
        /// Do nothing when it is not there.
        if_exists: bool,
    },
    /// `RENAME COLUMN`.
    RenameColumn {
        /// Which.
        path: Vec<String>,
        /// Its new name.
        to: String,
    },
    /// `ALTER COLUMN … TYPE`.
    SetType {
        /// Which.
        path: Vec<String>,
        /// A type that every value of the old one has.
        to: DataType,
    },
    /// `ALTER COLUMN … DROP NOT NULL`.
    DropNotNull {
        /// Which.
        path: Vec<String>,
    },
    /// `ALTER COLUMN … FIRST | AFTER`.
    MoveColumn {
        /// Which.
        path: Vec<String>,
        /// Its new place.
        position: Position,
    },
    /// `COMMENT ON COLUMN`.
    CommentColumn {
        /// Which.
        path: Vec<String>,
        /// `None`: no comment any more.
        comment: Option<String>,
    },
    /// `COMMENT ON TABLE`.
    Comment(Option<String>),
    /// `SET PROPERTIES`.
    SetProperties(Vec<(String, String)>),
    /// `UNSET PROPERTIES`.
    UnsetProperties {
        /// Which.
        keys: Vec<String>,
        /// Say nothing of those that are not set.
        if_exists: bool,
    },
    /// `CREATE BRANCH` and `CREATE TAG`.
    CreateReference(CreateReference),
    /// `DROP BRANCH` and `DROP TAG`.
    DropReference {
        /// Its name.
        name: String,
        /// Which of the two is meant.
        kind: ReferenceKind,
        /// Do nothing when there is none.
        if_exists: bool,
    },
    /// A branch names another snapshot: `rollback_to_snapshot` and its kin.
    MoveBranch(BranchMove),
    /// `expire_snapshots`: old snapshots, branches and tags go.
    ExpireSnapshots(Expiration),
    /// `WRITE ORDERED BY`, `WRITE UNORDERED` (no keys): for what is written from now on.
    SetSortOrder(Vec<SortKey>),
    /// `ADD PARTITION FIELD`: for what is written from now on.
    AddPartitionField {
        /// The column and its transform.
        field: PartitionField,
        /// `AS name`; by default made of the column and the transform.
        name: Option<String>,
    },
    /// `DROP PARTITION FIELD`: for what is written from now on.
    DropPartitionField(DropPartitionField),
}

/// A place among the fields of one struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// Before all others.
    First,
    /// Behind this one.
    After(String),
}

/// A branch moves with what is written to it; a tag stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceKind {
    /// A line of snapshots.
    Branch,
    /// A name of one snapshot.
    Tag,
}

/// A branch or tag to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateReference {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ReferenceKind,
    /// The snapshot; `None`: the current one.
    pub snapshot: Option<i64>,
    /// What happens when the name is taken.
    pub if_taken: IfTaken,
    /// `RETAIN`: how long it lives, in milliseconds.
    pub max_age_ms: Option<i64>,
    /// Snapshots that a branch keeps.
    pub min_snapshots: Option<i32>,
    /// How long a branch keeps them, in milliseconds.
    pub max_snapshot_age_ms: Option<i64>,
}

/// What happens when the name of a new branch or tag is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfTaken {
    /// An error.
    Refuse,
    /// Nothing.
    Keep,
    /// The old one goes.
    Replace,
}

/// How `DROP PARTITION FIELD` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropPartitionField {
    /// By its name, or as a column that partitions by its values.
    Named(String),
    /// By what it is made of.
    Made(PartitionField),
}

/// What a commit does to a table.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub requirements: Vec<TableRequirement>,
    pub updates: Vec<TableUpdate>,
}

impl Plan {
    /// What makes these changes, all or none, of the table as it is. Without updates there is nothing to do.
    ///
    /// Errors: `COLUMN_NOT_FOUND`, `ALREADY_EXISTS`, `SNAPSHOT_NOT_FOUND`, `NOT_SUPPORTED` for what would make old rows
    /// unreadable, `INVALID_QUERY`, `INVALID_ARGUMENT`; each names the table and the thing at fault.
    pub fn of(metadata: &TableMetadata, changes: &[TableChange], table: &str) -> Result<Self> {
        let mut plan = Self::default();
        let mut columns = Columns::of(metadata, table);
        for change in changes {
            if columns.apply(change)? {
                continue;
            }
            match change {
                TableChange::Comment(comment) => plan.comment(comment.as_deref(), metadata),
                TableChange::SetProperties(properties) => {
                    crate::properties::check(properties.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
                    plan.set_properties(properties, table)?;
                }
                TableChange::UnsetProperties { keys, if_exists } => {
                    plan.unset_properties(keys, *if_exists, metadata, table)?;
                }
                TableChange::CreateReference(create) => plan.create_reference(create, metadata, table)?,
                TableChange::DropReference { name, kind, if_exists } => {
                    plan.drop_reference(name, *kind, *if_exists, metadata, table)?;
                }
                TableChange::MoveBranch(change) => plan.move_branch(change, metadata, table)?,
                TableChange::SetSortOrder(keys) => plan.set_sort_order(keys, metadata, table)?,
                TableChange::ExpireSnapshots(expiration) => plan.expire_snapshots(expiration, metadata, table)?,
                TableChange::AddPartitionField { field, name } => {
                    plan.add_partition_field(field, name.as_deref(), metadata, table)?;
                }
                TableChange::DropPartitionField(field) => plan.drop_partition_field(field, metadata, table)?,
                _ => return Err(Error::internal("a change of columns was taken for another one")),
            }
        }
        columns.finish(&mut plan)?;
        if !plan.updates.is_empty() {
            plan.requirements.insert(0, TableRequirement::UuidMatch { uuid: metadata.uuid() });
        }
        Ok(plan)
    }

    /// The metadata after the change.
    ///
    /// Errors: `INVALID_QUERY` with what the format has against it.
    pub fn apply(&self, metadata: &TableMetadata, table: &str) -> Result<TableMetadata> {
        let invalid = |error: iceberg::Error| {
            let message = format!("table {table} cannot be changed so: {}", error.message());
            Error::new(ErrorCode::InvalidQuery, message).with_source(error)
        };
        let mut builder = metadata.clone().into_builder(None);
        for update in &self.updates {
            builder = update.clone().apply(builder).map_err(invalid)?;
        }
        Ok(builder.build().map_err(invalid)?.metadata)
    }
}
