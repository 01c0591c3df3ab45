//! The lake: Iceberg tables as DataFusion tables, read and written in parallel and committed once.
//!
//! What lies where: [`LakeCatalog`] finds, creates and commits tables (SQL catalog shared with pyiceberg, or REST);
//! [`LoadedView`] is a query that a catalog keeps; [`MetadataTable`] is what `"t$files"` and its kin
//! show; `maintenance` looks after old snapshots and files, `import` takes Parquet files in; [`LakeObjects`] holds one object-store client per catalog and bucket, and `vending` those of tables whose keys the catalog vends; `plan` turns a snapshot's manifests into the data
//! files that a query must read; `scan` and `write` are the physical nodes that read and write them, `clustering` brings rows
//! together in files; [`codec`] carries the nodes to executors.
//!
//! The crate `iceberg` gives the format only (metadata, manifests, transforms). It stands on an older Arrow, so none of
//! its Arrow types appear here: schemas and bounds cross by hand (`schema`, `plan::bounds`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod alter;
mod catalog;
mod checksum;
mod clustering;
pub mod codec;
mod commit;
mod compaction;
#[cfg(test)]
mod damage_tests;
mod format;
#[cfg(test)]
mod fuzz_tests;
mod import;
mod lake_catalog;
mod leftovers;
mod location;
mod maintenance;
mod metadata_tables;
mod objects;
pub mod plan;
mod properties;
mod refs;
mod s3;
pub mod scan;
pub mod schema;
mod synced_files;
mod table;
mod target_table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod types;
mod vending;
mod version_read;
mod view;
mod whole_ranges;
mod write;

pub use alter::{
    BranchMove, CreateReference, DropPartitionField, IfTaken, Position, ReferenceKind, SnapshotChoice, SortKey,
    TableChange,
};
pub use checksum::Checksums;
pub use clustering::{Clustering, Ranges, RowOrder};
pub use commit::{Delta, Replacement, RowCommand, merges_on_read};
pub use compaction::{Compaction, Which, plan_compaction};
pub use import::Imported;
pub use lake_catalog::LakeCatalog;
pub use leftovers::Leftovers;
pub use maintenance::{Deleted, Expiration, Expiry, OrphanFile, OrphanSearch, PositionDeletes};
pub use metadata_tables::MetadataTable;
pub use objects::{LakeObjects, ObjectAccess};
pub use plan::plan_files;
pub use scan::places::{FILE, POSITION};
pub use table::LakeTable;
pub use target_table::{PlannedTarget, TargetTable};
pub use types::{
    ColumnBounds, CreateTable, DeleteFile, DeleteKind, FileEntry, FilePlan, LoadedTable, PartitionField,
    PinnedSnapshot, PlannedFile, TableVersion, WrittenFile,
};
pub use version_read::VersionRead;
pub use view::{CreateView, LoadedView};
pub use write::{WRITTEN_FILES_SCHEMA, changed_files, rewrite_plan, row_delta_plan, write_plan, written_files};
