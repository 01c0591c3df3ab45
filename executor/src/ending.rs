//! How jobs end here: their tasks are cancelled, their output is removed. Their coordinator says so; where it is gone, its
//! record on the member list says it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use townlake_cluster::{Membership, NodeEvent, NodeWatch, Role};
use townlake_common::Result;

use crate::exchange::Outputs;
use crate::outbox::Outbox;
use crate::registry::Registry;

/// How often it is looked whose coordinator is gone.
const LOOK: Duration = Duration::from_secs(1);

/// What ends jobs; a clone is the same.
#[derive(Clone)]
pub(crate) struct Ending {
    registry: Arc<Registry>,
    outputs: Arc<Outputs>,
    outbox: Outbox,
}

impl Ending {
    /// Over the tasks, the outputs and the reports of this executor.
    pub(crate) fn new(registry: Arc<Registry>, outputs: Arc<Outputs>, outbox: Outbox) -> Self {
        Self { registry, outputs, outbox }
    }

    /// Removes the output of these stages of a job. Without stages the whole job is over: its tasks are ended first, for one
    /// that still runs would write its output anew.
    ///
    /// Errors: those of [`Outputs::remove_job`].
    pub(crate) async fn remove(&self, job: &str, stages: &[u32]) -> Result<()> {
        if stages.is_empty() {
            self.registry.end_job(job).await;
        }
        self.outputs.remove_job(job, stages).await?;
        if stages.is_empty() && self.registry.tasks_of(&[job.to_string()]).is_empty() {
            self.registry.forget_job(job);
        }
        Ok(())
    }

    /// Follows the coordinators until `shutdown`, and ends the jobs of one that is off the list for `patience`.
    pub(crate) async fn follow(self, membership: Arc<dyn Membership>, patience: Duration, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            match membership.watch(Role::Coordinator).await {
                Ok(events) => self.watch(events, patience, &shutdown).await,
                Err(error) => tracing::warn!(code = %error.code(), "the coordinators cannot be followed"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn watch(&self, mut events: NodeWatch, patience: Duration, shutdown: &CancellationToken) {
        let mut list: Option<HashMap<String, String>> = None;
        let mut missing: HashMap<String, Instant> = HashMap::new();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.recv() => match event {
                    None => return,
                    Some(NodeEvent::Listed(nodes)) => {
                        list = Some(nodes.into_iter().map(|node| (node.incarnation, node.address)).collect());
                    }
                    Some(NodeEvent::Changed(node)) => {
                        list.get_or_insert_default().insert(node.incarnation, node.address);
                    }
                    Some(NodeEvent::Gone(incarnation)) => {
                        list.get_or_insert_default().remove(&incarnation);
                    }
                },
                _ = look.tick() => {
                    let Some(list) = &list else { continue };
                    let mut strangers = self.registry.endpoints();
                    strangers.retain(|endpoint| !list.values().any(|address| address == endpoint));
                    missing.retain(|endpoint, _| strangers.contains(endpoint));
                    for endpoint in strangers {
                        if missing.entry(endpoint.clone()).or_insert_with(Instant::now).elapsed() >= patience {
                            self.end_all(&endpoint).await;
                        }
                    }
                }
            }
        }
    }

    /// Ends what a coordinator has left here.
    async fn end_all(&self, endpoint: &str) {
        let jobs = self.registry.jobs_of(endpoint);
        tracing::info!(endpoint, jobs = jobs.len(), "a coordinator is gone: its jobs end");
        for job in jobs {
            if let Err(error) = self.remove(&job, &[]).await {
                tracing::warn!(job, code = %error.code(), "the output of a job could not be removed");
            }
        }
        self.outbox.forget(endpoint);
    }
}
