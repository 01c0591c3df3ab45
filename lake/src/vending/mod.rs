//! Access to object stores that the REST server of a catalog vends, table by table and for a short time.
//!
//! A node asks the server itself, coordinator and executors alike, with the login of its own configuration: a plan names catalog,
//! table and bucket, never a key. What the server gives is asked for again before it expires, also in the middle of a scan.

mod answer;
mod store;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use reqwest::Method;
use serde_json::Value;
use tokio::sync::OnceCell;
use townlake_common::config::{IcebergCatalog, IcebergCatalogKind};
use townlake_common::{Error, ErrorCode, Result};
use uuid::Uuid;

use self::answer::Access;
pub(crate) use self::store::VendedStore;
use crate::catalog::TableName;
use crate::catalog::rest::path_of;
use crate::catalog::rest_client::RestClient;

/// A table as it was made once: one that is made anew under its name lies elsewhere, and other keys open it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MadeTable {
    pub name: TableName,
    pub uuid: Uuid,
}

/// Asks one REST catalog for access to its tables.
pub(crate) struct Vendor {
    catalog: String,
    config: IcebergCatalog,
    client: OnceCell<RestClient>,
}

impl Vendor {
    /// The vendor of a catalog, where it is to be asked: a REST catalog whose configuration says so, or has no keys of S3.
    pub fn of(catalog: &str, config: &IcebergCatalog) -> Option<Arc<Self>> {
        let wanted = config.vended_credentials.unwrap_or(config.s3_access_key_id.is_none());
        let is_rest = config.catalog == IcebergCatalogKind::Rest;
        let vendor = || Self { catalog: catalog.to_string(), config: config.clone(), client: OnceCell::new() };
        (is_rest && wanted).then(|| Arc::new(vendor()))
    }

    /// What the server vends for a table. Nothing where it vends nothing.
    ///
    /// Errors: `TABLE_NOT_FOUND`, also where it was made anew; `SOURCE_DENIED`, `SOURCE_UNAVAILABLE`; `SOURCE_ERROR` for an
    /// answer of another form.
    pub async fn access(&self, made: &MadeTable) -> Result<Access> {
        let table = &made.name;
        let connect = || async { Ok::<_, Error>(RestClient::connect(&self.catalog, &self.config).await?.delegated()) };
        let client = self.client.get_or_try_init(connect).await?;
        let namespace = path_of(&table.namespace);
        let path = ["namespaces", &namespace, "tables", &table.table];
        // Of the snapshots only those that branches and tags name: of this answer the keys are wanted.
        let answer = client.call(Method::GET, &path, &[("snapshots", "refs")], None).await?.found(&self.catalog)?;
        let uuid = made.uuid.to_string();
        let is_it = |body: &Value| {
            let told = body.pointer("/metadata/table-uuid").and_then(Value::as_str);
            told.is_none_or(|told| told.eq_ignore_ascii_case(&uuid))
        };
        let Some(mut body) = answer.filter(is_it) else {
            let message = format!("table {}.{table} does not exist any more", self.catalog);
            return Err(Error::new(ErrorCode::TableNotFound, message));
        };
        // One that is no text must not hide the others.
        let settings = |value: Option<Value>| -> HashMap<String, String> {
            let Some(Value::Object(settings)) = value else { return HashMap::new() };
            let texts = settings.into_iter().filter_map(|(name, value)| match value {
                Value::String(text) => Some((name, text)),
                _ => None,
            });
            texts.collect()
        };
        let config = settings(body.get_mut("config").map(Value::take));
        let mut grants = Vec::new();
        for grant in body.get_mut("storage-credentials").and_then(|list| list.as_array_mut()).into_iter().flatten() {
            let prefix = grant.get("prefix").and_then(|prefix| prefix.as_str()).unwrap_or_default().to_string();
            grants.push((prefix, settings(grant.get_mut("config").map(Value::take))));
        }
        Ok(Access::new(config, grants))
    }
}

impl fmt::Debug for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vendor").field("catalog", &self.catalog).finish_non_exhaustive()
    }
}
