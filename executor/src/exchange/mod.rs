//! The output of tasks, in memory as long as it fits and in files beyond that (architecture D4).
//!
//! A task's output is wholly in the one or wholly in the other. In memory ([`OutputMemory`]) it is batches, cut by partition:
//! a task of the same executor reads them as they are ([`ExchangeReaderExec`]), a peer gets them encoded on the way out
//! ([`serve`]). What does not fit goes through Ballista's writer into Ballista's files ([`ExchangeStage`]), which Ballista's
//! reader and Flight service know. `docs/exchange.md` has the rules and what happens when something fails.

mod engine;
mod memory;
mod outputs;
mod reader;
mod replay;
pub(crate) mod serve;
mod split;
mod stage;
#[cfg(test)]
mod tests;

pub(crate) use engine::ExchangeEngine;
pub(crate) use memory::{OutputMemory, TaskOutput};
pub(crate) use outputs::Outputs;
pub(crate) use reader::ExchangeReaderExec;
pub(crate) use replay::Replays;
