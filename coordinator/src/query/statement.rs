//! What a statement can be. Everything that is not in this list is refused.

use datafusion::sql::sqlparser::ast::{DataType, Statement as AstStatement};
use townlake_lake::{PartitionField, Position, SortKey, TableChange};

use super::catalogs::CreateCatalogStatement;
use super::changes::ChangeStatement;
use super::procedures::CallArgument;

/// A name of one to three parts, normalised: unquoted parts in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Name(pub(super) Vec<String>);

impl Name {
    /// The parts as the user gave them.
    pub fn parts(&self) -> &[String] {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// One statement of the SQL surface.
#[derive(Debug, Clone)]
pub enum Statement {
    /// `SELECT`, `WITH`, `VALUES`.
    Query(Box<AstStatement>),
    /// `EXPLAIN [ANALYZE] [VERBOSE] statement`.
    Explain {
        /// Run it and tell what happened.
        analyze: bool,
        /// Show the intermediate plans too.
        verbose: bool,
        /// A query, an insert or a CTAS.
        statement: Box<Statement>,
    },
    /// `USE [catalog.]schema`.
    Use(Name),
    /// `SHOW CATALOGS [LIKE …]`.
    ShowCatalogs {
        /// The pattern of LIKE.
        like: Option<String>,
    },
    /// `SHOW SCHEMAS [FROM catalog] [LIKE …]`.
    ShowSchemas {
        /// The catalog; by default the session's.
        from: Option<Name>,
        /// The pattern of LIKE.
        like: Option<String>,
    },
    /// `SHOW TABLES [FROM [catalog.]schema] [LIKE …]`.
    ShowTables {
        /// The schema; by default the session's.
        from: Option<Name>,
        /// The pattern of LIKE.
        like: Option<String>,
    },
    /// `SHOW COLUMNS FROM table`, `DESCRIBE table`.
    ShowColumns {
        /// The table.
        table: Name,
        /// The pattern of LIKE.
        like: Option<String>,
    },
    /// `SHOW VIEWS [FROM [catalog.]schema] [LIKE …]`.
    ShowViews {
        /// The schema; by default the session's.
        from: Option<Name>,
        /// The pattern of LIKE.
        like: Option<String>,
    },
    /// `SHOW CREATE VIEW view`.
    ShowCreateView {
        /// The view.
        view: Name,
    },
    /// `SHOW SESSION [LIKE …]`, `SHOW ALL`.
    ShowSession {
        /// The pattern of LIKE.
        like: Option<String>,
    },
    /// `SHOW CUT [FOR 'query id']`.
    ShowCut {
        /// The query; by default the session's last.
        query: Option<String>,
    },
    /// `SHOW setting`.
    ShowSetting {
        /// The setting.
        name: String,
    },
    /// `SET [SESSION] name = value`.
    SetSession {
        /// The setting.
        name: String,
        /// Its new value.
        value: String,
    },
    /// `RESET [SESSION] name`; `RESET ALL` has no name.
    ResetSession {
        /// The setting, or all of them.
        name: Option<String>,
    },
    /// `CREATE CATALOG`.
    CreateCatalog(CreateCatalogStatement),
    /// `DROP CATALOG`.
    DropCatalog {
        /// The catalog.
        name: Name,
        /// Say nothing when it is not there.
        if_exists: bool,
    },
    /// `SHOW CREATE CATALOG catalog`.
    ShowCreateCatalog {
        /// The catalog.
        name: Name,
    },
    /// `CREATE SCHEMA`.
    CreateSchema {
        /// The schema.
        name: Name,
        /// Say nothing when it is there.
        if_not_exists: bool,
    },
    /// `DROP SCHEMA`.
    DropSchema {
        /// The schema.
        name: Name,
        /// Say nothing when it is not there.
        if_exists: bool,
    },
    /// `CREATE TABLE`, with columns or `AS SELECT`.
    CreateTable(Box<CreateTableStatement>),
    /// `ALTER TABLE` and `COMMENT ON`.
    AlterTable(Box<AlterTableStatement>),
    /// `DROP TABLE`.
    DropTable {
        /// The table.
        name: Name,
        /// Say nothing when it is not there.
        if_exists: bool,
    },
    /// `CREATE VIEW`.
    CreateView(Box<CreateViewStatement>),
    /// `DROP VIEW`.
    DropView {
        /// The view.
        view: Name,
        /// Say nothing when it is not there.
        if_exists: bool,
    },
    /// `ALTER VIEW … RENAME TO`.
    RenameView {
        /// The view.
        view: Name,
        /// Say nothing when it is not there.
        if_exists: bool,
        /// Its new name.
        to: Name,
    },
    /// `COMMENT ON VIEW`.
    CommentView {
        /// The view.
        view: Name,
        /// `None`: it has no comment any more.
        comment: Option<String>,
    },
    /// `INSERT INTO table [(columns)] query`, `INSERT OVERWRITE`.
    Insert {
        /// The table.
        table: Name,
        /// The branch of it; `None`: main.
        branch: Option<String>,
        /// The rows take the place of those that their partitions have.
        overwrite: bool,
        /// The statement for the planner.
        ast: Box<AstStatement>,
    },
    /// `DELETE`, `UPDATE`, `MERGE`.
    Change(Box<ChangeStatement>),
    /// `TRUNCATE TABLE`.
    Truncate {
        /// The table.
        table: Name,
    },
    /// `CALL catalog.system.procedure(…)`.
    Call {
        /// The procedure.
        name: Name,
        /// Its arguments.
        arguments: Vec<CallArgument>,
    },
}

/// `CREATE TABLE name [(columns)] [PARTITIONED BY (…)] [COMMENT …] [WITH (…)] [AS query]`.
#[derive(Debug, Clone)]
pub struct CreateTableStatement {
    /// The table.
    pub name: Name,
    /// Say nothing when it is there.
    pub if_not_exists: bool,
    /// Name, columns and query, for the planner.
    pub ast: Box<AstStatement>,
    /// Whether a query fills it.
    pub as_query: bool,
    /// The partition fields.
    pub partition: Vec<PartitionField>,
    /// SORTED BY.
    pub sort: Vec<SortKey>,
    /// COMMENT.
    pub comment: Option<String>,
    /// WITH: `location` and Iceberg table properties.
    pub properties: Vec<(String, String)>,
}

/// `CREATE [OR REPLACE] VIEW [IF NOT EXISTS] name [(columns)] [COMMENT …] AS query`.
#[derive(Debug, Clone, Default)]
pub struct CreateViewStatement {
    /// The view.
    pub view: Name,
    /// Take the place of a view that is there.
    pub replace: bool,
    /// Say nothing when it is there.
    pub if_not_exists: bool,
    /// Names of the columns with their comments; empty: those of the query.
    pub columns: Vec<(String, Option<String>)>,
    /// COMMENT.
    pub comment: Option<String>,
    /// The text of the query, as it was written.
    pub sql: String,
    /// The query, for the planner.
    pub query: Option<Box<AstStatement>>,
}

/// `ALTER TABLE [IF EXISTS] name …`.
#[derive(Debug, Clone)]
pub struct AlterTableStatement {
    /// The table.
    pub table: Name,
    /// Say nothing when it is not there.
    pub if_exists: bool,
    /// What is changed.
    pub alteration: Alteration,
}

/// What `ALTER TABLE` does.
#[derive(Debug, Clone)]
pub enum Alteration {
    /// `RENAME TO`.
    RenameTo(Name),
    /// `ADD COLUMN`.
    AddColumns {
        /// The columns.
        columns: Vec<NewColumn>,
        /// Say nothing of those that are there.
        if_not_exists: bool,
    },
    /// `ALTER COLUMN … TYPE`.
    SetType {
        /// The column, or a field in it.
        path: Vec<String>,
        /// Its new type.
        data_type: DataType,
    },
    /// `EXECUTE optimize`.
    Optimize {
        /// Files below this size are small, in bytes.
        threshold: u64,
    },
    /// Everything that has no type of SQL in it.
    Changes(Vec<TableChange>),
}

/// A column to add.
#[derive(Debug, Clone)]
pub struct NewColumn {
    /// Its name, or where in a column the field goes.
    pub path: Vec<String>,
    /// Its type.
    pub data_type: DataType,
    /// COMMENT.
    pub comment: Option<String>,
    /// FIRST or AFTER.
    pub position: Option<Position>,
}

/// How a client sees a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// It returns rows.
    Query,
    /// It writes and returns the number of rows.
    Update,
    /// It changes a catalog or the session and returns no row.
    Command,
}

impl Statement {
    /// Whether it asks about the server or the session, and not for data.
    pub fn is_about_the_server(&self) -> bool {
        !matches!(self, Self::Query(_) | Self::Insert { .. } | Self::Change(_) | Self::CreateTable(_))
    }

    /// How a client sees it.
    pub fn kind(&self) -> StatementKind {
        match self {
            Self::Insert { .. } | Self::Change(_) => StatementKind::Update,
            Self::CreateTable(create) if create.as_query => StatementKind::Update,
            Self::CreateTable(_)
            | Self::AlterTable(_)
            | Self::DropTable { .. }
            | Self::CreateView(_)
            | Self::DropView { .. }
            | Self::RenameView { .. }
            | Self::CommentView { .. }
            | Self::Truncate { .. }
            | Self::CreateCatalog(_)
            | Self::DropCatalog { .. }
            | Self::CreateSchema { .. }
            | Self::DropSchema { .. }
            | Self::Use(_)
            | Self::SetSession { .. }
            | Self::ResetSession { .. }
            | Self::Call { .. } => StatementKind::Command,
            _ => StatementKind::Query,
        }
    }
}
