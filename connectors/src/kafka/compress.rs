//! What producers compress batches with: gzip, Snappy (framed by the Java client, or bare), LZ4 frames, Zstandard. Each is
//! stopped at a limit, because a few bytes can unpack to very many.

use std::io::Read;

use bytes::Bytes;

use super::wire::buffer::{Decoded, Malformed};

/// The longest batch in bytes, unpacked.
const LONGEST_BATCH: usize = 256 << 20;

/// How the Java client frames Snappy: magic, two versions, then blocks with their lengths.
const SNAPPY_MAGIC: &[u8] = b"\x82SNAPPY\0";
const SNAPPY_HEADER: usize = 16;

/// Unpacks what `codec` (the lowest three bits of a batch's attributes) packed.
pub(crate) fn unpack(codec: i16, packed: Bytes) -> Decoded<Bytes> {
    unpack_within(codec, packed, LONGEST_BATCH)
}

fn unpack_within(codec: i16, packed: Bytes, limit: usize) -> Decoded<Bytes> {
    match codec {
        0 => Ok(packed),
        1 => read(flate2::read::MultiGzDecoder::new(packed.as_ref()), limit),
        2 => snappy(&packed, limit),
        3 => read(lz4_flex::frame::FrameDecoder::new(packed.as_ref()), limit),
        4 => {
            let decoder = zstd::stream::read::Decoder::new(packed.as_ref());
            read(decoder.map_err(|_| Malformed("a batch that does not unpack"))?, limit)
        }
        _ => Err(Malformed("a batch of unknown compression")),
    }
}

fn read(decoder: impl Read, limit: usize) -> Decoded<Bytes> {
    let mut unpacked = Vec::new();
    let read = decoder.take(limit as u64 + 1).read_to_end(&mut unpacked);
    match read {
        Ok(_) if unpacked.len() <= limit => Ok(unpacked.into()),
        Ok(_) => Err(TOO_LONG),
        Err(_) => Err(Malformed("a batch that does not unpack")),
    }
}

const TOO_LONG: Malformed = Malformed("a batch that unpacks to more than 256 MiB");

fn snappy(packed: &[u8], limit: usize) -> Decoded<Bytes> {
    let mut unpacked = Vec::new();
    if !packed.starts_with(SNAPPY_MAGIC) {
        snappy_block(packed, &mut unpacked, limit)?;
        return Ok(unpacked.into());
    }
    let mut rest = packed.get(SNAPPY_HEADER..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (block, after) = after.split_at_checked(length).ok_or(Malformed("a batch that does not unpack"))?;
        snappy_block(block, &mut unpacked, limit)?;
        rest = after;
    }
    match rest {
        [] => Ok(unpacked.into()),
        _ => Err(Malformed("a batch that does not unpack")),
    }
}

fn snappy_block(block: &[u8], unpacked: &mut Vec<u8>, limit: usize) -> Decoded<()> {
    let wrong = |_| Malformed("a batch that does not unpack");
    let length = snap::raw::decompress_len(block).map_err(wrong)?;
    if length > limit.saturating_sub(unpacked.len()) {
        return Err(TOO_LONG);
    }
    unpacked.extend_from_slice(&snap::raw::Decoder::new().decompress_vec(block).map_err(wrong)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(codec: i16, text: &[u8]) -> Vec<u8> {
        match codec {
            1 => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(text).unwrap();
                encoder.finish().unwrap()
            }
            2 => snap::raw::Encoder::new().compress_vec(text).unwrap(),
            3 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(text).unwrap();
                encoder.finish().unwrap()
            }
            4 => zstd::encode_all(text, 1).unwrap(),
            _ => text.to_vec(),
        }
    }

    #[test]
    fn everything_comes_back_and_nothing_grows_beyond_its_limit() {
        let text = vec![b'x'; 100_000];
        for codec in 0..=4 {
            let bytes = Bytes::from(packed(codec, &text));
            assert_eq!(unpack_within(codec, bytes.clone(), 100_000).unwrap(), text, "{codec}");
            if codec > 0 {
                assert!(unpack_within(codec, bytes.clone(), 99_999).is_err(), "{codec}");
                assert!(unpack_within(codec, bytes.slice(..bytes.len() / 2), 100_000).is_err(), "{codec}");
                assert!(unpack_within(codec, Bytes::from_static(b"\xff\xff\xff\xff\xff\x0fgarbage"), 100_000).is_err());
            }
        }
        assert!(unpack(5, Bytes::new()).is_err());
    }

    #[test]
    fn snappy_of_the_java_client_has_blocks() {
        let mut framed = [SNAPPY_MAGIC, &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
        for text in [&b"hello "[..], b"world"] {
            let block = packed(2, text);
            framed.extend(u32::try_from(block.len()).unwrap().to_be_bytes());
            framed.extend(block);
        }
        assert_eq!(unpack(2, framed.clone().into()).unwrap(), &b"hello world"[..]);
        framed.pop();
        assert!(unpack(2, framed.into()).is_err());
    }
}
