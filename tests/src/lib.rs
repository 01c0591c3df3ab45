//! What the end-to-end tests share: real servers and how to start them.

pub mod bed;
pub mod bigquery;
pub mod clickhouse;
pub mod kafka;
pub mod line;
pub mod pgbouncer;
pub mod postgres;
pub mod registry;
mod server;
pub mod town;
