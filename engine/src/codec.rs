//! How a physical plan crosses from the coordinator to an executor.
//!
//! Every node that DataFusion does not write by itself passes through [`TownCodec`]: one tag byte that says whose node it
//! is, then that owner's bytes. Ballista's codec is wrapped, never replaced: its shuffle nodes go through it.

use std::sync::Arc;

use ballista_core::serde::{BallistaCodec, BallistaLogicalExtensionCodec, BallistaPhysicalExtensionCodec};
use datafusion::common::{internal_err, plan_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};

/// Whose node the bytes after the tag hold. The numbers are on the wire between nodes of one build.
const BALLISTA: u8 = 0;
const LAKE: u8 = 1;
const CONNECTORS: u8 = 2;

/// The most bytes that one node of ours may take. A launch above the message limit would be taken for a dead executor,
/// and healthy executors would be removed one after another, so a recipe that is too big fails at planning instead.
pub const MAX_NODE_BYTES: usize = 16 << 20;

/// The codec of physical plans, on both sides of the wire.
#[derive(Debug, Default)]
pub struct TownCodec {
    ballista: BallistaPhysicalExtensionCodec,
}

impl TownCodec {
    /// A codec; it holds no state.
    pub fn new() -> Self {
        Self::default()
    }
}

impl PhysicalExtensionCodec for TownCodec {
    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let start = buf.len();
        buf.push(LAKE);
        if townlake_lake::codec::try_encode(&node, buf, converter)? {
            return check_size(node.name(), buf.len() - start);
        }
        buf.truncate(start);
        buf.push(CONNECTORS);
        if townlake_connectors::codec::try_encode(&node, buf, converter)? {
            return check_size(node.name(), buf.len() - start);
        }
        buf.truncate(start);
        buf.push(BALLISTA);
        self.ballista.try_encode(node, buf, converter)
    }

    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match buf.split_first() {
            Some((&BALLISTA, node)) => self.ballista.try_decode(node, inputs, ctx, converter),
            Some((&LAKE, node)) => townlake_lake::codec::try_decode(node, inputs, ctx, converter),
            Some((&CONNECTORS, node)) => townlake_connectors::codec::try_decode(node, inputs, ctx, converter),
            Some((tag, _)) => internal_err!("a plan node has the unknown tag {tag}"),
            None => internal_err!("a plan node is empty"),
        }
    }
}

fn check_size(node: &str, bytes: usize) -> Result<()> {
    if bytes > MAX_NODE_BYTES {
        return plan_err!("the recipe of {node} takes {bytes} bytes, and {MAX_NODE_BYTES} is the limit");
    }
    Ok(())
}

/// The codec in the form that Ballista's scheduler and executor take. The logical half is never used: plans are submitted
/// in process, as physical plans.
pub fn ballista_codec() -> BallistaCodec<LogicalPlanNode, PhysicalPlanNode> {
    BallistaCodec::new(Arc::new(BallistaLogicalExtensionCodec::default()), Arc::new(TownCodec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{functions, session};
    use arrow::datatypes::{DataType, Field, Schema};
    use ballista_core::execution_plans::ShuffleWriterExec;
    use datafusion::physical_plan::displayable;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion_proto::physical_plan::AsExecutionPlan;

    fn task() -> TaskContext {
        let functions = functions::registry();
        TaskContext::new(
            None,
            "session".to_string(),
            session::base_config(2),
            functions.scalar_functions.clone(),
            functions.higher_order_functions.clone(),
            functions.aggregate_functions.clone(),
            functions.window_functions.clone(),
            Arc::default(),
        )
    }

    #[test]
    fn ballista_nodes_cross_whole() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let writer =
            ShuffleWriterExec::try_new("job".to_string().into(), 3, Arc::new(EmptyExec::new(schema)), String::new());
        let plan: Arc<dyn ExecutionPlan> = Arc::new(writer.unwrap());
        let codec = TownCodec::new();
        let wire = PhysicalPlanNode::try_from_physical_plan(Arc::clone(&plan), &codec).unwrap();
        let back = wire.try_into_physical_plan(&task(), &codec).unwrap();
        let text = |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(false).to_string();
        assert_eq!(text(&back), text(&plan));
    }

    #[test]
    fn hostile_bytes_are_refused() {
        let converter = datafusion_proto::physical_plan::DefaultPhysicalProtoConverter {};
        for bytes in [&[][..], &[9, 1, 2], &[BALLISTA], &[BALLISTA, 0xff, 0xff], &[LAKE, 0xff], &[CONNECTORS, 0xff]] {
            assert!(TownCodec::new().try_decode(bytes, &[], &task(), &converter).is_err(), "{bytes:?}");
        }
    }
}
