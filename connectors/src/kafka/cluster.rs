//! The brokers of one cluster: connections within a budget, who leads which partition, where logs begin and end.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use townlake_common::config::{KafkaCatalog, KafkaIsolation};
use townlake_common::{Error, ErrorCode, QueryId, Result};

use super::error::Server;
use super::net::{Address, Connection, Settings};
use super::sasl::Login;
use super::tls;
use super::wire::buffer::{Decoded, Reader};
use super::wire::codes::{Code, Kind};
use super::wire::messages::{self as messages, Metadata, Topic, TopicId, Version, Versions};
use crate::bounded::{Bound, Bounded};
use crate::breaker::Breaker;
use crate::places::Place;
use crate::share::{Budget, Share};

/// A connection that nobody used for so long is closed.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// For so long it is believed who leads a partition.
const LAYOUT_TIME: Duration = Duration::from_secs(10);
/// A look-up waits so long for its place in the budget.
const PLANNING_WAIT: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(150);
/// A topic that a broker does not know may be too new for it: for so long we ask again.
pub(crate) const NEWS_TIME: Duration = Duration::from_secs(3);

/// One configured cluster.
pub(crate) struct Cluster {
    settings: Arc<Settings>,
    bootstrap: Vec<Address>,
    /// Whether only what transactions committed is read.
    pub committed: bool,
    bound: Bound,
    idle: Mutex<Vec<(Instant, Connection)>>,
    layouts: Mutex<HashMap<String, (Instant, Arc<Layout>)>>,
    breaker: Breaker,
}

/// A topic, its partitions and who leads them.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub id: Option<TopicId>,
    /// Whether it is Kafka's own.
    pub is_internal: bool,
    /// Address of the leader by partition; `None` where there is none just now.
    pub leaders: BTreeMap<i32, Option<Address>>,
}

impl Cluster {
    /// The cluster of a catalog. Nothing is connected yet.
    ///
    /// Errors: `CONFIG_INVALID`.
    pub fn new(catalog: &str, config: &KafkaCatalog) -> Result<Arc<Self>> {
        let settings = Settings {
            server: Server { catalog: catalog.to_string() },
            tls: tls::connector(catalog, config)?,
            login: Login::new(config),
            connect_timeout: config.connect_timeout,
            request_timeout: config.request_timeout,
        };
        let reaches = format!("Kafka at {}", config.brokers.join(","));
        Ok(Arc::new(Self {
            breaker: Breaker::new(catalog, reaches, config.breaker_failures, config.breaker_pause),
            settings: Arc::new(settings),
            bootstrap: config.addresses(),
            committed: config.isolation == KafkaIsolation::ReadCommitted,
            bound: Bound::new(config.connections),
            idle: Mutex::default(),
            layouts: Mutex::default(),
        }))
    }

    /// Which cluster this is, for errors.
    pub fn server(&self) -> &Server {
        &self.settings.server
    }

    /// How long a partition may be without a leader, or without an answer.
    pub fn patience(&self) -> Duration {
        self.settings.request_timeout
    }

    /// What stands before its look-ups.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Closes the idle connections, and forgets who leads which partition and that the brokers could not be reached.
    pub fn refresh(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
        self.layouts.lock().clear();
        self.breaker.reset();
    }

    /// A place in the budget for a look-up of `query`.
    ///
    /// Errors: `RESOURCE_EXHAUSTED` when there is none for a while; `SOURCE_UNAVAILABLE` at once where the breaker says so.
    pub async fn look_up(self: &Arc<Self>, query: &QueryId) -> Result<Session> {
        self.breaker.check()?;
        match tokio::time::timeout(PLANNING_WAIT, self.read(query)).await {
            Ok(session) => session.map(|session| Session { is_planning: true, ..session }),
            Err(_) => {
                let catalog = &self.server().catalog;
                let message = format!("catalog {catalog}: all connections to Kafka are in use");
                let hint = format!("run fewer queries at a time or raise `connections` in [catalogs.{catalog}]");
                Err(Error::new(ErrorCode::ResourceExhausted, message).with_hint(hint).retryable())
            }
        }
    }

    /// A place in the budget, however long that takes.
    pub async fn read(self: &Arc<Self>, query: &QueryId) -> Result<Session> {
        let _place = self.bound.places().take().await?;
        Ok(Session { cluster: Arc::clone(self), client: format!("townlake {query}"), is_planning: false, _place })
    }

    fn take_idle(&self, address: Option<&Address>) -> Option<Connection> {
        let mut idle = self.idle.lock();
        idle.retain(|(since, _)| since.elapsed() < IDLE_TIME);
        let fits = |connection: &Connection| address.is_none_or(|address| connection.address() == address);
        let index = idle.iter().rposition(|(_, connection)| fits(connection))?;
        Some(idle.swap_remove(index).1)
    }

    /// Closes the oldest idle connections, so that they and those in use are within the budget.
    fn trim_idle(&self) {
        let mut idle = self.idle.lock();
        let surplus = idle.len().saturating_sub(self.bound.places().free());
        let closed: Vec<_> = idle.drain(..surplus).collect();
        drop(idle);
        drop(closed);
    }

    fn forget(&self, topic: &str) {
        self.layouts.lock().remove(topic);
    }
}

impl Bounded for Cluster {
    fn budget(&self) -> Budget {
        self.bound.budget()
    }

    fn share(&self) -> usize {
        self.bound.share()
    }

    fn used(&self) -> usize {
        self.bound.used()
    }

    fn set_share(&self, share: Share) {
        self.bound.set_share(share);
        self.trim_idle();
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("server", self.server()).finish_non_exhaustive()
    }
}

/// A place in the budget: whoever has it uses one connection at a time.
pub(crate) struct Session {
    cluster: Arc<Cluster>,
    /// The name under which brokers see us: it has the query's id.
    client: String,
    /// Whether its query begins with it: the breaker stands before it.
    is_planning: bool,
    _place: Place,
}

/// An answer, and in which version.
type Answered = (Bytes, Version);

impl Session {
    /// The cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The name under which brokers see us.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// A connection to this broker, used before or new.
    pub async fn connect(&self, address: &Address) -> Result<Connection> {
        match self.cluster.take_idle(Some(address)) {
            Some(connection) => Ok(connection),
            None => self.open(address).await,
        }
    }

    async fn open(&self, address: &Address) -> Result<Connection> {
        self.cluster.trim_idle();
        Connection::open(&self.cluster.settings, address, &self.client).await
    }

    /// Keeps a connection for the next user, unless an answer is still to come on it or there are idle ones enough.
    pub fn give_back(&self, connection: Connection) {
        let mut idle = self.cluster.idle.lock();
        if connection.is_free() && idle.len() < self.cluster.bound.places().free_without_one() {
            idle.push((Instant::now(), connection));
        }
    }

    /// One request to one broker. A connection that was idle may have died unnoticed: then a new one is tried.
    async fn ask(
        &self,
        address: &Address,
        version: impl Fn(&Versions) -> Option<Version>,
        body: impl Fn(Version) -> Vec<u8>,
        doing: &str,
    ) -> Result<Answered> {
        if let Some(connection) = self.cluster.take_idle(Some(address)) {
            match self.ask_on(connection, &version, &body, doing).await {
                Err(error) if error.code() == ErrorCode::SourceUnavailable => {}
                done => return done,
            }
        }
        let connection = self.open(address).await?;
        self.ask_on(connection, &version, &body, doing).await
    }

    async fn ask_on(
        &self,
        mut connection: Connection,
        version: &impl Fn(&Versions) -> Option<Version>,
        body: &impl Fn(Version) -> Vec<u8>,
        doing: &str,
    ) -> Result<Answered> {
        let chosen = version(connection.versions());
        let chosen = chosen.ok_or_else(|| self.cluster.server().too_old(connection.broker()))?;
        let answer = connection.call(chosen, &self.client, &body(chosen), doing, Duration::ZERO).await?;
        self.give_back(connection);
        Ok((answer, chosen))
    }

    /// The same to whichever of the configured brokers answers first.
    async fn ask_any(
        &self,
        version: impl Fn(&Versions) -> Option<Version>,
        body: impl Fn(Version) -> Vec<u8>,
        doing: &str,
    ) -> Result<Answered> {
        if !self.is_planning {
            return self.ask_each(version, body, doing).await;
        }
        let attempt = self.cluster.breaker.enter()?;
        let answered = self.ask_each(version, body, doing).await;
        attempt.ended(&answered);
        answered
    }

    async fn ask_each(
        &self,
        version: impl Fn(&Versions) -> Option<Version>,
        body: impl Fn(Version) -> Vec<u8>,
        doing: &str,
    ) -> Result<Answered> {
        if let Some(connection) = self.cluster.take_idle(None) {
            match self.ask_on(connection, &version, &body, doing).await {
                Err(error) if error.code() == ErrorCode::SourceUnavailable => {}
                done => return done,
            }
        }
        let mut failed = None;
        for address in &self.cluster.bootstrap {
            match self.ask(address, &version, &body, doing).await {
                Err(error) if error.code() == ErrorCode::SourceUnavailable => failed = Some(error),
                done => return done,
            }
        }
        Err(failed.unwrap_or_else(|| Error::internal("a Kafka catalog without brokers")))
    }

    fn decode<T>(
        &self,
        (answer, version): &Answered,
        doing: &str,
        decode: impl FnOnce(&mut Reader<'_>) -> Decoded<T>,
    ) -> Result<T> {
        decode(&mut Reader::new(answer, version.flexible))
            .map_err(|fault| self.cluster.server().corrupt(doing, fault.0))
    }

    async fn metadata(&self, topics: Option<&[&str]>, doing: &str) -> Result<Metadata> {
        let body = |version| messages::metadata_request(version, topics);
        let answered = self.ask_any(Versions::metadata, body, doing).await?;
        let version = answered.1;
        self.decode(&answered, doing, |reader| Metadata::decode(reader, version))
    }

    /// The names of all topics that are not Kafka's own, sorted.
    pub async fn topics(&self) -> Result<Vec<String>> {
        let metadata = self.metadata(None, "list topics").await?;
        let shown = |topic: &Topic| !topic.code.is_error() && !topic.is_internal;
        let mut names: Vec<_> = metadata.topics.into_iter().filter(shown).map(|topic| topic.name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// A topic as it is now; `None` when there is none of this name.
    pub async fn layout(&self, topic: &str) -> Result<Option<Arc<Layout>>> {
        let doing = format!("look up topic {topic}");
        let start = Instant::now();
        loop {
            let Metadata { brokers, topics } = self.metadata(Some(&[topic]), &doing).await?;
            let found = topics.into_iter().find(|found| found.name == topic);
            let code = found.as_ref().map_or(Code(3), |found| found.code);
            match (found, code.kind()) {
                (Some(found), _) if !code.is_error() => {
                    let address = |leader: i32| {
                        let broker = brokers.iter().find(|broker| broker.id == leader)?;
                        Some((broker.host.clone(), u16::try_from(broker.port).ok()?))
                    };
                    let leaders = found.partitions.iter().map(|p| (p.index, address(p.leader))).collect();
                    let layout = Arc::new(Layout { id: found.id, is_internal: found.is_internal, leaders });
                    let entry = (Instant::now(), Arc::clone(&layout));
                    let mut layouts = self.cluster.layouts.lock();
                    layouts.retain(|_, (since, _)| since.elapsed() < LAYOUT_TIME);
                    layouts.insert(topic.to_string(), entry);
                    return Ok(Some(layout));
                }
                (_, Kind::Gone) => return Ok(None),
                // A name that Kafka would never give a topic.
                _ if code == Code(17) => return Ok(None),
                (_, Kind::Transient) if start.elapsed() < self.cluster.patience() => tokio::time::sleep(PAUSE).await,
                _ => return Err(self.cluster.server().answered(&doing, code)),
            }
        }
    }

    /// Who leads a partition, as we heard it not long ago; anew when `anew`.
    pub async fn leader(&self, topic: &str, partition: i32, anew: bool) -> Result<Option<Address>> {
        if anew {
            self.cluster.forget(topic);
        }
        let known = self.cluster.layouts.lock().get(topic).cloned();
        let layout = match known.filter(|(since, _)| since.elapsed() < LAYOUT_TIME) {
            Some((_, layout)) => Some(layout),
            None => self.layout(topic).await?,
        };
        let layout = layout.ok_or_else(|| self.cluster.server().answered(&format!("read topic {topic}"), Code(3)))?;
        Ok(layout.leaders.get(&partition).cloned().flatten())
    }

    /// Per partition and timestamp (or [`messages::LATEST`] and the like) an offset, in the order of the question; −1 where
    /// there is none. What has no leader just now is asked again, for as long as an answer may take.
    pub async fn offsets(&self, topic: &str, asked: &[(i32, i64)]) -> Result<Vec<i64>> {
        let doing = format!("find offsets of topic {topic}");
        let start = Instant::now();
        let mut found: Vec<Option<i64>> = vec![None; asked.len()];
        let mut anew = false;
        loop {
            let mut failed = None;
            let mut by_leader: BTreeMap<Address, Vec<usize>> = BTreeMap::new();
            for (index, (partition, _)) in asked.iter().enumerate() {
                if found.get(index).is_some_and(Option::is_some) {
                    continue;
                }
                match self.leader(topic, *partition, std::mem::take(&mut anew)).await? {
                    Some(leader) => by_leader.entry(leader).or_default().push(index),
                    None => failed = Some(self.cluster.server().answered(&doing, Code(5))),
                }
            }
            for (leader, indexes) in by_leader {
                match self.offsets_of(topic, &leader, asked, &indexes, &mut found, &doing).await {
                    Ok(None) => {}
                    Ok(Some(error)) => failed = Some(error),
                    Err(error) if error.code() == ErrorCode::SourceUnavailable => failed = Some(error),
                    Err(error) => return Err(error),
                }
            }
            let Some(failed) = failed else {
                return Ok(found.into_iter().map(|offset| offset.unwrap_or(-1)).collect());
            };
            let limit = if failed.is_retryable() { self.cluster.patience() } else { NEWS_TIME };
            if start.elapsed() > limit {
                return Err(failed);
            }
            tokio::time::sleep(PAUSE).await;
            anew = true;
        }
    }

    /// Asks one leader. What it does not lead any more comes back as an error, to be asked again.
    async fn offsets_of(
        &self,
        topic: &str,
        leader: &Address,
        asked: &[(i32, i64)],
        indexes: &[usize],
        found: &mut [Option<i64>],
        doing: &str,
    ) -> Result<Option<Error>> {
        // A partition comes once in a request: earliest and latest are two questions.
        let mut rounds: Vec<Vec<usize>> = Vec::new();
        for index in indexes {
            let partition = asked.get(*index).map(|(partition, _)| *partition);
            let is_new = |round: &&mut Vec<usize>| {
                round.iter().all(|other| asked.get(*other).map(|(partition, _)| *partition) != partition)
            };
            match rounds.iter_mut().find(is_new) {
                Some(round) => round.push(*index),
                None => rounds.push(vec![*index]),
            }
        }
        let mut failed = None;
        for round in rounds {
            let questions: Vec<_> = round.iter().filter_map(|index| asked.get(*index).copied()).collect();
            let committed = self.cluster.committed;
            let body = |version| messages::list_offsets_request(version, committed, topic, &questions);
            let answered = self.ask(leader, Versions::list_offsets, body, doing).await?;
            for listed in self.decode(&answered, doing, messages::list_offsets_response)? {
                let place = round.iter().find(|index| asked.get(**index).is_some_and(|(p, _)| *p == listed.partition));
                let Some(place) = place.and_then(|index| found.get_mut(*index)) else { continue };
                match listed.code.kind() {
                    _ if !listed.code.is_error() => *place = Some(listed.offset),
                    Kind::Transient | Kind::Gone => {
                        failed = Some(self.cluster.server().answered(doing, listed.code));
                    }
                    _ => return Err(self.cluster.server().answered(doing, listed.code)),
                }
            }
            let missing = round.iter().any(|index| found.get(*index).is_some_and(Option::is_none));
            if missing && failed.is_none() {
                return Err(self.cluster.server().corrupt(doing, "an answer without some partitions"));
            }
        }
        Ok(failed)
    }

    /// Whether the brokers themselves set the time of the topic's records; `false` where we may not ask.
    pub async fn has_log_append_time(&self, topic: &str) -> Result<bool> {
        let doing = format!("look up the configuration of topic {topic}");
        let body = |_| messages::describe_topic_request(topic, "message.timestamp.type");
        let version = |versions: &Versions| versions.of(messages::DESCRIBE_CONFIGS);
        let answered = self.ask_any(version, body, &doing).await?;
        let (code, value) = self.decode(&answered, &doing, messages::describe_topic_response)?;
        Ok(!code.is_error() && value.as_deref() == Some("LogAppendTime"))
    }

    /// Whether the broker itself has the partition from this offset on, so that nothing of it lies in tiered storage.
    /// `None` where it cannot tell: it is older than tiered storage.
    pub async fn is_local(&self, topic: &str, partition: i32, leader: &Address, offset: i64) -> Result<Option<bool>> {
        let doing = format!("find offsets of topic {topic}");
        let asked = [(partition, messages::EARLIEST_LOCAL)];
        let newest = |versions: &Versions| versions.list_offsets().filter(|version| version.number >= 8);
        let body = |version| messages::list_offsets_request(version, self.cluster.committed, topic, &asked);
        let answered = match self.ask(leader, newest, body, &doing).await {
            Err(error) if error.code() == ErrorCode::NotSupported => return Ok(None),
            answered => answered?,
        };
        let listed = self.decode(&answered, &doing, messages::list_offsets_response)?;
        let listed = listed.first().filter(|listed| !listed.code.is_error());
        Ok(Some(listed.is_some_and(|listed| (0..=offset).contains(&listed.offset))))
    }
}
