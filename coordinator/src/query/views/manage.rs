//! Statements about views, done.

use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, FieldRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::logical_expr::LogicalPlan;
use townlake_common::{Error, ErrorCode, Result};
use townlake_connectors::{COMMENT, SourceTable, TableKind, column_comment};
use townlake_engine::identifier::quoted;
use townlake_lake::{CreateView, LakeCatalog, LoadedView, TableChange};

use super::expand::Found;
use super::text::visible_text;
use crate::catalogs::TableName;
use crate::query::change_table::{renamed, uninterrupted};
use crate::query::service::{Run, command_batch};
use crate::query::statement::{Alteration, CreateViewStatement, Name};

impl Run<'_> {
    /// `CREATE VIEW`: its query is planned now, for its columns, as whoever makes it reads it.
    pub(in crate::query) async fn create_view(&self, create: &CreateViewStatement) -> Result<RecordBatch> {
        let planner = self.planner();
        let (name, lake) = self.view_to_change(&create.view).await?;
        self.service.catalogs.check_schema(&self.tracked.context, &name.catalog, &name.schema).await?;
        let query = create.query.as_deref().ok_or_else(|| Error::internal("a view was parsed without its query"))?;
        let mut found = Found::inside(name.clone());
        let plan = planner.plan_whole(query, &mut found).await?;
        found.touched.insert(name.catalog.clone());
        self.tracked.set_catalogs(found.touched.into_iter().collect());
        let (columns, query_columns) = columns_of(create, &plan)?;
        let (catalog, schema) = (planner.current.catalog, planner.current.schema);
        let view = CreateView {
            columns,
            query_columns,
            sql: create.sql.clone(),
            // Another engine may know this catalog by another name.
            default_catalog: catalog.filter(|catalog| *catalog != name.catalog),
            default_schema: schema.unwrap_or_else(|| name.schema.clone()),
            comment: create.comment.clone(),
            replace: create.replace,
            if_not_exists: create.if_not_exists,
            schema: name.schema,
            view: name.table,
        };
        let done = uninterrupted(async move { lake.create_view(&view).await }).await?;
        command_batch(if done { "CREATE VIEW" } else { "CREATE VIEW: it is there already" })
    }

    /// `DROP VIEW`.
    pub(in crate::query) async fn drop_view(&self, view: &Name, if_exists: bool) -> Result<RecordBatch> {
        let (name, lake) = self.view_to_change(view).await?;
        let done = lake.drop_view(&name.schema, &name.table).await?;
        self.changed_view("DROP VIEW", &name, done, if_exists).await
    }

    /// `ALTER VIEW … RENAME TO`.
    pub(in crate::query) async fn rename_view(&self, view: &Name, if_exists: bool, to: &Name) -> Result<RecordBatch> {
        let (name, lake) = self.view_to_change(view).await?;
        let (from, to) = (name.clone(), renamed(&name, to, "view")?);
        let renaming = async move { lake.rename_view((&from.schema, &from.table), (&to.schema, &to.table)).await };
        let done = uninterrupted(renaming).await?;
        self.changed_view("ALTER VIEW", &name, done, if_exists).await
    }

    /// `COMMENT ON VIEW`.
    pub(in crate::query) async fn comment_view(&self, view: &Name, comment: Option<&str>) -> Result<RecordBatch> {
        let (name, lake) = self.view_to_change(view).await?;
        let (of, comment) = (name.clone(), comment.map(str::to_string));
        let done =
            uninterrupted(async move { lake.comment_view(&of.schema, &of.table, comment.as_deref()).await }).await?;
        self.changed_view("COMMENT ON VIEW", &name, done, false).await
    }

    /// `COMMENT ON COLUMN` of a view; `None`: it is another change, or there is no such view.
    pub(in crate::query) async fn comment_view_column(
        &self,
        name: &TableName,
        alteration: &Alteration,
    ) -> Result<Option<RecordBatch>> {
        let Alteration::Changes(changes) = alteration else { return Ok(None) };
        let [TableChange::CommentColumn { path, comment }] = changes.as_slice() else { return Ok(None) };
        let [column] = path.as_slice() else { return Ok(None) };
        let lake = self.service.catalogs.writable(&self.session.principal, &name.catalog).await?;
        let (of, column, comment) = (name.clone(), column.clone(), comment.clone());
        let commenting =
            async move { lake.comment_view_column((&of.schema, &of.table), &column, comment.as_deref()).await };
        match uninterrupted(commenting).await? {
            true => command_batch("COMMENT ON COLUMN").map(Some),
            false => Ok(None),
        }
    }

    /// The statement that would make the view.
    pub(in crate::query) async fn show_create_view(&self, view: &Name) -> Result<String> {
        let name = self.planner().current.table(view.parts())?;
        let (catalogs, context) = (&self.service.catalogs, &self.tracked.context);
        let Some(view) = catalogs.view(context, &name).await? else {
            return Err(catalogs.view_not_found(context, &name).await);
        };
        let text = visible_text(catalogs, &self.session.principal, &view)?;
        Ok(statement_of(&view, &text))
    }

    /// The views of a schema with their comments. One that cannot be read has none.
    pub(in crate::query) async fn views(&self, from: Option<&Name>) -> Result<Vec<SourceTable>> {
        let (catalog, schema, tables) = self.tables_of(from).await?;
        let mut views: Vec<SourceTable> = tables.into_iter().filter(|table| table.kind == TableKind::View).collect();
        for view in &mut views {
            let name = TableName::new(&catalog, &schema, &view.name);
            let loaded = self.service.catalogs.view(&self.tracked.context, &name).await.ok().flatten();
            if let Some(loaded) = loaded {
                view.comment = loaded.comment().map(str::to_string);
            }
        }
        Ok(views)
    }

    async fn view_to_change(&self, view: &Name) -> Result<(TableName, Arc<LakeCatalog>)> {
        let name = self.planner().current.table(view.parts())?;
        self.tracked.set_catalogs(vec![name.catalog.clone()]);
        let lake = self.service.catalogs.writable(&self.session.principal, &name.catalog).await?;
        Ok((name, lake))
    }

    async fn changed_view(&self, what: &str, name: &TableName, done: bool, if_exists: bool) -> Result<RecordBatch> {
        if done {
            return command_batch(what);
        }
        let missing = self.service.catalogs.view_not_found(&self.tracked.context, name).await;
        match missing.code() {
            ErrorCode::TableNotFound | ErrorCode::SchemaNotFound if if_exists => {
                command_batch(format!("{what}: it is not there"))
            }
            _ => Err(missing),
        }
    }
}

/// The columns of a new view, and what its query calls them.
fn columns_of(create: &CreateViewStatement, plan: &LogicalPlan) -> Result<(Vec<FieldRef>, Vec<String>)> {
    let given = plan.schema().fields();
    if !create.columns.is_empty() && create.columns.len() != given.len() {
        let message =
            format!("{} names {} columns, and its query gives {}", create.view, create.columns.len(), given.len());
        return Err(Error::new(ErrorCode::InvalidQuery, message));
    }
    let mut columns: Vec<FieldRef> = Vec::with_capacity(given.len());
    for (index, field) in given.iter().enumerate() {
        let (name, comment) = match create.columns.get(index) {
            Some((name, comment)) => (name, comment.as_ref()),
            None => (field.name(), None),
        };
        if columns.iter().any(|column| column.name() == name) {
            let message = format!("view {} has the column {name} twice", create.view);
            return Err(Error::new(ErrorCode::InvalidQuery, message)
                .with_hint("name the columns: CREATE VIEW v (a, b) AS …, or SELECT … AS a"));
        }
        let mut metadata = field.metadata().clone();
        metadata.remove(COMMENT);
        metadata.extend(comment.map(|comment| (COMMENT.to_string(), comment.clone())));
        columns.push(Arc::new(Field::new(name, field.data_type().clone(), true).with_metadata(metadata)));
    }
    Ok((columns, given.iter().map(|field| field.name().clone()).collect()))
}

fn statement_of(view: &LoadedView, text: &str) -> String {
    let name = [&view.catalog, &view.schema, &view.view].map(|part| quoted(part)).join(".");
    let mut statement = format!("CREATE VIEW {name}");
    let fields = view.described.fields();
    let given = view.query_columns();
    let as_given = given.is_none_or(|given| fields.iter().map(|field| field.name()).eq(given.iter()));
    if !as_given || fields.iter().any(|field| column_comment(field).is_some()) {
        let column = |field: &FieldRef| match column_comment(field) {
            Some(comment) => format!("{} COMMENT {}", quoted(field.name()), literal(&comment)),
            None => quoted(field.name()).into_owned(),
        };
        let columns: Vec<String> = fields.iter().map(column).collect();
        // Writing to a String cannot fail.
        let _ = write!(statement, " (\n  {}\n)", columns.join(",\n  "));
    }
    if let Some(comment) = view.comment() {
        let _ = write!(statement, "\nCOMMENT {}", literal(comment));
    }
    format!("{statement}\nAS\n{text}")
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
