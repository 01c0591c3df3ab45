//! What the coordinator asks of a source.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use townlake_common::{QueryContext, Result};

/// One configured source of tables. Who may read it is decided before: a source answers for its own credentials.
///
/// Every call names the query it is made for, so that what the source sees (`application_name`) can be followed.
#[async_trait]
pub trait Source: Send + Sync + Debug {
    /// The catalog's name in the configuration.
    fn name(&self) -> &str;

    /// What kind of source it is, for example `postgres`.
    fn kind(&self) -> &'static str;

    /// The schemas, sorted.
    ///
    /// Errors (of every call): `SOURCE_UNAVAILABLE` (retryable), `SOURCE_DENIED`, `SOURCE_ERROR`, `RESOURCE_EXHAUSTED`.
    async fn list_schemas(&self, query: &QueryContext) -> Result<Vec<String>>;

    /// The tables and views of one schema, sorted by name; none when there is no such schema.
    async fn list_tables(&self, query: &QueryContext, schema: &str) -> Result<Vec<SourceTable>>;

    /// A table, ready to be planned; `None` when there is none of this name.
    ///
    /// The provider takes its snapshot when it is scanned, from the [`QueryContext`] that is an extension of the
    /// session's configuration: it may be kept with a prepared statement.
    async fn table(
        &self,
        query: &Arc<QueryContext>,
        schema: &str,
        table: &str,
    ) -> Result<Option<Arc<dyn TableProvider>>>;

    /// Primary and foreign keys of a table; empty when there is no such table.
    async fn keys(&self, query: &QueryContext, schema: &str, table: &str) -> Result<TableKeys>;
}

/// One entry of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTable {
    /// Its name, as the source spells it.
    pub name: String,
    /// What it is.
    pub kind: TableKind,
    /// What its owner says about it.
    pub comment: Option<String>,
}

/// What a name in a schema stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableKind {
    /// Rows that the source stores.
    Table,
    /// A query that the source stores.
    View,
    /// A stored query with stored rows.
    MaterializedView,
    /// Rows that the source reads from elsewhere.
    Foreign,
}

impl TableKind {
    /// The word of `information_schema.tables`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "BASE TABLE",
            Self::View => "VIEW",
            Self::MaterializedView => "MATERIALIZED VIEW",
            Self::Foreign => "FOREIGN TABLE",
        }
    }
}

/// The declared keys of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableKeys {
    /// The columns of the primary key, in its order; empty without one.
    pub primary: Vec<String>,
    /// The foreign keys, by name.
    pub foreign: Vec<ForeignKey>,
}

/// A foreign key: `columns` here refer to `referenced_columns` of another table, pairwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// The columns of this table.
    pub columns: Vec<String>,
    /// The schema of the table referred to.
    pub referenced_schema: String,
    /// The table referred to.
    pub referenced_table: String,
    /// Its columns.
    pub referenced_columns: Vec<String>,
}
