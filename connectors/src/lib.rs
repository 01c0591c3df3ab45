//! The source SPI ([`Source`]) and one module a source. Today: Postgres and Kafka.
//!
//! A connector plans on the coordinator and reads on the executors. Between the two travels a recipe ([`codec`]): it names
//! a catalog and says what to read, and never holds a connection, a URL or a credential. Each process makes its own
//! connections from its own configuration ([`SourceConnections`]).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod codec;
mod connections;
mod kafka;
mod postgres;
pub mod scan;
mod spi;

pub use connections::SourceConnections;
pub use scan::SourceScanExec;
pub use spi::{COMMENT, ForeignKey, NOTE, SOURCE_TYPE, Source, SourceTable, TableKeys, TableKind, column_comment};
