//! Views: statements about them, and what a statement reads when it names one.
//!
//! A view is a query that an Iceberg catalog keeps. It is planned anew by each statement that names it, for whoever asks
//! (SECURITY INVOKER): nobody reads more through a view than without it.

mod bounds;
mod expand;
mod manage;
mod parse;
mod text;

pub(super) use self::expand::Found;
pub(super) use self::parse::parse_view_statement;
pub(crate) use self::text::visible_text;
