//! Catalogs, schemas and tables as Flight SQL clients browse them: what the caller may read, and nothing else.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::compute::kernels::comparison::like;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::error::FlightError;
use arrow_flight::sql::{Command, CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables};
use futures::future::try_join_all;
use townlake_common::{Error, ErrorCode, QueryContext, QueryId, Result};
use townlake_connectors::TableKind;

use super::{keys, results, sql_info};
use crate::catalogs::Catalogs;
use crate::session::Session;

/// Table schemas that are read at the same time.
const CONCURRENT_LOADS: usize = 8;

/// The columns of the answer to a metadata command; `None` when it is not one.
pub fn schema_of(command: &Command) -> Result<Option<SchemaRef>> {
    Ok(Some(match command {
        Command::CommandGetCatalogs(command) => command.into_builder().schema(),
        Command::CommandGetDbSchemas(command) => command.clone().into_builder().schema(),
        Command::CommandGetTables(command) => command.clone().into_builder().schema(),
        Command::CommandGetTableTypes(command) => command.into_builder().schema(),
        Command::CommandGetSqlInfo(_) => sql_info::capabilities()?.schema(),
        Command::CommandGetXdbcTypeInfo(_) => sql_info::types()?.schema(),
        Command::CommandGetPrimaryKeys(_) => keys::primary_schema(),
        Command::CommandGetExportedKeys(_)
        | Command::CommandGetImportedKeys(_)
        | Command::CommandGetCrossReference(_) => keys::foreign_schema(),
        _ => return Ok(None),
    }))
}

/// The answer to a metadata command; `None` when it is not one.
///
/// Errors: what a catalog that the command names reports. One that it does not name and that is down is left out.
pub async fn answer(catalogs: &Catalogs, session: &Session, command: Command) -> Result<Option<RecordBatch>> {
    let browser =
        Browser { catalogs, session, query: QueryContext::new(QueryId::generate(), session.principal.clone()) };
    Ok(Some(match command {
        Command::CommandGetCatalogs(command) => browser.catalogs(command)?,
        Command::CommandGetDbSchemas(command) => browser.schemas(command).await?,
        Command::CommandGetTables(command) => browser.tables(command).await?,
        Command::CommandGetTableTypes(command) => browser.table_types(command)?,
        Command::CommandGetSqlInfo(command) => {
            command.into_builder(sql_info::capabilities()?).build().map_err(unbuildable)?
        }
        Command::CommandGetXdbcTypeInfo(command) => {
            command.into_builder(sql_info::types()?).build().map_err(unbuildable)?
        }
        Command::CommandGetPrimaryKeys(command) => keys::primary(&browser, command).await?,
        Command::CommandGetExportedKeys(command) => keys::exported(&browser, command).await?,
        Command::CommandGetImportedKeys(command) => keys::imported(&browser, command).await?,
        Command::CommandGetCrossReference(command) => keys::cross(&browser, command).await?,
        _ => return Ok(None),
    }))
}

/// One caller's look at the catalogs.
pub struct Browser<'a> {
    pub(super) catalogs: &'a Catalogs,
    pub(super) session: &'a Session,
    pub(super) query: Arc<QueryContext>,
}

impl Browser<'_> {
    fn catalogs(&self, command: CommandGetCatalogs) -> Result<RecordBatch> {
        let mut rows = command.into_builder();
        for catalog in self.catalogs.list_catalogs(&self.session.principal) {
            rows.append(catalog);
        }
        rows.build().map_err(unbuildable)
    }

    async fn schemas(&self, command: CommandGetDbSchemas) -> Result<RecordBatch> {
        let pattern = command.db_schema_filter_pattern.clone();
        let found = self.schemas_like(command.catalog.as_deref(), pattern.as_deref()).await?;
        let mut rows = command.into_builder();
        for (catalog, schema) in found {
            rows.append(catalog, schema);
        }
        rows.build().map_err(unbuildable)
    }

    async fn tables(&self, command: CommandGetTables) -> Result<RecordBatch> {
        let schemas =
            self.schemas_like(command.catalog.as_deref(), command.db_schema_filter_pattern.as_deref()).await?;
        let mut found = Vec::new();
        for (catalog, schema) in schemas {
            let listed = self.catalogs.list_tables(&self.query, &catalog, &schema).await;
            let Some(tables) = self.or_left_out(&catalog, command.catalog.is_some(), listed)? else { continue };
            let (names, kinds): (Vec<_>, Vec<_>) = tables.into_iter().map(|table| (table.name, table.kind)).unzip();
            let matches = matching(&names, command.table_name_filter_pattern.as_deref())?;
            for ((name, kind), matches) in names.into_iter().zip(kinds).zip(matches) {
                let kind = kind_name(kind);
                if matches
                    && (command.table_types.is_empty() || command.table_types.iter().any(|wanted| wanted == kind))
                {
                    found.push((catalog.clone(), schema.clone(), name, kind));
                }
            }
        }
        let (include_schema, named) = (command.include_schema, command.catalog.is_some());
        let mut rows = command.into_builder();
        for found in found.chunks(CONCURRENT_LOADS) {
            let columns = match include_schema {
                true => self.all_columns(found, named).await?,
                false => found.iter().map(|_| Arc::new(Schema::empty())).collect(),
            };
            for ((catalog, schema, table, kind), columns) in found.iter().zip(columns) {
                rows.append(catalog, schema, table, kind, &columns).map_err(unbuildable)?;
            }
        }
        rows.build().map_err(unbuildable)
    }

    /// The columns of several tables, read at the same time.
    async fn all_columns(&self, tables: &[(String, String, String, &str)], named: bool) -> Result<Vec<SchemaRef>> {
        let mut loads = Vec::with_capacity(tables.len());
        for (catalog, schema, table, _) in tables {
            loads.push(self.columns(catalog, schema, table, named));
        }
        let columns = try_join_all(loads).await?;
        Ok(columns.into_iter().map(|columns| columns.unwrap_or_else(|| Arc::new(Schema::empty()))).collect())
    }

    /// The columns of a table as clients see them; none where it cannot be read, so that it is listed all the same.
    async fn columns(&self, catalog: &str, schema: &str, table: &str, named: bool) -> Result<Option<SchemaRef>> {
        match self.catalogs.table_schema(&self.query, catalog, schema, table).await {
            Ok(columns) => Ok(columns.map(|columns| results::wire_schema(&columns))),
            Err(error)
                if matches!(
                    error.code(),
                    ErrorCode::FormatNotSupported | ErrorCode::DataCorrupt | ErrorCode::FileNotFound
                ) =>
            {
                Ok(None)
            }
            Err(error) => self.or_left_out(catalog, named, Err(error)),
        }
    }

    fn table_types(&self, command: CommandGetTableTypes) -> Result<RecordBatch> {
        let mut rows = command.into_builder();
        for kind in [TableKind::Table, TableKind::View, TableKind::MaterializedView, TableKind::Foreign] {
            rows.append(kind_name(kind));
        }
        rows.build().map_err(unbuildable)
    }

    /// Catalog and schema pairs: of one catalog or all, with names like the pattern.
    pub(super) async fn schemas_like(
        &self,
        catalog: Option<&str>,
        pattern: Option<&str>,
    ) -> Result<Vec<(String, String)>> {
        let readable = self.catalogs.list_catalogs(&self.session.principal);
        let mut found = Vec::new();
        for name in readable.into_iter().filter(|name| catalog.is_none_or(|wanted| wanted == name)) {
            let listed = self.catalogs.list_schemas(&self.query, &name).await;
            let Some(schemas) = self.or_left_out(&name, catalog.is_some(), listed)? else { continue };
            let matches = matching(&schemas, pattern)?;
            let matching = schemas.into_iter().zip(matches).filter(|(_, matches)| *matches);
            found.extend(matching.map(|(schema, _)| (name.clone(), schema)));
        }
        Ok(found)
    }

    /// A catalog that is down must not hide the others, unless the caller asked for it.
    pub(super) fn or_left_out<T>(&self, catalog: &str, named: bool, listed: Result<T>) -> Result<Option<T>> {
        match listed {
            Ok(found) => Ok(Some(found)),
            Err(error) if named => Err(error),
            Err(error) => {
                tracing::warn!(catalog, code = %error.code(), "a catalog is left out of a listing: it cannot be read");
                Ok(None)
            }
        }
    }
}

/// The word for a kind of table that JDBC tools know.
pub fn kind_name(kind: TableKind) -> &'static str {
    match kind {
        TableKind::Table => "TABLE",
        other => other.as_str(),
    }
}

/// Which names are like the pattern (`%`, `_`, `\` escapes); all, without one.
fn matching(names: &[String], pattern: Option<&str>) -> Result<Vec<bool>> {
    let Some(pattern) = pattern else { return Ok(vec![true; names.len()]) };
    let matches = like(&StringArray::from_iter_values(names), &StringArray::new_scalar(pattern))
        .map_err(|e| Error::new(ErrorCode::InvalidArgument, "the filter pattern cannot be used").with_source(e))?;
    Ok(matches.iter().map(|matches| matches == Some(true)).collect())
}

pub(super) fn unbuildable(error: FlightError) -> Error {
    Error::internal("a metadata answer cannot be built").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_like() {
        let names: Vec<String> = ["orders", "order_items", "lineitem"].map(String::from).to_vec();
        assert_eq!(matching(&names, None).unwrap(), [true, true, true]);
        assert_eq!(matching(&names, Some("order%")).unwrap(), [true, true, false]);
        assert_eq!(matching(&names, Some("order_")).unwrap(), [true, false, false]);
        assert_eq!(matching(&names, Some("order\\_items")).unwrap(), [false, true, false]);
        assert_eq!(matching(&names, Some("")).unwrap(), [false, false, false]);
    }
}
