//! Which Postgres types we read natively, as which Arrow types, and how a column is written in the SELECT list.
//!
//! Every column is cast explicitly to the type that we decode. For a natively read type the cast does nothing; should the
//! column have changed its type since it was looked up, the server converts or refuses, and bytes are never misread.
//!
//! | Postgres | Arrow |
//! |---|---|
//! | bool, int2, int4, int8, oid | Boolean, Int16, Int32, Int64, Int64 |
//! | float4, float8 | Float32, Float64 |
//! | numeric(p, s) | Decimal128 up to 38 digits, Decimal256 up to 76 |
//! | numeric without precision, or of more digits | Utf8: the only lossless choice |
//! | text, varchar, name, json, jsonb, enums | Utf8 |
//! | char(n) | Utf8 without the padding, as a cast to text in Postgres gives it |
//! | bytea | Binary |
//! | date, time | Date32, Time64(µs) |
//! | timestamp, timestamptz | Timestamp(µs), Timestamp(µs, "+00:00") |
//! | interval | Interval(MonthDayNano) |
//! | uuid | Utf8, lower case with hyphens |
//! | arrays of these, of one to six dimensions | List of List …, as deep as the column is declared |
//! | domains | as their base type |
//! | everything else (money, inet, ranges, composites, extensions' types) | Utf8: the server's text |
//!
//! Postgres does not hold an array to its declared dimensions: a value of others is refused when it is read ([`super::values`]).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use townlake_proto::postgres::{ColumnType as WireType, column_type::Scalar as WireScalar};

use super::sql::identifier;

/// A type that the decoder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// Arrow's precision and scale: what holds every value of the declared numeric.
    Numeric {
        precision: u8,
        scale: i8,
    },
    Text,
    Bytea,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
    Uuid,
}

/// The most dimensions of an array in Postgres.
pub(crate) const MOST_DIMENSIONS: u8 = 6;

/// A scalar, or an array of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ColumnType {
    pub scalar: Scalar,
    /// Of an array, as they are declared; 0: no array.
    pub dimensions: u8,
}

/// One column of a scan.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub name: String,
    pub column_type: ColumnType,
    pub nullable: bool,
    /// Of the Arrow field.
    pub metadata: HashMap<String, String>,
}

impl Column {
    /// The column as Arrow field.
    pub fn field(&self) -> Field {
        Field::new(&self.name, self.column_type.arrow(), self.nullable).with_metadata(self.metadata.clone())
    }

    /// The column in SQL, cast to what is decoded.
    pub fn expression(&self) -> String {
        format!("{}::{}", identifier(&self.name), self.column_type.sql())
    }
}

impl ColumnType {
    /// No array.
    pub fn of(scalar: Scalar) -> Self {
        Self { scalar, dimensions: 0 }
    }

    /// Whether it is an array.
    pub fn is_array(self) -> bool {
        self.dimensions > 0
    }

    /// The Arrow type of the values.
    pub fn arrow(self) -> DataType {
        let list = |of: DataType| DataType::List(Arc::new(Field::new_list_field(of, true)));
        (0..self.dimensions).fold(self.scalar.arrow(), |of, _| list(of))
    }

    /// The type's name in SQL.
    pub fn sql(self) -> String {
        // However many dimensions: to Postgres it is one type.
        let array = if self.is_array() { "[]" } else { "" };
        format!("{}{array}", self.scalar.sql())
    }

    /// The type on the wire.
    pub fn to_wire(self) -> WireType {
        let (scalar, precision, scale) = match self.scalar {
            Scalar::Bool => (WireScalar::Bool, 0, 0),
            Scalar::Int2 => (WireScalar::Int2, 0, 0),
            Scalar::Int4 => (WireScalar::Int4, 0, 0),
            Scalar::Int8 => (WireScalar::Int8, 0, 0),
            Scalar::Float4 => (WireScalar::Float4, 0, 0),
            Scalar::Float8 => (WireScalar::Float8, 0, 0),
            Scalar::Numeric { precision, scale } => (WireScalar::Numeric, precision.into(), scale.into()),
            Scalar::Text => (WireScalar::Text, 0, 0),
            Scalar::Bytea => (WireScalar::Bytea, 0, 0),
            Scalar::Date => (WireScalar::Date, 0, 0),
            Scalar::Time => (WireScalar::Time, 0, 0),
            Scalar::Timestamp => (WireScalar::Timestamp, 0, 0),
            Scalar::Timestamptz => (WireScalar::Timestamptz, 0, 0),
            Scalar::Interval => (WireScalar::Interval, 0, 0),
            Scalar::Uuid => (WireScalar::Uuid, 0, 0),
        };
        WireType { scalar: scalar.into(), precision, scale, dimensions: self.dimensions.into() }
    }

    /// The type that [`ColumnType::to_wire`] wrote; `None` for anything else.
    pub fn from_wire(wire: &WireType) -> Option<Self> {
        let scalar = match wire.scalar() {
            WireScalar::Unspecified => return None,
            WireScalar::Bool => Scalar::Bool,
            WireScalar::Int2 => Scalar::Int2,
            WireScalar::Int4 => Scalar::Int4,
            WireScalar::Int8 => Scalar::Int8,
            WireScalar::Float4 => Scalar::Float4,
            WireScalar::Float8 => Scalar::Float8,
            WireScalar::Numeric => {
                let (precision, scale) = (u8::try_from(wire.precision).ok()?, i8::try_from(wire.scale).ok()?);
                let sound = (1..=76).contains(&precision) && scale >= 0 && scale.unsigned_abs() <= precision;
                sound.then_some(Scalar::Numeric { precision, scale })?
            }
            WireScalar::Text => Scalar::Text,
            WireScalar::Bytea => Scalar::Bytea,
            WireScalar::Date => Scalar::Date,
            WireScalar::Time => Scalar::Time,
            WireScalar::Timestamp => Scalar::Timestamp,
            WireScalar::Timestamptz => Scalar::Timestamptz,
            WireScalar::Interval => Scalar::Interval,
            WireScalar::Uuid => Scalar::Uuid,
        };
        let dimensions = u8::try_from(wire.dimensions).ok().filter(|dimensions| *dimensions <= MOST_DIMENSIONS)?;
        Some(Self { scalar, dimensions })
    }
}

impl Scalar {
    /// The Arrow type of the values.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 => DataType::Int64,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Numeric { precision, scale } if precision <= 38 => DataType::Decimal128(precision, scale),
            Self::Numeric { precision, scale } => DataType::Decimal256(precision, scale),
            Self::Text | Self::Uuid => DataType::Utf8,
            Self::Bytea => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            Self::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
        }
    }

    /// The type's name in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int2 => "int2",
            Self::Int4 => "int4",
            Self::Int8 => "int8",
            Self::Float4 => "float4",
            Self::Float8 => "float8",
            Self::Numeric { .. } => "numeric",
            Self::Text => "text",
            Self::Bytea => "bytea",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::Timestamptz => "timestamptz",
            Self::Interval => "interval",
            Self::Uuid => "uuid",
        }
    }
}

/// The type behind a column's declared type: domains and arrays resolved by discovery.
#[derive(Debug)]
pub(crate) struct Resolved<'a> {
    /// The schema of the type.
    pub schema: &'a str,
    /// Its name in `pg_type`.
    pub name: &'a str,
    /// Whether it is an enum.
    pub is_enum: bool,
    /// Its modifier, −1 without one.
    pub modifier: i32,
}

/// How a type is read, and what to tell about it when that is not what its name says.
pub(crate) fn classify(resolved: &Resolved<'_>) -> (Scalar, Option<String>) {
    if resolved.is_enum {
        return (Scalar::Text, None);
    }
    let as_text = |why: &str| (Scalar::Text, Some(format!("read as text: {why}")));
    if resolved.schema != "pg_catalog" && resolved.name == "citext" {
        return as_text("here upper and lower case differ");
    }
    if resolved.schema != "pg_catalog" {
        return as_text(&format!("type {} is not known to the engine", resolved.name));
    }
    let scalar = match resolved.name {
        "bool" => Scalar::Bool,
        "int2" => Scalar::Int2,
        "int4" => Scalar::Int4,
        "int8" | "oid" => Scalar::Int8,
        "float4" => Scalar::Float4,
        "float8" => Scalar::Float8,
        "numeric" => match numeric(resolved.modifier) {
            Some(scalar) => scalar,
            None if resolved.modifier < 0 => {
                return as_text("this numeric declares no precision; cast it where it is used");
            }
            None => return as_text("this numeric has more than 76 digits"),
        },
        "text" | "varchar" | "name" | "json" | "jsonb" | "char" => Scalar::Text,
        "bpchar" => return (Scalar::Text, Some("read without the padding blanks".to_string())),
        "bytea" => Scalar::Bytea,
        "date" => Scalar::Date,
        "time" => Scalar::Time,
        "timestamp" => Scalar::Timestamp,
        "timestamptz" => Scalar::Timestamptz,
        "interval" => Scalar::Interval,
        "uuid" => Scalar::Uuid,
        // A domain over an array, in an array: int4's array is named _int4.
        other if other.starts_with('_') => return as_text("an array within an array"),
        other => return as_text(&format!("type {other} is not known to the engine")),
    };
    (scalar, None)
}

/// The decimal that holds every value of a declared numeric. A modifier packs precision and an 11-bit signed scale.
fn numeric(modifier: i32) -> Option<Scalar> {
    let packed = modifier.checked_sub(4).filter(|packed| *packed >= 0)?;
    let precision = (packed >> 16) & 0xffff;
    let scale = ((packed & 0x7ff) ^ 1024) - 1024;
    // numeric(3, -2) holds 5 digits before the point; numeric(2, 5) holds 0.000xx.
    let (precision, scale) = if scale < 0 { (precision - scale, 0) } else { (precision.max(scale), scale) };
    let precision = u8::try_from(precision).ok().filter(|p| (1..=76).contains(p))?;
    Some(Scalar::Numeric { precision, scale: i8::try_from(scale).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modifier(precision: i32, scale: i32) -> i32 {
        ((precision << 16) | (scale & 0x7ff)) + 4
    }

    #[test]
    fn declared_numerics_become_decimals_that_hold_them() {
        let decimal = |p, s| Some(Scalar::Numeric { precision: p, scale: s });
        assert_eq!(numeric(modifier(15, 2)), decimal(15, 2));
        assert_eq!(numeric(modifier(38, 38)), decimal(38, 38));
        assert_eq!(numeric(modifier(3, -2)), decimal(5, 0));
        assert_eq!(numeric(modifier(2, 5)), decimal(5, 5));
        assert_eq!(numeric(modifier(77, 0)), None);
        assert_eq!(numeric(-1), None);
    }

    #[test]
    fn types_cross_the_wire() {
        let scalars = [Scalar::Numeric { precision: 40, scale: 3 }, Scalar::Timestamptz, Scalar::Uuid, Scalar::Bool];
        for scalar in scalars {
            for dimensions in [0, 1, 6] {
                let column_type = ColumnType { scalar, dimensions };
                assert_eq!(ColumnType::from_wire(&column_type.to_wire()), Some(column_type));
            }
        }
        let mut hostile = ColumnType::of(scalars[0]).to_wire();
        hostile.precision = 200;
        assert_eq!(ColumnType::from_wire(&hostile), None);
        let mut deep = ColumnType::of(Scalar::Bool).to_wire();
        deep.dimensions = 7;
        assert_eq!(ColumnType::from_wire(&deep), None);
    }

    #[test]
    fn what_is_not_known_is_text_and_says_so() {
        let inet = Resolved { schema: "pg_catalog", name: "inet", is_enum: false, modifier: -1 };
        let (scalar, note) = classify(&inet);
        assert_eq!(scalar, Scalar::Text);
        assert!(note.unwrap().contains("inet"));
        // A user's own type that borrows a known name is not the known type.
        let fake = Resolved { schema: "public", name: "int4", is_enum: false, modifier: -1 };
        assert_eq!(classify(&fake).0, Scalar::Text);
    }
}
