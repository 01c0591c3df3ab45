//! A topic as DataFusion table: plans scans.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DFResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use townlake_common::{QueryContext, Result};

use super::cluster::Cluster;
use super::filters::is_used;
use super::pins::PinnedTopic;
use super::recipe::{Planned, Recipe};
use super::splits::{cut_and_encode, narrowed, show_ranges};
use super::tables::Table;
use super::types::{Column, Source};
use crate::scan::{Estimate, SourceScanExec, external, query_of};

/// A LIMIT up to this without a filter is read by one split a partition: the others would begin in vain.
const SMALL_LIMIT: usize = 8192;

/// A table of a Kafka catalog.
pub(crate) struct KafkaTable {
    cluster: Arc<Cluster>,
    table: Table,
    columns: Vec<Column>,
    schema: SchemaRef,
    /// From the configuration; 0: as many as the session has partitions.
    max_splits: usize,
}

impl KafkaTable {
    /// The table of a definition, its fields known.
    pub fn new(cluster: Arc<Cluster>, table: Table, max_splits: usize) -> Self {
        let columns = table.columns();
        let schema = Arc::new(Schema::new(columns.iter().map(Column::field).collect::<Vec<_>>()));
        Self { cluster, table, columns, schema, max_splits }
    }

    async fn plan(
        &self,
        query: &QueryContext,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let name = format!("{}.{}.{}", self.cluster.server().catalog, self.table.schema, self.table.name);
        let pinned = PinnedTopic::of(query, &self.cluster, &self.table.topic, &name).await?;
        let ranges = narrowed(&self.cluster, query, &self.table.topic, &pinned, filters).await?;
        // A limit counts what passes the filters, which we do not know.
        let limit = limit.filter(|_| filters.is_empty());
        let wanted = match (limit, self.max_splits) {
            (Some(limit), _) if limit <= SMALL_LIMIT => 1,
            (_, 0) => partitions,
            (_, most) => most,
        };
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let projected = projection.unwrap_or(&all);
        let columns: Vec<Column> = projected.iter().filter_map(|index| self.columns.get(*index).cloned()).collect();
        // Who wants to see errors wants those of all columns.
        let is_checked = columns.iter().any(|column| column.source == Source::Error);
        let checked =
            self.columns.iter().filter(|column| is_checked && column.is_of_value() && !columns.contains(column));
        let checked = checked.cloned().collect();
        let unused = filters.iter().filter(|filter| !is_used(filter));
        let offsets = ranges.iter().map(|range| range.len()).sum();
        let recipe = Recipe {
            catalog: self.cluster.server().catalog.clone(),
            schema: self.table.schema.clone(),
            table: self.table.name.clone(),
            query_id: query.id.to_string(),
            principal: query.principal.name.clone(),
            topic: self.table.topic.clone(),
            topic_id: pinned.topic_id,
            committed: self.cluster.committed,
            format: self.table.format,
            null_and_count: self.table.null_and_count,
            values: self.table.values.clone(),
            columns,
            checked,
            limit: limit.map(|limit| limit as u64),
            local_filters: unused
                .map(|filter| format!("{filter}: Kafka knows partitions, offsets and times"))
                .collect(),
            ranges: show_ranges(&ranges),
            pinned: show_ranges(&pinned.ranges),
            estimate: Estimate { rows: Some(offsets), ..Estimate::default() },
            planned: Some(Planned { ranges: ranges.clone(), keys: Vec::new() }),
        };
        Ok(Arc::new(SourceScanExec::new(Arc::new(recipe), &cut_and_encode(&ranges, wanted))?))
    }
}

impl fmt::Debug for KafkaTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KafkaTable({}.{}.{})", self.cluster.server().catalog, self.table.schema, self.table.name)
    }
}

#[async_trait]
impl TableProvider for KafkaTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Inexact, all of them: they bound what is read, and DataFusion filters all the same.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DFResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
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
