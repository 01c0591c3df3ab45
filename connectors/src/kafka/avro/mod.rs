//! Avro: the newest schema of a subject says what the columns are (the reader's schema), the schema that a record names says
//! what was written, and the record is resolved from the one to the other by Avro's rules.

mod decode;
mod defaults;
mod leaf;
mod resolve;
mod schema;
mod table;

pub(crate) use self::decode::{decode, zigzag};
pub(crate) use self::resolve::{Plan, plan};
pub(crate) use self::schema::Schema;
pub(crate) use self::table::AvroTable;
