//! Views in an SQL catalog, as Iceberg's Java `JdbcCatalog` (schema V1) has them: a row of `iceberg_tables` whose
//! `iceberg_type` is `VIEW` and whose `metadata_location` is a view's metadata file. pyiceberg leaves such rows alone.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use iceberg::MetadataLocation;
use iceberg::spec::{ViewFormatVersion, ViewMetadata, ViewMetadataBuilder};
use townlake_common::{Error, Result};
use uuid::Uuid;

use super::metadata_file::{is_compressed, unpack};
use super::sql::{SqlCatalog, check_location, check_name};
use super::sql_database::unavailable;
use super::views::{NewView, ViewCatalog, ViewHead, changed, invalid, no_schema, taken, undecodable};
use super::{Catalog, CommitOutcome, TableName};

#[async_trait]
impl ViewCatalog for SqlCatalog {
    async fn list(&self, namespace: &str) -> Result<Vec<String>> {
        if !self.is_typed().await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT table_name FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 \
                   AND iceberg_type = 'VIEW' ORDER BY table_name";
        self.texts(sql, &[&self.rows, namespace]).await
    }

    async fn load_view(&self, name: &TableName) -> Result<Option<ViewHead>> {
        let Some(metadata_location) = self.view_location(name).await? else { return Ok(None) };
        let bytes = self.objects.read(&metadata_location).await?;
        let (what, failed) =
            (format!("view {}.{name}", self.name), Error::internal("metadata of a view was not parsed"));
        let parsed = tokio::task::spawn_blocking(move || parse(&bytes, &what)).await;
        let metadata = parsed
            .map_err(|panicked| failed.with_source(panicked))?
            .map_err(|error| error.with_hint(format!("its metadata file is {metadata_location}")))?;
        Ok(Some(ViewHead { metadata: Arc::new(metadata), metadata_location }))
    }

    async fn create(&self, name: &TableName, view: NewView) -> Result<()> {
        check_name(&name.table)?;
        if !self.namespace_exists(&name.namespace).await? {
            return Err(no_schema(&self.name, name));
        }
        self.make_typed().await?;
        let NewView { schema, version, properties } = view;
        let location = self.default_location(name);
        let built = ViewMetadataBuilder::new(location.clone(), schema, version, ViewFormatVersion::V1, properties)
            .and_then(ViewMetadataBuilder::build)
            .map_err(|error| invalid(&self.name, name, error))?;
        let metadata_location = first_location(&location);
        self.write_view(&built.metadata, &metadata_location).await?;
        let sql = "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) \
                   VALUES ($1, $2, $3, $4, 'VIEW') ON CONFLICT DO NOTHING";
        let values = [self.rows.as_str(), &name.namespace, &name.table, &metadata_location];
        match self.database.execute(sql, &values).await {
            Ok(1..) => Ok(()),
            Ok(0) => {
                self.objects.discard(vec![metadata_location]).await;
                Err(taken(&self.name, name))
            }
            // The row may be there all the same: then the view is made.
            Err(error) => match self.view_location(name).await {
                Ok(Some(current)) if current == metadata_location => Ok(()),
                _ => Err(unavailable(&self.name, error)),
            },
        }
    }

    async fn replace(&self, name: &TableName, base: &ViewHead, builder: ViewMetadataBuilder) -> CommitOutcome {
        let built = match builder.build() {
            Ok(built) => built,
            Err(error) => return CommitOutcome::Rejected(invalid(&self.name, name, error)),
        };
        let next = match MetadataLocation::from_str(&base.metadata_location) {
            Ok(location) => uncompressed(&location.with_next_version().to_string()),
            // Another engine's name: the numbering starts anew, the id keeps it unique.
            Err(_) => first_location(built.metadata.location()),
        };
        if let Err(error) = self.write_view(&built.metadata, &next).await {
            return CommitOutcome::Rejected(error);
        }
        let sql = "UPDATE iceberg_tables SET metadata_location = $1, previous_metadata_location = $2 \
                   WHERE catalog_name = $3 AND table_namespace = $4 AND table_name = $5 AND metadata_location = $2 \
                   AND iceberg_type = 'VIEW'";
        let values = [next.as_str(), &base.metadata_location, &self.rows, &name.namespace, &name.table];
        match self.database.execute(sql, &values).await {
            Ok(1..) => CommitOutcome::Committed,
            Ok(0) => {
                self.objects.discard(vec![next]).await;
                CommitOutcome::Conflict(changed(&self.name, name))
            }
            Err(error) => match self.view_location(name).await {
                Ok(Some(current)) if current == next => CommitOutcome::Committed,
                _ => CommitOutcome::Unknown(unavailable(&self.name, error)),
            },
        }
    }

    async fn drop(&self, name: &TableName) -> Result<bool> {
        if !self.is_typed().await? {
            return Ok(false);
        }
        let sql = "DELETE FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3 \
                   AND iceberg_type = 'VIEW'";
        Ok(self.execute(sql, &[&self.rows, &name.namespace, &name.table]).await? > 0)
    }

    async fn rename(&self, from: &TableName, to: &TableName) -> Result<bool> {
        check_name(&to.table)?;
        if !self.namespace_exists(&to.namespace).await? {
            return Err(no_schema(&self.name, to));
        }
        if !self.is_typed().await? {
            return Ok(false);
        }
        let sql = "UPDATE iceberg_tables SET table_namespace = $4, table_name = $5 \
                   WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3 AND iceberg_type = 'VIEW'";
        let values = [self.rows.as_str(), &from.namespace, &from.table, &to.namespace, &to.table];
        match self.database.execute(sql, &values).await {
            Ok(renamed) => Ok(renamed > 0),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Err(taken(&self.name, to)),
            Err(error) => Err(unavailable(&self.name, error)),
        }
    }
}

impl SqlCatalog {
    async fn view_location(&self, name: &TableName) -> Result<Option<String>> {
        if !self.is_typed().await? {
            return Ok(None);
        }
        let sql = "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 \
                   AND table_name = $3 AND iceberg_type = 'VIEW'";
        Ok(self.texts(sql, &[&self.rows, &name.namespace, &name.table]).await?.into_iter().next())
    }

    async fn write_view(&self, metadata: &ViewMetadata, location: &str) -> Result<()> {
        check_location(location)?;
        let bytes = serde_json::to_vec(metadata)
            .map_err(|error| Error::internal("the metadata of a view cannot be encoded").with_source(error))?;
        self.objects.write(location, bytes.into()).await
    }
}

fn parse(bytes: &[u8], what: &str) -> Result<ViewMetadata> {
    let json = if is_compressed(bytes) { Cow::Owned(unpack(bytes, what)?) } else { Cow::Borrowed(bytes) };
    serde_json::from_slice(&json).map_err(|error| undecodable(what).with_source(error))
}

/// The name of a file that is not packed, whatever the one before it was: Java goes by the name.
fn uncompressed(location: &str) -> String {
    match location.strip_suffix(".gz.metadata.json") {
        Some(stem) => format!("{stem}.metadata.json"),
        None => location.to_string(),
    }
}

/// Where the first metadata file of a view goes, named as those of tables are.
fn first_location(view: &str) -> String {
    format!("{}/metadata/00000-{}.metadata.json", view.trim_end_matches('/'), Uuid::new_v4())
}
