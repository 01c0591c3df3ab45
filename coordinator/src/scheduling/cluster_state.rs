//! What Ballista sees of the cluster: its own in-memory state, with heart beats that come from membership and with slots
//! that are given back by the book of tasks instead of by guess.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ballista_core::JobId;
use ballista_core::error::{BallistaError, Result};
use ballista_core::serde::protobuf::ExecutorHeartbeat;
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata};
use ballista_scheduler::cluster::memory::InMemoryClusterState;
use ballista_scheduler::cluster::{BoundTask, ClusterState, ClusterStateEventStream, ExecutorSlot};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::task_manager::JobInfoCache;
use tracing::warn;

use super::members::Members;
use super::tasks::TaskBook;

/// See the module.
pub(super) struct MemberState {
    inner: InMemoryClusterState,
    members: Arc<Members>,
    tasks: Arc<TaskBook>,
}

impl MemberState {
    pub(super) fn new(members: Arc<Members>, tasks: Arc<TaskBook>) -> Self {
        Self { inner: InMemoryClusterState::default(), members, tasks }
    }

    /// Gives slots back to an executor; one that is gone is ignored.
    pub(super) async fn release(&self, slots: Vec<ExecutorSlot>) {
        if slots.is_empty() {
            return;
        }
        if let Err(error) = self.inner.unbind_tasks(slots).await {
            warn!(%error, "slots could not be given back");
        }
    }
}

#[async_trait::async_trait]
impl ClusterState for MemberState {
    async fn bind_schedulable_tasks(
        &self,
        distribution: TaskDistributionPolicy,
        active_jobs: Arc<HashMap<JobId, JobInfoCache>>,
        executors: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        let bound = self.inner.bind_schedulable_tasks(distribution, active_jobs, executors).await?;
        for (executor, task) in &bound {
            let address = self.members.address(executor).unwrap_or_default();
            self.tasks.bound(executor, &address, task);
        }
        // One that was thrown out meanwhile: its tasks were not in the book yet when they were taken out of it.
        for executor in bound.iter().map(|(executor, _)| executor).collect::<HashSet<_>>() {
            if self.members.address(executor).is_none() {
                self.tasks.lose_executor(executor);
            }
        }
        Ok(bound)
    }

    /// Does nothing: Ballista's counts miss the tasks of a stage that was rolled back and would count a repeated status
    /// twice. The door and the end of a job give slots back, attempt by attempt.
    async fn unbind_tasks(&self, _: Vec<ExecutorSlot>) -> Result<()> {
        Ok(())
    }

    async fn register_executor(&self, metadata: ExecutorMetadata, spec: ExecutorData) -> Result<()> {
        let id = metadata.id.clone();
        self.inner.register_executor(metadata, spec).await?;
        if self.members.set_registered(&id, true) {
            return Ok(());
        }
        // Its lease ended meanwhile: nobody would throw it out again.
        self.inner.remove_executor(&id).await?;
        Err(BallistaError::General(format!("executor {id} has left the member list")))
    }

    async fn save_executor_metadata(&self, metadata: ExecutorMetadata) -> Result<()> {
        self.inner.save_executor_metadata(metadata).await
    }

    async fn get_executor_metadata(&self, executor_id: &str) -> Result<ExecutorMetadata> {
        self.inner.get_executor_metadata(executor_id).await
    }

    async fn registered_executor_metadata(&self) -> Vec<ExecutorMetadata> {
        self.inner.registered_executor_metadata().await
    }

    /// Ignored: an executor lives as long as its lease.
    async fn save_executor_heartbeat(&self, _: ExecutorHeartbeat) -> Result<()> {
        Ok(())
    }

    async fn remove_executor(&self, executor_id: &str) -> Result<()> {
        // First of all its statuses stop counting; Ballista resets its tasks after this call.
        self.members.set_registered(executor_id, false);
        self.tasks.lose_executor(executor_id);
        self.inner.remove_executor(executor_id).await
    }

    fn executor_heartbeats(&self) -> HashMap<String, ExecutorHeartbeat> {
        self.members.heartbeats()
    }

    fn get_executor_heartbeat(&self, executor_id: &str) -> Option<ExecutorHeartbeat> {
        self.members.heartbeat(executor_id)
    }

    async fn cluster_state_events(&self) -> Result<ClusterStateEventStream> {
        self.inner.cluster_state_events().await
    }
}
