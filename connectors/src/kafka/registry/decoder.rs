//! Values into decoded columns, each by the schema that it names.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::avro::{self, Plan, Schema};
use super::super::datum::{Datum, Unsound};
use super::super::protobuf;
use super::table::Parsed;
use super::writer::Writer;
use super::{ValueTable, unframed};

/// Decodes some columns of a table's values.
pub(crate) struct ValueDecoder {
    table: Arc<ValueTable>,
    /// By their number among the table's, in the order in which they are decoded.
    wanted: Vec<usize>,
    /// Schemas by id, as far as one has asked.
    known: HashMap<u32, Known>,
}

/// What is known of a schema.
enum Known {
    Avro(Arc<Schema>, Plan),
    Protobuf(protobuf::Plan),
    Not(Unsound),
}

impl ValueDecoder {
    /// A decoder of these columns of a table.
    pub fn new(table: Arc<ValueTable>, wanted: Vec<usize>) -> Self {
        Self { table, wanted, known: HashMap::new() }
    }

    /// The schema that must be learned before this value is decoded, if there is one.
    pub fn missing(&self, value: &[u8]) -> Option<u32> {
        let (id, _) = unframed(value).ok()?;
        (!self.known.contains_key(&id)).then_some(id)
    }

    /// How many schemas there were not.
    pub fn unknown(&self) -> usize {
        self.known.values().filter(|known| matches!(known, Known::Not(Unsound::UnknownSchema(_)))).count()
    }

    /// Learns what the schema of an id is; `None`: the registry has none.
    pub fn learn(&mut self, id: u32, writer: Option<&Writer>) {
        let known = match (writer, &self.table.parsed) {
            (None, _) => Known::Not(Unsound::UnknownSchema(id)),
            (Some(Writer::Avro(schema)), Parsed::Avro(table)) => {
                Known::Avro(Arc::clone(schema), avro::plan(schema, &table.schema, &self.wanted))
            }
            (Some(Writer::Protobuf(messages)), Parsed::Protobuf(table)) => {
                Known::Protobuf(protobuf::Plan::new(id, messages, table, &self.wanted))
            }
            (Some(_), _) => Known::Not(Unsound::UnusableSchema(id)),
        };
        self.known.insert(id, known);
    }

    /// The columns of a value; `None` for one that does not fit.
    pub fn decode<'a>(&'a self, value: &'a [u8]) -> Result<Vec<Option<Datum<'a>>>, Unsound> {
        let (id, body) = unframed(value)?;
        match (self.known.get(&id), &self.table.parsed) {
            (Some(Known::Avro(schema, plan)), Parsed::Avro(table)) => {
                avro::decode(plan, schema, body, self.wanted.len(), table.is_record())
            }
            (Some(Known::Protobuf(plan)), _) => plan.decode(body),
            (Some(Known::Not(unsound)), _) => Err(*unsound),
            _ => Err(Unsound::UnknownSchema(id)),
        }
    }
}
