//! Carries the lake's physical nodes from the coordinator to executors, as the recipes of `lake.proto`.
//!
//! The engine's codec asks here for each node that DataFusion cannot encode by itself. A recipe names objects by the
//! `lake://` URLs of [`crate::LakeObjects`]: keys and endpoints are in each node's own configuration.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_datasource::TableSchema;
use datafusion_datasource::file::FileSource;
use datafusion_datasource::file_scan_config::FileScanConfig;
use datafusion_datasource::source::DataSourceExec;
use datafusion_datasource_parquet::source::ParquetSource;
use datafusion_proto::physical_plan::from_proto::{parse_protobuf_file_scan_config, parse_table_schema_from_proto};
use datafusion_proto::physical_plan::to_proto::serialize_file_scan_config;
use datafusion_proto::physical_plan::{
    DefaultPhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf;
use prost::Message;
use townlake_common::Error;
use townlake_proto::lake::recipe::Node;
use townlake_proto::lake::{ChecksumRecipe, Recipe, RowDeltaRecipe, ScanRecipe, WriteRecipe};

use crate::checksum::ChecksumExec;
use crate::clustering::{ClusterKeyExec, KeySpec};
use crate::scan::{FileConstants, IcebergSource, ScanDeletes, ScanInfo, parquet_source, places};
use crate::write::{IcebergWriteExec, RowDeltaExec, RowDeltaSpec, WriteSpec};

/// Functions in filters and projections travel by name, so no codec of a whole application is needed for them.
const FUNCTIONS_BY_NAME: DefaultPhysicalExtensionCodec = DefaultPhysicalExtensionCodec {};

/// Appends the recipe of `node` to `buf`. `false`: the node is not one of the lake's, and `buf` is as it was.
pub fn try_encode(
    node: &Arc<dyn ExecutionPlan>,
    buf: &mut Vec<u8>,
    conv: &dyn PhysicalProtoConverterExtension,
) -> Result<bool> {
    let node = if let Some((config, source)) = iceberg_scan(node) {
        Node::Scan(encode_scan(config, source, conv)?)
    } else if let Some(write) = node.downcast_ref::<IcebergWriteExec>() {
        Node::Write(encode_write(write.spec())?)
    } else if let Some(delta) = node.downcast_ref::<RowDeltaExec>() {
        Node::RowDelta(encode_row_delta(delta.spec())?)
    } else if node.is::<ChecksumExec>() {
        Node::Checksum(ChecksumRecipe {})
    } else if let Some(keys) = node.downcast_ref::<ClusterKeyExec>() {
        Node::ClusterKey(keys.spec().to_recipe()?)
    } else {
        return Ok(false);
    };
    Recipe { node: Some(node) }.encode(buf).map_err(|e| broken("a recipe cannot be encoded", e))?;
    Ok(true)
}

/// The node whose recipe [`try_encode`] wrote, over these inputs.
pub fn try_decode(
    buf: &[u8],
    inputs: &[Arc<dyn ExecutionPlan>],
    ctx: &TaskContext,
    conv: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let recipe = Recipe::decode(buf).map_err(|e| broken("a recipe of the lake cannot be decoded", e))?;
    match (recipe.node, inputs) {
        (Some(Node::Scan(scan)), []) => decode_scan(scan, ctx, conv),
        (Some(Node::Write(write)), [input]) => decode_write(write, Arc::clone(input)),
        (Some(Node::RowDelta(delta)), [input]) => decode_row_delta(delta, Arc::clone(input)),
        (Some(Node::Checksum(_)), [input]) => Ok(Arc::new(ChecksumExec::new(Arc::clone(input)))),
        (Some(Node::ClusterKey(keys)), [input]) => {
            Ok(Arc::new(ClusterKeyExec::try_new(Arc::new(KeySpec::from_recipe(keys)?), Arc::clone(input))?))
        }
        (node, inputs) => {
            let kind = match node {
                Some(Node::Scan(_)) => "scan",
                Some(Node::Write(_)) => "write",
                Some(Node::RowDelta(_)) => "row delta",
                Some(Node::Checksum(_)) => "checksum",
                Some(Node::ClusterKey(_)) => "cluster key",
                None => "unknown",
            };
            Err(external(Error::internal(format!("a recipe of kind {kind} came with {} inputs", inputs.len()))))
        }
    }
}

fn iceberg_scan(node: &Arc<dyn ExecutionPlan>) -> Option<(&FileScanConfig, &IcebergSource)> {
    let config = node.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()?;
    Some((config, config.file_source().downcast_ref::<IcebergSource>()?))
}

fn encode_scan(
    config: &FileScanConfig,
    source: &IcebergSource,
    conv: &dyn PhysicalProtoConverterExtension,
) -> Result<ScanRecipe> {
    let info = source.info().clone();
    let parquet = source
        .inner()
        .downcast_ref::<ParquetSource>()
        .ok_or_else(|| external(Error::internal(format!("the scan of {} does not read Parquet", info.table))))?;
    let predicate =
        parquet.filter().map(|filter| conv.physical_expr_to_proto(&filter, &FUNCTIONS_BY_NAME)).transpose()?;
    let scan = protobuf::ParquetScanExecNode {
        base_conf: Some(serialize_file_scan_config(config, &FUNCTIONS_BY_NAME, conv)?),
        predicate,
        parquet_options: Some(parquet.table_parquet_options().try_into()?),
    };
    // A task has a part of the file groups: it carries what belongs to their files, not what belongs to the table's.
    let files = config.file_groups.iter().flat_map(|group| group.files());
    let keys: HashSet<&str> = files.map(|file| file.object_meta.location.as_ref()).collect();
    Ok(ScanRecipe {
        table: info.table,
        snapshot_id: info.snapshot_id,
        principal: info.principal,
        files_kept: info.files_kept,
        files_total: info.files_total,
        schema_json: info.schema_json,
        name_mapping_json: info.name_mapping_json,
        parquet_scan: scan.encode_to_vec(),
        limit: config.limit.map(|limit| limit as u64),
        preserve_order: config.preserve_order,
        constants: source.constants().to_recipe(&keys),
        deletes: source.deletes().to_recipe(&keys),
        places: !source.table_schema().virtual_columns().is_empty(),
    })
}

fn decode_scan(
    recipe: ScanRecipe,
    ctx: &TaskContext,
    conv: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let decode = PhysicalPlanDecodeContext::new(ctx, &FUNCTIONS_BY_NAME);
    let scan = protobuf::ParquetScanExecNode::decode(recipe.parquet_scan.as_slice())
        .map_err(|e| broken("the files of a scan cannot be decoded", e))?;
    let (Some(files), Some(options)) = (&scan.base_conf, &scan.parquet_options) else {
        return Err(external(Error::internal("the recipe of a scan is not complete")));
    };
    let columns = Arc::clone(parse_table_schema_from_proto(files)?.file_schema());
    let schema = match recipe.places {
        true => places::with_position(Arc::clone(&columns)),
        false => TableSchema::from(&columns),
    };
    let url = ObjectStoreUrl::parse(&files.object_store_url)?;
    let mut parquet = parquet_source(schema, options.try_into()?, &url, &ctx.runtime_env())?;
    if let Some(predicate) = &scan.predicate {
        parquet = parquet.with_predicate(conv.proto_to_physical_expr(predicate, &columns, &decode)?);
    }
    let info = ScanInfo {
        table: recipe.table,
        snapshot_id: recipe.snapshot_id,
        principal: recipe.principal,
        files_kept: recipe.files_kept,
        files_total: recipe.files_total,
        schema_json: recipe.schema_json,
        name_mapping_json: recipe.name_mapping_json,
    };
    let adapter = info.adapter(&columns)?;
    let constants = Arc::new(FileConstants::from_recipe(recipe.constants));
    let deletes = ScanDeletes::new(&info.table, recipe.deletes.unwrap_or_default(), &columns, &ctx.runtime_env())
        .map_err(external)?;
    let source = IcebergSource::new(Arc::new(parquet), Arc::new(info), adapter, constants, Arc::new(deletes));
    let config = parse_protobuf_file_scan_config(files, &decode, conv, Arc::new(source.clone()))?;
    let limit = recipe.limit.and_then(|limit| usize::try_from(limit).ok());
    let config = source.adapt(config).with_limit(limit).with_preserve_order(recipe.preserve_order).build();
    Ok(DataSourceExec::from_data_source(config))
}

fn encode_write(spec: &WriteSpec) -> Result<WriteRecipe> {
    let schema: protobuf::Schema = spec.arrow_schema.as_ref().try_into()?;
    Ok(WriteRecipe { arrow_schema: schema.encode_to_vec(), ..spec.to_recipe()? })
}

fn decode_write(recipe: WriteRecipe, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(Arc::new(IcebergWriteExec::try_new(Arc::new(decode_write_spec(recipe)?), input)?))
}

fn decode_write_spec(recipe: WriteRecipe) -> Result<WriteSpec> {
    let schema = protobuf::Schema::decode(recipe.arrow_schema.as_slice())
        .map_err(|e| broken("the columns of a write cannot be decoded", e))?;
    let schema: arrow::datatypes::Schema = (&schema).try_into()?;
    WriteSpec::from_recipe(recipe, Arc::new(schema))
}

fn encode_row_delta(spec: &RowDeltaSpec) -> Result<RowDeltaRecipe> {
    let write = Some(encode_write(&spec.write)?);
    Ok(RowDeltaRecipe { write, data_files: spec.data_files.clone(), once: spec.once })
}

fn decode_row_delta(recipe: RowDeltaRecipe, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let write = recipe.write.ok_or_else(|| external(Error::internal("the recipe of changed rows is not complete")))?;
    let spec = RowDeltaSpec { write: decode_write_spec(write)?, data_files: recipe.data_files, once: recipe.once };
    Ok(Arc::new(RowDeltaExec::try_new(Arc::new(spec), input)?))
}

fn broken(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    external(Error::internal(what).with_source(source))
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
