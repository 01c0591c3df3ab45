//! Decodes what the Storage API sends: an IPC schema once, IPC record batches after, into the columns that were planned.
//!
//! Lengths and offsets are checked before Arrow's own reader sees them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, RecordBatch, RecordBatchOptions, StructArray};
use arrow::buffer::Buffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use arrow::ipc::{self, convert::fb_to_schema, reader::read_record_batch, root_as_message};

/// The largest metadata of a message, and the largest batch after decompression, in bytes.
const METADATA_LIMIT: usize = 16 << 20;
const BATCH_LIMIT: u64 = 1 << 30;
/// The most rows, or values inside lists, of a batch.
const ROWS_LIMIT: i64 = 1 << 28;
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Why bytes are no batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Malformed(&'static str),
    /// A column that is not there, or is of another type than was planned.
    Column(String, String),
}

type Decoded<T> = Result<T, Fault>;

/// Decodes the batches of one session.
pub(crate) struct Decoder {
    sent: SchemaRef,
    wanted: SchemaRef,
    /// Of each wanted column its place in what is sent.
    places: Vec<usize>,
}

impl Decoder {
    /// A decoder for batches of this IPC schema into `wanted`, whose columns are found by name.
    pub fn new(schema: &[u8], wanted: SchemaRef) -> Decoded<Self> {
        let (metadata, _) = framed(schema)?;
        let sent = guarded(|| {
            let message = root_as_message(metadata).ok()?;
            let schema = message.header_as_schema().filter(|schema| schema.endianness() == ipc::Endianness::Little)?;
            Some(Arc::new(fb_to_schema(schema)))
        })
        .ok_or(Fault::Malformed("a schema that is none"))?;
        let place = |field: &Arc<Field>| {
            let found = sent.fields().iter().position(|sent| sent.name().eq_ignore_ascii_case(field.name()));
            let place = found.ok_or_else(|| Fault::Column(field.name().clone(), "is not sent".to_string()))?;
            let given = sent.field(place).data_type();
            match accepts(field.data_type(), given) {
                true => Ok(place),
                false => {
                    Err(Fault::Column(field.name().clone(), format!("comes as {given}, not {}", field.data_type())))
                }
            }
        };
        let places = wanted.fields().iter().map(place).collect::<Decoded<Vec<_>>>()?;
        // Columns that were not asked for must be skipped, so that their types matter, too.
        match sent.fields().iter().all(|field| is_known(field.data_type())) {
            true => Ok(Self { sent, wanted, places }),
            false => Err(Fault::Malformed("a column of an unknown type")),
        }
    }

    /// One batch.
    pub fn batch(&self, bytes: &[u8]) -> Decoded<RecordBatch> {
        let (metadata, body) = framed(bytes)?;
        let malformed = Fault::Malformed("a batch that is none");
        let message = root_as_message(metadata).map_err(|_| malformed.clone())?;
        let batch = message.header_as_record_batch().ok_or(malformed.clone())?;
        check(&message, &batch, body)?;
        let version = message.version();
        let sent = guarded(|| {
            let body = Buffer::from(body);
            read_record_batch(&body, batch, Arc::clone(&self.sent), &HashMap::new(), None, &version).ok()
        })
        .ok_or(malformed)?;
        let column = |(field, place): (&Arc<Field>, &usize)| {
            let fault = |what: &str| Fault::Column(field.name().clone(), what.to_string());
            let array = sent.columns().get(*place).ok_or_else(|| fault("is not sent"))?;
            let array = conform(array, field.data_type()).ok_or_else(|| fault("holds what does not fit its type"))?;
            match array.null_count() > 0 && !field.is_nullable() {
                true => Err(fault("holds NULL and is REQUIRED")),
                false => Ok(array),
            }
        };
        let columns = self.wanted.fields().iter().zip(&self.places).map(column).collect::<Decoded<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(sent.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.wanted), columns, &options)
            .map_err(|_| Fault::Malformed("columns of other types"))
    }
}

/// Metadata and body of an encapsulated message, with or without the continuation mark of newer versions.
fn framed(bytes: &[u8]) -> Decoded<(&[u8], &[u8])> {
    let cut = Fault::Malformed("a message that is cut off");
    let bytes = bytes.strip_prefix(&CONTINUATION).unwrap_or(bytes);
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(cut.clone())?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= METADATA_LIMIT);
    let length = length.ok_or(Fault::Malformed("a message that is too large"))?;
    rest.split_at_checked(length).ok_or(cut)
}

/// Every buffer lies in the body, and is not too large when it is unpacked.
fn check(message: &ipc::Message<'_>, batch: &ipc::RecordBatch<'_>, body: &[u8]) -> Decoded<()> {
    let wrong = Err(Fault::Malformed("a batch whose lengths do not fit"));
    let is_length = |length: i64| (0..=ROWS_LIMIT).contains(&length);
    let has_body = usize::try_from(message.bodyLength()).is_ok_and(|length| length <= body.len());
    if !has_body || !is_length(batch.length()) || batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty())
    {
        return wrong;
    }
    let is_node = |node: &ipc::FieldNode| is_length(node.length()) && (0..=node.length()).contains(&node.null_count());
    if !batch.nodes().is_some_and(|nodes| nodes.iter().all(is_node)) {
        return wrong;
    }
    let is_compressed = batch.compression().is_some();
    let mut unpacked = 0u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let (offset, length) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length()));
        let (Ok(offset), Ok(length)) = (offset, length) else { return wrong };
        let Some(bytes) = offset.checked_add(length).and_then(|end| body.get(offset..end)) else { return wrong };
        let size = match (is_compressed, bytes.first_chunk::<8>()) {
            (true, Some(prefix)) => match i64::from_le_bytes(*prefix) {
                -1 => bytes.len() as u64,
                size => match u64::try_from(size) {
                    Ok(size) => size,
                    Err(_) => return wrong,
                },
            },
            (true, None) if !bytes.is_empty() => return wrong,
            _ => bytes.len() as u64,
        };
        unpacked = unpacked.saturating_add(size);
    }
    if unpacked > BATCH_LIMIT { Err(Fault::Malformed("a batch of more than 1 GiB")) } else { Ok(()) }
}

/// Arrow's reader panics on some damage that no check above knows.
fn guarded<T>(read: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok().flatten()
}

/// Whether Arrow's reader is let near a column of this type.
fn is_known(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(field) => is_known(field.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| is_known(field.data_type())),
        DataType::Utf8 | DataType::Binary | DataType::Boolean | DataType::Interval(_) => true,
        other => other.is_numeric() || other.is_temporal(),
    }
}

/// Whether arrays of `given` can be made into `wanted` without loss.
fn accepts(wanted: &DataType, given: &DataType) -> bool {
    match (wanted, given) {
        (DataType::List(wanted), DataType::List(given)) => accepts(wanted.data_type(), given.data_type()),
        (DataType::Struct(wanted), DataType::Struct(given)) => {
            wanted.len() == given.len()
                && wanted.iter().zip(given).all(|(wanted, given)| {
                    wanted.name().eq_ignore_ascii_case(given.name()) && accepts(wanted.data_type(), given.data_type())
                })
        }
        // "UTC" is what Google says, "+00:00" what we do.
        (DataType::Timestamp(wanted, Some(_)), DataType::Timestamp(given, Some(zone))) => {
            wanted == given && matches!(zone.as_ref(), "UTC" | "Etc/UTC" | "+00:00" | "Z")
        }
        // Decimals of fewer digits: emulators send the declared ones.
        (DataType::Decimal128(_, wanted), DataType::Decimal128(_, given)) => given <= wanted,
        (DataType::Decimal256(_, wanted), DataType::Decimal128(_, given) | DataType::Decimal256(_, given)) => {
            given <= wanted
        }
        (DataType::Time64(TimeUnit::Microsecond), DataType::Time64(TimeUnit::Microsecond)) => true,
        (wanted, given) => wanted == given,
    }
}

/// The array as `wanted`; `None` where a value does not fit.
fn conform(array: &ArrayRef, wanted: &DataType) -> Option<ArrayRef> {
    if array.data_type() == wanted {
        return Some(Arc::clone(array));
    }
    match wanted {
        DataType::List(field) => {
            let list = array.as_any().downcast_ref::<ListArray>()?;
            let values = conform(list.values(), field.data_type())?;
            let list = ListArray::try_new(Arc::clone(field), list.offsets().clone(), values, list.nulls().cloned());
            Some(Arc::new(list.ok()?))
        }
        DataType::Struct(fields) => {
            let given = array.as_any().downcast_ref::<StructArray>()?;
            let columns = fields.iter().zip(given.columns()).map(|(field, column)| conform(column, field.data_type()));
            let columns = columns.collect::<Option<Vec<_>>>()?;
            let made = match columns.is_empty() {
                true => return None,
                false => StructArray::try_new(fields.clone(), columns, given.nulls().cloned()),
            };
            Some(Arc::new(made.ok()?))
        }
        _ => {
            let made = cast(array, wanted).ok()?;
            // A cast makes NULL of what does not fit.
            (made.null_count() == array.null_count()).then_some(made)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::array::{Decimal128Array, Decimal256Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Schema, i256};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

    use super::*;

    /// The IPC messages of the schema and of the batches.
    pub(crate) fn messages(schema: &Schema, batches: &[RecordBatch], codec: Option<CompressionType>) -> Vec<Vec<u8>> {
        let options = IpcWriteOptions::default().try_with_compression(codec).unwrap();
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), schema, options).unwrap();
        let mut all = vec![std::mem::take(writer.get_mut())];
        for batch in batches {
            writer.write(batch).unwrap();
            all.push(std::mem::take(writer.get_mut()));
        }
        all
    }

    fn sample() -> (Schema, RecordBatch) {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let schema = Schema::new(vec![
            Field::new("s", DataType::Utf8, true),
            Field::new("t", utc, true),
            Field::new("n", DataType::Decimal128(18, 3), true),
            Field::new("i", DataType::Int64, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("a"), None, Some("b")])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1), Some(2), None]).with_timezone("UTC")),
            Arc::new(Decimal128Array::from(vec![Some(1500), None, Some(-1)]).with_precision_and_scale(18, 3).unwrap()),
            Arc::new(Int64Array::from(vec![1, 2, 3])),
        ];
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap();
        (schema, batch)
    }

    fn wanted() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("i", DataType::Int64, false),
            Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), true),
            Field::new("n", DataType::Decimal128(38, 9), true),
        ]))
    }

    #[test]
    fn batches_are_read_by_name_into_the_planned_types() {
        let (schema, batch) = sample();
        for codec in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
            let messages = messages(&schema, std::slice::from_ref(&batch), codec);
            let decoder = Decoder::new(&messages[0], wanted()).unwrap();
            let read = decoder.batch(&messages[1]).unwrap();
            assert_eq!(read.num_rows(), 3);
            assert_eq!(read.schema(), wanted());
            let shown = arrow::util::pretty::pretty_format_batches(&[read]).unwrap().to_string();
            assert!(shown.contains("| 1 | 1970-01-01T00:00:00.000001Z | 1.500000000 "), "{shown}");
        }
    }

    #[test]
    fn bignumeric_is_read_in_all_its_digits() {
        let schema = Schema::new(vec![Field::new("b", DataType::Decimal256(76, 38), true)]);
        let widest = i256::from_string(&"9".repeat(76)).unwrap();
        let values = Decimal256Array::from(vec![Some(widest), None, Some(i256::MINUS_ONE)]);
        let column: ArrayRef = Arc::new(values.with_precision_and_scale(76, 38).unwrap());
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![column]).unwrap();
        let messages = messages(&schema, std::slice::from_ref(&batch), None);
        let read = Decoder::new(&messages[0], Arc::new(schema)).unwrap().batch(&messages[1]).unwrap();
        assert_eq!(read, batch);
    }

    #[test]
    fn other_columns_and_nulls_are_named() {
        let (schema, batch) = sample();
        let messages = messages(&schema, &[batch], None);
        let fault = |field: Field| {
            let wanted = Arc::new(Schema::new(vec![field]));
            Decoder::new(&messages[0], wanted).and_then(|decoder| decoder.batch(&messages[1])).unwrap_err()
        };
        let is_of = |fault: Fault, name: &str| matches!(&fault, Fault::Column(column, _) if column == name);
        assert!(is_of(fault(Field::new("gone", DataType::Int64, true)), "gone"));
        assert!(is_of(fault(Field::new("s", DataType::Int64, true)), "s"));
        assert!(is_of(fault(Field::new("s", DataType::Utf8, false)), "s"));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let (schema, batch) = sample();
        for codec in [None, Some(CompressionType::LZ4_FRAME)] {
            let messages = messages(&schema, std::slice::from_ref(&batch), codec);
            let decoder = Decoder::new(&messages[0], wanted()).unwrap();
            for cut in 0..messages[1].len() {
                let _ = decoder.batch(&messages[1][..cut]);
            }
            for place in 0..messages[1].len() {
                for bit in [0, 7] {
                    let mut damaged = messages[1].clone();
                    damaged[place] ^= 1 << bit;
                    let _ = decoder.batch(&damaged);
                }
            }
            for place in 0..messages[0].len() {
                let mut damaged = messages[0].clone();
                damaged[place] ^= 0x81;
                let _ = Decoder::new(&damaged, wanted());
            }
            assert!(decoder.batch(&messages[1][..messages[1].len() / 2]).is_err());
            assert!(decoder.batch(&messages[0]).is_err(), "a schema is no batch");
        }
    }
}
