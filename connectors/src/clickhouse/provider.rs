//! A ClickHouse table as DataFusion table: plans scans.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DFResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use townlake_common::{Pinned, QueryContext, Result};

use super::Options;
use super::client::Client;
use super::discovery::Relation;
use super::facts::Facts;
use super::filters::Translator;
use super::recipe::{Column, Recipe, Split};
use super::splits::Parts;
use crate::filters::{Divided, support};
use crate::scan::{Estimate, SourceScanExec, external, query_of};

/// A LIMIT up to this without a filter is read by one split: the others would begin in vain.
const SMALL_LIMIT: u64 = 8192;
/// Of the rows that a pushed filter selects nothing is known: one of so many, as DataFusion assumes of its own.
const FILTERED: u64 = 5;

/// A table or view of a ClickHouse catalog.
pub(crate) struct ClickHouseTable {
    client: Arc<Client>,
    relation: Relation,
    schema: SchemaRef,
    options: Options,
}

impl ClickHouseTable {
    /// The table of a relation that was looked up.
    pub fn new(client: Arc<Client>, relation: Relation, options: Options) -> Self {
        let schema = Arc::new(Schema::new(relation.columns.iter().map(Column::field).collect::<Vec<_>>()));
        Self { client, relation, schema, options }
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
        let Relation { database, table, columns, hash_key, .. } = &self.relation;
        let all: Vec<usize> = (0..columns.len()).collect();
        let projection = projection.unwrap_or(&all);
        let name = format!("{}.{database}.{table}", self.client.server().catalog);
        query.note(&name, Pinned::unpinned(super::KIND));
        let divided = Divided::of(filters, |filter| self.translator().translate(filter));
        let parts = async {
            match self.relation.has_parts {
                true => Parts::of(&self.client, &query.id, database, table).await,
                false => Ok(Parts::default()),
            }
        };
        let (facts, parts) = tokio::try_join!(Facts::of(&self.client, &query.id), parts)?;
        let mut recipe = Recipe {
            catalog: self.client.server().catalog.clone(),
            database: database.clone(),
            table: table.clone(),
            from: self.relation.from.clone(),
            query_id: query.id.to_string(),
            principal: query.principal.name.clone(),
            columns: projection.iter().filter_map(|index| columns.get(*index).cloned()).collect(),
            // A limit counts what passes the filters: with one that stays here, the server cannot count.
            limit: limit.filter(|_| divided.local.is_empty()).map(|limit| limit as u64),
            predicate: divided.pushed,
            local_filters: divided.local,
            is_final: self.options.read_final && self.relation.is_replacing,
            arrow: facts.arrow,
            settings: facts.settings,
            grouped: None,
            order: Vec::new(),
            hash_key: hash_key.clone(),
            estimate: Estimate::default(),
        };
        let splits = self.splits(&recipe, &parts, partitions);
        recipe.estimate = self.estimate(&recipe, &parts, projection, splits.len() as u64);
        let splits: Vec<_> = splits.iter().map(Split::encode).collect();
        Ok(Arc::new(SourceScanExec::new(Arc::new(recipe), &splits)?))
    }

    fn splits(&self, recipe: &Recipe, parts: &Parts, partitions: usize) -> Vec<Split> {
        let is_peek = recipe.predicate.is_none() && recipe.limit.is_some_and(|limit| limit <= SMALL_LIMIT);
        let wanted = match self.options.max_splits {
            _ if is_peek => 1,
            0 => partitions,
            most => most,
        };
        parts.cut(wanted, recipe.hash_key.is_some(), recipe.is_final)
    }

    /// What `system.parts` and `system.columns` say; nothing of what stores no parts.
    fn estimate(&self, recipe: &Recipe, parts: &Parts, projection: &[usize], splits: u64) -> Estimate {
        let all = parts.rows();
        if all == 0 {
            return Estimate::default();
        }
        let filtered = if recipe.predicate.is_some() { all / FILTERED + 1 } else { all };
        let rows = recipe.limit.map_or(filtered, |limit| filtered.min(limit.saturating_mul(splits)));
        let known = projection.iter().map(|index| self.relation.bytes.get(*index).copied().flatten());
        let bytes = known
            .sum::<Option<u64>>()
            .and_then(|bytes| u64::try_from(u128::from(bytes) * u128::from(rows) / u128::from(all)).ok());
        Estimate { rows: Some(rows), bytes, columns: Vec::new() }
    }
}

impl fmt::Debug for ClickHouseTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Relation { database, table, .. } = &self.relation;
        write!(f, "ClickHouseTable({}.{database}.{table})", self.client.server().catalog)
    }
}

#[async_trait]
impl TableProvider for ClickHouseTable {
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
