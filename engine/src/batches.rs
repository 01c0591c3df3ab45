//! Batches that are small enough to travel.
//!
//! A slice of a `Utf8View` or `BinaryView` array keeps the buffers of the whole array, and IPC writes all of them with
//! each slice: a frame of a few rows can carry 27 MB (TPC-H q10 at scale 1 fails stock Ballista in this way). So a batch is
//! first cut and then compacted: each piece gets buffers of its own that hold its own values and nothing else.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericByteViewArray, GenericListArray, MapArray, MutableArrayData,
    OffsetSizeTrait, RecordBatch, RecordBatchOptions, StructArray, make_array,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, StringViewType};
use arrow::error::ArrowError;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt, stream};

/// The most bytes of a batch that [`compact`] gives out, unless one row alone is larger. Clients' limits are outside our
/// control, and 4 MiB is the smallest that is common.
pub const MAX_BATCH_BYTES: usize = 1 << 20;

/// Buffers are rewritten only when they hold this many times what the values use: copying well-filled buffers buys nothing.
const WASTE: usize = 2;

/// What a batch may hold beside, in bytes: buffers are rounded up, and arrays have a size of their own.
const SLACK: usize = 64 << 10;

/// Cuts the batches of `rows` to `max_rows` rows and [`MAX_BATCH_BYTES`] and compacts each piece. Empty batches disappear.
/// It works batch by batch as the consumer asks, so back-pressure passes through.
pub fn compact(rows: SendableRecordBatchStream, max_rows: usize) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let pieces = rows
        .map(move |batch| batch.and_then(|batch| pieces(&batch, max_rows, MAX_BATCH_BYTES)))
        .map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok)))
        .try_flatten();
    Box::pin(RecordBatchStreamAdapter::new(schema, pieces))
}

/// Cuts one batch into compacted pieces of at most `max_rows` rows and `max_bytes` bytes. A single row may be larger.
///
/// Errors: an array that is not well formed.
pub fn pieces(batch: &RecordBatch, max_rows: usize, max_bytes: usize) -> Result<Vec<RecordBatch>> {
    let mut done = Vec::new();
    let mut offset = 0;
    while offset < batch.num_rows() {
        let mut rows = max_rows.max(1).min(batch.num_rows() - offset);
        let mut piece = batch.slice(offset, rows);
        let mut bytes = used_bytes(&piece)?;
        // Rows differ in size, so a cut by the average is repeated until the piece fits.
        while bytes > max_bytes && rows > 1 {
            let fitting = rows.saturating_mul(max_bytes) / bytes;
            rows = fitting.clamp(1, rows / 2 + rows % 2).min(rows - 1);
            piece = batch.slice(offset, rows);
            bytes = used_bytes(&piece)?;
        }
        done.push(compact_batch(&piece)?);
        offset += rows;
    }
    Ok(done)
}

/// The batch with view buffers, at any depth, that hold only what the batch uses. Shares everything else.
///
/// Errors: an array that is not well formed.
pub fn compact_batch(batch: &RecordBatch) -> Result<RecordBatch> {
    if !batch.columns().iter().any(|column| has_views(column.data_type())) {
        return Ok(batch.clone());
    }
    let columns = batch.columns().iter().map(compact_array).collect::<Result<Vec<_>, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

/// The batch with buffers of its own where it is a small part of what it holds. An aggregate gives its result out as slices
/// of one array, and whoever counts the memory of each slice counts the whole array each time.
///
/// Errors: an array that is not well formed.
pub fn own_batch(batch: &RecordBatch) -> Result<RecordBatch> {
    let is_wasteful = |batch: &RecordBatch| {
        used_bytes(batch).map(|used| batch.get_array_memory_size() > used.saturating_mul(WASTE).saturating_add(SLACK))
    };
    if !is_wasteful(batch)? {
        return Ok(batch.clone());
    }
    let batch = compact_batch(batch)?;
    if !is_wasteful(&batch)? {
        return Ok(batch);
    }
    let columns = batch.columns().iter().map(copy).collect::<Result<Vec<_>, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

fn copy(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data = array.to_data();
    let mut own = MutableArrayData::new(vec![&data], false, data.len());
    own.try_extend(0, 0, data.len())?;
    Ok(make_array(own.freeze()))
}

/// How many bytes the rows of the batch take when nothing else is kept: about what IPC writes for a compacted batch.
pub fn used_bytes(batch: &RecordBatch) -> Result<usize> {
    let sizes = batch.columns().iter().map(array_bytes).collect::<Result<Vec<_>, ArrowError>>()?;
    Ok(sizes.into_iter().sum())
}

fn has_views(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => true,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            has_views(field.data_type())
        }
        DataType::Map(field, _) => has_views(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_views(field.data_type())),
        DataType::Dictionary(_, values) => has_views(values),
        _ => false,
    }
}

fn compact_array(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !has_views(array.data_type()) {
        return Ok(Arc::clone(array));
    }
    Ok(match array.data_type() {
        DataType::Utf8View => compact_views::<StringViewType>(array),
        DataType::BinaryView => compact_views::<BinaryViewType>(array),
        DataType::List(_) => Arc::new(compact_list(array.as_list::<i32>())?),
        DataType::LargeList(_) => Arc::new(compact_list(array.as_list::<i64>())?),
        DataType::FixedSizeList(field, size) => {
            let list = array.as_fixed_size_list();
            let values = compact_array(list.values())?;
            let nulls = list.nulls().cloned();
            Arc::new(FixedSizeListArray::try_new_with_length(Arc::clone(field), *size, values, nulls, list.len())?)
        }
        DataType::Map(field, sorted) => {
            let map = array.as_map();
            let (offsets, from, len) = rebased(map.offsets());
            let entries: ArrayRef = Arc::new(map.entries().slice(from, len));
            let entries = compact_array(&entries)?.as_struct().clone();
            Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, map.nulls().cloned(), *sorted)?)
        }
        DataType::Struct(fields) => {
            let parts = array.as_struct();
            let columns = parts.columns().iter().map(compact_array).collect::<Result<Vec<_>, _>>()?;
            let nulls = parts.nulls().cloned();
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, parts.len())?)
        }
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            dictionary.with_values(compact_array(dictionary.values())?)
        }
        _ => Arc::clone(array),
    })
}

fn compact_views<T: ByteViewType>(array: &ArrayRef) -> ArrayRef {
    let views: &GenericByteViewArray<T> = array.as_byte_view();
    let held: usize = views.data_buffers().iter().map(|buffer| buffer.capacity()).sum();
    if held <= views.total_buffer_bytes_used().saturating_mul(WASTE) {
        return Arc::clone(array);
    }
    Arc::new(views.gc())
}

fn compact_list<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> Result<GenericListArray<O>, ArrowError> {
    let (offsets, from, len) = rebased(list.offsets());
    let values = compact_array(&list.values().slice(from, len))?;
    let field = match list.data_type() {
        DataType::List(field) | DataType::LargeList(field) => Arc::clone(field),
        other => return Err(ArrowError::SchemaError(format!("a list array of type {other}"))),
    };
    GenericListArray::try_new(field, offsets, values, list.nulls().cloned())
}

/// Offsets that start at zero, and the range of the child that they covered before.
fn rebased<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> (OffsetBuffer<O>, usize, usize) {
    let first = offsets.first().copied().unwrap_or_default();
    let last = offsets.last().copied().unwrap_or_default();
    let moved: ScalarBuffer<O> = offsets.iter().map(|offset| *offset - first).collect::<Vec<_>>().into();
    (OffsetBuffer::new(moved), first.as_usize(), (last - first).as_usize())
}

/// As `ArrayData::get_slice_memory_size`, which counts no bytes behind views and whole children of sliced lists.
fn array_bytes(array: &ArrayRef) -> Result<usize, ArrowError> {
    if !has_views(array.data_type()) {
        return array.to_data().get_slice_memory_size();
    }
    let own = array.len() / 8 + 1;
    Ok(own
        + match array.data_type() {
            DataType::Utf8View => array.len() * 16 + array.as_string_view().total_buffer_bytes_used(),
            DataType::BinaryView => array.len() * 16 + array.as_binary_view().total_buffer_bytes_used(),
            DataType::List(_) => list_bytes(array.as_list::<i32>())?,
            DataType::LargeList(_) => list_bytes(array.as_list::<i64>())?,
            DataType::FixedSizeList(_, _) => array_bytes(array.as_fixed_size_list().values())?,
            DataType::Map(_, _) => {
                let (_, from, len) = rebased(array.as_map().offsets());
                let entries: ArrayRef = Arc::new(array.as_map().entries().slice(from, len));
                array.len() * 4 + array_bytes(&entries)?
            }
            DataType::Struct(_) => {
                let columns = array.as_struct().columns();
                columns.iter().map(array_bytes).sum::<Result<usize, _>>()?
            }
            DataType::Dictionary(_, _) => {
                let dictionary = array.as_any_dictionary();
                dictionary.keys().to_data().get_slice_memory_size()? + array_bytes(dictionary.values())?
            }
            _ => array.to_data().get_slice_memory_size()?,
        })
}

fn list_bytes<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> Result<usize, ArrowError> {
    let (_, from, len) = rebased(list.offsets());
    Ok((list.len() + 1) * size_of::<O>() + array_bytes(&list.values().slice(from, len))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, ListBuilder, StringViewArray, StringViewBuilder};
    use arrow::datatypes::{Field, Schema};

    /// 27 MB of strings, of which a slice uses little: what q10 at scale 1 sends.
    fn large(rows: usize, width: usize) -> ArrayRef {
        Arc::new((0..rows).map(|i| Some(format!("{i:0width$}"))).collect::<StringViewArray>())
    }

    fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
        RecordBatch::try_from_iter(columns.into_iter().enumerate().map(|(i, c)| (format!("c{i}"), c))).unwrap()
    }

    fn held(batch: &RecordBatch) -> usize {
        batch.get_array_memory_size()
    }

    #[test]
    fn a_slice_of_large_views_gets_small() {
        let all = batch(vec![large(270_000, 100)]);
        let slice = all.slice(1000, 50);
        assert!(held(&slice) > 27_000_000);
        let small = compact_batch(&slice).unwrap();
        assert!(held(&small) < 20_000, "{}", held(&small));
        assert_eq!(small, slice);
    }

    #[test]
    fn a_slice_of_anything_can_get_memory_of_its_own() {
        let numbers: ArrayRef = Arc::new((0..270_000).map(Some).collect::<Int64Array>());
        let all = batch(vec![numbers, large(270_000, 100)]);
        let slice = all.slice(1000, 50);
        let own = own_batch(&slice).unwrap();
        assert!(held(&own) < 20_000, "{}", held(&own));
        assert_eq!(own, slice);
        let whole = own_batch(&all).unwrap();
        assert!(Arc::ptr_eq(whole.column(0), all.column(0)), "what is used is not copied");
    }

    #[test]
    fn views_inside_lists_and_structs_get_small() {
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        for i in 0..20_000 {
            lists.values().append_value(format!("{i:0100}"));
            lists.values().append_null();
            lists.append(i % 3 != 0);
        }
        let lists: ArrayRef = Arc::new(lists.finish());
        let field = Arc::new(Field::new("inner", lists.data_type().clone(), true));
        let nested: ArrayRef = Arc::new(StructArray::from(vec![(field, lists)]));
        let slice = batch(vec![nested]).slice(777, 10);
        let small = compact_batch(&slice).unwrap();
        assert!(held(&slice) > 1_000_000 && held(&small) < 20_000, "{} {}", held(&slice), held(&small));
        assert_eq!(small, slice);
    }

    #[test]
    fn pieces_keep_every_row_and_the_limits() {
        let rows = 10_000;
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
        let all = batch(vec![numbers, large(rows, 1000)]);
        let parts = pieces(&all, 4096, MAX_BATCH_BYTES).unwrap();
        assert!(parts.iter().all(|p| p.num_rows() <= 4096 && held(p) <= 3 * MAX_BATCH_BYTES));
        assert_eq!(arrow::compute::concat_batches(&all.schema(), &parts).unwrap(), all);
    }

    #[test]
    fn one_row_above_the_limit_goes_alone() {
        let wide: ArrayRef = Arc::new(StringViewArray::from(vec!["x".repeat(3 << 20), "y".to_string()]));
        let parts = pieces(&batch(vec![wide]), 4096, MAX_BATCH_BYTES).unwrap();
        assert_eq!(parts.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [1, 1]);
    }

    #[tokio::test]
    async fn a_stream_without_columns_keeps_its_row_count() {
        let schema = Arc::new(Schema::empty());
        let options = RecordBatchOptions::new().with_row_count(Some(10));
        let empty = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options).unwrap();
        let rows = RecordBatchStreamAdapter::new(schema, stream::iter([Ok(empty)]));
        let out: Vec<_> = compact(Box::pin(rows), 4).try_collect().await.unwrap();
        assert_eq!(out.iter().map(RecordBatch::num_rows).sum::<usize>(), 10);
    }
}
