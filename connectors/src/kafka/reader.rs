//! Reads splits: fetches from the partition's leader, from the start of a range of offsets to its end, and decodes into
//! bounded batches.
//!
//! How far a reader has come is told by the offsets of batches, not of records: compaction takes records away, markers of
//! transactions are no records, and what was aborted is not seen. It is at its end when it is past the range, or when the
//! broker, having all of the range, has nothing in what is left of it. Nothing else is an end: not an empty answer (throttled,
//! behind after an election, slow to fetch from tiered storage), and not an error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use bytes::Bytes;
use townlake_common::{Error, ErrorCode, QueryId, Result};

use super::cluster::{Cluster, NEWS_TIME, Session};
use super::datum::Unsound;
use super::net::{Address, Connection};
use super::recipe::{Recipe, Split};
use super::records::{OLD_FORMAT, Record, Records, Visibility, next_batch};
use super::registry::Registry;
use super::values::{Fault, Rows};
use super::wire::buffer::Malformed;
use super::wire::codes::{Code, Kind};
use super::wire::messages::{Fetch, fetch_response};
use crate::scan::ScanMetrics;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;
/// A batch of wide rows ends earlier, at this many bytes of keys, values and headers.
const BATCH_BYTES: usize = 8 << 20;
/// About how much is fetched at once.
const FETCH_BYTES: i32 = 1 << 20;
/// How long a broker waits for something to come, where there is nothing.
const FETCH_WAIT: Duration = Duration::from_millis(250);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(150);
/// A split with values of more schemas than this that the registry does not know is given up: each costs a question.
const MOST_UNKNOWN: usize = 1000;
/// The longest pause that a broker may ask for.
const LONGEST_THROTTLE: Duration = Duration::from_secs(10);

/// One split that is being read. Dropped, its connection is closed at once.
pub(crate) struct SplitReader {
    recipe: Arc<Recipe>,
    split: Split,
    /// The next offset.
    position: i64,
    /// Rows that may still come.
    left: u64,
    /// Until the end of the split.
    session: Option<Session>,
    connection: Option<Connection>,
    /// What was fetched and not yet looked at, and whether anything of it was.
    fetched: Bytes,
    is_untouched: bool,
    visibility: Visibility,
    /// The batch in hand, and its last offset.
    records: Option<(Records, i64)>,
    /// Where the schemas of values are, and the record that waits for its own.
    registry: Option<Arc<Registry>>,
    waiting: Option<(Record, u32)>,
    rows: Rows,
    bytes: usize,
    progress: Progress,
    metrics: ScanMetrics,
}

/// When a reader last came further.
struct Progress {
    position: i64,
    since: Instant,
    /// Who leads the partition is asked again.
    is_lost: bool,
}

/// What a fetch brought.
enum Answer {
    Records,
    /// The broker has all of the range, and nothing from the position on.
    Nothing {
        broker: Address,
    },
    /// Something is in the way that may pass.
    Later {
        pause: Duration,
        reason: Option<Error>,
    },
}

impl SplitReader {
    /// Waits for a place in the budget. Whoever reads a range without offsets waits for nothing.
    pub async fn open(
        cluster: &Arc<Cluster>,
        registry: Option<&Arc<Registry>>,
        recipe: &Arc<Recipe>,
        split: Split,
        metrics: &ScanMetrics,
    ) -> Result<Self> {
        let query = QueryId::parse(&recipe.query_id)?;
        let is_empty = split.len() == 0 || recipe.limit == Some(0);
        let session = match is_empty {
            true => None,
            false => {
                let _waited = metrics.connection_wait.timer();
                Some(cluster.read(&query).await?)
            }
        };
        metrics.splits.add(1);
        Ok(Self { registry: registry.cloned(), ..Self::new(session, recipe, split, metrics) })
    }

    /// The same in a session of its own.
    pub fn within(session: Session, recipe: &Arc<Recipe>, split: Split, metrics: &ScanMetrics) -> Self {
        Self::new(Some(session), recipe, split, metrics)
    }

    fn new(session: Option<Session>, recipe: &Arc<Recipe>, split: Split, metrics: &ScanMetrics) -> Self {
        Self {
            split,
            position: split.start,
            left: recipe.limit.unwrap_or(u64::MAX),
            session,
            connection: None,
            fetched: Bytes::new(),
            is_untouched: false,
            visibility: Visibility::default(),
            records: None,
            registry: None,
            waiting: None,
            rows: Rows::new(
                &recipe.columns,
                &recipe.checked,
                recipe.arrow_schema(),
                recipe.null_and_count,
                recipe.values.as_ref(),
            ),
            bytes: 0,
            progress: Progress { position: split.start, since: Instant::now(), is_lost: false },
            metrics: metrics.clone(),
            recipe: Arc::clone(recipe),
        }
    }

    /// The next batch, and the reader for the one after it; `None` when the split is read to its end.
    pub async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        self.bytes = 0;
        while self.rows.len() < BATCH_ROWS && self.bytes < BATCH_BYTES {
            if let Some((record, id)) = self.waiting.take() {
                self.learn(id, record.offset).await?;
                let misfits = self.append(&record)?;
                self.count(misfits);
                continue;
            }
            if self.position >= self.split.end || self.left == 0 || self.session.is_none() {
                // Not at the next call: whoever has all rows that it wants may never make it.
                self.finish();
                break;
            }
            if !self.decode()? {
                self.fetch().await?;
            }
        }
        if self.rows.len() == 0 {
            return Ok(None);
        }
        let batch = self.rows.finish().map_err(|error| {
            let message = format!("{}: the rows do not have the shape of the table", self.recipe.name());
            Error::new(ErrorCode::DataCorrupt, message).with_source(error)
        })?;
        Ok(Some((batch, self)))
    }

    fn finish(&mut self) {
        if let (Some(session), Some(connection)) = (self.session.take(), self.connection.take()) {
            session.give_back(connection);
        }
    }

    /// Decodes some of what was fetched into rows; `false` when there is nothing left of it.
    fn decode(&mut self) -> Result<bool> {
        let metrics = self.metrics.clone();
        let _timer = metrics.baseline.elapsed_compute().timer();
        if self.records.is_none() && !self.next_batch().map_err(|fault| self.damaged(fault))? {
            return Ok(false);
        }
        let mut misfits = 0;
        while self.rows.len() < BATCH_ROWS && self.bytes < BATCH_BYTES && self.left > 0 {
            let Some(record) = self.next_record().map_err(|fault| self.damaged(fault))? else { break };
            if let Some(id) = self.rows.missing(&record) {
                self.waiting = Some((record, id));
                break;
            }
            misfits += self.append(&record)?;
        }
        self.count(misfits);
        Ok(true)
    }

    /// Appends a record; tells how many of its columns are NULL because they did not fit.
    fn append(&mut self, record: &Record) -> Result<usize> {
        let appended = self.rows.append(self.split.partition, record);
        let misfits = appended.map_err(|fault| self.undecodable(fault, record.offset))?;
        self.bytes += record.size() + self.rows.take_weight();
        self.left -= 1;
        Ok(misfits)
    }

    fn count(&self, misfits: usize) {
        if misfits > 0 {
            self.metrics.count("decode_errors", misfits);
        }
    }

    /// Asks the registry for the schema of a value.
    async fn learn(&mut self, id: u32, offset: i64) -> Result<()> {
        let registry = self.registry.as_ref().ok_or_else(|| Error::internal("a scan of values without a registry"))?;
        let waited = self.metrics.connection_wait.timer();
        let writer = registry.writer(id).await?;
        drop(waited);
        if self.rows.learn(id, writer.as_deref()) > MOST_UNKNOWN {
            let message = format!(
                "table {}: more than {MOST_UNKNOWN} schemas of values up to offset {offset} of partition {} are not in the registry",
                self.recipe.name(),
                self.split.partition
            );
            return Err(Error::new(ErrorCode::DataCorrupt, message)
                .with_hint("is it the registry that the producers use? see `schema_registry` of the catalog"));
        }
        Ok(())
    }

    /// Takes the next batch in hand, if one of those that were fetched is for us.
    fn next_batch(&mut self) -> Result<bool, Malformed> {
        while self.position < self.split.end {
            let Some(batch) = next_batch(&mut self.fetched)? else {
                let nothing = std::mem::take(&mut self.fetched);
                return match self.is_untouched && !nothing.is_empty() {
                    true => Err(Malformed("an answer without one whole batch")),
                    false => Ok(false),
                };
            };
            self.is_untouched = false;
            let is_shown = self.visibility.shows(&batch)?;
            if batch.last_offset < self.position {
                continue;
            }
            if batch.base_offset >= self.split.end {
                self.position = self.split.end;
            } else if is_shown {
                self.records = Some((batch.records()?, batch.last_offset));
                return Ok(true);
            } else {
                self.position = batch.last_offset.saturating_add(1);
            }
        }
        Ok(false)
    }

    /// The next record of the batch in hand that is in the range.
    fn next_record(&mut self) -> Result<Option<Record>, Malformed> {
        let Some((records, last_offset)) = self.records.as_mut() else { return Ok(None) };
        while let Some(record) = records.next()? {
            if record.offset >= self.split.end {
                break;
            }
            if record.offset >= self.position {
                self.position = record.offset + 1;
                return Ok(Some(record));
            }
        }
        self.position = self.position.max(last_offset.saturating_add(1));
        self.records = None;
        Ok(None)
    }

    /// Fetches until something came, or nothing is to come.
    async fn fetch(&mut self) -> Result<()> {
        loop {
            if self.position > self.progress.position {
                self.progress = Progress { position: self.position, since: Instant::now(), is_lost: false };
            }
            let answer = match self.ask().await {
                Err(error) if error.code() == ErrorCode::SourceUnavailable => {
                    Answer::Later { pause: PAUSE, reason: Some(error) }
                }
                answer => answer?,
            };
            match answer {
                Answer::Records => return Ok(()),
                Answer::Nothing { broker } if self.is_whole(&broker).await? => {
                    self.position = self.split.end;
                    return Ok(());
                }
                Answer::Nothing { .. } => self.wait(PAUSE, None).await?,
                Answer::Later { pause, reason } => self.wait(pause, reason).await?,
            }
        }
    }

    /// Waits before the next try, unless it has been too long.
    async fn wait(&mut self, pause: Duration, reason: Option<Error>) -> Result<()> {
        let Some(session) = self.session.as_ref() else { return Ok(()) };
        let patience = match &reason {
            Some(error) if !error.is_retryable() => NEWS_TIME,
            _ => session.cluster().patience(),
        };
        if self.progress.since.elapsed() > patience {
            return Err(reason.unwrap_or_else(|| {
                let catalog = &self.recipe.catalog;
                let message = format!(
                    "catalog {catalog}: Kafka does not send offset {} of partition {} of topic {}, which the query pinned",
                    self.position, self.split.partition, self.recipe.topic
                );
                let hint = format!("it is waited for as long as `request_timeout` in [catalogs.{catalog}]");
                Error::new(ErrorCode::SourceUnavailable, message).with_hint(hint).retryable()
            }));
        }
        self.progress.is_lost = reason.is_some();
        if self.progress.is_lost {
            self.connection = None;
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Whether a broker that has nothing more speaks for the whole log, and not only for what it has not moved elsewhere.
    async fn is_whole(&mut self, broker: &Address) -> Result<bool> {
        let Some(session) = self.session.as_ref() else { return Ok(true) };
        if let Some(connection) = self.connection.take() {
            session.give_back(connection);
        }
        let Split { partition, .. } = self.split;
        match session.is_local(&self.recipe.topic, partition, broker, self.position).await {
            Err(error) if error.code() == ErrorCode::SourceUnavailable => Ok(false),
            told => told.map(|is_local| is_local.unwrap_or(true)),
        }
    }

    /// One fetch.
    async fn ask(&mut self) -> Result<Answer> {
        let Some(session) = self.session.as_ref() else { return Err(Error::internal("a split is read after its end")) };
        let Recipe { topic, topic_id, committed, .. } = self.recipe.as_ref();
        let Split { partition, end, .. } = self.split;
        let server = session.cluster().server();
        let doing = format!("read partition {partition} of topic {topic}");
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let waited = self.metrics.connection_wait.timer();
                let leader = session.leader(topic, partition, self.progress.is_lost).await?;
                let leader = leader.ok_or_else(|| server.answered(&doing, Code(5)))?;
                let connection = session.connect(&leader).await?;
                drop(waited);
                connection
            }
        };
        let version = connection.versions().fetch(topic_id.is_some());
        let version = version.ok_or_else(|| server.too_old(connection.broker()))?;
        let request = Fetch {
            topic,
            id: *topic_id,
            partition,
            offset: self.position,
            committed: *committed,
            wait_ms: i32::try_from(FETCH_WAIT.as_millis()).unwrap_or(i32::MAX),
            bytes: FETCH_BYTES,
        };
        let answer = connection.call(version, session.client(), &request.encode(version), &doing, FETCH_WAIT).await?;
        self.metrics.bytes_read.add(answer.len());
        let (throttle, code, fetched) =
            connection.decode(&answer, version, &doing, |reader| fetch_response(reader, version))?;
        let code = fetched.as_ref().map_or(code, |fetched| if code.is_error() { code } else { fetched.code });
        let broker = connection.address().clone();
        self.connection = Some(connection);
        if code.is_error() {
            let error = server.answered(&doing, code);
            return match code.kind() {
                Kind::Transient | Kind::Gone => Ok(Answer::Later { pause: PAUSE, reason: Some(error) }),
                _ => Err(error),
            };
        }
        let Some(fetched) = fetched else {
            // Throttled: it says for how long. That it takes long is the administrator's will, and no reason to give up.
            self.progress.since = Instant::now();
            let pause = Duration::from_millis(u64::try_from(throttle).unwrap_or(0)).clamp(PAUSE, LONGEST_THROTTLE);
            return Ok(Answer::Later { pause, reason: None });
        };
        let bound = if *committed { fetched.last_stable } else { fetched.high_watermark };
        if fetched.records.is_empty() {
            return match bound >= end && !fetched.other_replica {
                true => Ok(Answer::Nothing { broker }),
                false => Ok(Answer::Later { pause: Duration::ZERO, reason: None }),
            };
        }
        self.fetched = answer.slice_ref(fetched.records);
        self.is_untouched = true;
        self.visibility = Visibility::new(fetched.aborted);
        Ok(Answer::Records)
    }

    fn damaged(&self, fault: Malformed) -> Error {
        let Split { partition, .. } = self.split;
        let place = format!("partition {partition} of topic {}, near offset {}", self.recipe.topic, self.position);
        if fault == OLD_FORMAT {
            let message =
                format!("catalog {}: {place} is stored in a message format before Kafka 0.11", self.recipe.catalog);
            return Error::new(ErrorCode::FormatNotSupported, message)
                .with_hint("read from a later `_offset`, or have Kafka rewrite the topic");
        }
        let message = format!("catalog {}: {place} holds {}", self.recipe.catalog, fault.0);
        Error::new(ErrorCode::DataCorrupt, message)
    }

    fn undecodable(&self, fault: Fault, offset: i64) -> Error {
        let name = self.recipe.name();
        let place = format!("offset {offset} of partition {}", self.split.partition);
        let message = match fault {
            Fault::Malformed(fault) => return self.damaged(fault),
            Fault::Value(Unsound::Format) if self.recipe.values.is_none() => {
                format!("table {name}: the value at {place} is no JSON, or not of the shape that its columns have")
            }
            Fault::Value(unsound) => format!("table {name}: the value at {place} {unsound}"),
            Fault::Field(index) => {
                let field = self.recipe.columns.get(index).map_or("?", |column| column.name.as_str());
                format!("table {name}: the value at {place} does not fit the type of column {field}")
            }
        };
        let hint = match self.recipe.values {
            None => "declare another type, or `on_error = \"null-and-count\"`, in the table's [[catalogs.….tables]]",
            Some(_) => "`on_error = \"null-and-count\"` in the table's [[catalogs.….tables]] makes such values NULL",
        };
        Error::new(ErrorCode::DataCorrupt, message).with_hint(hint)
    }
}
