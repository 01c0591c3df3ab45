//! What coordinator and executor share of DataFusion and Ballista: the plan codec, the session configuration, the runtime
//! environment, batches that are small enough to travel, and the way of an engine error back to a typed [`Error`].
//!
//! [`Error`]: townlake_common::Error

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod batches;
pub mod budget_metrics;
pub mod codec;
pub mod error;
mod filter_pushdown;
pub mod functions;
pub mod identifier;
pub mod interrupt;
pub mod joins;
pub mod network;
pub mod runtime;
pub mod semi_joins;
pub mod session;
mod sql_types;
pub mod standing;
pub mod subqueries;
mod text_as_time;
