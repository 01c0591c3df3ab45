//! From names as users write them to names of three parts, and what is said when there is no such thing.

use std::fmt;

use townlake_common::{Error, ErrorCode, Principal, QueryContext, Result, nearest};
use townlake_engine::identifier::quoted;

use super::Catalogs;

/// A table's full name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Its catalog.
    pub catalog: String,
    /// Its schema.
    pub schema: String,
    /// Its own name.
    pub table: String,
}

impl TableName {
    /// The name of these parts.
    pub fn new(catalog: impl Into<String>, schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { catalog: catalog.into(), schema: schema.into(), table: table.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.catalog, self.schema, self.table)
    }
}

/// The session's current catalog and schema, which complete short names.
#[derive(Debug, Clone, Default)]
pub struct Current {
    /// The current catalog.
    pub catalog: Option<String>,
    /// The current schema.
    pub schema: Option<String>,
}

impl Current {
    /// The full name of a table given by one to three parts.
    ///
    /// Errors: `TABLE_NOT_FOUND` for a short name where nothing is current, `INVALID_QUERY` for too many parts.
    pub fn table(&self, parts: &[String]) -> Result<TableName> {
        match (parts, &self.catalog, &self.schema) {
            ([catalog, schema, table], ..) => Ok(TableName::new(catalog, schema, table)),
            ([schema, table], Some(catalog), _) => Ok(TableName::new(catalog, schema, table)),
            ([table], Some(catalog), Some(schema)) => Ok(TableName::new(catalog, schema, table)),
            ([] | [_, _, _, _, ..], ..) => Err(too_many(parts)),
            _ => {
                let message = format!("table {} is not found: no catalog and schema are current", parts.join("."));
                Err(Error::new(ErrorCode::TableNotFound, message)
                    .with_hint("write catalog.schema.table, or USE catalog.schema"))
            }
        }
    }

    /// Catalog and schema of a schema given by one or two parts.
    ///
    /// Errors: `SCHEMA_NOT_FOUND` for a short name where no catalog is current, `INVALID_QUERY` for too many parts.
    pub fn schema(&self, parts: &[String]) -> Result<(String, String)> {
        match (parts, &self.catalog) {
            ([catalog, schema], _) => Ok((catalog.clone(), schema.clone())),
            ([schema], Some(catalog)) => Ok((catalog.clone(), schema.clone())),
            ([schema], None) => {
                let message = format!("schema {schema} is not found: no catalog is current");
                Err(Error::new(ErrorCode::SchemaNotFound, message)
                    .with_hint("write catalog.schema, or USE catalog.schema"))
            }
            _ => Err(too_many(parts)),
        }
    }
}

fn too_many(parts: &[String]) -> Error {
    Error::new(ErrorCode::InvalidQuery, format!("the name {} has the wrong number of parts", parts.join(".")))
}

impl Catalogs {
    /// Checks that the schema is there for this principal.
    ///
    /// Errors: `CATALOG_NOT_FOUND`, `SCHEMA_NOT_FOUND`, each with the nearest visible name.
    pub async fn check_schema(&self, query: &QueryContext, catalog: &str, schema: &str) -> Result<()> {
        let schemas = self.list_schemas(query, catalog).await?;
        if schemas.iter().any(|name| name == schema) {
            return Ok(());
        }
        let error = Error::new(ErrorCode::SchemaNotFound, format!("schema {catalog}.{schema} does not exist"));
        Err(with_nearest(
            error,
            schema,
            &schemas,
            |name| format!("{}.{}", quoted(catalog), quoted(name)),
            "SHOW SCHEMAS",
        ))
    }

    /// The error for a catalog that is not there for this principal: the same for one that is hidden and one that is not.
    pub(crate) fn catalog_not_found(&self, principal: &Principal, catalog: &str) -> Error {
        catalog_not_found(&self.list_catalogs(principal), catalog)
    }

    /// The error for a table that its catalog does not have: the schema is missing, or the table, or it is a view.
    pub(crate) async fn not_found(&self, query: &QueryContext, name: &TableName) -> Error {
        if let Err(error) = self.check_schema(query, &name.catalog, &name.schema).await {
            return error;
        }
        if let Err(error) = self.check_no_view(query, name).await {
            return error;
        }
        let error = Error::new(ErrorCode::TableNotFound, format!("table {name} does not exist"));
        // The hint is a courtesy: where the list cannot be had, the error stands without it.
        let tables = self.list_tables(query, &name.catalog, &name.schema).await.unwrap_or_default();
        let tables: Vec<String> = tables.into_iter().map(|table| table.name).collect();
        let full = |table: &str| format!("{}.{}.{}", quoted(&name.catalog), quoted(&name.schema), quoted(table));
        with_nearest(error, &name.table, &tables, full, "SHOW TABLES")
    }
}

/// Only names that the principal may see are ever suggested.
fn catalog_not_found(visible: &[String], catalog: &str) -> Error {
    let error = Error::new(ErrorCode::CatalogNotFound, format!("catalog {catalog} does not exist"));
    with_nearest(error, catalog, visible, |name| quoted(name).into_owned(), "SHOW CATALOGS")
}

fn with_nearest(error: Error, wanted: &str, names: &[String], full: impl Fn(&str) -> String, show: &str) -> Error {
    match nearest(wanted, names.iter().map(String::as_str)) {
        Some(near) => error.with_hint(format!("did you mean {}?", full(near))),
        None => error.with_hint(format!("{show} lists what is there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(name: &str) -> Vec<String> {
        name.split('.').map(str::to_string).collect()
    }

    #[test]
    fn short_names_are_completed() {
        let current = Current { catalog: Some("lake".to_string()), schema: Some("tpch".to_string()) };
        assert_eq!(current.table(&parts("t")).unwrap().to_string(), "lake.tpch.t");
        assert_eq!(current.table(&parts("s.t")).unwrap().to_string(), "lake.s.t");
        assert_eq!(current.table(&parts("c.s.t")).unwrap().to_string(), "c.s.t");
        assert_eq!(current.table(&parts("a.b.c.d")).unwrap_err().code(), ErrorCode::InvalidQuery);
        assert_eq!(current.schema(&parts("s")).unwrap(), ("lake".to_string(), "s".to_string()));
    }

    #[test]
    fn only_visible_names_are_suggested() {
        let visible = ["lake".to_string(), "system".to_string()];
        assert_eq!(catalog_not_found(&visible, "lakes").hint(), Some("did you mean lake?"));
        let mixed = ["My Lake".to_string()];
        assert_eq!(catalog_not_found(&mixed, "my lake").hint(), Some("did you mean \"My Lake\"?"));
        let hidden = catalog_not_found(&visible, "ledger");
        let missing = catalog_not_found(&visible, "ledgex");
        assert_eq!(hidden.to_string().replace("ledger", "ledgex"), missing.to_string());
    }

    #[test]
    fn without_a_current_catalog_a_short_name_says_what_to_do() {
        let error = Current::default().table(&parts("orders")).unwrap_err();
        assert_eq!(error.code(), ErrorCode::TableNotFound);
        assert!(error.hint().unwrap().contains("USE catalog.schema"));
        assert_eq!(Current::default().schema(&parts("s")).unwrap_err().code(), ErrorCode::SchemaNotFound);
    }
}
