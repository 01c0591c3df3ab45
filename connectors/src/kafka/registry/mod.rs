//! A schema registry with Confluent's API, and the frame that it puts around values: a zero byte, the id of a schema in four
//! bytes, and for Protobuf which message of that schema it is.
//!
//! Two schemas have to do with a value. The newest of the table's subject says what the columns are: the coordinator asks for it,
//! and it travels in the recipe. The one that the value names says what was written: whoever reads asks for it, once.

mod client;
mod decoder;
mod table;
mod writer;

use townlake_common::config::{KAFKA_COLUMNS, KafkaFormat};
use townlake_proto::kafka as wire;

pub(crate) use self::client::Registry;
pub(crate) use self::decoder::ValueDecoder;
pub(crate) use self::table::{Refused, ValueTable};
pub(crate) use self::writer::Writer;
use super::datum::Unsound;

/// A schema with all that it refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Definition {
    pub text: String,
    /// What refers to nothing first.
    pub references: Vec<Reference>,
    /// Of Protobuf: the full name of the message; none: the schema's first.
    pub message: Option<String>,
}

/// A schema that another one refers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Reference {
    /// For Protobuf the name that imports have.
    pub name: String,
    pub text: String,
}

impl Definition {
    /// The definition on the wire.
    pub fn to_wire(&self) -> wire::RegisteredSchema {
        let reference = |it: &Reference| wire::Reference { name: it.name.clone(), text: it.text.clone() };
        wire::RegisteredSchema {
            text: self.text.clone(),
            references: self.references.iter().map(reference).collect(),
            message: self.message.clone().unwrap_or_default(),
        }
    }

    /// The definition that [`Definition::to_wire`] wrote.
    pub fn from_wire(wire: wire::RegisteredSchema) -> Self {
        let reference = |it: wire::Reference| Reference { name: it.name, text: it.text };
        Self {
            text: wire.text,
            references: wire.references.into_iter().map(reference).collect(),
            message: Some(wire.message).filter(|message| !message.is_empty()),
        }
    }
}

/// Takes the frame off a value: the id of its schema, and what is behind it.
pub(crate) fn unframed(value: &[u8]) -> Result<(u32, &[u8]), Unsound> {
    let (frame, rest) = value.split_first_chunk::<5>().ok_or(Unsound::Frame)?;
    let [0, id @ ..] = *frame else { return Err(Unsound::Frame) };
    Ok((u32::from_be_bytes(id), rest))
}

/// The name of a column for what a schema calls so: another one where every table has a column of this name.
pub(crate) fn column_name(name: &str) -> String {
    if KAFKA_COLUMNS.contains(&name) { format!("_value{name}") } else { name.to_string() }
}

/// What the registry calls a format.
fn schema_type(format: KafkaFormat) -> &'static str {
    if format == KafkaFormat::Protobuf { "PROTOBUF" } else { "AVRO" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_off() {
        assert_eq!(unframed(&[0, 0, 0, 1, 2, 9, 8]), Ok((258, &[9, 8][..])));
        assert_eq!(unframed(&[0, 0xff, 0xff, 0xff, 0xff]), Ok((u32::MAX, &[][..])));
        for wrong in [&[][..], &[0], &[0, 0, 0, 1], &[1, 0, 0, 0, 1, 5], b"{\"a\": 1}"] {
            assert_eq!(unframed(wrong), Err(Unsound::Frame), "{wrong:?}");
        }
    }

    #[test]
    fn definitions_cross_the_wire() {
        let references = vec![Reference { name: "a.proto".into(), text: "x".into() }];
        for message in [None, Some("p.M".to_string())] {
            let definition = Definition { text: "t".into(), references: references.clone(), message };
            assert_eq!(Definition::from_wire(definition.to_wire()), definition);
        }
    }
}
