//! The coordinator: the public doors (Flight SQL, HTTP), sessions, planning, admission and scheduling. It owns no data.
//!
//! A call comes in by a door ([`flight`], [`http`]), is given its [`session`], is planned and run by [`query`], which asks
//! [`catalogs`] for names and [`scheduling`] for executors. `maintenance` calls procedures by the clock. [`Coordinator::start`] wires one of them from a configuration.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod catalogs;
mod coordinator;
pub mod flight;
pub mod http;
mod maintenance;
pub mod query;
pub mod scheduling;
pub mod session;
pub mod system;

pub use coordinator::{Coordinator, CoordinatorHandle};
