//! An Iceberg table as DataFusion sees it.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use townlake_common::{Error, QueryContext};

use crate::plan::partition_filters::PartitionColumns;
use crate::plan::plan_files;
use crate::scan::scan_plan;
use crate::types::LoadedTable;

/// A table pinned to one snapshot. It reads only; rows are written by [`crate::write_plan`] and committed by the catalog.
#[derive(Debug)]
pub struct LakeTable {
    table: Arc<LoadedTable>,
}

impl LakeTable {
    /// The table for DataFusion.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(table: Arc<LoadedTable>) -> Arc<dyn TableProvider> {
        Arc::new(Self { table })
    }

    /// What was loaded, for whoever finds the provider in a plan.
    pub fn loaded(&self) -> &Arc<LoadedTable> {
        &self.table
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table.arrow_schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Reads the manifests and makes the scan. The session carries the [`QueryContext`]; a scan for nobody is refused.
    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let query = state.config().get_extension::<QueryContext>().ok_or_else(|| {
            external(Error::internal(format!("a scan of {} without a query context", self.table.full_name())))
        })?;
        let mut plan = plan_files(&self.table, filters).await.map_err(external)?;
        let partition = PartitionColumns::of(&self.table);
        partition.apply(filters, &self.table, &mut plan)?;
        // Files are pruned by filters that are evaluated above or in the scan: a limit must not come before them.
        let limit = if filters.iter().all(|filter| partition.decide(filter)) { limit } else { None };
        scan_plan(&self.table, plan, &query.principal.name, state, projection, limit)
    }

    /// Exact where partitions decide a filter. Else inexact: manifests skip files, and the filter itself is pushed into the
    /// reader by the physical optimizer, as for any Parquet scan.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let partition = PartitionColumns::of(&self.table);
        let kind = |filter: &&Expr| match partition.decide(filter) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(kind).collect())
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
