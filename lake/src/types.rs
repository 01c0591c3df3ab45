//! What the parts of the lake hand to each other.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::ScalarValue;
use iceberg::spec::{DataFile, MAIN_BRANCH, SnapshotRef, Struct, TableMetadata};
use townlake_common::{Error, ErrorCode, Result};
use uuid::Uuid;

use crate::lake_catalog::no_such_reference;
use crate::plan::file_bounds::FileBounds;
use crate::write::TARGET_FILE_BYTES;
use crate::{ObjectAccess, SortKey, refs};

/// Which state of a table a query asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableVersion {
    /// This snapshot.
    SnapshotId(i64),
    /// What was current at this time, in milliseconds since the epoch (UTC).
    TimestampMillis(i64),
    /// The head of this branch, or this tag.
    Reference(String),
}

impl fmt::Display for TableVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SnapshotId(id) => write!(f, "FOR VERSION AS OF {id}"),
            Self::Reference(name) => write!(f, "FOR VERSION AS OF '{name}'"),
            Self::TimestampMillis(ms) => write!(f, "FOR TIMESTAMP AS OF {ms}"),
        }
    }
}

/// A table as one query sees it: pinned to one snapshot of one metadata file.
#[derive(Clone)]
pub struct LoadedTable {
    /// The catalog's name in the configuration.
    pub catalog: String,
    /// The schema (Iceberg: namespace; levels joined by `.`).
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// The whole metadata.
    pub metadata: Arc<TableMetadata>,
    /// Where that metadata lies: the value that a commit compares and swaps.
    pub metadata_location: String,
    /// The snapshot to read; `None` while the table is empty.
    pub snapshot: Option<SnapshotRef>,
    /// The columns for Arrow. Each field at every depth carries `PARQUET:field_id` and no other metadata.
    pub arrow_schema: SchemaRef,
    /// The columns for Iceberg: the snapshot's schema for a snapshot, time or tag, else the current one.
    pub iceberg_schema: iceberg::spec::SchemaRef,
    /// How to reach the table's files.
    pub objects: ObjectAccess,
    /// The branch that is written to.
    pub branch: String,
}

impl LoadedTable {
    /// Whether the main branch is written to.
    pub fn is_main(&self) -> bool {
        self.branch == MAIN_BRANCH
    }

    /// The table as its branch has it, to be written there.
    ///
    /// Errors: `SNAPSHOT_NOT_FOUND` where there is no such branch, `INVALID_QUERY` for a tag.
    pub fn on_branch(&self, name: &str) -> Result<Self> {
        let table = self.full_name();
        let Some(reference) = refs::all(&self.metadata).remove(name) else {
            return Err(no_such_reference(&self.metadata, name, &table));
        };
        if !reference.is_branch() {
            let message = format!("`{name}` of table {table} is a tag: nothing is written to it");
            return Err(Error::new(ErrorCode::InvalidQuery, message));
        }
        Ok(Self {
            snapshot: self.metadata.snapshot_by_id(reference.snapshot_id).cloned(),
            iceberg_schema: self.metadata.current_schema().clone(),
            branch: name.to_string(),
            ..self.clone()
        })
    }

    /// The same table, as if it wanted data files of this size. Only for writing: no catalog is told.
    ///
    /// Errors: `INTERNAL`, which metadata that was read does not give.
    pub fn with_target_file_bytes(&self, bytes: u64) -> Result<Self> {
        let property = HashMap::from([(TARGET_FILE_BYTES.to_string(), bytes.to_string())]);
        let built = self.metadata.as_ref().clone().into_builder(None).set_properties(property);
        let built = built.and_then(iceberg::spec::TableMetadataBuilder::build);
        let built = built.map_err(|error| Error::internal("a property cannot be set").with_source(error))?;
        Ok(Self { metadata: Arc::new(built.metadata), ..self.clone() })
    }

    /// A number of the snapshot's summary (`total-records`), where it says one.
    pub fn summary_number(&self, key: &str) -> Option<i64> {
        self.snapshot.as_ref()?.summary().additional_properties.get(key)?.parse().ok()
    }

    /// `catalog.schema.table`, for messages and plans.
    pub fn full_name(&self) -> String {
        format!("{}.{}.{}", self.catalog, self.schema, self.table)
    }

    /// The columns for people: as they are for Arrow, with their comments as metadata (`comment`).
    pub fn described(&self) -> SchemaRef {
        crate::schema::with_comments(&self.arrow_schema, &self.iceberg_schema)
    }

    /// Refuses what would be read wrongly (encryption, nested default values), as far as metadata tells.
    ///
    /// Errors: `FORMAT_NOT_SUPPORTED` naming table and feature.
    pub fn check_readable(&self) -> Result<()> {
        crate::format::check_readable(self)
    }

    /// Refuses what cannot be appended to (format version 3, an unknown partition transform).
    ///
    /// Errors: `FORMAT_NOT_SUPPORTED` naming table and feature.
    pub fn check_writable(&self) -> Result<()> {
        crate::format::check_writable(self)
    }

    /// Deletes files of the table that no snapshot names. What cannot be deleted is logged and stays behind.
    pub async fn discard(&self, files: Vec<WrittenFile>) {
        self.objects.discard(files.iter().map(|file| file.data_file.file_path().to_string()).collect()).await;
    }

    /// The id of the pinned snapshot.
    pub fn snapshot_id(&self) -> Option<i64> {
        self.snapshot.as_ref().map(|snapshot| snapshot.snapshot_id())
    }
}

impl fmt::Debug for LoadedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedTable")
            .field("name", &self.full_name())
            .field("metadata_location", &self.metadata_location)
            .field("snapshot", &self.snapshot_id())
            .finish_non_exhaustive()
    }
}

/// A snapshot that a query reads, for as long as the query's pin of it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinnedSnapshot {
    table: Uuid,
    snapshot: i64,
}

impl PinnedSnapshot {
    /// That of a loaded table; `None` while the table is empty.
    pub fn of(table: &LoadedTable) -> Option<Self> {
        table.snapshot_id().map(|snapshot| Self { table: table.metadata.uuid(), snapshot })
    }

    /// The snapshot's id, if it is one of this table.
    pub fn in_table(&self, table: &LoadedTable) -> Option<i64> {
        (self.table == table.metadata.uuid()).then_some(self.snapshot)
    }
}

/// What the manifest knows of one column of one data file. Bounds have the Arrow type of the table's column.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ColumnBounds {
    /// How many values are null; `None`: the writer did not say.
    pub null_count: Option<u64>,
    /// No value is below.
    pub lower: Option<ScalarValue>,
    /// No value is above.
    pub upper: Option<ScalarValue>,
    /// Whether every value that is not null equals `lower` and `upper`. Else the bounds are bounds only: Iceberg does not
    /// promise that they are values of the column, so they must never be taken for its minimum and maximum.
    pub exact: bool,
}

/// One live data file of a snapshot, as a plan has it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PlannedFile {
    entry: Arc<FileEntry>,
    /// The delete files that apply to this file, as indices of [`FilePlan::deletes`], ascending.
    pub deletes: Vec<usize>,
}

impl PlannedFile {
    pub(crate) fn new(entry: Arc<FileEntry>) -> Self {
        Self { entry, deletes: Vec::new() }
    }
}

impl Deref for PlannedFile {
    type Target = FileEntry;

    fn deref(&self) -> &FileEntry {
        &self.entry
    }
}

#[cfg(test)]
impl std::ops::DerefMut for PlannedFile {
    fn deref_mut(&mut self) -> &mut FileEntry {
        Arc::make_mut(&mut self.entry)
    }
}

/// What a manifest says of one data file.
#[derive(Debug, Clone)]
pub struct FileEntry {
    /// The file's URI as the manifest has it.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Rows.
    pub record_count: u64,
    /// The partition spec that `partition` follows.
    pub spec_id: i32,
    /// The partition's values, in the order of the spec.
    pub partition: Struct,
    /// The sequence number that deletes compare with.
    pub data_sequence_number: i64,
    /// Offsets of the row groups, ascending; may be empty.
    pub split_offsets: Vec<u64>,
    /// By field id: what columns read as that the file does not have and that their bounds cannot say exactly.
    pub constants: BTreeMap<i32, ScalarValue>,
    /// The bounds of all files of the manifest, and the number of this one in them.
    pub(crate) bounds: (Arc<FileBounds>, usize),
}

impl FileEntry {
    /// What is known of the column with this field id. That of an identity partition has exact bounds from the partition.
    pub fn column(&self, id: i32) -> ColumnBounds {
        let (bounds, number) = &self.bounds;
        bounds.of(*number, id)
    }

    #[cfg(test)]
    pub(crate) fn set_column(&mut self, id: i32, of: ColumnBounds) {
        let (bounds, number) = &self.bounds;
        let mut all = bounds.all_of(*number);
        all.insert(id, of);
        self.bounds = (Arc::new(FileBounds::new(&[all])), 0);
    }
}

/// One live delete file of a snapshot, or one deletion vector in such a file.
#[derive(Debug, Clone)]
pub struct DeleteFile {
    /// The file's URI as the manifest has it.
    pub path: String,
    /// Bytes of the whole file.
    pub size: u64,
    /// The partition spec that `partition` follows.
    pub spec_id: i32,
    /// The partition's values, in the order of the spec.
    pub partition: Struct,
    /// Whether the spec has no partitions: equality deletes of such a spec apply to every data file of the table.
    pub is_global: bool,
    /// What decides to which data files it applies.
    pub data_sequence_number: i64,
    /// How it names the rows.
    pub kind: DeleteKind,
    /// Bounds of the values that an equality delete file holds, by field id.
    pub columns: HashMap<i32, ColumnBounds>,
}

/// How a delete file names the rows that are deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteKind {
    /// By data file and position, in Parquet.
    Positions {
        /// The least and the greatest path of a data file in it, where they are known.
        data_files: Option<(String, String)>,
    },
    /// By the values of these columns, in Parquet. Field ids, ascending.
    Equality(Vec<i32>),
    /// By position in one data file, in Puffin.
    Vector {
        /// Its path.
        data_file: String,
        /// Where in the file the vector begins.
        offset: u64,
        /// Its bytes.
        length: u64,
        /// The positions in it.
        rows: u64,
    },
}

/// The files that a query must read, and what was skipped.
#[derive(Debug, Clone, Default)]
pub struct FilePlan {
    /// The files, in a stable order (by path).
    pub files: Vec<PlannedFile>,
    /// The delete files that apply to some of them.
    pub deletes: Vec<Arc<DeleteFile>>,
    /// Live data files of the snapshot, as far as its manifests count them.
    pub total_files: usize,
    /// Manifests that were not opened because no file in them can match.
    pub pruned_manifests: usize,
    /// Files of opened manifests that cannot match.
    pub pruned_files: usize,
}

/// A data file, or a delete file, that a task wrote and that no snapshot names yet.
#[derive(Debug, Clone)]
pub struct WrittenFile {
    /// The Iceberg record of the file.
    pub data_file: DataFile,
    /// The partition spec that its partition follows.
    pub spec_id: i32,
    /// Rows that count as written: those in a data file; of a delete file those that are not written anew.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// `CREATE TABLE`.
#[derive(Debug, Clone, Default)]
pub struct CreateTable {
    /// The schema to create it in; it must exist.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// The columns. Fresh field ids are given; a field's metadata `comment` becomes its Iceberg doc.
    pub columns: Vec<FieldRef>,
    /// The partition fields, in order.
    pub partition: Vec<PartitionField>,
    /// What the rows of each file are sorted by.
    pub sort: Vec<SortKey>,
    /// Iceberg table properties.
    pub properties: BTreeMap<String, String>,
    /// Kept as the property `comment`.
    pub comment: Option<String>,
    /// Where the table lies; by default under the warehouse.
    pub location: Option<String>,
    /// Say nothing when the table is there already.
    pub if_not_exists: bool,
}

/// One field of a partition spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionField {
    /// The source column.
    pub column: String,
    /// `identity`, `bucket[n]`, `truncate[n]`, `year`, `month`, `day`, `hour` or `void`.
    pub transform: String,
}
