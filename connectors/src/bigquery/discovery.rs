//! What is in a project: datasets, tables, columns with their types and descriptions, keys. Over REST, page by page.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use townlake_common::{Error, ErrorCode, Result};
use townlake_proto::bigquery as wire;

use super::client::Client;
use super::sql::is_name;
use super::types::Column;
use crate::{COMMENT, ForeignKey, NOTE, SOURCE_TYPE, SourceTable, TableKeys, TableKind};

/// Entries of a page, and the most entries of a list.
const PAGE: usize = 1000;
const MOST: usize = 200_000;

/// A table as it was when it was looked up.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    pub dataset: String,
    pub table: String,
    /// What stands in FROM in the table's place: a query that was passed through.
    pub from: Option<String>,
    pub kind: TableKind,
    /// Whether the Storage API reads it; else a query job does.
    pub is_stored: bool,
    pub columns: Vec<Column>,
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
    /// Where it lies, for jobs.
    pub location: String,
    pub keys: TableKeys,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Datasets {
    #[serde(default)]
    datasets: Vec<FoundDataset>,
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundDataset {
    dataset_reference: DatasetReference,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DatasetReference {
    dataset_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tables {
    #[serde(default)]
    tables: Vec<FoundTable>,
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct FoundTable {
    table_reference: TableReference,
    r#type: String,
    friendly_name: Option<String>,
    schema: FoundSchema,
    num_rows: Option<String>,
    num_bytes: Option<String>,
    location: String,
    table_constraints: Constraints,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TableReference {
    dataset_id: String,
    table_id: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct FoundSchema {
    fields: Vec<FoundField>,
}

impl FoundSchema {
    /// The columns.
    pub fn into_columns(self) -> Vec<Column> {
        self.fields.into_iter().map(FoundField::into_column).collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FoundField {
    name: String,
    r#type: String,
    mode: String,
    description: Option<String>,
    collation: Option<String>,
    fields: Vec<FoundField>,
    range_element_type: FoundElement,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FoundElement {
    r#type: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Constraints {
    primary_key: PrimaryKey,
    foreign_keys: Vec<FoundKey>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PrimaryKey {
    columns: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FoundKey {
    name: String,
    referenced_table: TableReference,
    column_references: Vec<ColumnReference>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ColumnReference {
    referencing_column: String,
    referenced_column: String,
}

/// A list that comes in pages.
trait Paged: DeserializeOwned {
    type Item;
    fn take(self) -> (Vec<Self::Item>, Option<String>);
}

impl Paged for Datasets {
    type Item = FoundDataset;
    fn take(self) -> (Vec<FoundDataset>, Option<String>) {
        (self.datasets, self.next_page_token)
    }
}

impl Paged for Tables {
    type Item = FoundTable;
    fn take(self) -> (Vec<FoundTable>, Option<String>) {
        (self.tables, self.next_page_token)
    }
}

/// The datasets of the project that the account may see.
pub(crate) async fn datasets(client: &Arc<Client>) -> Result<Vec<String>> {
    let found = all::<Datasets>(client, "list its datasets", &["datasets"]).await?.ok_or_else(|| {
        let (catalog, project) = (&client.server().catalog, &client.settings.project);
        let message = format!("catalog {catalog}: there is no project {project}, or the account may not know of it");
        Error::new(ErrorCode::SourceError, message).with_hint(format!("see `project` in [catalogs.{catalog}]"))
    })?;
    let mut names: Vec<_> = found.into_iter().map(|found| found.dataset_reference.dataset_id).collect();
    names.retain(|name| is_name(name));
    names.sort();
    Ok(names)
}

/// The tables of a dataset; none when there is no such dataset.
pub(crate) async fn tables(client: &Arc<Client>, dataset: &str) -> Result<Vec<SourceTable>> {
    if !is_name(dataset) {
        return Ok(Vec::new());
    }
    let doing = format!("list the tables of dataset {dataset}");
    let found = all::<Tables>(client, &doing, &["datasets", dataset, "tables"]).await?.unwrap_or_default();
    let shown =
        found.into_iter().filter(|found| is_name(&found.table_reference.table_id) && kind_of(&found.r#type).is_some());
    let mut tables: Vec<_> = shown
        .map(|found| SourceTable {
            kind: kind_of(&found.r#type).unwrap_or(TableKind::Table),
            name: found.table_reference.table_id,
            comment: found.friendly_name.filter(|name| !name.is_empty()),
        })
        .collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tables)
}

/// A table with all that planning needs; `None` when there is none of this name.
pub(crate) async fn relation(client: &Arc<Client>, dataset: &str, table: &str) -> Result<Option<Relation>> {
    if !is_name(dataset) || !is_name(table) {
        return Ok(None);
    }
    let _place = client.place().await?;
    let doing = format!("look up table {dataset}.{table}");
    let path = ["datasets", dataset, "tables", table];
    let found = client.look_up::<FoundTable>(&doing, &path, &[]).await?;
    let Some(found) = found else { return Ok(None) };
    let Some(kind) = kind_of(&found.r#type) else {
        let message = format!("table {dataset}.{table} is a {}, which cannot be read", shown(&found.r#type));
        return Err(Error::new(ErrorCode::NotSupported, message));
    };
    let keys = found.table_constraints.keys();
    Ok(Some(Relation {
        dataset: dataset.to_string(),
        table: table.to_string(),
        from: None,
        is_stored: matches!(found.r#type.as_str(), "TABLE" | "SNAPSHOT"),
        kind,
        columns: found.schema.into_columns(),
        rows: found.num_rows.and_then(|rows| rows.parse().ok()),
        bytes: found.num_bytes.and_then(|bytes| bytes.parse().ok()),
        location: shown(&found.location),
        keys,
    }))
}

/// Every entry of a list; `None` where there is no such list.
async fn all<P: Paged>(client: &Arc<Client>, doing: &str, path: &[&str]) -> Result<Option<Vec<P::Item>>> {
    let _place = client.place().await?;
    let (mut items, mut token) = (Vec::new(), None::<String>);
    loop {
        let mut parameters = vec![("maxResults", PAGE.to_string())];
        parameters.extend(token.clone().map(|token| ("pageToken", token)));
        let page = client.look_up::<P>(doing, path, &parameters).await?;
        let Some((found, next)) = page.map(Paged::take) else { return Ok(None) };
        items.extend(found);
        let next = next.filter(|next| !next.is_empty());
        if next.is_none() {
            return Ok(Some(items));
        }
        if next == token || items.len() > MOST {
            return Err(client.server().corrupt("a list without an end"));
        }
        token = next;
    }
}

impl FoundField {
    fn to_wire(&self) -> wire::Column {
        wire::Column {
            name: self.name.clone(),
            r#type: self.r#type.clone(),
            mode: self.mode.clone(),
            fields: self.fields.iter().map(Self::to_wire).collect(),
            range_element: self.range_element_type.r#type.clone(),
            collated: self.collation.as_ref().is_some_and(|collation| !collation.is_empty()),
            metadata: HashMap::new(),
        }
    }

    fn into_column(self) -> Column {
        let mut column = Column::from_wire(self.to_wire());
        let note = match column.unreadable() {
            Some(declared) => format!("type {declared} cannot be read"),
            None => String::new(),
        };
        let comment = self.description.unwrap_or_default();
        let entries = [(SOURCE_TYPE, column.source_type()), (NOTE, note), (COMMENT, comment)];
        let entries = entries.into_iter().filter(|(_, text)| !text.is_empty());
        column.metadata = entries.map(|(key, text)| (key.to_string(), text)).collect();
        column
    }
}

impl Constraints {
    fn keys(self) -> TableKeys {
        let foreign = self.foreign_keys.into_iter().map(|key| {
            let (columns, referenced_columns) =
                key.column_references.into_iter().map(|pair| (pair.referencing_column, pair.referenced_column)).unzip();
            ForeignKey {
                name: key.name,
                columns,
                referenced_schema: key.referenced_table.dataset_id,
                referenced_table: key.referenced_table.table_id,
                referenced_columns,
            }
        });
        let mut foreign: Vec<_> = foreign.collect();
        foreign.sort_by(|a, b| a.name.cmp(&b.name));
        TableKeys { primary: self.primary_key.columns, foreign }
    }
}

/// `None`: what has no rows (models, routines, whatever comes).
fn kind_of(declared: &str) -> Option<TableKind> {
    match declared {
        "TABLE" | "SNAPSHOT" => Some(TableKind::Table),
        "VIEW" => Some(TableKind::View),
        "MATERIALIZED_VIEW" => Some(TableKind::MaterializedView),
        "EXTERNAL" => Some(TableKind::Foreign),
        _ => None,
    }
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_tables_get_is_read() {
        // As Google's documentation of the resource has it.
        let answer = serde_json::json!({
            "kind": "bigquery#table", "tableReference": {"projectId": "p", "datasetId": "d", "tableId": "t"}, "type": "TABLE",
            "numRows": "7", "numBytes": "70", "location": "EU",
            "schema": {"fields": [
                {"name": "id", "type": "INTEGER", "mode": "REQUIRED", "description": "who"},
                {"name": "s", "type": "STRING", "collation": "und:ci"},
                {"name": "r", "type": "RANGE", "rangeElementType": {"type": "DATE"}},
                {"name": "v", "type": "INTERVAL"},
            ]},
            "tableConstraints": {"primaryKey": {"columns": ["id"]}, "foreignKeys": [{
                "name": "fk", "referencedTable": {"projectId": "p", "datasetId": "d", "tableId": "o"},
                "columnReferences": [{"referencingColumn": "s", "referencedColumn": "key"}]}]},
        });
        let found: FoundTable = serde_json::from_value(answer).unwrap();
        let keys = found.table_constraints.keys();
        assert_eq!((keys.primary, keys.foreign[0].referenced_columns.clone()), (vec!["id".into()], vec!["key".into()]));
        let columns: Vec<_> = found.schema.fields.into_iter().map(FoundField::into_column).collect();
        assert!(columns[1].is_collated && !columns[0].is_collated);
        assert_eq!(columns[0].metadata[COMMENT], "who");
        assert_eq!(columns[2].metadata[SOURCE_TYPE], "RANGE<DATE>");
        assert!(columns[3].metadata[NOTE].contains("INTERVAL"));
        assert_eq!(kind_of("MODEL"), None);
    }
}
