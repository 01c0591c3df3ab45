//! `$files`: the live files of a snapshot, data and deletes, with what the manifests know of each.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Int32Array, Int32Builder, Int64Array, Int64Builder, ListBuilder, MapBuilder, RecordBatch,
    StringArray, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use iceberg::spec::{DataFile, Datum, Manifest, ManifestEntryRef, ManifestFile};
use serde_json::{Map, Value, json};
use townlake_common::Result;

use super::values::{self, PartitionColumns, map_names, map_type};
use super::{Batches, each_manifest, optional, required, unfit};
use crate::LoadedTable;

pub(super) fn schema(table: &LoadedTable) -> Result<Schema> {
    let counts = || map_type(DataType::Int64, DataType::Int64);
    let bounds = || map_type(DataType::Int64, DataType::Utf8);
    let mut fields = vec![
        required("content", DataType::Int32),
        required("file_path", DataType::Utf8),
        required("file_format", DataType::Utf8),
        required("spec_id", DataType::Int32),
    ];
    let partition = PartitionColumns::of(&table.metadata)?.data_type();
    fields.extend(partition.map(|of| required("partition", of)));
    fields.extend([
        required("record_count", DataType::Int64),
        required("file_size_in_bytes", DataType::Int64),
        optional("column_sizes", counts()),
        optional("value_counts", counts()),
        optional("null_value_counts", counts()),
        optional("nan_value_counts", counts()),
        optional("lower_bounds", bounds()),
        optional("upper_bounds", bounds()),
        optional("key_metadata", DataType::Binary),
        optional("split_offsets", DataType::List(element(DataType::Int64))),
        optional("equality_ids", DataType::List(element(DataType::Int32))),
        optional("sort_order_id", DataType::Int32),
        optional("readable_metrics", DataType::Utf8),
    ]);
    Ok(Schema::new(fields))
}

fn element(of: DataType) -> Arc<Field> {
    Arc::new(optional("element", of))
}

pub(super) fn batches(table: &Arc<LoadedTable>, schema: &SchemaRef) -> Batches {
    let (of, schema) = (Arc::clone(table), Arc::clone(schema));
    each_manifest(table, move |head, manifest| batch(&of, &schema, head, manifest))
}

fn batch(table: &LoadedTable, schema: &SchemaRef, head: &ManifestFile, manifest: &Manifest) -> Result<RecordBatch> {
    let live: Vec<_> = manifest.entries().iter().filter(|entry| entry.is_alive()).collect();
    let files = Files(&live);
    let long = |value: u64| i64::try_from(value).ok();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(files.get(|file| Some(file.content_type() as i32)).collect::<Int32Array>()),
        Arc::new(files.get(|file| Some(file.file_path())).collect::<StringArray>()),
        Arc::new(files.get(|file| Some(file.file_format().to_string().to_uppercase())).collect::<StringArray>()),
        Arc::new(files.get(|_| Some(head.partition_spec_id)).collect::<Int32Array>()),
    ];
    let partitions = PartitionColumns::of(&table.metadata)?;
    if partitions.data_type().is_some() {
        let spec = manifest.metadata().partition_spec();
        let rows = files.get(|file| partitions.values(spec, file.partition())).collect::<Result<Vec<_>>>()?;
        columns.push(partitions.column(&rows)?);
    }
    let columns = columns.into_iter().chain([
        Arc::new(files.get(|file| long(file.record_count())).collect::<Int64Array>()) as ArrayRef,
        Arc::new(files.get(|file| long(file.file_size_in_bytes())).collect::<Int64Array>()),
        files.counts(DataFile::column_sizes)?,
        files.counts(DataFile::value_counts)?,
        files.counts(DataFile::null_value_counts)?,
        files.counts(DataFile::nan_value_counts)?,
        files.bounds(DataFile::lower_bounds)?,
        files.bounds(DataFile::upper_bounds)?,
        Arc::new(files.get(DataFile::key_metadata).collect::<BinaryArray>()),
        files.split_offsets(),
        files.equality_ids(),
        Arc::new(files.get(DataFile::sort_order_id).collect::<Int32Array>()),
        Arc::new(files.get(|file| Some(readable(table, file))).collect::<StringArray>()),
    ]);
    RecordBatch::try_new(Arc::clone(schema), columns.collect()).map_err(unfit)
}

/// The files of one manifest, to be turned into columns.
struct Files<'a>(&'a [&'a ManifestEntryRef]);

impl<'a> Files<'a> {
    fn get<T>(&self, of: impl Fn(&'a DataFile) -> T) -> impl Iterator<Item = T> {
        self.0.iter().map(move |entry| of(&entry.data_file))
    }

    /// A map by field id; null where the writer gave none. The ids are BIGINT, as the literals of SQL are: `counts[1]`.
    fn counts(&self, of: fn(&DataFile) -> &HashMap<i32, u64>) -> Result<ArrayRef> {
        let mut maps = MapBuilder::new(Some(map_names()), Int64Builder::new(), Int64Builder::new());
        for counts in self.get(of) {
            for (id, count) in sorted(counts) {
                maps.keys().append_value(i64::from(id));
                maps.values().append_option(i64::try_from(*count).ok());
            }
            maps.append(!counts.is_empty()).map_err(unfit)?;
        }
        Ok(Arc::new(maps.finish()))
    }

    /// As [`Files::counts`], of bounds as text.
    fn bounds(&self, of: fn(&DataFile) -> &HashMap<i32, Datum>) -> Result<ArrayRef> {
        let mut maps = MapBuilder::new(Some(map_names()), Int64Builder::new(), StringBuilder::new());
        for bounds in self.get(of) {
            for (id, bound) in sorted(bounds) {
                maps.keys().append_value(i64::from(id));
                maps.values().append_value(values::text(bound));
            }
            maps.append(!bounds.is_empty()).map_err(unfit)?;
        }
        Ok(Arc::new(maps.finish()))
    }

    fn split_offsets(&self) -> ArrayRef {
        let mut lists = ListBuilder::new(Int64Builder::new()).with_field(element(DataType::Int64));
        for offsets in self.get(DataFile::split_offsets) {
            lists.append_option(offsets.map(|offsets| offsets.iter().copied().map(Some)));
        }
        Arc::new(lists.finish())
    }

    fn equality_ids(&self) -> ArrayRef {
        let mut lists = ListBuilder::new(Int32Builder::new()).with_field(element(DataType::Int32));
        for ids in self.get(DataFile::equality_ids) {
            lists.append_option(ids.map(|ids| ids.into_iter().map(Some)));
        }
        Arc::new(lists.finish())
    }
}

fn sorted<T>(by_id: &HashMap<i32, T>) -> Vec<(i32, &T)> {
    let mut pairs: Vec<_> = by_id.iter().map(|(id, value)| (*id, value)).collect();
    pairs.sort_by_key(|(id, _)| *id);
    pairs
}

/// The metrics of a file by the columns' names of today, as JSON.
fn readable(table: &LoadedTable, file: &DataFile) -> String {
    let schema = &table.iceberg_schema;
    let leaves = schema.field_id_to_fields().iter().filter(|(_, field)| field.field_type.is_primitive());
    let metrics = leaves.filter_map(|(id, _)| {
        let bound = |bounds: &HashMap<i32, Datum>| bounds.get(id).map_or(Value::Null, values::json);
        let metrics = json!({
            "column_size": file.column_sizes().get(id),
            "value_count": file.value_counts().get(id),
            "null_value_count": file.null_value_counts().get(id),
            "nan_value_count": file.nan_value_counts().get(id),
            "lower_bound": bound(file.lower_bounds()),
            "upper_bound": bound(file.upper_bounds()),
        });
        Some((schema.name_by_field_id(*id)?.to_string(), metrics))
    });
    let mut metrics: Vec<_> = metrics.collect();
    metrics.sort_by(|(a, _), (b, _)| a.cmp(b));
    Value::Object(metrics.into_iter().collect::<Map<_, _>>()).to_string()
}
