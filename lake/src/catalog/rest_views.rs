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

#[async_trait]
impl ViewCatalog for RestCatalog {
    async fn list(&self, namespace: &str) -> Result<Vec<String>> {
        self.names(namespace, "views").await
    }

    async fn load_view(&self, name: &TableName) -> Result<Option<ViewHead>> {
        let namespace = path_of(&name.namespace);
        let answer = self.client.call(Method::GET, &view_path(&namespace, name), &[], None).await?;
        if UNKNOWN_ENDPOINT.contains(&answer.status.as_u16()) {
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
        let changes = match builder.build() {
            Ok(built) => built.changes,
            Err(error) => return CommitOutcome::Rejected(invalid(&self.name, name, error)),
        };
        let body = json!({
            "identifier": identifier(name),
            "requirements": [{ "type": "assert-view-uuid", "uuid": base.metadata.uuid() }],
            "updates": changes,
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
            400 | 401 | 403 | 405 | 406 | 419 | 422 => CommitOutcome::Rejected(answer.error(&self.name)),
            _ => CommitOutcome::Unknown(answer.error(&self.name)),
        }
    }

    async fn drop(&self, name: &TableName) -> Result<bool> {
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

fn view_path<'a>(namespace: &'a str, name: &'a TableName) -> [&'a str; 4] {
    ["namespaces", namespace, "views", &name.table]
}
