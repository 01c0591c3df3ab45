//! The file source of Iceberg scans: DataFusion's Parquet source, mapped by field id and named in EXPLAIN.

use std::fmt::Formatter;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::{ProjectionExpr, ProjectionExprs};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::filter_pushdown::{FilterPushdownPropagation, PushedDown};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, SortOrderPushdownResult};
use datafusion_datasource::file::FileSource;
use datafusion_datasource::file_groups::FileGroup;
use datafusion_datasource::file_scan_config::{FileScanConfig, FileScanConfigBuilder};
use datafusion_datasource::file_stream::FileOpener;
use datafusion_datasource::morsel::Morselizer;
use datafusion_datasource::{PartitionedFile, TableSchema};
use datafusion_datasource_parquet::source::ParquetSource;
use object_store::ObjectStore;

use super::adapter::FieldIdAdapterFactory;
use super::per_file::PerFile;
use super::{FileConstants, ScanDeletes, ScanInfo, nan};

/// What a scan of an Iceberg table reads with.
///
/// `try_to_proto` stays at its default on purpose: the default message of a Parquet scan drops the adapter, so the scan
/// would be read by name. Without it the plan asks our codec, which keeps everything.
#[derive(Clone)]
pub(crate) struct IcebergSource {
    inner: Arc<dyn FileSource>,
    /// The same as `inner` was before any projection: for files of which more columns are read than asked for.
    unprojected: Arc<dyn FileSource>,
    info: Arc<ScanInfo>,
    adapter: Arc<FieldIdAdapterFactory>,
    constants: Arc<FileConstants>,
    deletes: Arc<ScanDeletes>,
}

impl IcebergSource {
    /// Wraps DataFusion's Parquet source, which has no projection yet.
    pub(crate) fn new(
        inner: Arc<dyn FileSource>,
        info: Arc<ScanInfo>,
        adapter: Arc<FieldIdAdapterFactory>,
        constants: Arc<FileConstants>,
        deletes: Arc<ScanDeletes>,
    ) -> Self {
        Self { unprojected: Arc::clone(&inner), inner, info, adapter, constants, deletes }
    }

    /// The Parquet source inside.
    pub(crate) fn inner(&self) -> &Arc<dyn FileSource> {
        &self.inner
    }

    /// What is scanned and for whom.
    pub(crate) fn info(&self) -> &ScanInfo {
        &self.info
    }

    /// What columns read as that files lack.
    pub(crate) fn constants(&self) -> &FileConstants {
        &self.constants
    }

    /// The row-level deletes of its files.
    pub(crate) fn deletes(&self) -> &Arc<ScanDeletes> {
        &self.deletes
    }

    pub(super) fn adapter(&self) -> &FieldIdAdapterFactory {
        &self.adapter
    }

    /// The Parquet source with these columns behind those that it was asked for.
    pub(super) fn with_more_columns(&self, columns: Vec<Column>) -> Result<Arc<dyn FileSource>> {
        let Some(parquet) = self.unprojected.downcast_ref::<ParquetSource>() else {
            return internal_err!("the scan of {} does not read Parquet", self.info.table);
        };
        let mut projection: Vec<_> = self.inner.projection().into_iter().flatten().cloned().collect();
        projection.extend(columns.into_iter().map(|column| {
            let alias = column.name().to_string();
            ProjectionExpr { expr: Arc::new(column), alias }
        }));
        let source: Arc<dyn FileSource> = match self.inner.filter() {
            Some(predicate) => Arc::new(parquet.with_predicate(predicate)),
            None => Arc::clone(&self.unprojected),
        };
        match source.try_pushdown_projection(&ProjectionExprs::new(projection))? {
            Some(source) => Ok(source),
            None => internal_err!("the scan of {} takes no projection", self.info.table),
        }
    }

    /// A scan of these files with this source. The adapter goes into the configuration here and nowhere else.
    pub(crate) fn scan(self, url: ObjectStoreUrl, groups: Vec<FileGroup>) -> FileScanConfigBuilder {
        let adapter = Arc::clone(&self.adapter);
        FileScanConfigBuilder::new(url, Arc::new(self)).with_file_groups(groups).with_expr_adapter(Some(adapter))
    }

    /// Gives a decoded configuration the adapter that no message carries.
    pub(crate) fn adapt(&self, config: FileScanConfig) -> FileScanConfigBuilder {
        let adapter = Arc::clone(&self.adapter);
        FileScanConfigBuilder::from(config).with_expr_adapter(Some(adapter))
    }

    fn wrap(&self, inner: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
        Arc::new(Self { inner, ..self.clone() })
    }

    /// Whether the reader evaluates the filter for every file. It is asked for the table's schema, once; a filter on a
    /// nested column may still meet a file in which that column needs a cast that the reader's row filter leaves out.
    ///
    /// One that NaN can pass stays outside too: the reader would skip by bounds that leave NaN out.
    fn is_offered(&self, filter: &Arc<dyn PhysicalExpr>) -> bool {
        let schema = self.inner.table_schema().table_schema();
        let columns = collect_columns(filter);
        let flat = |column: &Column| schema.fields().get(column.index()).is_some_and(|f| !f.data_type().is_nested());
        columns.iter().all(flat) && nan::bounds_hold(filter, schema)
    }
}

impl FileSource for IcebergSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.inner.create_file_opener(store, config, partition)
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        if config.expr_adapter_factory.is_none() {
            return internal_err!("the scan of {} lost its field id adapter", self.info.table);
        }
        let plain = self.inner.create_morselizer(Arc::clone(&store), config, partition)?;
        if self.constants.is_empty() && self.deletes.is_empty() {
            return Ok(plain);
        }
        Ok(Box::new(PerFile::new(plain, self.clone(), store, config, partition)))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        let unprojected = self.unprojected.with_batch_size(batch_size);
        Arc::new(Self { inner: self.inner.with_batch_size(batch_size), unprojected, ..self.clone() })
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.inner.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        "iceberg"
    }

    fn fmt_extra(&self, t: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        match t {
            DisplayFormatType::Default | DisplayFormatType::Verbose => write!(f, ", {}", self.info)?,
            DisplayFormatType::TreeRender => writeln!(f, "{}", self.info)?,
        }
        if !self.deletes.is_empty() && !matches!(t, DisplayFormatType::TreeRender) {
            write!(f, ", delete_files={}", self.deletes.files())?;
        }
        self.inner.fmt_extra(t, f)
    }

    fn supports_repartitioning(&self) -> bool {
        self.inner.supports_repartitioning()
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn FileSource>>> {
        let fit: Vec<bool> = filters.iter().map(|filter| self.is_offered(filter)).collect();
        let offered = filters.into_iter().zip(&fit).filter_map(|(filter, fit)| fit.then_some(filter)).collect();
        let inner = self.inner.try_pushdown_filters(offered, config)?;
        let mut taken = inner.filters.into_iter();
        let filters = fit.iter().map(|fit| if *fit { taken.next().unwrap_or(PushedDown::No) } else { PushedDown::No });
        let result = FilterPushdownPropagation::with_parent_pushdown_result(filters.collect());
        Ok(match inner.updated_node {
            Some(node) => result.with_updated_node(self.wrap(node)),
            None => result,
        })
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
        properties: &EquivalenceProperties,
    ) -> Result<SortOrderPushdownResult<Arc<dyn FileSource>>> {
        Ok(match self.inner.try_pushdown_sort(order, properties)? {
            SortOrderPushdownResult::Exact { inner } => SortOrderPushdownResult::Exact { inner: self.wrap(inner) },
            SortOrderPushdownResult::Inexact { inner } => SortOrderPushdownResult::Inexact { inner: self.wrap(inner) },
            SortOrderPushdownResult::Unsupported => SortOrderPushdownResult::Unsupported,
        })
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.inner.reorder_files(files)
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        Ok(self.inner.try_pushdown_projection(projection)?.map(|inner| self.wrap(inner)))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }
}
