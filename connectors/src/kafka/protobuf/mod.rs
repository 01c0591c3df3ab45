//! Protobuf: the newest schema of a subject says what the columns are, the schema that a record names says what was written, and
//! fields of the one are those of the other by their numbers.
//!
//! protox compiles the text, prost-reflect decodes: it bounds depth, and believes no length before the bytes are there.

mod convert;
mod messages;
mod plan;
mod table;

pub(crate) use self::messages::Messages;
pub(crate) use self::plan::Plan;
pub(crate) use self::table::ProtobufTable;
