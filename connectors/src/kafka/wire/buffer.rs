//! Kafka's primitive types: big-endian integers, varints, strings, arrays, tagged fields.
//!
//! "Flexible" versions of a message write lengths as unsigned varints plus one, and end each structure with tagged fields.

/// Bytes that are not what the protocol says; what of it is told in an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub &'static str);

/// Something decoded.
pub(crate) type Decoded<T> = Result<T, Malformed>;

/// Reads one message.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    pub fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self { rest: bytes, flexible }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed("it ends early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn i8(&mut self) -> Decoded<i8> {
        Ok(i8::from_be_bytes(self.chunk()?))
    }

    pub fn i16(&mut self) -> Decoded<i16> {
        Ok(i16::from_be_bytes(self.chunk()?))
    }

    pub fn i32(&mut self) -> Decoded<i32> {
        Ok(i32::from_be_bytes(self.chunk()?))
    }

    pub fn u32(&mut self) -> Decoded<u32> {
        Ok(u32::from_be_bytes(self.chunk()?))
    }

    pub fn i64(&mut self) -> Decoded<i64> {
        Ok(i64::from_be_bytes(self.chunk()?))
    }

    pub fn bool(&mut self) -> Decoded<bool> {
        Ok(self.i8()? != 0)
    }

    pub fn uuid(&mut self) -> Decoded<[u8; 16]> {
        self.chunk()
    }

    /// An unsigned varint of at most 64 bits.
    pub fn unsigned_varint(&mut self) -> Decoded<u64> {
        let mut value = 0u64;
        for index in 0..10u32 {
            let byte = self.chunk::<1>()?[0];
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                break;
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a varint is too long"))
    }

    /// A zigzag varint: what records are made of.
    pub fn varint(&mut self) -> Decoded<i64> {
        let raw = self.unsigned_varint()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// A length of bytes, `None` for null.
    fn length(&mut self, wide: bool) -> Decoded<Option<usize>> {
        if self.flexible {
            let raw = self.unsigned_varint()?;
            return raw.checked_sub(1).map(|length| usize::try_from(length).map_err(|_| TOO_LONG)).transpose();
        }
        let length = if wide { self.i32()? } else { i32::from(self.i16()?) };
        match length {
            -1 => Ok(None),
            _ => Ok(Some(usize::try_from(length).map_err(|_| TOO_LONG)?)),
        }
    }

    pub fn nullable_string(&mut self) -> Decoded<Option<&'a str>> {
        let Some(length) = self.length(false)? else { return Ok(None) };
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| Malformed("a string is no UTF-8"))
    }

    pub fn string(&mut self) -> Decoded<&'a str> {
        self.nullable_string()?.ok_or(Malformed("a string is missing"))
    }

    pub fn nullable_bytes(&mut self) -> Decoded<Option<&'a [u8]>> {
        match self.length(true)? {
            Some(length) => Ok(Some(self.take(length)?)),
            None => Ok(None),
        }
    }

    /// An array; null is an empty one. No element is shorter than a byte, so that a length is bounded by what is there.
    pub fn array<T>(&mut self, mut element: impl FnMut(&mut Self) -> Decoded<T>) -> Decoded<Vec<T>> {
        let count = self.length(true)?.unwrap_or(0);
        if count > self.left() {
            return Err(TOO_LONG);
        }
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(element(self)?);
        }
        Ok(elements)
    }

    /// The tagged fields at the end of a structure: none that we need.
    pub fn tags(&mut self) -> Decoded<()> {
        if self.flexible {
            for _ in 0..self.unsigned_varint()? {
                self.unsigned_varint()?;
                let size = self.unsigned_varint()?;
                self.take(usize::try_from(size).map_err(|_| TOO_LONG)?)?;
            }
        }
        Ok(())
    }
}

const TOO_LONG: Malformed = Malformed("a length is longer than what is there");

/// Writes one message.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    flexible: bool,
}

impl Writer {
    /// An empty message.
    pub fn new(flexible: bool) -> Self {
        Self { bytes: Vec::new(), flexible }
    }

    /// The bytes of the message.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn i8(&mut self, value: i8) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i16(&mut self, value: i16) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    pub fn bool(&mut self, value: bool) {
        self.i8(value.into());
    }

    fn unsigned_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A string. Nothing that we send comes near the longest that a length can say (32 KiB).
    pub fn string(&mut self, value: &str) {
        if self.flexible {
            self.unsigned_varint(value.len() as u64 + 1);
        } else {
            self.i16(i16::try_from(value.len()).unwrap_or(i16::MAX));
        }
        self.raw(value.as_bytes());
    }

    pub fn nullable_bytes(&mut self, value: &[u8]) {
        self.length(value.len());
        self.raw(value);
    }

    /// How many elements follow.
    pub fn length(&mut self, count: usize) {
        if self.flexible {
            self.unsigned_varint(count as u64 + 1);
        } else {
            self.i32(i32::try_from(count).unwrap_or(i32::MAX));
        }
    }

    /// An array that is null.
    pub fn null_array(&mut self) {
        if self.flexible { self.unsigned_varint(0) } else { self.i32(-1) }
    }

    /// No tagged fields.
    pub fn tags(&mut self) {
        if self.flexible {
            self.unsigned_varint(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_in_both_forms() {
        for flexible in [false, true] {
            let mut writer = Writer::new(flexible);
            writer.i16(-2);
            writer.string("tópic");
            writer.length(2);
            writer.i64(1);
            writer.i64(-1);
            writer.null_array();
            writer.nullable_bytes(&[7; 300]);
            writer.tags();
            let bytes = writer.into_bytes();
            let mut reader = Reader::new(&bytes, flexible);
            assert_eq!((reader.i16().unwrap(), reader.string().unwrap()), (-2, "tópic"));
            assert_eq!(reader.array(Reader::i64).unwrap(), [1, -1]);
            assert!(reader.array(Reader::i64).unwrap().is_empty());
            assert_eq!(reader.nullable_bytes().unwrap().unwrap(), [7; 300]);
            reader.tags().unwrap();
            assert_eq!(reader.left(), 0);
        }
    }

    #[test]
    fn varints_are_those_of_the_specification() {
        for (bytes, value) in [
            (&[0u8][..], 0i64),
            (&[1], -1),
            (&[2], 1),
            (&[0x80, 0x01], 64),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], i64::MIN),
            (&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], i64::MAX),
        ] {
            assert_eq!(Reader::new(bytes, false).varint(), Ok(value));
        }
        assert!(Reader::new(&[0xff; 11], false).varint().is_err());
        assert!(Reader::new(&[0x80], false).varint().is_err());
    }

    #[test]
    fn a_length_without_bytes_is_refused_before_memory_is_taken() {
        let huge = i32::MAX.to_be_bytes();
        assert!(Reader::new(&huge, false).array(Reader::i8).is_err());
        assert!(Reader::new(&huge, false).nullable_bytes().is_err());
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert!(Reader::new(&huge, true).array(Reader::i8).is_err());
        assert!(Reader::new(&huge, true).nullable_string().is_err());
        assert!(Reader::new(&[1, 0, 0xff], true).tags().is_err());
        assert!(Reader::new(&(-7i32).to_be_bytes(), false).array(Reader::i8).is_err());
    }
}
