//! An SQL catalog: the two tables of pyiceberg's, in SQLite or Postgres.
//!
//! A commit is one autocommitted `UPDATE … WHERE metadata_location = <old>`: the row count says whether it won, and an
//! error says that nobody knows. (The SQL catalog of the crate `iceberg` drops the error of COMMIT: a commit that it
//! reports may never have happened.)

use async_trait::async_trait;
use iceberg::spec::{FormatVersion, TableMetadata, TableMetadataBuilder};
use iceberg::{TableCreation, TableRequirement, TableUpdate};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use townlake_common::{Error, ErrorCode, Result, Secret, fault};

use super::metadata_file;
use super::sql_database::{Database, unavailable};
use super::views::ViewCatalog;
use super::{Catalog, CommitOutcome, NewTable, TableHead, TableName};
use crate::ObjectAccess;

const TABLES: &str = "iceberg_tables";
const NAMESPACES: &str = "iceberg_namespace_properties";
/// pyiceberg's DDL (of its schema v1), to the letter of its types.
const CREATE_TABLES: &str = "CREATE TABLE IF NOT EXISTS iceberg_tables (\
    catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL, table_name VARCHAR(255) NOT NULL, \
    metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000), iceberg_type VARCHAR(5), \
    PRIMARY KEY (catalog_name, table_namespace, table_name))";
const CREATE_NAMESPACES: &str = "CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (\
    catalog_name VARCHAR(255) NOT NULL, namespace VARCHAR(255) NOT NULL, property_key VARCHAR(255) NOT NULL, \
    property_value VARCHAR(1000) NOT NULL, PRIMARY KEY (catalog_name, namespace, property_key))";
/// A column that tells tables from views (Java's schema V1). Catalogs of older clients do not have it.
const TYPE_COLUMN: &str = "iceberg_type";
const ADD_TYPE: &str = "ALTER TABLE iceberg_tables ADD COLUMN iceberg_type VARCHAR(5)";
const NAME_LIMIT: usize = 255;
const LOCATION_LIMIT: usize = 1000;

pub(crate) struct SqlCatalog {
    /// The name in the configuration, for messages.
    pub(super) name: String,
    /// The value of `catalog_name`.
    pub(super) rows: String,
    warehouse: String,
    pub(super) database: Database,
    /// Whether `iceberg_tables` was seen to have the column `iceberg_type`.
    typed: AtomicBool,
    pub(super) objects: ObjectAccess,
}

impl SqlCatalog {
    /// Connects and makes the tables where they are missing.
    pub async fn open(name: &str, rows: &str, uri: &Secret, warehouse: &str, objects: ObjectAccess) -> Result<Self> {
        let database = Database::connect(name, uri).await?;
        for (table, ddl) in [(TABLES, CREATE_TABLES), (NAMESPACES, CREATE_NAMESPACES)] {
            make(name, &database, table, ddl).await?;
        }
        Ok(Self {
            name: name.to_string(),
            rows: rows.to_string(),
            warehouse: warehouse.trim_end_matches('/').to_string(),
            typed: AtomicBool::new(false),
            database,
            objects,
        })
    }

    /// Whether rows tell tables from views. Where they do not, another process may change that at any moment, and its views
    /// must not be taken for tables: it is asked each time.
    pub(super) async fn is_typed(&self) -> Result<bool> {
        if self.typed.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let columns = self.database.columns(TABLES).await.map_err(|error| unavailable(&self.name, error))?;
        let typed = columns.iter().any(|column| column == TYPE_COLUMN);
        self.typed.fetch_or(typed, Ordering::Relaxed);
        Ok(typed)
    }

    /// Gives an older catalog the column that tells tables from views.
    pub(super) async fn make_typed(&self) -> Result<()> {
        if self.is_typed().await? {
            return Ok(());
        }
        match self.database.execute(ADD_TYPE, &[]).await {
            Err(error) if !self.is_typed().await? => {
                let message = format!("the database of catalog {} keeps no views yet", self.name);
                Err(Error::new(ErrorCode::NotSupported, message)
                    .with_hint("let its owner run: ALTER TABLE iceberg_tables ADD COLUMN iceberg_type VARCHAR(5)")
                    .with_source(error))
            }
            _ => Ok(()),
        }
    }

    /// Where a table or view lies that was given no place.
    pub(super) fn default_location(&self, name: &TableName) -> String {
        format!("{}/{}/{}", self.warehouse, name.namespace.replace('.', "/"), name.table)
    }

    pub(super) async fn execute(&self, sql: &'static str, values: &[&str]) -> Result<u64> {
        self.database.execute(sql, values).await.map_err(|error| unavailable(&self.name, error))
    }

    pub(super) async fn texts(&self, sql: &'static str, values: &[&str]) -> Result<Vec<String>> {
        self.database.texts(sql, values).await.map_err(|error| unavailable(&self.name, error))
    }

    async fn metadata_location(&self, name: &TableName) -> Result<Option<String>> {
        let sql = if self.is_typed().await? {
            "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 \
             AND table_name = $3 AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)"
        } else {
            "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 \
             AND table_name = $3"
        };
        Ok(self.texts(sql, &[&self.rows, &name.namespace, &name.table]).await?.into_iter().next())
    }

    async fn insert_row(&self, name: &TableName, location: &str) -> sqlx::Result<u64> {
        let sql = if self.typed.load(Ordering::Relaxed) {
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) \
             VALUES ($1, $2, $3, $4, 'TABLE') ON CONFLICT DO NOTHING"
        } else {
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location) \
             VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
        };
        self.database.execute(sql, &[&self.rows, &name.namespace, &name.table, location]).await
    }

    fn exists(&self, name: &TableName) -> Error {
        Error::new(ErrorCode::AlreadyExists, format!("table {}.{name} exists already", self.name))
    }

    /// Whether a table can be made of this name.
    async fn check_free(&self, name: &TableName) -> Result<()> {
        check_name(&name.table)?;
        if !self.namespace_exists(&name.namespace).await? {
            let message = format!("schema {}.{} does not exist", self.name, name.namespace);
            return Err(Error::new(ErrorCode::SchemaNotFound, message));
        }
        match self.metadata_location(name).await? {
            Some(_) => Err(self.exists(name)),
            None => Ok(()),
        }
    }

    fn initial_metadata(&self, name: &TableName, table: NewTable) -> Result<TableMetadata> {
        let location = table.location.unwrap_or_else(|| self.default_location(name));
        let creation = TableCreation::builder()
            .name(name.table.clone())
            .location(location.trim_end_matches('/').to_string())
            .schema(table.schema)
            .partition_spec(table.spec)
            .sort_order(table.sort_order)
            .properties(table.properties)
            .format_version(FormatVersion::V2)
            .build();
        let built = TableMetadataBuilder::from_table_creation(creation).and_then(|builder| builder.build());
        built.map(|result| result.metadata).map_err(|error| {
            let message = format!("table {}.{name} cannot be created: {}", self.name, error.message());
            Error::new(ErrorCode::InvalidQuery, message).with_source(error)
        })
    }

    /// The metadata after `updates`, or why they do not apply.
    fn apply(
        base: &TableHead,
        requirements: &[TableRequirement],
        updates: Vec<TableUpdate>,
    ) -> std::result::Result<TableMetadata, iceberg::Error> {
        for requirement in requirements {
            requirement.check(Some(&base.metadata))?;
        }
        let mut builder = base.metadata.as_ref().clone().into_builder(Some(base.metadata_location.clone()));
        for update in updates {
            builder = update.apply(builder)?;
        }
        Ok(builder.build()?.metadata)
    }
}

#[async_trait]
impl Catalog for SqlCatalog {
    async fn list_namespaces(&self) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT namespace FROM iceberg_namespace_properties WHERE catalog_name = $1 \
                   UNION SELECT DISTINCT table_namespace FROM iceberg_tables WHERE catalog_name = $1";
        let mut namespaces = self.texts(sql, &[&self.rows]).await?;
        namespaces.sort();
        Ok(namespaces)
    }

    async fn namespace_exists(&self, namespace: &str) -> Result<bool> {
        let sql = "SELECT namespace FROM iceberg_namespace_properties WHERE catalog_name = $1 AND namespace = $2 \
                   UNION SELECT table_namespace FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2";
        Ok(!self.texts(sql, &[&self.rows, namespace]).await?.is_empty())
    }

    async fn create_namespace(&self, namespace: &str) -> Result<()> {
        check_name(namespace)?;
        let sql = "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) \
                   VALUES ($1, $2, 'exists', 'true') ON CONFLICT DO NOTHING";
        if self.namespace_exists(namespace).await? || self.execute(sql, &[&self.rows, namespace]).await? == 0 {
            return Err(Error::new(
                ErrorCode::AlreadyExists,
                format!("schema {}.{namespace} exists already", self.name),
            ));
        }
        Ok(())
    }

    async fn drop_namespace(&self, namespace: &str) -> Result<bool> {
        if !self.namespace_exists(namespace).await? {
            return Ok(false);
        }
        let sql = "DELETE FROM iceberg_namespace_properties WHERE catalog_name = $1 AND namespace = $2 \
                   AND NOT EXISTS (SELECT 1 FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2)";
        if self.execute(sql, &[&self.rows, namespace]).await? > 0 {
            return Ok(true);
        }
        let message = format!("schema {}.{namespace} is not empty", self.name);
        Err(Error::new(ErrorCode::InvalidQuery, message).with_hint("drop its tables and views first"))
    }

    async fn list_tables(&self, namespace: &str) -> Result<Vec<String>> {
        let sql = if self.is_typed().await? {
            "SELECT table_name FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 \
             AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL) ORDER BY table_name"
        } else {
            "SELECT table_name FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 ORDER BY table_name"
        };
        self.texts(sql, &[&self.rows, namespace]).await
    }

    async fn load(&self, name: &TableName) -> Result<Option<TableHead>> {
        let Some(metadata_location) = self.metadata_location(name).await? else { return Ok(None) };
        let what = format!("{}.{name}", self.name);
        let metadata = metadata_file::read(&self.objects, &self.name, &metadata_location, &what).await?;
        Ok(Some(TableHead { metadata, metadata_location }))
    }

    async fn create_table(&self, name: &TableName, table: NewTable) -> Result<TableHead> {
        self.check_free(name).await?;
        let metadata = self.initial_metadata(name, table)?;
        let location = metadata_file::first_location(&metadata);
        let metadata_location = location.to_string();
        check_location(&metadata_location)?;
        metadata_file::write(&self.objects, &metadata, &location).await?;
        match self.insert_row(name, &metadata_location).await {
            Ok(1..) => {}
            Ok(0) => {
                self.objects.discard(vec![metadata_location]).await;
                return Err(self.exists(name));
            }
            // The row may be there all the same: then the table is made.
            Err(error) => match self.metadata_location(name).await {
                Ok(Some(current)) if current == metadata_location => {}
                _ => return Err(unavailable(&self.name, error)),
            },
        }
        Ok(TableHead { metadata: Arc::new(metadata), metadata_location })
    }

    async fn register_table(&self, name: &TableName, metadata_location: &str) -> Result<TableHead> {
        self.check_free(name).await?;
        check_location(metadata_location)?;
        let head =
            || async { self.load(name).await?.ok_or_else(|| Error::internal(format!("{name} is not registered"))) };
        match self.insert_row(name, metadata_location).await {
            Ok(1..) => head().await,
            Ok(0) => Err(self.exists(name)),
            Err(error) => match self.metadata_location(name).await {
                Ok(Some(current)) if current == metadata_location => head().await,
                _ => Err(unavailable(&self.name, error)),
            },
        }
    }

    async fn drop_table(&self, name: &TableName) -> Result<bool> {
        let sql = if self.is_typed().await? {
            "DELETE FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3 \
             AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)"
        } else {
            "DELETE FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3"
        };
        Ok(self.execute(sql, &[&self.rows, &name.namespace, &name.table]).await? > 0)
    }

    async fn rename_table(&self, from: &TableName, to: &TableName) -> Result<bool> {
        check_name(&to.table)?;
        if !self.namespace_exists(&to.namespace).await? {
            let message = format!("schema {}.{} does not exist", self.name, to.namespace);
            return Err(Error::new(ErrorCode::SchemaNotFound, message));
        }
        let sql = if self.is_typed().await? {
            "UPDATE iceberg_tables SET table_namespace = $4, table_name = $5 \
             WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3 \
             AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)"
        } else {
            "UPDATE iceberg_tables SET table_namespace = $4, table_name = $5 \
             WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3"
        };
        let values = [self.rows.as_str(), &from.namespace, &from.table, &to.namespace, &to.table];
        match self.database.execute(sql, &values).await {
            Ok(renamed) => Ok(renamed > 0),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                Err(Error::new(ErrorCode::AlreadyExists, format!("table {}.{to} exists already", self.name)))
            }
            Err(error) => Err(unavailable(&self.name, error)),
        }
    }

    async fn commit(
        &self,
        name: &TableName,
        base: &TableHead,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> CommitOutcome {
        let metadata = match Self::apply(base, &requirements, updates) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == iceberg::ErrorKind::CatalogCommitConflicts => {
                let message = format!("table {}.{name} was changed by another writer", self.name);
                return CommitOutcome::Conflict(Error::new(ErrorCode::CommitConflict, message).with_source(error));
            }
            Err(error) => {
                let message = format!("the change of table {}.{name} is not valid: {}", self.name, error.message());
                return CommitOutcome::Rejected(Error::new(ErrorCode::Internal, message).with_source(error));
            }
        };
        let location = metadata_file::next_location(&base.metadata_location, &metadata);
        let new = location.to_string();
        if let Err(error) = check_location(&new) {
            return CommitOutcome::Rejected(error);
        }
        if let Err(error) = metadata_file::write(&self.objects, &metadata, &location).await {
            return CommitOutcome::Rejected(error);
        }
        fault::point("catalog.metadata");
        let sql = "UPDATE iceberg_tables SET metadata_location = $1, previous_metadata_location = $2 \
                   WHERE catalog_name = $3 AND table_namespace = $4 AND table_name = $5 AND metadata_location = $2";
        let values = [new.as_str(), &base.metadata_location, &self.rows, &name.namespace, &name.table];
        let swapped = self.database.execute(sql, &values).await;
        fault::point("catalog.swapped");
        match swapped {
            Ok(1..) => {
                self.objects.discard(metadata_file::fell_out(&base.metadata, &metadata)).await;
                CommitOutcome::Committed
            }
            Ok(0) => {
                self.objects.discard(vec![new]).await;
                let message = format!("table {}.{name} was changed by another writer", self.name);
                CommitOutcome::Conflict(Error::new(ErrorCode::CommitConflict, message))
            }
            Err(error) => CommitOutcome::Unknown(unavailable(&self.name, error)),
        }
    }

    fn views(&self) -> &dyn ViewCatalog {
        self
    }
}

/// Makes a table of the catalog where it is missing. Where it is there, no right to make one is needed.
async fn make(catalog: &str, database: &Database, table: &str, ddl: &'static str) -> Result<()> {
    let columns = database.columns(table).await.map_err(|error| unavailable(catalog, error))?;
    if !columns.is_empty() {
        return Ok(());
    }
    // Two nodes may start at once: Postgres can then refuse the second CREATE although IF NOT EXISTS is said.
    if let Err(first) = database.execute(ddl, &[]).await {
        tracing::debug!(catalog, error = %first, "creating a catalog table failed, once more");
        database.execute(ddl, &[]).await.map_err(|error| unavailable(catalog, error))?;
    }
    Ok(())
}

/// A name becomes a folder and a column value of limited width.
pub(super) fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | '\u{1f}');
    let levels_fine = name.split('.').all(|level| !level.is_empty());
    if name.len() > NAME_LIMIT || !name.chars().all(plain) || !levels_fine {
        let message = format!("`{name}` cannot be the name of a schema or table");
        return Err(Error::new(ErrorCode::InvalidArgument, message)
            .with_hint(format!("no slashes or control characters, at most {NAME_LIMIT} bytes")));
    }
    Ok(())
}

pub(super) fn check_location(location: &str) -> Result<()> {
    if location.len() > LOCATION_LIMIT {
        let message = format!("a metadata location would be longer than {LOCATION_LIMIT} bytes");
        return Err(Error::new(ErrorCode::InvalidArgument, message).with_hint("choose a shorter `location`"));
    }
    Ok(())
}
