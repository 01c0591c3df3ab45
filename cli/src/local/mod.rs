//! A whole cluster as processes of this machine: for the demo, the benchmark and the end-to-end tests.
//!
//! Everything listens on loopback, keeps its files in one folder and dies with its guard; and with this process, when that
//! is killed and no guard is left.

mod bigquery;
mod clickhouse;
mod cluster;
mod etcd;
mod kafka;
mod postgres;
mod process;

pub use bigquery::{BigQueryEmulator, PROJECT as BIGQUERY_PROJECT};
pub use clickhouse::ClickHouse;
pub use cluster::{Cluster, ClusterSpec};
pub use etcd::Etcd;
pub use kafka::Kafka;
pub use postgres::Postgres;
pub use process::{Process, fetched, free_port, hurry, port_or_free, program_of, random_password};
