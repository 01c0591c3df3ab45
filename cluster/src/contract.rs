//! The suite that every [`Membership`] must pass. Run by the unit tests over both implementations and by the integration
//! tests over a real etcd.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use townlake_common::{Error, ErrorCode, Result};

use crate::{BUILD, Membership, Node, NodeEvent, NodeWatch, Role, State, incarnation};

/// How long a change may take to reach a watcher.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// How long a member that vanished without leaving may stay on the list.
pub const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Runs every case. `make(cluster)` gives one more node's view of the member list of that cluster: the same name, the same
/// list. Each case uses a cluster of its own.
///
/// Errors: the first broken promise, as an internal error that names the case; or what the membership returned.
pub async fn run_all<F, Fut>(make: F) -> Result<()>
where
    F: Fn(&str) -> Fut,
    Fut: Future<Output = Result<Arc<dyn Membership>>>,
{
    a_watch_begins_with_the_list(make("list").await?, make("list").await?).await?;
    join_update_and_leave_are_seen(make("life").await?, make("life").await?).await?;
    a_dropped_seat_is_gone(make("drop").await?, make("drop").await?).await?;
    roles_and_clusters_are_apart(make("roles").await?, make("roles-2").await?).await?;
    a_new_start_is_another_member(make("again").await?, make("again").await?).await?;
    many_members_are_all_listed(make("many").await?, make("many").await?).await?;
    wrong_records_are_refused(make("wrong").await?).await
}

/// A record as an executor would write it.
pub fn executor(address: &str) -> Node {
    Node {
        incarnation: incarnation(),
        role: Role::Executor.into(),
        state: State::Active.into(),
        address: address.to_string(),
        slots: 2,
        memory_bytes: 1 << 30,
        build: BUILD.to_string(),
        started_at_ms: 1,
    }
}

/// A reader of a watch: the list as its events make it.
pub struct Reader {
    watch: NodeWatch,
    /// The members by incarnation.
    pub members: BTreeMap<String, Node>,
    /// How many times the whole list came.
    pub lists: usize,
}

impl Reader {
    /// Watches the executors and reads the first list.
    pub async fn start(membership: &Arc<dyn Membership>, role: Role) -> Result<Self> {
        let mut reader = Self { watch: membership.watch(role).await?, members: BTreeMap::new(), lists: 0 };
        let deadline = Instant::now() + SEEN_WITHIN;
        let first = tokio::time::timeout_at(deadline.into(), reader.watch.recv()).await;
        match first {
            Ok(Some(event @ NodeEvent::Listed(_))) => reader.apply(event),
            other => return Err(Error::internal(format!("a watch must begin with the list, not with {other:?}"))),
        }
        Ok(reader)
    }

    /// Reads events until `wanted` holds; the time that it took. Fails after `limit`.
    pub async fn until(&mut self, what: &str, limit: Duration, wanted: impl Fn(&Self) -> bool) -> Result<Duration> {
        let began = Instant::now();
        while !wanted(self) {
            match tokio::time::timeout_at((began + limit).into(), self.watch.recv()).await {
                Ok(Some(event)) => self.apply(event),
                Ok(None) => return Err(Error::internal(format!("{what}: the watch ended"))),
                Err(_) => {
                    return Err(Error::internal(format!("{what}: not within {limit:?}; members: {:?}", self.members)));
                }
            }
        }
        Ok(began.elapsed())
    }

    /// Reads events for the whole of `time` and fails when `wanted` stops to hold.
    pub async fn all_the_while(&mut self, what: &str, time: Duration, wanted: impl Fn(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            if !wanted(self) {
                return Err(Error::internal(format!("{what}: no longer so; members: {:?}", self.members)));
            }
            match tokio::time::timeout_at(end.into(), self.watch.recv()).await {
                Ok(Some(event)) => self.apply(event),
                Ok(None) => return Err(Error::internal(format!("{what}: the watch ended"))),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Whether this member is on the list.
    pub fn has(&self, node: &Node) -> bool {
        self.members.contains_key(&node.incarnation)
    }

    fn apply(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Listed(nodes) => {
                self.members = nodes.into_iter().map(|node| (node.incarnation.clone(), node)).collect();
                self.lists += 1;
            }
            NodeEvent::Changed(node) => {
                self.members.insert(node.incarnation.clone(), node);
            }
            NodeEvent::Gone(incarnation) => {
                self.members.remove(&incarnation);
            }
        }
    }
}

fn ensure(holds: bool, what: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::internal(format!("membership contract: {what}"))) }
}

type View = Arc<dyn Membership>;

async fn a_watch_begins_with_the_list(one: View, other: View) -> Result<()> {
    let empty = Reader::start(&other, Role::Executor).await?;
    ensure(empty.members.is_empty(), "the list of a new cluster is empty")?;
    let node = executor("127.0.0.1:1001");
    let _seat = one.join(node.clone()).await?;
    let late = Reader::start(&other, Role::Executor).await?;
    ensure(late.members.get(&node.incarnation) == Some(&node), "a record crosses whole, to a late watcher too")
}

async fn join_update_and_leave_are_seen(one: View, other: View) -> Result<()> {
    let mut readers = [Reader::start(&one, Role::Executor).await?, Reader::start(&other, Role::Executor).await?];
    let mut node = executor("127.0.0.1:1002");
    let seat = one.join(node.clone()).await?;
    ensure(seat.is_held(), "a seat is held once join returns")?;
    for reader in &mut readers {
        reader.until("join", SEEN_WITHIN, |r| r.members.get(&node.incarnation) == Some(&node)).await?;
    }
    node.state = State::Draining.into();
    seat.update(node.clone()).await?;
    for reader in &mut readers {
        reader.until("update", SEEN_WITHIN, |r| r.members.get(&node.incarnation) == Some(&node)).await?;
    }
    seat.leave().await?;
    for reader in &mut readers {
        let took = reader.until("leave", SEEN_WITHIN, |r| r.members.is_empty()).await?;
        ensure(took < Duration::from_secs(2), "who leaves is gone at once, not when a lease runs out")?;
    }
    Ok(())
}

async fn a_dropped_seat_is_gone(one: View, other: View) -> Result<()> {
    let mut reader = Reader::start(&other, Role::Executor).await?;
    let (dies, stays) = (executor("127.0.0.1:1003"), executor("127.0.0.1:1004"));
    let dying = one.join(dies.clone()).await?;
    let staying = one.join(stays.clone()).await?;
    reader.until("join", SEEN_WITHIN, |r| r.members.len() == 2).await?;
    drop(dying);
    reader.until("a dead member goes", GONE_WITHIN, |r| !r.has(&dies)).await?;
    ensure(reader.has(&stays) && staying.is_held(), "a neighbour's death takes nobody else")
}

async fn roles_and_clusters_are_apart(one: View, elsewhere: View) -> Result<()> {
    let node = executor("127.0.0.1:1005");
    let coordinator = Node { role: Role::Coordinator.into(), ..executor("127.0.0.1:1006") };
    let _executor = one.join(node.clone()).await?;
    let _coordinator = one.join(coordinator.clone()).await?;
    let executors = Reader::start(&one, Role::Executor).await?;
    let coordinators = Reader::start(&one, Role::Coordinator).await?;
    ensure(executors.members.len() == 1 && executors.has(&node), "a watch shows its role only")?;
    ensure(coordinators.members.len() == 1 && coordinators.has(&coordinator), "coordinators are listed too")?;
    let strangers = Reader::start(&elsewhere, Role::Executor).await?;
    ensure(strangers.members.is_empty(), "another cluster's members are not listed")
}

async fn a_new_start_is_another_member(one: View, other: View) -> Result<()> {
    let mut reader = Reader::start(&other, Role::Executor).await?;
    let (old, new) = (executor("127.0.0.1:1007"), executor("127.0.0.1:1007"));
    ensure(old.incarnation != new.incarnation, "each start has an incarnation of its own")?;
    let old_seat = one.join(old.clone()).await?;
    let _new_seat = one.join(new.clone()).await?;
    reader.until("both starts are listed", SEEN_WITHIN, |r| r.has(&old) && r.has(&new)).await?;
    drop(old_seat);
    reader.until("the old start goes", GONE_WITHIN, |r| !r.has(&old)).await?;
    ensure(reader.has(&new), "the death of an old start leaves the new one alone")
}

async fn many_members_are_all_listed(one: View, other: View) -> Result<()> {
    let mut reader = Reader::start(&other, Role::Executor).await?;
    let joins = (0..40).map(|port| one.join(executor(&format!("127.0.0.1:{}", 2000 + port))));
    let seats = futures::future::try_join_all(joins).await?;
    reader.until("all joined", SEEN_WITHIN, |r| r.members.len() == 40).await?;
    for left in futures::future::join_all(seats.into_iter().map(|seat| seat.leave())).await {
        left?;
    }
    reader.until("all left", SEEN_WITHIN, |r| r.members.is_empty()).await?;
    Ok(())
}

async fn wrong_records_are_refused(one: View) -> Result<()> {
    let good = executor("127.0.0.1:1008");
    let wrong = [
        Node { incarnation: String::new(), ..good.clone() },
        Node { incarnation: "../coordinators/x".to_string(), ..good.clone() },
        Node { role: Role::Unspecified.into(), ..good.clone() },
        Node { address: String::new(), ..good.clone() },
    ];
    for node in wrong {
        let refused = one.join(node).await.err().map(|error| error.code());
        ensure(refused == Some(ErrorCode::InvalidArgument), "a wrong record is refused")?;
    }
    let refused = one.watch(Role::Unspecified).await.err().map(|error| error.code());
    ensure(refused == Some(ErrorCode::InvalidArgument), "a watch needs a role")?;
    let seat = one.join(good).await?;
    let refused = seat.update(executor("127.0.0.1:1009")).await.err().map(|error| error.code());
    ensure(refused == Some(ErrorCode::InvalidArgument), "a seat stays its member's")?;
    seat.leave().await
}
