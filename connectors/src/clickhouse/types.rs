//! Which ClickHouse types we read natively, and as which Arrow types.
//!
//! Every column is cast in the SELECT list to a plain type that every version sends the same way in every format ([`Wire`]),
//! and made into its Arrow type here ([`super::values`]). For most types the cast does nothing; should the column have changed
//! its type since it was looked up, the server converts or refuses, and bytes are never misread.
//!
//! | ClickHouse | sent as | Arrow |
//! |---|---|---|
//! | (U)Int8 … (U)Int64, Float32, Float64 | itself | the same |
//! | BFloat16 | Float32 | Float32 |
//! | Bool | UInt8 | Boolean |
//! | (U)Int128, (U)Int256 | String | Decimal256(39, 0), Decimal256(76, 0) |
//! | Decimal(p, s) | itself | Decimal128 up to 38 digits, Decimal256 up to 76 |
//! | String | itself | Utf8 |
//! | FixedString(n) | itself | Binary |
//! | Enum8, Enum16 | Int8, Int16 | Utf8: the labels |
//! | UUID, IPv4, IPv6 | String | Utf8 |
//! | Date, Date32 | UInt16, Int32 | Date32 |
//! | DateTime | UInt32 | Timestamp(µs, "+00:00") |
//! | DateTime64(p) | Decimal(18, p) | Timestamp(µs, "+00:00") up to six digits of a second, else in ns |
//! | Array, Map, Tuple, Nested of these | the same of what these are sent as | List, Map, Struct |
//! | LowCardinality(T), SimpleAggregateFunction(f, T) | as T | as T |
//! | Nullable(T) | Nullable of it | nullable |
//! | AggregateFunction | String | Utf8: the hexadecimal digits of the state |
//! | everything else (JSON, Variant, Dynamic, Time, intervals) | Nullable(String) by toString | Utf8 |

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use super::parse::Parser;
use super::wire::{Layout, Wire};

/// A type that is read, and whether it has NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Type {
    pub kind: Kind,
    pub nullable: bool,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    /// A number that Arrow has too.
    Number(Number),
    /// An integer of 128 or 256 bits.
    Wide(Wide),
    Decimal {
        precision: u8,
        scale: i8,
    },
    String,
    /// Of so many bytes.
    FixedString(i32),
    Enum(Labels),
    Uuid,
    /// IPv4 or IPv6.
    Ip,
    Date,
    Date32,
    DateTime,
    /// With so many digits of a second.
    DateTime64(u8),
    Array(Box<Type>),
    Map(Box<Type>, Box<Type>),
    /// Elements with their names; where they have none, their position from 1.
    Tuple(Vec<(String, Type)>),
    /// The state of an aggregate function: opaque bytes.
    State,
    /// Whatever else: the server's text.
    Other,
}

/// A number that Arrow has too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
}

/// An integer that Arrow does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wide {
    Int128,
    UInt128,
    Int256,
    UInt256,
}

/// The labels of an enum by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels {
    /// Whether the numbers have 16 bits rather than 8.
    pub wide: bool,
    /// Sorted by number.
    pub labels: Vec<(i16, String)>,
}

impl Labels {
    /// The label of a number.
    pub fn label(&self, number: i16) -> Option<&str> {
        let found = self.labels.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.labels.get(found).map(|(_, label)| label.as_str())
    }

    /// Whether there is such a label.
    pub fn has(&self, label: &str) -> bool {
        self.labels.iter().any(|(_, own)| own == label)
    }
}

/// The type of a declaration; what is not known, alone or inside another, is [`Kind::Other`] as a whole.
pub(crate) fn classify(declared: &str) -> Type {
    Parser::parse(declared).unwrap_or(Type { kind: Kind::Other, nullable: true })
}

impl Type {
    /// A type without NULL.
    pub fn plain(kind: Kind) -> Self {
        Self { kind, nullable: false }
    }

    /// What to tell about a column that is not read as its declaration suggests.
    pub fn note(&self, declared: &str) -> Option<String> {
        let head = declared.split('(').next().unwrap_or(declared);
        Some(match &self.kind {
            Kind::Other => format!("read as text: type {head} is not known to the engine"),
            Kind::State => "an aggregation state, read as the hexadecimal digits of its bytes".to_string(),
            Kind::FixedString(_) => "read as bytes, with the zero bytes that fill it".to_string(),
            Kind::Ip => "read as text".to_string(),
            Kind::Wide(Wide::Int256 | Wide::UInt256) => "read as decimal; 77 digits are an error".to_string(),
            Kind::Wide(_) => "read as decimal".to_string(),
            Kind::DateTime | Kind::DateTime64(_) if declared.contains('\'') => "an instant, read in UTC".to_string(),
            _ => return None,
        })
    }

    /// The Arrow type of the values.
    pub fn arrow(&self) -> DataType {
        let utc = || Some("+00:00".into());
        match &self.kind {
            Kind::Bool => DataType::Boolean,
            Kind::Number(number) => number.arrow(),
            Kind::Wide(wide) => DataType::Decimal256(wide.digits(), 0),
            Kind::Decimal { precision, scale } => decimal(*precision, *scale),
            Kind::String | Kind::Enum(_) | Kind::Uuid | Kind::Ip | Kind::State | Kind::Other => DataType::Utf8,
            Kind::FixedString(_) => DataType::Binary,
            Kind::Date | Kind::Date32 => DataType::Date32,
            Kind::DateTime => DataType::Timestamp(TimeUnit::Microsecond, utc()),
            Kind::DateTime64(digits) if *digits <= 6 => DataType::Timestamp(TimeUnit::Microsecond, utc()),
            Kind::DateTime64(_) => DataType::Timestamp(TimeUnit::Nanosecond, utc()),
            Kind::Array(element) => DataType::List(Arc::new(element.field("item"))),
            Kind::Map(key, value) => {
                let entry = Fields::from(vec![key.field("key"), value.field("value")]);
                DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false)
            }
            Kind::Tuple(elements) => {
                DataType::Struct(elements.iter().map(|(name, element)| element.field(name)).collect())
            }
        }
    }

    /// The Arrow field of a value of this type.
    pub fn field(&self, name: &str) -> Field {
        Field::new(name, self.arrow(), self.nullable)
    }

    /// What the server is asked to send in its place.
    pub fn wire(&self) -> Wire {
        let fixed = |sql: String, width, arrow| Layout::Fixed { sql, width, arrow };
        let layout = match &self.kind {
            Kind::Bool => Number::UInt8.wire(),
            Kind::Number(number) => number.wire(),
            Kind::Decimal { precision, scale } => {
                let width = match precision {
                    ..=9 => 4,
                    10..=18 => 8,
                    19..=38 => 16,
                    _ => 32,
                };
                fixed(format!("Decimal({precision}, {scale})"), width, decimal(*precision, *scale))
            }
            Kind::FixedString(size) => {
                let width = usize::try_from(*size).unwrap_or_default();
                fixed(format!("FixedString({size})"), width, DataType::FixedSizeBinary(*size))
            }
            Kind::String | Kind::Uuid | Kind::Ip | Kind::Wide(_) | Kind::State | Kind::Other => Layout::Bytes,
            Kind::Enum(labels) if labels.wide => Number::Int16.wire(),
            Kind::Enum(_) => Number::Int8.wire(),
            Kind::Date => Number::UInt16.wire(),
            Kind::Date32 => Number::Int32.wire(),
            Kind::DateTime => Number::UInt32.wire(),
            Kind::DateTime64(digits) => {
                let arrow = DataType::Decimal128(18, i8::try_from(*digits).unwrap_or_default());
                fixed(format!("Decimal(18, {digits})"), 8, arrow)
            }
            Kind::Array(element) => Layout::List(Box::new(element.wire())),
            Kind::Map(key, value) => Layout::Map(Box::new((key.wire(), value.wire()))),
            Kind::Tuple(elements) => Layout::Tuple(elements.iter().map(|(_, element)| element.wire()).collect()),
        };
        Wire { layout, nullable: self.nullable }
    }
}

impl Number {
    /// The number of a ClickHouse type.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "Int8" => Self::Int8,
            "Int16" => Self::Int16,
            "Int32" => Self::Int32,
            "Int64" => Self::Int64,
            "UInt8" => Self::UInt8,
            "UInt16" => Self::UInt16,
            "UInt32" => Self::UInt32,
            "UInt64" => Self::UInt64,
            "Float32" | "BFloat16" => Self::Float32,
            "Float64" => Self::Float64,
            _ => return None,
        })
    }

    fn arrow(self) -> DataType {
        match self {
            Self::Int8 => DataType::Int8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::UInt8 => DataType::UInt8,
            Self::UInt16 => DataType::UInt16,
            Self::UInt32 => DataType::UInt32,
            Self::UInt64 => DataType::UInt64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
        }
    }

    /// Whether it is floating point.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Float32 | Self::Float64)
    }

    /// Whether it is a whole number with a sign.
    pub fn is_signed(self) -> bool {
        matches!(self, Self::Int8 | Self::Int16 | Self::Int32 | Self::Int64)
    }

    /// Whether it is a whole number without one.
    pub fn is_unsigned(self) -> bool {
        matches!(self, Self::UInt8 | Self::UInt16 | Self::UInt32 | Self::UInt64)
    }

    fn wire(self) -> Layout {
        let arrow = self.arrow();
        // The names are the same on both sides.
        Layout::Fixed { sql: arrow.to_string(), width: arrow.primitive_width().unwrap_or_default(), arrow }
    }
}

impl Wide {
    /// The integer of a ClickHouse type.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "Int128" => Self::Int128,
            "UInt128" => Self::UInt128,
            "Int256" => Self::Int256,
            "UInt256" => Self::UInt256,
            _ => return None,
        })
    }

    /// Digits of the decimal that it is read as.
    pub fn digits(self) -> u8 {
        match self {
            Self::Int128 | Self::UInt128 => 39,
            Self::Int256 | Self::UInt256 => 76,
        }
    }
}

fn decimal(precision: u8, scale: i8) -> DataType {
    if precision <= 38 { DataType::Decimal128(precision, scale) } else { DataType::Decimal256(precision, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_as_documented() {
        let cases = [
            ("UInt64", "UInt64", "UInt64"),
            ("Nullable(Int8)", "Nullable(Int8)", "Int8"),
            ("LowCardinality(Nullable(String))", "Nullable(String)", "Utf8"),
            ("BFloat16", "Float32", "Float32"),
            ("Bool", "UInt8", "Boolean"),
            ("Int256", "String", "Decimal256(76, 0)"),
            ("Nullable(UInt128)", "Nullable(String)", "Decimal256(39, 0)"),
            ("Decimal(9, 2)", "Decimal(9, 2)", "Decimal128(9, 2)"),
            ("Decimal(76, 10)", "Decimal(76, 10)", "Decimal256(76, 10)"),
            ("FixedString(16)", "FixedString(16)", "Binary"),
            ("Enum16('a' = -1000, 'b' = 5)", "Int16", "Utf8"),
            ("DateTime('Europe/Berlin')", "UInt32", "Timestamp(µs, \"+00:00\")"),
            ("DateTime64(9, 'UTC')", "Decimal(18, 9)", "Timestamp(ns, \"+00:00\")"),
            ("SimpleAggregateFunction(max, UInt64)", "UInt64", "UInt64"),
            ("AggregateFunction(sum, UInt64)", "String", "Utf8"),
            ("Variant(UInt8, String)", "Nullable(String)", "Utf8"),
            ("Array(Dynamic)", "Nullable(String)", "Utf8"),
            ("Nullable(Tuple(a UInt8))", "Nullable(String)", "Utf8"),
            ("Map(LowCardinality(String), Array(Nullable(Date)))", "Map(String, Array(Nullable(UInt16)))", ""),
            ("Array(Tuple(x Date, `y z` String))", "Array(Tuple(UInt16, String))", ""),
            ("Nested(a UInt8, b Enum8('x' = 1))", "Array(Tuple(UInt8, Int8))", ""),
            ("Point", "Tuple(Float64, Float64)", ""),
        ];
        for (declared, wire, arrow) in cases {
            let read = classify(declared);
            assert_eq!(read.wire().sql(), wire, "{declared}");
            if !arrow.is_empty() {
                assert_eq!(read.arrow().to_string(), arrow, "{declared}");
            }
        }
    }

    #[test]
    fn what_is_not_read_natively_says_so() {
        let note = |declared: &str| classify(declared).note(declared);
        assert_eq!(note("JSON(a UInt8)").as_deref(), Some("read as text: type JSON is not known to the engine"));
        assert!(note("AggregateFunction(sum, UInt64)").unwrap().contains("hexadecimal"));
        assert!(note("DateTime('Asia/Tokyo')").unwrap().contains("UTC"));
        assert_eq!(note("Nullable(UInt8)"), None);
    }
}
