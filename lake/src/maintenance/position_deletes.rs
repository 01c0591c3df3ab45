//! Fewer position delete files: where several apply to one data file, their positions become one file of it. Files that
//! apply to nothing any more go.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::{Column, JoinType, Result as DFResult};
use datafusion::datasource::physical_plan::FileScanConfigBuilder;
use datafusion::datasource::provider_as_source;
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion_datasource::file_groups::FileGroup;
use datafusion_datasource::{PartitionedFile, TableSchema};
use townlake_common::{Error, QueryContext, Result};

use crate::location::spellings;
use crate::plan::{delete_files, plan_files};
use crate::scan::places::{FILE, POSITION};
use crate::scan::{external, parquet_options, parquet_source, unchanging};
use crate::write::{changed_files, deletes_plan};
use crate::{DeleteFile, DeleteKind, Delta, FilePlan, LoadedTable, WrittenFile};

const PATH: &str = "file_path";
const POS: &str = "pos";

/// What is to be rewritten.
#[derive(Debug)]
pub struct PositionDeletes {
    table: Arc<LoadedTable>,
    /// The data files that get a new delete file.
    data_files: FilePlan,
    /// The delete files whose positions are taken over.
    merged: Vec<Arc<DeleteFile>>,
    /// Delete files that apply to nothing.
    dangling: Vec<String>,
}

impl PositionDeletes {
    /// Those of a table, as it is now.
    ///
    /// Errors: those of [`plan_files`]; `FORMAT_NOT_SUPPORTED` for a table that cannot be written.
    pub async fn plan(table: &Arc<LoadedTable>) -> Result<Self> {
        table.check_writable()?;
        let all = plan_files(table, &[]).await?;
        let is_of_positions = |number: &usize| {
            let kind = all.deletes.get(*number).map(|delete| &delete.kind);
            matches!(kind, Some(DeleteKind::Positions { .. }))
        };
        let of_file = |deletes: &[usize]| deletes.iter().copied().filter(is_of_positions).collect::<Vec<_>>();
        let several = all.files.iter().map(|file| of_file(&file.deletes)).filter(|deletes| deletes.len() > 1);
        let chosen: BTreeSet<usize> = several.flatten().collect();
        let applied: HashSet<&str> = all.deletes.iter().map(|delete| delete.path.as_str()).collect();
        let live = delete_files(table).await?;
        let dangling = live.iter().filter(|delete| {
            matches!(delete.kind, DeleteKind::Positions { .. }) && !applied.contains(delete.path.as_str())
        });
        let dangling = dangling.map(|delete| delete.path.clone()).collect();
        let files = all.files.iter().filter(|file| file.deletes.iter().any(|number| chosen.contains(number)));
        let data_files = FilePlan { files: files.cloned().collect(), ..FilePlan::default() };
        let merged = chosen.iter().filter_map(|number| all.deletes.get(*number).cloned()).collect();
        Ok(Self { table: Arc::clone(table), data_files, merged, dangling })
    }

    /// How many delete files go.
    pub fn count(&self) -> usize {
        self.merged.len() + self.dangling.len()
    }

    /// The plan that writes the new delete files; `None` where none is needed.
    ///
    /// Errors: `INTERNAL` for what cannot be planned.
    pub async fn write_plan(
        &self,
        session: &dyn Session,
        query: &QueryContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if self.merged.is_empty() {
            return Ok(None);
        }
        let failed = |error| {
            let message = format!("the position deletes of {} cannot be read anew", self.table.full_name());
            Error::internal(message).with_source(error)
        };
        let positions = self.positions(session).await.map_err(failed)?;
        deletes_plan(&self.table, &self.data_files, positions, &query.id).map(Some)
    }

    /// The delete files that tasks tell of.
    ///
    /// Errors: `INTERNAL` for an answer that is none.
    pub fn written(&self, answers: &[RecordBatch]) -> Result<Vec<WrittenFile>> {
        changed_files(answers, &self.table, &self.data_files)
    }

    /// The change: the written files in the place of the old ones.
    pub fn delta(&self, written: Vec<WrittenFile>) -> Delta {
        let merged = self.merged.iter().map(|delete| delete.path.clone());
        Delta::exchanging(merged.chain(self.dangling.iter().cloned()).collect(), written)
    }

    /// The number of its data file and the position of each deleted row; of data files that are gone none.
    async fn positions(&self, session: &dyn Session) -> DFResult<Arc<dyn ExecutionPlan>> {
        let deletes = Arc::new(DeleteFiles { table: Arc::clone(&self.table), files: self.merged.clone() });
        let deletes = LogicalPlanBuilder::scan("deletes", provider_as_source(deletes), None)?;
        let numbers = LogicalPlanBuilder::scan("files", provider_as_source(Arc::new(self.numbers()?)), None)?;
        let column = |relation: &str, name: &str| Column::new(Some(relation), name);
        let keys = (vec![column("files", PATH)], vec![column("deletes", PATH)]);
        let plan = numbers.join(deletes.build()?, JoinType::Inner, keys, None)?;
        let number = Expr::Column(column("files", FILE)).alias(FILE);
        let position = Expr::Column(column("deletes", POS)).alias(POSITION);
        session.create_physical_plan(&plan.project(vec![number, position])?.build()?).await
    }

    /// The number of each data file, by each spelling of its path that deletes may have.
    fn numbers(&self) -> DFResult<MemTable> {
        let files = (0_i64..).zip(&self.data_files.files);
        let spelled =
            files.flat_map(|(number, file)| spellings(&file.path).into_iter().map(move |path| (path, number)));
        let (paths, numbers): (Vec<String>, Vec<i64>) = spelled.unzip();
        let paths: ArrayRef = Arc::new(paths.iter().map(|path| Some(path.as_str())).collect::<StringViewArray>());
        let numbers: ArrayRef = Arc::new(Int64Array::from(numbers));
        let rows = RecordBatch::try_from_iter([(PATH, paths), (FILE, numbers)])?;
        MemTable::try_new(rows.schema(), vec![vec![rows]])
    }
}

/// Position delete files as a table, by the specification's names of their columns.
#[derive(Debug)]
struct DeleteFiles {
    table: Arc<LoadedTable>,
    files: Vec<Arc<DeleteFile>>,
}

#[async_trait]
impl TableProvider for DeleteFiles {
    fn schema(&self) -> SchemaRef {
        let path = Field::new(PATH, DataType::Utf8View, false);
        Arc::new(Schema::new(vec![path, Field::new(POS, DataType::Int64, false)]))
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DFResult<Arc<dyn ExecutionPlan>> {
        let mut by_store = std::collections::BTreeMap::new();
        for file in &self.files {
            let (place, path) = self.table.objects.locate(&file.path).map_err(external)?;
            let opened = PartitionedFile::new_from_meta(unchanging(path, file.size));
            by_store.entry(place).or_insert_with(Vec::new).push(opened);
        }
        let mut scans: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        for (place, files) in by_store {
            let url = self.table.objects.url(&place).map_err(external)?;
            let schema = TableSchema::from(self.schema());
            let source = parquet_source(schema, parquet_options(session), &url, session.runtime_env())?;
            let partitions = session.config().target_partitions();
            let groups = FileGroup::new(files).split_files(partitions);
            let config = FileScanConfigBuilder::new(url, Arc::new(source))
                .with_file_groups(groups)
                .with_projection_indices(projection.cloned())?
                .build();
            scans.push(DataSourceExec::from_data_source(config));
        }
        match scans.len() {
            0 => Ok(Arc::new(EmptyExec::new(self.schema()))),
            1 => Ok(scans.remove(0)),
            _ => UnionExec::try_new(scans),
        }
    }
}
