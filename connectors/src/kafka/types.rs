//! The columns of a topic: what Kafka says of each record, and what lies in its value.
//!
//! | column | Arrow |
//! |---|---|
//! | `_partition`, `_offset` | Int32, Int64 |
//! | `_timestamp` | Timestamp(µs, "+00:00"); Kafka has milliseconds |
//! | `_timestamp_type` | Utf8: `CreateTime` or `LogAppendTime` |
//! | `_key` | Binary |
//! | `_headers` | List of Struct { name Utf8, value Binary } |
//! | `_error` | Utf8; where values that do not decode are NULL: which columns of the row, or that all of the value |
//! | `_value` of the formats raw and text | Binary, Utf8 |
//!
//! Fields of JSON values have the types of [`FieldType`], members of Avro and Protobuf those that their schema says.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use townlake_proto::kafka::{Column as WireColumn, Step as WireStep, column::Source as WireSource, step};

/// The SQL type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldType {
    Boolean,
    Tinyint,
    Smallint,
    Integer,
    Bigint,
    Real,
    Double,
    /// Of at most 38 digits.
    Decimal {
        precision: u8,
        scale: i8,
    },
    Varchar,
    Varbinary,
    Date,
    Time,
    Timestamp,
    Timestamptz,
}

impl FieldType {
    /// The type of this name; `None` when there is none, or none that is read.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let (name, arguments) = match text.split_once('(') {
            Some((name, rest)) => {
                let (inside, after) = rest.split_once(')')?;
                let after = after.trim();
                // timestamp(6) with time zone: more than the name stands outside
                (format!("{} {after}", name.trim()).trim().to_string(), Some(inside.to_string()))
            }
            None => (text.split_whitespace().collect::<Vec<_>>().join(" "), None),
        };
        let field_type = match name.as_str() {
            "boolean" | "bool" => Self::Boolean,
            "tinyint" | "int1" => Self::Tinyint,
            "smallint" | "int2" => Self::Smallint,
            "integer" | "int" | "int4" => Self::Integer,
            "bigint" | "int8" | "long" => Self::Bigint,
            "real" | "float4" => Self::Real,
            "double" | "double precision" | "float8" | "float" => Self::Double,
            "decimal" | "numeric" => return decimal(arguments.as_deref()),
            "varchar" | "text" | "string" | "json" => Self::Varchar,
            "varbinary" | "binary" | "bytea" => Self::Varbinary,
            "date" => Self::Date,
            "time" => Self::Time,
            "timestamp" => Self::Timestamp,
            "timestamptz" | "timestamp with time zone" => Self::Timestamptz,
            _ => return None,
        };
        match arguments.as_deref().map(str::trim) {
            None => Some(field_type),
            // A length changes nothing of what is read; times have microseconds and not more.
            Some(length) => {
                let length: u32 = length.parse().ok()?;
                let is_time = matches!(field_type, Self::Time | Self::Timestamp | Self::Timestamptz);
                (matches!(field_type, Self::Varchar) || is_time && length <= 6).then_some(field_type)
            }
        }
    }

    /// Its name in SQL, which [`FieldType::parse`] takes.
    pub fn sql(self) -> String {
        let name = match self {
            Self::Boolean => "boolean",
            Self::Tinyint => "tinyint",
            Self::Smallint => "smallint",
            Self::Integer => "integer",
            Self::Bigint => "bigint",
            Self::Real => "real",
            Self::Double => "double",
            Self::Decimal { precision, scale } => return format!("decimal({precision}, {scale})"),
            Self::Varchar => "varchar",
            Self::Varbinary => "varbinary",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::Timestamptz => "timestamptz",
        };
        name.to_string()
    }

    /// The Arrow type of the values.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Tinyint => DataType::Int8,
            Self::Smallint => DataType::Int16,
            Self::Integer => DataType::Int32,
            Self::Bigint => DataType::Int64,
            Self::Real => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
            Self::Varchar => DataType::Utf8,
            Self::Varbinary => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        }
    }
}

/// The time zone of instants.
pub(crate) const UTC: &str = "+00:00";

fn decimal(arguments: Option<&str>) -> Option<FieldType> {
    let (precision, scale): (u8, i8) = match arguments {
        None => (38, 0),
        Some(arguments) => match arguments.split_once(',') {
            Some((precision, scale)) => (precision.trim().parse().ok()?, scale.trim().parse().ok()?),
            None => (arguments.trim().parse().ok()?, 0),
        },
    };
    let sound = (1..=38).contains(&precision) && (0..=precision.cast_signed()).contains(&scale);
    sound.then_some(FieldType::Decimal { precision, scale })
}

/// A step into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A member of an object.
    Member(String),
    /// An element of an array, from 0.
    Element(u32),
}

/// The steps of `$.a.b[0]['c d']`; `$` is the value itself.
pub(crate) fn parse_path(text: &str) -> Option<Vec<Step>> {
    let mut rest = text.trim().strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (member, after) = after.split_at_checked(end).filter(|(member, _)| !member.is_empty())?;
            steps.push(Step::Member(member.to_string()));
            rest = after;
        } else {
            let inside = rest.strip_prefix('[')?;
            match inside.strip_prefix(['\'', '"']) {
                Some(quoted) => {
                    let closing = if inside.starts_with('"') { "\"]" } else { "']" };
                    let (member, after) = quoted.split_once(closing)?;
                    steps.push(Step::Member(member.to_string()));
                    rest = after;
                }
                None => {
                    let (element, after) = inside.split_once(']')?;
                    steps.push(Step::Element(element.trim().parse().ok()?));
                    rest = after;
                }
            }
        }
    }
    (steps.len() <= 32).then_some(steps)
}

/// Where a column's values come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Partition,
    Offset,
    Timestamp,
    TimestampType,
    Key,
    Headers,
    /// The whole value, as it is or as text.
    Value(FieldType),
    /// What lies at a place in the value.
    Field(FieldType, Vec<Step>),
    /// What the registered schema calls by the column's name.
    Member(DataType),
    /// What of the value did not decode.
    Error,
}

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub name: String,
    pub source: Source,
}

impl Column {
    /// The columns that every table has.
    pub fn of_records() -> Vec<Self> {
        let sources = [
            ("_partition", Source::Partition),
            ("_offset", Source::Offset),
            ("_timestamp", Source::Timestamp),
            ("_timestamp_type", Source::TimestampType),
            ("_key", Source::Key),
            ("_headers", Source::Headers),
        ];
        sources.map(|(name, source)| Self { name: name.to_string(), source }).into()
    }

    /// The one column of values that are not looked into.
    pub fn of_value(field_type: FieldType) -> Self {
        Self { name: "_value".to_string(), source: Source::Value(field_type) }
    }

    /// The column that tells what of a value did not decode.
    pub fn of_errors() -> Self {
        Self { name: "_error".to_string(), source: Source::Error }
    }

    /// Whether it is made of the record's value.
    pub fn is_of_value(&self) -> bool {
        matches!(self.source, Source::Value(_) | Source::Field(..) | Source::Member(_))
    }

    /// The column as Arrow field.
    pub fn field(&self) -> Field {
        let nullable =
            !matches!(self.source, Source::Partition | Source::Offset | Source::TimestampType | Source::Headers);
        Field::new(&self.name, self.source.arrow(), nullable)
    }

    /// The column on the wire.
    pub fn to_wire(&self) -> WireColumn {
        let (source, sql_type, path) = match &self.source {
            Source::Partition => (WireSource::Partition, String::new(), &[][..]),
            Source::Offset => (WireSource::Offset, String::new(), &[][..]),
            Source::Timestamp => (WireSource::Timestamp, String::new(), &[][..]),
            Source::TimestampType => (WireSource::TimestampType, String::new(), &[][..]),
            Source::Key => (WireSource::Key, String::new(), &[][..]),
            Source::Headers => (WireSource::Headers, String::new(), &[][..]),
            Source::Error => (WireSource::Error, String::new(), &[][..]),
            Source::Value(field_type) => (WireSource::Value, field_type.sql(), &[][..]),
            Source::Field(field_type, path) => (WireSource::Field, field_type.sql(), path.as_slice()),
            Source::Member(_) => (WireSource::Member, String::new(), &[][..]),
        };
        let step = |step: &Step| WireStep {
            step: Some(match step {
                Step::Member(name) => step::Step::Member(name.clone()),
                Step::Element(index) => step::Step::Element(*index),
            }),
        };
        let path = path.iter().map(step).collect();
        WireColumn { name: self.name.clone(), source: source.into(), sql_type, path }
    }

    /// The column that [`Column::to_wire`] wrote; `None` for anything else. `members` are those of the registered schema.
    pub fn from_wire(wire: WireColumn, members: &[(String, DataType)]) -> Option<Self> {
        let field_type = || FieldType::parse(&wire.sql_type);
        let source = match wire.source() {
            WireSource::Unspecified => return None,
            WireSource::Partition => Source::Partition,
            WireSource::Offset => Source::Offset,
            WireSource::Timestamp => Source::Timestamp,
            WireSource::TimestampType => Source::TimestampType,
            WireSource::Key => Source::Key,
            WireSource::Headers => Source::Headers,
            WireSource::Error => Source::Error,
            WireSource::Member => {
                Source::Member(members.iter().find(|(name, _)| *name == wire.name).map(|(_, kind)| kind.clone())?)
            }
            WireSource::Value => {
                let whole = |kind: &FieldType| matches!(kind, FieldType::Varchar | FieldType::Varbinary);
                Source::Value(field_type().filter(whole)?)
            }
            WireSource::Field => {
                let step = |wire: &WireStep| match wire.step.as_ref()? {
                    step::Step::Member(name) => Some(Step::Member(name.clone())),
                    step::Step::Element(index) => Some(Step::Element(*index)),
                };
                Source::Field(field_type()?, wire.path.iter().map(step).collect::<Option<_>>()?)
            }
        };
        Some(Self { name: wire.name, source })
    }
}

impl Source {
    /// The Arrow type of the values.
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Partition => DataType::Int32,
            Self::Offset => DataType::Int64,
            Self::Timestamp => FieldType::Timestamptz.arrow(),
            Self::TimestampType | Self::Error => DataType::Utf8,
            Self::Key => DataType::Binary,
            Self::Headers => DataType::List(Arc::new(Field::new_list_field(DataType::Struct(header_fields()), false))),
            Self::Value(field_type) | Self::Field(field_type, _) => field_type.arrow(),
            Self::Member(data_type) => data_type.clone(),
        }
    }
}

/// Name and value of a header.
pub(crate) fn header_fields() -> Fields {
    Fields::from(vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_the_names_that_sql_has_for_them() {
        let decimal = |precision, scale| Some(FieldType::Decimal { precision, scale });
        for (text, expected) in [
            ("BIGINT", Some(FieldType::Bigint)),
            (" double  precision ", Some(FieldType::Double)),
            ("decimal(12,2)", decimal(12, 2)),
            ("numeric( 38 , 38 )", decimal(38, 38)),
            ("DECIMAL(5)", decimal(5, 0)),
            ("varchar(20)", Some(FieldType::Varchar)),
            ("timestamp(3)", Some(FieldType::Timestamp)),
            ("timestamp(6) with time zone", Some(FieldType::Timestamptz)),
            ("TIMESTAMP WITH TIME ZONE", Some(FieldType::Timestamptz)),
            ("decimal(39,0)", None),
            ("decimal(3,4)", None),
            ("decimal(3,-1)", None),
            ("timestamp(9)", None),
            ("bigint(8)", None),
            ("map", None),
            ("decimal(", None),
        ] {
            assert_eq!(FieldType::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn paths_are_steps() {
        let member = |name: &str| Step::Member(name.to_string());
        assert_eq!(parse_path("$"), Some(vec![]));
        assert_eq!(parse_path("$.a.b[0]"), Some(vec![member("a"), member("b"), Step::Element(0)]));
        assert_eq!(parse_path("$['a.b'][\"c'd\"]"), Some(vec![member("a.b"), member("c'd")]));
        for wrong in ["", "a", "$.", "$..a", "$[", "$[x]", "$['a]", "$a", "$[-1]"] {
            assert_eq!(parse_path(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn columns_cross_the_wire() {
        let mut columns = Column::of_records();
        columns.push(Column::of_value(FieldType::Varbinary));
        columns.push(Column::of_errors());
        let path = parse_path("$.a[3]").unwrap();
        columns
            .push(Column { name: "a".into(), source: Source::Field(FieldType::parse("decimal(9,3)").unwrap(), path) });
        let members = [("m".to_string(), DataType::Int32)];
        columns.push(Column { name: "m".into(), source: Source::Member(DataType::Int32) });
        for column in columns {
            assert_eq!(Column::from_wire(column.to_wire(), &members), Some(column));
        }
        let mut hostile = Column::of_value(FieldType::Varchar).to_wire();
        hostile.sql_type = "bigint".into();
        assert_eq!(Column::from_wire(hostile, &members), None);
        let unknown = Column { name: "n".into(), source: Source::Member(DataType::Int32) };
        assert_eq!(Column::from_wire(unknown.to_wire(), &members), None);
    }
}
