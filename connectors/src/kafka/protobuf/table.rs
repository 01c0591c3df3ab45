//! A message as columns.
//!
//! | Protobuf | Arrow |
//! |---|---|
//! | bool, int32 …, int64 …, uint32, fixed32, uint64, fixed64 | Boolean, Int32, Int64, UInt32, UInt64 |
//! | float, double, string, bytes | Float32, Float64, Utf8, Binary |
//! | enum | Utf8: the name, or the number where there is none |
//! | repeated, map, message | List, Map, Struct |
//! | google.protobuf.Timestamp | Timestamp(µs, "+00:00"): further digits are cut off |
//! | google.protobuf.Duration | Interval(MonthDayNano), its nanoseconds |
//! | google.protobuf.…Value | what is in it |
//! | google.protobuf.Struct, Value, ListValue | Utf8: JSON |

use arrow::datatypes::{DataType, IntervalUnit};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::super::datum::{DEEPEST, Datum};
use super::super::nested::{list_of, map_of, struct_of};
use super::super::registry::{Definition, Refused, column_name};
use super::super::types::FieldType;
use super::convert::scalar;
use super::messages::Messages;

/// So many places may a table's message have, all messages of messages counted.
const MOST_PLACES: usize = 20_000;

/// A message, and the columns that it makes.
#[derive(Debug)]
pub(crate) struct ProtobufTable {
    /// The full name of the message.
    pub message: String,
    pub columns: Vec<(String, DataType)>,
    /// In the order of the columns.
    pub members: Vec<Member>,
}

/// A field of a message that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub number: u32,
    pub shape: Shape,
    /// What it is where it was not written.
    pub absent: Datum<'static>,
}

/// What a field becomes.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Scalar(Scalar),
    Enum(EnumDescriptor),
    List(Box<Shape>),
    Map(Box<Shape>, Box<Shape>),
    Message(Vec<Member>),
    Timestamp,
    Duration,
    /// A message around one scalar.
    Wrapped(Scalar),
    /// JSON as messages.
    Json,
}

/// A simple value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Boolean,
    I32,
    I64,
    U32,
    U64,
    Float,
    Double,
    Text,
    Bytes,
}

impl ProtobufTable {
    /// The columns of a message: that which the definition names, or the first of its schema.
    ///
    /// Errors: what cannot be a column, by its name.
    pub fn new(definition: &Definition) -> Result<Self, Refused> {
        let messages = Messages::new(definition)?;
        let found = match &definition.message {
            Some(name) => messages.named(name).ok_or_else(|| Refused(format!("it has no message {name}")))?,
            None => messages.at(&[0]).ok_or_else(|| Refused("it has no message".to_string()))?,
        };
        let mut shown = Shown { open: vec![found.full_name().to_string()], places: 0 };
        let mut members = Vec::new();
        let mut columns = Vec::new();
        for field in found.fields() {
            let member = shown.member(&field, field.name())?;
            columns.push((column_name(field.name()), member.shape.arrow(&field)));
            members.push(member);
        }
        Ok(Self { message: found.full_name().to_string(), columns, members })
    }
}

struct Shown {
    /// The messages that we are in.
    open: Vec<String>,
    places: usize,
}

impl Shown {
    fn member(&mut self, field: &FieldDescriptor, place: &str) -> Result<Member, Refused> {
        self.places += 1;
        if self.places > MOST_PLACES {
            return Err(Refused(format!("it has more than {MOST_PLACES} places")));
        }
        let shape = match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let [key, value] = [entry.map_entry_key_field(), entry.map_entry_value_field()];
                Shape::Map(Box::new(self.shape(&key.kind(), place)?), Box::new(self.shape(&value.kind(), place)?))
            }
            kind if field.is_list() => Shape::List(Box::new(self.shape(&kind, place)?)),
            kind => self.shape(&kind, place)?,
        };
        let absent = absent(field, &shape);
        Ok(Member { number: field.number(), shape, absent })
    }

    fn shape(&mut self, kind: &Kind, place: &str) -> Result<Shape, Refused> {
        Ok(match kind {
            Kind::Enum(of) => Shape::Enum(of.clone()),
            Kind::Message(message) => self.message(message, place)?,
            kind => Shape::Scalar(Scalar::of(kind).ok_or_else(|| Refused(format!("{place} has no type")))?),
        })
    }

    fn message(&mut self, message: &MessageDescriptor, place: &str) -> Result<Shape, Refused> {
        let name = message.full_name();
        match name.strip_prefix("google.protobuf.") {
            Some("Timestamp") => return Ok(Shape::Timestamp),
            Some("Duration") => return Ok(Shape::Duration),
            Some("Struct" | "Value" | "ListValue") => return Ok(Shape::Json),
            Some(
                "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
                | "BoolValue" | "StringValue" | "BytesValue",
            ) => {
                let inside = message.get_field(1).and_then(|field| Scalar::of(&field.kind()));
                return inside.map(Shape::Wrapped).ok_or_else(|| Refused(format!("{place} wraps nothing")));
            }
            _ => {}
        }
        if self.open.iter().any(|open| open == name) {
            return Err(Refused(format!("{place} is a {name} within a {name}: no column has such a type")));
        }
        if self.open.len() > DEEPEST {
            return Err(Refused("it is too deep".to_string()));
        }
        self.open.push(name.to_string());
        let mut members = Vec::new();
        for field in message.fields() {
            members.push(self.member(&field, &format!("{place}.{}", field.name()))?);
        }
        self.open.pop();
        Ok(Shape::Message(members))
    }
}

/// What a field is that was not written: empty where there is always something, the default that proto2 declares, else NULL.
fn absent(field: &FieldDescriptor, shape: &Shape) -> Datum<'static> {
    let declared = field.field_descriptor_proto().default_value.is_some();
    match shape {
        Shape::List(_) => Datum::List(Vec::new()),
        Shape::Map(..) => Datum::Map(Vec::new()),
        _ if field.supports_presence() && !declared => Datum::Null,
        Shape::Scalar(to) => scalar(&field.default_value(), *to).unwrap_or(Datum::Null),
        Shape::Enum(of) => match field.default_value() {
            Value::EnumNumber(number) => {
                let name = of.get_value(number).map(|value| value.name().to_string());
                Datum::Text(name.unwrap_or_else(|| number.to_string()).into())
            }
            _ => Datum::Null,
        },
        _ => Datum::Null,
    }
}

impl Scalar {
    fn of(kind: &Kind) -> Option<Self> {
        Some(match kind {
            Kind::Bool => Self::Boolean,
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Self::I32,
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Self::I64,
            Kind::Uint32 | Kind::Fixed32 => Self::U32,
            Kind::Uint64 | Kind::Fixed64 => Self::U64,
            Kind::Float => Self::Float,
            Kind::Double => Self::Double,
            Kind::String => Self::Text,
            Kind::Bytes => Self::Bytes,
            Kind::Message(_) | Kind::Enum(_) => return None,
        })
    }

    fn arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::I32 => DataType::Int32,
            Self::I64 => DataType::Int64,
            Self::U32 => DataType::UInt32,
            Self::U64 => DataType::UInt64,
            Self::Float => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::Bytes => DataType::Binary,
        }
    }
}

impl Shape {
    /// The Arrow type of a field of this shape.
    fn arrow(&self, field: &FieldDescriptor) -> DataType {
        match (self, field.kind()) {
            (Self::Map(key, value), Kind::Message(entry)) => {
                let [of_key, of_value] = [entry.map_entry_key_field(), entry.map_entry_value_field()];
                map_of(key.arrow(&of_key), value.arrow(&of_value))
            }
            (Self::List(items), _) => list_of(items.arrow(field)),
            (Self::Message(members), Kind::Message(message)) => {
                let parts = members.iter().zip(message.fields());
                struct_of(parts.map(|(member, field)| (field.name().to_string(), member.shape.arrow(&field))))
            }
            (Self::Scalar(scalar) | Self::Wrapped(scalar), _) => scalar.arrow(),
            (Self::Timestamp, _) => FieldType::Timestamptz.arrow(),
            (Self::Duration, _) => DataType::Interval(IntervalUnit::MonthDayNano),
            (Self::Enum(_) | Self::Json | Self::Map(..) | Self::Message(_), _) => DataType::Utf8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn table(body: &str) -> Result<ProtobufTable, Refused> {
        let text = format!("syntax = \"proto3\"; package p; {body}");
        ProtobufTable::new(&Definition { text, ..Definition::default() })
    }

    #[test]
    fn fields_are_columns() {
        let made = table(
            "import \"google/protobuf/wrappers.proto\"; message M { uint64 big = 1; optional int32 maybe = 2; \
             oneof one { string a = 3; bytes _key = 4; } repeated In list = 5; map<uint32, In> by = 6; \
             google.protobuf.Int32Value wrapped = 7; enum E { Z = 0; } E e = 8; message In { repeated bool x = 1; } }",
        )
        .unwrap();
        let inside = struct_of([("x".to_string(), list_of(DataType::Boolean))]);
        let expected = [
            ("big", DataType::UInt64),
            ("maybe", DataType::Int32),
            ("a", DataType::Utf8),
            ("_value_key", DataType::Binary),
            ("list", list_of(inside.clone())),
            ("by", map_of(DataType::UInt32, inside)),
            ("wrapped", DataType::Int32),
            ("e", DataType::Utf8),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(name, kind)| (name.to_string(), kind)).collect();
        assert_eq!(made.columns, expected);
        let absent: Vec<_> = made.members.iter().map(|member| member.absent.clone()).collect();
        let (list, map) = (Datum::List(Vec::new()), Datum::Map(Vec::new()));
        let zero = Datum::Text("Z".into());
        assert_eq!(absent, [Datum::Unsigned(0), Datum::Null, Datum::Null, Datum::Null, list, map, Datum::Null, zero]);
    }

    #[test]
    fn what_cannot_be_a_column_is_refused_by_name() {
        for (body, word) in [
            ("message M { M next = 1; }", "next is a p.M within a p.M"),
            ("message M { In a = 1; message In { map<string, In> b = 1; } }", "a.b is a p.M.In within"),
            ("enum E { Z = 0; }", "no message"),
        ] {
            assert!(table(body).unwrap_err().0.contains(word), "{:?}", table(body).map(|table| table.columns));
        }
    }
}
