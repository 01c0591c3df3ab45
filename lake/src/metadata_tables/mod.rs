//! Metadata tables: what `"t$snapshots"` and its kin show of the table `t`, in the columns of Trino's Iceberg connector.
//!
//! They are streams that read nothing before they are asked for rows: to plan or describe one costs no more than the
//! table itself. Manifests are read several at a time, in their order, and no more of them than whoever reads can take.

mod files;
mod manifests;
mod partitions;
mod snapshots;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt, TryStreamExt, stream};
use iceberg::spec::{Manifest, ManifestFile};
use townlake_common::{Error, ErrorCode, Result, nearest};

use crate::plan::{manifest_file, manifests as read};
use crate::{LoadedTable, TableVersion};

/// Manifests that are read and decoded at the same time, with all that they know of each file.
const MANIFESTS_AT_ONCE: usize = 8;

/// One of the metadata tables that every Iceberg table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataTable {
    /// The live files of a snapshot.
    Files,
    /// Which snapshot was current when.
    History,
    /// The manifests of a snapshot.
    Manifests,
    /// The partitions of a snapshot.
    Partitions,
    /// The table's properties.
    Properties,
    /// Branches and tags.
    Refs,
    /// All snapshots.
    Snapshots,
}

type Batches = BoxStream<'static, Result<RecordBatch>>;

impl MetadataTable {
    /// All of them, with the names that follow the `$`.
    pub const ALL: [(&'static str, Self); 7] = [
        ("files", Self::Files),
        ("history", Self::History),
        ("manifests", Self::Manifests),
        ("partitions", Self::Partitions),
        ("properties", Self::Properties),
        ("refs", Self::Refs),
        ("snapshots", Self::Snapshots),
    ];

    /// The table's name and the metadata table's in a name like `t$files`.
    pub fn split(name: &str) -> Option<(&str, &str)> {
        name.rsplit_once('$').filter(|(table, of)| !table.is_empty() && !of.is_empty())
    }

    /// Whether this is the name of a metadata table: then no table can have it.
    pub fn is_name_of_one(name: &str) -> bool {
        Self::split(name).is_some_and(|(_, of)| Self::ALL.iter().any(|(known, _)| *known == of))
    }

    /// The metadata table of this name, the part after the `$`.
    ///
    /// Errors: `TABLE_NOT_FOUND`, naming those that there are.
    pub fn find(table: &LoadedTable, name: &str) -> Result<Self> {
        if let Some((_, found)) = Self::ALL.iter().find(|(known, _)| *known == name) {
            return Ok(*found);
        }
        let known = Self::ALL.map(|(known, _)| known);
        let message = format!("table {} has no metadata table ${name}", table.full_name());
        let all = known.map(|name| format!("${name}")).join(", ");
        let hint = match nearest(name, known) {
            Some(near) => format!("did you mean \"{}${near}\"? There are {all}", table.table),
            None => format!("there are {all}"),
        };
        Err(Error::new(ErrorCode::TableNotFound, message).with_hint(hint))
    }

    /// Whether it shows one snapshot of the table rather than the whole.
    fn is_of_a_snapshot(self) -> bool {
        matches!(self, Self::Files | Self::Manifests | Self::Partitions)
    }

    /// The metadata table of a table that was loaded as of `version`.
    ///
    /// Errors: `NOT_SUPPORTED` for a version where it makes no difference, `DATA_CORRUPT`.
    pub fn provider(self, table: Arc<LoadedTable>, version: Option<&TableVersion>) -> Result<Arc<dyn TableProvider>> {
        if version.is_some() && !self.is_of_a_snapshot() {
            let name = Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name);
            let message = format!("\"{}${name}\" shows all versions of its table", table.full_name());
            return Err(Error::new(ErrorCode::NotSupported, message)
                .with_hint("FOR VERSION and FOR TIMESTAMP AS OF work on $files, $manifests and $partitions"));
        }
        let schema = Arc::new(self.schema(&table)?);
        let rows = Rows { of: self, table, schema: Arc::clone(&schema) };
        let provider = StreamingTable::try_new(schema, vec![Arc::new(rows)]);
        Ok(Arc::new(provider.map_err(|error| Error::internal("a metadata table cannot be made").with_source(error))?))
    }

    fn schema(self, table: &LoadedTable) -> Result<Schema> {
        Ok(match self {
            Self::Files => files::schema(table)?,
            Self::History => snapshots::history_schema(),
            Self::Manifests => manifests::schema(),
            Self::Partitions => partitions::schema(table)?,
            Self::Properties => snapshots::properties_schema(),
            Self::Refs => snapshots::refs_schema(),
            Self::Snapshots => snapshots::schema(),
        })
    }

    fn batches(self, table: &Arc<LoadedTable>, schema: &SchemaRef) -> Batches {
        let now = |batch: Result<RecordBatch>| stream::iter([batch]).boxed();
        match self {
            Self::Files => files::batches(table, schema),
            Self::History => now(snapshots::history(&table.metadata, schema)),
            Self::Manifests => manifests::batches(table, schema),
            Self::Partitions => partitions::batches(table, schema),
            Self::Properties => now(snapshots::properties(&table.metadata, schema)),
            Self::Refs => now(snapshots::refs(&table.metadata, schema)),
            Self::Snapshots => now(snapshots::batch(&table.metadata, schema)),
        }
    }
}

/// The rows of a metadata table, read when they are asked for.
struct Rows {
    of: MetadataTable,
    table: Arc<LoadedTable>,
    schema: SchemaRef,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataTable").field("table", &self.table.full_name()).field("of", &self.of).finish()
    }
}

impl PartitionStream for Rows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.of.batches(&self.table, &self.schema);
        let batches = batches.map_err(|error| DataFusionError::External(Box::new(error)));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

/// The manifests of the table's snapshot; none while it is empty.
async fn manifests_of(table: Arc<LoadedTable>) -> Result<Vec<ManifestFile>> {
    match &table.snapshot {
        Some(snapshot) => read::list(&table.objects, snapshot, table.metadata.format_version())
            .await
            .map(|list| list.as_ref().clone()),
        None => Ok(Vec::new()),
    }
}

/// What `show` makes of each manifest that has live files, in their order.
fn each_manifest<T: Send + 'static>(
    table: &Arc<LoadedTable>,
    show: impl Fn(&ManifestFile, &Manifest) -> Result<T> + Clone + Send + Sync + 'static,
) -> BoxStream<'static, Result<T>> {
    let table = Arc::clone(table);
    manifests_of(Arc::clone(&table))
        .map_ok(move |manifests| {
            let live = manifests.into_iter().filter(crate::plan::may_be_live);
            let shown = live.map(move |manifest| show_manifest(Arc::clone(&table), manifest, show.clone()));
            stream::iter(shown.collect::<Vec<_>>()).buffered(MANIFESTS_AT_ONCE)
        })
        .try_flatten_stream()
        .boxed()
}

async fn show_manifest<T: Send + 'static>(
    table: Arc<LoadedTable>,
    manifest: ManifestFile,
    show: impl Fn(&ManifestFile, &Manifest) -> Result<T> + Send + 'static,
) -> Result<T> {
    if manifest.key_metadata.is_some() {
        return Err(crate::format::unsupported(&table, "is encrypted"));
    }
    let bytes = table.objects.read(&manifest.manifest_path).await?;
    let uri = manifest.manifest_path.clone();
    let decode = move |bytes: &[u8]| manifest_file::parse(bytes).map(|decoded| show(&manifest, &decoded));
    read::decode(uri, bytes, decode).await?
}

fn required(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

fn optional(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

/// Columns and rows did not fit: a fault of ours.
fn unfit(error: ArrowError) -> Error {
    Error::internal("the rows of a metadata table could not be built").with_source(error)
}
