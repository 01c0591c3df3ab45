//! `catalog.information_schema.{schemata,tables,columns,views}`: built when a statement names them, from what the principal may
//! see, and not before: a list of all columns asks the catalog for every table.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int32Array, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use futures::{StreamExt, TryStreamExt, stream};
use townlake_common::{Error, ErrorCode, QueryContext, Result};
use townlake_connectors::{TableKind, column_comment};

use super::{Catalogs, INFORMATION_SCHEMA, TableName, sql_type};
use crate::query::visible_text;

/// Its tables.
pub(super) const TABLES: &[&str] = &["columns", "schemata", "tables", "views"];

/// Tables that are asked for their columns at the same time.
const CONCURRENCY: usize = 8;

/// The columns of one of its tables.
pub(super) fn schema_of(table: &str) -> Option<SchemaRef> {
    let text = |name: &str, nullable: bool| Field::new(name, DataType::Utf8, nullable);
    let fields = match table {
        "schemata" => vec![text("catalog_name", false), text("schema_name", false)],
        "tables" => vec![
            text("table_catalog", false),
            text("table_schema", false),
            text("table_name", false),
            text("table_type", false),
            text("comment", true),
        ],
        "columns" => vec![
            text("table_catalog", false),
            text("table_schema", false),
            text("table_name", false),
            text("column_name", false),
            Field::new("ordinal_position", DataType::Int32, false),
            text("is_nullable", false),
            text("data_type", false),
            text("comment", true),
        ],
        "views" => vec![
            text("table_catalog", false),
            text("table_schema", false),
            text("table_name", false),
            text("view_definition", true),
        ],
        _ => return None,
    };
    Some(Arc::new(Schema::new(fields)))
}

/// The rows of one of its tables; `None` when there is no such table.
pub(super) async fn batch(
    catalogs: &Catalogs,
    query: &Arc<QueryContext>,
    catalog: &str,
    table: &str,
) -> Result<Option<RecordBatch>> {
    let Some(schema) = schema_of(table) else { return Ok(None) };
    let columns = match table {
        "schemata" => schemata(catalogs, query, catalog).await?,
        "tables" => tables(catalogs, query, catalog).await?,
        "views" => views(catalogs, query, catalog).await?,
        _ => columns(catalogs, query, catalog).await?,
    };
    let batch = RecordBatch::try_new(schema, columns).map_err(|error| {
        Error::internal(format!("information_schema.{table} could not be built")).with_source(error)
    })?;
    Ok(Some(batch))
}

async fn schemata(catalogs: &Catalogs, query: &QueryContext, catalog: &str) -> Result<Vec<ArrayRef>> {
    let schemas = catalogs.list_schemas(query, catalog).await?;
    let names = vec![catalog; schemas.len()];
    Ok(vec![Arc::new(StringArray::from(names)), Arc::new(StringArray::from(schemas))])
}

async fn tables(catalogs: &Catalogs, query: &QueryContext, catalog: &str) -> Result<Vec<ArrayRef>> {
    let mut rows: [Vec<String>; 4] = Default::default();
    let mut comments = Vec::new();
    for schema in catalogs.list_schemas(query, catalog).await? {
        for table in catalogs.list_tables(query, catalog, &schema).await? {
            let [catalogs, schemas, names, kinds] = &mut rows;
            catalogs.push(catalog.to_string());
            schemas.push(schema.clone());
            names.push(table.name);
            kinds.push(table.kind.as_str().to_string());
            comments.push(table.comment);
        }
    }
    let mut columns: Vec<ArrayRef> = rows.into_iter().map(|column| Arc::new(StringArray::from(column)) as _).collect();
    columns.push(Arc::new(StringArray::from(comments)));
    Ok(columns)
}

async fn views(catalogs: &Catalogs, query: &Arc<QueryContext>, catalog: &str) -> Result<Vec<ArrayRef>> {
    let mut names = Vec::new();
    for schema in catalogs.list_schemas(query, catalog).await? {
        let tables = catalogs.list_tables(query, catalog, &schema).await?;
        let views = tables.into_iter().filter(|table| table.kind == TableKind::View && schema != INFORMATION_SCHEMA);
        names.extend(views.map(|view| TableName::new(catalog, &schema, view.name)));
    }
    // One that cannot be read must not hide the others: it has no text here.
    let texts: Vec<Option<String>> = stream::iter(names.clone())
        .map(|name| async move {
            let view = catalogs.view(query, &name).await.ok().flatten()?;
            visible_text(catalogs, &query.principal, &view).ok()
        })
        .buffered(CONCURRENCY)
        .collect()
        .await;
    let column = |part: fn(&TableName) -> &str| -> ArrayRef {
        Arc::new(names.iter().map(|name| Some(part(name))).collect::<StringArray>())
    };
    Ok(vec![
        column(|name| &name.catalog),
        column(|name| &name.schema),
        column(|name| &name.table),
        Arc::new(StringArray::from(texts)),
    ])
}

async fn columns(catalogs: &Catalogs, query: &Arc<QueryContext>, catalog: &str) -> Result<Vec<ArrayRef>> {
    let mut names = Vec::new();
    for schema in catalogs.list_schemas(query, catalog).await? {
        for table in catalogs.list_tables(query, catalog, &schema).await? {
            names.push(TableName::new(catalog, &schema, table.name));
        }
    }
    let described: Vec<(TableName, Option<SchemaRef>)> = stream::iter(names)
        .map(|name| async move {
            let schema = columns_of(catalogs, query, &name).await?;
            Ok::<_, Error>((name, schema))
        })
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;

    let mut rows: [Vec<String>; 6] = Default::default();
    let mut positions = Vec::new();
    let mut comments = Vec::new();
    for (name, schema) in described {
        let Some(schema) = schema else { continue };
        for (field, position) in schema.fields().iter().zip(1i32..) {
            let [catalogs, schemas, tables, names, nullable, types] = &mut rows;
            catalogs.push(name.catalog.clone());
            schemas.push(name.schema.clone());
            tables.push(name.table.clone());
            names.push(field.name().clone());
            nullable.push(if field.is_nullable() { "YES" } else { "NO" }.to_string());
            types.push(sql_type(field.data_type()));
            positions.push(position);
            comments.push(column_comment(field));
        }
    }
    let mut columns: Vec<ArrayRef> = rows.into_iter().map(|column| Arc::new(StringArray::from(column)) as _).collect();
    columns.insert(4, Arc::new(Int32Array::from(positions)));
    columns.push(Arc::new(StringArray::from(comments)));
    Ok(columns)
}

/// The columns of one table. One that cannot be read (a format that we refuse, damage, one that was just dropped) has none here;
/// it must not hide the others.
async fn columns_of(catalogs: &Catalogs, query: &Arc<QueryContext>, name: &TableName) -> Result<Option<SchemaRef>> {
    match Box::pin(catalogs.table_schema(query, &name.catalog, &name.schema, &name.table)).await {
        Ok(schema) => Ok(schema),
        Err(error)
            if matches!(
                error.code(),
                ErrorCode::FormatNotSupported
                    | ErrorCode::FileNotFound
                    | ErrorCode::DataCorrupt
                    | ErrorCode::TableNotFound
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
