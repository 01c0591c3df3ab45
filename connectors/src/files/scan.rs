//! The scan of one table: each split is a file, or a part of one.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use prost::Message;
use townlake_common::Result;
use townlake_proto::files as wire;

use super::reader::SplitReader;
use super::recipe::{Recipe, Split};
use super::{FilesSource, KIND, SCHEMA};
use crate::SourceConnections;
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
        "FilesScanExec"
    }

    fn catalog(&self) -> &str {
        &self.catalog
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn estimate(&self) -> &Estimate {
        &self.estimate
    }

    fn explain(&self) -> Explained {
        let columns: Vec<_> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let mut asked = vec![("files", self.files.to_string()), ("columns", columns.join(", "))];
        asked.extend(self.limit.map(|limit| ("limit", limit.to_string())));
        let table = format!("{}.{SCHEMA}.{}", self.catalog, self.table);
        Explained { table, asked, filtered_here: self.local_filters.clone(), pinned: None }
    }

    /// A file that is another one by now is an error.
    fn gives_the_same_again(&self) -> bool {
        true
    }

    fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    fn read(self: Arc<Self>, connections: &SourceConnections, split: Vec<u8>, metrics: ScanMetrics) -> Result<Batches> {
        let source = connections.of::<FilesSource>(&self.catalog)?;
        let split = Split::decode(&split)?;
        let open = async move { SplitReader::open(Arc::clone(source.store()), self, split, &metrics).await };
        Ok(opened(open, SplitReader::next))
    }
}
