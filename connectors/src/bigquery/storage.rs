//! The Storage Read API: read sessions, and their streams, each resumed at its offset when the connection breaks.

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};
use townlake_common::config::BigQueryCompression;
use townlake_common::{Error, Result};
use townlake_proto::bigquery_storage as google;
use townlake_proto::bigquery_storage::arrow_serialization_options::CompressionCodec;
use townlake_proto::bigquery_storage::big_query_read_client::BigQueryReadClient;
use townlake_proto::bigquery_storage::read_session::{TableModifiers, TableReadOptions};

use super::client::{Client, PLANNING_TIME};
use super::error::{Server, is_broken};

/// What is escaped in a routing header: all that Google's own clients escape.
const ROUTING: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Google sends up to 128 MiB in a message.
const MESSAGE_LIMIT: usize = 128 << 20;
/// Tries in a row that bring no row, and the first pause between them.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);
/// The most streams of a session that are believed.
const STREAM_LIMIT: usize = 10_000;
/// The largest schema that travels with a recipe.
const SCHEMA_LIMIT: usize = 4 << 20;

/// What a read session is asked for.
pub(crate) struct Asked<'a> {
    /// `projects/{}/datasets/{}/tables/{}`.
    pub table: String,
    pub selected_fields: Vec<String>,
    pub row_restriction: &'a str,
    pub snapshot_micros: Option<i64>,
    pub max_streams: usize,
    pub query_id: &'a str,
}

/// A read session.
#[derive(Debug)]
pub(crate) struct Session {
    pub streams: Vec<String>,
    pub arrow_schema: Vec<u8>,
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
}

/// The path of a table.
pub(crate) fn table_path(project: &str, dataset: &str, table: &str) -> String {
    format!("projects/{project}/datasets/{dataset}/tables/{table}")
}

impl Client {
    /// Makes a read session. It reads nothing yet and costs nothing. In a place of the budget that the caller holds.
    pub async fn create_session(&self, doing: &str, asked: &Asked<'_>) -> Result<Session> {
        let tried = async {
            let mut tries = 1;
            loop {
                let status = match self.try_session(asked).await? {
                    Ok(session) => return Ok(session),
                    Err(status) => status,
                };
                if !is_broken(&status) || tries == TRIES {
                    return Err(self.storage_server().status(doing, &status));
                }
                sleep(PAUSE * 2u32.pow(tries)).await;
                tries += 1;
            }
        };
        let timed_out = |_| self.storage_server().timed_out(doing, PLANNING_TIME.as_secs(), None);
        let session = timeout(PLANNING_TIME, tried).await.map_err(timed_out)??;
        let google::ReadSession { arrow_schema, streams, estimated_row_count, estimated_total_bytes_scanned, .. } =
            session;
        let arrow_schema = arrow_schema.map(|schema| schema.serialized_schema).unwrap_or_default();
        if streams.len() > STREAM_LIMIT || arrow_schema.len() > SCHEMA_LIMIT {
            return Err(self.storage_server().corrupt("a read session that is too large"));
        }
        let known = |count: i64| u64::try_from(count).ok().filter(|count| *count > 0);
        Ok(Session {
            streams: streams.into_iter().map(|stream| stream.name).collect(),
            arrow_schema,
            rows: known(estimated_row_count),
            bytes: known(estimated_total_bytes_scanned),
        })
    }

    async fn try_session(&self, asked: &Asked<'_>) -> Result<std::result::Result<google::ReadSession, Status>> {
        let codec = match self.settings.compression {
            BigQueryCompression::None => None,
            BigQueryCompression::Lz4 => Some(CompressionCodec::Lz4Frame),
            BigQueryCompression::Zstd => Some(CompressionCodec::Zstd),
        };
        let timestamp = |micros: i64| google::Timestamp {
            seconds: micros.div_euclid(1_000_000),
            nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or_default(),
        };
        let modifiers = asked.snapshot_micros.map(|micros| TableModifiers { snapshot_time: Some(timestamp(micros)) });
        let options = TableReadOptions {
            selected_fields: asked.selected_fields.clone(),
            row_restriction: asked.row_restriction.to_string(),
            arrow_serialization_options: codec
                .map(|codec| google::ArrowSerializationOptions { buffer_compression: codec.into() }),
        };
        let session = google::ReadSession {
            data_format: google::DataFormat::Arrow.into(),
            table: asked.table.clone(),
            table_modifiers: modifiers,
            read_options: Some(options),
            trace_id: format!("townlake:{}", asked.query_id),
            ..Default::default()
        };
        let request = google::CreateReadSessionRequest {
            parent: format!("projects/{}", self.settings.billing_project),
            read_session: Some(session),
            max_stream_count: i32::try_from(asked.max_streams.clamp(1, STREAM_LIMIT)).unwrap_or(1),
            preferred_min_stream_count: 0,
        };
        let request = self.called(request, "read_session.table", &asked.table).await?;
        let mut rpc = BigQueryReadClient::new(self.channel().await?).max_decoding_message_size(MESSAGE_LIMIT);
        let answered = rpc.create_read_session(request).await;
        self.noticed(answered.map(tonic::Response::into_inner)).await
    }

    async fn rows_from(
        &self,
        stream: &str,
        offset: i64,
    ) -> Result<std::result::Result<Streaming<google::ReadRowsResponse>, Status>> {
        let request = google::ReadRowsRequest { read_stream: stream.to_string(), offset };
        let request = self.called(request, "read_stream", stream).await?;
        let mut rpc = BigQueryReadClient::new(self.channel().await?).max_decoding_message_size(MESSAGE_LIMIT);
        let answered = rpc.read_rows(request).await;
        self.noticed(answered.map(tonic::Response::into_inner)).await
    }

    /// A request with its token, and with what Google routes it by.
    async fn called<T>(&self, message: T, routed_by: &str, value: &str) -> Result<Request<T>> {
        let mut request = Request::new(message);
        let unsendable = |_| Error::internal("a header cannot be sent");
        if let Some(token) = self.tokens().token().await? {
            let mut header = MetadataValue::try_from(format!("Bearer {}", token.expose())).map_err(unsendable)?;
            header.set_sensitive(true);
            request.metadata_mut().insert("authorization", header);
        }
        let routing = format!("{routed_by}={}", utf8_percent_encode(value, ROUTING));
        let routing = MetadataValue::try_from(routing).map_err(unsendable)?;
        request.metadata_mut().insert("x-goog-request-params", routing);
        Ok(request)
    }

    async fn noticed<T>(&self, answer: std::result::Result<T, Status>) -> Result<std::result::Result<T, Status>> {
        if answer.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated) {
            self.tokens().forget().await;
        }
        Ok(answer)
    }
}

/// One stream of a session. Dropped before its end, it is reset, and the server sends no more.
pub(crate) struct RowStream {
    client: Arc<Client>,
    server: Server,
    name: String,
    doing: String,
    incoming: Option<Streaming<google::ReadRowsResponse>>,
    /// Rows that came, so that a broken stream goes on behind them.
    offset: i64,
    failures: u32,
}

/// What came at once.
pub(crate) struct Piece {
    pub rows: i64,
    /// An IPC message; nothing in a sign of life.
    pub batch: Option<Vec<u8>>,
    pub arrow_schema: Option<Vec<u8>>,
}

impl RowStream {
    /// The stream of this name, which is opened when it is read.
    pub fn new(client: Arc<Client>, name: String, doing: String) -> Self {
        let server = client.storage_server();
        Self { client, server, name, doing, incoming: None, offset: 0, failures: 0 }
    }

    /// The next piece; `None` at the end. A stream that breaks is opened again at the first row that did not come, so that none
    /// is lost or doubled.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        let silence = self.client.settings.read_timeout;
        loop {
            let was_open = self.incoming.is_some();
            let step = async {
                match &mut self.incoming {
                    Some(incoming) => Ok(incoming.message().await),
                    None => match self.client.rows_from(&self.name, self.offset).await? {
                        Ok(incoming) => {
                            self.incoming = Some(incoming);
                            Ok(Ok(None))
                        }
                        Err(status) => Ok(Err(status)),
                    },
                }
            };
            let silent = |_| self.server.timed_out(&self.doing, silence.as_secs(), Some("read_timeout"));
            let came = timeout(silence, step).await.map_err(silent)?;
            match came? {
                Ok(None) if !was_open => {}
                Ok(None) => return Ok(None),
                Ok(Some(response)) => return self.piece(response).map(Some),
                Err(status) if is_broken(&status) && self.failures < TRIES => {
                    self.failures += 1;
                    self.incoming = None;
                    tracing::info!(offset = self.offset, code = ?status.code(), "a read stream broke and is resumed");
                    sleep(PAUSE * 2u32.pow(self.failures)).await;
                }
                Err(status) => return Err(self.server.status(&self.doing, &status)),
            }
        }
    }

    /// How far it came, for errors.
    pub fn place(&self) -> String {
        let name = self.name.rsplit('/').next().unwrap_or_default();
        format!("in stream {name}, before its row {}", self.offset)
    }

    fn piece(&mut self, response: google::ReadRowsResponse) -> Result<Piece> {
        let google::ReadRowsResponse { arrow_record_batch, row_count, arrow_schema } = response;
        let batch = arrow_record_batch.map(|batch| batch.serialized_record_batch).filter(|bytes| !bytes.is_empty());
        let counted = row_count >= 0 && (batch.is_some() || row_count == 0);
        let offset = self.offset.checked_add(row_count).filter(|_| counted);
        self.offset = offset.ok_or_else(|| self.server.corrupt("a count of rows without them"))?;
        if row_count > 0 {
            self.failures = 0;
        }
        Ok(Piece { rows: row_count, batch, arrow_schema: arrow_schema.map(|schema| schema.serialized_schema) })
    }
}
