//! `DELETE`, `UPDATE` and `MERGE`: which rows change is a query, and what it finds is written and committed once.
//!
//! Each statement becomes a SELECT over the table with [where its rows lie](townlake_lake::TargetTable): a row of it says
//! where the old state of a row is, and what the new one is. Executors write position delete files and data files from that.
//! Copy-on-write then writes the data files anew that have lost rows, so the query itself is evaluated once in either mode.

mod columns;
mod expressions;
mod merge;
mod one_side;
mod optimize;
mod overwrite;
mod run;
mod select;
mod statement;

pub(super) use self::optimize::{Optimization, SMALL_FILE_BYTES};
pub(super) use self::overwrite::{commit_overwrite, parse_truncate};
pub(super) use self::run::{Changed, PlannedChange, collect, commit};
pub(super) use self::select::TARGET;
pub use self::statement::ChangeStatement;
pub(super) use self::statement::parse_change;
