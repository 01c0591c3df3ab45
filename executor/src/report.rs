//! What a coordinator is told about a task, and the way there.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{TaskStatus, UpdateTaskStatusParams};
use parking_lot::Mutex;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use townlake_common::Error;
use townlake_engine::network::{self, MAX_MESSAGE_BYTES};
use townlake_proto::control::coordinator_client::CoordinatorClient;
use townlake_proto::control::{TaskAttempt, TaskError};

use crate::registry::Attempt;

/// How long a coordinator may take to take a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How many coordinators' connections are kept. There are few; what is above is dropped and dialled anew.
const KEPT_CONNECTIONS: usize = 64;

/// The end of one task attempt: its status in Ballista's terms, and its typed error beside it.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) error: Option<Error>,
    pub(crate) status: TaskStatus,
}

impl Report {
    /// Which attempt it is about.
    pub(crate) fn attempt(&self) -> Attempt {
        Attempt {
            job: self.status.job_id.clone(),
            stage: self.status.stage_id,
            stage_attempt: self.status.stage_attempt_num,
            task: self.status.task_id,
        }
    }
}

/// The message that carries the typed error of an attempt.
pub(crate) fn task_error(attempt: &Attempt, incarnation: &str, error: &Error) -> TaskError {
    let task = TaskAttempt {
        job_id: attempt.job.clone(),
        stage_id: attempt.stage,
        stage_attempt: attempt.stage_attempt,
        task_id: attempt.task,
        incarnation: incarnation.to_string(),
    };
    TaskError { task: Some(task), error: error.to_wire() }
}

/// The way to coordinators. `Ok` means acknowledged. Both calls may arrive twice: the receiver drops duplicates.
#[async_trait]
pub(crate) trait Delivery: Send + Sync + 'static {
    /// Reports a typed error.
    async fn error(&self, endpoint: &str, error: TaskError) -> Result<(), Status>;
    /// Reports statuses.
    async fn statuses(&self, endpoint: &str, statuses: Vec<TaskStatus>) -> Result<(), Status>;
}

/// Delivery over gRPC to the internal door of a coordinator.
pub(crate) struct GrpcDelivery {
    incarnation: String,
    channels: Mutex<HashMap<String, Channel>>,
}

impl GrpcDelivery {
    /// The delivery of this executor.
    pub(crate) fn new(incarnation: &str) -> Self {
        Self { incarnation: incarnation.to_string(), channels: Mutex::default() }
    }

    fn channel(&self, endpoint: &str) -> Result<Channel, Status> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(endpoint) {
            return Ok(channel.clone());
        }
        let target = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|_| Status::invalid_argument("the endpoint of a coordinator is not an address"))?;
        let channel = network::internal_endpoint(target).timeout(REPORT_TIMEOUT).connect_lazy();
        if channels.len() >= KEPT_CONNECTIONS {
            channels.clear();
        }
        channels.insert(endpoint.to_string(), channel.clone());
        Ok(channel)
    }
}

#[async_trait]
impl Delivery for GrpcDelivery {
    async fn error(&self, endpoint: &str, error: TaskError) -> Result<(), Status> {
        CoordinatorClient::new(self.channel(endpoint)?).report_task_error(error).await?;
        Ok(())
    }

    async fn statuses(&self, endpoint: &str, statuses: Vec<TaskStatus>) -> Result<(), Status> {
        let mut client = SchedulerGrpcClient::new(self.channel(endpoint)?)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let params = UpdateTaskStatusParams { executor_id: self.incarnation.clone(), task_status: statuses };
        match client.update_task_status(params).await?.into_inner().success {
            true => Ok(()),
            false => Err(Status::unavailable("the coordinator did not take the statuses")),
        }
    }
}
