//! How plan nodes of connectors travel to executors. The engine's codec asks here after its own nodes.

use std::sync::Arc;

use datafusion::common::Result as DFResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::PhysicalProtoConverterExtension;

use crate::postgres::PostgresScanExec;

/// Writes `node` into `buf` when it is a connector's. `false`: it is not, and nothing was written.
pub fn try_encode(
    node: &Arc<dyn ExecutionPlan>,
    buf: &mut Vec<u8>,
    _converter: &dyn PhysicalProtoConverterExtension,
) -> DFResult<bool> {
    match node.downcast_ref::<PostgresScanExec>() {
        Some(scan) => scan.encode(buf).map(|()| true),
        None => Ok(false),
    }
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
    PostgresScanExec::decode(buf, inputs)
}
