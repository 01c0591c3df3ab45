//! What the values of a table are, as the newest schema of its subject has it.

use arrow::datatypes::DataType;
use townlake_common::config::KafkaFormat;

use super::super::avro::{AvroTable, Schema};
use super::super::protobuf::ProtobufTable;
use super::Definition;

/// Why a schema is none, or cannot be a table. It may quote names of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused(pub String);

/// A reader's schema and its columns.
#[derive(Debug)]
pub(crate) struct ValueTable {
    pub format: KafkaFormat,
    pub definition: Definition,
    pub(super) parsed: Parsed,
}

#[derive(Debug)]
pub(super) enum Parsed {
    Avro(AvroTable),
    Protobuf(ProtobufTable),
}

impl ValueTable {
    /// The table of a definition.
    pub fn new(format: KafkaFormat, definition: Definition) -> Result<Self, Refused> {
        let parsed = match format {
            KafkaFormat::Protobuf => Parsed::Protobuf(ProtobufTable::new(&definition)?),
            _ => {
                let references = definition.references.iter().map(|reference| reference.text.as_str());
                let schema = Schema::parse(&definition.text, references).map_err(|fault| Refused(fault.0))?;
                Parsed::Avro(AvroTable::new(schema).map_err(|fault| Refused(fault.0))?)
            }
        };
        let table = Self { format, definition, parsed };
        let mut names: Vec<_> = table.columns().iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(twice) => Err(Refused(format!("two columns would be called {}", twice.concat()))),
            None => Ok(table),
        }
    }

    /// The columns, each with its type.
    pub fn columns(&self) -> &[(String, DataType)] {
        match &self.parsed {
            Parsed::Avro(table) => &table.columns,
            Parsed::Protobuf(table) => &table.columns,
        }
    }
}

/// What they were made of says all.
impl PartialEq for ValueTable {
    fn eq(&self, other: &Self) -> bool {
        (self.format, &self.definition) == (other.format, &other.definition)
    }
}
