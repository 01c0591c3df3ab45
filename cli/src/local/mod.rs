//! A whole cluster as processes of this machine: for the demo, the benchmark and the end-to-end tests.
//!
//! Everything listens on loopback, keeps its files in one folder and dies with its guard; and with this process, when that
//! is killed and no guard is left.

mod cluster;
mod etcd;
mod postgres;
mod process;

pub use cluster::{Cluster, ClusterSpec};
pub use etcd::Etcd;
pub use postgres::Postgres;
pub use process::{Process, free_port, hurry, port_or_free};
