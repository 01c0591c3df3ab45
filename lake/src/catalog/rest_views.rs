//! Views of a REST catalog: the view endpoints of the Iceberg REST specification.
//!
//! Not every server has them. One that does not is a catalog without views when it is read, and refuses to make one.

use std::sync::Arc;

use async_trait::async_trait;
use iceberg::spec::{ViewMetadata, ViewMetadataBuilder};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use townlake_common::{Error, ErrorCode, Result};

use super::rest::{RestCatalog, identifier, path_of};
use super::rest_client::Answer;
use super::views::{NewView, ViewCatalog, ViewHead, changed, invalid, no_schema, taken, undecodable};
use super::{Catalog, CommitOutcome, TableName};

/// What servers answer that do not know the endpoint: no such method, not acceptable, not implemented.
const UNKNOWN_ENDPOINT: [u16; 3] = [405, 406, 501];

/// Whether the answer to a look at views says that the server has none at all. Some say that the request is a bad one.
pub(super) fn is_without_views(answer: &Answer) -> bool {
    answer.status.as_u16() == 400 || UNKNOWN_ENDPOINT.contains(&answer.status.as_u16())
}

#[async_trait]
impl ViewCatalog for RestCatalog {
    async fn list(&self, namespace: &str) -> Result<Vec<String>> {
        self.names(namespace, "views").await
    }

    async fn load_view(&self, name: &TableName) -> Result<Option<ViewHead>> {
        let namespace = path_of(&name.namespace);
        let answer = self.client.call(Method::GET, &view_path(&namespace, name), &[], None).await?;
        if is_without_views(&answer) {
            return Ok(None);
        }
        answer.found(&self.name)?.map(|body| self.view_head(name, body)).transpose()
    }

    async fn create(&self, name: &TableName, view: NewView) -> Result<()> {
        // Some servers (SeaweedFS) answer the creation of a view that is there with that view and 200.
        if self.load_view(name).await?.is_some() {
            return Err(taken(&self.name, name));
        }
        let namespace = path_of(&name.namespace);
        let NewView { schema, version, properties } = view;
        let body = json!({ "name": name.table, "schema": schema, "view-version": version, "properties": properties });
        let path = ["namespaces", &namespace, "views"];
        let answer = self.client.call(Method::POST, &path, &[], Some(&body)).await?;
        match answer.status.as_u16() {
            409 => return Err(taken(&self.name, name)),
            404 if !self.namespace_exists(&name.namespace).await? => return Err(no_schema(&self.name, name)),
            404 => return Err(self.no_views(&answer)),
            status if UNKNOWN_ENDPOINT.contains(&status) => return Err(self.no_views(&answer)),
            _ => {}
        }
        let made = self.view_head(name, answer.success(&self.name)?)?;
        let ours = made.metadata.current_version();
        match ours.representations() == version.representations() && ours.timestamp_ms() == version.timestamp_ms() {
            true => Ok(()),
            false => Err(taken(&self.name, name)), // another made it a moment before
        }
    }

    async fn replace(&self, name: &TableName, base: &ViewHead, builder: ViewMetadataBuilder) -> CommitOutcome {
        let built = match builder.build() {
            Ok(built) => built,
            Err(error) => return CommitOutcome::Rejected(invalid(&self.name, name, error)),
        };
        let updates = match serde_json::to_value(&built.changes) {
            Ok(changes) => without_known(changes, &base.metadata, &built.metadata),
            Err(error) => {
                let error = Error::internal("the change of a view cannot be encoded").with_source(error);
                return CommitOutcome::Rejected(error);
            }
        };
        let body = json!({
            "identifier": identifier(name),
            "requirements": [{ "type": "assert-view-uuid", "uuid": base.metadata.uuid() }],
            "updates": updates,
        });
        let namespace = path_of(&name.namespace);
        let answer = match self.client.call(Method::POST, &view_path(&namespace, name), &[], Some(&body)).await {
            Ok(answer) => answer,
            Err(error) if error.code() == ErrorCode::SourceDenied => return CommitOutcome::Rejected(error),
            Err(error) => return CommitOutcome::Unknown(error),
        };
        match answer.status.as_u16() {
            200..=299 => CommitOutcome::Committed,
            404 | 409 => CommitOutcome::Conflict(changed(&self.name, name).with_source(answer.error(&self.name))),
            // "Last added" of a schema that another has just added means nothing.
            400 | 422 if self.has_changed(name, base).await => CommitOutcome::Conflict(changed(&self.name, name)),
            400 | 401 | 403 | 405 | 406 | 419 | 422 => CommitOutcome::Rejected(answer.error(&self.name)),
            _ => CommitOutcome::Unknown(answer.error(&self.name)),
        }
    }

    async fn drop(&self, name: &TableName) -> Result<bool> {
        // Some servers (SeaweedFS) drop a table when they are asked to drop a view of its name.
        if !self.is_view(name).await? {
            return Ok(false);
        }
        let namespace = path_of(&name.namespace);
        let answer = self.client.call(Method::DELETE, &view_path(&namespace, name), &[], None).await?;
        if UNKNOWN_ENDPOINT.contains(&answer.status.as_u16()) {
            return Ok(false);
        }
        Ok(answer.found(&self.name)?.is_some())
    }

    async fn rename(&self, from: &TableName, to: &TableName) -> Result<bool> {
        if !self.namespace_exists(&to.namespace).await? {
            return Err(no_schema(&self.name, to));
        }
        if !self.is_view(from).await? {
            return Ok(false);
        }
        let body = json!({ "source": identifier(from), "destination": identifier(to) });
        let answer = self.client.call(Method::POST, &["views", "rename"], &[], Some(&body)).await?;
        match answer.status.as_u16() {
            409 => Err(taken(&self.name, to)),
            status if UNKNOWN_ENDPOINT.contains(&status) => Err(self.no_views(&answer)),
            _ => Ok(answer.found(&self.name)?.is_some()),
        }
    }
}

impl RestCatalog {
    /// Whether the server has a view of this name, whatever is in it.
    pub(super) async fn is_view(&self, name: &TableName) -> Result<bool> {
        let namespace = path_of(&name.namespace);
        let answer = self.client.call(Method::GET, &view_path(&namespace, name), &[], None).await?;
        match is_without_views(&answer) {
            true => Ok(false),
            false => Ok(answer.found(&self.name)?.is_some()),
        }
    }

    async fn has_changed(&self, name: &TableName, base: &ViewHead) -> bool {
        let now = self.load_view(name).await.ok().flatten();
        now.is_some_and(|now| {
            now.metadata.uuid() != base.metadata.uuid() || now.metadata.history() != base.metadata.history()
        })
    }

    fn view_head(&self, name: &TableName, mut body: Value) -> Result<ViewHead> {
        let metadata = body.get_mut("metadata").map(Value::take).unwrap_or(Value::Null);
        let metadata_location = body.get("metadata-location").and_then(Value::as_str).unwrap_or_default().to_string();
        let metadata = ViewMetadata::deserialize(&metadata)
            .map_err(|error| undecodable(&format!("view {}.{name}", self.name)).with_source(error))?;
        Ok(ViewHead { metadata: Arc::new(metadata), metadata_location })
    }

    fn no_views(&self, answer: &Answer) -> Error {
        let message = format!("the REST server of catalog {} keeps no views", self.name);
        Error::new(ErrorCode::NotSupported, message)
            .with_hint("make the view in another catalog: it may read the tables of this one")
            .with_source(answer.error(&self.name))
    }
}

/// The updates without the schema and the version that the view has already, which are then named by their ids: servers leave
/// out what they know, and "the last added" (-1) is nothing for them.
pub(super) fn without_known(mut updates: Value, base: &ViewMetadata, made: &ViewMetadata) -> Value {
    const LAST_ADDED: i32 = -1;
    let (schema, version) = (made.current_version().schema_id(), made.current_version_id());
    let knows_schema = base.schema_by_id(schema).is_some();
    let knows_version = base.version_by_id(version).is_some();
    let Value::Array(list) = &mut updates else { return updates };
    list.retain(|update| match update.get("action").and_then(Value::as_str) {
        Some("add-schema") => !knows_schema,
        Some("add-view-version") => !knows_version,
        _ => true,
    });
    for update in list {
        let (place, id) = match update.get("action").and_then(Value::as_str) {
            Some("add-view-version") if knows_schema => (update.pointer_mut("/view-version/schema-id"), schema),
            Some("set-current-view-version") if knows_version => (update.pointer_mut("/view-version-id"), version),
            _ => continue,
        };
        if let Some(place) = place.filter(|place| **place == json!(LAST_ADDED)) {
            *place = json!(id);
        }
    }
    updates
}

fn view_path<'a>(namespace: &'a str, name: &'a TableName) -> [&'a str; 4] {
    ["namespaces", namespace, "views", &name.table]
}
