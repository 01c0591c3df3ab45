//! Statements: parsed, planned, run and watched.
//!
//! [`QueryService`] is what the doors talk to. A statement goes through `tokens`, `time_travel` and `parse` to a
//! [`Statement`], through `planner` to a logical plan over what its principal may read, through `placement` to the place
//! where it runs, and through `rows` back to the client. `write` makes tables and
//! rows, `changes` changes rows, `procedures` looks after tables, `views` is all about views, `show` and `explain` tell, and
//! [`Registry`] knows every query and leaves its audit rows.

mod again;
mod alter_table;
mod assign;
mod catalogs;
mod change_table;
mod changes;
mod create_table;
mod cut;
mod depth;
mod distinct_from;
mod equal_names;
mod exact_literals;
mod explain;
#[cfg(test)]
mod fuzz_tests;
mod here;
mod ingest;
mod insert_target;
mod many_rows;
mod memory;
mod new_table;
mod parameters;
mod parse;
mod pass_through;
mod placement;
mod planner;
mod procedures;
mod references;
mod registry;
mod relation;
mod rows;
mod service;
pub mod settings;
mod show;
mod source_insert;
mod statement;
mod struct_fields;
#[cfg(test)]
mod tests;
mod time_travel;
mod tokens;
mod views;
mod wire;
mod write;

pub use changes::ChangeStatement;
pub use ingest::{IngestMode, IngestTarget};
pub use parse::parse;
pub use procedures::CallArgument;
pub use registry::{QueryInfo, QueryState, Registry, Tracked};
pub use service::{Prepared, QueryService, Running};
pub use statement::{
    AlterTableStatement, Alteration, CreateTableStatement, CreateViewStatement, Name, NewColumn, Statement,
    StatementKind,
};
pub(crate) use views::visible_text;
