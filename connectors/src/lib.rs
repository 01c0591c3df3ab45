//! The source SPI ([`Source`]) and one module a source. Today: Postgres, ClickHouse, Kafka, BigQuery, plain files.
//!
//! A connector plans on the coordinator and reads on the executors. Between the two travels a recipe ([`codec`]): it names
//! a catalog and says what to read, and never holds a connection, a URL or a credential. Each process makes its own
//! connections from its own configuration ([`SourceConnections`]).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod bigquery;
mod bounded;
mod breaker;
mod clickhouse;
pub mod codec;
mod connections;
pub mod dynamic_filters;
mod files;
mod filters;
mod full;
mod http;
mod json_members;
mod kafka;
mod nothing_pushed;
pub mod operation;
mod pass_through;
mod places;
mod postgres;
pub mod pushdown;
pub mod scan;
pub mod share;
mod spi;

pub use bounded::{Bounded, BudgetState};
pub use breaker::BreakerState;
pub use connections::{FindDefinition, Made, SourceConnections};
pub use nothing_pushed::NothingPushed;
pub use scan::SourceScanExec;
pub use spi::{
    COMMENT, ForeignKey, InsertInto, NOTE, SOURCE_TYPE, Source, SourceTable, TableKeys, TableKind, column_comment,
};
