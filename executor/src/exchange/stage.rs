//! Runs a task and keeps its output: in memory as long as it fits, in files otherwise.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::{RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport};
use ballista_executor::execution_engine::QueryStageExecutor;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use futures::StreamExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::memory::{OutputMemory, Reserved, TaskOutput};
use super::replay::{Begun, Replays};
use super::split::{Layout, Size, Splitter, merged};

/// A task of a stage, as this executor knows it.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) job: String,
    pub(crate) stage: usize,
    pub(crate) number: u64,
    /// The partitions of the output that the partitions of the input are, where they are the same.
    pub(crate) partitions: Vec<usize>,
}

/// A task that is ready to run.
pub(crate) struct ExchangeStage {
    pub(crate) task: Task,
    /// The plan below the writer.
    pub(crate) input: Arc<dyn ExecutionPlan>,
    pub(crate) layout: Layout,
    pub(crate) memory: Arc<OutputMemory>,
    /// The same task with Ballista's writer. Its input begins with what is left in `replays`.
    pub(crate) files: Arc<dyn QueryStageExecutor>,
    pub(crate) replays: Arc<Replays>,
    pub(crate) metrics: ExecutionPlanMetricsSet,
    pub(crate) in_files: AtomicBool,
}

/// What was cut of one input partition.
struct Cut {
    input: usize,
    parts: Vec<Vec<RecordBatch>>,
    /// The rest of the input, where the memory was full before its end.
    rest: Option<SendableRecordBatchStream>,
}

/// One input partition as it is cut.
struct Cutting {
    input: usize,
    rows: SendableRecordBatchStream,
    splitter: Splitter,
    reserved: Arc<Reserved>,
    full: CancellationToken,
    input_rows: Count,
}

impl Cutting {
    /// Cuts until the end, or until the memory is full for any partition of the task. Then the others stop too, at once: a node
    /// below that feeds them all must not wait for one that is no longer read.
    async fn run(mut self) -> Result<Cut> {
        let ended = loop {
            let batch = tokio::select! {
                biased;
                () = self.full.cancelled() => break false,
                batch = self.rows.next() => batch,
            };
            let Some(batch) = batch.transpose()? else { break true };
            self.input_rows.add(batch.num_rows());
            let bytes = self.splitter.push(batch)?;
            self.reserve(bytes);
        };
        let bytes = self.splitter.finish()?;
        self.reserve(bytes);
        let rest = (!ended).then_some(self.rows);
        Ok(Cut { input: self.input, parts: self.splitter.into_parts(), rest })
    }

    fn reserve(&mut self, bytes: usize) {
        if !self.reserved.try_grow(bytes) {
            self.full.cancel();
        }
    }
}

impl ExchangeStage {
    /// What the task made, if it fits; else its beginning is left in `replays`.
    async fn try_in_memory(&self, context: &Arc<TaskContext>) -> Result<Option<Vec<ShuffleWritePartition>>> {
        let is_as_input = matches!(self.layout, Layout::AsInput);
        let (full, reserved) = (CancellationToken::new(), self.memory.reserve(is_as_input));
        let batch_size = context.session_config().batch_size();
        let mut running = JoinSet::new();
        for input in 0..self.input.properties().output_partitioning().partition_count() {
            let time = MetricBuilder::new(&self.metrics).subset_time("repart_time", input);
            let cutting = Cutting {
                input,
                rows: self.input.execute(input, Arc::clone(context))?,
                splitter: Splitter::new(&self.layout, &self.input.schema(), batch_size, time)?,
                reserved: Arc::clone(&reserved),
                full: full.clone(),
                input_rows: MetricBuilder::new(&self.metrics).counter("input_rows", input),
            };
            running.spawn(cutting.run());
        }
        let mut cuts = Vec::with_capacity(running.len());
        while let Some(cut) = running.join_next().await {
            cuts.push(cut.map_err(|error| DataFusionError::Execution(format!("a part of a task panicked: {error}")))??);
        }
        cuts.sort_by_key(|cut| cut.input);
        if full.is_cancelled() {
            for Cut { input, parts, rest } in cuts {
                let (batches, reserved) = (parts.into_iter().flatten().collect(), Arc::clone(&reserved));
                self.replays.put(input, Begun { batches, reserved, rest });
            }
            return Ok(None);
        }
        self.keep(cuts, reserved, context).map(Some)
    }

    fn keep(
        &self,
        cuts: Vec<Cut>,
        reserved: Arc<Reserved>,
        context: &TaskContext,
    ) -> Result<Vec<ShuffleWritePartition>> {
        let inputs = cuts.into_iter().map(|cut| cut.parts).collect::<Vec<_>>();
        let (numbered, is_by_hash): (Vec<_>, _) = match &self.layout {
            Layout::ByHash(..) => (merged(inputs).into_iter().enumerate().collect(), true),
            Layout::AsInput => {
                let number = |input: usize| self.task.partitions.get(input).copied().unwrap_or(input);
                let inputs = inputs.into_iter().map(|parts| parts.into_iter().flatten().collect());
                (inputs.enumerate().map(|(input, batches)| (number(input), batches)).collect(), false)
            }
        };
        let output_rows = MetricBuilder::new(&self.metrics).output_rows(0);
        let mut written = Vec::with_capacity(numbered.len());
        let mut partitions = HashMap::with_capacity(numbered.len());
        for (partition, batches) in numbered {
            let size = Size::of(&batches);
            output_rows.add(usize::try_from(size.rows).unwrap_or(usize::MAX));
            if is_by_hash && size.rows == 0 {
                continue; // as Ballista's writer: a partition without rows is not mentioned
            }
            written.push(ShuffleWritePartition {
                partition_id: u64::try_from(partition).unwrap_or(u64::MAX),
                num_batches: size.batches,
                num_rows: size.rows,
                num_bytes: size.bytes,
                file_id: Some(self.task.number),
                is_sort_shuffle: is_by_hash,
            });
            partitions.insert(partition, batches);
        }
        let compression = context.session_config().ballista_config().shuffle_compression_codec()?;
        let output = TaskOutput::new(self.input.schema(), compression, partitions, reserved);
        self.memory.put(&self.task.job, self.task.stage, self.task.number, output);
        Ok(written)
    }
}

#[async_trait]
impl QueryStageExecutor for ExchangeStage {
    async fn execute_query_stage(
        &self,
        task_id: usize,
        context: Arc<TaskContext>,
    ) -> Result<Vec<ShuffleWritePartition>> {
        self.memory.forget(&self.task.job, self.task.stage, self.task.number);
        if let Some(written) = self.try_in_memory(&context).await? {
            return Ok(written);
        }
        self.in_files.store(true, Ordering::Relaxed);
        self.files.execute_query_stage(task_id, context).await
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        let mut numbers = self.files.collect_plan_metrics();
        if !self.in_files.load(Ordering::Relaxed)
            && let Some(writer) = numbers.first_mut()
        {
            *writer = self.metrics.clone_inner();
        }
        numbers
    }

    fn collect_runtime_stats_reports(&self) -> Vec<RuntimeStatsReport> {
        self.files.collect_runtime_stats_reports()
    }

    fn collect_window_state_reports(&self) -> Result<Vec<WindowStateReport>> {
        self.files.collect_window_state_reports()
    }

    fn collect_column_stats(&self) -> Vec<TaskColumnStats> {
        self.files.collect_column_stats()
    }
}

impl fmt::Debug for ExchangeStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

impl fmt::Display for ExchangeStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.files, f)
    }
}
