//! End to end: every test of the cluster and of the real servers, in one binary.

mod access;
mod chaos;
mod membership;
mod postgres;
mod slt;
mod tpch;
