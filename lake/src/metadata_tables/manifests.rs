//! `$manifests`: the manifests of a snapshot. One file is read, the manifest list.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use futures::{FutureExt, StreamExt};
use iceberg::spec::ManifestFile;
use townlake_common::Result;

use super::values::summary_text;
use super::{Batches, manifests_of, optional, required, unfit};
use crate::LoadedTable;

pub(super) fn schema() -> Schema {
    Schema::new(vec![
        required("path", DataType::Utf8),
        required("length", DataType::Int64),
        required("partition_spec_id", DataType::Int32),
        optional("added_snapshot_id", DataType::Int64),
        optional("added_data_files_count", DataType::Int32),
        optional("added_rows_count", DataType::Int64),
        optional("existing_data_files_count", DataType::Int32),
        optional("existing_rows_count", DataType::Int64),
        optional("deleted_data_files_count", DataType::Int32),
        optional("deleted_rows_count", DataType::Int64),
        optional("partition_summaries", DataType::List(summary_item())),
    ])
}

fn summary_fields() -> Fields {
    Fields::from(vec![
        required("contains_null", DataType::Boolean),
        optional("contains_nan", DataType::Boolean),
        optional("lower_bound", DataType::Utf8),
        optional("upper_bound", DataType::Utf8),
    ])
}

fn summary_item() -> Arc<Field> {
    Arc::new(optional("element", DataType::Struct(summary_fields())))
}

pub(super) fn batches(table: &Arc<LoadedTable>, schema: &SchemaRef) -> Batches {
    let (table, schema) = (Arc::clone(table), Arc::clone(schema));
    let batch = async move {
        let manifests = manifests_of(Arc::clone(&table)).await?;
        batch(&table, &schema, &manifests)
    };
    batch.into_stream().boxed()
}

fn batch(table: &LoadedTable, schema: &SchemaRef, manifests: &[ManifestFile]) -> Result<RecordBatch> {
    let count = |of: fn(&ManifestFile) -> Option<u32>| -> ArrayRef {
        let counts = manifests.iter().map(|manifest| of(manifest).and_then(|count| i32::try_from(count).ok()));
        Arc::new(counts.collect::<Int32Array>())
    };
    let rows = |of: fn(&ManifestFile) -> Option<u64>| -> ArrayRef {
        let rows = manifests.iter().map(|manifest| of(manifest).and_then(|rows| i64::try_from(rows).ok()));
        Arc::new(rows.collect::<Int64Array>())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(manifests.iter().map(|manifest| Some(manifest.manifest_path.as_str())).collect::<StringArray>()),
        Arc::new(manifests.iter().map(|manifest| Some(manifest.manifest_length)).collect::<Int64Array>()),
        Arc::new(manifests.iter().map(|manifest| Some(manifest.partition_spec_id)).collect::<Int32Array>()),
        Arc::new(manifests.iter().map(|manifest| Some(manifest.added_snapshot_id)).collect::<Int64Array>()),
        count(|manifest| manifest.added_files_count),
        rows(|manifest| manifest.added_rows_count),
        count(|manifest| manifest.existing_files_count),
        rows(|manifest| manifest.existing_rows_count),
        count(|manifest| manifest.deleted_files_count),
        rows(|manifest| manifest.deleted_rows_count),
        summaries(table, manifests)?,
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(unfit)
}

/// For each manifest a list with one summary for each field of its partition spec.
fn summaries(table: &LoadedTable, manifests: &[ManifestFile]) -> Result<ArrayRef> {
    let (mut nulls, mut nans, mut lowers, mut uppers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut lengths = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        let spec = table.metadata.partition_spec_by_id(manifest.partition_spec_id);
        let fields = spec.map(|spec| spec.fields()).unwrap_or_default();
        let summaries = manifest.partitions.as_deref().unwrap_or_default();
        let text = |field, bound: &Option<_>| summary_text(&table.metadata, field, bound.as_ref().map(AsRef::as_ref));
        for (field, summary) in fields.iter().zip(summaries) {
            nulls.push(Some(summary.contains_null));
            nans.push(summary.contains_nan);
            lowers.push(text(field, &summary.lower_bound));
            uppers.push(text(field, &summary.upper_bound));
        }
        lengths.push(fields.len().min(summaries.len()));
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(nulls)),
        Arc::new(BooleanArray::from(nans)),
        Arc::new(StringArray::from(lowers)),
        Arc::new(StringArray::from(uppers)),
    ];
    let items = StructArray::try_new(summary_fields(), columns, None).map_err(unfit)?;
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(summary_item(), offsets, Arc::new(items), None).map_err(unfit)?))
}
