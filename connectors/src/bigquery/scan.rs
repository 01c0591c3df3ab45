//! The scan of one table: each split is one stream of its read session, or the query job.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::future::BoxFuture;
use prost::Message;
use townlake_common::Result;
use townlake_proto::bigquery as wire;

use super::reader::SplitReader;
use super::recipe::{Recipe, Way, split_from_bytes};
use super::snapshot::shown;
use super::{BigQuerySource, KIND};
use crate::SourceConnections;
use crate::operation::{Operation, Pushed};
use crate::scan::{Batches, Estimate, Explained, ScanMetrics, SourceScan, SourceScanExec, opened, unreadable};

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
        "BigQueryScanExec"
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
        let mut asked = Vec::new();
        let mut pinned = None;
        match &self.way {
            Way::Session { snapshot_micros, .. } => {
                asked.push(("selected_fields", self.selected_fields().join(", ")));
                asked.extend(self.predicate.clone().map(|predicate| ("row_restriction", predicate)));
                asked.extend(self.limit.map(|limit| ("stops_after", limit.to_string())));
                pinned = Some(("snapshot_time", shown(*snapshot_micros)));
            }
            Way::Job(_) => asked.push(("query_job", self.select())),
        }
        Explained { table: self.name(), asked, filtered_here: self.local_filters.clone(), pinned }
    }

    fn push(&self, operation: &Operation<'_>) -> Pushed {
        self.with_keys(operation).map(|recipe| Arc::new(recipe) as Arc<dyn SourceScan>)
    }

    fn replan<'a>(
        &'a self,
        connections: &'a SourceConnections,
        splits: usize,
    ) -> BoxFuture<'a, Result<Option<SourceScanExec>>> {
        Box::pin(self.with_session(connections, splits))
    }

    fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    fn read(self: Arc<Self>, connections: &SourceConnections, split: Vec<u8>, metrics: ScanMetrics) -> Result<Batches> {
        let source = connections.of::<BigQuerySource>(&self.catalog)?;
        let stream = split_from_bytes(&split)?;
        let open = async move { SplitReader::open(source.client(), self, stream, &metrics).await };
        Ok(opened(open, SplitReader::next))
    }
}
