//! Kafka as a source: topics as tables, read in bounded ranges of offsets.
//!
//! On the coordinator a query pins the offsets of each topic that it reads ([`pins`]) and plans each scan into a recipe and
//! splits ([`provider`], [`filters`], [`splits`]). On the executors each split is fetched from its partition's leader
//! ([`reader`], [`records`]) and decoded ([`values`]; [`json`], [`fields`]; [`registry`], [`avro`], [`protobuf`], [`nested`]).
//!
//! The client is our own, because a bounded reader needs what the crates do not give: rskafka returns the records of aborted
//! transactions, and librdkafka (rdkafka) tells positions by records, reads by name whatever topic has it, and wants OpenSSL.
//! It is small: [`wire`] has seven requests, [`net`] one connection, [`cluster`] the brokers.

mod avro;
mod cluster;
mod compress;
mod datum;
mod error;
mod fields;
mod filters;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hostile_values;
mod json;
mod keys;
mod nested;
mod net;
mod pins;
mod protobuf;
mod provider;
mod reader;
mod recipe;
mod records;
mod registry;
mod sample;
mod sasl;
mod scan;
mod splits;
mod tables;
mod tls;
mod types;
mod values;
mod wire;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use moka::future::Cache;
use townlake_common::config::KafkaCatalog;
use townlake_common::{Error, QueryContext, Result};

use self::cluster::Cluster;
use self::provider::KafkaTable;
use self::registry::Registry;
pub(crate) use self::scan::decode;
use self::tables::{DEFAULT_SCHEMA, Table};
use self::types::Column;
use crate::{Bounded, BreakerState, Source, SourceTable, TableKeys, TableKind};

/// The kind of this source.
pub(crate) const KIND: &str = "kafka";

/// For so long the columns that were guessed from a sample stay.
const GUESS_TIME: Duration = Duration::from_secs(60);

/// One configured Kafka cluster.
pub(crate) struct KafkaSource {
    name: String,
    cluster: Arc<Cluster>,
    registry: Option<Arc<Registry>>,
    /// Tables that the configuration defines.
    defined: Vec<Table>,
    /// Guessed fields by topic, and how often the catalog had been refreshed when the guess began.
    guessed: Cache<(u64, String), Vec<Column>>,
    refreshes: AtomicU64,
    max_splits: usize,
}

impl KafkaSource {
    /// The source of `[catalogs.<name>]`. Nothing is connected yet.
    ///
    /// Errors: `CONFIG_INVALID`.
    pub fn new(name: &str, config: &KafkaCatalog) -> Result<Self> {
        Ok(Self {
            name: name.to_string(),
            cluster: Cluster::new(name, config)?,
            registry: Registry::new(name, config)?,
            defined: Table::defined(name, config)?,
            guessed: Cache::builder().max_capacity(1000).time_to_live(GUESS_TIME).build(),
            refreshes: AtomicU64::new(0),
            max_splits: config.max_splits,
        })
    }

    /// Its brokers.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Its schema registry, if it has one.
    pub fn registry(&self) -> Option<&Arc<Registry>> {
        self.registry.as_ref()
    }

    /// The definition of a table, or that of a topic which has none.
    fn definition(&self, schema: &str, table: &str) -> Option<Table> {
        let defined = self.defined.iter().find(|defined| defined.schema == schema && defined.name == table);
        let is_free = schema == DEFAULT_SCHEMA && !self.defined.iter().any(|defined| defined.topic == table);
        defined.cloned().or_else(|| is_free.then(|| Table::raw(table)))
    }
}

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KafkaSource").field(&self.name).finish()
    }
}

#[async_trait]
impl Source for KafkaSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    async fn list_schemas(&self, _query: &QueryContext) -> Result<Vec<String>> {
        let mut schemas: BTreeSet<_> = self.defined.iter().map(|table| table.schema.clone()).collect();
        schemas.insert(DEFAULT_SCHEMA.to_string());
        Ok(schemas.into_iter().collect())
    }

    async fn list_tables(&self, query: &QueryContext, schema: &str) -> Result<Vec<SourceTable>> {
        let is_known = schema == DEFAULT_SCHEMA || self.defined.iter().any(|table| table.schema == schema);
        if !is_known {
            return Ok(Vec::new());
        }
        let topics = self.cluster.look_up(&query.id).await?.topics().await?;
        let defined = self.defined.iter().filter(|table| table.schema == schema && topics.contains(&table.topic));
        let free = topics
            .iter()
            .filter(|topic| schema == DEFAULT_SCHEMA && !self.defined.iter().any(|table| table.topic == **topic));
        let tables = defined.cloned().chain(free.map(|topic| Table::raw(topic)));
        let entry = |table: Table| {
            let comment = Some(table.comment());
            SourceTable { name: table.name, kind: TableKind::Table, comment }
        };
        let mut tables: Vec<_> = tables.map(entry).collect();
        tables.sort_by(|left, right| left.name.cmp(&right.name));
        tables.dedup_by(|left, right| left.name == right.name);
        Ok(tables)
    }

    async fn table(
        &self,
        query: &Arc<QueryContext>,
        schema: &str,
        table: &str,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(mut definition) = self.definition(schema, table) else { return Ok(None) };
        let layout = self.cluster.look_up(&query.id).await?.layout(&definition.topic).await?;
        if layout.is_none() && self.defined.contains(&definition) {
            return Err(definition.without_topic(&self.name));
        }
        let is_shown = |is_internal: bool| !is_internal || self.defined.contains(&definition);
        if !layout.is_some_and(|layout| is_shown(layout.is_internal)) {
            return Ok(None);
        }
        if definition.format.is_registered() {
            let registry = self.registry.as_ref().ok_or_else(|| Error::internal("a format without a registry"))?;
            let name = format!("{}.{schema}.{table}", self.name);
            let message = definition.message.as_deref();
            let values = registry.table(&name, &definition.subject, definition.format, message).await?;
            definition = definition.with_values(values);
        }
        if definition.is_sampled() {
            let sampling = sample::fields(&self.cluster, query, &definition.topic);
            let key = (self.refreshes.load(Ordering::Relaxed), definition.topic.clone());
            let guessed = self.guessed.try_get_with(key, sampling).await;
            definition.fields = guessed.map_err(|error| Error::clone(&error))?;
        }
        let table = KafkaTable::new(Arc::clone(&self.cluster), definition, self.max_splits);
        Ok(Some(Arc::new(table)))
    }

    fn refresh(&self) {
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        self.guessed.invalidate_all();
        if let Some(registry) = &self.registry {
            registry.refresh();
        }
        self.cluster.refresh();
    }

    fn breaker(&self) -> BreakerState {
        self.cluster.breaker().state()
    }

    fn bounded(&self) -> Option<&dyn Bounded> {
        Some(self.cluster.as_ref())
    }

    async fn keys(&self, _query: &QueryContext, _schema: &str, _table: &str) -> Result<TableKeys> {
        Ok(TableKeys::default())
    }
}
