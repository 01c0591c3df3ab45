//! End to end: every test of the cluster and of the real servers, in one binary.

mod chaos;
mod membership;
mod postgres;
mod slt;
mod access;
mod tpch;
