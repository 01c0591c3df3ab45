//! A table that is being made together with its rows: unless they are committed, it is dropped again.

use std::sync::Arc;

use townlake_common::{ErrorCode, Result};
use townlake_lake::{LakeCatalog, LoadedTable};

/// A fresh table. Dropping this before its rows are [`NewTable::committed`] drops the table, also when its query was cancelled.
pub(super) struct NewTable {
    catalog: Arc<LakeCatalog>,
    table: Option<Arc<LoadedTable>>,
}

impl NewTable {
    pub(super) fn new(catalog: &Arc<LakeCatalog>, table: &Arc<LoadedTable>) -> Self {
        Self { catalog: Arc::clone(catalog), table: Some(Arc::clone(table)) }
    }

    /// What became of the commit of its rows. The table stays when they are in, and when nobody knows whether they are: the
    /// error then sends its reader to the table's snapshots.
    pub(super) fn committed<T>(mut self, outcome: &Result<T>) {
        let stays = match outcome {
            Ok(_) => true,
            Err(error) => error.code() == ErrorCode::CommitStateUnknown,
        };
        if stays {
            self.table = None;
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::arrow::datatypes::{DataType, Field};
    use townlake_common::Error;
    use townlake_common::config::{CatalogConfig, Config};
    use townlake_lake::CreateTable;

    use super::*;

    #[tokio::test]
    async fn only_a_table_whose_rows_are_surely_not_in_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let text = format!(
            "[catalogs.lake]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite://{path}/catalog.db\"\n\
             warehouse = \"file://{path}/warehouse\"\n"
        );
        let config = Config::from_toml(&text).unwrap();
        let CatalogConfig::Iceberg(lake) = &config.catalogs["lake"] else { panic!("not the lake") };
        let catalog = LakeCatalog::open("lake", lake).await.unwrap();
        catalog.create_schema("s", false).await.unwrap();
        let failed = |code| Err(Error::new(code, "as the catalog said"));
        for (table, outcome, stays) in [
            ("in", Ok(1), true),
            ("in_doubt", failed(ErrorCode::CommitStateUnknown), true),
            ("not_in", failed(ErrorCode::SourceDenied), false),
        ] {
            let columns = vec![Arc::new(Field::new("a", DataType::Int64, true))];
            let create = CreateTable { schema: "s".into(), table: table.into(), columns, ..Default::default() };
            let created = catalog.create_table(create).await.unwrap().unwrap();
            NewTable::new(&catalog, &created).committed(&outcome);
            let gone = async {
                while catalog.load("s", table, None).await.unwrap().is_some() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let limit = Duration::from_millis(if stays { 200 } else { 10_000 });
            assert_eq!(tokio::time::timeout(limit, gone).await.is_err(), stays, "{table}");
        }
    }
}
