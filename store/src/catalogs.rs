//! The catalogs that were made by `CREATE CATALOG`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use townlake_common::config::CatalogDefinition;
use townlake_common::{Error, ErrorCode, Result};

use crate::open::{Database, Store, on};

const INSERT: &str = "INSERT INTO catalog (name, id, kind, properties, owner, created_us) VALUES ($1, $2, $3, $4, $5, $6) \
     ON CONFLICT (name) DO NOTHING";
const SELECT: &str = "SELECT name, id, kind, properties, owner FROM catalog ORDER BY name";
const SELECT_ONE: &str = "SELECT name, id, kind, properties, owner FROM catalog WHERE name = $1";
const DELETE: &str = "DELETE FROM catalog WHERE name = $1";
const REFRESH: &str = "INSERT INTO catalog_refresh (name, id) VALUES ($1, $2) \
     ON CONFLICT (name) DO UPDATE SET id = excluded.id";
const REFRESHES: &str = "SELECT name, id FROM catalog_refresh";

type Row = (String, String, String, String, String);

impl Store {
    /// Keeps a catalog. `false`: there is one of its name.
    ///
    /// Errors (of every call): `STORE_UNAVAILABLE`.
    pub async fn create_catalog(&self, catalog: &CatalogDefinition, now: DateTime<Utc>) -> Result<bool> {
        let properties = Value::Object(catalog.properties.clone()).to_string();
        let made = on!(self, pool => sqlx::query(INSERT)
            .bind(&catalog.name)
            .bind(&catalog.id)
            .bind(&catalog.kind)
            .bind(&properties)
            .bind(&catalog.owner)
            .bind(now.timestamp_micros())
            .execute(pool)
            .await
            .map(|done| done.rows_affected()))
        .map_err(|error| self.failed("cannot keep a catalog", error))?;
        Ok(made == 1)
    }

    /// Forgets a catalog. `false`: there was none of this name.
    pub async fn drop_catalog(&self, name: &str) -> Result<bool> {
        let gone =
            on!(self, pool => sqlx::query(DELETE).bind(name).execute(pool).await.map(|done| done.rows_affected()))
                .map_err(|error| self.failed("cannot forget a catalog", error))?;
        Ok(gone == 1)
    }

    /// All of them, by name.
    pub async fn catalogs(&self) -> Result<Vec<CatalogDefinition>> {
        let rows: Vec<Row> = on!(self, pool => sqlx::query_as(SELECT).fetch_all(pool).await)
            .map_err(|error| self.failed("cannot tell its catalogs", error))?;
        rows.into_iter().map(read).collect()
    }

    /// Tells all coordinators to forget what they remember of a catalog, the configuration's too; `id` is of this call alone.
    pub async fn refresh_catalog(&self, name: &str, id: &str) -> Result<()> {
        on!(self, pool => sqlx::query(REFRESH).bind(name).bind(id).execute(pool).await.map(drop))
            .map_err(|error| self.failed("cannot keep that a catalog is refreshed", error))
    }

    /// The id of the last [`Store::refresh_catalog`] by catalog.
    pub async fn catalog_refreshes(&self) -> Result<BTreeMap<String, String>> {
        let rows: Vec<(String, String)> = on!(self, pool => sqlx::query_as(REFRESHES).fetch_all(pool).await)
            .map_err(|error| self.failed("cannot tell which catalogs were refreshed", error))?;
        Ok(rows.into_iter().collect())
    }

    /// The one of this name.
    pub async fn catalog(&self, name: &str) -> Result<Option<CatalogDefinition>> {
        let row: Option<Row> = on!(self, pool => sqlx::query_as(SELECT_ONE).bind(name).fetch_optional(pool).await)
            .map_err(|error| self.failed("cannot tell a catalog", error))?;
        row.map(read).transpose()
    }
}

fn read((name, id, kind, properties, owner): Row) -> Result<CatalogDefinition> {
    match serde_json::from_str(&properties) {
        Ok(Value::Object(properties)) => Ok(CatalogDefinition { name, id, kind, properties, owner }),
        _ => Err(Error::new(ErrorCode::DataCorrupt, format!("what the store has of catalog {name} cannot be read"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use townlake_common::Secret;

    use super::*;
    use crate::postgres_server::postgres_for;

    async fn keeps(store: &Store) {
        let Value::Object(properties) = json!({"url": "postgres://h/d", "connections": 3}) else { panic!("no object") };
        let named = |name: &str, id: &str| CatalogDefinition {
            name: name.to_string(),
            id: id.to_string(),
            kind: "postgres".to_string(),
            properties: properties.clone(),
            owner: "ann".to_string(),
        };
        let now = Utc::now();
        assert!(store.create_catalog(&named("b", "1"), now).await.unwrap());
        assert!(store.create_catalog(&named("a", "2"), now).await.unwrap());
        assert!(!store.create_catalog(&named("a", "3"), now).await.unwrap(), "its name is taken");
        assert_eq!(store.catalogs().await.unwrap(), [named("a", "2"), named("b", "1")]);
        assert_eq!(store.catalog("a").await.unwrap(), Some(named("a", "2")));
        assert!(store.drop_catalog("a").await.unwrap());
        assert!(!store.drop_catalog("a").await.unwrap());
        assert_eq!(store.catalog("a").await.unwrap(), None);
        for id in ["1", "2"] {
            store.refresh_catalog("b", id).await.unwrap();
        }
        let refreshes = store.catalog_refreshes().await.unwrap();
        assert_eq!(refreshes, BTreeMap::from([("b".to_string(), "2".to_string())]));
    }

    #[tokio::test]
    async fn catalogs_are_kept_until_they_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/state.db", folder.path().display());
        keeps(&Store::open(&Secret::new(url)).await.unwrap()).await;
        if let Some(server) = postgres_for("catalogs") {
            keeps(&Store::open(&server.url()).await.unwrap()).await;
        }
    }
}
