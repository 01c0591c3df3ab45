//! A MOCK of Google's two doors, for what the emulator cannot show: broken streams, refusals, costs, tokens, what exactly is sent.
//! It knows no data: each test says what is answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::ipc::writer::StreamWriter;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Request, Response, Status};
use townlake_proto::bigquery_storage as google;
use townlake_proto::bigquery_storage::big_query_read_server::{BigQueryRead, BigQueryReadServer};

/// What one call of a stream does.
pub(crate) enum Step {
    /// Sends these rows.
    Rows(Vec<i64>),
    /// Sends a message that says another number of rows than it has.
    Lie(Vec<i64>),
    /// Sends these bytes as a batch.
    Bytes(Vec<u8>),
    /// Sends this.
    As(google::ReadRowsResponse),
    /// Ends with a status.
    Fails(Status),
    /// Sends nothing more.
    Hangs,
    /// Sends the numbers below this, from the offset on that is asked for.
    Below(i64),
    /// Sends batches of 8,192 rows for ever.
    Endless,
}

/// An answer of REST.
#[derive(Clone)]
pub(crate) struct Answer(pub u16, pub Value);

/// What was asked over REST.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub line: String,
    pub head: String,
    pub body: String,
}

#[derive(Default)]
pub(crate) struct State {
    /// By stream: what its calls do, one after another.
    pub calls: BTreeMap<String, VecDeque<Vec<Step>>>,
    pub sessions: Vec<google::CreateReadSessionRequest>,
    pub session_heads: Vec<tonic::metadata::MetadataMap>,
    pub read_heads: Vec<tonic::metadata::MetadataMap>,
    /// The session that is answered, if not one of all streams.
    pub session: Option<google::ReadSession>,
    /// What is answered to sessions before they are made.
    pub refusals: VecDeque<Status>,
    /// Stream and offset of each call.
    pub reads: Vec<(String, i64)>,
    /// Streams that the client has left before their end.
    pub left: usize,
    /// Streams that are being sent.
    pub open: usize,
    pub expected_bytes: i64,
    /// By method and the beginning of the path: the longest that fits answers.
    pub rest: BTreeMap<String, VecDeque<Answer>>,
    pub asked: Vec<Asked>,
}

/// A running mock.
#[derive(Clone)]
pub(crate) struct MockGoogle {
    state: Arc<Mutex<State>>,
    pub rest: u16,
    pub grpc: u16,
}

impl MockGoogle {
    /// A mock with table `d.t` of one column `id`.
    pub async fn start() -> Self {
        let (rest, grpc) = (listen().await, listen().await);
        let mock = Self {
            state: Arc::default(),
            rest: rest.local_addr().unwrap().port(),
            grpc: grpc.local_addr().unwrap().port(),
        };
        let table = json!({
            "tableReference": {"projectId": "p", "datasetId": "d", "tableId": "t"}, "type": "TABLE", "location": "EU",
            "schema": {"fields": [{"name": "id", "type": "INTEGER", "mode": "REQUIRED"}]},
        });
        let mut view = table.clone();
        view["type"] = json!("VIEW");
        mock.answer("GET /bigquery/v2/projects/p/datasets/d/tables/t", [Answer(200, table)]);
        mock.answer("GET /bigquery/v2/projects/p/datasets/d/tables/v", [Answer(200, view)]);
        let server = BigQueryReadServer::new(mock.clone());
        let incoming =
            futures::stream::unfold(grpc, |grpc| async { Some((grpc.accept().await.map(|(socket, _)| socket), grpc)) });
        tokio::spawn(tonic::transport::Server::builder().add_service(server).serve_with_incoming(incoming));
        let of_rest = mock.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = rest.accept().await {
                tokio::spawn(of_rest.clone().serve(socket));
            }
        });
        mock
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a path answers, one after another; the last for ever.
    pub fn answer(&self, path: &str, answers: impl Into<VecDeque<Answer>>) {
        self.state().rest.insert(path.to_string(), answers.into());
    }

    /// What the calls of a stream do.
    pub fn stream(&self, name: &str, calls: impl Into<VecDeque<Vec<Step>>>) {
        self.state().calls.insert(name.to_string(), calls.into());
    }

    /// The keys of a catalog over it, as over an emulator.
    pub fn keys(&self) -> String {
        let Self { rest, grpc, .. } = self;
        format!(
            "type = \"bigquery\"\nproject = \"p\"\nemulator_rest = \"http://127.0.0.1:{rest}\"\nemulator_grpc = \"http://127.0.0.1:{grpc}\"\n"
        )
    }

    /// The keys of a catalog over it, as over Google's own doors, with a key file.
    pub fn keys_with(&self, key_file: &std::path::Path) -> String {
        let Self { rest, grpc, .. } = self;
        format!(
            "type = \"bigquery\"\nproject = \"p\"\nrest_endpoint = \"http://127.0.0.1:{rest}\"\ngrpc_endpoint = \"http://127.0.0.1:{grpc}\"\n\
             key_file = \"{}\"\n",
            key_file.display()
        )
    }

    /// The bodies of what was asked at a path.
    pub fn bodies(&self, line: &str) -> Vec<Value> {
        let state = self.state();
        let asked = state.asked.iter().filter(|asked| asked.line.starts_with(line));
        asked.map(|asked| serde_json::from_str(&asked.body).unwrap_or(Value::Null)).collect()
    }

    async fn serve(self, mut socket: TcpStream) {
        let mut bytes = Vec::new();
        loop {
            while let Some((asked, length)) = whole(&bytes) {
                bytes.drain(..length);
                let Answer(status, body) = self.chosen(&asked.line);
                self.state().asked.push(asked);
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                if socket.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
                    return;
                }
            }
            let mut piece = [0; 8192];
            match socket.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(read) => bytes.extend_from_slice(&piece[..read]),
            }
        }
    }

    fn chosen(&self, line: &str) -> Answer {
        let mut state = self.state();
        let found = state
            .rest
            .iter_mut()
            .filter(|(path, _)| line.starts_with(path.as_str()))
            .max_by_key(|(path, _)| path.len());
        let missing = || Answer(404, json!({"error": {"message": "not found", "errors": [{"reason": "notFound"}]}}));
        match found {
            Some((_, answers)) if answers.len() > 1 => answers.pop_front().unwrap_or_else(missing),
            Some((_, answers)) => answers.front().cloned().unwrap_or_else(missing),
            None => missing(),
        }
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

/// A request that has come wholly, and its length.
fn whole(bytes: &[u8]) -> Option<(Asked, usize)> {
    let text = String::from_utf8_lossy(bytes);
    let (head, _) = text.split_once("\r\n\r\n")?;
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
    let (begin, end) = (head.len() + 4, head.len() + 4 + length.unwrap_or_default());
    let body = String::from_utf8_lossy(bytes.get(begin..end)?).into_owned();
    let line = head.lines().next().unwrap_or_default().to_string();
    Some((Asked { line, head: head.to_string(), body }, end))
}

/// The IPC messages of the schema and of a batch.
pub(crate) fn messages(rows: &[i64]) -> [Vec<u8>; 2] {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(rows.to_vec()))]).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).unwrap();
    let head = std::mem::take(writer.get_mut());
    writer.write(&batch).unwrap();
    [head, std::mem::take(writer.get_mut())]
}

type Sent = Result<google::ReadRowsResponse, Status>;

/// What is sent for a step of a call.
fn sent(step: Step, offset: i64) -> BoxStream<'static, Sent> {
    let response = |rows: &[i64], count: usize| google::ReadRowsResponse {
        arrow_record_batch: Some(google::ArrowRecordBatch { serialized_record_batch: messages(rows)[1].clone() }),
        row_count: count as i64,
        arrow_schema: None,
    };
    let only = |sent: Sent| futures::stream::iter([sent]).boxed();
    match step {
        Step::Rows(rows) => only(Ok(response(&rows, rows.len()))),
        Step::Lie(rows) => only(Ok(response(&rows, rows.len() + 1))),
        Step::Bytes(bytes) => only(Ok(google::ReadRowsResponse {
            arrow_record_batch: Some(google::ArrowRecordBatch { serialized_record_batch: bytes }),
            row_count: 1,
            arrow_schema: None,
        })),
        Step::As(response) => only(Ok(response)),
        Step::Fails(status) => only(Err(status)),
        Step::Hangs => futures::stream::pending().boxed(),
        Step::Below(end) => {
            let batch = move |first: i64| {
                let rows: Vec<_> = (first..end.min(first + 8192)).collect();
                Ok(response(&rows, rows.len()))
            };
            futures::stream::iter((offset..end).step_by(8192).map(batch)).boxed()
        }
        Step::Endless => {
            let rows: Vec<_> = (0..8192).collect();
            let sent = response(&rows, rows.len());
            futures::stream::repeat_with(move || Ok(sent.clone())).boxed()
        }
    }
}

/// Counts a stream that is dropped before its end.
struct Watch {
    mock: MockGoogle,
    is_over: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.mock.state();
        state.open -= 1;
        state.left += usize::from(!self.is_over);
    }
}

#[tonic::async_trait]
impl BigQueryRead for MockGoogle {
    type ReadRowsStream = BoxStream<'static, Sent>;

    async fn create_read_session(
        &self,
        request: Request<google::CreateReadSessionRequest>,
    ) -> Result<Response<google::ReadSession>, Status> {
        let mut state = self.state();
        state.session_heads.push(request.metadata().clone());
        state.sessions.push(request.into_inner());
        if let Some(refusal) = state.refusals.pop_front() {
            return Err(refusal);
        }
        if let Some(session) = &state.session {
            return Ok(Response::new(session.clone()));
        }
        let streams = state.calls.keys().map(|name| google::ReadStream { name: name.clone() }).collect();
        Ok(Response::new(google::ReadSession {
            name: "projects/p/locations/eu/sessions/s".to_string(),
            arrow_schema: Some(google::ArrowSchema { serialized_schema: messages(&[])[0].clone() }),
            streams,
            estimated_row_count: 7,
            estimated_total_bytes_scanned: state.expected_bytes,
            ..Default::default()
        }))
    }

    async fn read_rows(
        &self,
        request: Request<google::ReadRowsRequest>,
    ) -> Result<Response<Self::ReadRowsStream>, Status> {
        let head = request.metadata().clone();
        let google::ReadRowsRequest { read_stream, offset } = request.into_inner();
        let mut state = self.state();
        state.read_heads.push(head);
        state.reads.push((read_stream.clone(), offset));
        let steps = state.calls.get_mut(&read_stream).and_then(VecDeque::pop_front);
        let steps = steps.ok_or_else(|| Status::not_found("no such stream"))?;
        state.open += 1;
        let watch = Watch { mock: self.clone(), is_over: false };
        let end = async move {
            let mut watch = watch;
            watch.is_over = true;
        };
        let steps = futures::stream::iter(steps).flat_map(move |step| sent(step, offset));
        let end = end.into_stream().filter_map(|()| async { None });
        Ok(Response::new(steps.chain(end).boxed()))
    }
}
