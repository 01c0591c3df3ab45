//! A BigQuery table as DataFusion table: plans scans.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DFResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use townlake_common::{Pinned, QueryContext, Result};

use super::client::Client;
use super::discovery::Relation;
use super::filters::Translator;
use super::job::{dry_run, guard};
use super::reader::refuse_unreadable;
use super::recipe::{Job, Recipe, Way, split_to_bytes};
use super::snapshot::Snapshot;
use super::storage::{Asked, Session as ReadSession, table_path};
use super::types::Column;
use crate::filters::{Divided, support};
use crate::scan::{Estimate, SourceScanExec, external, query_of};

/// A LIMIT up to this without a filter is read by one stream: the others would begin in vain.
const SMALL_LIMIT: u64 = 8192;
/// Of the rows that a pushed filter selects nothing is known: one of so many, as DataFusion assumes of its own.
const FILTERED: u64 = 5;

/// A table or view of a BigQuery catalog.
pub(crate) struct BigQueryTable {
    client: Arc<Client>,
    relation: Relation,
    schema: SchemaRef,
}

impl BigQueryTable {
    /// The table of a relation that was looked up.
    pub fn new(client: Arc<Client>, relation: Relation) -> Self {
        let schema = Arc::new(Schema::new(relation.columns.iter().map(Column::field).collect::<Vec<_>>()));
        Self { client, relation, schema }
    }

    fn translator(&self) -> Translator<'_> {
        Translator { columns: &self.relation.columns }
    }

    async fn plan(
        &self,
        query: &QueryContext,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Relation { dataset, table, columns, is_stored, .. } = &self.relation;
        let all: Vec<usize> = (0..columns.len()).collect();
        let projection = projection.unwrap_or(&all);
        let divided = Divided::of(filters, |filter| self.translator().translate(filter));
        let catalog = self.client.server().catalog.clone();
        let selected: Vec<_> = projection.iter().filter_map(|index| columns.get(*index).cloned()).collect();
        refuse_unreadable(&format!("{catalog}.{dataset}.{table}"), &selected)?;
        let narrowest =
            columns.iter().filter(|column| column.unreadable().is_none()).min_by_key(|column| column.width());
        let Some(narrowest) = narrowest else {
            return Err(self.client.server().corrupt(&format!("table {dataset}.{table} without a column")));
        };
        let way = match is_stored {
            true => Way::Session { snapshot_micros: Snapshot::of(query, &catalog).await?, arrow_schema: Vec::new() },
            false => {
                let name = format!("{catalog}.{dataset}.{table}");
                query.replayed(&name)?;
                query.note(&name, Pinned::unpinned(super::KIND));
                Way::Job(Job {
                    id: format!("townlake-{}-{}", query.id, uuid::Uuid::new_v4().simple()),
                    location: self.relation.location.clone(),
                })
            }
        };
        let mut recipe = Recipe {
            catalog,
            project: self.client.settings.project.clone(),
            dataset: dataset.clone(),
            table: table.clone(),
            from: self.relation.from.clone(),
            query_id: query.id.to_string(),
            principal: query.principal.name.clone(),
            selected: selected.is_empty().then(|| narrowest.name.clone()),
            columns: selected,
            // A limit counts what passes the filters: with one that stays here, the reader cannot count.
            limit: limit.filter(|_| divided.local.is_empty()).map(|limit| limit as u64),
            predicate: divided.pushed,
            local_filters: divided.local,
            estimate: Estimate::default(),
            way,
        };
        let _place = self.client.place().await?;
        let streams = match recipe.way {
            Way::Session { snapshot_micros, .. } => self.session(&mut recipe, snapshot_micros, partitions).await?,
            Way::Job(_) => {
                let bytes = dry_run(&self.client, &recipe).await?;
                recipe.estimate.bytes = Some(bytes).filter(|bytes| *bytes > 0);
                vec![String::new()]
            }
        };
        let splits: Vec<_> = streams.iter().map(|stream| split_to_bytes(stream)).collect();
        Ok(Arc::new(SourceScanExec::new(Arc::new(recipe), &splits)?))
    }

    /// Makes the read session of a recipe, and gives its streams.
    async fn session(&self, recipe: &mut Recipe, snapshot_micros: i64, partitions: usize) -> Result<Vec<String>> {
        let ReadSession { rows, bytes, streams, arrow_schema } =
            open_session(&self.client, recipe, snapshot_micros, partitions).await?;
        recipe.estimate = self.estimate(recipe, rows, bytes);
        recipe.way = Way::Session { snapshot_micros, arrow_schema };
        Ok(streams)
    }

    /// What the session expects, else what the table's metadata say.
    fn estimate(&self, recipe: &Recipe, rows: Option<u64>, bytes: Option<u64>) -> Estimate {
        let Relation { rows: all, bytes: size, .. } = &self.relation;
        let filtered = |count: u64| if recipe.predicate.is_some() { count / FILTERED + 1 } else { count };
        let known = |count: &Option<u64>| count.filter(|count| *count > 0).map(filtered);
        let limit = recipe.limit.unwrap_or(u64::MAX);
        let rows = rows.or_else(|| known(all)).map(|rows| rows.min(limit));
        Estimate { rows, bytes: bytes.or_else(|| known(size)), columns: Vec::new() }
    }
}

/// A read session over what a recipe says, of at least one stream.
pub(super) async fn open_session(
    client: &Arc<Client>,
    recipe: &Recipe,
    snapshot_micros: i64,
    partitions: usize,
) -> Result<ReadSession> {
    let is_peek = recipe.predicate.is_none() && recipe.limit.is_some_and(|limit| limit <= SMALL_LIMIT);
    let max_streams = match client.settings.max_splits {
        _ if is_peek => 1,
        0 => partitions,
        most => most,
    };
    let asked = Asked {
        table: table_path(&recipe.project, &recipe.dataset, &recipe.table),
        selected_fields: recipe.selected_fields(),
        row_restriction: recipe.predicate.as_deref().unwrap_or_default(),
        snapshot_micros: Some(snapshot_micros),
        max_streams,
        query_id: &recipe.query_id,
    };
    let doing = format!("plan the read of table {}.{}", recipe.dataset, recipe.table);
    let mut session = client.create_session(&doing, &asked).await?;
    if let Some(bytes) = session.bytes {
        guard(client, &recipe.name(), bytes)?;
    }
    if session.streams.is_empty() {
        // An empty table has no streams.
        session.streams.push(String::new());
    }
    Ok(session)
}

impl fmt::Debug for BigQueryTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Relation { dataset, table, .. } = &self.relation;
        write!(f, "BigQueryTable({}.{dataset}.{table})", self.client.server().catalog)
    }
}

#[async_trait]
impl TableProvider for BigQueryTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        self.relation.kind.table_type()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DFResult<Vec<TableProviderFilterPushDown>> {
        let translator = self.translator();
        Ok(support(filters, |filter| translator.translate(filter)))
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DFResult<Arc<dyn ExecutionPlan>> {
        let query = query_of(state, super::KIND)?;
        let partitions = state.config().target_partitions();
        self.plan(&query, projection, filters, limit, partitions).await.map_err(external)
    }
}
