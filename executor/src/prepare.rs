//! What is added to a task's plan before the execution engine runs it.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use tokio_util::sync::CancellationToken;
use townlake_engine::interrupt::interruptible;

use crate::wrap::WrapExec;

/// The plan of a task, with a shuffle writer on top, as we run it: every node below the writer stops when `token` is
/// cancelled.
///
/// Every node, not leaves alone: a nested loop join or an aggregate can work for minutes without asking a leaf for more.
pub(crate) fn prepare(plan: Arc<dyn ExecutionPlan>, token: &CancellationToken) -> Result<Arc<dyn ExecutionPlan>> {
    let inputs = plan
        .children()
        .into_iter()
        .cloned()
        .map(|input| input.transform_up(|node| Ok(Transformed::yes(stopped_by(node, token)?))).data());
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    plan.replace_children(inputs, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))
}

fn stopped_by(node: Arc<dyn ExecutionPlan>, token: &CancellationToken) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(WrapExec::cancelled_by(interruptible(node, token)?, token.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::ClientPool;
    use crate::exchange::{ExchangeEngine, OutputMemory};
    use arrow::array::{ArrayRef, RecordBatch, StringViewArray};
    use ballista_core::execution_plans::ShuffleWriterExec;
    use ballista_core::utils::collect_plan_metrics;
    use ballista_executor::execution_engine::ExecutionEngine;
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::execution::TaskContext;
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;

    /// 20 MB of strings of which 100 rows are left: a filter or a limit leaves such batches.
    fn wasteful() -> RecordBatch {
        let strings: ArrayRef = Arc::new((0..100_000).map(|i| Some(format!("{i:0200}"))).collect::<StringViewArray>());
        RecordBatch::try_from_iter([("s", strings)]).unwrap().slice(500, 100)
    }

    fn engine(limit: usize) -> ExchangeEngine {
        ExchangeEngine::new("me", OutputMemory::new(limit), ClientPool::start())
    }

    fn writer(directory: &str) -> Arc<dyn ExecutionPlan> {
        let batch = wasteful();
        let scan = MemorySourceConfig::try_new_exec(&[vec![batch.clone()], vec![batch.clone()]], batch.schema(), None);
        let top = Arc::new(CoalescePartitionsExec::new(scan.unwrap()));
        let job = "job".to_string().into();
        Arc::new(ShuffleWriterExec::try_new(job, 1, top, directory.to_string()).unwrap())
    }

    #[tokio::test]
    async fn a_prepared_task_keeps_little_and_has_its_metrics_in_place() {
        for limit in [0, 1 << 30] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().display().to_string();
            let plain = writer(&path);
            let operators = collect_plan_metrics(plain.as_ref()).len();
            let prepared = prepare(plain, &CancellationToken::new()).unwrap();
            assert!(prepared.is::<ShuffleWriterExec>());
            assert_eq!(collect_plan_metrics(prepared.as_ref()).len(), operators);

            let config = townlake_engine::session::base_config(2);
            let job = "job".to_string().into();
            let stage = engine(limit).create_query_stage_exec(job, 1, 0, vec![0], prepared, &path, &config).unwrap();
            let context = TaskContext::default().with_session_config(config);
            let written = stage.execute_query_stage(0, Arc::new(context)).await.unwrap();
            assert_eq!(written.iter().map(|part| part.num_rows).sum::<u64>(), 200);
            let bytes: u64 = written.iter().map(|part| part.num_bytes).sum();
            assert!(bytes < 200_000, "{bytes}");
            assert_eq!(stage.collect_plan_metrics().len(), operators);
        }
    }

    #[tokio::test]
    async fn a_cancelled_task_fails_as_cancelled() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display().to_string();
        let token = CancellationToken::new();
        let prepared = prepare(writer(&path), &token).unwrap();
        token.cancel();
        let engine = engine(0);
        let config = townlake_engine::session::base_config(2);
        let job = "job".to_string().into();
        let stage = engine.create_query_stage_exec(job, 1, 0, vec![0], prepared, &path, &config).unwrap();
        let error = stage.execute_query_stage(0, Arc::new(TaskContext::default())).await.unwrap_err();
        let error = townlake_engine::error::from_datafusion(&error);
        assert_eq!(error.code(), townlake_common::ErrorCode::Cancelled);
    }
}
