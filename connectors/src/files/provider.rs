//! A table of files as DataFusion table: plans scans.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DFResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use townlake_common::{Error, Pinned, QueryContext, Result};

use super::listing::Table;
use super::recipe::{Recipe, Split, encode_schema};
use super::store::Store;
use super::{KIND, SCHEMA};
use crate::scan::{Estimate, SourceScanExec, external, query_of};

/// One table.
pub(crate) struct FilesTable {
    store: Arc<Store>,
    table: Table,
    schema: SchemaRef,
    /// From the configuration; 0: as many as the session has partitions.
    max_splits: usize,
}

impl FilesTable {
    /// The table, its columns those of its first file.
    pub async fn of(store: Arc<Store>, table: Table, max_splits: usize) -> Result<Self> {
        let first = table.files.first().ok_or_else(|| Error::internal("a table of no file"))?;
        let schema = table.format.columns(&store, first).await?;
        Ok(Self { store, table, schema, max_splits })
    }

    fn plan(
        &self,
        query: &QueryContext,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Self { store, table, schema, .. } = self;
        let name = format!("{}.{SCHEMA}.{}", store.catalog, table.name);
        query.replayed(&name)?;
        query.note(
            &name,
            Pinned::held(KIND, format!("{} file(s), each as it was when the query was planned", table.files.len())),
        );
        let schema = match projection {
            Some(columns) => {
                let projected = schema.project(columns);
                Arc::new(projected.map_err(|error| Error::internal("no such column").with_source(error))?)
            }
            None => Arc::clone(schema),
        };
        let bytes = table.files.iter().map(|file| file.size).sum::<u64>();
        let recipe = Recipe {
            catalog: store.catalog.clone(),
            table: table.name.clone(),
            format: table.format,
            encoded_schema: encode_schema(&name, &schema)?,
            schema,
            // A limit counts what passes the filters, and we filter nothing.
            limit: limit.filter(|_| filters.is_empty()).map(|limit| limit as u64),
            local_filters: filters.iter().map(|filter| format!("{filter}: files are read whole")).collect(),
            files: table.files.len() as u64,
            estimate: Estimate { bytes: Some(bytes), ..Estimate::default() },
        };
        let wanted = if self.max_splits == 0 { partitions } else { self.max_splits }.max(1);
        let piece = bytes.div_ceil(wanted as u64);
        let splits: Vec<_> = table
            .files
            .iter()
            .flat_map(|file| Split::cut(file, table.format, piece))
            .map(|split| split.encode())
            .collect();
        Ok(Arc::new(SourceScanExec::new(Arc::new(recipe), &splits)?))
    }
}

impl fmt::Debug for FilesTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilesTable({}.{SCHEMA}.{})", self.store.catalog, self.table.name)
    }
}

#[async_trait]
impl TableProvider for FilesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Inexact, all of them: the scan says in EXPLAIN that they stay here.
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
        let query = query_of(state, KIND)?;
        let partitions = state.config().target_partitions();
        self.plan(&query, projection, filters, limit, partitions).map_err(external)
    }
}
