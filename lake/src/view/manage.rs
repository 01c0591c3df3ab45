//! Views of a catalog: found, made, replaced, dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use iceberg::NamespaceIdent;
use iceberg::spec::{NestedField, Schema, ViewMetadata, ViewMetadataBuilder, ViewRepresentations, ViewVersion};
use serde_json::json;
use townlake_common::{Error, ErrorCode, Result};

use super::{CreateView, LoadedView, OUR_DIALECT, QUERY_COLUMNS};
use crate::catalog::views::{NewView, invalid};
use crate::catalog::{CommitOutcome, TableName};
use crate::commit::{FIRST_PAUSE, wait};
use crate::lake_catalog::{COMMENT, check_table_name};
use crate::{LakeCatalog, schema};

/// How long others who change the same view at the same time are borne.
const LIMIT: Duration = Duration::from_secs(30);

impl LakeCatalog {
    /// The views of a schema, sorted; none where the schema does not exist or the catalog keeps none.
    pub async fn list_views(&self, schema: &str) -> Result<Vec<String>> {
        self.catalog.views().list(schema).await
    }

    /// The view. `None`: no such view.
    ///
    /// Errors: `DATA_CORRUPT`, those of catalog and store.
    pub async fn load_view(&self, schema: &str, view: &str) -> Result<Option<LoadedView>> {
        let name = TableName::new(schema, view);
        let Some(head) = self.catalog.views().load_view(&name).await? else { return Ok(None) };
        LoadedView::new(&self.name, &name, head).map(Some)
    }

    /// Creates or replaces a view. `false`: it was there, and `if_not_exists` was said.
    ///
    /// Errors: `ALREADY_EXISTS`, for a table of this name too; `SCHEMA_NOT_FOUND`; `NOT_SUPPORTED` for a column whose type
    /// Iceberg has not, by a catalog without views, and where texts for other engines would be lost; `COMMIT_CONFLICT`,
    /// `COMMIT_STATE_UNKNOWN`.
    pub async fn create_view(&self, create: &CreateView) -> Result<bool> {
        let name = TableName::new(&create.schema, &create.view);
        check_table_name(&create.view)?;
        let schema = schema::from_arrow(&create.columns)?;
        if self.catalog.load(&name).await?.is_some() {
            let message = format!("{}.{name} is a table", self.name);
            return Err(Error::new(ErrorCode::AlreadyExists, message)
                .with_hint("give the view another name, or DROP TABLE it first"));
        }
        let version = version_of(create, &schema)?;
        let change = |metadata: &ViewMetadata| {
            let properties = comment_of(create);
            let gone: &[String] = if properties.is_empty() { &[COMMENT.to_string()] } else { &[] };
            let builder = metadata.clone().into_builder().remove_properties(gone);
            let builder = builder.set_properties(properties)?;
            builder.set_current_version(version.clone(), schema.clone())
        };
        let until = Instant::now() + LIMIT;
        let mut pause = FIRST_PAUSE;
        loop {
            if create.replace && self.change_view(&name, change).await? {
                return Ok(true);
            }
            let (schema, version) = (schema.clone(), version.clone());
            let view = NewView { schema, version, properties: comment_of(create) };
            match self.catalog.views().create(&name, view).await {
                Ok(()) => return Ok(true),
                Err(error) if error.code() != ErrorCode::AlreadyExists => return Err(error),
                Err(_) if create.if_not_exists => return Ok(false),
                // another made it a moment before
                Err(_) if create.replace && Instant::now() < until => wait(&mut pause).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Sets or takes away a view's comment. `false`: there is no such view.
    pub async fn comment_view(&self, schema: &str, view: &str, comment: Option<&str>) -> Result<bool> {
        let change = |metadata: &ViewMetadata| {
            let builder = metadata.clone().into_builder();
            match comment {
                Some(text) => builder.set_properties(HashMap::from([(COMMENT.to_string(), text.to_string())])),
                None => Ok(builder.remove_properties(&[COMMENT.to_string()])),
            }
        };
        self.change_view(&TableName::new(schema, view), change).await
    }

    /// Sets or takes away the comment of a view's column. `false`: there is no such view.
    ///
    /// Errors: `COLUMN_NOT_FOUND`.
    pub async fn comment_view_column(
        &self,
        (schema, view): (&str, &str),
        column: &str,
        comment: Option<&str>,
    ) -> Result<bool> {
        let name = TableName::new(schema, view);
        let Some(there) = self.catalog.views().load_view(&name).await? else { return Ok(false) };
        if there.metadata.current_schema().field_by_name(column).is_none() {
            let message = format!("view {}.{name} has no column {column}", self.name);
            return Err(Error::new(ErrorCode::ColumnNotFound, message));
        }
        let change = |metadata: &ViewMetadata| {
            let schema = with_comment(metadata.current_schema(), column, comment)?;
            let version = metadata.current_version();
            let version = ViewVersion::builder()
                .with_default_catalog(version.default_catalog().cloned())
                .with_default_namespace(version.default_namespace().clone())
                .with_representations(version.representations().clone())
                .with_schema_id(schema.schema_id())
                .with_summary(version.summary().clone())
                .with_timestamp_ms(Utc::now().timestamp_millis())
                .build();
            metadata.clone().into_builder().set_current_version(version, schema)
        };
        self.change_view(&name, change).await
    }

    /// Drops a view. `false`: there is none.
    pub async fn drop_view(&self, schema: &str, view: &str) -> Result<bool> {
        self.catalog.views().drop(&TableName::new(schema, view)).await
    }

    /// Gives a view another name in this catalog. `false`: there is no such view.
    ///
    /// Errors: `ALREADY_EXISTS`, `SCHEMA_NOT_FOUND`, `INVALID_QUERY` for a name that no view can have.
    pub async fn rename_view(&self, from: (&str, &str), to: (&str, &str)) -> Result<bool> {
        check_table_name(to.1)?;
        let (from, to) = (TableName::new(from.0, from.1), TableName::new(to.0, to.1));
        if self.catalog.load(&to).await?.is_some() {
            return Err(Error::new(ErrorCode::AlreadyExists, format!("{}.{to} is a table", self.name)));
        }
        self.catalog.views().rename(&from, &to).await
    }

    /// Refuses a name that a view has. Whoever may not look at views makes a table all the same: its catalog knows better.
    pub(crate) async fn check_no_view(&self, name: &TableName) -> Result<()> {
        match self.catalog.views().load_view(name).await {
            Ok(Some(_)) => {
                let message = format!("{}.{name} is a view", self.name);
                Err(Error::new(ErrorCode::AlreadyExists, message)
                    .with_hint("give the table another name, or DROP VIEW it first"))
            }
            Err(error) if error.code() != ErrorCode::SourceDenied => Err(error),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Changes the view as it is at each attempt.
    async fn change_view(
        &self,
        name: &TableName,
        change: impl Fn(&ViewMetadata) -> iceberg::Result<ViewMetadataBuilder> + Send + Sync,
    ) -> Result<bool> {
        let until = Instant::now() + LIMIT;
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(base) = self.catalog.views().load_view(name).await? else { return Ok(false) };
            let builder = change(&base.metadata).map_err(|error| invalid(&self.name, name, error))?;
            match self.catalog.views().replace(name, &base, builder).await {
                CommitOutcome::Committed => return Ok(true),
                CommitOutcome::Rejected(error) => return Err(error),
                CommitOutcome::Conflict(_) if Instant::now() < until => wait(&mut pause).await,
                CommitOutcome::Conflict(error) => return Err(error),
                CommitOutcome::Unknown(error) => {
                    let message = format!("nobody knows whether view {}.{name} was changed", self.name);
                    return Err(Error::new(ErrorCode::CommitStateUnknown, message)
                        .with_hint("SHOW CREATE VIEW tells")
                        .with_source(error));
                }
            }
        }
    }
}

fn with_comment(schema: &Schema, column: &str, comment: Option<&str>) -> iceberg::Result<Schema> {
    let fields = schema.as_struct().fields().iter().map(|field| match field.name == column {
        true => Arc::new(NestedField { doc: comment.map(str::to_string), ..field.as_ref().clone() }),
        false => Arc::clone(field),
    });
    let identifiers = schema.identifier_field_ids();
    Schema::builder().with_fields(fields).with_identifier_field_ids(identifiers).build()
}

fn version_of(create: &CreateView, schema: &Schema) -> Result<ViewVersion> {
    // The crate makes a list of representations from JSON only.
    let sql = json!([{ "type": "sql", "sql": create.sql, "dialect": OUR_DIALECT }]);
    let representations: ViewRepresentations = serde_json::from_value(sql)
        .map_err(|error| Error::internal("the text of a view cannot be encoded").with_source(error))?;
    let levels = create.default_schema.split('.').map(str::to_string).collect();
    let namespace = NamespaceIdent::from_vec(levels).map_err(|error| {
        let message = format!("`{}` cannot be the schema of names in a view", create.default_schema);
        Error::new(ErrorCode::InvalidQuery, message).with_source(error)
    })?;
    let columns = serde_json::to_string(&create.query_columns)
        .map_err(|error| Error::internal("the columns of a view cannot be encoded").with_source(error))?;
    let summary =
        [("engine-name", OUR_DIALECT), ("engine-version", env!("CARGO_PKG_VERSION")), (QUERY_COLUMNS, &columns)];
    Ok(ViewVersion::builder()
        .with_default_catalog(create.default_catalog.clone())
        .with_default_namespace(namespace)
        .with_representations(representations)
        .with_schema_id(schema.schema_id())
        .with_summary(summary.map(|(key, value)| (key.to_string(), value.to_string())).into())
        .with_timestamp_ms(Utc::now().timestamp_millis())
        .build())
}

fn comment_of(create: &CreateView) -> HashMap<String, String> {
    create.comment.iter().map(|comment| (COMMENT.to_string(), comment.clone())).collect()
}
