//! Iceberg views in a catalog: what [`super::Catalog`] is for tables. A name is that of a table or of a view, never of both.
//!
//! Format: <https://iceberg.apache.org/view-spec/>.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use iceberg::spec::{Schema, ViewMetadata, ViewMetadataBuilder, ViewVersion};
use townlake_common::{Error, ErrorCode, Result};

use super::{CommitOutcome, TableName};

/// The state of a view that its catalog points to.
#[derive(Clone)]
pub(crate) struct ViewHead {
    pub metadata: Arc<ViewMetadata>,
    pub metadata_location: String,
}

/// A view to create.
pub(crate) struct NewView {
    pub schema: Schema,
    pub version: ViewVersion,
    pub properties: HashMap<String, String>,
}

/// The views of a catalog. Errors name the catalog and never hold its address or credentials.
#[async_trait]
pub(crate) trait ViewCatalog: Send + Sync {
    /// The views of a namespace, sorted; none where it does not exist, or where the catalog has no views at all.
    async fn list(&self, namespace: &str) -> Result<Vec<String>>;
    async fn load_view(&self, name: &TableName) -> Result<Option<ViewHead>>;
    /// Errors: `ALREADY_EXISTS` where a table or view has the name, `SCHEMA_NOT_FOUND`, `NOT_SUPPORTED` by a catalog without
    /// views.
    async fn create(&self, name: &TableName, view: NewView) -> Result<()>;
    /// Makes what was built on the metadata of `base` the view.
    async fn replace(&self, name: &TableName, base: &ViewHead, changed: ViewMetadataBuilder) -> CommitOutcome;
    /// Forgets the view; its metadata files stay. `false`: there is none.
    async fn drop(&self, name: &TableName) -> Result<bool>;
    /// Gives the view another name. `false`: there is none. Errors: `ALREADY_EXISTS`, `SCHEMA_NOT_FOUND`.
    async fn rename(&self, from: &TableName, to: &TableName) -> Result<bool>;
}

/// The error for a change of a view that cannot be built.
pub(crate) fn invalid(catalog: &str, name: &TableName, error: iceberg::Error) -> Error {
    let loses_dialects = error.message().contains("loss of view dialects");
    let invalid = Error::new(
        ErrorCode::NotSupported,
        match loses_dialects {
            true => format!("view {catalog}.{name} is also written for other engines, and that text would be lost"),
            false => format!("view {catalog}.{name} cannot be made so: {}", error.message()),
        },
    );
    let invalid = if loses_dialects { invalid.with_hint("DROP VIEW it, then CREATE VIEW") } else { invalid };
    invalid.with_source(error)
}

/// The error for metadata that is damaged.
pub(super) fn undecodable(what: &str) -> Error {
    Error::new(ErrorCode::DataCorrupt, format!("the metadata of {what} cannot be decoded"))
}

/// The error for a view that another writer has changed.
pub(super) fn changed(catalog: &str, name: &TableName) -> Error {
    Error::new(ErrorCode::CommitConflict, format!("view {catalog}.{name} was changed by another writer"))
        .with_hint("run the statement again")
        .retryable()
}

/// The error for a name that is taken.
pub(super) fn taken(catalog: &str, name: &TableName) -> Error {
    Error::new(ErrorCode::AlreadyExists, format!("there is a table or view {catalog}.{name} already"))
}

/// The error for a schema that is missing.
pub(super) fn no_schema(catalog: &str, name: &TableName) -> Error {
    Error::new(ErrorCode::SchemaNotFound, format!("schema {catalog}.{} does not exist", name.namespace))
}
