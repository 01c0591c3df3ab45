//! BigQuery's types and the Arrow types that they are read as.
//!
//! | BigQuery | here |
//! |---|---|
//! | INT64, FLOAT64, BOOL | Int64, Float64, Boolean |
//! | NUMERIC, BIGNUMERIC | Decimal128(38, 9), Decimal256(76, 38) |
//! | STRING, JSON, GEOGRAPHY | Utf8 |
//! | BYTES | Binary |
//! | DATE, TIME | Date32, Time64(µs) |
//! | DATETIME, TIMESTAMP | Timestamp(µs), Timestamp(µs, "+00:00") |
//! | STRUCT, RANGE | Struct |
//! | ARRAY (mode REPEATED) | List |
//! | INTERVAL, others | cannot be read: an error that names the column, when it is read |

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use townlake_proto::bigquery as wire;

/// Deepest nesting of STRUCT and ARRAY: BigQuery allows 15.
const DEPTH_LIMIT: usize = 32;

/// A column, or a field of a STRUCT, as `tables.get` declares it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub name: String,
    /// The type's name, in the words of standard SQL.
    pub declared: String,
    pub mode: Mode,
    pub kind: Kind,
    /// Whether text is compared by a collation other than by its bytes.
    pub is_collated: bool,
    /// Of the Arrow field.
    pub metadata: HashMap<String, String>,
}

/// How many values a column has in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Nullable,
    Required,
    Repeated,
}

/// What one value is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Bool,
    Int64,
    Float64,
    Numeric,
    BigNumeric,
    String,
    /// JSON or GEOGRAPHY: text whose equality is the server's own business.
    Text,
    Bytes,
    Date,
    Time,
    Datetime,
    Timestamp,
    Struct(Vec<Column>),
    Range(Box<Kind>),
    /// What we cannot read.
    Other,
}

impl Column {
    /// A column from its wire form, which holds what `tables.get` declared.
    pub fn from_wire(column: wire::Column) -> Self {
        Self::at_depth(column, 0)
    }

    fn at_depth(column: wire::Column, depth: usize) -> Self {
        let wire::Column { name, r#type, mode, fields, range_element, collated, metadata } = column;
        let kind = match Kind::plain(&r#type) {
            Some(kind) => kind,
            None if depth >= DEPTH_LIMIT => Kind::Other,
            None => match standard(&r#type).as_str() {
                "STRUCT" if !fields.is_empty() => {
                    Kind::Struct(fields.into_iter().map(|field| Self::at_depth(field, depth + 1)).collect())
                }
                "RANGE" => Kind::plain(&range_element)
                    .filter(|kind| matches!(kind, Kind::Date | Kind::Datetime | Kind::Timestamp))
                    .map_or(Kind::Other, |kind| Kind::Range(Box::new(kind))),
                _ => Kind::Other,
            },
        };
        let declared = match &kind {
            Kind::Range(element) => format!("RANGE<{}>", element.name()),
            _ => standard(&r#type),
        };
        let mode = match mode.to_ascii_uppercase().as_str() {
            "REQUIRED" => Mode::Required,
            "REPEATED" => Mode::Repeated,
            _ => Mode::Nullable,
        };
        Self { name, declared, mode, kind, is_collated: collated, metadata }
    }

    /// The column on the wire.
    pub fn to_wire(&self) -> wire::Column {
        let mode = match self.mode {
            Mode::Nullable => "NULLABLE",
            Mode::Required => "REQUIRED",
            Mode::Repeated => "REPEATED",
        };
        let (fields, range_element) = match &self.kind {
            Kind::Struct(fields) => (fields.iter().map(Self::to_wire).collect(), String::new()),
            Kind::Range(element) => (Vec::new(), element.name().to_string()),
            _ => (Vec::new(), String::new()),
        };
        let r#type = if range_element.is_empty() { self.declared.clone() } else { "RANGE".to_string() };
        let (name, metadata) = (self.name.clone(), self.metadata.clone());
        wire::Column { name, r#type, mode: mode.into(), fields, range_element, collated: self.is_collated, metadata }
    }

    /// The column as Arrow field.
    pub fn field(&self) -> Field {
        let value = self.kind.arrow();
        let (data_type, nullable) = match self.mode {
            Mode::Nullable => (value, true),
            Mode::Required => (value, false),
            // An ARRAY that is NULL is read as an empty one by BigQuery; emulators are less strict.
            Mode::Repeated => (DataType::List(Arc::new(Field::new_list_field(value, true))), true),
        };
        Field::new(&self.name, data_type, nullable).with_metadata(self.metadata.clone())
    }

    /// The declared type of the whole, for people.
    pub fn source_type(&self) -> String {
        let value = match &self.kind {
            Kind::Struct(fields) => {
                let fields = fields.iter().map(|field| format!("{} {}", field.name, field.source_type()));
                format!("STRUCT<{}>", fields.collect::<Vec<_>>().join(", "))
            }
            _ => self.declared.clone(),
        };
        if self.mode == Mode::Repeated { format!("ARRAY<{value}>") } else { value }
    }

    /// The first type inside that cannot be read.
    pub fn unreadable(&self) -> Option<String> {
        match &self.kind {
            Kind::Other => Some(self.declared.clone()),
            Kind::Struct(fields) => fields.iter().find_map(Self::unreadable),
            _ => None,
        }
    }

    /// About the bytes of a value: to choose what is read where no column is wanted.
    pub fn width(&self) -> usize {
        match (&self.kind, self.mode) {
            (_, Mode::Repeated) | (Kind::Struct(_), _) => 100,
            (Kind::Bool, _) => 1,
            (Kind::Int64 | Kind::Float64 | Kind::Date | Kind::Time | Kind::Datetime | Kind::Timestamp, _) => 8,
            (Kind::Numeric | Kind::Range(_), _) => 16,
            (Kind::BigNumeric, _) => 32,
            (Kind::Other, _) => usize::MAX,
            _ => 50,
        }
    }
}

impl Kind {
    fn plain(declared: &str) -> Option<Self> {
        Some(match standard(declared).as_str() {
            "BOOL" => Self::Bool,
            "INT64" => Self::Int64,
            "FLOAT64" => Self::Float64,
            "NUMERIC" => Self::Numeric,
            "BIGNUMERIC" => Self::BigNumeric,
            "STRING" => Self::String,
            "JSON" | "GEOGRAPHY" => Self::Text,
            "BYTES" => Self::Bytes,
            "DATE" => Self::Date,
            "TIME" => Self::Time,
            "DATETIME" => Self::Datetime,
            "TIMESTAMP" => Self::Timestamp,
            _ => return None,
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Date => "DATE",
            Self::Datetime => "DATETIME",
            Self::Timestamp => "TIMESTAMP",
            _ => "",
        }
    }

    /// The Arrow type of a value.
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Numeric => DataType::Decimal128(38, 9),
            Self::BigNumeric => DataType::Decimal256(76, 38),
            Self::String | Self::Text | Self::Other => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Datetime => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            Self::Struct(fields) => DataType::Struct(fields.iter().map(Column::field).collect()),
            Self::Range(element) => {
                let bound = |name: &str| Field::new(name, element.arrow(), true);
                DataType::Struct(vec![bound("start"), bound("end")].into())
            }
        }
    }
}

/// The name of a type in standard SQL: `tables.get` answers in the older words.
fn standard(declared: &str) -> String {
    let name = declared.trim().to_ascii_uppercase();
    match name.as_str() {
        "INTEGER" => "INT64".to_string(),
        "FLOAT" => "FLOAT64".to_string(),
        "BOOLEAN" => "BOOL".to_string(),
        "RECORD" => "STRUCT".to_string(),
        "DECIMAL" => "NUMERIC".to_string(),
        "BIGDECIMAL" => "BIGNUMERIC".to_string(),
        _ => name.chars().take(40).collect(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn column(name: &str, declared: &str, mode: &str) -> Column {
        Column::from_wire(declare(name, declared, mode))
    }

    fn declare(name: &str, declared: &str, mode: &str) -> wire::Column {
        wire::Column { name: name.into(), r#type: declared.into(), mode: mode.into(), ..Default::default() }
    }

    #[test]
    fn types_are_read_as_documented() {
        let cases = [
            ("INTEGER", "", "Int64", "INT64"),
            ("INT64", "REQUIRED", "Int64", "INT64"),
            ("NUMERIC", "NULLABLE", "Decimal128(38, 9)", "NUMERIC"),
            ("BIGNUMERIC", "NULLABLE", "Decimal256(76, 38)", "BIGNUMERIC"),
            ("TIMESTAMP", "NULLABLE", "Timestamp(µs, \"+00:00\")", "TIMESTAMP"),
            ("DATETIME", "NULLABLE", "Timestamp(µs)", "DATETIME"),
            ("GEOGRAPHY", "NULLABLE", "Utf8", "GEOGRAPHY"),
            ("BYTES", "REPEATED", "List(Binary)", "ARRAY<BYTES>"),
        ];
        for (declared, mode, arrow, source) in cases {
            let column = column("c", declared, mode);
            assert_eq!(column.field().data_type().to_string(), arrow, "{declared}");
            assert_eq!(column.field().is_nullable(), mode != "REQUIRED", "{declared}");
            assert_eq!(column.source_type(), source);
            assert_eq!(column.unreadable(), None);
        }
    }

    #[test]
    fn nested_types_cross_the_wire_and_name_what_cannot_be_read() {
        let mut inner = declare("r", "RECORD", "REPEATED");
        inner.fields = vec![declare("x", "FLOAT", ""), declare("y", "STRING", "REPEATED")];
        let mut range = declare("p", "RANGE", "");
        range.range_element = "DATE".into();
        let mut outer = declare("o", "STRUCT", "");
        outer.fields = vec![inner.clone(), range];
        let column = Column::from_wire(outer.clone());
        assert_eq!(column.source_type(), "STRUCT<r ARRAY<STRUCT<x FLOAT64, y ARRAY<STRING>>>, p RANGE<DATE>>");
        assert_eq!(Column::from_wire(column.to_wire()), column);
        assert_eq!(column.unreadable(), None);
        outer.fields.push(declare("i", "INTERVAL", ""));
        assert_eq!(Column::from_wire(outer).unreadable().as_deref(), Some("INTERVAL"));
        assert_eq!(Column::from_wire(declare("e", "RECORD", "")).unreadable().as_deref(), Some("STRUCT"));
        let deep = (0..100).fold(inner, |field, _| wire::Column { fields: vec![field], ..declare("d", "RECORD", "") });
        assert!(Column::from_wire(deep).unreadable().is_some());
    }
}
