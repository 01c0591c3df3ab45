//! `ALTER TABLE` and `COMMENT ON`, done.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::FieldRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::helpers::stmt_create_table::CreateTableBuilder;
use datafusion::sql::sqlparser::ast::{ColumnDef, Ident, ObjectName, Statement as AstStatement};
use townlake_common::{Error, ErrorCode, Result};
use townlake_connectors::COMMENT;
use townlake_lake::{LakeCatalog, TableChange};

use super::alter_table::SqlType;
use super::changes::Optimization;
use super::service::{Run, command_batch};
use super::statement::{AlterTableStatement, Alteration, Name, NewColumn};
use super::write::columns_of;
use crate::catalogs::{Catalogs, TableName};

impl Run<'_> {
    /// Changes a table in one commit. It is not interrupted by a client that goes away: a change half asked for would leave
    /// nobody who knows whether it happened.
    pub(super) async fn alter_table(&self, alter: &AlterTableStatement) -> Result<RecordBatch> {
        let planner = self.planner();
        let name = planner.current.table(alter.table.parts())?;
        self.tracked.set_catalogs(vec![name.catalog.clone()]);
        let lake = self.service.catalogs.writable(&self.session.principal, &name.catalog).await?;
        Catalogs::check_no_metadata_table(&name)?;
        let done = match &alter.alteration {
            Alteration::RenameTo(to) => rename(lake, &name, to).await?,
            Alteration::Optimize { threshold } => {
                let wanted = Optimization { threshold: *threshold, target: None, order: None, filter: None };
                let done = self.optimize(&name, &wanted).await?;
                return match done.rewritten_files {
                    0 => command_batch("OPTIMIZE: nothing to do"),
                    files => command_batch(format!("OPTIMIZE: {files} files became {}", done.added_files)),
                };
            }
            other => {
                let changes = changes(&planner.empty_state(), other).await?;
                let table = name.clone();
                let altering = async move { lake.alter_table(&table.schema, &table.table, &changes).await };
                uninterrupted(altering).await?
            }
        };
        match done {
            Some(true) => command_batch("ALTER TABLE"),
            Some(false) => command_batch("ALTER TABLE: it is so already"),
            None => match self.comment_view_column(&name, &alter.alteration).await? {
                Some(done) => Ok(done),
                None if alter.if_exists => {
                    self.service.catalogs.check_no_view(&self.tracked.context, &name).await?;
                    command_batch("ALTER TABLE: it is not there")
                }
                None => Err(self.not_there(&name).await),
            },
        }
    }

    async fn not_there(&self, name: &TableName) -> Error {
        match self.service.catalogs.table_to_write(&self.tracked.context, name).await {
            Err(error) => error,
            Ok(_) => {
                let message = format!("table {name} was made by another writer at this moment");
                Error::new(ErrorCode::CommitConflict, message).with_hint("run the statement again").retryable()
            }
        }
    }
}

/// Runs a change of a catalog to its end, also where the client goes away.
pub(super) async fn uninterrupted<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(work).await;
    done.map_err(|error| Error::internal("a change of the catalog stopped").with_source(error))?
}

/// The full new name of a table or view: one of one part stays in its schema, one of two in its catalog.
pub(super) fn renamed(from: &TableName, to: &Name, what: &str) -> Result<TableName> {
    match to.parts() {
        [table] => Ok(TableName::new(&from.catalog, &from.schema, table)),
        [schema, table] => Ok(TableName::new(&from.catalog, schema, table)),
        [catalog, schema, table] if *catalog == from.catalog => Ok(TableName::new(catalog, schema, table)),
        _ => {
            let message = format!("{what} {from} cannot become {to}: a {what} stays in its catalog");
            Err(Error::new(ErrorCode::NotSupported, message)
                .with_hint("CREATE TABLE AS SELECT copies rows to another catalog"))
        }
    }
}

async fn rename(lake: Arc<LakeCatalog>, from: &TableName, to: &Name) -> Result<Option<bool>> {
    let (from, to) = (from.clone(), renamed(from, to, "table")?);
    let renaming = async move { lake.rename_table((&from.schema, &from.table), (&to.schema, &to.table)).await };
    let done = uninterrupted(renaming).await?;
    Ok(done.then_some(true))
}

/// The changes with their types as the lake has them.
async fn changes(state: &SessionState, alteration: &Alteration) -> Result<Vec<TableChange>> {
    match alteration {
        Alteration::Changes(changes) => Ok(changes.clone()),
        Alteration::SetType { path, data_type } => {
            let to = column_of(state, data_type).await?.data_type().clone();
            Ok(vec![TableChange::SetType { path: path.clone(), to }])
        }
        Alteration::AddColumns { columns, if_not_exists } => {
            let mut changes = Vec::with_capacity(columns.len());
            for NewColumn { path, data_type, comment, position } in columns {
                let mut column = column_of(state, data_type).await?.as_ref().clone();
                if let Some(comment) = comment {
                    column = column.with_metadata(HashMap::from([(COMMENT.to_string(), comment.clone())]));
                }
                let (path, position, column) = (path.clone(), position.clone(), Arc::new(column));
                changes.push(TableChange::AddColumn { path, column, position, if_not_exists: *if_not_exists });
            }
            Ok(changes)
        }
        Alteration::Optimize { .. } | Alteration::RenameTo(_) => {
            Err(Error::internal("something else was taken for a change of a table"))
        }
    }
}

/// A column of this type, as `CREATE TABLE` would make it.
async fn column_of(state: &SessionState, data_type: &SqlType) -> Result<FieldRef> {
    let column = ColumnDef { name: Ident::new("c"), data_type: data_type.clone(), options: Vec::new() };
    let create = CreateTableBuilder::new(ObjectName::from(vec![Ident::new("t")])).columns(vec![column]).build();
    let columns = columns_of(state, AstStatement::CreateTable(create)).await?;
    columns.into_iter().next().ok_or_else(|| Error::internal("a type was planned as no column"))
}
