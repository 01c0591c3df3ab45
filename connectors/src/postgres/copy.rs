//! The frame of binary COPY: signature, header, tuples of length-prefixed fields, trailer.
//!
//! Chunks may be cut anywhere. A tuple is handed out only when it is whole, so that no column is ever a value ahead of
//! another. Everything is checked: these are bytes from outside.

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags and the length of the header's extension.
const HEADER: usize = SIGNATURE.len() + 8;
/// Postgres itself cannot send a larger tuple.
const TUPLE_LIMIT: usize = 1 << 30;

/// Cuts the byte stream of a binary COPY into tuples.
pub(crate) struct CopyFrames {
    columns: usize,
    buffer: Vec<u8>,
    /// What of the buffer is used up.
    at: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    /// Bytes of the header's extension that are still to be skipped.
    Extension(usize),
    Tuples,
    Done,
}

/// What is wrong with the bytes.
pub(crate) type Fault = &'static str;

/// The fields of a whole tuple in order; `None` is NULL. Their lengths were checked when the tuple was cut.
#[derive(Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => {
                self.0 = rest;
                Some(None)
            }
            Ok(length) => {
                let (value, rest) = rest.split_at_checked(length)?;
                self.0 = rest;
                Some(Some(value))
            }
        }
    }
}

impl CopyFrames {
    /// Frames of tuples with this many columns.
    pub fn new(columns: usize) -> Self {
        Self { columns, buffer: Vec::new(), at: 0, state: State::Header }
    }

    /// Takes the next chunk. Ask for tuples until there is none before giving another.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(chunk);
    }

    /// Whether the trailer has come.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The next whole tuple; `None` when more bytes are needed or the trailer has come.
    pub fn next_tuple(&mut self) -> Result<Option<Fields<'_>>, Fault> {
        if !self.skip_header()? {
            return Ok(None);
        }
        if self.state == State::Done {
            return if self.rest().is_empty() { Ok(None) } else { Err("bytes after the end of COPY") };
        }
        let Some(count) = self.rest().first_chunk::<2>().map(|count| i16::from_be_bytes(*count)) else {
            return Ok(None);
        };
        if count == -1 {
            self.at += 2;
            self.state = State::Done;
            return if self.rest().is_empty() { Ok(None) } else { Err("bytes after the end of COPY") };
        }
        if usize::try_from(count) != Ok(self.columns) {
            return Err("a tuple with another number of fields");
        }
        let Some(end) = self.tuple_end()? else { return Ok(None) };
        let start = self.at + 2;
        self.at += end;
        Ok(self.buffer.get(start..self.at).map(Fields))
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    /// Passes the header; `false` when more bytes are needed for it.
    fn skip_header(&mut self) -> Result<bool, Fault> {
        if self.state == State::Header {
            let Some(header) = self.rest().get(..HEADER) else { return Ok(false) };
            self.state = State::Extension(extension_length(header)?);
            self.at += HEADER;
        }
        if let State::Extension(left) = self.state {
            let skipped = left.min(self.rest().len());
            self.at += skipped;
            self.state = if skipped < left { State::Extension(left - skipped) } else { State::Tuples };
        }
        Ok(!matches!(self.state, State::Extension(_)))
    }

    /// Where the tuple that starts here ends, counted from here, if all of it is there.
    fn tuple_end(&self) -> Result<Option<usize>, Fault> {
        let tuple = self.rest();
        let mut at = 2usize;
        for _ in 0..self.columns {
            let Some(length) = tuple.get(at..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
            at += 4;
            match i32::from_be_bytes(*length) {
                -1 => {}
                length => at += usize::try_from(length).map_err(|_| "a field of negative length")?,
            }
            if at > TUPLE_LIMIT {
                return Err("a tuple of more than 1 GiB");
            }
        }
        Ok((at <= tuple.len()).then_some(at))
    }
}

/// Checks the header and tells how long its extension is.
fn extension_length(header: &[u8]) -> Result<usize, Fault> {
    let words = header.strip_prefix(SIGNATURE).ok_or("no binary COPY signature")?;
    let (flags, rest) = words.split_first_chunk::<4>().ok_or("a short COPY header")?;
    // The upper half of the flags are critical: what we do not know there changes the format.
    if u32::from_be_bytes(*flags) >> 16 != 0 {
        return Err("a COPY header with unknown critical flags");
    }
    let length = rest.first_chunk::<4>().map(|length| i32::from_be_bytes(*length));
    length.and_then(|length| usize::try_from(length).ok()).ok_or("a COPY header of negative length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 3, 9, 9, 9]); // an extension of three bytes
        bytes.extend([0, 2, 0, 0, 0, 2, b'h', b'i', 0xff, 0xff, 0xff, 0xff]);
        bytes.extend([0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 7]);
        bytes.extend([0xff, 0xff]);
        bytes
    }

    fn read(chunks: &[&[u8]]) -> Result<Vec<Vec<Option<Vec<u8>>>>, Fault> {
        let mut frames = CopyFrames::new(2);
        let mut rows = Vec::new();
        for chunk in chunks {
            frames.push(chunk);
            while let Some(tuple) = frames.next_tuple()? {
                rows.push(tuple.map(|field| field.map(<[u8]>::to_vec)).collect());
            }
        }
        if frames.is_done() { Ok(rows) } else { Err("not done") }
    }

    #[test]
    fn tuples_survive_any_cut() {
        let bytes = sample();
        let whole = read(&[&bytes]).unwrap();
        assert_eq!(whole, [vec![Some(b"hi".to_vec()), None], vec![Some(vec![]), Some(vec![7])]]);
        for cut in 0..bytes.len() {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(read(&[left, right]).unwrap(), whole, "cut at {cut}");
            assert!(read(&[left]).is_err(), "ended at {cut}");
        }
    }

    #[test]
    fn hostile_bytes_are_refused_and_never_panic() {
        let bytes = sample();
        for position in 0..bytes.len() {
            for value in [0u8, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[position] = value;
                let _ = read(&[&damaged]);
            }
        }
        let mut long = SIGNATURE.to_vec();
        long.extend([0; 8]);
        long.extend([0, 2, 0x7f, 0xff, 0xff, 0xff]);
        assert_eq!(read(&[&long]), Err("a tuple of more than 1 GiB"));
    }
}
