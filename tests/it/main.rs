//! End to end: every test of the cluster and of the real servers, in one binary.

mod access;
mod bad_days;
mod bigquery;
mod chaos;
mod clickhouse;
mod deep;
mod federation;
mod kafka;
mod load;
mod membership;
mod nodes;
mod postgres;
mod pushed;
mod random_conditions;
mod random_statements;
mod shell;
mod slt;
mod sources;
mod tpch;
