//! The scan of one table: each split is one statement.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use prost::Message;
use townlake_common::Result;
use townlake_proto::clickhouse as wire;

use super::reader::SplitReader;
use super::recipe::{Recipe, Split};
use super::{ClickHouseSource, KIND};
use crate::SourceConnections;
use crate::operation::{Operation, Pushed};
use crate::scan::{Batches, Estimate, Explained, ScanMetrics, SourceScan, opened, unreadable};

/// The recipe that [`SourceScan::encode`] wrote.
///
/// Errors: `INTERNAL` for bytes of another build.
pub(crate) fn decode(recipe: &[u8]) -> Result<Arc<dyn SourceScan>> {
    let scan = wire::Scan::decode(recipe).map_err(|error| unreadable(KIND).with_source(error))?;
    Ok(Arc::new(Recipe::from_wire(scan)))
}

impl SourceScan for Recipe {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn node_name(&self) -> &'static str {
        "ClickHouseScanExec"
    }

    fn catalog(&self) -> &str {
        &self.catalog
    }

    fn schema(&self) -> SchemaRef {
        self.arrow_schema()
    }

    fn estimate(&self) -> &Estimate {
        &self.estimate
    }

    fn explain(&self) -> Explained {
        let Self { catalog, database, table, local_filters, .. } = self;
        Explained {
            table: format!("{catalog}.{database}.{table}"),
            asked: vec![("remote_sql", self.select(&Split::Whole))],
            filtered_here: local_filters.clone(),
            pinned: None,
        }
    }

    fn push(&self, operation: &Operation<'_>) -> Pushed {
        self.with(operation).map(|recipe| Arc::new(recipe) as Arc<dyn SourceScan>)
    }

    fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    fn read(self: Arc<Self>, connections: &SourceConnections, split: Vec<u8>, metrics: ScanMetrics) -> Result<Batches> {
        let source = connections.of::<ClickHouseSource>(&self.catalog)?;
        let split = Split::decode(&split)?;
        let open = async move { SplitReader::open(source.client(), self, split, &metrics).await };
        Ok(opened(open, SplitReader::next))
    }
}
