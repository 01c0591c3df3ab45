//! Primary and foreign keys, as sources declare them.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, UInt8Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::sql::{
    CommandGetCrossReference, CommandGetExportedKeys, CommandGetImportedKeys, CommandGetPrimaryKeys, UpdateDeleteRules,
};
use townlake_common::{Error, Result};
use townlake_connectors::ForeignKey;

use super::metadata::Browser;

static PRIMARY: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        text("key_name", true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
});

static FOREIGN: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
});

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

/// The columns of a list of primary keys.
pub fn primary_schema() -> SchemaRef {
    Arc::clone(&PRIMARY)
}

/// The columns of a list of foreign keys.
pub fn foreign_schema() -> SchemaRef {
    Arc::clone(&FOREIGN)
}

/// A table that a command names, with the catalog and schema that it may leave out.
struct Place {
    catalog: String,
    schema: String,
    table: String,
}

/// One column of a foreign key.
struct Reference {
    to: Place,
    to_column: String,
    from: Place,
    from_column: String,
    sequence: i32,
    name: String,
}

/// `GetPrimaryKeys`.
pub async fn primary(browser: &Browser<'_>, command: CommandGetPrimaryKeys) -> Result<RecordBatch> {
    let mut rows: Vec<(Place, String, i32)> = Vec::new();
    for place in places(browser, command.catalog, command.db_schema, &command.table).await? {
        let keys = browser.catalogs.keys(&browser.query, &place.catalog, &place.schema, &place.table).await?;
        for (column, sequence) in keys.primary.into_iter().zip(1..) {
            let place =
                Place { catalog: place.catalog.clone(), schema: place.schema.clone(), table: place.table.clone() };
            rows.push((place, column, sequence));
        }
    }
    let texts = |of: fn(&(Place, String, i32)) -> &str| strings(rows.iter().map(|row| Some(of(row))));
    let columns: Vec<ArrayRef> = vec![
        texts(|(place, _, _)| &place.catalog),
        texts(|(place, _, _)| &place.schema),
        texts(|(place, _, _)| &place.table),
        texts(|(_, column, _)| column),
        strings(rows.iter().map(|_| None)),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|(_, _, sequence)| *sequence))),
    ];
    RecordBatch::try_new(primary_schema(), columns).map_err(misbuilt)
}

/// `GetImportedKeys`: the keys of a table that refer to others.
pub async fn imported(browser: &Browser<'_>, command: CommandGetImportedKeys) -> Result<RecordBatch> {
    let mut found = Vec::new();
    for place in places(browser, command.catalog, command.db_schema, &command.table).await? {
        found.extend(references_of(browser, &place.catalog, &place.schema, &place.table).await?);
    }
    batch(found)
}

/// `GetExportedKeys`: the keys of other tables that refer to a table. They lie in its catalog, for no source knows another.
pub async fn exported(browser: &Browser<'_>, command: CommandGetExportedKeys) -> Result<RecordBatch> {
    let mut found = Vec::new();
    for place in places(browser, command.catalog, command.db_schema, &command.table).await? {
        for (catalog, schema) in browser.schemas_like(Some(&place.catalog), None).await? {
            for table in browser.catalogs.list_tables(&browser.query, &catalog, &schema).await? {
                let references = references_of(browser, &catalog, &schema, &table.name).await?;
                found.extend(
                    references.into_iter().filter(|r| r.to.schema == place.schema && r.to.table == place.table),
                );
            }
        }
    }
    batch(found)
}

/// `GetCrossReference`: the keys of one table that refer to another.
pub async fn cross(browser: &Browser<'_>, command: CommandGetCrossReference) -> Result<RecordBatch> {
    let mut found = Vec::new();
    for place in places(browser, command.fk_catalog, command.fk_db_schema, &command.fk_table).await? {
        let references = references_of(browser, &place.catalog, &place.schema, &place.table).await?;
        found.extend(references.into_iter().filter(|reference| {
            let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
            reference.to.table == command.pk_table
                && is(&command.pk_catalog, &reference.to.catalog)
                && is(&command.pk_db_schema, &reference.to.schema)
        }));
    }
    batch(found)
}

/// Where the table may lie: catalog and schema as given, else the session's, else every one.
async fn places(
    browser: &Browser<'_>,
    catalog: Option<String>,
    schema: Option<String>,
    table: &str,
) -> Result<Vec<Place>> {
    let (current_catalog, current_schema) = browser.session.current();
    let current_schema = if catalog.is_none() || catalog == current_catalog { current_schema } else { None };
    let catalog = catalog.or(current_catalog);
    let schema = schema.or(current_schema);
    let found = browser.schemas_like(catalog.as_deref(), None).await?;
    Ok(found
        .into_iter()
        .filter(|(_, name)| schema.as_ref().is_none_or(|wanted| wanted == name))
        .map(|(catalog, schema)| Place { catalog, schema, table: table.to_string() })
        .collect())
}

async fn references_of(browser: &Browser<'_>, catalog: &str, schema: &str, table: &str) -> Result<Vec<Reference>> {
    let keys = browser.catalogs.keys(&browser.query, catalog, schema, table).await?;
    let place = |schema: &str, table: &str| Place {
        catalog: catalog.to_string(),
        schema: schema.to_string(),
        table: table.to_string(),
    };
    let columns = |key: ForeignKey| {
        let pairs = key.columns.into_iter().zip(key.referenced_columns).zip(1..).collect::<Vec<_>>();
        pairs.into_iter().map(move |((from_column, to_column), sequence)| Reference {
            to: place(&key.referenced_schema, &key.referenced_table),
            to_column,
            from: place(schema, table),
            from_column,
            sequence,
            name: key.name.clone(),
        })
    };
    Ok(keys.foreign.into_iter().flat_map(columns).collect())
}

/// Ordered as the standard asks: by the table referred to, the key, the column.
fn batch(mut found: Vec<Reference>) -> Result<RecordBatch> {
    found.sort_by(|a, b| order(a).cmp(&order(b)));
    let texts = |of: fn(&Reference) -> &str| strings(found.iter().map(|reference| Some(of(reference))));
    // The rules of the sources are not known here; to do nothing is what SQL does without one.
    let rule = u8::try_from(UpdateDeleteRules::NoAction as i32).unwrap_or_default();
    let rules: ArrayRef = Arc::new(UInt8Array::from_value(rule, found.len()));
    let columns: Vec<ArrayRef> = vec![
        texts(|r| &r.to.catalog),
        texts(|r| &r.to.schema),
        texts(|r| &r.to.table),
        texts(|r| &r.to_column),
        texts(|r| &r.from.catalog),
        texts(|r| &r.from.schema),
        texts(|r| &r.from.table),
        texts(|r| &r.from_column),
        Arc::new(Int32Array::from_iter_values(found.iter().map(|reference| reference.sequence))),
        texts(|r| &r.name),
        strings(found.iter().map(|_| None)),
        Arc::clone(&rules),
        rules,
    ];
    RecordBatch::try_new(foreign_schema(), columns).map_err(misbuilt)
}

fn order(reference: &Reference) -> (&str, &str, &str, &str, &str, i32) {
    let Reference { to, from, name, sequence, .. } = reference;
    (&to.schema, &to.table, &from.schema, &from.table, name, *sequence)
}

fn strings<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn misbuilt(error: arrow::error::ArrowError) -> Error {
    Error::internal("a list of keys cannot be built").with_source(error)
}
