//! Writing rows into new data files of a table. The files are committed elsewhere, once, by the coordinator.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result as DFResult};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::ExecutionPlan;
use iceberg::spec::{FormatVersion, PartitionSpec, Schema, StructType, TableMetadata};
use object_store::path::Path;
use townlake_common::{Error, ErrorCode, QueryId, Result};
use townlake_proto::lake::WriteRecipe;

use crate::types::LoadedTable;

mod answer;
mod crowded;
mod exec;
mod files;
mod metrics;
mod parquet_format;
mod partition;
mod positions;
mod row_delta;
mod rows;
mod sorting;
#[cfg(test)]
mod tests;
pub(crate) mod transform;
mod upload;

pub use answer::{WRITTEN_FILES_SCHEMA, changed_files, written_files};
pub(crate) use exec::IcebergWriteExec;
pub(crate) use metrics::{of_columns, split_offsets};
pub(crate) use row_delta::{RowDeltaExec, RowDeltaSpec, deletes_plan};
pub use row_delta::{rewrite_plan, row_delta_plan};

/// The table property that says how large data files become.
pub(crate) const TARGET_FILE_BYTES: &str = "write.target-file-size-bytes";

/// The plan that writes the rows of `input`, in the table's column order, into new files of the table.
///
/// Errors: `INVALID_QUERY` where the columns do not fit, `FORMAT_NOT_SUPPORTED` for a table that cannot be appended to.
pub fn write_plan(
    table: &LoadedTable,
    input: Arc<dyn ExecutionPlan>,
    query: &QueryId,
) -> Result<Arc<dyn ExecutionPlan>> {
    let spec = WriteSpec::new(table, query)?;
    rows::check(&spec.table, &input.schema(), &spec.arrow_schema)?;
    let failed = |e| Error::internal(format!("a write into {} cannot be planned", table.full_name())).with_source(e);
    let (input, sort_order_id) = sorting::sorted(table, input, 0).map_err(failed)?;
    let spec = WriteSpec { sort_order_id, ..spec };
    Ok(Arc::new(IcebergWriteExec::try_new(Arc::new(spec), input).map_err(failed)?))
}

/// The plan that writes the rows of `input`, in the table's columns, in the order in which they come: that with the id
/// `sort_order_id`, if it is one of the table's.
///
/// Errors: as [`write_plan`].
pub(crate) fn write_sorted(
    table: &LoadedTable,
    input: Arc<dyn ExecutionPlan>,
    sort_order_id: Option<i32>,
    query: &QueryId,
) -> Result<Arc<dyn ExecutionPlan>> {
    let spec = WriteSpec { sort_order_id, ..WriteSpec::new(table, query)? };
    let failed = |e| Error::internal(format!("a write into {} cannot be planned", table.full_name())).with_source(e);
    Ok(Arc::new(IcebergWriteExec::try_new(Arc::new(spec), input).map_err(failed)?))
}

/// The URI of the folder that a table's new data files go to.
pub(crate) fn data_location(metadata: &TableMetadata) -> String {
    match metadata.properties().get("write.data.path") {
        Some(path) => path.trim_end_matches('/').to_string(),
        None => format!("{}/data", metadata.location().trim_end_matches('/')),
    }
}

/// What is written where, as far as an executor must know it.
#[derive(Debug, Clone)]
pub(crate) struct WriteSpec {
    /// `catalog.schema.table`.
    pub table: String,
    pub query_id: String,
    /// The URI of the folder for data files.
    pub data_location: String,
    pub object_store_url: ObjectStoreUrl,
    /// The key of that folder.
    pub data_path: Path,
    pub arrow_schema: SchemaRef,
    pub schema: Schema,
    pub partition_spec: PartitionSpec,
    pub partition_type: StructType,
    pub format_version: FormatVersion,
    pub target_file_bytes: u64,
    pub row_group_bytes: u64,
    /// As Parquet's `Compression` parses it: `zstd(1)`.
    pub compression: String,
    /// The order that the rows of each file come in.
    pub sort_order_id: Option<i32>,
}

impl WriteSpec {
    pub(crate) fn new(table: &LoadedTable, query: &QueryId) -> Result<Self> {
        let metadata = &table.metadata;
        let properties = metadata.properties();
        // Now, and not when the rows are written and the commit finds out.
        table.check_writable()?;
        let data_location = data_location(metadata);
        let (object_store_url, data_path) = table.objects.object_store_url(&data_location)?;
        Ok(Self {
            table: table.full_name(),
            query_id: query.to_string(),
            data_location,
            object_store_url,
            data_path,
            arrow_schema: Arc::clone(&table.arrow_schema),
            schema: table.iceberg_schema.as_ref().clone(),
            partition_spec: metadata.default_partition_spec().as_ref().clone(),
            partition_type: metadata.default_partition_type().clone(),
            format_version: metadata.format_version(),
            target_file_bytes: target_file_bytes(table)?,
            row_group_bytes: number(properties, "write.parquet.row-group-size-bytes", 128 << 20)?,
            compression: compression(properties)?,
            sort_order_id: None,
        })
    }

    /// The recipe, without the Arrow schema.
    pub(crate) fn to_recipe(&self) -> DFResult<WriteRecipe> {
        Ok(WriteRecipe {
            table: self.table.clone(),
            query_id: self.query_id.clone(),
            data_location: self.data_location.clone(),
            object_store_url: self.object_store_url.as_str().to_string(),
            data_path: self.data_path.to_string(),
            arrow_schema: Vec::new(),
            schema_json: serde_json::to_string(&self.schema).map_err(|e| not_json("schema", e))?,
            partition_spec_json: serde_json::to_string(&self.partition_spec)
                .map_err(|e| not_json("partition spec", e))?,
            format_version: self.format_version as u32,
            target_file_bytes: self.target_file_bytes,
            row_group_bytes: self.row_group_bytes,
            compression: self.compression.clone(),
            sort_order_id: self.sort_order_id,
        })
    }

    /// The specification that [`WriteSpec::to_recipe`] wrote.
    pub(crate) fn from_recipe(recipe: WriteRecipe, arrow_schema: SchemaRef) -> DFResult<Self> {
        let schema: Schema = serde_json::from_str(&recipe.schema_json).map_err(|e| not_json("schema", e))?;
        let partition_spec: PartitionSpec =
            serde_json::from_str(&recipe.partition_spec_json).map_err(|e| not_json("partition spec", e))?;
        let partition_type = partition_spec.partition_type(&schema).map_err(|e| {
            external(
                Error::internal(format!("the partition spec of {} does not fit its schema", recipe.table))
                    .with_source(e),
            )
        })?;
        let format_version = match recipe.format_version {
            1 => FormatVersion::V1,
            2 => FormatVersion::V2,
            3 => FormatVersion::V3,
            other => return Err(external(Error::internal(format!("format version {other} is not known")))),
        };
        let data_path = Path::parse(&recipe.data_path)
            .map_err(|e| external(Error::internal(format!("the path of {} is broken", recipe.table)).with_source(e)))?;
        Ok(Self {
            object_store_url: ObjectStoreUrl::parse(&recipe.object_store_url)?,
            table: recipe.table,
            query_id: recipe.query_id,
            data_location: recipe.data_location,
            data_path,
            arrow_schema,
            schema,
            partition_spec,
            partition_type,
            format_version,
            target_file_bytes: recipe.target_file_bytes,
            row_group_bytes: recipe.row_group_bytes,
            compression: recipe.compression,
            sort_order_id: recipe.sort_order_id,
        })
    }
}

/// How big the data files of a table should be.
///
/// Errors: `INVALID_ARGUMENT` for a table property that is no positive number.
pub(crate) fn target_file_bytes(table: &LoadedTable) -> Result<u64> {
    number(table.metadata.properties(), TARGET_FILE_BYTES, 512 << 20)
}

/// A table property that is a positive number.
///
/// Errors: `INVALID_ARGUMENT` where it is something else.
pub(crate) fn number(properties: &HashMap<String, String>, key: &str, default: u64) -> Result<u64> {
    let Some(text) = properties.get(key) else { return Ok(default) };
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Error::new(ErrorCode::InvalidArgument, format!("the table property {key} is not a positive number"))),
    }
}

fn compression(properties: &HashMap<String, String>) -> Result<String> {
    let codec = properties.get("write.parquet.compression-codec").map_or("zstd", String::as_str);
    let level = properties.get("write.parquet.compression-level");
    let leveled = |codec: &str, default: &str| format!("{codec}({})", level.map_or(default, String::as_str));
    let text = match codec.to_ascii_lowercase().as_str() {
        "zstd" => leveled("zstd", "1"),
        "gzip" => leveled("gzip", "6"),
        "snappy" => "snappy".to_string(),
        "lz4" => "lz4_raw".to_string(),
        "uncompressed" | "none" => "uncompressed".to_string(),
        other => return Err(unknown_compression(other)),
    };
    match text.parse::<parquet::basic::Compression>() {
        Ok(_) => Ok(text),
        Err(_) => Err(unknown_compression(&text)),
    }
}

fn unknown_compression(text: &str) -> Error {
    Error::new(
        ErrorCode::InvalidArgument,
        format!("the table's Parquet compression {text} is not one that can be written"),
    )
    .with_hint("set write.parquet.compression-codec to zstd, snappy, gzip, lz4 or uncompressed")
}

fn not_json(what: &str, source: serde_json::Error) -> DataFusionError {
    external(Error::internal(format!("a {what} cannot be carried as JSON")).with_source(source))
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
