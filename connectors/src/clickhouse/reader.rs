//! Reads splits: runs one statement, decodes its answer as it comes into bounded batches.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use serde::Deserialize;
use townlake_common::{Error, ErrorCode, QueryId, Result};

use super::arrowstream::{Decoded, MessageDecoder};
use super::client::{Answer, Client};
use super::recipe::{Recipe, Split};
use super::rowbinary::RowDecoder;
use super::sql::{literal, literals};
use super::types::{Kind, Number, Type};
use super::values::{ValueFault, convert};
use super::wire::Fault;
use crate::scan::ScanMetrics;

/// Rows of a batch of RowBinary. Those of ArrowStream are the server's: `max_block_size`.
const BATCH_ROWS: usize = 8192;
/// A batch of wide rows ends earlier, at this many bytes.
const BATCH_BYTES: usize = 8 << 20;
/// So many parts or partitions are named in an error.
const NAMED: usize = 3;

/// A running statement. Dropped before its end, it is killed on the server.
pub(crate) struct SplitReader {
    client: Arc<Client>,
    query: QueryId,
    recipe: Arc<Recipe>,
    split: Split,
    schema: SchemaRef,
    /// Until the answer has ended.
    answer: Option<Answer>,
    /// The name of the server that answers.
    server: Option<String>,
    decoder: Decoder,
    /// Whether what the split names is known to have been there.
    is_verified: bool,
    metrics: ScanMetrics,
}

enum Decoder {
    Messages(MessageDecoder),
    Rows { rows: RowDecoder, bytes: usize },
}

#[derive(Deserialize)]
struct Count {
    found: String,
}

impl SplitReader {
    /// Waits for a place and begins the statement of one split.
    pub async fn open(client: &Arc<Client>, recipe: Arc<Recipe>, split: Split, metrics: &ScanMetrics) -> Result<Self> {
        let query = QueryId::parse(&recipe.query_id)?;
        let statement = recipe.statement(&split);
        let waited = metrics.connection_wait.timer();
        let answer = client.open(&query, &reading(&recipe), &statement, &recipe.settings).await?;
        drop(waited);
        metrics.splits.add(1);
        let mut wires = recipe.wires();
        let decoder = if recipe.arrow {
            if wires.is_empty() {
                wires.push(Type::plain(Kind::Number(Number::UInt8)).wire());
            }
            Decoder::Messages(MessageDecoder::new(wires))
        } else {
            Decoder::Rows { rows: RowDecoder::new(wires), bytes: 0 }
        };
        Ok(Self {
            client: Arc::clone(client),
            query,
            schema: recipe.arrow_schema(),
            recipe,
            is_verified: !matches!(split, Split::Parts { .. }),
            split,
            server: answer.server.clone(),
            answer: Some(answer),
            decoder,
            metrics: metrics.clone(),
        })
    }

    /// The next batch, and the reader for the one after it; `None` when the split is read to its end.
    pub async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            let is_ended = self.answer.is_none();
            if let Some(decoded) = self.decoder.take(is_ended).map_err(|fault| self.fault(fault))? {
                let batch = self.batch(decoded)?;
                return Ok(Some((batch, self)));
            }
            let Some(answer) = &mut self.answer else { return Ok(None) };
            let chunk = match answer.chunk().await {
                Ok(chunk) => chunk,
                // New servers break the connection behind an exception's text, which says more.
                Err(broken) => {
                    return Err(match self.decoder.finish() {
                        Err(fault @ Fault::Exception(_)) => self.fault(fault),
                        _ => broken,
                    });
                }
            };
            if !self.is_verified {
                self.verify().await?;
            }
            let pushed = match chunk {
                Some(chunk) => {
                    self.metrics.bytes_read.add(chunk.len());
                    let _timer = self.metrics.baseline.elapsed_compute().timer();
                    self.decoder.push(&chunk)
                }
                None => {
                    self.answer = None;
                    self.decoder.finish()
                }
            };
            pushed.map_err(|fault| self.fault(fault))?;
        }
    }

    /// The statement has begun, so that it has chosen its parts. If those that the split names are there still, they were there
    /// then: a part that is gone never comes back.
    async fn verify(&mut self) -> Result<()> {
        self.is_verified = true;
        let Split::Parts { names, .. } = &self.split else { return Ok(()) };
        let Recipe { catalog, database, table, .. } = self.recipe.as_ref();
        let sql = format!(
            "SELECT toString(count()) AS found FROM system.parts WHERE active AND database = {} AND table = {} AND name IN ({}) \
             FORMAT JSONEachRow",
            literal(database),
            literal(table),
            literals(names)
        );
        // In the place of the split itself: to wait for another could be to wait for ever.
        let asked = self.client.look_up_beside::<Count>(&self.query, &reading(&self.recipe), &sql).await?;
        let (counts, server) = asked;
        if server != self.server {
            let message = format!(
                "table {catalog}.{database}.{table}: its parts were read from one server and looked up in another"
            );
            return Err(Error::new(ErrorCode::SourceError, message)
                .with_hint("behind a load balancer, set max_splits = 1 in the catalog or name one server")
                .retryable());
        }
        let found = counts.first().and_then(|count| count.found.parse().ok());
        if found == Some(names.len()) {
            return Ok(());
        }
        let message =
            format!("table {catalog}.{database}.{table}: the server merged or changed its parts while they were read");
        Err(Error::new(ErrorCode::SourceError, message)
            .with_hint("run the query again; max_splits = 1 in the catalog reads each table by one statement")
            .moment_lost())
    }

    fn batch(&self, (rows, columns): Decoded) -> Result<RecordBatch> {
        let _timer = self.metrics.baseline.elapsed_compute().timer();
        let columns =
            self.recipe.columns.iter().zip(&columns).map(|(column, array)| {
                convert(array, &column.read).map_err(|fault| self.value_fault(&column.name, fault))
            });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(|error| {
            let message = format!("{}: the rows do not have the shape of the table", name(&self.recipe));
            Error::new(ErrorCode::DataCorrupt, message).with_source(error)
        })
    }

    fn fault(&self, fault: Fault) -> Error {
        match fault {
            Fault::Malformed(what) => self.client.server().corrupt(what),
            Fault::Exception(text) => self.client.server().exception(&reading(&self.recipe), None, &text),
        }
    }

    fn value_fault(&self, column: &str, fault: ValueFault) -> Error {
        let column = format!("{}.{column}", name(&self.recipe));
        let place = place(&self.split);
        match fault {
            ValueFault::Malformed => self.client.server().corrupt(&format!("a value of column {column}{place}")),
            ValueFault::NotRepresentable(what) => {
                let message = format!("column {column} holds {what}{place}, which the engine cannot represent");
                Error::new(ErrorCode::FormatNotSupported, message)
                    .with_hint("leave the column out, or read it through a ClickHouse view that converts it")
            }
            ValueFault::NewLabel => {
                let message = format!("column {column} holds a label that its enum had not when the query was planned");
                Error::new(ErrorCode::SourceError, message).with_hint("run the query again").moment_lost()
            }
        }
    }
}

impl Decoder {
    fn push(&mut self, chunk: &[u8]) -> std::result::Result<(), Fault> {
        match self {
            Self::Messages(messages) => messages.push(chunk),
            Self::Rows { rows, bytes } => {
                *bytes += chunk.len();
                rows.push(chunk)
            }
        }
    }

    /// A batch, when there is enough for one, or no more comes.
    fn take(&mut self, is_ended: bool) -> std::result::Result<Option<Decoded>, Fault> {
        match self {
            Self::Messages(messages) => Ok(messages.take()),
            Self::Rows { rows, bytes } => {
                let is_enough = rows.rows() >= BATCH_ROWS || *bytes >= BATCH_BYTES || is_ended;
                if rows.rows() == 0 || !is_enough {
                    return Ok(None);
                }
                *bytes = 0;
                rows.take().map(Some)
            }
        }
    }

    fn finish(&mut self) -> std::result::Result<(), Fault> {
        match self {
            Self::Messages(messages) => messages.finish(),
            Self::Rows { rows, .. } => rows.finish(),
        }
    }
}

fn name(recipe: &Recipe) -> String {
    format!("{}.{}.{}", recipe.catalog, recipe.database, recipe.table)
}

fn reading(recipe: &Recipe) -> String {
    format!("read table {}.{}", recipe.database, recipe.table)
}

/// Where in the table: `_part` and `_partition_id` find such rows.
fn place(split: &Split) -> String {
    let among = |what: &str, names: &[String], others: bool| {
        let named: Vec<_> = names.iter().take(NAMED).map(String::as_str).collect();
        let more = names.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!(" (in {what}{} {}{more})", if others { " other than" } else { "" }, named.join(", "))
    };
    match split {
        Split::Whole => " (in its only split)".to_string(),
        Split::Partitions { ids, others } => among("partitions", ids, *others),
        Split::Parts { names, others } => among("parts", names, *others),
        Split::Hash { index, count } => format!(" (in split {} of {count}, by a hash)", index + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::arrowstream::tests::{TYPES, stream};
    use super::super::client::tests::settings;
    use super::super::recipe::{Column, tests::sample};
    use super::*;

    /// How an answer ends.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum End {
        Whole,
        /// The connection breaks.
        Broken,
        /// Nothing more comes.
        Never,
    }

    /// What a server was asked, in order.
    type Asked = Arc<Mutex<Vec<String>>>;

    /// A server that gives every SELECT the same answer, in pieces, and finds one part.
    async fn server(body: Vec<u8>, end: End) -> (Arc<Client>, Asked) {
        servers(body, end, ["a", "a"]).await
    }

    /// The same, where rows and look-ups come from servers of these names.
    async fn servers(body: Vec<u8>, end: End, names: [&'static str; 2]) -> (Arc<Client>, Asked) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://ann:hunter2@{}/", listener.local_addr().unwrap());
        let asked = Asked::default();
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (body, log) = (body.clone(), Arc::clone(&log));
                tokio::spawn(async move {
                    let sql = request(&mut socket).await;
                    let is_look_up = sql.contains("system.parts");
                    let is_select = sql.starts_with("SELECT") && !is_look_up;
                    log.lock().push(sql);
                    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n";
                    let name = format!("X-ClickHouse-Server-Display-Name: {}\r\n\r\n", names[usize::from(is_look_up)]);
                    socket.write_all(format!("{head}{name}").as_bytes()).await.unwrap();
                    if is_look_up {
                        socket.write_all(b"e\r\n{\"found\": \"1\"}\r\n").await.unwrap();
                    }
                    for piece in body.chunks(100).filter(|_| is_select) {
                        let piece = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                        socket.write_all(&piece).await.unwrap();
                    }
                    match end {
                        End::Never if is_select => tokio::time::sleep(Duration::from_secs(60)).await,
                        End::Broken if is_select => {}
                        _ => socket.write_all(b"0\r\n\r\n").await.unwrap(),
                    }
                });
            }
        });
        (Client::new("ch", &settings(&url)).unwrap(), asked)
    }

    /// The body of a request.
    async fn request(socket: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).to_lowercase();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
                if body.len() == length.parse::<usize>().unwrap() {
                    return String::from_utf8_lossy(&bytes).split_once("\r\n\r\n").unwrap().1.to_string();
                }
            }
            let mut piece = [0; 4096];
            let read = socket.read(&mut piece).await.unwrap();
            bytes.extend_from_slice(&piece[..read]);
        }
    }

    async fn open(client: &Arc<Client>) -> SplitReader {
        open_split(client, Split::Whole).await
    }

    async fn open_split(client: &Arc<Client>, split: Split) -> SplitReader {
        let columns = TYPES.iter().map(|declared| Column::new("c", declared, HashMap::new())).collect();
        let recipe = Recipe { columns, query_id: QueryId::generate().to_string(), ..sample() };
        let metrics = ScanMetrics::new(&ExecutionPlanMetricsSet::new(), 0);
        SplitReader::open(client, Arc::new(recipe), split, &metrics).await.unwrap()
    }

    /// The rows before the end, and the error there.
    async fn read(body: Vec<u8>, end: End) -> (usize, Option<Error>) {
        let (client, _) = server(body, end).await;
        let (mut reader, mut rows) = (open(&client).await, 0);
        loop {
            match reader.next().await {
                Ok(Some((batch, next))) => (rows, reader) = (rows + batch.num_rows(), next),
                Ok(None) => return (rows, None),
                Err(error) => return (rows, Some(error)),
            }
        }
    }

    #[tokio::test]
    async fn an_answer_ends_well_or_with_an_error() {
        let text = b"\r\n__exception__\r\ntag\r\nCode: 241. DB::Exception: Memory limit exceeded\r\n";
        let whole = stream(2);
        let failed = [&whole[..whole.len() - 8], text].concat();
        assert!(matches!(read(whole.clone(), End::Whole).await, (6, None)));
        for end in [End::Whole, End::Broken] {
            let (rows, error) = read(failed.clone(), end).await;
            let error = error.unwrap();
            assert_eq!((rows, error.code()), (6, ErrorCode::SourceError), "{end:?}: {error}");
            assert!(error.message().contains("code 241") && !format!("{error:?}").contains("hunter2"), "{error:?}");
            let (rows, error) = read(whole[..whole.len() - 20].to_vec(), end).await;
            assert!(rows < 6 && error.is_some(), "{end:?}: {rows} {error:?}");
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_dropped_kills_its_statement() {
        let (client, asked) = server(stream(2), End::Never).await;
        let (_, reader) = open(&client).await.next().await.unwrap().unwrap();
        drop(reader);
        let started = std::time::Instant::now();
        while !asked.lock().iter().any(|sql| sql.starts_with("KILL QUERY WHERE query_id = 'townlake-")) {
            assert!(started.elapsed() < Duration::from_secs(2), "{:?}", asked.lock());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn named_parts_must_be_there_on_the_server_that_is_read() {
        let cases = [
            (["a", "a"], vec!["p"], None),
            (["a", "b"], vec!["p"], Some("another")),
            (["a", "a"], vec!["p", "q"], Some("merged")),
        ];
        for (servers_of, names, told) in cases {
            let (client, _) = servers(stream(2), End::Whole, servers_of).await;
            let names = names.into_iter().map(str::to_string).collect();
            let first = open_split(&client, Split::Parts { names, others: true }).await.next().await;
            match (first, told) {
                (Ok(Some((batch, _))), None) => assert_eq!(batch.num_rows(), 3),
                (Err(error), Some(told)) => assert!(error.is_retryable() && error.message().contains(told), "{error}"),
                (other, told) => panic!("{told:?}: {:?}", other.map(|found| found.is_some())),
            }
        }
    }
}
