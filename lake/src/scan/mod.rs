//! The scan of an Iceberg table: DataFusion's Parquet scan over the files that the manifests name.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::Schema as ArrowSchema;
use chrono::DateTime;
use datafusion::catalog::Session;
use datafusion::common::config::TableParquetOptions;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use datafusion_datasource::file_groups::{FileGroup, FileGroupPartitioner};
use datafusion_datasource::source::DataSourceExec;
use datafusion_datasource::{PartitionedFile, TableSchema};
use datafusion_datasource_parquet::CachedParquetFileReaderFactory;
use datafusion_datasource_parquet::source::ParquetSource;
use iceberg::spec::{DEFAULT_SCHEMA_NAME_MAPPING, NameMapping, Schema};
use object_store::ObjectMeta;
use townlake_common::{Error, ErrorCode};

use crate::objects::Place;
use crate::types::{FilePlan, LoadedTable, PlannedFile};

mod adapter;
pub(crate) mod conform;
mod constants;
mod defaults;
pub(crate) mod deletes;
mod field_id_cast;
#[cfg(test)]
pub(crate) mod fixture;
mod footers;
mod nan;
mod per_file;
pub(crate) mod places;
#[cfg(test)]
mod pruning_tests;
mod reader;
mod source;
mod statistics;
#[cfg(test)]
mod tests;

pub(crate) use adapter::FieldIdAdapterFactory;
pub(crate) use constants::FileConstants;
pub(crate) use deletes::ScanDeletes;
use footers::Footers;
use reader::Readers;
pub(crate) use source::IcebergSource;
use statistics::{FROM_METADATA, ScanStatistics};

/// What a scan reads, for whom, and what an executor must know of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanInfo {
    /// `catalog.schema.table`.
    pub table: String,
    /// The pinned snapshot; `None`: the table is empty.
    pub snapshot_id: Option<i64>,
    /// The name of who asks.
    pub principal: String,
    /// Files that are read.
    pub files_kept: u64,
    /// Live files of the snapshot.
    pub files_total: u64,
    /// The Iceberg schema as JSON.
    pub schema_json: String,
    /// The table's name mapping as JSON, for files without field ids.
    pub name_mapping_json: Option<String>,
}

impl ScanInfo {
    fn new(table: &LoadedTable, plan: &FilePlan, principal: &str) -> Result<Self> {
        let schema_json = serde_json::to_string(table.iceberg_schema.as_ref()).map_err(external_json)?;
        Ok(Self {
            table: table.full_name(),
            snapshot_id: table.snapshot_id(),
            principal: principal.to_string(),
            files_kept: plan.files.len() as u64,
            files_total: plan.total_files as u64,
            schema_json,
            name_mapping_json: table.metadata.properties().get(DEFAULT_SCHEMA_NAME_MAPPING).cloned(),
        })
    }

    /// The adapter factory for files of this table, whose columns for Arrow are `arrow`.
    pub(crate) fn adapter(&self, arrow: &ArrowSchema) -> Result<Arc<FieldIdAdapterFactory>> {
        let schema: Schema = serde_json::from_str(&self.schema_json).map_err(external_json)?;
        let mapping = self.name_mapping_json.as_deref().map(serde_json::from_str::<NameMapping>).transpose();
        let mapping = mapping.map_err(|e| {
            let message = format!("the property {DEFAULT_SCHEMA_NAME_MAPPING} of {} cannot be read", self.table);
            external(Error::new(ErrorCode::DataCorrupt, message).with_source(e))
        })?;
        let defaults = defaults::initial_defaults(&schema, arrow)?;
        Ok(Arc::new(FieldIdAdapterFactory::new(self.table.clone(), defaults, mapping)))
    }
}

impl fmt::Display for ScanInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table={}, snapshot=", self.table)?;
        match self.snapshot_id {
            Some(id) => write!(f, "{id}")?,
            None => f.write_str("none")?,
        }
        write!(f, ", files={}/{}", self.files_kept, self.files_total)
    }
}

/// The physical plan that reads the files of `plan`.
///
/// `limit` may be given only where no filter stands between: then files are left out once the limit is met.
pub(crate) fn scan_plan(
    table: &LoadedTable,
    mut plan: FilePlan,
    principal: &str,
    session: &dyn Session,
    projection: Option<&Vec<usize>>,
    limit: Option<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(limit) = limit {
        keep_first_rows(&mut plan, limit);
    }
    let projection: Vec<usize> = match projection {
        Some(projection) => projection.clone(),
        None => (0..table.arrow_schema.fields().len()).collect(),
    };
    let columns = deletes::with_key_columns(table, &plan)?;
    scan_columns(table, &plan, principal, session, TableSchema::from(columns), projection, limit)
}

/// The physical plan that reads the files of `plan`, each row with where it lies. `projection` counts [`places::fields`]
/// behind the table's columns.
pub(crate) fn scan_places(
    table: &LoadedTable,
    plan: &FilePlan,
    principal: &str,
    session: &dyn Session,
    projection: Option<&Vec<usize>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let columns = places::with_file(deletes::with_key_columns(table, plan)?.as_ref());
    let (of_table, of_scan) = (table.arrow_schema.fields().len(), columns.fields().len());
    let place = |column: usize| match column.checked_sub(of_table) {
        Some(beyond) => of_scan - 1 + beyond,
        None => column,
    };
    let projection: Vec<usize> = match projection {
        Some(projection) => projection.iter().copied().map(place).collect(),
        None => (0..of_table + 2).map(place).collect(),
    };
    scan_columns(table, plan, principal, session, places::with_position(columns), projection, None)
}

fn scan_columns(
    table: &LoadedTable,
    plan: &FilePlan,
    principal: &str,
    session: &dyn Session,
    schema: TableSchema,
    projection: Vec<usize>,
    limit: Option<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let info = Arc::new(ScanInfo::new(table, plan, principal)?);
    // What deletes compare is read behind the table's columns, and never leaves the scan.
    let columns = Arc::clone(schema.file_schema());
    let with_places = !schema.virtual_columns().is_empty();
    let adapter = info.adapter(&columns)?;
    let mut scans: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    // One scan reads from one store; a table may lie in several.
    for (url, files) in by_store(table, &plan.files)? {
        let inner = parquet_source(schema.clone(), parquet_options(session), &url, session.runtime_env())?;
        let mut constants = FileConstants::default();
        for (path, number, planned) in files.iter().filter(|(_, _, file)| with_places || !file.constants.is_empty()) {
            let place = with_places.then(|| places::constant(*number));
            constants.insert(path.to_string(), planned.constants.clone().into_iter().chain(place).collect());
        }
        let (info, adapter) = (Arc::clone(&info), Arc::clone(&adapter));
        let recipe = deletes::recipe(table, plan, &files)?;
        let deletes = ScanDeletes::new(&info.table, recipe, &columns, session.runtime_env()).map_err(external)?;
        let source = IcebergSource::new(Arc::new(inner), info, adapter, Arc::new(constants), Arc::new(deletes));
        let mut statistics = ScanStatistics::new(
            schema.table_schema(),
            wanted(&projection, table),
            table.metadata.properties().get(FROM_METADATA).is_none_or(|value| !value.eq_ignore_ascii_case("false")),
        );
        let files = files.into_iter().map(|(path, _, planned)| {
            let mut file = PartitionedFile::new_from_meta(unchanging(path, planned.size));
            // Always there: without a statistics struct a dynamic filter cannot skip the file.
            file.statistics = Some(Arc::new(statistics.add(planned, columns.fields().len())));
            file
        });
        let files = files.collect();
        let statistics = statistics.finish();
        let config = source
            .scan(url, file_groups(files, session, limit.is_some()))
            .with_statistics(statistics)
            .with_limit(limit)
            .with_projection_indices(Some(projection.clone()))?
            .build();
        scans.push(DataSourceExec::from_data_source(config));
    }
    match scans.len() {
        1 => scans.pop().ok_or_else(|| DataFusionError::Internal("a scan vanished".to_string())),
        _ => UnionExec::try_new(scans),
    }
}

/// The Parquet reader with the footer cache of this process.
pub(crate) fn parquet_source(
    schema: TableSchema,
    options: TableParquetOptions,
    url: &ObjectStoreUrl,
    runtime: &Arc<RuntimeEnv>,
) -> Result<ParquetSource> {
    let readers = readers(url, runtime)?;
    let hint = options.global.metadata_size_hint;
    let source = ParquetSource::new(schema)
        .with_parquet_file_reader_factory(Arc::new(readers))
        .with_table_parquet_options(options);
    Ok(match hint {
        Some(bytes) => source.with_metadata_size_hint(bytes),
        None => source,
    })
}

/// Readers of Parquet files in one store.
fn readers(url: &ObjectStoreUrl, runtime: &Arc<RuntimeEnv>) -> Result<Readers> {
    let store = runtime.object_store(url)?;
    let footers = Footers::of_store(runtime.cache_manager.get_file_metadata_cache(), url);
    Ok(Readers::new(CachedParquetFileReaderFactory::new(Arc::clone(&store), Arc::new(footers)), store))
}

/// The session's Parquet settings, with the one thing that Iceberg fixes: the INT96 timestamps of old Spark files are
/// instants in microseconds.
pub(crate) fn parquet_options(session: &dyn Session) -> TableParquetOptions {
    let mut options =
        TableParquetOptions { global: session.config_options().execution.parquet.clone(), ..Default::default() };
    options.global.coerce_int96 = Some("us".to_string());
    options
}

/// Drops the files behind the first ones that hold `limit` rows.
fn keep_first_rows(plan: &mut FilePlan, limit: usize) {
    let mut rows = 0_u64;
    let enough = plan.files.iter().position(|file| {
        // How many rows deletes leave of a file is not known here.
        rows += if file.deletes.is_empty() { file.record_count } else { 0 };
        rows >= limit as u64
    });
    if let Some(last) = enough {
        plan.files.truncate(last + 1);
    }
}

/// The key of each file in its store, its number in the plan, and the file.
type KeyedFiles<'a> = Vec<(object_store::path::Path, usize, &'a PlannedFile)>;

fn by_store<'a>(table: &LoadedTable, files: &'a [PlannedFile]) -> Result<Vec<(ObjectStoreUrl, KeyedFiles<'a>)>> {
    let mut stores: BTreeMap<Place, KeyedFiles<'a>> = BTreeMap::new();
    for (number, file) in files.iter().enumerate() {
        let (place, path) = table.objects.locate(&file.path).map_err(external)?;
        stores.entry(place).or_default().push((path, number, file));
    }
    if stores.is_empty() {
        let (url, _) = table.objects.object_store_url(table.metadata.location()).map_err(external)?;
        return Ok(vec![(url, Vec::new())]);
    }
    let with_url = |(place, files)| Ok((table.objects.url(&place).map_err(external)?, files));
    stores.into_iter().map(with_url).collect()
}

/// Whether something may ask for the bounds of a column of the scan: those that are asked for, and those that deletes compare.
fn wanted(projection: &[usize], table: &LoadedTable) -> impl Fn(usize) -> bool {
    let (of_table, projection) =
        (table.arrow_schema.fields().len(), projection.iter().copied().collect::<HashSet<_>>());
    move |column| column >= of_table || projection.contains(&column)
}

/// What is known of a file in a store. It never changes, so a fixed time keeps the footer cache valid.
pub(crate) fn unchanging(location: object_store::path::Path, size: u64) -> ObjectMeta {
    ObjectMeta { location, last_modified: DateTime::UNIX_EPOCH, size, e_tag: None, version: None }
}

/// One group a partition. Big scans are cut by bytes (the reader turns a byte range into the row groups that begin in
/// it); a scan that stops after some rows gains nothing from that.
fn file_groups(files: Vec<PartitionedFile>, session: &dyn Session, stops_early: bool) -> Vec<FileGroup> {
    if files.is_empty() || stops_early {
        return vec![FileGroup::new(files)];
    }
    let target = session.config().target_partitions().max(1);
    let whole = vec![FileGroup::new(files)];
    let by_bytes = FileGroupPartitioner::new()
        .with_target_partitions(target)
        .with_repartition_file_min_size(session.config_options().optimizer.repartition_file_min_size)
        .repartition_file_groups(&whole);
    match by_bytes {
        Some(groups) => groups,
        None => whole.into_iter().flat_map(|group| group.split_files(target)).collect(),
    }
}

pub(crate) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn external_json(error: serde_json::Error) -> DataFusionError {
    external(Error::internal("a schema cannot be carried as JSON").with_source(error))
}
