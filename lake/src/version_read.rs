//! Which state of a table a query read, so that another can read the same.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use townlake_common::{Error, ErrorCode, Result};
use uuid::Uuid;

use crate::types::LoadedTable;
use crate::{LakeCatalog, schema};

/// What stands for the snapshot of an empty table.
const NONE: &str = "none";

/// One state of a table. Its text is `snapshot <id>, schema <id>, table <uuid>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRead {
    /// The snapshot; `None`: the table was empty.
    snapshot: Option<i64>,
    /// The schema in which it was read. (A table is read in its current one, not in that of its snapshot.)
    schema: i32,
    /// The table itself: another may have its name by now.
    table: Uuid,
}

impl VersionRead {
    /// What a query reads of a loaded table.
    pub fn of(table: &LoadedTable) -> Self {
        let schema = table.iceberg_schema.schema_id();
        Self { snapshot: table.snapshot_id(), schema, table: table.metadata.uuid() }
    }
}

impl fmt::Display for VersionRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.snapshot {
            Some(snapshot) => write!(f, "snapshot {snapshot}")?,
            None => write!(f, "snapshot {NONE}")?,
        }
        write!(f, ", schema {}, table {}", self.schema, self.table)
    }
}

impl FromStr for VersionRead {
    type Err = Error;

    /// Errors: `INVALID_ARGUMENT` for a text that no [`VersionRead`] has.
    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let (snapshot, rest) = text.strip_prefix("snapshot ")?.split_once(", schema ")?;
            let (schema, table) = rest.split_once(", table ")?;
            let snapshot = if snapshot == NONE { None } else { Some(snapshot.parse().ok()?) };
            Some(Self { snapshot, schema: schema.parse().ok()?, table: table.parse().ok()? })
        };
        read()
            .ok_or_else(|| Error::new(ErrorCode::InvalidArgument, format!("`{text}` is no state of an Iceberg table")))
    }
}

impl LakeCatalog {
    /// The table in a state that was read before; `None`: no such table.
    ///
    /// Errors: `SNAPSHOT_NOT_FOUND` where the state is gone, and those of [`LakeCatalog::load`].
    pub async fn load_again(&self, schema: &str, table: &str, read: &VersionRead) -> Result<Option<Arc<LoadedTable>>> {
        let Some(now) = self.load(schema, table, None).await? else { return Ok(None) };
        as_read(&now, read).map(|table| Some(Arc::new(table)))
    }
}

fn as_read(now: &LoadedTable, read: &VersionRead) -> Result<LoadedTable> {
    let gone = |what: String| {
        Error::new(ErrorCode::SnapshotNotFound, format!("table {}: {what}", now.full_name()))
            .with_hint("what a query read can be read again until its snapshot expires or the table is dropped")
    };
    let metadata = &now.metadata;
    if metadata.uuid() != read.table {
        return Err(gone("another table has its name by now".to_string()));
    }
    let snapshot = match read.snapshot {
        Some(id) => {
            let found = metadata.snapshot_by_id(id).cloned();
            Some(found.ok_or_else(|| gone(format!("the snapshot {id} is not there any more")))?)
        }
        None => None,
    };
    let iceberg_schema = metadata.schema_by_id(read.schema).cloned();
    let iceberg_schema =
        iceberg_schema.ok_or_else(|| gone(format!("the schema {} is not there any more", read.schema)))?;
    Ok(LoadedTable { snapshot, arrow_schema: schema::to_arrow(&iceberg_schema)?, iceberg_schema, ..now.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_is_read_again_and_nothing_else_is() {
        for snapshot in [Some(7), None] {
            let read = VersionRead { snapshot, schema: 2, table: Uuid::from_u128(5) };
            assert_eq!(read.to_string().parse::<VersionRead>().unwrap(), read);
        }
        for text in
            ["", "snapshot", "snapshot x, schema 1, table 5", "snapshot 1, schema 1", "snapshot 1, schema 1, table 5"]
        {
            assert!(text.parse::<VersionRead>().is_err(), "{text}");
        }
    }
}
