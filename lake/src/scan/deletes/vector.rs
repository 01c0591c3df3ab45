//! Deletion vectors: the deleted positions of one data file, as a compressed bitmap in a Puffin file (format version 3).
//!
//! A blob of the type `deletion-vector-v1`, as the Puffin specification has it: the length of what follows but the
//! checksum (4 bytes, big-endian), a magic number, the bitmap in Roaring's portable 64-bit format, its CRC-32 with the
//! magic number (4 bytes, big-endian). The manifest says where the blob is, so the file's footer is not needed.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use roaring::RoaringTreemap;
use townlake_common::{Error, Result};
use townlake_proto::lake::{DeleteFile, DeletionVector};

use super::budget::Budget;
use super::file::{damaged, unreachable};

const MAGIC: [u8; 4] = [0xd1, 0xd3, 0x39, 0x64];

/// Reads one vector.
///
/// Errors: `FILE_NOT_FOUND`, those of the object store; `DATA_CORRUPT` for a blob that is not what the manifest says;
/// `MEMORY_LIMIT`.
pub(super) async fn read(
    store: &Arc<dyn ObjectStore>,
    file: &DeleteFile,
    vector: &DeletionVector,
    budget: &Budget,
) -> Result<RoaringTreemap> {
    let end = vector.offset.checked_add(vector.length).filter(|end| *end <= file.size);
    let end = end.ok_or_else(|| damaged(&file.uri, "is shorter than where its deletion vector lies"))?;
    budget.grow(usize::try_from(vector.length).unwrap_or(usize::MAX))?;
    let path = Path::parse(&file.path)
        .map_err(|e| Error::internal(format!("{} is no key of a delete file", file.path)).with_source(e))?;
    let blob = store.get_range(&path, vector.offset..end).await.map_err(|error| unreachable(&file.uri, error))?;
    let deleted = decode(&blob).map_err(|what| damaged(&file.uri, what))?;
    if deleted.len() != vector.rows {
        let what = format!("deletes {} rows of a data file where {} are said to be", deleted.len(), vector.rows);
        return Err(damaged(&file.uri, &what));
    }
    Ok(deleted)
}

fn decode(blob: &[u8]) -> Result<RoaringTreemap, &'static str> {
    const CUT: &str = "has a deletion vector that is cut short";
    let (length, rest) = blob.split_first_chunk::<4>().ok_or(CUT)?;
    let (body, checksum) = rest.split_last_chunk::<4>().ok_or(CUT)?;
    if usize::try_from(u32::from_be_bytes(*length)) != Ok(body.len()) {
        return Err(CUT);
    }
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return Err("has a deletion vector with a wrong checksum");
    }
    let bitmap = body.strip_prefix(&MAGIC).ok_or("has no deletion vector where one should be")?;
    RoaringTreemap::deserialize_from(bitmap).map_err(|_| "has a deletion vector that cannot be decoded")
}

/// The blob of these positions.
#[cfg(test)]
pub(super) fn encode(deleted: &RoaringTreemap) -> Vec<u8> {
    let mut body = MAGIC.to_vec();
    deleted.serialize_into(&mut body).unwrap();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let checksum = crc32fast::hash(&body).to_be_bytes();
    [&length[..], &body, &checksum].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_java_writes() {
        // Positions 0, 1, 2 and 2^32 + 7, put together from the specifications of Puffin and Roaring by hand.
        let mut body = MAGIC.to_vec();
        body.extend(2_u64.to_le_bytes());
        for (high, low) in [(0_u32, &[0_u16, 1, 2][..]), (1, &[7])] {
            body.extend(high.to_le_bytes());
            body.extend(12_346_u32.to_le_bytes());
            body.extend(1_u32.to_le_bytes());
            body.extend([0, 0]);
            body.extend((low.len() as u16 - 1).to_le_bytes());
            body.extend(16_u32.to_le_bytes());
            body.extend(low.iter().flat_map(|v| v.to_le_bytes()));
        }
        let mut blob = (body.len() as u32).to_be_bytes().to_vec();
        blob.extend(&body);
        blob.extend(crc32fast::hash(&body).to_be_bytes());
        let deleted = decode(&blob).unwrap();
        assert_eq!(deleted.iter().collect::<Vec<_>>(), [0, 1, 2, (1 << 32) + 7]);
        assert_eq!(encode(&deleted), blob);
    }

    #[test]
    fn runs_are_read_as_java_compresses_them() {
        // CRoaring's bytes of the positions 3 to 4999 and 70 001, after it looked for runs.
        let bitmap: [u8; 21] = [59, 48, 1, 0, 1, 0, 0, 132, 19, 1, 0, 0, 0, 1, 0, 3, 0, 132, 19, 113, 17];
        let body = [&MAGIC[..], &1_u64.to_le_bytes(), &0_u32.to_le_bytes(), &bitmap].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let blob = [&length[..], &body, &crc32fast::hash(&body).to_be_bytes()].concat();
        assert!(decode(&blob).unwrap().iter().eq((3..5000).chain([70_001])));
    }

    /// Whatever lies behind a right checksum.
    #[test]
    fn fuzz_bitmaps() {
        use rand::{Rng, SeedableRng};
        let (rounds, seed) = match std::env::var_os("TOWNLAKE_SOAK") {
            Some(_) => (100_000, rand::random()),
            None => (3000, 20_261_127_u64),
        };
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut dense = RoaringTreemap::from_iter(5..70_000_u64);
        dense.optimize();
        let sparse = RoaringTreemap::from_iter((0..40_u64).map(|n| n * 1_000_003));
        let files = [&dense, &sparse, &RoaringTreemap::new()].map(encode);
        for round in 0..rounds {
            let file = &files[round % files.len()];
            let mut body = file[4..file.len() - 4].to_vec();
            for _ in 0..rng.random_range(1..4) {
                let place = rng.random_range(MAGIC.len()..body.len());
                match rng.random_range(0..3) {
                    0 => body[place] ^= 1 << rng.random_range(0..8),
                    1 => body[place] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
                    _ => body.truncate(place.max(MAGIC.len() + 1)),
                }
            }
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            let blob = [&length[..], &body, &crc32fast::hash(&body).to_be_bytes()].concat();
            // The number of positions is told by the manifest, and compared.
            let _ = decode(&blob).map(|deleted| deleted.len());
        }
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let blob = encode(&(0..70_000).chain([u64::MAX]).collect());
        for length in [0, 3, 7, 8, 11, blob.len() - 1] {
            assert!(decode(&blob[..length]).is_err(), "{length}");
        }
        for place in 0..blob.len() {
            let mut broken = blob.clone();
            broken[place] ^= 0x55;
            assert!(decode(&broken).is_err(), "{place}");
            // With a checksum that fits, so that the bitmap itself is decoded.
            let end = broken.len() - 4;
            let checksum = crc32fast::hash(&broken[4..end]);
            broken[end..].copy_from_slice(&checksum.to_be_bytes());
            let _ = decode(&broken);
        }
        let endless = [&MAGIC[..], &u64::MAX.to_le_bytes()].concat();
        let mut blob = (endless.len() as u32).to_be_bytes().to_vec();
        blob.extend(&endless);
        blob.extend(crc32fast::hash(&endless).to_be_bytes());
        assert!(decode(&blob).is_err());
    }
}
