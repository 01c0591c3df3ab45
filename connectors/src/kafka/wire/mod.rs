//! Kafka's protocol, as much of it as bounded reading takes: which versions there are, what topics there are, offsets,
//! fetching, one configuration key, login.
//!
//! Shapes and versions are those of `clients/src/main/resources/common/message/*.json` in Apache Kafka. Versions are fixed
//! here rather than negotiated one by one: what brokers since 2.3 (2019) understand, and the newer form where topics have
//! ids. Everything that comes is decoded with bounds: a length is believed only as far as there are bytes.

pub(crate) mod buffer;
pub(crate) mod codes;
pub(crate) mod messages;
