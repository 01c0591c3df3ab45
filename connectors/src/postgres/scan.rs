//! The scan of one relation: each split joins the query's snapshot and is read by COPY.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use prost::Message;
use townlake_common::Result;
use townlake_proto::postgres as wire;

use super::reader::SplitReader;
use super::recipe::{Recipe, Split};
use super::{KIND, PostgresSource};
use crate::SourceConnections;
use crate::operation::{Operation, Pushed};
use crate::scan::{Batches, Estimate, Explained, ScanMetrics, SourceScan, opened, unreadable};

/// The recipe that [`SourceScan::encode`] wrote.
///
/// Errors: `INTERNAL` for bytes of another build.
pub(crate) fn decode(recipe: &[u8]) -> Result<Arc<dyn SourceScan>> {
    let scan = wire::Scan::decode(recipe).map_err(|error| unreadable(KIND).with_source(error))?;
    Ok(Arc::new(Recipe::from_wire(scan)?))
}

impl SourceScan for Recipe {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn node_name(&self) -> &'static str {
        "PostgresScanExec"
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
        let Self { catalog, schema, table, local_filters, snapshot, joined, .. } = self;
        let tables: Vec<_> = std::iter::once(format!("{catalog}.{schema}.{table}")).chain(joined.clone()).collect();
        Explained {
            table: tables.join(" ⋈ "),
            asked: vec![("remote_sql", self.select(Split::default()))],
            filtered_here: local_filters.clone(),
            pinned: Some(("snapshot", snapshot.clone())),
        }
    }

    fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// All is read on one snapshot. A query that was passed through may call what it likes, `random()` for one.
    fn gives_the_same_again(&self) -> bool {
        self.limit.is_none() && self.from.is_none()
    }

    fn push(&self, operation: &Operation<'_>) -> Pushed {
        self.with(operation).map(|recipe| Arc::new(recipe) as Arc<dyn SourceScan>)
    }

    fn read(self: Arc<Self>, connections: &SourceConnections, split: Vec<u8>, metrics: ScanMetrics) -> Result<Batches> {
        let source = connections.of::<PostgresSource>(&self.catalog)?;
        let split = Split::decode(&split)?;
        let open = async move { SplitReader::open(source.pool(), &self, split, &metrics).await };
        Ok(opened(open, SplitReader::next))
    }
}
