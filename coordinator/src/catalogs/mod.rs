//! The catalogs as one principal sees them.
//!
//! Every look-up takes the principal. A catalog that it may not read does not exist for it: not in lists, not in
//! look-ups, not in the hints of errors. `system` is there for everyone and shows each principal its own.

mod information_schema;
mod names;
mod types;
mod views;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use tokio::sync::OnceCell;
use townlake_common::config::{CatalogConfig, IcebergCatalog};
use townlake_common::{Error, ErrorCode, Pinned, Principal, QueryContext, Result};
use townlake_connectors::{Source, SourceConnections, SourceTable, TableKeys, TableKind};
use townlake_governance::Access;
use townlake_lake::{
    LakeCatalog, LakeObjects, LakeTable, LoadedTable, MetadataTable, PinnedSnapshot, TableVersion, VersionRead,
};

pub use names::{Current, TableName};
pub use types::sql_type;

use crate::system::System;

/// The schema of every catalog that describes the catalog itself.
pub const INFORMATION_SCHEMA: &str = "information_schema";

/// The catalog that describes this coordinator.
pub const SYSTEM: &str = "system";

/// The catalogs of the configuration and `system`, behind the access rules.
pub struct Catalogs {
    access: Access,
    lakes: BTreeMap<String, Lake>,
    objects: LakeObjects,
    sources: Arc<SourceConnections>,
    system: Arc<System>,
}

/// An Iceberg catalog, opened when it is first asked for: one that is down must not keep the others from working.
struct Lake {
    config: Box<IcebergCatalog>,
    catalog: OnceCell<Arc<LakeCatalog>>,
}

/// What answers for a catalog's name.
enum Backend {
    Lake(Arc<LakeCatalog>),
    Source(Arc<dyn Source>),
    System,
}

impl Catalogs {
    /// The catalogs of a configuration.
    pub(crate) fn new(
        catalogs: &BTreeMap<String, CatalogConfig>,
        objects: LakeObjects,
        sources: Arc<SourceConnections>,
        system: Arc<System>,
    ) -> Self {
        let lakes = catalogs.iter().filter_map(|(name, catalog)| match catalog {
            CatalogConfig::Iceberg(config) => {
                Some((name.clone(), Lake { config: config.clone(), catalog: OnceCell::new() }))
            }
            CatalogConfig::Postgres(_)
            | CatalogConfig::ClickHouse(_)
            | CatalogConfig::Kafka(_)
            | CatalogConfig::BigQuery(_)
            | CatalogConfig::Files(_) => None,
        });
        Self { access: Access::new(catalogs), lakes: lakes.collect(), objects, sources, system }
    }

    /// The connections to sources, for the configuration of sessions.
    pub(crate) fn sources(&self) -> &Arc<SourceConnections> {
        &self.sources
    }

    /// Whether the name is one of the configuration's, or `system`: whatever is made of that name is hidden.
    pub(crate) fn is_configured(&self, name: &str) -> bool {
        name == SYSTEM || self.access.knows(name)
    }

    /// A catalog that was made, as it is now; `None` also where the principal may not read it.
    async fn made(&self, principal: &Principal, name: &str) -> Result<Option<Arc<dyn Source>>> {
        if self.is_configured(name) {
            return Ok(None);
        }
        self.sources.ensure(name).await?;
        let made = self.sources.made_named(name).filter(|made| made.config.readable_by(principal));
        Ok(made.and_then(|_| self.sources.source(name)))
    }

    /// The catalogs that the principal may read, sorted, `system` among them.
    pub fn list_catalogs(&self, principal: &Principal) -> Vec<String> {
        let mut names: Vec<String> = self.access.readable_catalogs(principal).into_iter().map(str::to_string).collect();
        let made = self.sources.made().into_iter().filter(|made| made.config.readable_by(principal));
        names.extend(made.map(|made| made.definition.name.clone()).filter(|name| !self.is_configured(name)));
        names.push(SYSTEM.to_string());
        names.sort();
        names
    }

    /// The schemas of a catalog, sorted, `information_schema` among them.
    ///
    /// Errors (of every call that names a catalog): `CATALOG_NOT_FOUND` where the principal may not read it, and what the
    /// catalog itself reports.
    pub async fn list_schemas(&self, query: &QueryContext, catalog: &str) -> Result<Vec<String>> {
        let mut schemas = match self.backend(&query.principal, catalog).await? {
            Backend::Lake(lake) => lake.list_schemas().await?,
            Backend::Source(source) => source.list_schemas(query).await?,
            Backend::System => vec![crate::system::RUNTIME.to_string()],
        };
        schemas.retain(|schema| schema != INFORMATION_SCHEMA);
        schemas.push(INFORMATION_SCHEMA.to_string());
        schemas.sort();
        Ok(schemas)
    }

    /// The tables and views of a schema, sorted by name; none when there is no such schema.
    pub async fn list_tables(&self, query: &QueryContext, catalog: &str, schema: &str) -> Result<Vec<SourceTable>> {
        let named = |name: &str, kind: TableKind| SourceTable { name: name.to_string(), kind, comment: None };
        let backend = self.backend(&query.principal, catalog).await?;
        if schema == INFORMATION_SCHEMA {
            return Ok(information_schema::TABLES.iter().map(|name| named(name, TableKind::View)).collect());
        }
        match backend {
            Backend::Lake(lake) => views::tables_and_views(&lake, schema).await,
            Backend::Source(source) => source.list_tables(query, schema).await,
            Backend::System if schema == crate::system::RUNTIME => {
                Ok(crate::system::TABLES.iter().map(|name| named(name, TableKind::View)).collect())
            }
            Backend::System => Ok(Vec::new()),
        }
    }

    /// The columns of a table or view with their comments; `None` when there is no such thing.
    pub async fn table_schema(
        &self,
        query: &Arc<QueryContext>,
        catalog: &str,
        schema: &str,
        table: &str,
    ) -> Result<Option<SchemaRef>> {
        if schema == INFORMATION_SCHEMA {
            self.backend(&query.principal, catalog).await?;
            return Ok(information_schema::schema_of(table));
        }
        let name = TableName::new(catalog, schema, table);
        let Some(table) = self.table_read(query, &name, None, Reading::Columns).await? else {
            return Ok(self.view(query, &name).await?.map(|view| view.described));
        };
        Ok(Some(match table.downcast_ref::<LakeTable>() {
            Some(lake) => lake.loaded().described(),
            None => table.schema(),
        }))
    }

    /// The declared keys of a table; Iceberg tables have none.
    pub async fn keys(&self, query: &QueryContext, catalog: &str, schema: &str, table: &str) -> Result<TableKeys> {
        match self.backend(&query.principal, catalog).await? {
            Backend::Source(source) => source.keys(query, schema, table).await,
            Backend::Lake(_) | Backend::System => Ok(TableKeys::default()),
        }
    }

    /// A table, ready to be planned; `None` when there is none of this name.
    ///
    /// Errors: `NOT_SUPPORTED` for a version of a table that keeps none.
    pub async fn table(
        &self,
        query: &Arc<QueryContext>,
        name: &TableName,
        version: Option<&TableVersion>,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        self.table_read(query, name, version, Reading::Rows).await
    }

    async fn table_read(
        &self,
        query: &Arc<QueryContext>,
        name: &TableName,
        version: Option<&TableVersion>,
        reading: Reading,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        let backend = self.backend(&query.principal, &name.catalog).await?;
        let is_lake = matches!(backend, Backend::Lake(_)) && name.schema != INFORMATION_SCHEMA;
        if version.is_some() && !is_lake {
            let message = format!("{name}: FOR VERSION and FOR TIMESTAMP AS OF work on Iceberg tables only");
            return Err(Error::new(ErrorCode::NotSupported, message));
        }
        if name.schema == INFORMATION_SCHEMA {
            let batch = information_schema::batch(self, query, &name.catalog, &name.table).await?;
            return batch.map(memory_table).transpose();
        }
        match backend {
            Backend::Lake(lake) => match MetadataTable::split(&name.table) {
                Some((table, of)) => self.metadata_table(query, &lake, name, (table, of), version).await,
                None if reading == Reading::Columns => {
                    Ok(lake.load(&name.schema, &name.table, version).await?.map(LakeTable::new))
                }
                None => Ok(load(query, &lake, name, version).await?.map(LakeTable::new)),
            },
            Backend::Source(source) => {
                if reading == Reading::Rows {
                    // Pinned as a table or as a whole.
                    query.replayed(&name.to_string()).or_else(|_| query.replayed(&name.catalog))?;
                }
                source.table(query, &name.schema, &name.table).await
            }
            Backend::System => {
                let batch = self.system.table(&query.principal, &name.schema, &name.table)?;
                batch.map(memory_table).transpose()
            }
        }
    }

    /// The rows of a query in the language of a catalog's source, as a table.
    ///
    /// Errors: `NOT_SUPPORTED` where the catalog takes none, and what the source says of it.
    pub async fn query(&self, query: &Arc<QueryContext>, catalog: &str, sql: &str) -> Result<Arc<dyn TableProvider>> {
        match self.backend(&query.principal, catalog).await? {
            Backend::Source(source) => {
                query.replayed(catalog)?;
                source.query(query, sql).await
            }
            Backend::Lake(_) | Backend::System => {
                let message = format!("catalog {catalog} has no language of its own: query its tables");
                Err(Error::new(ErrorCode::NotSupported, message))
            }
        }
    }

    /// What a name like `t$files` stands for: the metadata table `files` of `t`, unless that is not known and another engine
    /// has made a table of that very name. (Some catalogs refuse to be asked for a name with a `$`.)
    ///
    /// Errors: `TABLE_NOT_FOUND` where `t` is no table, or has no such metadata table.
    async fn metadata_table(
        &self,
        query: &QueryContext,
        lake: &LakeCatalog,
        name: &TableName,
        (table, of): (&str, &str),
        version: Option<&TableVersion>,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        if !MetadataTable::is_name_of_one(&name.table)
            && let Ok(Some(literal)) = load(query, lake, name, version).await
        {
            return Ok(Some(LakeTable::new(literal)));
        }
        let name = TableName::new(&name.catalog, &name.schema, table);
        match load(query, lake, &name, version).await? {
            Some(loaded) => MetadataTable::find(&loaded, of)?.provider(loaded, version).map(Some),
            None => Err(self.not_found(query, &name).await),
        }
    }

    /// Refuses to change a metadata table.
    ///
    /// Errors: `NOT_SUPPORTED`.
    pub(crate) fn check_no_metadata_table(name: &TableName) -> Result<()> {
        match MetadataTable::is_name_of_one(&name.table) {
            true => Err(Error::new(ErrorCode::NotSupported, format!("the metadata table {name} is read only"))),
            false => Ok(()),
        }
    }

    /// A table to write to.
    ///
    /// Errors: those of [`Catalogs::writable`], `SCHEMA_NOT_FOUND`, `TABLE_NOT_FOUND`, and `NOT_SUPPORTED` for a metadata
    /// table.
    pub async fn table_to_write(
        &self,
        query: &Arc<QueryContext>,
        name: &TableName,
    ) -> Result<(Arc<LakeCatalog>, Arc<LoadedTable>)> {
        let lake = self.writable(&query.principal, &name.catalog).await?;
        Self::check_no_metadata_table(name)?;
        match load(query, &lake, name, None).await? {
            Some(table) => Ok((lake, table)),
            None => Err(self.not_found(query, name).await),
        }
    }

    /// The source of a catalog that rows are to be written to; `None` for a catalog of another kind.
    ///
    /// Errors: those of [`Catalogs::writable`].
    pub(crate) async fn source_to_write(&self, query: &QueryContext, catalog: &str) -> Result<Option<Arc<dyn Source>>> {
        match self.backend(&query.principal, catalog).await? {
            Backend::Source(source) if source.takes_rows() => {
                self.check_may_write(&query.principal, catalog)?;
                Ok(Some(source))
            }
            _ => Ok(None),
        }
    }

    /// The source behind a catalog that the principal may read.
    ///
    /// Errors: `CATALOG_NOT_FOUND`; `NOT_SUPPORTED` for a catalog that is no source.
    pub(crate) async fn source(&self, principal: &Principal, catalog: &str) -> Result<Arc<dyn Source>> {
        match self.backend(principal, catalog).await? {
            Backend::Source(source) => Ok(source),
            Backend::Lake(_) | Backend::System => {
                let message =
                    format!("catalog {catalog} has no source to refresh: its tables are looked up in each query");
                Err(Error::new(ErrorCode::NotSupported, message))
            }
        }
    }

    fn check_may_write(&self, principal: &Principal, catalog: &str) -> Result<()> {
        let made = self.sources.made_named(catalog).filter(|_| !self.is_configured(catalog));
        let is_writer = made.as_ref().is_some_and(|made| made.config.writable_by(principal));
        if is_writer || self.access.can_write(principal, catalog) {
            return Ok(());
        }
        let message = format!("{} may not write to catalog {catalog}", principal.name);
        let hint = match made {
            None => format!("the configuration lists who may: [catalogs.{catalog}] writers"),
            Some(_) => {
                format!("who may was said when it was made: CREATE CATALOG {catalog} … WITH (writers = ARRAY['…'])")
            }
        };
        Err(Error::new(ErrorCode::PermissionDenied, message).with_hint(hint))
    }

    /// The catalog, for changing it.
    ///
    /// Errors: `CATALOG_NOT_FOUND` for one that the principal may not even read, `NOT_SUPPORTED` for one that nobody can
    /// write, `PERMISSION_DENIED` for one that it may only read.
    pub async fn writable(&self, principal: &Principal, catalog: &str) -> Result<Arc<LakeCatalog>> {
        match self.backend(principal, catalog).await? {
            Backend::Lake(lake) => self.check_may_write(principal, catalog).map(|()| lake),
            // For writers, too: nobody is sent for a right that would not help.
            Backend::Source(source) => {
                let but = if source.takes_rows() { " but for INSERT INTO" } else { "" };
                let message = format!("catalog {catalog} ({}) is read only{but}", source.kind());
                Err(Error::new(ErrorCode::NotSupported, message).with_hint("write to an Iceberg catalog"))
            }
            Backend::System => Err(Error::new(ErrorCode::NotSupported, "catalog system is read only")),
        }
    }

    /// What answers for the name, if the principal may read it.
    async fn backend(&self, principal: &Principal, catalog: &str) -> Result<Backend> {
        if catalog == SYSTEM {
            return Ok(Backend::System);
        }
        if !self.access.can_read(principal, catalog) {
            let made = self.made(principal, catalog).await?;
            return made.map(Backend::Source).ok_or_else(|| self.catalog_not_found(principal, catalog));
        }
        if let Some(lake) = self.lakes.get(catalog) {
            let open = || LakeCatalog::open_with(catalog, &lake.config, &self.objects);
            let opened = lake.catalog.get_or_try_init(open).await?;
            return Ok(Backend::Lake(Arc::clone(opened)));
        }
        match self.sources.source(catalog) {
            Some(source) => Ok(Backend::Source(source)),
            None => Err(self.catalog_not_found(principal, catalog)),
        }
    }
}

impl fmt::Debug for Catalogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalogs").field("lakes", &self.lakes.keys()).field("sources", &self.sources).finish()
    }
}

/// What a table is looked up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// To be read in the query, at the moment of its cut.
    Rows,
    /// To be described.
    Columns,
}

/// Loads a table of a lake. Its snapshot is pinned: it is not expired while the query runs.
async fn load(
    query: &QueryContext,
    lake: &LakeCatalog,
    name: &TableName,
    version: Option<&TableVersion>,
) -> Result<Option<Arc<LoadedTable>>> {
    let what = match version {
        Some(version) => format!("{name} {version}"),
        None => name.to_string(),
    };
    let table = match query.replayed(&what)? {
        Some(pinned) => lake.load_again(&name.schema, &name.table, &pinned.at.parse()?).await?,
        None => lake.load(&name.schema, &name.table, version).await?,
    };
    let Some(table) = table else { return Ok(None) };
    query.note(&what, Pinned::repeatable("iceberg", VersionRead::of(&table).to_string()));
    if let Some(pinned) = PinnedSnapshot::of(&table) {
        let snapshot = table.snapshot_id().unwrap_or_default();
        query.pin(&format!("snapshot {snapshot} of {name}"), || async { Ok(pinned) }).await?;
    }
    Ok(Some(table))
}

fn memory_table(batch: RecordBatch) -> Result<Arc<dyn TableProvider>> {
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]])
        .map_err(|error| townlake_engine::error::from_datafusion(&error))?;
    Ok(Arc::new(table))
}
