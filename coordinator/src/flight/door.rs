//! The public gRPC service: no call passes without an identity.
//!
//! arrow-flight's dispatcher answers some calls (`ListActions`, `GetSchema`, `ListFlights`) before our service sees them, so
//! the check stands in front of it, here, once.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, BasicAuth, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, SchemaResult, Ticket,
};
use futures::{StreamExt, stream};
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use townlake_common::{Error, ErrorCode, Result};

use super::admission::{Admission, Caller, clear_cookie, refusal};
use super::credentials::Credentials;
use super::service::FlightSql;
use super::{MAX_RECEIVED, results};

/// How long Handshake waits for credentials that come in its payload.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);

/// A client that answers no ping for this long is gone; its queries are cancelled.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_WAIT: Duration = Duration::from_secs(10);

/// Calls that one connection may have open at a time.
const MAX_STREAMS: u32 = 1024;

/// Receive windows of a stream and a connection, in bytes, so that bulk data flows at the speed of the network.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The Flight service as it is served: admission in front of [`FlightSql`].
pub struct Door {
    admission: Arc<Admission>,
    service: FlightSql,
}

impl Door {
    /// A door to `service` for whom `admission` lets in.
    pub fn new(admission: Arc<Admission>, service: FlightSql) -> Self {
        Self { admission, service }
    }

    /// Puts the caller into the request, where the service finds it.
    async fn admit<T>(&self, mut request: Request<T>) -> Result<(Request<T>, Caller), Status> {
        let caller = self.admission.admit(request.metadata()).await.map_err(|error| self.refuse(error))?;
        request.extensions_mut().insert(caller.clone());
        Ok((request, caller))
    }

    fn refuse(&self, error: Error) -> Status {
        self.service.metrics().call_refused(error.code());
        tracing::debug!(code = %error.code(), "call refused");
        refusal(error)
    }

    async fn flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        match self.service.describe_metadata(request.get_ref())? {
            Some(info) => Ok(Response::new(info)),
            None => FlightService::get_flight_info(&self.service, request).await,
        }
    }

    /// Gives the answer the session's cookie, or takes it away when the call closed the session.
    fn answer<T>(&self, caller: &Caller, answer: Result<Response<T>, Status>) -> Result<Response<T>, Status> {
        let mut answer = answer?;
        if answer.metadata().get("set-cookie").is_none() {
            self.admission.put_cookie(caller, answer.metadata_mut());
        }
        Ok(answer)
    }
}

/// Reads the payload of Handshake where older clients put name and password.
async fn payload_credentials(mut requests: Streaming<HandshakeRequest>) -> Result<Credentials, Status> {
    let first = tokio::time::timeout(HANDSHAKE_WAIT, requests.message()).await;
    let Ok(first) = first else { return Ok(Credentials::None) };
    match first? {
        Some(request) if !request.payload.is_empty() => {
            let Ok(auth) = BasicAuth::decode(request.payload) else { return Ok(Credentials::None) };
            Ok(Credentials::from_user(auth.username, auth.password)?)
        }
        _ => Ok(Credentials::None),
    }
}

#[tonic::async_trait]
impl FlightService for Door {
    type HandshakeStream = <FlightSql as FlightService>::HandshakeStream;
    type ListFlightsStream = <FlightSql as FlightService>::ListFlightsStream;
    type DoGetStream = <FlightSql as FlightService>::DoGetStream;
    type DoPutStream = <FlightSql as FlightService>::DoPutStream;
    type DoActionStream = <FlightSql as FlightService>::DoActionStream;
    type ListActionsStream = <FlightSql as FlightService>::ListActionsStream;
    type DoExchangeStream = <FlightSql as FlightService>::DoExchangeStream;

    /// Opens a session and gives its bearer token, in the header and in the payload.
    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        // Some clients send nothing until they have the headers of the answer, so the payload is read only when needed.
        let mut credentials = Credentials::from_headers(request.metadata()).map_err(|error| self.refuse(error))?;
        if matches!(credentials, Credentials::None) {
            credentials = payload_credentials(request.into_inner()).await?;
        }
        let (session, token) = self.admission.open_session(credentials).await.map_err(|error| self.refuse(error))?;
        tracing::debug!(session = %session.id, principal = %session.principal.name, "session opened");
        let reply = HandshakeResponse { protocol_version: 0, payload: token.clone().into() };
        let mut response: Response<Self::HandshakeStream> =
            Response::new(Box::pin(stream::once(std::future::ready(Ok(reply)))));
        let header = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|e| Error::internal("the session token does not fit a header").with_source(e))?;
        response.metadata_mut().insert("authorization", header);
        Ok(response)
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        self.admit(request).await?;
        Err(not_offered("ListFlights").into())
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let (request, caller) = self.admit(request).await?;
        let answer = self.flight_info(request).await;
        self.answer(&caller, answer)
    }

    /// Planning is all that there is to wait for, so the first poll is the last.
    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let (request, caller) = self.admit(request).await?;
        let info = self.flight_info(request).await;
        let poll = info.map(|info| {
            info.map(|info| PollInfo {
                info: Some(info),
                flight_descriptor: None,
                progress: Some(1.0),
                expiration_time: None,
            })
        });
        self.answer(&caller, poll)
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let (request, caller) = self.admit(request).await?;
        let schema = self.service.schema_of(&caller.session, request.get_ref()).await;
        self.answer(&caller, schema.map(Response::new).map_err(Status::from))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let (request, caller) = self.admit(request).await?;
        let answer = match self.service.metadata(&caller.session, request.get_ref()).await? {
            Some(stream) => Ok(Response::new(stream)),
            None => FlightService::do_get(&self.service, request).await,
        };
        self.answer(&caller, answer)
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let (request, caller) = self.admit(request).await?;
        self.answer(&caller, FlightService::do_put(&self.service, request).await)
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let (request, caller) = self.admit(request).await?;
        let closes = request.get_ref().r#type == super::session_actions::CLOSE;
        let mut answer = FlightService::do_action(&self.service, request).await?;
        if closes {
            clear_cookie(answer.metadata_mut());
        }
        self.answer(&caller, Ok(answer))
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        let (_, caller) = self.admit(request).await?;
        let actions: Vec<Result<ActionType, Status>> = super::actions::offered().into_iter().map(Ok).collect();
        self.answer(&caller, Ok(Response::new(stream::iter(actions).boxed())))
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.admit(request).await?;
        Err(not_offered("DoExchange").into())
    }
}

fn not_offered(call: &str) -> Error {
    Error::new(ErrorCode::NotSupported, format!("{call} is not offered")).with_hint("use Flight SQL")
}

/// Serves the door until `stopping` is cancelled and the calls that run then have ended.
///
/// Errors: the listener or the transport failed.
pub async fn serve(listener: TcpListener, door: Door, stopping: CancellationToken) -> Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(PING_EVERY));
    let service = FlightServiceServer::new(door)
        .max_decoding_message_size(MAX_RECEIVED)
        .max_encoding_message_size(results::MAX_MESSAGE + (1 << 20));
    Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_WAIT))
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stopping.cancelled_owned())
        .await
        .map_err(|e| Error::internal("the Flight door failed").with_source(e))
}
