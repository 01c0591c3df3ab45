//! The Flight SQL door.
//!
//! | part | does |
//! |---|---|
//! | [`Door`] | admits each call, then hands it to the service; the calls that arrow-flight's dispatcher does not know |
//! | [`admission`] | credentials and session of a call |
//! | `service` | the Flight SQL calls, each a few lines that point to the rest |
//! | `statements`, `pending`, [`tokens`] | what is kept between calls, and what clients hold of it |
//! | `results` | rows to frames |
//! | `put` | what clients send: updates, parameters, bulk data |
//! | `metadata`, `keys`, `sql_info` | catalogs, tables, keys, capabilities |
//! | `actions` | cancel, progress, session options |

mod actions;
pub mod admission;
pub mod credentials;
mod door;
mod keys;
mod metadata;
mod pending;
mod put;
mod results;
mod service;
mod session_actions;
mod sql_info;
mod statements;
pub mod tokens;
#[cfg(test)]
mod wire_tests;

pub use door::{Door, serve};
pub use service::FlightSql;

/// The largest message that a client may send, in bytes: a batch of bulk data.
pub const MAX_RECEIVED: usize = 64 << 20;

/// The action that tells how far a query is. Body: the query's id. Result: JSON.
pub const PROGRESS_ACTION: &str = "townlake.query_progress";
