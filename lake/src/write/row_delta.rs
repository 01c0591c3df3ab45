//! The physical node that writes changed rows: where their old states lie goes into position delete files, their new
//! states into data files.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DFResult, internal_err};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::{Column, case, is_null};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::StreamExt;
use parking_lot::Mutex;
use townlake_common::{Error, QueryContext, QueryId, Result};

use super::crowded::write_rows;
use super::files::TaskFiles;
use super::positions::Positions;
use super::sorting::sorted;
use super::{WRITTEN_FILES_SCHEMA, WriteSpec, answer, external, rows, write_plan};
use crate::scan::scan_plan;
use crate::types::{FilePlan, LoadedTable};

/// The columns before those of the table: the number of the data file and the position there of the old state (both NULL:
/// there was none), and whether there is a new state.
const PLACES: usize = 2;
const BEFORE: usize = 3;

/// What is written where.
#[derive(Debug)]
pub(crate) struct RowDeltaSpec {
    pub write: WriteSpec,
    /// The URIs of the data files, by the numbers that rows have for them.
    pub data_files: Vec<String>,
    /// Whether a row whose old state comes twice is an error.
    pub once: bool,
}

/// The plan that writes changed rows. The columns of `input` are the place of the old state ([`crate::FILE`],
/// [`crate::POSITION`], NULL for new rows) and, unless rows are only deleted, a boolean that says whether there is a new
/// state, and then the table's. `plan` gives the files' numbers.
///
/// `once`: several rows may have the same place, which is an error. Then all of one file must meet in one task.
///
/// Errors: `INVALID_QUERY` where the columns do not fit, `FORMAT_NOT_SUPPORTED` for a table that cannot be written.
pub fn row_delta_plan(
    table: &LoadedTable,
    plan: &FilePlan,
    input: Arc<dyn ExecutionPlan>,
    query: &QueryId,
    once: bool,
) -> Result<Arc<dyn ExecutionPlan>> {
    let write = WriteSpec::new(table, query)?;
    check(&write, &input.schema())?;
    let data_files = plan.files.iter().map(|file| file.path.clone()).collect();
    let failed = |e| Error::internal(format!("a change of {} cannot be planned", table.full_name())).with_source(e);
    let input = if once { by_place(input).map_err(failed)? } else { input };
    let has_rows = input.schema().fields().len() > BEFORE;
    let (input, sort_order_id) = if has_rows { sorted(table, input, BEFORE).map_err(failed)? } else { (input, None) };
    let write = WriteSpec { sort_order_id, ..write };
    let spec = Arc::new(RowDeltaSpec { write, data_files, once });
    Ok(Arc::new(RowDeltaExec::try_new(spec, input).map_err(failed)?))
}

/// The plan that writes position delete files, one for each data file of `plan` that rows are of. The columns of `input` are
/// the number of the data file and the position there; a position may come several times.
///
/// Errors: as [`row_delta_plan`].
pub(crate) fn deletes_plan(
    table: &LoadedTable,
    plan: &FilePlan,
    input: Arc<dyn ExecutionPlan>,
    query: &QueryId,
) -> Result<Arc<dyn ExecutionPlan>> {
    let failed = |e| Error::internal(format!("deletes of {} cannot be planned", table.full_name())).with_source(e);
    row_delta_plan(table, plan, by_place(input).map_err(failed)?, query, false)
}

/// The plan that writes the rows of these files into new files of the table, without those that are deleted.
///
/// Errors: `FORMAT_NOT_SUPPORTED` for a table that cannot be written.
pub fn rewrite_plan(
    table: &LoadedTable,
    plan: FilePlan,
    session: &dyn Session,
    query: &QueryContext,
) -> Result<Arc<dyn ExecutionPlan>> {
    let failed = |e| Error::internal(format!("the files of {} cannot be read anew", table.full_name())).with_source(e);
    let rows = scan_plan(table, plan, &query.principal.name, session, None, None).map_err(failed)?;
    write_plan(table, rows, &query.id)
}

/// Brings rows of one data file together. New rows lie in none: they go by their values.
fn by_place(input: Arc<dyn ExecutionPlan>) -> DFResult<Arc<dyn ExecutionPlan>> {
    let partitions = input.output_partitioning().partition_count();
    if partitions < 2 {
        return Ok(input);
    }
    let schema = input.schema();
    let column = |index: usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(schema.field(index).name(), index)) };
    let mut keys = vec![column(0)];
    let flat = schema.fields().iter().enumerate().skip(BEFORE).find(|(_, field)| !field.data_type().is_nested());
    if let Some((index, _)) = flat {
        let value_of_new = case(None, vec![(is_null(column(0))?, column(index))], None)?;
        keys.push(value_of_new);
    }
    Ok(Arc::new(RepartitionExec::try_new(input, Partitioning::Hash(keys, partitions))?))
}

fn check(write: &WriteSpec, input: &Schema) -> Result<()> {
    let types: Vec<&DataType> = input.fields().iter().map(|field| field.data_type()).collect();
    match types.as_slice() {
        [DataType::Int64, DataType::Int64] => Ok(()),
        [DataType::Int64, DataType::Int64, DataType::Boolean, ..] => {
            let columns = Schema::new(input.fields().iter().skip(BEFORE).cloned().collect::<Vec<_>>());
            rows::check(&write.table, &columns, &write.arrow_schema)
        }
        _ => Err(Error::internal(format!("changed rows of {} do not say where they lie", write.table))),
    }
}

/// Writes the changed rows of each input partition into files of its own and answers with one row a file.
///
/// As with [`super::IcebergWriteExec`], the files belong to no snapshot yet.
#[derive(Debug)]
pub(crate) struct RowDeltaExec {
    spec: Arc<RowDeltaSpec>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RowDeltaExec {
    pub(crate) fn try_new(spec: Arc<RowDeltaSpec>, input: Arc<dyn ExecutionPlan>) -> DFResult<Self> {
        check(&spec.write, &input.schema()).map_err(external)?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&WRITTEN_FILES_SCHEMA)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self { spec, input, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() })
    }

    /// What is written where.
    pub(crate) fn spec(&self) -> &RowDeltaSpec {
        &self.spec
    }
}

impl DisplayAs for RowDeltaExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = &self.spec.write;
        match t {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "RowDeltaExec: table={}, location={}", write.table, write.data_location)
            }
            DisplayFormatType::TreeRender => writeln!(f, "table={}", write.table),
        }
    }
}

impl ExecutionPlan for RowDeltaExec {
    fn name(&self) -> &str {
        "RowDeltaExec"
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
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DFResult<TreeNodeRecursion>,
    ) -> DFResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DFResult<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::try_new(Arc::clone(&self.spec), input)?)),
            _ => internal_err!("a write of changed rows has one input"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DFResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let answer = write_all(Arc::clone(&self.spec), input, partition, context, self.metrics.clone());
        let schema = Arc::clone(&WRITTEN_FILES_SCHEMA);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::once(answer))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

async fn write_all(
    spec: Arc<RowDeltaSpec>,
    input: SendableRecordBatchStream,
    partition: usize,
    context: Arc<TaskContext>,
    metrics: ExecutionPlanMetricsSet,
) -> DFResult<RecordBatch> {
    let store = context.runtime_env().object_store(&spec.write.object_store_url)?;
    let reservation =
        |what: &str| MemoryConsumer::new(format!("RowDeltaExec[{partition}] {what}")).register(context.memory_pool());
    let write = Arc::new(spec.write.clone());
    let mut files =
        TaskFiles::new(Arc::clone(&write), Arc::clone(&store), partition, reservation("rows")).map_err(external)?;
    let positions = Arc::new(Mutex::new(Positions::new(Arc::clone(&spec), reservation("positions"))));
    let counter = |name: &'static str| MetricBuilder::new(&metrics).counter(name, partition);
    let rows = {
        let (positions, spec) = (Arc::clone(&positions), Arc::clone(&spec));
        input.filter_map(move |batch| {
            let new = batch.and_then(|batch| {
                gone(&mut positions.lock(), &batch).map_err(external)?;
                new_states(&spec, &batch).map_err(external)
            });
            std::future::ready(new.transpose())
        })
    };
    write_rows(&mut files, &write.arrow_schema, rows, &context, &counter("rows_written")).await?;
    let Some(positions) = Arc::into_inner(positions).map(Mutex::into_inner) else {
        return internal_err!("the rows of a change are still read after their end");
    };
    let (mut finished, untold) = files.finish().await.map_err(external)?;
    let (deletes, its) = positions.finish(&store).await.map_err(external)?;
    counter("files_written").add(finished.len());
    counter("delete_files_written").add(deletes.len());
    finished.extend(deletes);
    let answer = answer::encode(finished, spec.write.format_version).map_err(external)?;
    untold.told();
    its.told();
    Ok(answer)
}

fn gone(positions: &mut Positions, batch: &RecordBatch) -> Result<()> {
    let [files, places, ..] = batch.columns() else { return Ok(()) };
    let (files, places) = (files.as_primitive::<Int64Type>(), places.as_primitive::<Int64Type>());
    let anew = batch.columns().get(PLACES).map(|column| column.as_boolean());
    for (row, (file, place)) in files.iter().zip(places).enumerate() {
        if let (Some(file), Some(place)) = (file, place) {
            positions.add(file, place, anew.is_some_and(|anew| is_true(anew, row)))?;
        }
    }
    positions.account()
}

fn is_true(column: &BooleanArray, row: usize) -> bool {
    column.is_valid(row) && column.value(row)
}

/// The new states in the batch, in the table's columns; `None` where rows are only deleted.
fn new_states(spec: &RowDeltaSpec, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
    let Some(anew) = batch.columns().get(PLACES) else { return Ok(None) };
    let broken = |e| Error::internal(format!("the changed rows of {} are broken", spec.write.table)).with_source(e);
    let columns: Vec<usize> = (BEFORE..batch.num_columns()).collect();
    let rows = filter_record_batch(&batch.project(&columns).map_err(broken)?, anew.as_boolean()).map_err(broken)?;
    let columns: &SchemaRef = &spec.write.arrow_schema;
    rows::to_table(&spec.write.table, columns, &rows).map(Some)
}
