//! Commands: what is shown of catalogs and settings, what changes the session, and what changes a catalog without rows.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, Scalar, StringArray};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::compute::kernels::comparison::like;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use townlake_common::{Error, ErrorCode, Result};
use townlake_connectors::{SourceTable, column_comment};

use super::service::{Run, command_batch};
use super::settings::{self, SETTINGS};
use super::statement::{Name, Statement};
use crate::catalogs::{Catalogs, sql_type};

/// The columns of what SHOW, DESCRIBE and CALL return; `None` for other statements. The first column is the one that LIKE is for.
pub(super) fn schema_of(statement: &Statement) -> Option<SchemaRef> {
    let names: &[&str] = match statement {
        Statement::ShowCatalogs { .. } => &["catalog"],
        Statement::ShowSchemas { .. } => &["schema"],
        Statement::ShowTables { .. } => &["table", "type", "comment"],
        Statement::ShowViews { .. } => &["view", "comment"],
        Statement::ShowCreateView { .. } => &["create_view"],
        Statement::ShowCreateCatalog { .. } => &["create_catalog"],
        Statement::ShowColumns { .. } => &["column", "type", "nullable", "comment"],
        Statement::ShowSession { .. } | Statement::ShowSetting { .. } => &["name", "value", "description"],
        Statement::ShowCut { .. } => &["query", "source", "kind", "at", "promise"],
        Statement::Call { name, .. } => return super::procedures::schema_of(name),
        _ => return None,
    };
    let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    Some(Arc::new(Schema::new(fields)))
}

type Row = Vec<Option<String>>;

impl Run<'_> {
    /// Does what a command says and tells it in a batch.
    pub(super) async fn command(&self, statement: &Statement) -> Result<RecordBatch> {
        match statement {
            Statement::ShowCatalogs { like } => {
                let names = self.service.catalogs.list_catalogs(&self.session.principal);
                batch(statement, names.into_iter().map(|name| vec![Some(name)]).collect(), like.as_deref())
            }
            Statement::ShowSchemas { from, like } => {
                let rows = self.schemas(from.as_ref()).await?;
                batch(statement, rows, like.as_deref())
            }
            Statement::ShowTables { from, like } => {
                let (_, _, tables) = self.tables_of(from.as_ref()).await?;
                let row =
                    |table: SourceTable| vec![Some(table.name), Some(table.kind.as_str().to_string()), table.comment];
                batch(statement, tables.into_iter().map(row).collect(), like.as_deref())
            }
            Statement::ShowViews { from, like } => {
                let views = self.views(from.as_ref()).await?;
                let rows = views.into_iter().map(|view| vec![Some(view.name), view.comment]);
                batch(statement, rows.collect(), like.as_deref())
            }
            Statement::ShowCreateView { view } => {
                batch(statement, vec![vec![Some(self.show_create_view(view).await?)]], None)
            }
            Statement::ShowCreateCatalog { name } => {
                batch(statement, vec![vec![Some(self.show_create_catalog(name).await?)]], None)
            }
            Statement::CreateCatalog(create) => self.create_catalog(create).await,
            Statement::DropCatalog { name, if_exists } => self.drop_catalog(name, *if_exists).await,
            Statement::ShowColumns { table, like } => {
                let rows = self.columns(table).await?;
                batch(statement, rows, like.as_deref())
            }
            Statement::ShowSession { like } => batch(statement, self.session_settings(SETTINGS), like.as_deref()),
            Statement::ShowSetting { name } => batch(statement, self.session_settings([settings::find(name)?]), None),
            Statement::ShowCut { query } => batch(statement, self.show_cut(query.as_deref())?, None),
            Statement::Use(name) => self.use_schema(name).await,
            Statement::SetSession { name, value } => {
                let value = self.service.set_setting(self.session, name, value)?;
                command_batch(format!("SET {name} = {value}"))
            }
            Statement::ResetSession { name } => self.reset(name.as_deref()),
            Statement::CreateSchema { name, if_not_exists } => self.create_schema(name, *if_not_exists).await,
            Statement::DropSchema { name, if_exists } => self.drop_schema(name, *if_exists).await,
            Statement::CreateTable(create) => self.create_table(create).await,
            Statement::AlterTable(alter) => self.alter_table(alter).await,
            Statement::DropTable { name, if_exists } => self.drop_table(name, *if_exists).await,
            Statement::CreateView(create) => self.create_view(create).await,
            Statement::DropView { view, if_exists } => self.drop_view(view, *if_exists).await,
            Statement::RenameView { view, if_exists, to } => self.rename_view(view, *if_exists, to).await,
            Statement::CommentView { view, comment } => self.comment_view(view, comment.as_deref()).await,
            Statement::Truncate { table } => self.truncate(table).await,
            Statement::Call { name, arguments } => self.call(name, arguments).await,
            Statement::Query(_) | Statement::Explain { .. } | Statement::Insert { .. } | Statement::Change(_) => {
                Err(Error::internal("a query was taken for a command"))
            }
        }
    }

    async fn schemas(&self, from: Option<&Name>) -> Result<Vec<Row>> {
        let catalog = match (from.map(Name::parts), self.session.current().0) {
            (Some([catalog]), _) => catalog.clone(),
            (Some(_), _) => {
                return Err(Error::new(ErrorCode::InvalidQuery, "SHOW SCHEMAS FROM takes a catalog's name"));
            }
            (None, Some(current)) => current,
            (None, None) => {
                return Err(Error::new(ErrorCode::InvalidQuery, "no catalog is current")
                    .with_hint("SHOW SCHEMAS FROM catalog, or USE catalog.schema first"));
            }
        };
        let schemas = self.service.catalogs.list_schemas(&self.tracked.context, &catalog).await?;
        Ok(schemas.into_iter().map(|schema| vec![Some(schema)]).collect())
    }

    /// The schema that a SHOW is about, and what is in it.
    pub(super) async fn tables_of(&self, from: Option<&Name>) -> Result<(String, String, Vec<SourceTable>)> {
        let (catalog, schema) = match (from, self.session.current()) {
            (Some(name), _) => self.planner().current.schema(name.parts())?,
            (None, (Some(catalog), Some(schema))) => (catalog, schema),
            (None, _) => {
                return Err(Error::new(ErrorCode::InvalidQuery, "no catalog and schema are current")
                    .with_hint("SHOW TABLES FROM catalog.schema, or USE catalog.schema first"));
            }
        };
        let (catalogs, context) = (&self.service.catalogs, &self.tracked.context);
        catalogs.check_schema(context, &catalog, &schema).await?;
        let tables = catalogs.list_tables(context, &catalog, &schema).await?;
        Ok((catalog, schema, tables))
    }

    async fn columns(&self, table: &Name) -> Result<Vec<Row>> {
        let name = self.planner().current.table(table.parts())?;
        let (catalogs, context) = (&self.service.catalogs, &self.tracked.context);
        let Some(schema) = catalogs.table_schema(context, &name.catalog, &name.schema, &name.table).await? else {
            return Err(catalogs.not_found(context, &name).await);
        };
        let rows = schema.fields().iter().map(|field| {
            let nullable = if field.is_nullable() { "YES" } else { "NO" };
            let (name, sql_type) = (field.name().clone(), sql_type(field.data_type()));
            vec![Some(name), Some(sql_type), Some(nullable.to_string()), column_comment(field)]
        });
        Ok(rows.collect())
    }

    fn session_settings<'a>(&self, settings: impl IntoIterator<Item = &'a settings::Setting>) -> Vec<Row> {
        let config = self.planner().config();
        let row = |setting: &settings::Setting| {
            let value = self.settings.value_of(setting.name, &config);
            vec![Some(setting.name.to_string()), Some(value), Some(setting.description.to_string())]
        };
        settings.into_iter().map(row).collect()
    }

    /// `USE catalog.schema`; a single name is a schema of the current catalog, or else a catalog.
    async fn use_schema(&self, name: &Name) -> Result<RecordBatch> {
        let (catalogs, context) = (&self.service.catalogs, &self.tracked.context);
        let current = self.session.current().0;
        if let ([single], None) = (name.parts(), &current) {
            catalogs.list_schemas(context, single).await?;
            self.session.use_catalog(Some(single.clone()), None);
            return command_batch(format!("USE {single}"));
        }
        let (catalog, schema) = self.planner().current.schema(name.parts())?;
        if let Err(error) = catalogs.check_schema(context, &catalog, &schema).await {
            let visible = catalogs.list_catalogs(&self.session.principal);
            let is_catalog = name.parts().len() == 1 && visible.contains(&schema);
            if !is_catalog {
                return Err(error);
            }
            self.session.use_catalog(Some(schema.clone()), None);
            return command_batch(format!("USE {schema}"));
        }
        self.session.use_catalog(Some(catalog.clone()), Some(schema.clone()));
        command_batch(format!("USE {catalog}.{schema}"))
    }

    fn reset(&self, name: Option<&str>) -> Result<RecordBatch> {
        let Some(name) = name else {
            self.session.reset_all();
            return command_batch("RESET ALL");
        };
        settings::find(name)?;
        self.session.reset(name);
        command_batch(format!("RESET {name}"))
    }

    async fn create_schema(&self, name: &Name, if_not_exists: bool) -> Result<RecordBatch> {
        let (catalog, schema) = self.planner().current.schema(name.parts())?;
        self.tracked.set_catalogs(vec![catalog.clone()]);
        let lake = self.service.catalogs.writable(&self.session.principal, &catalog).await?;
        let done = lake.create_schema(&schema, if_not_exists).await?;
        command_batch(if done { "CREATE SCHEMA" } else { "CREATE SCHEMA: it is there already" })
    }

    async fn drop_schema(&self, name: &Name, if_exists: bool) -> Result<RecordBatch> {
        let (catalog, schema) = self.planner().current.schema(name.parts())?;
        self.tracked.set_catalogs(vec![catalog.clone()]);
        let lake = self.service.catalogs.writable(&self.session.principal, &catalog).await?;
        let done = lake.drop_schema(&schema, if_exists).await?;
        command_batch(if done { "DROP SCHEMA" } else { "DROP SCHEMA: it is not there" })
    }

    async fn drop_table(&self, name: &Name, if_exists: bool) -> Result<RecordBatch> {
        let name = self.planner().current.table(name.parts())?;
        self.tracked.set_catalogs(vec![name.catalog.clone()]);
        let lake = self.service.catalogs.writable(&self.session.principal, &name.catalog).await?;
        Catalogs::check_no_metadata_table(&name)?;
        let done = lake.drop_table(&name.schema, &name.table, true).await?;
        match (done, if_exists) {
            (true, _) => command_batch("DROP TABLE"),
            (false, true) => {
                self.service.catalogs.check_no_view(&self.tracked.context, &name).await?;
                command_batch("DROP TABLE: it is not there")
            }
            (false, false) => Err(self.service.catalogs.not_found(&self.tracked.context, &name).await),
        }
    }
}

/// The rows as the statement's columns, those whose first column matches the pattern.
fn batch(statement: &Statement, rows: Vec<Row>, pattern: Option<&str>) -> Result<RecordBatch> {
    let failed = |error| Error::internal("the result of SHOW could not be built").with_source(error);
    let schema = schema_of(statement).ok_or_else(|| Error::internal("this statement shows nothing"))?;
    let columns = (0..schema.fields().len()).map(|index| {
        let values = rows.iter().map(|row| row.get(index).cloned().flatten());
        Arc::new(values.collect::<StringArray>()) as ArrayRef
    });
    let batch = RecordBatch::try_new(schema, columns.collect()).map_err(failed)?;
    let Some(pattern) = pattern else { return Ok(batch) };
    let matches: BooleanArray =
        like(batch.column(0), &Scalar::new(StringArray::from(vec![pattern.to_string()]))).map_err(failed)?;
    filter_record_batch(&batch, &matches).map_err(failed)
}
