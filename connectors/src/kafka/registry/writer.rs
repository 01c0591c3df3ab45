//! The schema that a value was written with.

use std::sync::Arc;

use super::super::avro::Schema;
use super::super::protobuf::Messages;
use super::Definition;

/// A schema as it is kept by its id.
#[derive(Debug)]
pub(crate) enum Writer {
    Avro(Arc<Schema>),
    Protobuf(Arc<Messages>),
    /// Of another format, or one that is not read.
    Other,
}

impl Writer {
    /// The schema of a definition; `kind` is what the registry calls its type.
    pub fn new(kind: &str, definition: &Definition) -> Self {
        match kind {
            "AVRO" => {
                let references = definition.references.iter().map(|reference| reference.text.as_str());
                Schema::parse(&definition.text, references).map_or(Self::Other, |schema| Self::Avro(Arc::new(schema)))
            }
            "PROTOBUF" => Messages::new(definition).map_or(Self::Other, |messages| Self::Protobuf(Arc::new(messages))),
            _ => Self::Other,
        }
    }
}
