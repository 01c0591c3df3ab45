//! Record batches, as they lie in the log and come over the wire (message format 2, Kafka 0.11), and which of them a reader
//! of committed data may see.
//!
//! A batch: base offset, length, leader epoch, magic, CRC-32C of the rest, attributes (compression, kind of timestamp,
//! transactional, control), delta of its last offset, two timestamps, producer, count, records. Offsets in it are rising
//! and may have gaps, and its last offset counts even where compaction took the record away: that is how a reader knows how
//! far it has come.

use std::collections::HashSet;

use bytes::Bytes;
use crc::{CRC_32_ISCSI, Crc, Table};

use super::compress::unpack;
use super::wire::buffer::{Decoded, Malformed, Reader};
use super::wire::messages::Aborted;

const CASTAGNOLI: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Base offset and length, which the length does not count.
const PREFIX: usize = 12;
/// Leader epoch, magic and CRC, which the CRC does not count.
const UNCHECKED: usize = 9;

/// A batch, its records still packed.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub base_offset: i64,
    /// The last offset of the batch when it was written.
    pub last_offset: i64,
    attributes: i16,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: i64,
    count: i32,
    packed: Bytes,
}

/// The next whole batch of `bytes`, which it is taken off; `None` when there is none or only a part, as at the end of what a
/// broker sends.
pub(crate) fn next_batch(bytes: &mut Bytes) -> Decoded<Option<Batch>> {
    let mut reader = Reader::new(bytes, false);
    if reader.left() < PREFIX + UNCHECKED {
        return Ok(None);
    }
    let (base_offset, length) = (reader.i64()?, reader.i32()?);
    let length = usize::try_from(length).map_err(|_| Malformed("a batch of negative length"))?;
    reader.i32()?; // leader epoch
    // The magic lies where older formats had it, too: their batches are known before they are misread.
    if reader.i8()? != 2 {
        return Err(OLD_FORMAT);
    }
    if bytes.len() < PREFIX + length {
        return Ok(None);
    }
    let batch = bytes.split_to(PREFIX + length);
    parse(base_offset, &batch).map(Some)
}

/// Told from other faults: the log was written by a Kafka before 0.11.
pub(crate) const OLD_FORMAT: Malformed = Malformed("a batch of message format 0 or 1");

fn parse(base_offset: i64, batch: &Bytes) -> Decoded<Batch> {
    let checked = batch.get(PREFIX + UNCHECKED..).ok_or(Malformed("a batch without a header"))?;
    let mut reader = Reader::new(batch, false);
    reader.take(PREFIX + 5)?;
    if reader.u32()? != CASTAGNOLI.checksum(checked) {
        return Err(Malformed("a batch whose checksum is wrong"));
    }
    let attributes = reader.i16()?;
    let last_delta = reader.i32()?;
    let (base_timestamp, max_timestamp, producer) = (reader.i64()?, reader.i64()?, reader.i64()?);
    reader.i16()?; // producer epoch
    reader.i32()?; // base sequence
    let count = reader.i32()?;
    let last_offset =
        base_offset.checked_add(i64::from(last_delta)).filter(|last| *last >= base_offset && base_offset >= 0);
    let last_offset = last_offset.ok_or(Malformed("a batch whose offsets fall"))?;
    let packed = batch.slice(batch.len() - reader.left()..);
    Ok(Batch { base_offset, last_offset, attributes, base_timestamp, max_timestamp, producer, count, packed })
}

impl Batch {
    fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Whether it holds markers of transactions instead of records.
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Whether the broker set the time when it appended the batch.
    pub fn has_log_append_time(&self) -> bool {
        self.attributes & 0x08 != 0
    }

    /// The records.
    pub fn records(&self) -> Decoded<Records> {
        let bytes = unpack(self.attributes & 0x07, self.packed.clone())?;
        let left = usize::try_from(self.count).map_err(|_| Malformed("a negative number of records"))?;
        Ok(Records {
            bytes,
            left,
            base_offset: self.base_offset,
            last_offset: self.last_offset,
            base_timestamp: self.base_timestamp,
            appended: self.has_log_append_time().then_some(self.max_timestamp),
        })
    }
}

/// The records of a batch that are still to come.
#[derive(Debug)]
pub(crate) struct Records {
    bytes: Bytes,
    left: usize,
    base_offset: i64,
    last_offset: i64,
    base_timestamp: i64,
    appended: Option<i64>,
}

/// One record. `None` in place of bytes is Kafka's null.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub offset: i64,
    /// Milliseconds since 1970; −1 is none.
    pub timestamp: i64,
    /// Whether the broker set the time.
    pub appended: bool,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    headers: Bytes,
}

impl Records {
    /// The next record.
    pub fn next(&mut self) -> Decoded<Option<Record>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut reader = Reader::new(&self.bytes, false);
        let length = usize::try_from(reader.varint()?).map_err(|_| Malformed("a record of negative length"))?;
        let start = self.bytes.len() - reader.left();
        if length > reader.left() {
            return Err(Malformed("a record that is longer than its batch"));
        }
        let record = self.bytes.slice(start..start + length);
        self.bytes = self.bytes.slice(start + length..);
        self.parse(&record).map(Some)
    }

    fn parse(&self, record: &Bytes) -> Decoded<Record> {
        let mut reader = Reader::new(record, false);
        reader.i8()?; // attributes: none are in use
        let timestamp = self.base_timestamp.wrapping_add(reader.varint()?);
        let offset = self.base_offset.checked_add(reader.varint()?);
        let offset = offset.filter(|offset| (self.base_offset..=self.last_offset).contains(offset));
        let offset = offset.ok_or(Malformed("a record whose offset is not of its batch"))?;
        let key = bytes_of(record, &mut reader)?;
        let value = bytes_of(record, &mut reader)?;
        let headers = record.slice(record.len() - reader.left()..);
        let (timestamp, appended) = (self.appended.unwrap_or(timestamp), self.appended.is_some());
        Ok(Record { offset, timestamp, appended, key, value, headers })
    }
}

/// Bytes with their length before them, as a part of `record` that nothing is copied for.
fn bytes_of(record: &Bytes, reader: &mut Reader<'_>) -> Decoded<Option<Bytes>> {
    match reader.varint()? {
        -1 => Ok(None),
        length => {
            let length = usize::try_from(length).map_err(|_| Malformed("a negative length in a record"))?;
            Ok(Some(record.slice_ref(reader.take(length)?)))
        }
    }
}

impl Record {
    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        length(&self.key) + length(&self.value) + self.headers.len()
    }

    /// Calls `each` with every header, in order: names may come twice, values may be null.
    pub fn headers(&self, mut each: impl FnMut(&[u8], Option<&[u8]>)) -> Decoded<()> {
        let mut reader = Reader::new(&self.headers, false);
        for _ in 0..reader.varint()? {
            let name = bytes_of(&self.headers, &mut reader)?.ok_or(Malformed("a header without a name"))?;
            let value = bytes_of(&self.headers, &mut reader)?;
            each(&name, value.as_deref());
        }
        Ok(())
    }
}

/// Which batches of one answer a reader of committed data skips: those of transactions that were aborted, which the broker
/// sends along with a list of them, and all markers.
#[derive(Debug, Default)]
pub(crate) struct Visibility {
    /// Transactions that were aborted, by their first offset, the next one last.
    aborted: Vec<Aborted>,
    /// Producers that are inside one of them.
    inside: HashSet<i64>,
}

impl Visibility {
    /// Over what the broker says of one answer.
    pub fn new(mut aborted: Vec<Aborted>) -> Self {
        aborted.sort_unstable_by_key(|aborted| std::cmp::Reverse(aborted.first_offset));
        Self { aborted, inside: HashSet::new() }
    }

    /// Whether the records of a batch are seen. Every batch of an answer must be asked about, in order.
    pub fn shows(&mut self, batch: &Batch) -> Decoded<bool> {
        while let Some(aborted) = self.aborted.pop_if(|next| next.first_offset <= batch.last_offset) {
            self.inside.insert(aborted.producer);
        }
        if batch.is_control() {
            if self.inside.contains(&batch.producer) && is_abort(batch)? {
                self.inside.remove(&batch.producer);
            }
            return Ok(false);
        }
        Ok(!(batch.is_transactional() && self.inside.contains(&batch.producer)))
    }
}

/// Whether a batch of markers ends a transaction by aborting it: its key is a version and a kind, of which 0 is abort.
fn is_abort(batch: &Batch) -> Decoded<bool> {
    let Some(marker) = batch.records()?.next()? else { return Ok(false) };
    let key = marker.key.ok_or(Malformed("a marker without a key"))?;
    let mut reader = Reader::new(&key, false);
    reader.i16()?;
    Ok(reader.i16()? == 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kafka::wire::buffer::Writer;

    fn varint(value: i64) -> Vec<u8> {
        let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
        let mut bytes = Vec::new();
        while raw >= 0x80 {
            bytes.push((raw & 0x7f) as u8 | 0x80);
            raw >>= 7;
        }
        bytes.push(raw as u8);
        bytes
    }

    fn nullable(bytes: Option<&[u8]>) -> Vec<u8> {
        match bytes {
            None => varint(-1),
            Some(bytes) => [varint(bytes.len() as i64), bytes.to_vec()].concat(),
        }
    }

    /// Delta, key, value.
    pub(crate) type Raw<'a> = (i64, Option<&'a [u8]>, Option<&'a [u8]>);

    pub(crate) struct Sample<'a> {
        pub base_offset: i64,
        pub last_delta: i32,
        pub attributes: i16,
        pub producer: i64,
        pub records: &'a [Raw<'a>],
    }

    impl Sample<'_> {
        pub fn encode(&self) -> Vec<u8> {
            let mut records = Vec::new();
            for (delta, key, value) in self.records {
                let header =
                    [varint(2), nullable(Some(b"h")), nullable(None), nullable(Some(b"h")), nullable(Some(b"1"))];
                let body = [vec![0], varint(*delta), varint(*delta), nullable(*key), nullable(*value), header.concat()];
                let body = body.concat();
                records.extend(varint(body.len() as i64));
                records.extend(body);
            }
            let mut checked = Writer::new(false);
            checked.i16(self.attributes);
            checked.i32(self.last_delta);
            checked.i64(1000);
            checked.i64(2000);
            checked.i64(self.producer);
            checked.i16(0);
            checked.i32(0);
            checked.i32(self.records.len() as i32);
            checked.raw(&records);
            let checked = checked.into_bytes();
            let mut batch = Writer::new(false);
            batch.i64(self.base_offset);
            batch.i32((UNCHECKED + checked.len()) as i32);
            batch.i32(0);
            batch.i8(2);
            batch.i32(CASTAGNOLI.checksum(&checked).cast_signed());
            batch.raw(&checked);
            batch.into_bytes()
        }
    }

    fn plain(base_offset: i64, attributes: i16, producer: i64) -> Sample<'static> {
        Sample {
            base_offset,
            last_delta: 9,
            attributes,
            producer,
            records: &[(0, Some(b"k"), None), (7, None, Some(b"v"))],
        }
    }

    fn marker(base_offset: i64, producer: i64, commit: bool) -> Vec<u8> {
        let key: &[u8] = if commit { &[0, 0, 0, 1] } else { &[0, 0, 0, 0] };
        Sample { base_offset, last_delta: 0, attributes: 0x30, producer, records: &[(0, Some(key), Some(b""))] }
            .encode()
    }

    #[test]
    fn a_batch_has_gaps_and_nulls_and_its_own_last_offset() {
        let mut bytes = Bytes::from([plain(100, 0, -1).encode(), vec![0; 30]].concat());
        let batch = next_batch(&mut bytes).unwrap().unwrap();
        assert_eq!((batch.base_offset, batch.last_offset, bytes.len()), (100, 109, 30));
        let mut records = batch.records().unwrap();
        let first = records.next().unwrap().unwrap();
        assert_eq!((first.offset, first.timestamp, first.appended), (100, 1000, false));
        assert_eq!((first.key.as_deref(), first.value.as_deref()), (Some(&b"k"[..]), None));
        let mut headers = Vec::new();
        first.headers(|name, value| headers.push((name.to_vec(), value.map(<[u8]>::to_vec)))).unwrap();
        assert_eq!(headers, [(b"h".to_vec(), None), (b"h".to_vec(), Some(b"1".to_vec()))]);
        let second = records.next().unwrap().unwrap();
        assert_eq!((second.offset, second.timestamp), (107, 1007));
        assert!(records.next().unwrap().is_none());
        let appended = next_batch(&mut plain(0, 0x08, -1).encode().into()).unwrap().unwrap();
        assert_eq!(appended.records().unwrap().next().unwrap().unwrap().timestamp, 2000);
    }

    #[test]
    fn what_is_cut_waits_and_what_is_damaged_is_refused() {
        let whole = plain(100, 0, -1).encode();
        for end in 0..whole.len() {
            assert!(next_batch(&mut Bytes::copy_from_slice(&whole[..end])).unwrap().is_none(), "{end}");
        }
        for index in PREFIX + 5..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 0x40;
            assert!(next_batch(&mut damaged.into()).is_err(), "{index}");
        }
        let mut old = whole.clone();
        old[16] = 1;
        assert_eq!(next_batch(&mut old.into()).unwrap_err(), OLD_FORMAT);
        let mut outside = plain(100, 0, -1);
        outside.records = &[(10, None, None)];
        let batch = next_batch(&mut outside.encode().into()).unwrap().unwrap();
        assert!(batch.records().unwrap().next().is_err(), "an offset beyond the batch");
        let mut many = plain(100, 0, -1);
        many.records = &[];
        let mut batch = next_batch(&mut many.encode().into()).unwrap().unwrap();
        batch.count = i32::MAX;
        assert!(batch.records().unwrap().next().is_err(), "a count without records");
    }

    #[test]
    fn aborted_transactions_are_not_seen_and_those_around_them_are() {
        // Producer 1 aborts 0..19, then commits 40..49; producer 2 commits 10..29 between; 3 is in no transaction.
        let log = [
            plain(0, 0x10, 1).encode(),
            plain(10, 0x10, 2).encode(),
            plain(20, 0x10, 1).encode(),
            marker(30, 1, false),
            marker(31, 2, true),
            plain(40, 0x10, 1).encode(),
            plain(50, 0, 3).encode(),
            marker(60, 1, true),
        ];
        let mut bytes = Bytes::from(log.concat());
        let mut visibility = Visibility::new(vec![
            Aborted { producer: 9, first_offset: 1000 },
            Aborted { producer: 1, first_offset: 0 },
        ]);
        let mut seen = Vec::new();
        while let Some(batch) = next_batch(&mut bytes).unwrap() {
            if visibility.shows(&batch).unwrap() {
                seen.push(batch.base_offset);
            }
        }
        assert_eq!(seen, [10, 40, 50]);
        // What is not committed may be asked for: markers are never seen all the same.
        let mut all = Visibility::default();
        assert!(all.shows(&next_batch(&mut plain(0, 0x10, 1).encode().into()).unwrap().unwrap()).unwrap());
        assert!(!all.shows(&next_batch(&mut marker(0, 1, true).into()).unwrap().unwrap()).unwrap());
    }
}
