//! A watch of one folder: list, follow from the list's revision, and list again after every interruption.

use std::time::{Duration, Instant};

use etcd_client::{Client, Event, EventType, GetOptions, KeyValue, ResponseHeader, WatchOptions, WatchResponse};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::client::{Dialer, EtcdResult, Outage, broken, within};
use super::roster::Roster;
use crate::membership::check;
use crate::{Node, NodeEvent};

/// How often the watch asks etcd for a sign of life. etcd's own comes each ten minutes only.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A watch that heard nothing for this long is broken, whatever its connection says.
const SILENCE: Duration = Duration::from_secs(3);

/// Why following came to an end.
#[derive(Debug, PartialEq)]
enum Ended {
    /// The reader went away.
    Closed,
    /// etcd has forgotten the revision: the list has to be read again.
    Compacted,
}

/// The background work of a watch.
pub(super) struct Watcher {
    dialer: Dialer,
    folder: String,
    roster: Roster,
    events: mpsc::Sender<NodeEvent>,
}

impl Watcher {
    /// A watch of the records below `folder`, whose leases live for `ttl`.
    pub fn new(dialer: Dialer, folder: String, ttl: Duration, events: mpsc::Sender<NodeEvent>) -> Self {
        Self { dialer, folder, roster: Roster::new(ttl), events }
    }

    /// Works until the reader goes away.
    pub async fn run(mut self) {
        let mut outage = Outage::new("watch the member list");
        let mut interrupted = false;
        let events = self.events.clone();
        loop {
            let followed = tokio::select! {
                () = events.closed() => return,
                followed = self.follow(interrupted, &mut outage) => followed,
            };
            match followed {
                Ok(Ended::Closed) => return,
                Ok(Ended::Compacted) => interrupted = false,
                Err(error) => {
                    interrupted = true;
                    outage.wait(&error).await;
                }
            }
        }
    }

    /// One connection's worth of watching.
    async fn follow(&mut self, interrupted: bool, outage: &mut Outage) -> EtcdResult<Ended> {
        let mut client = self.dialer.dial().await?;
        let (nodes, revision) = self.list(&mut client).await?;
        outage.over();
        let now = Instant::now();
        if interrupted {
            self.roster.interrupted(now);
        }
        let listed = self.roster.listed(nodes, now);
        if self.events.send(listed).await.is_err() {
            return Ok(Ended::Closed);
        }
        self.watch_from(&mut client, revision + 1).await
    }

    /// The members of the folder, and the revision at which they are that.
    async fn list(&self, client: &mut Client) -> EtcdResult<(Vec<Node>, i64)> {
        let list = within(client.get(self.folder.as_str(), Some(GetOptions::new().with_prefix()))).await?;
        let revision = list.header().map(ResponseHeader::revision).ok_or_else(|| broken("a list without revision"))?;
        Ok((list.kvs().iter().filter_map(|record| self.decode(record)).collect(), revision))
    }

    /// Tells every change from `revision` on.
    async fn watch_from(&mut self, client: &mut Client, revision: i64) -> EtcdResult<Ended> {
        let options = WatchOptions::new().with_prefix().with_progress_notify().with_start_revision(revision);
        let (mut requests, mut responses) = within(client.watch(self.folder.as_str(), Some(options))).await?.split();
        let mut heard = Instant::now();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.roster.next_due();
            let events = tokio::select! {
                biased; // what came in counts before the clock: a pause of ours is no silence of etcd's
                response = responses.message() => {
                    let response = response?.ok_or_else(|| broken("the watch ended"))?;
                    if response.compact_revision() > 0 {
                        tracing::info!(folder = self.folder, "etcd has compacted what was to be watched, listing again");
                        return Ok(Ended::Compacted);
                    }
                    let silence = heard.elapsed();
                    heard = Instant::now();
                    self.read(&response, silence)?
                }
                () = at(due) => self.roster.due(Instant::now()),
                _ = heartbeat.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(broken("the watch went silent"));
                    }
                    requests.request_progress().await?;
                    continue;
                }
            };
            for event in events {
                if self.events.send(event).await.is_err() {
                    return Ok(Ended::Closed);
                }
            }
        }
    }

    /// The events of a response that came after `silence`.
    fn read(&mut self, response: &WatchResponse, silence: Duration) -> EtcdResult<Vec<NodeEvent>> {
        if response.canceled() {
            return Err(broken(response.cancel_reason()));
        }
        let now = Instant::now();
        if silence > SILENCE {
            self.roster.interrupted(now);
        }
        Ok(response.events().iter().filter_map(|event| self.event(event, now)).collect())
    }

    fn event(&mut self, event: &Event, now: Instant) -> Option<NodeEvent> {
        let record = event.kv()?;
        match event.event_type() {
            EventType::Put => self.decode(record).map(|node| self.roster.changed(node)),
            EventType::Delete => self.incarnation(record).and_then(|incarnation| self.roster.gone(&incarnation, now)),
        }
    }

    /// The record, if it is one of ours. Anything else in the folder is left alone and told in the log.
    fn decode(&self, record: &KeyValue) -> Option<Node> {
        let node = Node::decode(record.value()).ok().filter(|node| check(node).is_ok());
        let node = node.filter(|node| self.incarnation(record).as_deref() == Some(node.incarnation.as_str()));
        if node.is_none() {
            let key = String::from_utf8_lossy(record.key());
            tracing::warn!(%key, "a record of the member list cannot be read and is left out");
        }
        node
    }

    fn incarnation(&self, record: &KeyValue) -> Option<String> {
        let key = std::str::from_utf8(record.key()).ok()?;
        key.strip_prefix(&self.folder).map(str::to_string)
    }
}

/// Waits until `due`, for ever when there is none.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd_contract::etcd_for;

    #[tokio::test]
    async fn a_compacted_revision_asks_for_a_new_list() {
        let Some(etcd) = etcd_for("etcd::watcher::a_compacted_revision_asks_for_a_new_list").await else { return };
        let mut dialer = Dialer::new(&[etcd.url()]).unwrap();
        let mut client = dialer.dial().await.unwrap();
        for value in 0..3 {
            client.put("compacted/v1/executors/x", value.to_string(), None).await.unwrap();
        }
        etcd.compact().await;
        let (events, _watch) = mpsc::channel(1);
        let mut watcher = Watcher::new(dialer, "compacted/v1/executors/".into(), Duration::from_secs(5), events);
        assert_eq!(watcher.watch_from(&mut client, 1).await.unwrap(), Ended::Compacted);
    }
}
