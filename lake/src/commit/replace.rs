//! Replacing a table: other columns and only the new rows, in the one commit that an append is too. Until it has happened
//! the table is what it was, and afterwards its old snapshots can still be read.
//!
//! (Dropping the table and making it anew would lose it whenever the second half fails, and no catalog does both at once.)

use std::sync::Arc;

use arrow::datatypes::FieldRef;
use iceberg::spec::{MAIN_BRANCH, SortOrder, TableMetadata, UnboundPartitionSpec};
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, ErrorCode, Result};

use crate::{LoadedTable, schema};

/// Ids that stand for what the same commit has just added.
const LAST_ADDED: i32 = -1;

/// A planned replacement: what is written for [`Replacement::table`] becomes the whole table.
#[derive(Debug, Clone)]
pub struct Replacement {
    /// The table as it will be, for whoever writes its files.
    table: Arc<LoadedTable>,
    /// What makes it so.
    pub(super) change: Change,
}

impl Replacement {
    /// Plans to replace `old` by a table of these columns. Where they are the table's own, it keeps its field ids and its
    /// partitioning; else ids are new (so that old snapshots stay readable) and it is not partitioned any more.
    ///
    /// Errors: `NOT_SUPPORTED` naming a column whose type Iceberg has not, `INVALID_QUERY` for columns that make no table,
    /// `FORMAT_NOT_SUPPORTED` for a table that cannot be written.
    pub(crate) fn plan(old: &LoadedTable, columns: &[FieldRef]) -> Result<Self> {
        let new = schema::from_arrow(columns)?;
        old.check_writable()?;
        let own: Vec<FieldRef> = old.arrow_schema.fields().iter().cloned().collect();
        let stays = schema::from_arrow(&own)?.as_struct() == new.as_struct();
        let mut updates = Vec::new();
        if !stays {
            let new = schema::from_arrow_above(columns, old.metadata.last_column_id())?;
            updates.push(TableUpdate::AddSchema { schema: new });
            updates.push(TableUpdate::SetCurrentSchema { schema_id: LAST_ADDED });
            if !old.metadata.default_partition_spec().fields().is_empty() {
                updates.push(TableUpdate::AddSpec { spec: UnboundPartitionSpec::builder().build() });
                updates.push(TableUpdate::SetDefaultSpec { spec_id: LAST_ADDED });
            }
            if !old.metadata.default_sort_order().is_unsorted() {
                updates.push(TableUpdate::AddSortOrder { sort_order: SortOrder::unsorted_order() });
                updates.push(TableUpdate::SetDefaultSortOrder { sort_order_id: LAST_ADDED.into() });
            }
        }
        let change = Change { updates, planned_for: Layout::of(&old.metadata), table: old.full_name() };
        let metadata = Arc::new(change.apply(&old.metadata)?);
        let iceberg_schema = metadata.current_schema().clone();
        let table = LoadedTable {
            arrow_schema: schema::to_arrow(&iceberg_schema)?,
            iceberg_schema,
            snapshot: None,
            metadata,
            ..old.clone()
        };
        Ok(Self { table: Arc::new(table), change })
    }

    /// The table as it will be: empty, in its new columns.
    pub fn table(&self) -> &Arc<LoadedTable> {
        &self.table
    }
}

/// The updates of a replacement, and the layout of the table that they were made for.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub updates: Vec<TableUpdate>,
    planned_for: Layout,
    table: String,
}

/// What new ids depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layout {
    schema: i32,
    last_column: i32,
    spec: i32,
    last_partition: i32,
    sort_order: i64,
}

impl Layout {
    fn of(metadata: &TableMetadata) -> Self {
        Self {
            schema: metadata.current_schema_id(),
            last_column: metadata.last_column_id(),
            spec: metadata.default_partition_spec_id(),
            last_partition: metadata.last_partition_id(),
            sort_order: metadata.default_sort_order_id(),
        }
    }
}

impl Change {
    /// The metadata of the table after the change: in its new columns, and without a current snapshot.
    ///
    /// Errors: `COMMIT_CONFLICT` when the table's columns are not those any more that the change was made for.
    pub fn apply(&self, base: &TableMetadata) -> Result<TableMetadata> {
        if Layout::of(base) != self.planned_for {
            let message = format!("the columns of table {} were changed by another writer", self.table);
            return Err(Error::new(ErrorCode::CommitConflict, message).with_hint("run the statement again"));
        }
        let invalid = |error: iceberg::Error| {
            let message = format!("table {} cannot be replaced: {}", self.table, error.message());
            Error::new(ErrorCode::InvalidQuery, message)
                .with_hint("drop the table, or write to another one")
                .with_source(error)
        };
        let mut builder = base.clone().into_builder(None);
        for update in &self.updates {
            builder = update.clone().apply(builder).map_err(invalid)?;
        }
        let built = builder.remove_ref(MAIN_BRANCH).build().map_err(invalid)?;
        Ok(built.metadata)
    }

    /// What must still hold when the catalog makes the change, beside what every commit requires.
    pub fn requirements(&self) -> Vec<TableRequirement> {
        let Layout { schema, last_column, spec, last_partition, sort_order } = self.planned_for;
        vec![
            TableRequirement::CurrentSchemaIdMatch { current_schema_id: schema },
            TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: last_column },
            TableRequirement::DefaultSpecIdMatch { default_spec_id: spec },
            TableRequirement::LastAssignedPartitionIdMatch { last_assigned_partition_id: last_partition },
            TableRequirement::DefaultSortOrderIdMatch { default_sort_order_id: sort_order },
        ]
    }
}
