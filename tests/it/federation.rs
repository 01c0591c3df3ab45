//! Queries across five systems through the door: Postgres, ClickHouse, Kafka, BigQuery's stand-in and Iceberg.

mod data;
mod pruned_files;
mod random_queries;
mod statements;
