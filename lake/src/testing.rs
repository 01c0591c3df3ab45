//! A lake in a temporary folder, for unit tests: SQLite catalog, local files, data files that exist in metadata only.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion, ManifestContentType, ManifestFile,
    ManifestListWriter, ManifestWriterBuilder, Operation, Snapshot, SnapshotReference, SnapshotRetention, Struct,
    Summary,
};
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::config::{CatalogConfig, Config, IcebergCatalog};
use townlake_common::{Principal, QueryContext, QueryId, Result};

use crate::catalog::sql::SqlCatalog;
use crate::catalog::{Catalog, CommitOutcome, TableName};
use crate::plan::manifests;
use crate::{
    CreateTable, LakeCatalog, LakeObjects, LakeTable, LoadedTable, ObjectAccess, PartitionField, WrittenFile,
    write_plan, written_files,
};

pub(crate) struct Lake {
    pub folder: tempfile::TempDir,
    pub catalog: Arc<LakeCatalog>,
}

impl Lake {
    /// The catalog `lake` with the schema `s`.
    pub async fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalog = LakeCatalog::open("lake", &config(folder.path())).await.unwrap();
        assert!(catalog.create_schema("s", false).await.unwrap());
        Self { folder, catalog }
    }

    /// The same with the table `s.t`.
    pub async fn create(columns: &[(&str, DataType)], partition: &[PartitionField]) -> Self {
        let lake = Self::empty().await;
        let create = create_table("t", columns, partition);
        lake.catalog.create_table(create).await.unwrap().unwrap();
        lake
    }

    /// A second node's view of the same catalog.
    pub async fn again(&self) -> Arc<LakeCatalog> {
        LakeCatalog::open("lake", &config(self.folder.path())).await.unwrap()
    }

    pub async fn load(&self, table: &str) -> Arc<LoadedTable> {
        self.catalog.load("s", table, None).await.unwrap().unwrap()
    }

    pub fn location(&self, table: &str) -> String {
        format!("file://{}/warehouse/s/{table}", self.folder.path().display())
    }

    pub async fn append(&self, table: &str, files: Vec<WrittenFile>) -> i64 {
        self.try_append(table, files, &QueryId::generate()).await.unwrap().unwrap()
    }

    pub async fn try_append(&self, table: &str, files: Vec<WrittenFile>, query: &QueryId) -> Result<Option<i64>> {
        let table = self.load(table).await;
        self.catalog.commit_append(&table, files, query).await
    }

    /// The SQL catalog itself, below the commit loop.
    pub async fn sql(&self) -> (SqlCatalog, ObjectAccess) {
        let config = config(self.folder.path());
        let objects = ObjectAccess::new("lake", &config).unwrap();
        let sql = SqlCatalog::open("lake", "lake", &config.uri, &config.warehouse, objects.clone()).await.unwrap();
        (sql, objects)
    }

    /// A session over the lake's object stores, as a node has it.
    pub fn context(&self) -> SessionContext {
        self.context_with(SessionConfig::new().with_target_partitions(1))
    }

    /// The same with these settings.
    pub fn context_with(&self, config: SessionConfig) -> SessionContext {
        let text = config_text(self.folder.path());
        let objects = LakeObjects::from_config(&Config::from_toml(&text).unwrap().catalogs).unwrap();
        let query = QueryContext::new(QueryId::generate(), Principal::new("ann", vec![]));
        let config = config.with_extension(query);
        let runtime = RuntimeEnvBuilder::new().with_object_store_registry(objects.registry()).build_arc().unwrap();
        let state = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features();
        SessionContext::new_with_state(state.build())
    }

    /// Writes these rows into the table and commits them: the whole way of an INSERT.
    pub async fn insert(&self, context: &SessionContext, table: &str, rows: RecordBatch) -> Vec<WrittenFile> {
        let (table, query) = (self.load(table).await, QueryId::generate());
        let input = MemorySourceConfig::try_new_exec(&[vec![rows.clone()]], rows.schema(), None).unwrap();
        let plan = write_plan(&table, input, &query).unwrap();
        let answers = collect(plan, context.task_ctx()).await.unwrap();
        let files = written_files(&answers, &table).unwrap();
        self.catalog.commit_append(&table, files.clone(), &query).await.unwrap().unwrap();
        files
    }

    /// The answer of a query over the table as it is now, which it knows as `t`: the values of each row, as text.
    pub async fn rows(&self, context: &SessionContext, table: &str, sql: &str) -> Vec<Vec<String>> {
        self.try_rows(context, table, sql).await.unwrap()
    }

    /// The same for a query that may fail.
    pub async fn try_rows(
        &self,
        context: &SessionContext,
        table: &str,
        sql: &str,
    ) -> datafusion::common::Result<Vec<Vec<String>>> {
        context.deregister_table("t")?;
        context.register_table("t", LakeTable::new(self.load(table).await))?;
        Ok(as_text(&context.sql(sql).await?.collect().await?))
    }

    /// Adds a delete file that is not there to the table, in its current spec.
    pub async fn append_deletes(&self, table: &str, content: DataContentType, more: impl FnOnce(&mut DataFileBuilder)) {
        let delete = file(&self.location(table), "deletes", Struct::empty(), |f| {
            f.content(content);
            more(f);
        });
        let spec = self.load(table).await.metadata.default_partition_spec_id();
        self.commit_deletes(table, spec, vec![delete.data_file]).await;
    }

    /// Commits delete files of one partition spec, as another engine would.
    pub async fn commit_deletes(&self, table: &str, spec: i32, deletes: Vec<DataFile>) {
        self.commit_deletes_as(ManifestContentType::Deletes, table, spec, deletes).await;
    }

    /// As [`Lake::commit_deletes`], but the manifest list says of the manifest what `content` is.
    pub async fn commit_deletes_as(
        &self,
        content: ManifestContentType,
        table: &str,
        spec: i32,
        deletes: Vec<DataFile>,
    ) {
        let (sql, _) = self.sql().await;
        let base = sql.load(&TableName::new("s", table)).await.unwrap().unwrap();
        let metadata = &base.metadata;
        let location = self.location(table);
        let io = FileIO::new_with_memory();
        let schema = metadata.current_schema().clone();
        let spec = metadata.partition_spec_by_id(spec).unwrap().as_ref().clone();
        let id = 77 + metadata.snapshots().count() as i64;
        let writer = ManifestWriterBuilder::new(io.new_output("memory://m").unwrap(), Some(id), schema, spec);
        let v3 = metadata.format_version() == FormatVersion::V3;
        let mut writer = if v3 { writer.build_v3_deletes() } else { writer.build_v2_deletes() };
        for delete in deletes {
            writer.add_file(delete, -1).unwrap();
        }
        let mut manifest = writer.write_manifest_file().await.unwrap();
        manifest.manifest_path = format!("{location}/metadata/d{id}.avro");
        manifest.content = content;
        let bytes = io.new_input("memory://m").unwrap().read().await.unwrap();
        self.commit_manifest(table, id, manifest, bytes).await;
    }

    /// Commits a manifest, of these bytes, in a snapshot of this id, as another engine would.
    pub async fn commit_manifest(&self, table: &str, id: i64, manifest: ManifestFile, bytes: Bytes) {
        let (sql, objects) = self.sql().await;
        let base = sql.load(&TableName::new("s", table)).await.unwrap().unwrap();
        let (metadata, location) = (&base.metadata, self.location(table));
        let (io, v3) = (FileIO::new_with_memory(), metadata.format_version() == FormatVersion::V3);
        objects.write(&manifest.manifest_path, bytes).await.unwrap();
        let parent = metadata.current_snapshot().unwrap();
        let all = manifests::list(&objects, parent, metadata.format_version()).await.unwrap();
        let mut all = all.as_ref().clone();
        all.push(manifest);
        let output = io.new_output("memory://l").unwrap().writer().await.unwrap();
        let sequence = metadata.next_sequence_number();
        let (parent_id, first_row) = (Some(parent.snapshot_id()), metadata.next_row_id());
        let mut list = match v3 {
            true => ManifestListWriter::v3(output, id, parent_id, sequence, Some(first_row)),
            false => ManifestListWriter::v2(output, id, parent_id, sequence),
        };
        list.add_manifests(all.into_iter()).unwrap();
        let new_rows = list.next_row_id().map_or(0, |next| next - first_row);
        list.close().await.unwrap();
        let uri = format!("{location}/metadata/snap-{id}.avro");
        objects.write(&uri, io.new_input("memory://l").unwrap().read().await.unwrap()).await.unwrap();

        let summary = Summary { operation: Operation::Delete, additional_properties: Default::default() };
        let snapshot = Snapshot::builder()
            .with_snapshot_id(id)
            .with_parent_snapshot_id(Some(parent.snapshot_id()))
            .with_sequence_number(sequence)
            .with_timestamp_ms(metadata.last_updated_ms())
            .with_manifest_list(uri)
            .with_summary(summary)
            .with_schema_id(metadata.current_schema_id());
        let snapshot = if v3 { snapshot.with_row_range(first_row, new_rows).build() } else { snapshot.build() };
        let reference = SnapshotReference::new(id, SnapshotRetention::branch(None, None, None));
        let updates = vec![
            TableUpdate::AddSnapshot { snapshot },
            TableUpdate::SetSnapshotRef { ref_name: "main".to_string(), reference },
        ];
        self.update(table, updates).await;
    }

    /// Changes the metadata of the table.
    pub async fn update(&self, table: &str, updates: Vec<TableUpdate>) {
        let (sql, _) = self.sql().await;
        let name = TableName::new("s", table);
        let base = sql.load(&name).await.unwrap().unwrap();
        let requirements = vec![TableRequirement::UuidMatch { uuid: base.metadata.uuid() }];
        assert!(matches!(sql.commit(&name, &base, requirements, updates).await, CommitOutcome::Committed));
    }
}

pub(crate) fn create_table(name: &str, columns: &[(&str, DataType)], partition: &[PartitionField]) -> CreateTable {
    let columns = columns.iter().map(|(name, data_type)| Arc::new(Field::new(*name, data_type.clone(), true)));
    CreateTable {
        schema: "s".to_string(),
        table: name.to_string(),
        columns: columns.collect(),
        partition: partition.to_vec(),
        ..CreateTable::default()
    }
}

/// A data file of ten rows that is not there.
pub(crate) fn file(
    location: &str,
    name: &str,
    partition: Struct,
    more: impl FnOnce(&mut DataFileBuilder),
) -> WrittenFile {
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(format!("{location}/data/{name}.parquet"))
        .file_format(DataFileFormat::Parquet)
        .partition(partition)
        .record_count(10)
        .file_size_in_bytes(1000)
        .partition_spec_id(0);
    more(&mut builder);
    let data_file: DataFile = builder.build().unwrap();
    WrittenFile { data_file, spec_id: 0, rows: 10, bytes: 1000 }
}

fn config_text(folder: &std::path::Path) -> String {
    let folder = folder.display();
    format!(
        "[catalogs.lake]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite://{folder}/catalog.db\"\n\
         warehouse = \"file://{folder}/warehouse\""
    )
}

fn config(folder: &std::path::Path) -> IcebergCatalog {
    let mut config = Config::from_toml(&config_text(folder)).unwrap();
    match config.catalogs.remove("lake") {
        Some(CatalogConfig::Iceberg(config)) => *config,
        _ => panic!("no iceberg catalog"),
    }
}

/// The values of each row, as text.
pub(crate) fn as_text(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let row = |batch: &RecordBatch, row| {
        let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
        values.collect::<Vec<_>>()
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |n| row(batch, n))).collect()
}
