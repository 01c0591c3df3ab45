//! An Iceberg REST catalog (Lakekeeper, Polaris, R2 Data Catalog and others), with our own commits.
//!
//! Files are read with the keys of our configuration, or with those that the server vends ([`crate::vending`]).

use std::sync::Arc;

use async_trait::async_trait;
use iceberg::spec::{Schema, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};
use reqwest::Method;
use serde_json::{Map, Value, json};
use townlake_common::config::IcebergCatalog;
use townlake_common::{Error, ErrorCode, Result};

use super::metadata_file;
use super::rest_client::RestClient;
use super::rest_views::is_without_views;
use super::views::ViewCatalog;
use super::{Catalog, CommitOutcome, NewTable, TableHead, TableName};

/// The last id of a partition field in a table without any.
const UNPARTITIONED_LAST_ASSIGNED_ID: i32 = 999;
/// Separates the levels of a namespace in a path.
const LEVELS: &str = "\u{1f}";
/// Pages of one listing: a bound against a server that never ends.
const MAX_PAGES: usize = 10_000;

pub(crate) struct RestCatalog {
    pub(super) name: String,
    pub(super) client: RestClient,
}

impl RestCatalog {
    /// Reads the server's configuration.
    pub async fn open(name: &str, config: &IcebergCatalog) -> Result<Self> {
        Ok(Self { name: name.to_string(), client: RestClient::connect(name, config).await? })
    }

    /// All items of a paged listing.
    async fn list(&self, path: &[&str], query: &[(&str, &str)], items: &str) -> Result<Vec<Value>> {
        let mut listed = Vec::new();
        let mut page = String::new();
        for _ in 0..MAX_PAGES {
            let mut query = query.to_vec();
            query.push(("pageToken", &page));
            let answer = self.client.call(Method::GET, path, &query, None).await?;
            let shows_no_views = is_without_views(&answer) || answer.status.as_u16() == 403;
            if path.last() == Some(&"views") && shows_no_views {
                return Ok(Vec::new());
            }
            let Some(mut body) = answer.found(&self.name)? else { return Ok(Vec::new()) };
            if let Some(Value::Array(values)) = body.get_mut(items).map(Value::take) {
                listed.extend(values);
            }
            match body.get("next-page-token").and_then(Value::as_str) {
                Some(next) if !next.is_empty() => page = next.to_string(),
                _ => return Ok(listed),
            }
        }
        Err(Error::new(ErrorCode::SourceError, format!("a listing of catalog {} does not end", self.name)))
    }

    /// The names of what is listed in a namespace: its `tables` or its `views`. A server without an endpoint for these has none.
    pub(super) async fn names(&self, namespace: &str, what: &str) -> Result<Vec<String>> {
        let listed = self.list(&["namespaces", &path_of(namespace), what], &[], "identifiers").await?;
        let names = listed.iter().filter_map(|item| item.get("name")?.as_str().map(str::to_string));
        let mut names: Vec<_> = names.collect();
        names.sort();
        Ok(names)
    }

    async fn children(&self, parent: &[String]) -> Result<Vec<Vec<String>>> {
        let joined = parent.join(LEVELS);
        let query = if parent.is_empty() { vec![] } else { vec![("parent", joined.as_str())] };
        let listed = self.list(&["namespaces"], &query, "namespaces").await?;
        let levels = listed.into_iter().filter_map(|value| serde_json::from_value::<Vec<String>>(value).ok());
        // Some servers ignore `parent` and answer with the top again.
        Ok(levels.filter(|levels| levels.len() == parent.len() + 1 && levels.starts_with(parent)).collect())
    }

    fn head(&self, name: &TableName, mut body: Value) -> Result<TableHead> {
        let metadata = body.get_mut("metadata").map(Value::take).unwrap_or(Value::Null);
        let metadata_location = body.get("metadata-location").and_then(Value::as_str).unwrap_or_default().to_string();
        let what = format!("{}.{name}", self.name);
        let metadata = metadata_file::of_value(metadata, &what)?;
        Ok(TableHead { metadata: Arc::new(metadata), metadata_location })
    }

    fn table_path<'a>(namespace: &'a str, name: &'a TableName) -> [&'a str; 4] {
        ["namespaces", namespace, "tables", &name.table]
    }
}

#[async_trait]
impl Catalog for RestCatalog {
    async fn list_namespaces(&self) -> Result<Vec<String>> {
        let mut open = self.children(&[]).await?;
        let mut namespaces = Vec::new();
        while let Some(levels) = open.pop() {
            open.extend(self.children(&levels).await?);
            namespaces.push(levels.join("."));
        }
        namespaces.sort();
        Ok(namespaces)
    }

    async fn namespace_exists(&self, namespace: &str) -> Result<bool> {
        let answer = self.client.call(Method::GET, &["namespaces", &path_of(namespace)], &[], None).await?;
        Ok(answer.found(&self.name)?.is_some())
    }

    async fn create_namespace(&self, namespace: &str) -> Result<()> {
        let body = json!({ "namespace": levels_of(namespace), "properties": {} });
        let answer = self.client.call(Method::POST, &["namespaces"], &[], Some(&body)).await?;
        if answer.status.as_u16() == 409 {
            return Err(Error::new(
                ErrorCode::AlreadyExists,
                format!("schema {}.{namespace} exists already", self.name),
            ));
        }
        answer.success(&self.name).map(|_| ())
    }

    async fn drop_namespace(&self, namespace: &str) -> Result<bool> {
        let answer = self.client.call(Method::DELETE, &["namespaces", &path_of(namespace)], &[], None).await?;
        if answer.status.as_u16() == 409 {
            let message = format!("schema {}.{namespace} is not empty", self.name);
            return Err(Error::new(ErrorCode::InvalidQuery, message).with_hint("drop its tables first"));
        }
        Ok(answer.found(&self.name)?.is_some())
    }

    async fn list_tables(&self, namespace: &str) -> Result<Vec<String>> {
        self.names(namespace, "tables").await
    }

    async fn load(&self, name: &TableName) -> Result<Option<TableHead>> {
        let namespace = path_of(&name.namespace);
        let answer = self.client.call(Method::GET, &Self::table_path(&namespace, name), &[], None).await?;
        answer.found(&self.name)?.map(|body| self.head(name, body)).transpose()
    }

    async fn create_table(&self, name: &TableName, table: NewTable) -> Result<TableHead> {
        let exists = || Error::new(ErrorCode::AlreadyExists, format!("table {}.{name} exists already", self.name));
        // Some servers (SeaweedFS) answer the creation of a table that is there with that table and 200.
        let namespace = path_of(&name.namespace);
        let there = self.client.call(Method::GET, &Self::table_path(&namespace, name), &[], None).await?;
        if there.found(&self.name)?.is_some() {
            return Err(exists());
        }
        let body = json!({
            "name": name.table,
            "location": table.location,
            "schema": table.schema,
            "partition-spec": with_ids(json!(table.spec), 0, UNPARTITIONED_LAST_ASSIGNED_ID),
            "write-order": table.sort_order,
            "properties": table.properties,
            "stage-create": false,
        });
        let path = ["namespaces", &namespace, "tables"];
        let answer = self.client.call(Method::POST, &path, &[], Some(&body)).await?;
        match answer.status.as_u16() {
            404 => {
                let message = format!("schema {}.{} does not exist", self.name, name.namespace);
                Err(Error::new(ErrorCode::SchemaNotFound, message))
            }
            409 => Err(exists()),
            _ => {
                let head = self.head(name, answer.success(&self.name)?)?;
                if is_as_created(&head.metadata, &table.schema) { Ok(head) } else { Err(exists()) }
            }
        }
    }

    async fn register_table(&self, name: &TableName, metadata_location: &str) -> Result<TableHead> {
        let namespace = path_of(&name.namespace);
        let body = json!({ "name": name.table, "metadata-location": metadata_location });
        let path = ["namespaces", &namespace, "register"];
        let answer = self.client.call(Method::POST, &path, &[], Some(&body)).await?;
        match answer.status.as_u16() {
            404 if !self.namespace_exists(&name.namespace).await? => {
                let message = format!("schema {}.{} does not exist", self.name, name.namespace);
                Err(Error::new(ErrorCode::SchemaNotFound, message))
            }
            404 | 405 | 406 | 501 => {
                let message = format!("the REST server of catalog {} does not register tables", self.name);
                Err(Error::new(ErrorCode::NotSupported, message).with_source(answer.error(&self.name)))
            }
            409 => Err(Error::new(ErrorCode::AlreadyExists, format!("table {}.{name} exists already", self.name))),
            _ => self.head(name, answer.success(&self.name)?),
        }
    }

    async fn drop_table(&self, name: &TableName) -> Result<bool> {
        // Some servers (SeaweedFS) drop a view when they are asked to drop a table of its name.
        match self.is_view(name).await {
            Ok(true) => return Ok(false),
            // Whoever may not look at views drops a table all the same.
            Err(error) if error.code() != ErrorCode::SourceDenied => return Err(error),
            Ok(false) | Err(_) => {}
        }
        let namespace = path_of(&name.namespace);
        let query = [("purgeRequested", "false")];
        let answer = self.client.call(Method::DELETE, &Self::table_path(&namespace, name), &query, None).await?;
        Ok(answer.found(&self.name)?.is_some())
    }

    async fn rename_table(&self, from: &TableName, to: &TableName) -> Result<bool> {
        if !self.namespace_exists(&to.namespace).await? {
            let message = format!("schema {}.{} does not exist", self.name, to.namespace);
            return Err(Error::new(ErrorCode::SchemaNotFound, message));
        }
        let body = json!({ "source": identifier(from), "destination": identifier(to) });
        let answer = self.client.call(Method::POST, &["tables", "rename"], &[], Some(&body)).await?;
        match answer.status.as_u16() {
            409 => Err(Error::new(ErrorCode::AlreadyExists, format!("table {}.{to} exists already", self.name))),
            406 | 501 => {
                let message = format!("the REST server of catalog {} does not rename tables", self.name);
                Err(Error::new(ErrorCode::NotSupported, message).with_source(answer.error(&self.name)))
            }
            _ => Ok(answer.found(&self.name)?.is_some()),
        }
    }

    async fn commit(
        &self,
        name: &TableName,
        base: &TableHead,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> CommitOutcome {
        let mut body = json!({
            "identifier": identifier(name),
            "requirements": requirements,
            "updates": updates,
        });
        for update in body.get_mut("updates").and_then(Value::as_array_mut).into_iter().flatten() {
            give_ids(update, &base.metadata);
        }
        let namespace = path_of(&name.namespace);
        let path = Self::table_path(&namespace, name);
        let answer = match self.client.call(Method::POST, &path, &[], Some(&body)).await {
            Ok(answer) => answer,
            Err(error) if error.code() == ErrorCode::SourceDenied => return CommitOutcome::Rejected(error),
            Err(error) => return CommitOutcome::Unknown(error),
        };
        let error = || answer.error(&self.name);
        match answer.status.as_u16() {
            200..=299 => CommitOutcome::Committed,
            404 => {
                let message = format!("table {}.{name} does not exist any more", self.name);
                CommitOutcome::Rejected(Error::new(ErrorCode::TableNotFound, message))
            }
            409 => {
                let message = format!("table {}.{name} was changed by another writer", self.name);
                CommitOutcome::Conflict(Error::new(ErrorCode::CommitConflict, message).with_source(error()))
            }
            // 429: refused before it was looked at.
            400 | 401 | 403 | 405 | 406 | 419 | 422 | 429 => CommitOutcome::Rejected(error()),
            _ => CommitOutcome::Unknown(error()),
        }
    }

    fn views(&self) -> &dyn ViewCatalog {
        self
    }
}

/// Whether this can be the empty table that we asked for, and not one that another made a moment before.
fn is_as_created(metadata: &TableMetadata, schema: &Schema) -> bool {
    let names = |schema: &Schema| -> Vec<String> {
        schema.as_struct().fields().iter().map(|field| field.name.clone()).collect()
    };
    metadata.snapshots().len() == 0 && names(metadata.current_schema()) == names(schema)
}

/// Gives what is added an id that the table has not, as Java's client does: some servers (Nessie) refuse one that is taken.
fn give_ids(update: &mut Value, metadata: &TableMetadata) {
    let next = |ids: &mut dyn Iterator<Item = i64>| ids.max().unwrap_or(-1) + 1;
    if let Some(spec) = update.get_mut("spec") {
        let id = next(&mut metadata.partition_specs_iter().map(|spec| i64::from(spec.spec_id())));
        *spec = with_ids(spec.take(), id, metadata.last_partition_id());
    } else if let Some(schema) = update.get_mut("schema").and_then(Value::as_object_mut) {
        let id = next(&mut metadata.schemas_iter().map(|schema| i64::from(schema.schema_id())));
        schema.insert("schema-id".to_string(), json!(id));
    } else if let Some(order) = update.get_mut("sort-order").and_then(Value::as_object_mut) {
        // The number 0 is that of no order.
        let is_none = order.get("fields").and_then(Value::as_array).is_none_or(Vec::is_empty);
        let id = next(&mut metadata.sort_orders_iter().map(|order| order.order_id));
        order.insert("order-id".to_string(), json!(if is_none { 0 } else { id }));
    }
}

/// The spec with ids, which the crate `iceberg` leaves out of what is new and some servers (Nessie) want: its own, and those of
/// fields above `last`. Servers may choose others.
fn with_ids(mut spec: Value, id: i64, last: i32) -> Value {
    let Some(of) = spec.as_object_mut() else { return spec };
    let is_new = |of: &Map<String, Value>, key: &str| of.get(key).is_none_or(Value::is_null);
    if is_new(of, "spec-id") {
        of.insert("spec-id".to_string(), json!(id));
    }
    let fields = of.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten();
    let new = fields.filter_map(Value::as_object_mut).filter(|field| is_new(field, "field-id"));
    for (field, id) in new.zip(last + 1..) {
        field.insert("field-id".to_string(), json!(id));
    }
    spec
}

fn levels_of(namespace: &str) -> Vec<&str> {
    namespace.split('.').collect()
}

/// A name in the body of a request.
pub(super) fn identifier(name: &TableName) -> Value {
    json!({ "namespace": levels_of(&name.namespace), "name": name.table })
}

pub(crate) fn path_of(namespace: &str) -> String {
    levels_of(namespace).join(LEVELS)
}
