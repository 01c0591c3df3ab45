//! The format ArrowStream: Arrow's IPC messages (arrow.apache.org/docs/format/Columnar.html, "IPC Streaming Format").
//!
//! We know which types must come, because every column is cast ([`Wire`]). So the schema message is only compared with them,
//! and the buffers of a record batch are taken by our types, each length checked before it is used: Arrow's own decoder
//! asserts what it reads, and allocates what a message says.
//!
//! An exception in the middle of the answer is text where a message should begin. A whole answer ends with an end-of-stream
//! marker.

use std::collections::VecDeque;

use arrow::array::{ArrayRef, new_empty_array};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer};
use arrow::datatypes::DataType;
use arrow::ipc;

use super::rowbinary::cut_off;
use super::wire::{Fault, Layout, Wire, build, entries};

/// What a message begins with.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// The largest metadata of a message in bytes: names and places, no data.
const METADATA_LIMIT: usize = 16 << 20;
/// The largest body of a message in bytes.
const BODY_LIMIT: usize = 512 << 20;
/// As much of an exception's text is kept.
const TEXT_LIMIT: usize = 16 << 10;

/// A batch: its rows, and an array per column.
pub(crate) type Decoded = (usize, Vec<ArrayRef>);

/// Makes arrays of messages whose bytes come in pieces.
pub(crate) struct MessageDecoder {
    columns: Vec<Wire>,
    state: State,
    /// The part that is being read.
    part: MutableBuffer,
    has_schema: bool,
    ready: VecDeque<Decoded>,
}

enum State {
    /// Of a message: the continuation and the length of its metadata.
    Prefix,
    Metadata {
        length: usize,
    },
    Body {
        metadata: MutableBuffer,
        length: usize,
    },
    Ended,
    /// An exception's text.
    Failed,
}

impl MessageDecoder {
    /// A decoder of these columns.
    pub fn new(columns: Vec<Wire>) -> Self {
        Self { columns, state: State::Prefix, part: MutableBuffer::new(0), has_schema: false, ready: VecDeque::new() }
    }

    /// Decodes every message that is whole now.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Fault> {
        let mut chunk = chunk;
        while !chunk.is_empty() {
            let wanted = match &self.state {
                State::Prefix => 8,
                State::Metadata { length } | State::Body { length, .. } => *length,
                State::Failed => TEXT_LIMIT,
                State::Ended => return Err(Fault::Malformed("bytes behind the end of the stream")),
            };
            let missing = wanted.saturating_sub(self.part.len());
            if missing == 0 {
                return Ok(()); // enough of an exception's text
            }
            let (now, later) = chunk.split_at(missing.min(chunk.len()));
            self.part.extend_from_slice(now);
            chunk = later;
            // An exception may be shorter than a prefix.
            let begins = self.part.get(..4).filter(|_| matches!(self.state, State::Prefix));
            if begins.is_some_and(|begins| begins != CONTINUATION) {
                self.state = State::Failed;
            } else if self.part.len() == wanted && !matches!(self.state, State::Failed) {
                self.advance()?;
            }
        }
        Ok(())
    }

    /// The next batch.
    pub fn take(&mut self) -> Option<Decoded> {
        self.ready.pop_front()
    }

    /// The answer has ended.
    ///
    /// Errors: the exception at its end; an end before the end of the stream.
    pub fn finish(&mut self) -> Result<(), Fault> {
        match &self.state {
            State::Ended => Ok(()),
            State::Failed => Err(Fault::Exception(String::from_utf8_lossy(self.part.as_slice()).into_owned())),
            _ => Err(cut_off(self.part.as_slice())),
        }
    }

    /// A part is whole.
    fn advance(&mut self) -> Result<(), Fault> {
        let part = std::mem::replace(&mut self.part, MutableBuffer::new(0));
        self.state = match std::mem::replace(&mut self.state, State::Prefix) {
            State::Prefix => match part.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes) {
                Some(0) => State::Ended,
                length => State::Metadata { length: bounded(length.map(i64::from), METADATA_LIMIT)? },
            },
            State::Metadata { .. } => {
                let length = bounded(Some(message(&part)?.bodyLength()), BODY_LIMIT)?;
                if length == 0 {
                    self.decode(&part, &Buffer::from([]))?;
                    State::Prefix
                } else {
                    State::Body { metadata: part, length }
                }
            }
            State::Body { metadata, .. } => {
                self.decode(&metadata, &part.into())?;
                State::Prefix
            }
            ended => ended,
        };
        Ok(())
    }

    fn decode(&mut self, metadata: &MutableBuffer, body: &Buffer) -> Result<(), Fault> {
        let message = message(metadata)?;
        if let Some(schema) = message.header_as_schema() {
            let fields: Vec<_> = schema.fields().into_iter().flatten().collect();
            let is_same = !self.has_schema
                && schema.endianness() == ipc::Endianness::Little
                && fields.len() == self.columns.len()
                && fields.iter().zip(&self.columns).all(|(field, wire)| is_of(*field, wire));
            self.has_schema = true;
            return if is_same { Ok(()) } else { Err(Fault::Malformed("columns of other types")) };
        }
        let Some(batch) = message.header_as_record_batch() else {
            return Err(Fault::Malformed("a message that was not asked for"));
        };
        if !self.has_schema || batch.compression().is_some() {
            return Err(Fault::Malformed("a batch that was not asked for"));
        }
        let rows = bounded(Some(batch.length()), BODY_LIMIT)?;
        let mut taker = Taker { batch, body, node: 0, buffer: 0 };
        let arrays = self.columns.iter().map(|wire| taker.array(wire, rows)).collect::<Result<Vec<_>, _>>()?;
        if rows > 0 {
            self.ready.push_back((rows, arrays));
        }
        Ok(())
    }
}

fn message(metadata: &MutableBuffer) -> Result<ipc::Message<'_>, Fault> {
    ipc::root_as_message(metadata.as_slice()).map_err(|_| Fault::Malformed("a message that is none"))
}

fn bounded(length: Option<i64>, limit: usize) -> Result<usize, Fault> {
    let length = length.and_then(|length| usize::try_from(length).ok()).filter(|length| *length <= limit);
    length.ok_or(Fault::Malformed("a message that is too large"))
}

/// Whether a field of the schema is of the type that was asked for.
fn is_of(field: ipc::Field<'_>, wire: &Wire) -> bool {
    let children: Vec<_> = field.children().into_iter().flatten().collect();
    let fits = match &wire.layout {
        Layout::Fixed { arrow, .. } => is_fixed(field, arrow),
        // String as text and as bytes lie the same way.
        Layout::Bytes => field.type_as_binary().is_some() || field.type_as_utf_8().is_some(),
        Layout::List(element) => {
            field.type_as_list().is_some() && matches!(children.as_slice(), [child] if is_of(*child, element))
        }
        Layout::Map(entry) => {
            let pair: Vec<_> = match children.as_slice() {
                [entries] if entries.type_as_struct_().is_some() => entries.children().into_iter().flatten().collect(),
                _ => return false,
            };
            field.type_as_map().is_some()
                && matches!(pair.as_slice(), [key, value] if is_of(*key, &entry.0) && is_of(*value, &entry.1))
        }
        Layout::Tuple(elements) => {
            field.type_as_struct_().is_some()
                && children.len() == elements.len()
                && children.iter().zip(elements).all(|(child, element)| is_of(*child, element))
        }
    };
    fits && field.dictionary().is_none()
}

fn is_fixed(field: ipc::Field<'_>, arrow: &DataType) -> bool {
    let int = |bits, signed| field.type_as_int().is_some_and(|int| int.bitWidth() == bits && int.is_signed() == signed);
    let float = |precision| field.type_as_floating_point().is_some_and(|float| float.precision() == precision);
    let decimal = |bits, precision: u8, scale: i8| {
        let same = |decimal: ipc::Decimal<'_>| {
            decimal.bitWidth() == bits
                && decimal.precision() == i32::from(precision)
                && decimal.scale() == i32::from(scale)
        };
        field.type_as_decimal().is_some_and(same)
    };
    match arrow {
        DataType::Int8 => int(8, true),
        DataType::Int16 => int(16, true),
        DataType::Int32 => int(32, true),
        DataType::Int64 => int(64, true),
        DataType::UInt8 => int(8, false),
        DataType::UInt16 => int(16, false),
        DataType::UInt32 => int(32, false),
        DataType::UInt64 => int(64, false),
        DataType::Float32 => float(ipc::Precision::SINGLE),
        DataType::Float64 => float(ipc::Precision::DOUBLE),
        DataType::Decimal128(precision, scale) => decimal(128, *precision, *scale),
        DataType::Decimal256(precision, scale) => decimal(256, *precision, *scale),
        DataType::FixedSizeBinary(size) => {
            field.type_as_fixed_size_binary().is_some_and(|binary| binary.byteWidth() == *size)
        }
        _ => false,
    }
}

/// Takes the nodes and buffers of a record batch, one after another.
struct Taker<'a> {
    batch: ipc::RecordBatch<'a>,
    body: &'a Buffer,
    node: usize,
    buffer: usize,
}

impl Taker<'_> {
    /// The array of a column of `rows`.
    fn array(&mut self, wire: &Wire, rows: usize) -> Result<ArrayRef, Fault> {
        let nulls = self.nulls(rows)?;
        let (buffers, children) = match &wire.layout {
            Layout::Fixed { arrow, .. } => {
                let width = match arrow {
                    DataType::FixedSizeBinary(size) => usize::try_from(*size).unwrap_or_default(),
                    arrow => arrow.primitive_width().unwrap_or_default(),
                };
                (vec![self.values(rows, width)?], Vec::new())
            }
            Layout::Bytes => (vec![self.offsets(rows)?, self.next_buffer()?], Vec::new()),
            Layout::List(element) => {
                let offsets = self.offsets(rows)?;
                let count = self.peek_length()?;
                (vec![offsets], vec![self.array(element, count)?])
            }
            Layout::Map(entry) => {
                let offsets = self.offsets(rows)?;
                let count = self.peek_length()?;
                if self.nulls(count)?.is_some() {
                    return Err(Fault::Malformed("a NULL in a map"));
                }
                let pair = vec![self.array(&entry.0, count)?, self.array(&entry.1, count)?];
                (vec![offsets], vec![build(entries(entry), count, None, Vec::new(), pair)?])
            }
            Layout::Tuple(elements) => {
                let elements = elements.iter().map(|element| self.array(element, rows));
                (Vec::new(), elements.collect::<Result<Vec<_>, _>>()?)
            }
        };
        // Without rows, offsets may be missing.
        if rows == 0 { Ok(new_empty_array(&wire.arrow())) } else { wire.array(rows, nulls, buffers, children) }
    }

    /// The validity of the next node, which must have `rows`.
    fn nulls(&mut self, rows: usize) -> Result<Option<NullBuffer>, Fault> {
        let node = self.peek_node()?;
        self.node += 1;
        let bits = self.next_buffer()?;
        if usize::try_from(node.length()) != Ok(rows) {
            return Err(Fault::Malformed("columns of different lengths"));
        }
        if node.null_count() == 0 {
            return Ok(None);
        }
        if bits.len() < rows.div_ceil(8) {
            return Err(Fault::Malformed("a buffer that is too short"));
        }
        Ok(Some(NullBuffer::new(BooleanBuffer::new(bits, 0, rows))))
    }

    fn peek_node(&self) -> Result<ipc::FieldNode, Fault> {
        let nodes = self.batch.nodes().filter(|nodes| self.node < nodes.len());
        nodes.map(|nodes| *nodes.get(self.node)).ok_or(Fault::Malformed("a batch with too few columns"))
    }

    fn peek_length(&self) -> Result<usize, Fault> {
        bounded(Some(self.peek_node()?.length()), BODY_LIMIT)
    }

    fn next_buffer(&mut self) -> Result<Buffer, Fault> {
        let buffers = self.batch.buffers().filter(|buffers| self.buffer < buffers.len());
        let place = buffers.map(|buffers| *buffers.get(self.buffer));
        self.buffer += 1;
        let outside = Fault::Malformed("a buffer outside of its message");
        let place = place.ok_or(Fault::Malformed("a batch with too few buffers"))?;
        match (usize::try_from(place.offset()), usize::try_from(place.length())) {
            (_, Ok(0)) => Ok(Buffer::from([])),
            (Ok(offset), Ok(length)) if offset.checked_add(length).is_some_and(|end| end <= self.body.len()) => {
                Ok(self.body.slice_with_length(offset, length))
            }
            _ => Err(outside),
        }
    }

    fn values(&mut self, rows: usize, width: usize) -> Result<Buffer, Fault> {
        let buffer = self.next_buffer()?;
        match rows.checked_mul(width) {
            Some(length) if length <= buffer.len() => Ok(buffer.slice_with_length(0, length)),
            _ => Err(Fault::Malformed("a buffer that is too short")),
        }
    }

    fn offsets(&mut self, rows: usize) -> Result<Buffer, Fault> {
        if rows == 0 {
            return self.next_buffer();
        }
        self.values(rows.saturating_add(1), 4)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, AsArray, BinaryArray, Decimal128Array, Int32Array, ListArray, RecordBatch, StructArray};
    use arrow::datatypes::{Decimal128Type, Field, Int32Type, Schema, UInt16Type};
    use arrow::ipc::writer::StreamWriter;

    use super::super::types::classify;
    use super::*;

    /// The types of the columns of [`stream`].
    pub(crate) const TYPES: &[&str] =
        &["Nullable(Int32)", "String", "Array(Nullable(Int32))", "Decimal(9, 2)", "Tuple(a Date, b String)"];

    fn wires() -> Vec<Wire> {
        TYPES.iter().map(|declared| classify(declared).wire()).collect()
    }

    fn sample() -> RecordBatch {
        let lists = vec![Some(vec![Some(1), None]), Some(vec![]), Some(vec![Some(3)])];
        let tuple = DataType::Struct(
            vec![Field::new("1", DataType::UInt16, false), Field::new("2", DataType::Binary, false)].into(),
        );
        let DataType::Struct(fields) = &tuple else { panic!("no struct") };
        let days = Arc::new(arrow::array::UInt16Array::from(vec![1, 2, 3]));
        let texts = Arc::new(BinaryArray::from_vec(vec![b"x", b"y", b"z"]));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![Some(7), None, Some(-1)])),
            Arc::new(BinaryArray::from_vec(vec!["a".as_bytes(), b"", "ä".as_bytes()])),
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)),
            Arc::new(Decimal128Array::from(vec![125, -1, 0]).with_precision_and_scale(9, 2).unwrap()),
            Arc::new(StructArray::new(fields.clone(), vec![days, texts], None)),
        ];
        let fields = columns.iter().map(|column| Field::new("c", column.data_type().clone(), true));
        RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns).unwrap()
    }

    /// An answer of so many batches of three rows.
    pub(crate) fn stream(batches: usize) -> Vec<u8> {
        let mut writer = StreamWriter::try_new(Vec::new(), &sample().schema()).unwrap();
        (0..batches).for_each(|_| writer.write(&sample()).unwrap());
        writer.finish().unwrap();
        writer.into_inner().unwrap()
    }

    fn decode(pieces: &[&[u8]]) -> Result<Vec<Decoded>, Fault> {
        let mut decoder = MessageDecoder::new(wires());
        for piece in pieces {
            decoder.push(piece)?;
        }
        decoder.finish()?;
        Ok(std::iter::from_fn(|| decoder.take()).collect())
    }

    fn check(batches: &[Decoded]) {
        assert_eq!(batches.len(), 2);
        for (rows, columns) in batches {
            assert_eq!(*rows, 3);
            let numbers = columns[0].as_primitive::<Int32Type>();
            assert!(numbers.value(0) == 7 && numbers.is_null(1) && numbers.value(2) == -1);
            assert_eq!(columns[1].as_binary::<i32>().value(2), "ä".as_bytes());
            let list = columns[2].as_list::<i32>();
            assert_eq!((list.value(0).len(), list.value(0).null_count(), list.value(1).len()), (2, 1, 0));
            assert_eq!(columns[3].as_primitive::<Decimal128Type>().values(), &[125, -1, 0]);
            assert_eq!(columns[4].as_struct().column(0).as_primitive::<UInt16Type>().values(), &[1, 2, 3]);
        }
    }

    #[test]
    fn batches_come_in_any_pieces() {
        let bytes = stream(2);
        for cut in 0..=bytes.len() {
            check(&decode(&[&bytes[..cut], &bytes[cut..]]).unwrap());
        }
        check(&decode(&bytes.chunks(1).collect::<Vec<_>>()).unwrap());
    }

    #[test]
    fn an_exception_behind_batches_is_never_a_batch() {
        let bytes = stream(2);
        let whole = &bytes[..bytes.len() - 8];
        for text in [
            "Code: 395. DB::Exception: Value passed (X)",
            "\r\n__exception__\r\ntag\r\nCode: 395. DB::Exception: V\r\n",
        ] {
            for cut in 0..text.len() {
                let found = decode(&[whole, &text.as_bytes()[..cut], &text.as_bytes()[cut..]]);
                assert!(matches!(&found, Err(Fault::Exception(told)) if told.contains("Code: 395")), "{found:?}");
            }
            let within = decode(&[&bytes[..bytes.len() - 100], text.as_bytes()]);
            assert!(within.is_err(), "{within:?}");
        }
    }

    #[test]
    fn an_end_before_the_end_is_an_error() {
        let bytes = stream(2);
        for cut in 0..bytes.len() {
            assert!(decode(&[&bytes[..cut]]).is_err(), "{cut} of {}", bytes.len());
        }
        assert!(decode(&[&bytes, b"x"]).is_err());
    }

    #[test]
    fn other_types_are_refused() {
        for (index, other) in
            ["Int64", "UInt8", "Array(Int32)", "Decimal(9, 3)", "Tuple(Date, Date)"].into_iter().enumerate()
        {
            let mut wires = wires();
            wires[index] = classify(other).wire();
            let mut decoder = MessageDecoder::new(wires);
            let found = decoder.push(&stream(1));
            // A list without NULL has the same schema; its values tell.
            assert!(found.is_err(), "{other}: {found:?}");
        }
    }

    #[test]
    fn hostile_bytes_are_errors_and_no_more() {
        let bytes = stream(1);
        for at in 0..bytes.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = byte;
                if let Ok(batches) = decode(&[&damaged]) {
                    assert!(batches.len() <= 1);
                }
            }
        }
        let huge = [&CONTINUATION[..], &u32::MAX.to_le_bytes()].concat();
        assert_eq!(decode(&[&huge]), Err(Fault::Malformed("a message that is too large")));
    }
}
