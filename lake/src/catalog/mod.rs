//! Where tables are registered: one trait, spoken to SQL catalogs ([`sql`]) and REST catalogs ([`rest`]).
//!
//! The trait is our own: a commit is requirements and updates, and its outcome tells what is known for certain, above all
//! "nobody knows whether it happened".

mod lost_defaults;
pub(crate) mod metadata_file;
pub(crate) mod older_metadata;
pub(crate) mod rest;
pub(crate) mod rest_client;
mod rest_login;
#[cfg(test)]
mod rest_rule_tests;
#[cfg(test)]
mod rest_tests;
#[cfg(test)]
mod rest_view_tests;
mod rest_views;
pub(crate) mod sql;
mod sql_database;
#[cfg(test)]
mod sql_tests;
mod sql_views;
pub(crate) mod views;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use iceberg::spec::{Schema, SortOrder, TableMetadata, UnboundPartitionSpec};
use iceberg::{TableRequirement, TableUpdate};
use townlake_common::{Error, Result};

use views::ViewCatalog;

/// A table's name in its catalog. The levels of a namespace are joined by `.`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TableName {
    pub namespace: String,
    pub table: String,
}

impl TableName {
    pub fn new(namespace: &str, table: &str) -> Self {
        Self { namespace: namespace.to_string(), table: table.to_string() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.table)
    }
}

/// The state of a table that its catalog points to.
#[derive(Clone)]
pub(crate) struct TableHead {
    pub metadata: Arc<TableMetadata>,
    pub metadata_location: String,
}

/// A table to create.
pub(crate) struct NewTable {
    pub schema: Schema,
    pub spec: UnboundPartitionSpec,
    pub sort_order: SortOrder,
    pub properties: HashMap<String, String>,
    /// `None`: where the catalog likes.
    pub location: Option<String>,
}

/// What became of a commit.
#[derive(Debug)]
pub(crate) enum CommitOutcome {
    /// It happened.
    Committed,
    /// It did not: the table is not any more what the commit was made for. Make it anew.
    Conflict(Error),
    /// It did not and will not.
    Rejected(Error),
    /// It may have happened or may yet: look before doing anything else, and keep its files.
    Unknown(Error),
}

/// A catalog of Iceberg tables. Errors name the catalog and never hold its address or credentials.
#[async_trait]
pub(crate) trait Catalog: Send + Sync + 'static {
    /// All namespaces, levels joined by `.`, sorted.
    async fn list_namespaces(&self) -> Result<Vec<String>>;
    async fn namespace_exists(&self, namespace: &str) -> Result<bool>;
    /// Errors: `ALREADY_EXISTS`.
    async fn create_namespace(&self, namespace: &str) -> Result<()>;
    /// `false`: there is none. Errors: `INVALID_QUERY` when tables or views are in it.
    async fn drop_namespace(&self, namespace: &str) -> Result<bool>;
    /// The tables of a namespace, sorted; of one that does not exist: none.
    async fn list_tables(&self, namespace: &str) -> Result<Vec<String>>;
    async fn load(&self, name: &TableName) -> Result<Option<TableHead>>;
    /// Errors: `ALREADY_EXISTS`, `SCHEMA_NOT_FOUND`.
    async fn create_table(&self, name: &TableName, table: NewTable) -> Result<TableHead>;
    /// Makes a table of the metadata file at this location. Errors: `ALREADY_EXISTS`, `SCHEMA_NOT_FOUND`.
    async fn register_table(&self, name: &TableName, metadata_location: &str) -> Result<TableHead>;
    /// Forgets the table; its files stay. `false`: there is none.
    async fn drop_table(&self, name: &TableName) -> Result<bool>;
    /// Gives the table another name. `false`: there is none. Errors: `ALREADY_EXISTS`, `SCHEMA_NOT_FOUND`.
    async fn rename_table(&self, from: &TableName, to: &TableName) -> Result<bool>;
    /// Changes the table from `base` by `updates` if `requirements` hold.
    async fn commit(
        &self,
        name: &TableName,
        base: &TableHead,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> CommitOutcome;
    /// The views beside the tables.
    fn views(&self) -> &dyn ViewCatalog;
}
