//! The coordinator's durable state: SQLite for one node, Postgres for a cluster, one schema, migrations in the binary.
//!
//! It holds the audit log of queries ([`audit`](crate::QueryAudit)), the catalogs of `CREATE CATALOG`, and when scheduled maintenance of a table was begun. The log is append-only, which the database itself
//! enforces, and a query whose first row cannot be written does not run.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod audit;
mod catalogs;
mod maintenance;
mod open;
#[cfg(test)]
mod postgres_server;

pub use audit::{QueryAudit, QueryOutcome, QueryRecord, QueryState};
pub use open::Store;
