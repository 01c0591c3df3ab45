//! Opening each data file with what is its own: constants of its partition, and the rows that are deleted of it.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion_datasource::PartitionedFile;
use datafusion_datasource::file::FileSource;
use datafusion_datasource::file_scan_config::FileScanConfig;
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use datafusion_datasource_parquet::ParquetRowSelection;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::ObjectStore;

use super::deletes::{Deleted, KeyFilter};
use super::{IcebergSource, external};

/// Opens files that have nothing of their own as the Parquet source does.
pub(super) struct PerFile {
    plain: Box<dyn Morselizer>,
    opener: Arc<Opener>,
}

impl PerFile {
    /// `plain` opens all other files of this scan.
    pub(super) fn new(
        plain: Box<dyn Morselizer>,
        source: IcebergSource,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Self {
        let mut config = config.clone();
        config.file_groups.clear();
        Self { plain, opener: Arc::new(Opener { source, store, config, partition }) }
    }
}

impl fmt::Debug for PerFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerFile").field("plain", &self.plain).finish_non_exhaustive()
    }
}

impl Morselizer for PerFile {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let (source, key) = (&self.opener.source, file.object_meta.location.as_ref());
        if source.deletes().of(key).is_some() {
            return Ok(Box::new(Waiting { opener: Arc::clone(&self.opener), file }));
        }
        match source.constants().of(key) {
            Some(_) => self.opener.open(source.inner(), self.opener.config.clone(), file),
            None => self.plain.plan_file(file),
        }
    }
}

struct Opener {
    source: IcebergSource,
    store: Arc<dyn ObjectStore>,
    /// The scan without its files.
    config: FileScanConfig,
    partition: usize,
}

impl Opener {
    fn open(
        &self,
        source: &Arc<dyn FileSource>,
        mut config: FileScanConfig,
        file: PartitionedFile,
    ) -> Result<Box<dyn MorselPlanner>> {
        if let Some(constants) = self.source.constants().of(file.object_meta.location.as_ref()) {
            config.expr_adapter_factory = Some(Arc::new(self.source.adapter().with_constants(constants)));
        }
        source.create_morselizer(Arc::clone(&self.store), &config, self.partition)?.plan_file(file)
    }

    /// The rows of a file that are not deleted.
    fn open_rest(&self, mut file: PartitionedFile, deleted: Deleted) -> Result<Box<dyn MorselPlanner>> {
        if let Some(selection) = deleted.selection {
            file = file.with_extension(ParquetRowSelection::new(selection));
        }
        let mut config = self.config.clone();
        let Some(filter) = deleted.filter else { return self.open(self.source.inner(), config, file) };
        // Rows that the reader counts may be deleted still; whoever takes the batches counts what is left.
        config.limit = None;
        let inner = self.open(&self.source.with_more_columns(deleted.columns)?, config, file)?;
        Ok(Box::new(Filtered { inner, filter: Arc::new(filter) }))
    }
}

/// A file whose deletes are still to be read.
struct Waiting {
    opener: Arc<Opener>,
    file: PartitionedFile,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("file", &self.file).finish_non_exhaustive()
    }
}

impl MorselPlanner for Waiting {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let Self { opener, file } = *self;
        let read = async move {
            let deletes = opener.source.deletes();
            match deletes.of(file.object_meta.location.as_ref()) {
                Some(of) => {
                    let deleted = deletes.load(of, opener.source.inner().metrics()).await.map_err(external)?;
                    opener.open_rest(file, deleted)
                }
                None => opener.open(opener.source.inner(), opener.config.clone(), file),
            }
        };
        Ok(Some(MorselPlan::new().with_pending_planner(read)))
    }
}

/// A planner, or a morsel, of rows of which some are deleted by value.
struct Filtered<T: ?Sized> {
    filter: Arc<KeyFilter>,
    inner: Box<T>,
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Filtered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filtered").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl MorselPlanner for Filtered<dyn MorselPlanner> {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let Self { filter, inner } = *self;
        let Some(mut plan) = inner.plan()? else { return Ok(None) };
        let morsels = plan.take_morsels().into_iter();
        let morsels = morsels.map(|inner| Box::new(Filtered { filter: Arc::clone(&filter), inner }) as Box<dyn Morsel>);
        let planners = plan.take_ready_planners().into_iter().map(|inner| filtered(inner, &filter));
        let mut all = MorselPlan::new().with_morsels(morsels.collect()).with_planners(planners.collect());
        if let Some(pending) = plan.take_pending_planner() {
            all.set_pending_planner(async move { Ok(filtered(pending.await?, &filter)) });
        }
        Ok(Some(all))
    }
}

fn filtered(inner: Box<dyn MorselPlanner>, filter: &Arc<KeyFilter>) -> Box<dyn MorselPlanner> {
    Box::new(Filtered { filter: Arc::clone(filter), inner })
}

impl Morsel for Filtered<dyn Morsel> {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let Self { filter, inner } = *self;
        let kept =
            inner.into_stream().and_then(move |batch| std::future::ready(filter.keep(&batch).map_err(Into::into)));
        kept.try_filter(|batch| std::future::ready(batch.num_rows() > 0)).boxed()
    }
}
