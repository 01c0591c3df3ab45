//! The requests that we send and what we keep of the answers.

use std::ops::RangeInclusive;

use super::buffer::{Decoded, Reader, Writer};
use super::codes::Code;

/// The id of a topic; zeros where the broker knows none.
pub(crate) type TopicId = [u8; 16];

/// An API, by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub(crate) enum Api {
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    SaslHandshake = 17,
    Versions = 18,
    DescribeConfigs = 32,
    SaslAuthenticate = 36,
}

/// One version of an API. `flexible` says which form its headers and lengths have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub api: Api,
    pub number: i16,
    pub flexible: bool,
}

const fn version(api: Api, number: i16, flexible: bool) -> Version {
    Version { api, number, flexible }
}

pub(crate) const API_VERSIONS: Version = version(Api::Versions, 0, false);
pub(crate) const SASL_HANDSHAKE: Version = version(Api::SaslHandshake, 1, false);
pub(crate) const SASL_AUTHENTICATE: Version = version(Api::SaslAuthenticate, 1, false);
pub(crate) const DESCRIBE_CONFIGS: Version = version(Api::DescribeConfigs, 1, false);
/// By name only: before 3.1.
const METADATA_OLD: Version = version(Api::Metadata, 7, false);
const METADATA: Version = version(Api::Metadata, 12, true);
const LIST_OFFSETS_OLD: Version = version(Api::ListOffsets, 5, false);
/// Knows [`EARLIEST_LOCAL`].
const LIST_OFFSETS: Version = version(Api::ListOffsets, 8, true);
const FETCH_OLD: Version = version(Api::Fetch, 11, false);
/// By topic id.
const FETCH: Version = version(Api::Fetch, 13, true);

/// Which versions of which API a broker speaks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions(Vec<(i16, RangeInclusive<i16>)>);

impl Versions {
    /// The answer to `API_VERSIONS`, whose request is empty.
    pub fn decode(reader: &mut Reader<'_>) -> Decoded<(Code, Self)> {
        let code = Code(reader.i16()?);
        let versions = reader.array(|r| Ok((r.i16()?, r.i16()?..=r.i16()?)))?;
        Ok((code, Self(versions)))
    }

    fn speaks(&self, version: Version) -> bool {
        self.0.iter().any(|(api, range)| *api == version.api as i16 && range.contains(&version.number))
    }

    /// The newer of two forms that the broker speaks.
    fn choose(&self, newer: Version, older: Version) -> Option<Version> {
        [newer, older].into_iter().find(|version| self.speaks(*version))
    }

    pub fn metadata(&self) -> Option<Version> {
        self.choose(METADATA, METADATA_OLD)
    }

    pub fn list_offsets(&self) -> Option<Version> {
        self.choose(LIST_OFFSETS, LIST_OFFSETS_OLD)
    }

    /// Fetching needs the topic's id in the newer form.
    pub fn fetch(&self, has_id: bool) -> Option<Version> {
        if has_id { self.choose(FETCH, FETCH_OLD) } else { self.choose(FETCH_OLD, FETCH_OLD) }
    }

    pub fn of(&self, version: Version) -> Option<Version> {
        self.choose(version, version)
    }
}

/// Asks for the brokers, and for all topics or those of these names. Topics are never created by it.
pub(crate) fn metadata_request(version: Version, topics: Option<&[&str]>) -> Vec<u8> {
    let mut writer = Writer::new(version.flexible);
    match topics {
        None => writer.null_array(),
        Some(topics) => {
            writer.length(topics.len());
            for topic in topics {
                if version.number >= 10 {
                    writer.raw(&[0; 16]);
                }
                writer.string(topic);
                writer.tags();
            }
        }
    }
    writer.bool(false);
    if version.number >= 8 {
        writer.bool(false);
    }
    writer.tags();
    writer.into_bytes()
}

/// What a broker knows of the cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Metadata {
    pub brokers: Vec<Broker>,
    pub topics: Vec<Topic>,
}

/// A broker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broker {
    pub id: i32,
    pub host: String,
    pub port: i32,
}

/// A topic, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Topic {
    pub code: Code,
    pub name: String,
    pub id: Option<TopicId>,
    pub is_internal: bool,
    pub partitions: Vec<Partition>,
}

/// A partition and who leads it; −1 is nobody.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Partition {
    pub index: i32,
    pub leader: i32,
}

impl Metadata {
    pub fn decode(reader: &mut Reader<'_>, version: Version) -> Decoded<Self> {
        reader.i32()?; // throttle time
        let brokers = reader.array(|r| {
            let broker = Broker { id: r.i32()?, host: r.string()?.to_string(), port: r.i32()? };
            r.nullable_string()?; // rack
            r.tags()?;
            Ok(broker)
        })?;
        reader.nullable_string()?; // cluster id
        reader.i32()?; // controller
        let topics = reader.array(|r| Topic::decode(r, version))?;
        Ok(Self { brokers, topics })
    }
}

impl Topic {
    fn decode(reader: &mut Reader<'_>, version: Version) -> Decoded<Self> {
        let code = Code(reader.i16()?);
        let name = reader.nullable_string()?.unwrap_or_default().to_string();
        let id = if version.number >= 10 { Some(reader.uuid()?).filter(|id| *id != [0; 16]) } else { None };
        let is_internal = reader.bool()?;
        let partitions = reader.array(|r| {
            r.i16()?; // error: the leader is −1 then
            let partition = Partition { index: r.i32()?, leader: r.i32()? };
            r.i32()?; // leader epoch
            for _ in 0..3 {
                r.array(Reader::i32)?; // replicas, those in sync, those that are away
            }
            r.tags()?;
            Ok(partition)
        })?;
        if version.number >= 8 {
            reader.i32()?; // authorized operations
        }
        reader.tags()?;
        Ok(Self { code, name, id, is_internal, partitions })
    }
}

/// Instead of a timestamp: the end of the log (or of what is stable).
pub(crate) const LATEST: i64 = -1;
/// Instead of a timestamp: the start of the log.
pub(crate) const EARLIEST: i64 = -2;
/// Instead of a timestamp: the start of what the broker itself has, and no tiered storage.
pub(crate) const EARLIEST_LOCAL: i64 = -4;

/// Asks, per partition, for the first offset whose record is not older than a timestamp in ms.
pub(crate) fn list_offsets_request(
    version: Version,
    committed: bool,
    topic: &str,
    partitions: &[(i32, i64)],
) -> Vec<u8> {
    let mut writer = Writer::new(version.flexible);
    writer.i32(-1);
    writer.i8(committed.into());
    writer.length(1);
    writer.string(topic);
    writer.length(partitions.len());
    for (partition, timestamp) in partitions {
        writer.i32(*partition);
        writer.i32(-1);
        writer.i64(*timestamp);
        writer.tags();
    }
    writer.tags();
    writer.tags();
    writer.into_bytes()
}

/// An offset of a partition; −1 where no record is as new.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ListedOffset {
    pub partition: i32,
    pub code: Code,
    pub offset: i64,
}

pub(crate) fn list_offsets_response(reader: &mut Reader<'_>) -> Decoded<Vec<ListedOffset>> {
    reader.i32()?; // throttle time
    let topics = reader.array(|r| {
        r.string()?;
        let offsets = r.array(|r| {
            let (partition, code) = (r.i32()?, Code(r.i16()?));
            r.i64()?; // timestamp
            let offset = r.i64()?;
            r.i32()?; // leader epoch
            r.tags()?;
            Ok(ListedOffset { partition, code, offset })
        })?;
        r.tags()?;
        Ok(offsets)
    })?;
    Ok(topics.into_iter().flatten().collect())
}

/// What is fetched: from one partition, from an offset on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetch<'a> {
    pub topic: &'a str,
    pub id: Option<TopicId>,
    pub partition: i32,
    pub offset: i64,
    pub committed: bool,
    /// How long the broker waits for something to come.
    pub wait_ms: i32,
    /// About how much is sent; a larger batch comes whole all the same.
    pub bytes: i32,
}

impl Fetch<'_> {
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut writer = Writer::new(version.flexible);
        writer.i32(-1); // no replica
        writer.i32(self.wait_ms);
        writer.i32(1); // the least bytes
        writer.i32(self.bytes);
        writer.i8(self.committed.into());
        writer.i32(0); // no fetch session
        writer.i32(-1);
        writer.length(1);
        match self.id {
            Some(id) if version.number >= 13 => writer.raw(&id),
            _ => writer.string(self.topic),
        }
        writer.length(1);
        writer.i32(self.partition);
        writer.i32(-1); // leader epoch: not checked
        writer.i64(self.offset);
        if version.number >= 12 {
            writer.i32(-1); // last fetched epoch
        }
        writer.i64(-1); // log start: of replicas
        writer.i32(self.bytes);
        writer.tags();
        writer.tags();
        writer.length(0); // forgotten topics
        writer.string(""); // rack
        writer.tags();
        writer.into_bytes()
    }
}

/// What came of one partition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fetched<'a> {
    pub code: Code,
    pub high_watermark: i64,
    pub last_stable: i64,
    /// Transactions among the records that were aborted.
    pub aborted: Vec<Aborted>,
    /// The broker would have us ask another one.
    pub other_replica: bool,
    /// Record batches, the last one perhaps cut.
    pub records: &'a [u8],
}

/// An aborted transaction: of this producer, from this offset to its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aborted {
    pub producer: i64,
    pub first_offset: i64,
}

/// The throttle time in ms, an error of the whole request, and the partition, which a throttled answer leaves out.
pub(crate) fn fetch_response<'a>(
    reader: &mut Reader<'a>,
    version: Version,
) -> Decoded<(i32, Code, Option<Fetched<'a>>)> {
    let throttle = reader.i32()?;
    let code = Code(reader.i16()?);
    reader.i32()?; // session
    let topics = reader.array(|r| {
        if version.number >= 13 {
            r.uuid()?;
        } else {
            r.string()?;
        }
        let partitions = r.array(Fetched::decode)?;
        r.tags()?;
        Ok(partitions)
    })?;
    Ok((throttle, code, topics.into_iter().flatten().next()))
}

impl<'a> Fetched<'a> {
    fn decode(reader: &mut Reader<'a>) -> Decoded<Self> {
        reader.i32()?; // partition: the one that we asked for
        let code = Code(reader.i16()?);
        let (high_watermark, last_stable) = (reader.i64()?, reader.i64()?);
        reader.i64()?; // log start
        let aborted = reader.array(|r| {
            let aborted = Aborted { producer: r.i64()?, first_offset: r.i64()? };
            r.tags()?;
            Ok(aborted)
        })?;
        let other_replica = reader.i32()? != -1;
        let records = reader.nullable_bytes()?.unwrap_or_default();
        reader.tags()?;
        Ok(Self { code, high_watermark, last_stable, aborted, other_replica, records })
    }
}

/// Asks for one key of a topic's configuration.
pub(crate) fn describe_topic_request(topic: &str, key: &str) -> Vec<u8> {
    let mut writer = Writer::new(false);
    writer.length(1);
    writer.i8(2); // a topic
    writer.string(topic);
    writer.length(1);
    writer.string(key);
    writer.bool(false);
    writer.into_bytes()
}

/// The first value, with the code.
pub(crate) fn describe_topic_response(reader: &mut Reader<'_>) -> Decoded<(Code, Option<String>)> {
    reader.i32()?; // throttle time
    let results = reader.array(|r| {
        let code = Code(r.i16()?);
        r.nullable_string()?;
        r.i8()?;
        r.string()?;
        let values = r.array(|r| {
            r.string()?;
            let value = r.nullable_string()?.map(str::to_string);
            r.take(3)?; // read-only, source, sensitive
            r.array(|r| {
                r.string()?;
                r.nullable_string()?;
                r.i8()
            })?;
            Ok(value)
        })?;
        Ok((code, values.into_iter().next().flatten()))
    })?;
    Ok(results.into_iter().next().unwrap_or((Code::NONE, None)))
}

pub(crate) fn sasl_handshake_request(mechanism: &str) -> Vec<u8> {
    let mut writer = Writer::new(false);
    writer.string(mechanism);
    writer.into_bytes()
}

/// The code, and which mechanisms the broker has.
pub(crate) fn sasl_handshake_response(reader: &mut Reader<'_>) -> Decoded<(Code, Vec<String>)> {
    Ok((Code(reader.i16()?), reader.array(|r| Ok(r.string()?.to_string()))?))
}

pub(crate) fn sasl_authenticate_request(bytes: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(false);
    writer.nullable_bytes(bytes);
    writer.into_bytes()
}

pub(crate) fn sasl_authenticate_response<'a>(reader: &mut Reader<'a>) -> Decoded<(Code, &'a [u8])> {
    let code = Code(reader.i16()?);
    reader.nullable_string()?; // a message: it may quote what we sent
    Ok((code, reader.nullable_bytes()?.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_form_that_a_broker_speaks_is_taken() {
        let old = Versions(vec![(1, 0..=11), (2, 0..=5), (3, 0..=8)]);
        assert_eq!((old.metadata(), old.fetch(true)), (Some(METADATA_OLD), Some(FETCH_OLD)));
        let new = Versions(vec![(1, 4..=18), (2, 1..=10), (3, 0..=13)]);
        assert_eq!((new.metadata(), new.list_offsets()), (Some(METADATA), Some(LIST_OFFSETS)));
        assert_eq!((new.fetch(true), new.fetch(false)), (Some(FETCH), Some(FETCH_OLD)));
        let ancient = Versions(vec![(1, 0..=3)]);
        assert_eq!((ancient.fetch(true), ancient.metadata()), (None, None));
    }

    #[test]
    fn a_cut_answer_is_an_error_and_no_panic() {
        let mut writer = Writer::new(true);
        writer.i32(0);
        writer.i16(0);
        writer.i32(0);
        writer.length(1);
        writer.raw(&[7; 16]);
        writer.length(1);
        writer.i32(3);
        writer.i16(0);
        (0..3).for_each(|offset| writer.i64(offset));
        writer.length(1);
        writer.i64(9);
        writer.i64(1);
        writer.tags();
        writer.i32(-1);
        writer.nullable_bytes(b"batches");
        writer.tags();
        writer.tags();
        writer.tags();
        let bytes = writer.into_bytes();
        let (throttle, code, fetched) = fetch_response(&mut Reader::new(&bytes, true), FETCH).unwrap();
        let fetched = fetched.unwrap();
        assert_eq!((throttle, code, fetched.last_stable, fetched.records), (0, Code::NONE, 1, &b"batches"[..]));
        assert_eq!(fetched.aborted, [Aborted { producer: 9, first_offset: 1 }]);
        // The last byte ends the whole answer, which nothing is read of.
        for end in 0..bytes.len() - 1 {
            assert!(fetch_response(&mut Reader::new(&bytes[..end], true), FETCH).is_err(), "{end}");
        }
    }
}
