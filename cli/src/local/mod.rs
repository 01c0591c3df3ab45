//! A whole cluster as processes of this machine: for the demo, the benchmark and the end-to-end tests.
//!
//! Everything listens on loopback, keeps its files in one folder and dies with its guard; and with this process, when that
//! is killed and no guard is left.

pub mod bigquery;
pub mod clickhouse;
mod cluster;
mod etcd;
pub mod kafka;
mod postgres;
mod process;

pub use bigquery::BigQueryEmulator;
pub use clickhouse::ClickHouse;
pub use cluster::{Cluster, ClusterSpec};
pub use etcd::Etcd;
pub use kafka::Kafka;
pub use postgres::Postgres;
pub use process::{Process, command, fetched, free_port, hurry, port_or_free, program_of, random_password};
