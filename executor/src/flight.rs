//! The guard before Ballista's Flight service, which serves the output of tasks to peers and to coordinators.
//!
//! Ballista joins the ids of a ticket into a path as they are. So a ticket is decoded and checked here first, and of the
//! nine calls of Flight only the two that fetch a partition pass. What is in memory is served from there, what is not by
//! Ballista from its files.

use std::pin::Pin;
use std::sync::Arc;

use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use ballista_core::serde::decode_protobuf;
use ballista_core::serde::scheduler::{Action as Fetch, ShuffleFileKind};
use ballista_executor::flight_service::BallistaFlightService;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tonic::{Request, Response, Status, Streaming};

use crate::directories::is_plain_name;
use crate::exchange::{OutputMemory, TaskOutput, serve};
use crate::metrics::Metrics;

/// The action that fetches a partition as the blocks of its file.
const FETCH_BLOCKS: &str = "IO_BLOCK_TRANSPORT";

/// The largest ticket that is decoded, in bytes. Its byte ranges are what makes one large.
const MAX_TICKET_BYTES: usize = 1 << 20;

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Ballista's Flight service behind the guard.
pub(crate) struct GuardedFlight {
    inner: BallistaFlightService,
    memory: Arc<OutputMemory>,
    metrics: Arc<Metrics>,
}

impl GuardedFlight {
    /// Serves what is in `memory` and the files below `work_dir`.
    pub(crate) fn new(work_dir: String, memory: Arc<OutputMemory>, metrics: Arc<Metrics>) -> Self {
        Self { inner: BallistaFlightService::new(work_dir), memory, metrics }
    }

    /// The partition that a ticket asks for, if it is in memory.
    fn in_memory(&self, wanted: &Fetch) -> Option<(Arc<TaskOutput>, usize)> {
        let Fetch::FetchPartition { job_id, stage_id, partition_id, file_id, file_kind, byte_ranges, .. } = wanted;
        if *file_kind != ShuffleFileKind::Data || !byte_ranges.is_empty() {
            return None;
        }
        let output = self.memory.output(job_id.as_str(), *stage_id, (*file_id)?)?;
        Some((output, *partition_id))
    }
}

/// Refuses a ticket that Ballista did not make: whatever the bytes say, only files of jobs can be reached.
fn check(ticket: &[u8]) -> Result<Fetch, Status> {
    let invalid = || Status::invalid_argument("this is not a ticket of a partition");
    if ticket.len() > MAX_TICKET_BYTES {
        return Err(invalid());
    }
    let wanted = decode_protobuf(ticket).map_err(|_| invalid())?;
    let Fetch::FetchPartition { job_id, .. } = &wanted;
    if is_plain_name(job_id.as_str()) { Ok(wanted) } else { Err(invalid()) }
}

#[tonic::async_trait]
impl FlightService for GuardedFlight {
    type HandshakeStream = Frames<HandshakeResponse>;
    type ListFlightsStream = Frames<FlightInfo>;
    type DoGetStream = Frames<FlightData>;
    type DoPutStream = Frames<PutResult>;
    type DoExchangeStream = Frames<FlightData>;
    type DoActionStream = Frames<arrow_flight::Result>;
    type ListActionsStream = Frames<ActionType>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let wanted = check(&request.get_ref().ticket)?;
        let frames = match self.in_memory(&wanted) {
            Some((output, partition)) => frames(&output, partition)?,
            None => self.inner.do_get(request).await?.into_inner(),
        };
        let served = self.metrics.shuffle_served.clone();
        let counted = frames.inspect(move |frame| {
            served.inc_by(frame.as_ref().map_or(0, |frame| frame.data_body.len() as u64));
        });
        Ok(Response::new(Box::pin(counted)))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        if request.get_ref().r#type != FETCH_BLOCKS {
            return Err(Status::unimplemented("an executor serves partitions only"));
        }
        let wanted = check(&request.get_ref().body)?;
        let blocks: Frames<_> = match self.in_memory(&wanted) {
            Some((output, partition)) => {
                let blocks = serve::blocks(output, partition).map_ok(|body| arrow_flight::Result { body });
                Box::pin(blocks.map_err(|error| Status::internal(error.to_string())))
            }
            None => self.inner.do_action(request).await?.into_inner(),
        };
        let served = self.metrics.shuffle_served.clone();
        let counted = blocks.inspect(move |block| {
            served.inc_by(block.as_ref().map_or(0, |block| block.body.len() as u64));
        });
        Ok(Response::new(Box::pin(counted)))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(not_served())
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(not_served())
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        Err(not_served())
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(not_served())
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        Err(not_served())
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        Err(not_served())
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(not_served())
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(not_served())
    }
}

/// An output in memory as frames of Flight.
fn frames(output: &Arc<TaskOutput>, partition: usize) -> Result<Frames<FlightData>, Status> {
    let options = IpcWriteOptions::default().try_with_compression(output.compression);
    let options = options.map_err(|error| Status::internal(error.to_string()))?;
    let batches: Vec<_> = output.batches(partition).iter().cloned().map(Ok).collect();
    let encoder = FlightDataEncoderBuilder::new().with_schema(Arc::clone(&output.schema)).with_options(options);
    Ok(Box::pin(encoder.build(stream::iter(batches)).map_err(Status::from)))
}

fn not_served() -> Status {
    Status::unimplemented("an executor serves partitions only")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ballista_core::serde::protobuf;
    use prost::Message;
    use tonic::Code;

    fn ticket(job: &str) -> Vec<u8> {
        let fetch = protobuf::FetchPartition { job_id: job.to_string(), ..Default::default() };
        let action = protobuf::Action {
            action_type: Some(protobuf::action::ActionType::FetchPartition(fetch)),
            ..Default::default()
        };
        action.encode_to_vec()
    }

    async fn fetch(directory: &str, kind: &str, body: Vec<u8>) -> Code {
        let service =
            GuardedFlight::new(directory.to_string(), OutputMemory::new(0), Arc::new(Metrics::new().unwrap()));
        let action = Action { r#type: kind.to_string(), body: body.into() };
        match service.do_action(Request::new(action)).await {
            Ok(blocks) => {
                let blocks: Vec<_> = blocks.into_inner().collect().await;
                assert!(blocks.iter().all(Result::is_ok));
                Code::Ok
            }
            Err(status) => status.code(),
        }
    }

    #[tokio::test]
    async fn serves_a_partition_and_never_a_file_outside() {
        let root = tempfile::tempdir().unwrap();
        let work = root.path().join("work");
        for directory in [work.join("job/0/0"), root.path().join("outside/0/0")] {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("data.arrow"), "rows").unwrap();
        }
        let work = work.display().to_string();
        assert_eq!(fetch(&work, FETCH_BLOCKS, ticket("job")).await, Code::Ok);
        let outside = root.path().join("outside").display().to_string();
        for job in ["../outside", &outside, "", ".", "job/../../outside"] {
            assert_eq!(fetch(&work, FETCH_BLOCKS, ticket(job)).await, Code::InvalidArgument, "{job}");
        }
        assert_eq!(fetch(&work, FETCH_BLOCKS, vec![0xff; 40]).await, Code::InvalidArgument);
        assert_eq!(fetch(&work, FETCH_BLOCKS, vec![0; MAX_TICKET_BYTES + 1]).await, Code::InvalidArgument);
        assert_eq!(fetch(&work, "SHUTDOWN", ticket("job")).await, Code::Unimplemented);
    }
}
