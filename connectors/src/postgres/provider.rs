//! A Postgres relation as DataFusion table: plans scans.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DFResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use serde_json::Value;
use townlake_common::{QueryContext, Result};

use super::discovery::Relation;
use super::error::Server;
use super::filters::Translator;
use super::pool::Pool;
use super::recipe::{Recipe, Split};
use super::snapshot::Snapshot;
use super::splits;
use super::types::Column;
use crate::TableKind;
use crate::filters::{Divided, support};
use crate::scan::{Estimate, SourceScanExec, external, query_of};

/// A LIMIT up to this without a filter is read by one split: the others would begin in vain.
const SMALL_LIMIT: usize = 8192;

/// A table or view of a Postgres catalog.
pub(crate) struct PostgresTable {
    pool: Arc<Pool>,
    relation: Relation,
    schema: SchemaRef,
    /// From the configuration; 0: as many as the session has partitions.
    max_splits: usize,
}

impl PostgresTable {
    /// The table of a relation that was looked up.
    pub fn new(pool: Arc<Pool>, relation: Relation, max_splits: usize) -> Self {
        let schema = Arc::new(Schema::new(relation.columns.iter().map(Column::field).collect::<Vec<_>>()));
        Self { pool, relation, schema, max_splits }
    }

    fn translator(&self) -> Translator<'_> {
        let Relation { columns, deterministic, is_utf8, .. } = &self.relation;
        Translator { columns, deterministic, is_utf8: *is_utf8 }
    }

    async fn plan(
        &self,
        query: &QueryContext,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Relation { schema, table, columns, kind, .. } = &self.relation;
        let all: Vec<usize> = (0..columns.len()).collect();
        let projection = projection.unwrap_or(&all);
        let divided = Divided::of(filters, |filter| self.translator().translate(filter));
        let snapshot = Snapshot::of(query, &self.pool).await?;
        let selected: Vec<_> = projection.iter().filter_map(|index| columns.get(*index).cloned()).collect();
        let deterministic = &self.relation.deterministic;
        let mut recipe = Recipe {
            catalog: self.pool.server().catalog.clone(),
            schema: schema.clone(),
            table: table.clone(),
            from: self.relation.from.clone(),
            query_id: query.id.to_string(),
            principal: query.principal.name.clone(),
            snapshot: snapshot.id().to_string(),
            expressions: selected.iter().map(Column::expression).collect(),
            columns: selected,
            joins: Vec::new(),
            joined: Vec::new(),
            grouped: None,
            order: Vec::new(),
            deterministic: projection.iter().map(|index| deterministic.get(*index) == Some(&true)).collect(),
            // A limit counts what passes the filters: with one that stays here, the server cannot count.
            limit: limit.filter(|_| divided.local.is_empty()).map(|limit| limit as u64),
            predicate: divided.pushed,
            local_filters: divided.local,
            estimate: Estimate::default(),
        };
        let wanted = self.splits_wanted(*kind, &recipe, partitions);
        let (rows, bytes) = estimate(&snapshot, self.pool.server(), &recipe).await?;
        let splits = splits::plan(&snapshot, schema, table, wanted).await?;
        let column = |index: &usize| self.relation.statistics.get(*index).copied().unwrap_or_default().estimate(rows);
        recipe.estimate =
            Estimate { rows: Some(rows), bytes: Some(bytes), columns: projection.iter().map(column).collect() };
        let splits: Vec<_> = splits.iter().map(|split| split.encode()).collect();
        Ok(Arc::new(SourceScanExec::new(Arc::new(recipe), &splits)?))
    }

    fn splits_wanted(&self, kind: TableKind, recipe: &Recipe, partitions: usize) -> usize {
        let has_heap = matches!(kind, TableKind::Table | TableKind::MaterializedView) && recipe.from.is_none();
        let is_peek = recipe.predicate.is_none() && recipe.limit.is_some_and(|limit| limit <= SMALL_LIMIT as u64);
        match self.max_splits {
            _ if !has_heap || is_peek => 1,
            0 => partitions,
            most => most,
        }
    }
}

/// The rows and bytes that the server's own planner expects of the scan, with its filters and limit.
async fn estimate(snapshot: &Snapshot, server: &Server, recipe: &Recipe) -> Result<(u64, u64)> {
    let explain = format!("EXPLAIN (FORMAT JSON) {}", recipe.select(Split::default()));
    let doing = format!("plan table {}.{}", recipe.schema, recipe.table);
    let answer = snapshot.look_up(&doing, &explain).await?;
    let text = answer.first().and_then(|row| row.get(0));
    let plan: Option<Value> = text.and_then(|text| serde_json::from_str(text).ok());
    let number = |key: &str| plan.as_ref()?.get(0)?.get("Plan")?.get(key)?.as_f64();
    let (Some(rows), Some(width)) = (number("Plan Rows"), number("Plan Width")) else {
        return Err(server.corrupt("an EXPLAIN without rows and width"));
    };
    Ok((rows.max(0.0) as u64, (rows * width).max(0.0) as u64))
}

impl fmt::Debug for PostgresTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Relation { schema, table, .. } = &self.relation;
        write!(f, "PostgresTable({}.{schema}.{table})", self.pool.server().catalog)
    }
}

#[async_trait]
impl TableProvider for PostgresTable {
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
