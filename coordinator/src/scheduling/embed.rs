//! Ballista's scheduler as a library: its configuration, its job ids, and how it dials executors.

use std::sync::Arc;
use std::time::Duration;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::extension::EndpointOverrideFn;
use ballista_core::serde::{BallistaCodec, BallistaLogicalExtensionCodec};
use ballista_core::utils::{default_config_producer, default_session_builder};
use ballista_scheduler::cluster::memory::InMemoryJobState;
use ballista_scheduler::cluster::{BallistaCluster, JobState};
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::metrics::NoopMetricsCollector;
use ballista_scheduler::scheduler_server::{JobIdGenerator, SchedulerServer};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use tonic::transport::{Channel, Endpoint};
use townlake_common::{Error, Result};
use townlake_engine::codec::TownCodec;
use townlake_engine::network::{MAX_LAUNCH_BYTES, internal_endpoint};

use super::cluster_state::MemberState;

/// The scheduler that is embedded.
pub(super) type Ballista = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// How long a launch may wait for its answer. A stopped process holds it this long, a loaded one must not be taken for dead.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

tokio::task_local! {
    /// The id that the job submitted in this scope gets.
    pub(super) static NEXT_JOB_ID: String;
}

/// Hands out the id that the submitter chose, so that it is known before the job exists and can be cancelled at once.
struct ChosenJobIds;

#[async_trait::async_trait]
impl JobIdGenerator for ChosenJobIds {
    async fn next_id(&self) -> String {
        NEXT_JOB_ID.try_with(Clone::clone).unwrap_or_else(|_| ulid::Ulid::new().to_string().to_lowercase())
    }
}

/// Starts Ballista's event loop. `address` is where executors report to; `wait` is how long a job may stay without any
/// executor before it fails.
pub(super) async fn start(
    address: String,
    incarnation: &str,
    wait: Duration,
    state: Arc<MemberState>,
) -> Result<(Ballista, Arc<dyn JobState>)> {
    let config = SchedulerConfig {
        scheduler_id: incarnation.to_string(),
        external_host: address.clone(),
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        task_distribution: TaskDistributionPolicy::RoundRobin,
        // Job data is removed when its result has been read, however slowly that goes; see `job.rs`.
        finished_job_data_clean_up_interval_seconds: 0,
        finished_job_state_clean_up_interval_seconds: 30,
        executor_timeout_seconds: 8,
        expire_dead_executor_interval_seconds: 5,
        // Removal must be immediate; draining executors are kept by their heart beats (`members.rs`).
        executor_termination_grace_period: 0,
        // A net below the watch in `job.rs`, which ends a query without executors by its own limit.
        no_executors_grace_period_seconds: wait.as_secs().saturating_add(30),
        grpc_client_max_message_size: u32::try_from(MAX_LAUNCH_BYTES).unwrap_or(u32::MAX),
        override_create_grpc_client_endpoint: Some(control_endpoint()),
        job_id_generator: Some(Arc::new(ChosenJobIds)),
        ..Default::default()
    };
    config.validate().map_err(failed)?;
    let jobs: Arc<dyn JobState> = Arc::new(InMemoryJobState::new(
        incarnation,
        Arc::new(default_session_builder),
        Arc::new(default_config_producer),
    ));
    let codec = BallistaCodec::new(Arc::new(BallistaLogicalExtensionCodec::default()), Arc::new(TownCodec::new()));
    let cluster = BallistaCluster::new(state, Arc::clone(&jobs));
    let metrics = Arc::new(NoopMetricsCollector::default());
    let mut scheduler = SchedulerServer::new(address, cluster, codec, Arc::new(config), metrics);
    // Before any clone: the event sender is stored in this very instance.
    scheduler.init().await.map_err(failed)?;
    Ok((scheduler, jobs))
}

fn failed(error: ballista_core::error::BallistaError) -> Error {
    Error::internal("the scheduler could not be started").with_source(error)
}

/// How Ballista's control calls (launch, cancel) dial an executor: a broken connection is noticed within ten seconds.
fn control_endpoint() -> EndpointOverrideFn {
    Arc::new(|endpoint| Ok(internal_endpoint(endpoint).timeout(CALL_TIMEOUT)))
}

/// How results are fetched: without a limit on the whole call, for a reader may be slow.
pub(super) fn data_endpoint() -> EndpointOverrideFn {
    Arc::new(|endpoint| Ok(internal_endpoint(endpoint)))
}

/// A connection for control calls of our own, made when it is first used.
pub(super) fn control_channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Error::internal(format!("{address} is not the address of an executor")).with_source(error))?;
    Ok(internal_endpoint(endpoint).connect_lazy())
}
