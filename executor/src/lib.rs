//! The executor: a stateless worker that runs tasks and serves their output to its peers. It can be killed at any moment.
//!
//! Ballista's executor runs the tasks; what stands around it is ours: the task server ([`TaskService`]), the queue and its
//! cancel tokens, the outbox of statuses, the exchange in memory ([`exchange`]), the guard before the Flight service, memory,
//! health and drain. `docs/exchange.md` describes the protocol and what happens when something fails.
//!
//! [`TaskService`]: grpc::TaskService

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod clients;
mod directories;
mod ending;
mod exchange;
mod failure;
mod flight;
mod grpc;
mod health;
mod launch;
mod memory;
mod metrics;
mod outbox;
mod prepare;
mod registry;
mod report;
mod runner;
mod server;
mod wrap;

pub use server::{Executor, ExecutorHandle};
