//! What is in a server: databases, tables, columns with their types and comments.

use std::sync::Arc;

use serde::Deserialize;
use townlake_common::{Error, ErrorCode, QueryId, Result};

use super::client::Client;
use super::recipe::Column;
use super::sql::literal;
use super::types::{Kind, Number};
use crate::pass_through::{SCHEMA, TABLE, check_names};
use crate::{COMMENT, NOTE, SOURCE_TYPE, SourceTable, TableKind};

/// Whether a database is the server's own. These are neither listed nor read: all principals of a catalog share one account
/// there, so that `system.processes`, for one, would show each the statements of the others.
pub(crate) fn is_system(database: &str) -> bool {
    ["system", "information_schema", "_temporary_and_external_tables"].contains(&database.to_lowercase().as_str())
}

/// A table as it was when it was looked up.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    pub database: String,
    pub table: String,
    /// What stands in FROM in the table's place: a query that was passed through.
    pub from: Option<String>,
    pub kind: TableKind,
    /// Whether it stores parts of its own.
    pub has_parts: bool,
    /// Whether a later row replaces an earlier one of the same key.
    pub is_replacing: bool,
    pub columns: Vec<Column>,
    /// Per column: bytes before compression, where they are known.
    pub bytes: Vec<Option<u64>>,
    /// A hash of the sorting key in SQL, where it has columns that can be hashed.
    pub hash_key: Option<String>,
}

/// Looks things up for one query.
pub(crate) struct Discovery<'a> {
    pub client: &'a Arc<Client>,
    pub query: &'a QueryId,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct FoundTable {
    name: String,
    engine: String,
    comment: String,
}

#[derive(Deserialize)]
struct FoundEngine {
    engine: String,
    sorting_key: String,
}

#[derive(Deserialize)]
struct FoundColumn {
    name: String,
    r#type: String,
    default_kind: String,
    comment: String,
    bytes: String,
}

impl Discovery<'_> {
    /// The databases that the account may see, without the server's own.
    pub async fn databases(&self) -> Result<Vec<String>> {
        let sql = "SELECT name FROM system.databases ORDER BY name FORMAT JSONEachRow";
        let names = self.rows::<Name>(sql).await?.into_iter().map(|row| row.name);
        Ok(names.filter(|name| !is_system(name)).collect())
    }

    /// The tables of a database that the account may see.
    pub async fn tables(&self, database: &str, has_comments: bool) -> Result<Vec<SourceTable>> {
        let comment = if has_comments { "comment" } else { "'' AS comment" };
        let sql = format!(
            "SELECT name, engine, {comment} FROM system.tables WHERE database = {} AND NOT is_temporary ORDER BY name \
             FORMAT JSONEachRow",
            literal(database)
        );
        let rows = self.rows::<FoundTable>(&sql).await?.into_iter();
        // The stored rows of a materialised view are its own business.
        let shown = rows.filter(|row| !row.name.starts_with(".inner") && !is_stream(&row.engine));
        Ok(shown
            .map(|row| SourceTable {
                kind: kind_of(&row.engine),
                name: row.name,
                comment: Some(row.comment).filter(|comment| !comment.is_empty()),
            })
            .collect())
    }

    /// A table with all that planning needs.
    ///
    /// Errors: `NOT_SUPPORTED` for engines that give each row only once.
    pub async fn relation(&self, database: &str, table: &str) -> Result<Option<Relation>> {
        let (database_sql, table_sql) = (literal(database), literal(table));
        let engine = format!(
            "SELECT engine, sorting_key FROM system.tables WHERE database = {database_sql} AND name = {table_sql} \
             AND NOT is_temporary FORMAT JSONEachRow"
        );
        let columns = format!(
            "SELECT name, type, default_kind, comment, toString(data_uncompressed_bytes) AS bytes FROM system.columns \
             WHERE database = {database_sql} AND table = {table_sql} FORMAT JSONEachRow"
        );
        let Some(found) = self.rows::<FoundEngine>(&engine).await?.pop() else { return Ok(None) };
        let FoundEngine { engine, sorting_key } = found;
        if is_stream(&engine) {
            let message =
                format!("table {database}.{table} is read-once ({engine}): reading it would take its rows away");
            return Err(Error::new(ErrorCode::NotSupported, message)
                .with_hint("read the table that a materialised view fills from it"));
        }
        // EPHEMERAL columns exist in INSERT only.
        let rows = self.rows::<FoundColumn>(&columns).await?.into_iter().filter(|row| row.default_kind != "EPHEMERAL");
        let (bytes, columns): (Vec<_>, Vec<_>) = rows.map(|row| (row.bytes.parse().ok(), row.into_column())).unzip();
        Ok(Some(Relation {
            database: database.to_string(),
            table: table.to_string(),
            from: None,
            kind: kind_of(&engine),
            has_parts: engine.ends_with("MergeTree"),
            is_replacing: engine.ends_with("ReplacingMergeTree"),
            hash_key: hash_key(&sorting_key, &columns),
            columns,
            bytes,
        }))
    }

    /// The result of a query as a table.
    ///
    /// Errors: what the server says of the query; `INVALID_QUERY` for columns of the same name.
    pub async fn query(&self, catalog: &str, sql: &str) -> Result<Relation> {
        // On lines of its own: it may end in a comment.
        let from = format!("(\n{sql}\n)");
        let describe = format!("DESCRIBE TABLE {from} FORMAT JSONEachRow");
        let described = self.client.look_up::<Described>(self.query, "plan the query", &describe).await?;
        check_names(catalog, described.iter().map(|column| column.name.as_str()))?;
        let columns: Vec<_> = described.into_iter().map(Described::into_column).collect();
        Ok(Relation {
            database: SCHEMA.to_string(),
            table: TABLE.to_string(),
            from: Some(from),
            kind: TableKind::View,
            has_parts: false,
            is_replacing: false,
            hash_key: None,
            bytes: vec![None; columns.len()],
            columns,
        })
    }

    async fn rows<T: serde::de::DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>> {
        self.client.look_up(self.query, "look up its catalog", sql).await
    }
}

#[derive(Deserialize)]
struct Described {
    name: String,
    r#type: String,
}

impl Described {
    fn into_column(self) -> Column {
        let Self { name, r#type } = self;
        let nothing = String::new;
        FoundColumn { name, r#type, default_kind: nothing(), comment: nothing(), bytes: nothing() }.into_column()
    }
}

impl FoundColumn {
    fn into_column(self) -> Column {
        let mut column = Column::new(&self.name, &self.r#type, Default::default());
        let computed = match self.default_kind.as_str() {
            kind @ ("ALIAS" | "MATERIALIZED") => Some(format!("computed by the server ({kind})")),
            _ => None,
        };
        let notes: Vec<_> = column.read.note(&self.r#type).into_iter().chain(computed).collect();
        let entries = [(SOURCE_TYPE, self.r#type), (NOTE, notes.join("; ")), (COMMENT, self.comment)];
        let entries = entries.into_iter().filter(|(_, text)| !text.is_empty());
        column.metadata = entries.map(|(key, text)| (key.to_string(), text)).collect();
        column
    }
}

/// Engines whose rows are gone once they were read.
fn is_stream(engine: &str) -> bool {
    matches!(engine, "Kafka" | "RabbitMQ" | "NATS" | "FileLog" | "S3Queue" | "AzureQueue")
}

fn kind_of(engine: &str) -> TableKind {
    match engine {
        "View" | "LiveView" | "WindowView" => TableKind::View,
        "MaterializedView" => TableKind::MaterializedView,
        "MySQL"
        | "PostgreSQL"
        | "MaterializedPostgreSQL"
        | "MongoDB"
        | "SQLite"
        | "ODBC"
        | "JDBC"
        | "Redis"
        | "Hive"
        | "HDFS"
        | "S3"
        | "AzureBlobStorage"
        | "GCS"
        | "OSS"
        | "COSN"
        | "URL"
        | "File"
        | "Iceberg"
        | "DeltaLake"
        | "Hudi"
        | "Dictionary"
        | "ExternalDistributed"
        | "Executable"
        | "ExecutablePool"
        | "YTsaurus"
        | "ArrowFlight" => TableKind::Foreign,
        _ => TableKind::Table,
    }
}

/// Of a sorting key like `id, toDate(at)` the plain columns: rows of the same key are the same in them. Those that may hold NULL
/// are left out, because the hash of NULL is NULL and no split would have it, and floats, whose 0 and −0 are one key.
fn hash_key(sorting_key: &str, columns: &[Column]) -> Option<String> {
    let plain = elements(sorting_key).into_iter().filter(|name| {
        let column = columns.iter().find(|column| column.name == *name);
        column.is_some_and(|column| {
            !column.read.nullable
                && match column.read.kind {
                    Kind::Number(number) => !matches!(number, Number::Float32 | Number::Float64),
                    Kind::String | Kind::FixedString(_) | Kind::Date | Kind::DateTime => true,
                    _ => false,
                }
        })
    });
    let names: Vec<_> = plain.map(super::sql::identifier).collect();
    (!names.is_empty()).then(|| format!("cityHash64({})", names.join(", ")))
}

/// The elements of a list in SQL, where commas inside parentheses divide nothing.
fn elements(list: &str) -> Vec<&str> {
    let mut depth = 0i32;
    let divides = |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    };
    list.split(divides).map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_columns_are_hashed() {
        let columns =
            [("id", "UInt64"), ("at", "DateTime"), ("n", "Nullable(UInt8)"), ("f", "Float64"), ("s", "String")];
        let columns = columns.map(|(name, declared)| Column::new(name, declared, Default::default()));
        let key = |sorting_key: &str| hash_key(sorting_key, &columns);
        assert_eq!(key("id, toDate(at), n, f, s").as_deref(), Some("cityHash64(`id`, `s`)"));
        assert_eq!(key("toDate(at)"), None);
        assert_eq!(key("f(at, id, s), s").as_deref(), Some("cityHash64(`s`)"));
        assert_eq!(key(""), None);
    }

    #[test]
    fn the_servers_own_is_hidden() {
        assert!(is_system("system") && is_system("INFORMATION_SCHEMA") && !is_system("default"));
        assert!(is_stream("Kafka") && !is_stream("MergeTree"));
        assert_eq!(kind_of("ReplicatedMergeTree"), TableKind::Table);
    }
}
