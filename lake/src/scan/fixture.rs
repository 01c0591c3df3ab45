//! What the tests of scans, writes and recipes stand on: a lake in a temporary folder, without a catalog.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result as DFResult};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use iceberg::TableCreation;
use iceberg::spec::{FormatVersion, Schema, TableMetadataBuilder, UnboundPartitionSpec};
use tempfile::TempDir;
use townlake_common::config::Config;
use townlake_common::{Error, ErrorCode, Principal, QueryContext, QueryId};

use super::scan_plan;
use crate::plan::file_bounds::FileBounds;
use crate::types::{ColumnBounds, FileEntry, FilePlan, LoadedTable, PlannedFile, WrittenFile};
use crate::{LakeObjects, codec, schema, write_plan, written_files};

pub(crate) struct Lake {
    pub(crate) folder: TempDir,
    objects: LakeObjects,
}

impl Lake {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[catalogs.lake]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite:///tmp/none.db\"\n\
             warehouse = \"file://{}\"\n",
            folder.path().display()
        );
        let objects = LakeObjects::from_config(&Config::from_toml(&text).unwrap().catalogs).unwrap();
        Self { folder, objects }
    }

    pub(crate) fn table(
        &self,
        columns: Schema,
        spec: UnboundPartitionSpec,
        properties: &[(&str, &str)],
    ) -> LoadedTable {
        let properties = properties.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        let creation = TableCreation::builder()
            .name("t".to_string())
            .location(format!("file://{}/s/t", self.folder.path().display()))
            .schema(columns)
            .partition_spec(spec)
            .properties(properties.collect::<HashMap<_, _>>())
            .format_version(FormatVersion::V2)
            .build();
        let metadata = TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap().metadata;
        let columns = Arc::clone(metadata.current_schema());
        LoadedTable {
            catalog: "lake".to_string(),
            schema: "s".to_string(),
            table: "t".to_string(),
            metadata_location: String::new(),
            snapshot: None,
            arrow_schema: schema::to_arrow(&columns).unwrap(),
            iceberg_schema: columns,
            metadata: Arc::new(metadata),
            objects: self.objects.access("lake").unwrap().clone(),
            branch: "main".to_string(),
        }
    }

    pub(crate) fn context(&self, partitions: usize, late_materialisation: bool) -> SessionContext {
        context_over(&self.objects, partitions, late_materialisation)
    }

    /// All files below the data folder.
    pub(crate) fn data_files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path.display().to_string()) }
            }
        }
        found
    }
}

/// A session over these object stores.
pub(crate) fn context_over(objects: &LakeObjects, partitions: usize, late_materialisation: bool) -> SessionContext {
    let query = QueryContext::new(QueryId::generate(), Principal::new("ann", vec![]));
    let mut config = SessionConfig::new().with_target_partitions(partitions).with_extension(query);
    config.options_mut().execution.parquet.pushdown_filters = late_materialisation;
    config.options_mut().optimizer.repartition_file_min_size = 1;
    let runtime = RuntimeEnvBuilder::new().with_object_store_registry(objects.registry()).build_arc().unwrap();
    let state = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features();
    SessionContext::new_with_state(state.build())
}

/// Writes these partitions of rows.
pub(crate) async fn write(
    context: &SessionContext,
    table: &LoadedTable,
    partitions: Vec<Vec<RecordBatch>>,
) -> DFResult<Vec<WrittenFile>> {
    let rows = partitions[0][0].schema();
    let input = MemorySourceConfig::try_new_exec(&partitions, rows, None)?;
    let plan = write_plan(table, input, &QueryId::generate()).unwrap();
    let answers = collect(plan, context.task_ctx()).await?;
    Ok(written_files(&answers, table).unwrap())
}

/// The files as the manifests would tell of them, with counts and no bounds.
pub(crate) fn planned(files: &[WrittenFile]) -> FilePlan {
    let plan = |file: &WrittenFile| {
        let file = &file.data_file;
        let nulls = file.null_value_counts().iter();
        let columns = nulls.map(|(id, n)| (*id, ColumnBounds { null_count: Some(*n), ..Default::default() }));
        PlannedFile::new(Arc::new(FileEntry {
            path: file.file_path().to_string(),
            size: file.file_size_in_bytes(),
            record_count: file.record_count(),
            spec_id: 0,
            partition: file.partition().clone(),
            data_sequence_number: 1,
            split_offsets: vec![],
            constants: BTreeMap::new(),
            bounds: (Arc::new(FileBounds::new(&[columns.collect()])), 0),
        }))
    };
    FilePlan { files: files.iter().map(plan).collect(), total_files: files.len() + 1, ..Default::default() }
}

/// A [`crate::LakeTable`] whose files were planned by hand.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) table: LoadedTable,
    pub(crate) plan: FilePlan,
}

#[async_trait]
impl TableProvider for Planned {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table.arrow_schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DFResult<Arc<dyn ExecutionPlan>> {
        let limit = if filters.is_empty() { limit } else { None };
        scan_plan(&self.table, self.plan.clone(), "ann", state, projection, limit)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DFResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// Makes `table` known as `t`.
pub(crate) fn register(context: &SessionContext, table: &LoadedTable, plan: FilePlan) {
    let provider = Arc::new(Planned { table: table.clone(), plan });
    context.deregister_table("t").unwrap();
    context.register_table("t", provider).unwrap();
}

/// The answer of a query as text.
pub(crate) async fn sql(context: &SessionContext, text: &str) -> DFResult<String> {
    let rows = context.sql(text).await?.collect().await?;
    Ok(pretty_format_batches(&rows)?.to_string())
}

/// The code of the typed error inside.
pub(crate) fn code(error: DataFusionError) -> ErrorCode {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(e) = cause {
        if let Some(error) = e.downcast_ref::<Error>() {
            return error.code();
        }
        if let Some(DataFusionError::External(inner)) = e.downcast_ref::<DataFusionError>()
            && let Some(error) = inner.downcast_ref::<Error>()
        {
            return error.code();
        }
        cause = e.source();
    }
    panic!("not a typed error: {error}");
}

/// The codec as the engine has it, for the lake's nodes alone.
#[derive(Debug)]
pub(crate) struct LakeCodec;

impl PhysicalExtensionCodec for LakeCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        conv: &dyn PhysicalProtoConverterExtension,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        codec::try_decode(buf, inputs, ctx, conv)
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        conv: &dyn PhysicalProtoConverterExtension,
    ) -> datafusion::common::Result<()> {
        assert!(codec::try_encode(&node, buf, conv)?, "{node:?}");
        Ok(())
    }
}
