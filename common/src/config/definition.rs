//! A catalog that was made by `CREATE CATALOG`: what its configuration is made of, and how it is shown.

use std::fmt::Write as _;

use figment::Figment;
use figment::providers::Serialized;
use serde_json::{Map, Value};

use super::{CatalogConfig, Config, Fault};
use crate::{Error, ErrorCode, Result};

/// Keys whose values are shown. All others are taken for secrets.
const SHOWN: &[&str] = &[
    "brokers",
    "connect_timeout",
    "database",
    "dataset",
    "isolation",
    "location",
    "mechanism",
    "project",
    "readers",
    "request_timeout",
    "s3_endpoint",
    "s3_region",
    "sasl",
    "schema_registry_ca",
    "security",
    "tables",
    "tls",
    "tls_ca",
    "writers",
];

/// One catalog as it is kept.
#[derive(Clone, PartialEq)]
pub struct CatalogDefinition {
    /// Its name.
    pub name: String,
    /// Another catalog of the same name has another.
    pub id: String,
    /// The `type` of a section of the configuration.
    pub kind: String,
    /// The other keys of that section.
    pub properties: Map<String, Value>,
    /// Who made it.
    pub owner: String,
}

impl CatalogDefinition {
    /// The configuration that it is. Secrets of the environment and of files are those of this node.
    ///
    /// Errors: `INVALID_ARGUMENT`, naming the key, never its value.
    pub fn config(&self) -> Result<CatalogConfig> {
        let mut section = self.properties.clone();
        if let Some(Value::String(text)) = section.get("tables") {
            section.insert("tables".to_string(), self.tables(text)?);
        }
        section.insert("type".to_string(), Value::String(self.kind.clone()));
        let catalogs = Value::Object(Map::from_iter([(self.name.clone(), Value::Object(section))]));
        let figment = Figment::from(Serialized::default("catalogs", catalogs));
        let unread = |fault: Fault| self.unread(&fault);
        let mut config = Config::read(&figment).map_err(unread)?;
        config.validate().map_err(Self::refused)?;
        config.catalogs.remove(&self.name).ok_or_else(|| Error::internal("a catalog has lost its name"))
    }

    /// What is wrong with a configuration, as said of a statement.
    pub fn refused(error: Error) -> Error {
        if error.code() != ErrorCode::ConfigInvalid {
            return error;
        }
        let refused = Error::new(ErrorCode::InvalidArgument, error.message());
        match error.hint() {
            Some(hint) => refused.with_hint(hint),
            None => refused,
        }
    }

    fn unread(&self, fault: &Fault) -> Error {
        let statement = format!("CREATE CATALOG {} USING {}", self.name, self.kind);
        let message = match fault.key.as_slice() {
            [_, _] if fault.is_of_kind => format!("{statement}: the kind {}", fault.what),
            [_, _, key @ ..] if !key.is_empty() => {
                format!("{statement}: `{}`{}: {}", key.join("."), fault.of, fault.what)
            }
            _ => format!("{statement} WITH (…): {}", fault.what),
        };
        let refused = Error::new(ErrorCode::InvalidArgument, message);
        match &fault.missing {
            Some(key) if fault.key.len() == 2 => refused.with_hint(format!("WITH ({key} = …)")),
            _ => refused,
        }
    }

    /// Tables of a catalog, which a section of the configuration has as sections of its own: in SQL a text of JSON.
    fn tables(&self, text: &str) -> Result<Value> {
        let parsed = serde_json::from_str::<Value>(text).ok();
        parsed.filter(|value| value.as_array().is_some_and(|items| items.iter().all(Value::is_object))).ok_or_else(
            || {
                let message = format!("catalogs.{}: `tables` is no list of objects in JSON", self.name);
                Error::new(ErrorCode::InvalidArgument, message)
                    .with_hint("tables = '[{\"topic\": \"orders\", \"format\": \"json\"}]'")
            },
        )
    }

    /// The statement that makes it, with `***` for what may be secret.
    pub fn statement(&self) -> String {
        let mut text = format!("CREATE CATALOG {} USING {}", self.name, self.kind);
        for (index, (key, value)) in self.properties.iter().enumerate() {
            let separator = if index == 0 { " WITH (\n  " } else { ",\n  " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{key} = {}", shown(key, value));
        }
        if !self.properties.is_empty() {
            text.push_str("\n)");
        }
        text
    }
}

/// Nothing of the properties: they hold secrets.
impl std::fmt::Debug for CatalogDefinition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, id, kind, owner, .. } = self;
        f.debug_struct("CatalogDefinition")
            .field("name", name)
            .field("id", id)
            .field("kind", kind)
            .field("owner", owner)
            .finish_non_exhaustive()
    }
}

fn shown(key: &str, value: &Value) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Object(of) => match (of.get("env"), of.get("file")) {
            // Where a secret lies is none.
            (Some(Value::String(name)), None) => format!("env({})", quoted(name)),
            (None, Some(Value::String(path))) => format!("file({})", quoted(path)),
            _ => quoted("***"),
        },
        _ if !SHOWN.contains(&key) => quoted("***"),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| quoted(item.as_str().unwrap_or("***"))).collect();
            format!("ARRAY[{}]", items.join(", "))
        }
        Value::Null => "NULL".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(kind: &str, properties: Value) -> CatalogDefinition {
        let Value::Object(properties) = properties else { panic!("no object") };
        let text = |text: &str| text.to_string();
        CatalogDefinition { name: text("crm2"), id: text("1"), kind: text(kind), properties, owner: text("ann") }
    }

    #[test]
    fn it_is_what_the_configuration_would_be() {
        let made =
            definition("postgres", json!({"url": "postgres://u:hunter2@h/d", "connections": 4, "readers": ["ann"]}));
        let CatalogConfig::Postgres(config) = made.config().unwrap() else { panic!("another kind") };
        assert_eq!((config.connections, config.readers.as_slice()), (4, &["ann".to_string()][..]));
        for (kind, properties, word) in [
            ("postgres", json!({"url": "postgres://u:hunter2@h/d", "conections": 4}), "did you mean `connections`"),
            ("postgres", json!({"url": "postgres://u:hunter2@h/d", "connections": "hunter2"}), "connections"),
            ("postgres", json!({"url": "postgres://u:hunter2@h/d", "connections": 1}), "at least 2"),
            ("postgres", json!({}), "WITH (…): the key `url` is missing"),
            ("postgres", json!({"ur": "postgres://u:hunter2@h/d"}), "there is no key `ur`, did you mean `url`?"),
            (
                "clickhouse",
                json!({"url": "http://hunter2@h", "connections": "hunter2"}),
                "`connections`: must be a whole number",
            ),
            ("oracle", json!({"url": "hunter2"}), "must be one of"),
            ("postgress", json!({"url": "hunter2"}), "did you mean `postgres`?"),
        ] {
            let error = definition(kind, properties).config().unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.message().contains(word), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn every_kind_of_source_can_be_made() {
        let tables = json!([{"topic": "orders", "format": "json", "on_error": "null-and-count",
            "columns": [{"name": "id", "type": "bigint", "path": "$.id"}]}]);
        let properties = json!({"brokers": ["a:9092", "b:9092"], "sasl": "PLAIN", "username": "u", "password": "hunter2",
            "request_timeout": "5s", "tables": tables.to_string()});
        let made = definition("kafka", properties);
        let CatalogConfig::Kafka(config) = made.config().unwrap() else { panic!("another kind") };
        assert_eq!((config.brokers.len(), config.tables[0].name()), (2, "orders"));
        assert_eq!(config.tables[0].columns[0].sql_type, "bigint");
        let text = made.statement();
        assert!(text.contains("tables = '[{") && text.contains("ARRAY['a:9092', 'b:9092']"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let key =
            json!({"project": "analytics-123", "key_file": "/etc/townlake/key.json", "maximum_bytes_billed": "10GB"});
        let CatalogConfig::BigQuery(config) = definition("bigquery", key).config().unwrap() else {
            panic!("another kind")
        };
        assert_eq!(config.project, "analytics-123");
        let clickhouse = definition("clickhouse", json!({"url": "http://u:p@h:8123/"})).config();
        assert!(matches!(clickhouse, Ok(CatalogConfig::ClickHouse(_))));
        for (tables, word) in [
            ("hunter2", "`tables`"),
            ("{}", "`tables`"),
            ("[1]", "`tables`"),
            (
                r#"[{"topic": "t"}, {"topic": "u", "fromat": "json"}]"#,
                "`tables.1.fromat` (topic u): there is no key `fromat`",
            ),
            (
                r#"[{"topic": "t", "columns": [{"name": "a", "typ": "int"}]}]"#,
                "`tables.0.columns.0.typ` (topic t): there is no key `typ`",
            ),
            (r#"[{"format": "json"}]"#, "the key `topic` is missing"),
            (r#"[{"topic": "t", "format": "hunter2"}]"#, "protobuf"),
        ] {
            let error = definition("kafka", json!({"brokers": ["a:1"], "tables": tables})).config().unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
            assert!(format!("{error} {:?}", error.hint()).contains(word), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let properties = json!({"url": "postgres://u:hunter2@h/d", "tls": "require", "connections": 4,
            "readers": ["ann", "o'hara"], "token": {"env": "CRM_TOKEN"}, "other": ["hunter2"]});
        let made = definition("postgres", properties);
        let text = made.statement();
        assert!(!text.contains("hunter2") && !format!("{made:?}").contains("hunter2"), "{text}");
        for part in ["url = '***'", "tls = 'require'", "connections = 4", "ARRAY['ann', 'o''hara']", "env('CRM_TOKEN')"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}
