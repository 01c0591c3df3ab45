//! Sums over the rows of files, column by column, whatever the order of the rows: what was rewritten must have the sums of what
//! was read.
//!
//! A column's sum is that of the hashes of its values, modulo 2^64. A value that is lost, doubled or another one changes it (but
//! for one case in 2^64); a row whose values went to another row does not.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion::catalog::Session;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DFResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::StreamExt;
use townlake_common::{Error, QueryContext, Result};

use crate::plan::file_bounds::FileBounds;
use crate::scan::scan_plan;
use crate::types::FileEntry;
use crate::{FilePlan, LoadedTable, PlannedFile, WrittenFile};

/// All nodes must hash alike.
const SEED: u64 = 0;
const ROWS: &str = "rows";

/// The sums of some files of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksums {
    /// How many rows there are.
    pub rows: u64,
    /// By column, in the order of the table.
    columns: Vec<u64>,
}

impl Checksums {
    /// The plan that computes the sums of these files' rows, without those that are deleted.
    ///
    /// Errors: `INTERNAL` for a table that cannot be read.
    pub fn plan(
        table: &LoadedTable,
        files: FilePlan,
        session: &dyn Session,
        query: &QueryContext,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let failed = |e| Error::internal(format!("the files of {} cannot be summed", table.full_name())).with_source(e);
        let rows = scan_plan(table, files, &query.principal.name, session, None, None).map_err(failed)?;
        Ok(Arc::new(ChecksumExec::new(rows)))
    }

    /// The files that were written, for [`Checksums::plan`].
    pub fn written(files: &[WrittenFile]) -> FilePlan {
        let entry = |file: &WrittenFile| FileEntry {
            path: file.data_file.file_path().to_string(),
            size: file.data_file.file_size_in_bytes(),
            record_count: file.data_file.record_count(),
            spec_id: file.spec_id,
            partition: file.data_file.partition().clone(),
            data_sequence_number: 0,
            split_offsets: Vec::new(),
            constants: Default::default(),
            bounds: (Arc::new(FileBounds::default()), 0),
        };
        let files: Vec<PlannedFile> = files.iter().map(|file| PlannedFile::new(Arc::new(entry(file)))).collect();
        FilePlan { total_files: files.len(), files, ..FilePlan::default() }
    }

    /// What the tasks of [`Checksums::plan`] have answered.
    ///
    /// Errors: `INTERNAL` for an answer of another form.
    pub fn of(answers: &[RecordBatch]) -> Result<Self> {
        let mut sums: Vec<u64> = Vec::new();
        for batch in answers {
            sums.resize(sums.len().max(batch.num_columns()), 0);
            for (sum, column) in sums.iter_mut().zip(batch.columns()) {
                let Some(values) = column.as_primitive_opt::<UInt64Type>() else {
                    return Err(Error::internal("a checksum is no number"));
                };
                *sum = values.iter().flatten().fold(*sum, u64::wrapping_add);
            }
        }
        match sums.split_first() {
            Some((rows, columns)) => Ok(Self { rows: *rows, columns: columns.to_vec() }),
            None => Ok(Self { rows: 0, columns: Vec::new() }),
        }
    }

    /// Checks that files which were written in place of others have the same rows.
    ///
    /// Errors: `INTERNAL` naming what is different.
    pub fn check_rewritten(&self, written: &Self, table: &LoadedTable) -> Result<()> {
        let different = |what: String| {
            let name = table.full_name();
            Err(Error::internal(format!(
                "{what} of {name} is not what it was before it was written anew: nothing is changed"
            )))
        };
        if self.rows != written.rows {
            return different(format!("the number of rows ({} for {})", written.rows, self.rows));
        }
        let columns = table.arrow_schema.fields().iter();
        let mut sums = columns.zip(self.columns.iter().zip(&written.columns));
        match sums.find(|(_, (before, after))| before != after) {
            // Without rows there are no sums either.
            Some((column, _)) => different(format!("column {}", column.name())),
            None => Ok(()),
        }
    }
}

/// Answers with one row for each partition of its input: how many rows it has, and the sum of each column.
#[derive(Debug)]
pub(crate) struct ChecksumExec {
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl ChecksumExec {
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let sums = (0..input.schema().fields().len()).map(|column| format!("c{column}"));
        let fields =
            std::iter::once(ROWS.to_string()).chain(sums).map(|name| Field::new(name, DataType::UInt64, false));
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { input, schema, properties: Arc::new(properties) }
    }
}

impl DisplayAs for ChecksumExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChecksumExec")
    }
}

impl ExecutionPlan for ChecksumExec {
    fn name(&self) -> &str {
        "ChecksumExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
            (Some(input), true) => Ok(Arc::new(Self::new(input))),
            _ => internal_err!("a checksum has one input"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DFResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let answer = sum(input, Arc::clone(&self.schema));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), futures::stream::once(answer))))
    }
}

async fn sum(mut input: SendableRecordBatchStream, schema: SchemaRef) -> DFResult<RecordBatch> {
    let state = RandomState::with_seed(SEED);
    let mut sums = vec![0_u64; schema.fields().len()];
    let mut hashes = Vec::new();
    while let Some(batch) = input.next().await.transpose()? {
        let Some((rows, columns)) = sums.split_first_mut() else { break };
        *rows = rows.wrapping_add(batch.num_rows() as u64);
        for (sum, column) in columns.iter_mut().zip(batch.columns()) {
            hashes.clear();
            hashes.resize(column.len(), 0);
            create_hashes([column], &state, &mut hashes)?;
            *sum = hashes.iter().copied().fold(*sum, u64::wrapping_add);
        }
    }
    let columns = sums.into_iter().map(|sum| Arc::new(UInt64Array::from(vec![sum])) as ArrayRef);
    Ok(RecordBatch::try_new(schema, columns.collect())?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use datafusion::physical_plan::collect;
    use townlake_common::QueryId;

    use super::*;
    use crate::plan_files;
    use crate::testing::Lake;

    const COLUMNS: [(&str, DataType); 2] = [("id", DataType::Int64), ("v", DataType::Utf8)];

    fn rows(rows: &[(i64, Option<&str>)]) -> RecordBatch {
        let ids: ArrayRef = Arc::new(rows.iter().map(|(id, _)| Some(*id)).collect::<Int64Array>());
        let texts: ArrayRef = Arc::new(rows.iter().map(|(_, text)| *text).collect::<StringArray>());
        RecordBatch::try_from_iter([("id", ids), ("v", texts)]).unwrap()
    }

    async fn sums(lake: &Lake, table: &str, partitions: usize) -> Checksums {
        let config = datafusion::prelude::SessionConfig::new().with_target_partitions(partitions);
        let (context, table) = (lake.context_with(config), lake.load(table).await);
        let files = plan_files(&table, &[]).await.unwrap();
        let state = context.state();
        let query = QueryContext::new(QueryId::generate(), townlake_common::Principal::new("ann", vec![]));
        let plan = Checksums::plan(&table, files, &state, &query).unwrap();
        Checksums::of(&collect(plan, context.task_ctx()).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn sums_are_of_the_rows_and_not_of_their_order_or_files() {
        let lake = Lake::create(&COLUMNS, &[]).await;
        lake.catalog.create_table(crate::testing::create_table("u", &COLUMNS, &[])).await.unwrap();
        let context = lake.context();
        let (a, b, c) = ((1, Some("x")), (2, None), (3, Some("x")));
        lake.insert(&context, "t", rows(&[a, b, c])).await;
        for row in [c, a, b] {
            lake.insert(&context, "u", rows(&[row])).await;
        }
        let (t, u) = (sums(&lake, "t", 1).await, sums(&lake, "u", 3).await);
        let table = lake.load("t").await;
        assert_eq!(t, u);
        t.check_rewritten(&u, &table).unwrap();

        lake.insert(&context, "u", rows(&[a])).await;
        let error = t.check_rewritten(&sums(&lake, "u", 1).await, &table).unwrap_err();
        assert!(error.message().contains("number of rows (4 for 3)"), "{error}");
        lake.catalog.create_table(crate::testing::create_table("w", &COLUMNS, &[])).await.unwrap();
        lake.insert(&context, "w", rows(&[a, (2, Some("")), c])).await;
        let error = t.check_rewritten(&sums(&lake, "w", 1).await, &table).unwrap_err();
        assert!(error.message().contains("column v"), "{error}");
    }
}
