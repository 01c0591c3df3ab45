//! How scans of sources travel to executors. The engine's codec asks here after its own nodes.

use std::sync::Arc;

use datafusion::common::Result as DFResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::PhysicalProtoConverterExtension;
use prost::Message;
use townlake_common::Result;
use townlake_proto::source as wire;

use crate::scan::{SourceScan, SourceScanExec, external, unreadable};
use crate::{bigquery, clickhouse, files, kafka, postgres};

/// Writes `node` without its child into `buf` when it is a connector's. `false`: it is not, and nothing was written.
pub fn try_encode(
    node: &Arc<dyn ExecutionPlan>,
    buf: &mut Vec<u8>,
    _converter: &dyn PhysicalProtoConverterExtension,
) -> DFResult<bool> {
    let Some(exec) = node.downcast_ref::<SourceScanExec>() else { return Ok(false) };
    let scan = exec.scan();
    let message = wire::Scan { kind: scan.kind().to_string(), recipe: scan.encode() };
    message.encode(buf).map_err(|error| external(unreadable(scan.kind()).with_source(error)))?;
    Ok(true)
}

/// The node that [`try_encode`] wrote, over its decoded children.
///
/// Errors: what was written by another build or damaged, and never a panic.
pub fn try_decode(
    buf: &[u8],
    inputs: &[Arc<dyn ExecutionPlan>],
    _context: &TaskContext,
    _converter: &dyn PhysicalProtoConverterExtension,
) -> DFResult<Arc<dyn ExecutionPlan>> {
    let scan = decode(buf).map_err(external)?;
    Ok(Arc::new(SourceScanExec::decoded(scan, inputs).map_err(external)?))
}

fn decode(buf: &[u8]) -> Result<Arc<dyn SourceScan>> {
    let wire::Scan { kind, recipe } = wire::Scan::decode(buf).map_err(|error| unreadable("?").with_source(error))?;
    match kind.as_str() {
        bigquery::KIND => bigquery::decode(&recipe),
        files::KIND => files::decode(&recipe),
        kafka::KIND => kafka::decode(&recipe),
        clickhouse::KIND => clickhouse::decode(&recipe),
        postgres::KIND => postgres::decode(&recipe),
        other => Err(unreadable(other)),
    }
}
