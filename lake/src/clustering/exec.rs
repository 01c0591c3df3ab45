//! The physical node that gives each row its key.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::StreamExt;
use townlake_common::{Error, ErrorCode};

use super::key::{KeySpec, Keys, Output};

/// Gives rows their keys, or samples of what keys are made of.
#[derive(Debug)]
pub(crate) struct ClusterKeyExec {
    spec: Arc<KeySpec>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl ClusterKeyExec {
    pub(crate) fn try_new(spec: Arc<KeySpec>, input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        // An executor gets both from a plan.
        Keys::new(Arc::clone(&spec)).map_err(no_key)?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(spec.schema(&input.schema())),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self { spec, input, properties: Arc::new(properties) })
    }

    pub(crate) fn spec(&self) -> &KeySpec {
        &self.spec
    }
}

impl DisplayAs for ClusterKeyExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.spec.output {
            Output::Samples { every } => write!(f, "ClusterKeyExec: sample=1/{every}"),
            Output::Keys { tokens, .. } => write!(f, "ClusterKeyExec: ranges={}", tokens.len()),
        }
    }
}

impl ExecutionPlan for ClusterKeyExec {
    fn name(&self) -> &str {
        "ClusterKeyExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::try_new(Arc::clone(&self.spec), input)?)),
            _ => internal_err!("keys have one input"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let keys = Keys::new(Arc::clone(&self.spec)).map_err(no_key)?;
        let (spec, schema, mut seen) = (Arc::clone(&self.spec), self.schema(), 0_u64);
        let of = Arc::clone(&schema);
        let answers = input.map(move |batch| {
            let batch = batch?;
            let answer = match &spec.output {
                Output::Samples { every } => {
                    let rows = (0..batch.num_rows()).filter(|row| (seen + *row as u64).is_multiple_of(*every));
                    let columns = keys.samples(&batch, &rows.collect::<Vec<_>>());
                    columns.and_then(|columns| RecordBatch::try_new(Arc::clone(&of), columns))
                }
                Output::Keys { bounds, tokens } => keys.keyed(&batch, bounds, tokens, &of),
            };
            seen += batch.num_rows() as u64;
            answer.map_err(no_key)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, answers)))
    }
}

fn no_key(error: ArrowError) -> DataFusionError {
    let error =
        Error::new(ErrorCode::ArithmeticError, "a row cannot be put into the order of its table").with_source(error);
    DataFusionError::External(Box::new(error))
}
