//! Topics as tables: what the configuration says, and what a sample of JSON values looks like.

use std::sync::Arc;

use arrow::datatypes::DataType;
use townlake_common::config::{KafkaCatalog, KafkaFormat, KafkaTable, OnError};
use townlake_common::{Error, ErrorCode, Result};

use super::registry::ValueTable;
use super::types::{Column, FieldType, Source, Step, parse_path};
use crate::json_members::members;

/// The schema of topics that nobody has defined as tables.
pub(crate) const DEFAULT_SCHEMA: &str = "default";
/// More members of sampled values do not become columns.
const MOST_COLUMNS: usize = 1000;

/// A topic as a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    pub schema: String,
    pub name: String,
    pub topic: String,
    pub format: KafkaFormat,
    pub null_and_count: bool,
    /// The fields of its values; none where they are to be sampled, to be asked for, or are not looked into.
    pub fields: Vec<Column>,
    /// In the registry.
    pub subject: String,
    pub message: Option<String>,
    /// What the registry says; `None` until it was asked.
    pub values: Option<Arc<ValueTable>>,
}

impl Table {
    /// The tables that a catalog defines.
    ///
    /// Errors: `CONFIG_INVALID` for types and paths that there are not.
    pub fn defined(catalog: &str, config: &KafkaCatalog) -> Result<Vec<Self>> {
        config.tables.iter().map(|table| Self::new(catalog, table)).collect()
    }

    fn new(catalog: &str, config: &KafkaTable) -> Result<Self> {
        let mut fields = Vec::new();
        for column in &config.columns {
            let wrong = |what: &str| {
                let place =
                    format!("catalogs.{catalog}: table {}.{}: column {}", config.schema, config.name(), column.name);
                Error::new(ErrorCode::ConfigInvalid, format!("{place}: {what}"))
            };
            let field_type = FieldType::parse(&column.sql_type).ok_or_else(|| {
                wrong("its `type` is none that a field can have").with_hint(
                    "boolean, tinyint, smallint, integer, bigint, real, double, decimal(p, s) of up to 38 digits, varchar, \
                     varbinary, date, time, timestamp, timestamp with time zone",
                )
            })?;
            let path = match &column.path {
                None => vec![Step::Member(column.name.clone())],
                Some(path) => {
                    parse_path(path).ok_or_else(|| wrong("its `path` is none").with_hint("$.a.b, $.a[0], $['a b']"))?
                }
            };
            fields.push(Column { name: column.name.clone(), source: Source::Field(field_type, path) });
        }
        Ok(Self {
            schema: config.schema.clone(),
            name: config.name().to_string(),
            topic: config.topic.clone(),
            format: config.format,
            null_and_count: config.on_error == OnError::NullAndCount,
            fields,
            subject: config.subject(),
            message: config.message.clone(),
            values: None,
        })
    }

    /// A topic that nobody has defined.
    pub fn raw(topic: &str) -> Self {
        Self {
            schema: DEFAULT_SCHEMA.to_string(),
            name: topic.to_string(),
            topic: topic.to_string(),
            format: KafkaFormat::Raw,
            null_and_count: false,
            fields: Vec::new(),
            subject: String::new(),
            message: None,
            values: None,
        }
    }

    /// What to say where the brokers do not know its topic.
    pub fn without_topic(&self, catalog: &str) -> Error {
        let Self { schema, name, topic, .. } = self;
        let message = format!("table {catalog}.{schema}.{name}: the brokers have no topic {topic}");
        Error::new(ErrorCode::TableNotFound, message).with_hint(
            "the catalog defines the table, so that its `topic` may be misspelt there; or the topic was not created yet, or Kafka does not \
             show it to the account",
        )
    }

    /// Whether its columns are found by looking at values.
    pub fn is_sampled(&self) -> bool {
        self.format == KafkaFormat::Json && self.fields.is_empty()
    }

    /// The same with the columns that the registry says.
    pub fn with_values(mut self, values: Arc<ValueTable>) -> Self {
        let column = |(name, data_type): &(String, DataType)| Column {
            name: name.clone(),
            source: Source::Member(data_type.clone()),
        };
        self.fields = values.columns().iter().map(column).collect();
        self.values = Some(values);
        self
    }

    /// All columns.
    pub fn columns(&self) -> Vec<Column> {
        let mut columns = Column::of_records();
        if self.null_and_count && self.format != KafkaFormat::Raw {
            columns.push(Column::of_errors());
        }
        match self.format {
            KafkaFormat::Raw => columns.push(Column::of_value(FieldType::Varbinary)),
            KafkaFormat::Text => columns.push(Column::of_value(FieldType::Varchar)),
            _ => columns.extend(self.fields.iter().cloned()),
        }
        columns
    }

    /// What it is, for those who list tables.
    pub fn comment(&self) -> String {
        let format = match self.format {
            KafkaFormat::Raw => "raw",
            KafkaFormat::Text => "text",
            KafkaFormat::Json => "json",
            KafkaFormat::Avro => "avro",
            KafkaFormat::Protobuf => "protobuf",
        };
        format!("Kafka topic {}, {format}", self.topic)
    }
}

/// The columns that sampled values suggest: the members of all objects, in the order in which they were first seen, each of a
/// type that holds all that was seen of it. What are other things than objects is passed over.
pub(crate) fn guess<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<Column> {
    let mut seen: Vec<(String, Option<FieldType>)> = Vec::new();
    let texts = values.filter_map(|value| std::str::from_utf8(value).ok());
    for (name, text) in texts.filter_map(members).flatten() {
        // Names that Kafka's own columns have, with others of ours to come: they begin with a line.
        if name.is_empty() || name.starts_with('_') {
            continue;
        }
        note(&mut seen, name.into_owned(), kind_of(text));
    }
    let column = |(name, kind): (String, Option<FieldType>)| {
        let path = vec![Step::Member(name.clone())];
        Column { name, source: Source::Field(kind.unwrap_or(FieldType::Varchar), path) }
    };
    seen.into_iter().map(column).collect()
}

fn note(seen: &mut Vec<(String, Option<FieldType>)>, name: String, kind: Option<FieldType>) {
    if let Some((_, known)) = seen.iter_mut().find(|(known, _)| *known == name) {
        *known = around(*known, kind);
    } else if seen.len() < MOST_COLUMNS {
        seen.push((name, kind));
    }
}

/// A type that holds both.
fn around(left: Option<FieldType>, right: Option<FieldType>) -> Option<FieldType> {
    match (left, right) {
        (None, kind) | (kind, None) => kind,
        (Some(left), Some(right)) if left == right => Some(left),
        (Some(FieldType::Bigint | FieldType::Double), Some(FieldType::Bigint | FieldType::Double)) => {
            Some(FieldType::Double)
        }
        _ => Some(FieldType::Varchar),
    }
}

/// The type of a JSON text; `None` for `null`.
fn kind_of(text: &str) -> Option<FieldType> {
    match text.as_bytes().first()? {
        b'n' => None,
        b't' | b'f' => Some(FieldType::Boolean),
        b'0'..=b'9' | b'-' if text.parse::<i64>().is_ok() => Some(FieldType::Bigint),
        // More digits than a float keeps are kept as they stand.
        b'0'..=b'9' | b'-' if text.bytes().filter(u8::is_ascii_digit).count() <= 15 => Some(FieldType::Double),
        _ => Some(FieldType::Varchar),
    }
}

#[cfg(test)]
mod tests {
    use townlake_common::config::{CatalogConfig, Config};

    use super::*;

    fn tables(text: &str) -> Result<Vec<Table>> {
        let toml = format!("[catalogs.bus]\ntype = \"kafka\"\nbrokers = [\"a:1\"]\n[[catalogs.bus.tables]]\n{text}");
        match Config::from_toml(&toml).unwrap().catalogs.remove("bus") {
            Some(CatalogConfig::Kafka(config)) => Table::defined("bus", &config),
            _ => panic!("not a Kafka catalog"),
        }
    }

    #[test]
    fn definitions_become_columns() {
        let text = "topic = \"t\"\nformat = \"json\"\ncolumns = [{ name = \"a.b\", type = \"int\" }, \
                    { name = \"c\", type = \"decimal(9,2)\", path = \"$.x[1]\" }]";
        let table = tables(text).unwrap().remove(0);
        assert!(!table.is_sampled());
        let columns = table.columns();
        assert_eq!(columns.len(), 8);
        let path = vec![Step::Member("a.b".into())];
        assert_eq!(columns[6].source, Source::Field(FieldType::Integer, path), "a name is not a path");
        let missing = table.without_topic("bus");
        assert_eq!(missing.code(), ErrorCode::TableNotFound);
        assert_eq!(missing.message(), "table bus.default.t: the brokers have no topic t");
        for (wrong, named) in
            [("{ name = \"a\", type = \"map\" }", "type"), ("{ name = \"a\", type = \"int\", path = \"x\" }", "path")]
        {
            let error = tables(&format!("topic = \"t\"\nformat = \"json\"\ncolumns = [{wrong}]")).unwrap_err();
            assert!(error.code() == ErrorCode::ConfigInvalid && error.message().contains(named), "{error}");
        }
    }

    #[test]
    fn samples_suggest_types_that_hold_what_was_seen() {
        let values = [
            &br#"{"i": 1, "d": 1, "s": "x", "m": 1, "n": null, "big": 12345678901234567890123, "o": {"a": 1}, "_x": 1}"#[..],
            br#"{"i": -2, "d": 0.5, "s": "y", "m": "z", "b": true}"#,
            b"not json",
            b"[1]",
        ];
        let guessed: Vec<_> = guess(values.into_iter())
            .into_iter()
            .map(|column| match column.source {
                Source::Field(kind, _) => format!("{} {}", column.name, kind.sql()),
                _ => panic!("not a field"),
            })
            .collect();
        let expected =
            ["i bigint", "d double", "s varchar", "m varchar", "n varchar", "big varchar", "o varchar", "b boolean"];
        assert_eq!(guessed, expected);
    }
}
