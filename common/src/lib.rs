//! What every crate of Town Lake shares: typed errors with stable codes ([`Error`], [`ErrorCode`]), the configuration
//! file ([`config`]), secrets that do not print ([`Secret`]), logs ([`telemetry`]), and who asks what ([`Principal`],
//! [`QueryContext`]).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod config;
mod cut;
mod error;
mod error_code;
pub mod fault;
mod identity;
mod names;
mod query;
mod secret;
pub mod telemetry;

pub use cut::{Cut, Pinned, Promise};
pub use error::{Error, Result};
pub use error_code::ErrorCode;
pub use identity::Principal;
pub use names::nearest;
pub use query::{QueryContext, QueryId};
pub use secret::Secret;
