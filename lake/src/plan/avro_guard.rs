//! A look at an Avro file before it is decoded: the crate that decodes believes the lengths that a file states, and
//! inflates a block whatever comes out of it.
//!
//! Format: <https://avro.apache.org/docs/1.11.1/specification/#object-container-files>.

use std::collections::HashMap;
use std::io::{Read, copy, sink};

use flate2::read::DeflateDecoder;

/// The bytes of one block, inflated: manifests have some kilobytes to some megabytes.
const MAX_BLOCK: u64 = 512 << 20;
/// Deflate makes at most so many bytes of one.
const MAX_RATIO: u64 = 1032;
const MAGIC: &[u8] = b"Obj\x01";
const SYNC_MARKER: usize = 16;

/// Why the file is not to be decoded.
pub(super) fn check(file: &[u8]) -> Result<(), String> {
    let header = Header::read(file)?;
    let is_deflated = header.get("avro.codec") == Some(b"deflate");
    let mut rest = Rest(file.get(header.end_of_map..).unwrap_or_default());
    rest.long()?; // the 0 that ends the map
    rest.take(SYNC_MARKER)?;
    while !rest.0.is_empty() {
        rest.long()?; // how many records it has
        let block = rest.sized()?;
        rest.take(SYNC_MARKER)?;
        // Most blocks are too small to become too large.
        if is_deflated && block.len() as u64 > MAX_BLOCK / MAX_RATIO {
            let inflated = copy(&mut DeflateDecoder::new(block).take(MAX_BLOCK + 1), &mut sink());
            if inflated.map_err(|error| error.to_string())? > MAX_BLOCK {
                return Err(format!("a block of it inflates to more than {MAX_BLOCK} bytes"));
            }
        }
    }
    Ok(())
}

/// What the header of a file says.
pub(super) struct Header<'a> {
    entries: HashMap<&'a [u8], &'a [u8]>,
    /// Where the map of the header ends: the place of the byte 0 behind its last block.
    pub end_of_map: usize,
}

impl<'a> Header<'a> {
    pub(super) fn read(file: &'a [u8]) -> Result<Self, String> {
        let mut rest = Rest(file);
        if rest.take(MAGIC.len())? != MAGIC {
            return Err("it is no Avro file".to_string());
        }
        let mut header = Self { entries: HashMap::new(), end_of_map: 0 };
        loop {
            header.end_of_map = file.len() - rest.0.len();
            let count = rest.long()?;
            if count == 0 {
                return Ok(header);
            }
            if count < 0 {
                rest.long()?; // the bytes of these entries
            }
            for _ in 0..count.unsigned_abs() {
                header.entries.insert(rest.sized()?, rest.sized()?);
            }
        }
    }

    /// What the header has behind a key; of several, what is there last.
    pub fn get(&self, key: &str) -> Option<&'a [u8]> {
        self.entries.get(key.as_bytes()).copied()
    }
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let Some((taken, rest)) = self.0.split_at_checked(count) else {
            return Err(format!("it states {count} bytes where it has {}", self.0.len()));
        };
        self.0 = rest;
        Ok(taken)
    }

    /// A number in zigzag and seven bits a byte.
    fn long(&mut self) -> Result<i64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = u64::from(*self.take(1)?.first().unwrap_or(&0));
            value |= (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("it has a number that does not end".to_string())
    }

    /// Bytes behind their length.
    fn sized(&mut self) -> Result<&'a [u8], String> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| format!("it states a length of {length}"))?;
        self.take(length)
    }
}
