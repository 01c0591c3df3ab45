//! What a broker may send who means ill, or is broken: every decoder ends with a value or an error, and takes no more memory than
//! the bytes that came are worth.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::records::tests::{Raw, Sample};
use super::records::{Visibility, next_batch};
use super::types::Column;
use super::values::Rows;
use super::wire::buffer::{Reader, Writer};
use super::wire::messages::{
    Aborted, Api, Metadata, Version, Versions, describe_topic_response, fetch_response, list_offsets_response,
    sasl_authenticate_response, sasl_handshake_response,
};

const ROUNDS: u64 = 20_000;

/// Lengths and counts that are worth a try.
const EDGES: [i32; 8] = [-1, -2, i32::MIN, i32::MAX, 0, 1, 0x7fff, 0x00ff_ffff];

/// The bytes with some of them changed, put in or taken away.
pub(super) fn damaged(bytes: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 => {
                let edge = EDGES[random.random_range(0..EDGES.len())].to_be_bytes();
                bytes.splice(at..(at + 4).min(bytes.len()), edge);
            }
            3 => {
                bytes.splice(at..at, [0xff; 9]);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
    bytes
}

/// An answer that has something of everything: whatever a decoder takes for a length, it is one.
fn some_answer(random: &mut StdRng, flexible: bool) -> Vec<u8> {
    let mut writer = Writer::new(flexible);
    for _ in 0..random.random_range(1..20) {
        match random.random_range(0..7) {
            0 => writer.i8(random.random()),
            1 => writer.i16(random.random_range(-2..50)),
            2 => writer.i32(random.random_range(-2..50)),
            3 => writer.i64(random.random()),
            4 => writer.string("topic"),
            5 => writer.length(random.random_range(0..4)),
            _ => writer.raw(&[7; 16]),
        }
    }
    writer.into_bytes()
}

fn decode_everything(bytes: &[u8]) {
    for (number, flexible) in [(7, false), (12, true)] {
        let metadata =
            Metadata::decode(&mut Reader::new(bytes, flexible), Version { api: Api::Metadata, number, flexible });
        if let Ok(metadata) = metadata {
            assert!(metadata.brokers.len() + metadata.topics.len() <= bytes.len());
        }
        let _ = list_offsets_response(&mut Reader::new(bytes, flexible));
    }
    for (number, flexible) in [(11, false), (13, true)] {
        let fetched = fetch_response(&mut Reader::new(bytes, flexible), Version { api: Api::Fetch, number, flexible });
        if let Ok((_, _, Some(fetched))) = fetched {
            assert!(fetched.records.len() + fetched.aborted.len() * 16 <= bytes.len());
        }
    }
    let _ = Versions::decode(&mut Reader::new(bytes, false));
    let _ = describe_topic_response(&mut Reader::new(bytes, false));
    let _ = sasl_handshake_response(&mut Reader::new(bytes, false));
    let _ = sasl_authenticate_response(&mut Reader::new(bytes, false));
}

#[test]
fn answers_that_are_none_are_errors() {
    let mut random = StdRng::seed_from_u64(4);
    for round in 0..ROUNDS {
        let flexible = round % 2 == 0;
        let answer = some_answer(&mut random, flexible);
        decode_everything(&answer);
        decode_everything(&damaged(&answer, &mut random));
    }
    decode_everything(&[0xff; 4096]);
    decode_everything(&[0; 4096]);
}

/// Reads a log as a reader of splits does; how many rows came of it.
fn read_log(log: Vec<u8>) -> Result<usize, super::wire::buffer::Malformed> {
    let limit = log.len();
    let mut bytes = Bytes::from(log);
    let mut visibility = Visibility::new(vec![Aborted { producer: 1, first_offset: 3 }]);
    let columns = [Column::of_records(), vec![Column::of_value(super::types::FieldType::Varbinary)]].concat();
    let schema = arrow::datatypes::Schema::new(columns.iter().map(Column::field).collect::<Vec<_>>());
    let mut rows = Rows::new(&columns, &[], schema.into(), true, None);
    while let Some(batch) = next_batch(&mut bytes)? {
        if !visibility.shows(&batch)? {
            continue;
        }
        let mut records = batch.records()?;
        while let Some(record) = records.next()? {
            assert!(record.size() <= limit.max(1 << 20), "a record that is larger than what it came in");
            if let Err(super::values::Fault::Malformed(fault)) = rows.append(0, &record) {
                return Err(fault);
            }
        }
    }
    let rows = rows.len();
    Ok(rows)
}

/// Checksums keep damage of the way out; whoever means ill makes right ones.
fn with_right_checksum(mut batch: Vec<u8>) -> Vec<u8> {
    if batch.len() > 21 {
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        let length = i32::try_from(batch.len() - 12).unwrap();
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[16] = 2;
    }
    batch
}

#[test]
fn batches_that_are_none_are_errors() {
    let mut random = StdRng::seed_from_u64(5);
    let records: &[Raw<'_>] = &[(0, Some(b"key"), Some(b"value")), (1, None, None), (9, Some(b""), Some(&[1; 200]))];
    let mut read = 0;
    for round in 0..ROUNDS {
        let attributes = [0, 0x08, 0x10, 0x20, 0x30, 1, 2, 3, 4, 7][usize::try_from(round % 10).unwrap()];
        let sample = Sample { base_offset: 5, last_delta: 9, attributes, producer: 1, records }.encode();
        let batch = with_right_checksum(damaged(&sample, &mut random));
        let log = [batch, damaged(&sample, &mut random)].concat();
        read += usize::from(read_log(log).is_ok_and(|rows| rows > 0));
    }
    assert!(read > 100, "not all damage is seen: {read}");
}
