//! Views of the lake, as one principal sees them.

use std::sync::Arc;

use townlake_common::{Error, ErrorCode, Principal, QueryContext, Result};
use townlake_connectors::{SourceTable, TableKind};
use townlake_lake::{LakeCatalog, LoadedView, MetadataTable};

use super::{Backend, Catalogs, INFORMATION_SCHEMA, TableName};

impl Catalogs {
    /// A view; `None` when there is none of this name, or a table has it.
    ///
    /// Errors: `DATA_CORRUPT`, and what catalogs report.
    pub async fn view(&self, query: &QueryContext, name: &TableName) -> Result<Option<LoadedView>> {
        match self.backend(&query.principal, &name.catalog).await? {
            Backend::Lake(lake) if may_be_view(name) => lake.load_view(&name.schema, &name.table).await,
            _ => Ok(None),
        }
    }

    /// Refuses the name of a view where a table is meant. Whatever the view's metadata say, it is not read for that.
    ///
    /// Errors: `NOT_SUPPORTED`.
    pub async fn check_no_view(&self, query: &QueryContext, name: &TableName) -> Result<()> {
        let there = match self.backend(&query.principal, &name.catalog).await? {
            Backend::Lake(lake) if may_be_view(name) => lake.list_views(&name.schema).await?.contains(&name.table),
            _ => false,
        };
        match there {
            true => Err(Error::new(ErrorCode::NotSupported, format!("{name} is a view, not a table")).with_hint(
                "rows are changed in the tables that it reads; CREATE OR REPLACE, ALTER, COMMENT ON and DROP VIEW change it",
            )),
            false => Ok(()),
        }
    }

    /// The error for a view that is not there: a table has the name, or nothing has.
    pub(crate) async fn view_not_found(&self, query: &Arc<QueryContext>, name: &TableName) -> Error {
        match self.table(query, name, None).await {
            Ok(Some(_)) => Error::new(ErrorCode::NotSupported, format!("{name} is a table, not a view"))
                .with_hint("DROP TABLE, ALTER TABLE and COMMENT ON TABLE are for tables"),
            Ok(None) | Err(_) => {
                let error = self.not_found(query, name).await;
                match error.code() {
                    ErrorCode::TableNotFound => {
                        let missing = Error::new(ErrorCode::TableNotFound, format!("view {name} does not exist"));
                        missing.with_hint(error.hint().unwrap_or("SHOW VIEWS lists what is there"))
                    }
                    _ => error,
                }
            }
        }
    }

    /// Whether the principal may know of the catalog.
    pub(crate) fn knows(&self, principal: &Principal, catalog: &str) -> bool {
        catalog == super::SYSTEM || self.access.can_read(principal, catalog)
    }
}

/// Tables and views of a schema of the lake, sorted.
pub(super) async fn tables_and_views(lake: &LakeCatalog, schema: &str) -> Result<Vec<SourceTable>> {
    let (tables, views) = tokio::try_join!(lake.list_tables(schema), lake.list_views(schema))?;
    let named = |kind: TableKind| move |name: String| SourceTable { name, kind, comment: None };
    let mut all: Vec<SourceTable> = tables.into_iter().map(named(TableKind::Table)).collect();
    all.extend(views.into_iter().map(named(TableKind::View)));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn may_be_view(name: &TableName) -> bool {
    name.schema != INFORMATION_SCHEMA && !MetadataTable::is_name_of_one(&name.table)
}
