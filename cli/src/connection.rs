//! The Flight SQL connection that shell, load and demo share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, UInt64Type};
use arrow::record_batch::RecordBatch;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    CommandStatementIngest, DoPutUpdateResult, ProstMessageExt, TableDefinitionOptions, TableExistsOption,
    TableNotExistOption,
};
use arrow_flight::{Action, CancelFlightInfoRequest, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use tokio::sync::oneshot;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use townlake_common::{Error, ErrorCode, Result, Secret};

use crate::args::{ConnectArgs, LoadMode};

/// The largest message that we take: frames of the server are about 1 MiB, one very wide row may be larger.
const MESSAGE_LIMIT: usize = 64 << 20;

/// How long the server may take to say goodbye: nobody waits for more.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// An open, authenticated connection. Cheap to clone: clones share the HTTP/2 connection and the session.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    login: Arc<Login>,
}

/// Who signed in, and the session that this gave.
struct Login {
    /// The `authorization` header of Handshake; `None` for one who comes without credentials.
    credentials: Option<Secret>,
    /// The token of the session.
    token: Mutex<String>,
}

impl Login {
    fn token(&self) -> String {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A query that the server has planned: run it by reading its rows.
pub struct Query {
    /// The id under which `system.runtime.queries` shows it.
    pub id: Option<String>,
    /// Whether it is run for its effect: its answer is a count or a message, not data.
    pub has_effect: bool,
    info: FlightInfo,
}

/// The rows of a query as they come. Dropping them cancels the query.
pub struct Rows {
    /// The schema of every batch.
    pub schema: SchemaRef,
    /// The batches.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
}

impl Connection {
    /// Connects and signs in.
    ///
    /// Errors: `SOURCE_UNAVAILABLE` when nobody answers at the URL, `UNAUTHENTICATED` when the server refuses.
    pub async fn open(args: &ConnectArgs) -> Result<Self> {
        let url = normalise(&args.url)?;
        let unreachable = |e: tonic::transport::Error| {
            Error::new(ErrorCode::SourceUnavailable, format!("no Town Lake server answers at {url}"))
                .with_hint("is it running? `townlake demo` starts one; --url names another")
                .with_source(e)
        };
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|e| Error::new(ErrorCode::InvalidArgument, format!("{url} is not a URL")).with_source(e))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(unreachable)?;
        let credentials = credentials(args)?;
        let token = Mutex::new(sign_in(&channel, credentials.as_ref()).await?);
        Ok(Self { channel, login: Arc::new(Login { credentials, token }) })
    }

    /// Signs in once more where the session of `token` is gone (the server was restarted, or nothing was asked for too long).
    async fn sign_in_again(&self, token: &str) -> Result<()> {
        if self.login.token() != token {
            return Ok(()); // another call did
        }
        let fresh = sign_in(&self.channel, self.login.credentials.as_ref()).await?;
        *self.login.token.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        eprintln!("The session was gone and there is a new one: what USE and SET SESSION said before is forgotten.");
        Ok(())
    }

    /// Ends the session on the server. Nothing else can be asked afterwards. A server that does not answer keeps the session
    /// until its time is over.
    pub async fn close(&self) {
        let closing = async {
            let answers =
                self.client().do_action(Action::new("CloseSession", Vec::new())).await.map_err(from_flight)?;
            answers.try_collect::<Vec<_>>().await.map_err(|status| Error::from_status("close", &status))
        };
        if let Ok(Err(error)) = tokio::time::timeout(CLOSE_LIMIT, closing).await {
            tracing::debug!(%error, "the session could not be closed");
        }
    }

    fn client(&self) -> FlightSqlServiceClient<Channel> {
        let inner = FlightServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT);
        let mut client = FlightSqlServiceClient::new_from_inner(inner);
        client.set_token(self.login.token());
        client
    }

    /// Has the server plan a statement. It runs when its rows are read. Where the session is gone, in a new one.
    pub async fn query(&self, sql: &str) -> Result<Query> {
        let token = self.login.token();
        match self.plan(sql).await {
            Err(error) if error.code() == ErrorCode::SessionNotFound => {
                self.sign_in_again(&token).await?;
                self.plan(sql).await
            }
            planned => planned,
        }
    }

    async fn plan(&self, sql: &str) -> Result<Query> {
        let info = self.client().execute(sql.to_string(), None).await.map_err(from_flight)?;
        // the server promises no schema for a statement that changes something
        let has_effect = info.schema.is_empty();
        Ok(Query { id: query_id(&info), has_effect, info })
    }

    /// Runs a planned query and waits for its first rows.
    pub async fn rows(&self, query: &Query) -> Result<Rows> {
        let endpoint = query.info.endpoint.first().and_then(|endpoint| endpoint.ticket.clone());
        let ticket = endpoint.ok_or_else(|| Error::internal("the server gave no ticket for the result"))?;
        let mut stream = self.client().do_get(ticket).await.map_err(from_flight)?;
        // the schema comes with the stream: a statement that changes something promises none beforehand
        let first = stream.try_next().await.map_err(from_flight)?;
        let schema = stream.schema().cloned().ok_or_else(|| Error::internal("the server sent no schema"))?;
        let first = futures::stream::iter(first.map(Ok));
        Ok(Rows { schema, batches: first.chain(stream.map_err(from_flight)).boxed() })
    }

    /// Plans, runs and collects a small result.
    pub async fn collect(&self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let query = self.query(sql).await?;
        let Rows { schema, batches } = self.rows(&query).await?;
        Ok((schema, batches.try_collect().await?))
    }

    /// Runs a statement for its effect; the count of rows that it reports, if it does.
    pub async fn run(&self, sql: &str) -> Result<Option<u64>> {
        let (_, batches) = self.collect(sql).await?;
        Ok(batches.first().and_then(affected_rows))
    }

    /// Cancels a query on the server.
    pub async fn cancel(&self, query: &Query) -> Result<()> {
        let action =
            Action::new("CancelFlightInfo", CancelFlightInfoRequest { info: Some(query.info.clone()) }.encode_to_vec());
        let answers = self.client().do_action(action).await.map_err(from_flight)?;
        answers.try_collect::<Vec<_>>().await.map_err(|status| Error::from_status("cancel", &status))?;
        Ok(())
    }

    /// What the server says of a running query: the JSON of `townlake.query_progress`.
    pub async fn progress(&self, query_id: &str) -> Result<serde_json::Value> {
        let action = Action::new("townlake.query_progress", query_id.to_string());
        let answers = self.client().do_action(action).await.map_err(from_flight)?;
        let answers: Vec<_> = answers.try_collect().await.map_err(|status| Error::from_status("progress", &status))?;
        let body = answers.first().map(|answer| answer.body.clone()).unwrap_or_default();
        serde_json::from_slice(&body).map_err(|e| Error::internal("the progress answer is not JSON").with_source(e))
    }

    /// Streams rows into a table; returns the number written. `table` is catalog, schema, name.
    ///
    /// Errors: of the server, or the first of `rows`: then the call is taken back, and no row is written.
    pub async fn ingest(&self, table: [&str; 3], mode: LoadMode, rows: Rows) -> Result<u64> {
        let (missing, existing) = match mode {
            LoadMode::Create => (TableNotExistOption::Create, TableExistsOption::Fail),
            LoadMode::Append => (TableNotExistOption::Create, TableExistsOption::Append),
            LoadMode::Replace => (TableNotExistOption::Create, TableExistsOption::Replace),
        };
        let [catalog, schema, name] = table.map(str::to_string);
        let command = CommandStatementIngest {
            table_definition_options: Some(TableDefinitionOptions {
                if_not_exist: missing as i32,
                if_exists: existing as i32,
            }),
            table: name,
            schema: Some(schema),
            catalog: Some(catalog),
            ..Default::default()
        };
        self.revive().await?;
        // an empty batch first: without one, a stream of no rows would not even tell its columns
        let first = futures::stream::iter([Ok(RecordBatch::new_empty(rows.schema))]);
        let batches = first.chain(rows.batches).map_err(|error| FlightError::ExternalError(Box::new(error)));
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let encoded = FlightDataEncoderBuilder::new().with_flight_descriptor(Some(descriptor)).build(batches);
        let (body, failure) = until_failure(encoded);
        let mut client = self.client();
        let call = async {
            let mut answers = client.do_put(body).await.map_err(from_flight)?;
            answers.message().await.map_err(|status| Error::from_status("server", &status))
        };
        let answer = tokio::select! {
            biased;
            // dropping the call resets it: the server drops what it has
            Ok(error) = failure => return Err(error),
            answer = call => answer?,
        };
        let answer = answer.ok_or_else(|| Error::internal("the server did not say how many rows it wrote"))?;
        let result = DoPutUpdateResult::decode(answer.app_metadata)
            .map_err(|e| Error::internal("the server's answer to the rows cannot be read").with_source(e))?;
        Ok(u64::try_from(result.record_count).unwrap_or(0))
    }

    /// Makes sure of the session before a stream is begun that can be sent once only.
    async fn revive(&self) -> Result<()> {
        let token = self.login.token();
        let asked = self.client().do_action(Action::new("GetSessionOptions", Vec::new())).await.map_err(from_flight);
        match asked {
            Err(error) if error.code() == ErrorCode::SessionNotFound => self.sign_in_again(&token).await,
            asked => asked.map(drop),
        }
    }
}

/// The messages up to the first error, and where that error comes out. After it the messages never end: an end would tell the
/// server that these are all rows, and it would commit them.
fn until_failure(
    encoded: impl Stream<Item = std::result::Result<FlightData, FlightError>> + Send + Unpin + 'static,
) -> (impl Stream<Item = FlightData> + Send + 'static, oneshot::Receiver<Error>) {
    let (failed, failure) = oneshot::channel();
    let messages = futures::stream::unfold((encoded, Some(failed)), |(mut encoded, mut failed)| async move {
        match encoded.next().await? {
            Ok(message) => Some((message, (encoded, failed))),
            Err(error) => {
                if let Some(failed) = failed.take() {
                    let _nobody_waits_any_more = failed.send(from_flight(error));
                }
                std::future::pending().await
            }
        }
    });
    (messages, failure)
}

/// What to show at the door: the token before user and password, and nothing where neither is given.
fn credentials(args: &ConnectArgs) -> Result<Option<Secret>> {
    if let Some(token) = &args.token {
        return Ok(Some(Secret::new(format!("Bearer {token}"))));
    }
    let Some(user) = &args.user else { return Ok(None) };
    let password = match &args.password {
        Some(password) => password.clone(),
        None => rpassword::prompt_password(format!("Password for {user}: ")).map_err(|e| {
            Error::new(ErrorCode::Unauthenticated, "no password was given")
                .with_hint("set TOWNLAKE_PASSWORD or use --password")
                .with_source(e)
        })?,
    };
    Ok(Some(Secret::new(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))))
}

/// Opens a session and gives its token. Everyone has one, also who came with a token or without credentials: without a session,
/// USE and SET SESSION would be forgotten at the next statement.
async fn sign_in(channel: &Channel, credentials: Option<&Secret>) -> Result<String> {
    // The crate's own handshake flattens a refusal into text; this keeps the typed status.
    let mut request = tonic::Request::new(futures::stream::iter([HandshakeRequest::default()]));
    if let Some(credentials) = credentials {
        let header = MetadataValue::try_from(credentials.expose())
            .map_err(|_| Error::new(ErrorCode::InvalidArgument, "the token has characters that no header can carry"))?;
        request.metadata_mut().insert("authorization", header);
    }
    let answer = FlightServiceClient::new(channel.clone())
        .handshake(request)
        .await
        .map_err(|status| Error::from_status("sign in", &status))?;
    let header = answer.metadata().get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(|| {
        Error::new(ErrorCode::SourceUnavailable, "what answers there gives no session token")
            .with_hint("is it the Flight SQL door? The HTTP door is another one")
    })?;
    Ok(token.to_string())
}

/// `host:port`, `grpc://…` and `grpc+tcp://…` as the URL that tonic takes.
fn normalise(url: &str) -> Result<String> {
    let rest = ["grpc+tcp://", "grpc://", "http://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    match rest {
        Some(rest) => Ok(format!("http://{rest}")),
        None if url.contains("://") => Err(Error::new(ErrorCode::InvalidArgument, format!("cannot speak to {url}"))
            .with_hint(
                "the door speaks plain gRPC: http://host:port; put a TLS proxy in front where it must cross a network",
            )),
        None => Ok(format!("http://{url}")),
    }
}

/// The query id that the server puts beside the schema.
fn query_id(info: &FlightInfo) -> Option<String> {
    let metadata: serde_json::Value = serde_json::from_slice(&info.app_metadata).ok()?;
    Some(metadata.get("query_id")?.as_str()?.to_string())
}

/// The one number of the one row that a statement with an effect answers.
pub fn affected_rows(batch: &RecordBatch) -> Option<u64> {
    if batch.num_columns() != 1 || batch.num_rows() != 1 || batch.schema().field(0).name() != "count" {
        return None;
    }
    let column = batch.column(0);
    match column.data_type() {
        DataType::Int64 => u64::try_from(column.as_primitive::<Int64Type>().value(0)).ok(),
        DataType::UInt64 => Some(column.as_primitive::<UInt64Type>().value(0)),
        _ => None,
    }
}

fn from_arrow(error: arrow::error::ArrowError) -> Error {
    use arrow::error::ArrowError;
    match error {
        ArrowError::ExternalError(source) => match source.downcast::<FlightError>() {
            Ok(flight) => from_flight(*flight),
            Err(source) => match source.downcast::<tonic::Status>() {
                Ok(status) => Error::from_status("server", &status),
                Err(source) => Error::internal(format!("the client failed: {source}")),
            },
        },
        other => Error::internal(format!("the client failed: {other}")),
    }
}

fn from_flight(error: FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => Error::from_status("server", &status),
        FlightError::Arrow(arrow) => from_arrow(arrow),
        FlightError::ExternalError(source) => match source.downcast::<Error>() {
            Ok(own) => *own,
            Err(source) => Error::internal(format!("the client failed: {source}")),
        },
        other => Error::internal(format!("the client failed: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn takes_what_people_write() {
        assert_eq!(normalise("localhost:50050").unwrap(), "http://localhost:50050");
        assert_eq!(normalise("grpc://localhost:50050").unwrap(), "http://localhost:50050");
        assert!(normalise("https://lake.example").is_err());
    }
}
