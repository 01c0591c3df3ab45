//! A table that is being made together with its rows: unless they are committed, it is dropped again.

use std::sync::Arc;

use townlake_lake::{LakeCatalog, LoadedTable};

/// A fresh table. Dropping this without [`NewTable::keep`] drops the table, also when its query was cancelled.
pub(super) struct NewTable {
    catalog: Arc<LakeCatalog>,
    table: Option<Arc<LoadedTable>>,
}

impl NewTable {
    pub(super) fn new(catalog: &Arc<LakeCatalog>, table: &Arc<LoadedTable>) -> Self {
        Self { catalog: Arc::clone(catalog), table: Some(Arc::clone(table)) }
    }

    /// The rows are in: the table stays.
    pub(super) fn keep(mut self) {
        self.table = None;
    }
}

impl Drop for NewTable {
    fn drop(&mut self) {
        let (Some(table), Ok(runtime)) = (self.table.take(), tokio::runtime::Handle::try_current()) else { return };
        let catalog = Arc::clone(&self.catalog);
        runtime.spawn(async move {
            // by its identity: another table may have the name by now
            if let Err(error) = catalog.drop_created(&table).await {
                tracing::warn!(table = %table.full_name(), %error, "the table of a failed query could not be dropped");
            }
        });
    }
}
