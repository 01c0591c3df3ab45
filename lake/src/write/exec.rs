//! The physical node that writes its input into data files.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::StreamExt;

use super::crowded::write_rows;
use super::files::TaskFiles;
use super::{WRITTEN_FILES_SCHEMA, WriteSpec, answer, external, rows};

/// Writes the rows of each input partition into files of its own and answers with one row a file.
///
/// The files belong to no snapshot yet: the coordinator commits those that the winning tasks told of. A stream that
/// fails or is dropped before its answer takes its files back.
#[derive(Debug)]
pub(crate) struct IcebergWriteExec {
    spec: Arc<WriteSpec>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl IcebergWriteExec {
    /// Over an input whose columns can become those of the table.
    pub(crate) fn try_new(spec: Arc<WriteSpec>, input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        rows::check(&spec.table, &input.schema(), &spec.arrow_schema).map_err(external)?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&WRITTEN_FILES_SCHEMA)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self { spec, input, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() })
    }

    /// What is written where.
    pub(crate) fn spec(&self) -> &WriteSpec {
        &self.spec
    }
}

impl DisplayAs for IcebergWriteExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match t {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "IcebergWriteExec: table={}, location={}", self.spec.table, self.spec.data_location)
            }
            DisplayFormatType::TreeRender => writeln!(f, "table={}", self.spec.table),
        }
    }
}

impl ExecutionPlan for IcebergWriteExec {
    fn name(&self) -> &str {
        "IcebergWriteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
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
            _ => internal_err!("a write has one input"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let store = context.runtime_env().object_store(&self.spec.object_store_url)?;
        let memory = MemoryConsumer::new(format!("IcebergWriteExec[{partition}]")).register(context.memory_pool());
        let files = TaskFiles::new(Arc::clone(&self.spec), store, partition, memory).map_err(external)?;
        let counts = Counts::new(&self.metrics, partition);
        let answer = write_all(Arc::clone(&self.spec), input, files, counts, context);
        let schema = Arc::clone(&WRITTEN_FILES_SCHEMA);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::once(answer))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// What EXPLAIN ANALYZE shows of a write.
struct Counts {
    rows: Count,
    bytes: Count,
    files: Count,
}

impl Counts {
    fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let counter = |name: &'static str| MetricBuilder::new(metrics).counter(name, partition);
        Self { rows: counter("rows_written"), bytes: counter("bytes_written"), files: counter("files_written") }
    }
}

async fn write_all(
    spec: Arc<WriteSpec>,
    input: SendableRecordBatchStream,
    mut files: TaskFiles,
    counts: Counts,
    context: Arc<TaskContext>,
) -> Result<RecordBatch> {
    let target = Arc::clone(&spec);
    let to_table = move |batch: Result<RecordBatch>| {
        rows::to_table(&target.table, &target.arrow_schema, &batch?).map_err(external)
    };
    write_rows(&mut files, &spec.arrow_schema, input.map(to_table), &context, &counts.rows).await?;
    let (finished, untold) = files.finish().await.map_err(external)?;
    for file in &finished {
        counts.files.add(1);
        counts.bytes.add(usize::try_from(file.bytes).unwrap_or(usize::MAX));
    }
    let answer = answer::encode(finished, spec.format_version).map_err(external)?;
    untold.told();
    Ok(answer)
}
