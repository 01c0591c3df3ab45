//! The format RowBinary, for servers that do not know ArrowStream: one value after another, without names or lengths of rows.
//!
//! A value is little-endian, a String its length (LEB128) and bytes, an Array its length and elements, a Map its length and
//! pairs of key and value, a Tuple its elements; a Nullable begins with a byte that is 1 for NULL and 0 before a value.
//!
//! An exception in the middle of the answer is text behind the last whole row (`Code: 395, …`), which could be taken for rows.
//! So the statement selects [`MARK`] as first column: what begins with anything else is no row.

use arrow::array::ArrayRef;
use arrow::array::builder::NullBufferBuilder;
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::DataType;

use super::wire::{Fault, Layout, Wire, build, entries};

/// The byte that each row begins with. An exception begins with `C`, or with a line break.
pub(crate) const MARK: u8 = 1;
/// The largest row in bytes.
const ROW_LIMIT: usize = 256 << 20;
/// As much of an exception's text is kept.
const TEXT_LIMIT: usize = 16 << 10;

/// Makes arrays of rows whose bytes come in pieces.
pub(crate) struct RowDecoder {
    columns: Vec<Wire>,
    builders: Vec<Builder>,
    rows: usize,
    /// What is not decoded yet: less than a row.
    rest: Vec<u8>,
    /// Below so many bytes there is no point in looking again whether the row is whole.
    enough: usize,
    /// Whether an exception's text has begun.
    failed: bool,
}

impl RowDecoder {
    /// A decoder of rows of the mark and these columns.
    pub fn new(columns: Vec<Wire>) -> Self {
        let builders = columns.iter().map(Builder::new).collect();
        Self { columns, builders, rows: 0, rest: Vec::new(), enough: 0, failed: false }
    }

    /// Decodes every row that is whole now.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Fault> {
        if self.failed {
            self.keep_text(chunk);
            return Ok(());
        }
        if self.rest.is_empty() {
            let used = self.decode(chunk)?;
            self.rest.extend_from_slice(chunk.get(used..).unwrap_or_default());
        } else {
            self.rest.extend_from_slice(chunk);
            if self.rest.len() < self.enough {
                return Ok(());
            }
            let bytes = std::mem::take(&mut self.rest);
            let used = self.decode(&bytes)?;
            self.rest = bytes;
            self.rest.drain(..used);
        }
        // A row of many pieces is measured again and again: at doubling sizes, so that the work stays linear.
        self.enough = self.rest.len().saturating_mul(2);
        if self.failed {
            self.rest.truncate(TEXT_LIMIT);
        } else if self.rest.len() > ROW_LIMIT {
            return Err(Fault::Malformed("a row of more than 256 MiB"));
        }
        Ok(())
    }

    /// The rows since the last call.
    pub fn take(&mut self) -> Result<(usize, Vec<ArrayRef>), Fault> {
        let rows = std::mem::take(&mut self.rows);
        let columns = self.builders.iter_mut().zip(&self.columns).map(|(builder, wire)| builder.finish(wire, rows));
        Ok((rows, columns.collect::<Result<_, _>>()?))
    }

    /// How many rows there are to take.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The answer has ended.
    ///
    /// Errors: the exception at its end; an end within a row.
    pub fn finish(&mut self) -> Result<(), Fault> {
        if !self.failed && !self.rest.is_empty() {
            let bytes = std::mem::take(&mut self.rest);
            let used = self.decode(&bytes)?;
            self.rest = bytes.get(used..).unwrap_or_default().to_vec();
        }
        match (self.failed, self.rest.is_empty()) {
            (false, true) => Ok(()),
            (true, _) => Err(Fault::Exception(String::from_utf8_lossy(&self.rest).into_owned())),
            (false, false) => Err(cut_off(&self.rest)),
        }
    }

    fn keep_text(&mut self, chunk: &[u8]) {
        let free = TEXT_LIMIT.saturating_sub(self.rest.len());
        self.rest.extend_from_slice(chunk.get(..free).unwrap_or(chunk));
    }

    /// Decodes whole rows and tells how many bytes they had.
    fn decode(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut at = 0;
        while let Some(mark) = bytes.get(at) {
            if *mark != MARK {
                self.failed = true;
                break;
            }
            let start = at + 1;
            let end = match measure_all(&self.columns, bytes, start) {
                Ok(end) => end,
                Err(Short::Incomplete) => break,
                Err(Short::Malformed(what)) => return Err(Fault::Malformed(what)),
            };
            let mut row = bytes.get(start..end).unwrap_or_default();
            for (builder, wire) in self.builders.iter_mut().zip(&self.columns) {
                builder.append(wire, &mut row)?;
            }
            self.rows += 1;
            at = end;
        }
        Ok(at)
    }
}

/// An answer that ends where it must not: with the text of an exception, or just so.
pub(crate) fn cut_off(rest: &[u8]) -> Fault {
    let tail = rest.get(rest.len().saturating_sub(TEXT_LIMIT)..).unwrap_or(rest);
    let tail = String::from_utf8_lossy(tail);
    match tail.find("Code: ") {
        Some(at) if tail.contains("DB::Exception") => Fault::Exception(tail.get(at..).unwrap_or_default().to_string()),
        _ => Fault::Malformed("an answer that ends early"),
    }
}

/// Why the end of a row is not found.
enum Short {
    Incomplete,
    Malformed(&'static str),
}

fn measure_all(wires: &[Wire], bytes: &[u8], at: usize) -> Result<usize, Short> {
    wires.iter().try_fold(at, |at, wire| measure(wire, bytes, at))
}

/// Where the value that begins at `at` ends.
fn measure(wire: &Wire, bytes: &[u8], at: usize) -> Result<usize, Short> {
    let mut at = at;
    if wire.nullable {
        let flag = bytes.get(at).ok_or(Short::Incomplete)?;
        at += 1;
        if *flag != 0 {
            return Ok(at);
        }
    }
    match &wire.layout {
        Layout::Fixed { width, .. } => skip(bytes, at, *width),
        Layout::Bytes => {
            let (length, at) = length(bytes, at)?;
            skip(bytes, at, length)
        }
        Layout::List(element) => {
            let (count, at) = length(bytes, at)?;
            (0..count).try_fold(at, |at, _| measure(element, bytes, at))
        }
        Layout::Map(entry) => {
            let (count, at) = length(bytes, at)?;
            (0..count).try_fold(at, |at, _| measure(&entry.1, bytes, measure(&entry.0, bytes, at)?))
        }
        Layout::Tuple(elements) => measure_all(elements, bytes, at),
    }
}

fn skip(bytes: &[u8], at: usize, length: usize) -> Result<usize, Short> {
    match at.checked_add(length) {
        Some(end) if end <= bytes.len() => Ok(end),
        _ => Err(Short::Incomplete),
    }
}

/// A length in LEB128, and where it ends. Every element has at least a byte, so that a length bounds nothing but a loop that
/// ends with the bytes.
fn length(bytes: &[u8], at: usize) -> Result<(usize, usize), Short> {
    let mut value = 0usize;
    for index in 0..5 {
        let byte = *bytes.get(at + index).ok_or(Short::Incomplete)?;
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            let sound = value <= ROW_LIMIT;
            return if sound {
                Ok((value, at + index + 1))
            } else {
                Err(Short::Malformed("a length of more than 256 MiB"))
            };
        }
    }
    Err(Short::Malformed("a length of more than 256 MiB"))
}

/// Collects the values of one column, or of one level of a nested one.
struct Builder {
    nulls: NullBufferBuilder,
    rows: usize,
    parts: Parts,
}

enum Parts {
    Fixed(MutableBuffer),
    Bytes { ends: Vec<i32>, bytes: MutableBuffer },
    List { ends: Vec<i32>, element: Box<Builder> },
    Map { ends: Vec<i32>, key: Box<Builder>, value: Box<Builder> },
    Tuple(Vec<Builder>),
}

impl Builder {
    fn new(wire: &Wire) -> Self {
        let parts = match &wire.layout {
            Layout::Fixed { .. } => Parts::Fixed(MutableBuffer::new(0)),
            Layout::Bytes => Parts::Bytes { ends: vec![0], bytes: MutableBuffer::new(0) },
            Layout::List(element) => Parts::List { ends: vec![0], element: Box::new(Self::new(element)) },
            Layout::Map(entry) => {
                let (key, value) = (Box::new(Self::new(&entry.0)), Box::new(Self::new(&entry.1)));
                Parts::Map { ends: vec![0], key, value }
            }
            Layout::Tuple(elements) => Parts::Tuple(elements.iter().map(Self::new).collect()),
        };
        Self { nulls: NullBufferBuilder::new(0), rows: 0, parts }
    }

    /// Takes one value from the front of a row that was measured.
    fn append(&mut self, wire: &Wire, row: &mut &[u8]) -> Result<(), Fault> {
        self.rows += 1;
        let is_null = wire.nullable && take(row, 1)? != [0];
        if wire.nullable {
            self.nulls.append(!is_null);
        }
        match (&mut self.parts, &wire.layout) {
            (Parts::Fixed(values), Layout::Fixed { width, arrow, .. }) => {
                let stored = stored_width(arrow, *width);
                if is_null {
                    values.extend_zeros(stored);
                    return Ok(());
                }
                let bytes = take(row, *width)?;
                values.extend_from_slice(bytes);
                let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xffu8 } else { 0 };
                (*width..stored).for_each(|_| values.push(sign));
            }
            (Parts::Bytes { ends, bytes }, Layout::Bytes) => {
                if !is_null {
                    let count = take_length(row)?;
                    bytes.extend_from_slice(take(row, count)?);
                }
                ends.push(end(bytes.len())?);
            }
            (Parts::List { ends, element }, Layout::List(wire)) => {
                for _ in 0..take_length(row)? {
                    element.append(wire, row)?;
                }
                ends.push(end(element.rows)?);
            }
            (Parts::Map { ends, key, value }, Layout::Map(entry)) => {
                for _ in 0..take_length(row)? {
                    key.append(&entry.0, row)?;
                    value.append(&entry.1, row)?;
                }
                ends.push(end(key.rows)?);
            }
            (Parts::Tuple(elements), Layout::Tuple(wires)) => {
                for (element, wire) in elements.iter_mut().zip(wires) {
                    element.append(wire, row)?;
                }
            }
            _ => return Err(Fault::Malformed("a value of another type")),
        }
        Ok(())
    }

    /// The values so far; the builder is empty again.
    fn finish(&mut self, wire: &Wire, rows: usize) -> Result<ArrayRef, Fault> {
        self.rows = 0;
        let nulls = self.nulls.finish();
        let offsets = |ends: &mut Vec<i32>| Buffer::from_vec(std::mem::replace(ends, vec![0]));
        let last = |ends: &[i32]| ends.last().and_then(|end| usize::try_from(*end).ok()).unwrap_or_default();
        let (buffers, children) = match (&mut self.parts, &wire.layout) {
            (Parts::Fixed(values), _) => (vec![std::mem::take(values).into()], Vec::new()),
            (Parts::Bytes { ends, bytes }, _) => (vec![offsets(ends), std::mem::take(bytes).into()], Vec::new()),
            (Parts::List { ends, element }, Layout::List(wire)) => {
                let count = last(ends);
                (vec![offsets(ends)], vec![element.finish(wire, count)?])
            }
            (Parts::Map { ends, key, value }, Layout::Map(entry)) => {
                let count = last(ends);
                let pair = vec![key.finish(&entry.0, count)?, value.finish(&entry.1, count)?];
                (vec![offsets(ends)], vec![build(entries(entry), count, None, Vec::new(), pair)?])
            }
            (Parts::Tuple(elements), Layout::Tuple(wires)) => {
                let elements = elements.iter_mut().zip(wires).map(|(element, wire)| element.finish(wire, rows));
                (Vec::new(), elements.collect::<Result<_, _>>()?)
            }
            _ => return Err(Fault::Malformed("a value of another type")),
        };
        wire.array(rows, nulls, buffers, children)
    }
}

/// Bytes of a value in Arrow.
fn stored_width(arrow: &DataType, width: usize) -> usize {
    match arrow {
        DataType::Decimal128(..) => 16,
        _ => width,
    }
}

fn end(length: usize) -> Result<i32, Fault> {
    i32::try_from(length).map_err(|_| Fault::Malformed("more than 2 GiB in one column of a batch"))
}

fn take<'a>(row: &mut &'a [u8], count: usize) -> Result<&'a [u8], Fault> {
    let (taken, rest) = row.split_at_checked(count).ok_or(Fault::Malformed("a row that is not whole"))?;
    *row = rest;
    Ok(taken)
}

fn take_length(row: &mut &[u8]) -> Result<usize, Fault> {
    match length(row, 0) {
        Ok((value, at)) => take(row, at).map(|_| value),
        Err(_) => Err(Fault::Malformed("a row that is not whole")),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Decimal128Type, Int16Type, UInt32Type};

    use super::super::types::classify;
    use super::*;

    fn wires(types: &[&str]) -> Vec<Wire> {
        types.iter().map(|declared| classify(declared).wire()).collect()
    }

    fn decode(types: &[&str], pieces: &[&[u8]]) -> Result<Vec<ArrayRef>, Fault> {
        let mut decoder = RowDecoder::new(wires(types));
        for piece in pieces {
            decoder.push(piece)?;
        }
        decoder.finish()?;
        Ok(decoder.take()?.1)
    }

    /// Two rows: 7, NULL, 'ab', -1.25, [1, NULL], {'k': 2} and 8, -2, '', 2.50, [], {}.
    const TYPES: &[&str] =
        &["UInt32", "Nullable(Int16)", "String", "Decimal(9, 2)", "Array(Nullable(UInt32))", "Map(String, UInt32)"];
    const ROWS: &[u8] = &[
        1, 7, 0, 0, 0, 1, 2, b'a', b'b', 0x83, 0xff, 0xff, 0xff, 2, 0, 1, 0, 0, 0, 1, 1, 1, b'k', 2, 0, 0, 0, //
        1, 8, 0, 0, 0, 0, 0xfe, 0xff, 0, 250, 0, 0, 0, 0, 0,
    ];

    fn check(columns: &[ArrayRef]) {
        assert_eq!(columns[0].as_primitive::<UInt32Type>().values(), &[7, 8]);
        assert!(columns[1].is_null(0));
        assert_eq!(columns[1].as_primitive::<Int16Type>().value(1), -2);
        assert_eq!(
            (columns[2].as_binary::<i32>().value(0), columns[2].as_binary::<i32>().value(1)),
            (&b"ab"[..], &b""[..])
        );
        assert_eq!(columns[3].as_primitive::<Decimal128Type>().values(), &[-125, 250]);
        let list = columns[4].as_list::<i32>();
        assert_eq!((list.value(0).len(), list.value(0).null_count(), list.value(1).len()), (2, 1, 0));
        let map = columns[5].as_map();
        assert_eq!((map.value_length(0), map.value_length(1)), (1, 0));
        assert_eq!(map.keys().as_binary::<i32>().value(0), b"k");
    }

    #[test]
    fn rows_come_in_any_pieces() {
        for cut in 0..=ROWS.len() {
            check(&decode(TYPES, &[&ROWS[..cut], &ROWS[cut..]]).unwrap());
        }
        check(&decode(TYPES, &ROWS.chunks(1).collect::<Vec<_>>()).unwrap());
    }

    #[test]
    fn an_exception_behind_rows_is_never_a_row() {
        let text = b"Code: 395, e.displayText() = DB::Exception: Value passed to 'throwIf', e.what() = DB::Exception\n";
        let modern = b"\r\n__exception__\r\nabcdef\r\nCode: 395. DB::Exception: Value passed\n\r\n__exception__\r\n";
        for text in [&text[..], &modern[..]] {
            for types in [TYPES, &[], &["String"]] {
                let rows: &[u8] = match types.len() {
                    0 => &[1, 1, 1],
                    1 => &[1, 1, b'x'],
                    _ => ROWS,
                };
                for cut in 1..text.len() {
                    let found = decode(types, &[rows, &text[..cut], &text[cut..]]);
                    assert!(matches!(&found, Err(Fault::Exception(told)) if told.contains("Code: 395")), "{found:?}");
                }
            }
        }
        // Also where it begins within a row.
        let found = decode(TYPES, &[&ROWS[..ROWS.len() - 9], text]);
        assert!(found.is_err(), "{found:?}");
    }

    #[test]
    fn an_end_within_a_row_is_an_error() {
        for cut in 1..ROWS.len() {
            let found = decode(TYPES, &[&ROWS[..cut]]);
            assert_eq!(found.is_ok(), cut == 27, "{cut}: {found:?}");
        }
    }

    #[test]
    fn hostile_bytes_are_errors_and_no_more() {
        for at in 0..ROWS.len() {
            for byte in 0..=255u8 {
                let mut damaged = ROWS.to_vec();
                damaged[at] = byte;
                let _ = decode(TYPES, &[&damaged]);
            }
        }
        let long = [1, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert!(matches!(decode(&["String"], &[&long]), Err(Fault::Malformed(_))));
        assert!(matches!(decode(&["Array(Array(String))"], &[&long]), Err(Fault::Malformed(_))));
        assert!(matches!(decode(&["Array(UInt8)"], &[&[1, 0xff, 0xff, 0x7f]]), Err(Fault::Malformed(_))));
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let mut decoder = RowDecoder::new(Vec::new());
        decoder.push(&[1, 1]).unwrap();
        decoder.push(&[1]).unwrap();
        decoder.finish().unwrap();
        assert_eq!(decoder.take().unwrap().0, 3);
    }
}
