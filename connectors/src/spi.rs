//! What the coordinator asks of a source.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, FieldRef};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::logical_expr::TableType;
use futures::stream::BoxStream;
use townlake_common::{Error, ErrorCode, QueryContext, Result};

use crate::{Bounded, BreakerState};

/// Field metadata: the declared type, as the source writes it.
pub const SOURCE_TYPE: &str = "townlake.source_type";
/// Field metadata: how values differ from what the declared type suggests.
pub const NOTE: &str = "townlake.note";
/// Field metadata: the comment of the column's owner.
pub const COMMENT: &str = "comment";

/// What there is to say about a column, for those who list columns: the comment of its owner, then how its values differ
/// from what its declared type suggests. `None` when there is nothing.
pub fn column_comment(field: &Field) -> Option<String> {
    let metadata = field.metadata();
    let of = |key: &str| metadata.get(key).map(String::as_str).filter(|text| !text.is_empty());
    let note = of(NOTE).map(|note| match of(SOURCE_TYPE) {
        Some(declared) => format!("{declared}, {note}"),
        None => note.to_string(),
    });
    match (of(COMMENT), note) {
        (Some(comment), Some(note)) => Some(format!("{comment} ({note})")),
        (comment, note) => comment.map(str::to_string).or(note),
    }
}

/// One configured source of tables. Who may read it is decided before: a source answers for its own credentials.
///
/// Every call names the query it is made for, so that what the source sees (`application_name`) can be followed.
#[async_trait]
pub trait Source: Any + Send + Sync + Debug {
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

    /// The rows of a query in the source's own language, as a table that is ready to be planned. It only reads, and it reads at the moment of
    /// the query like the source's tables.
    ///
    /// Errors: `NOT_SUPPORTED` where the source has no such language or its owner does not let queries through.
    async fn query(&self, _query: &Arc<QueryContext>, _sql: &str) -> Result<Arc<dyn TableProvider>> {
        let message = format!("catalog {} ({}) takes no queries of its own language", self.name(), self.kind());
        Err(Error::new(ErrorCode::NotSupported, message))
    }

    /// Writes rows into a table in one transaction, and gives their number when it is committed. Dropped before that, nothing is written.
    ///
    /// Errors: `NOT_SUPPORTED` where the source takes no rows; what `rows` report; `CONSTRAINT_VIOLATION`, `COMMIT_STATE_UNKNOWN`.
    async fn insert(
        &self,
        _query: &QueryContext,
        _into: &InsertInto,
        _rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64> {
        let message = format!("catalog {} ({}) is read only", self.name(), self.kind());
        Err(Error::new(ErrorCode::NotSupported, message).with_hint("write to an Iceberg catalog"))
    }

    /// Whether [`Source::insert`] does anything.
    fn takes_rows(&self) -> bool {
        false
    }

    /// Forgets what is remembered of it here, so that the next query looks it up anew: guessed columns, idle connections, failures to
    /// reach it. What queries hold that run stays.
    fn refresh(&self);

    /// What the breaker before its look-ups has seen.
    fn breaker(&self) -> BreakerState;

    /// What bounds its connections; `None` where nothing does.
    fn bounded(&self) -> Option<&dyn Bounded> {
        None
    }

    /// Primary and foreign keys of a table; empty when there is no such table.
    async fn keys(&self, query: &QueryContext, schema: &str, table: &str) -> Result<TableKeys>;
}

/// The table that rows are written to.
#[derive(Debug, Clone)]
pub struct InsertInto {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// The columns that are given, in the order of the rows', in the types that the source's tables have here.
    pub columns: Vec<FieldRef>,
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
    /// What it is for DataFusion.
    pub(crate) fn table_type(self) -> TableType {
        match self {
            Self::View | Self::MaterializedView => TableType::View,
            Self::Table | Self::Foreign => TableType::Base,
        }
    }

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

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;

    #[test]
    fn a_columns_comment_is_what_its_owner_says_and_how_it_is_read() {
        let field = |entries: &[(&str, &str)]| {
            let entries = entries.iter().map(|(key, value)| (key.to_string(), value.to_string()));
            Field::new("a", DataType::Utf8, true).with_metadata(entries.collect())
        };
        let (declared, note) = ((SOURCE_TYPE, "inet"), (NOTE, "read as text"));
        assert_eq!(column_comment(&field(&[])), None);
        assert_eq!(column_comment(&field(&[declared])), None, "the type as such needs no words");
        assert_eq!(column_comment(&field(&[(COMMENT, "where"), declared])).as_deref(), Some("where"));
        assert_eq!(column_comment(&field(&[declared, note])).as_deref(), Some("inet, read as text"));
        let both = column_comment(&field(&[(COMMENT, "where"), declared, note]));
        assert_eq!(both.as_deref(), Some("where (inet, read as text)"));
    }
}
