//! Which nodes are in the cluster, as this coordinator sees it: the last list that membership gave, and for each executor
//! whether tasks may be sent to it.
//!
//! Ballista asks for heart beats; what it gets is made from this list (D3: a live lease is the only sign of life).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ballista_core::serde::protobuf::{ExecutorHeartbeat, ExecutorStatus, executor_status};
use parking_lot::RwLock;
use tokio::sync::watch;
use townlake_cluster::{Node, State};

/// Ballista reaps a terminating executor whose stamp is not after now; a draining one must live as long as its lease.
const DRAINING_STAMP_AHEAD: Duration = Duration::from_secs(3600);

/// The member list with what the scheduler knows beside it.
#[derive(Debug)]
pub(super) struct Members {
    executors: RwLock<BTreeMap<String, Member>>,
    coordinators: RwLock<BTreeMap<String, Node>>,
    losses: AtomicU64,
    changed: watch::Sender<u64>,
}

/// One executor.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Its record.
    pub node: Node,
    /// Ballista knows it: tasks may run there and results may be read from there.
    pub registered: bool,
    /// It said goodbye: its record may still be listed for a moment and must not bring it back.
    pub stopped: bool,
}

impl Member {
    fn takes_tasks(&self) -> bool {
        self.registered && !self.stopped && self.node.state() == State::Active
    }
}

impl Members {
    pub(super) fn new() -> Self {
        Self {
            executors: RwLock::default(),
            coordinators: RwLock::default(),
            losses: AtomicU64::new(0),
            changed: watch::Sender::new(0),
        }
    }

    /// Takes a record that is new or has changed; true when the executor was not listed before.
    pub(super) fn put(&self, node: Node) -> bool {
        let mut executors = self.executors.write();
        let is_new = match executors.get_mut(&node.incarnation) {
            Some(member) => {
                member.node = node;
                false
            }
            None => {
                let member = Member { node: node.clone(), registered: false, stopped: false };
                executors.insert(node.incarnation, member);
                true
            }
        };
        drop(executors);
        self.touch();
        is_new
    }

    /// Forgets an executor whose lease is gone; false when it was not listed.
    pub(super) fn forget(&self, incarnation: &str) -> bool {
        let known = self.executors.write().remove(incarnation).is_some_and(|member| {
            if member.registered {
                self.losses.fetch_add(1, Ordering::SeqCst);
            }
            true
        });
        self.touch();
        known
    }

    /// Ballista has taken the executor in, or thrown it out; false when it is not listed.
    pub(super) fn set_registered(&self, incarnation: &str, registered: bool) -> bool {
        let known = self.executors.write().get_mut(incarnation).is_some_and(|member| {
            if member.registered && !registered {
                self.losses.fetch_add(1, Ordering::SeqCst);
            }
            member.registered = registered;
            true
        });
        self.touch();
        known
    }

    /// The executor said that it stops.
    pub(super) fn set_stopped(&self, incarnation: &str) {
        if let Some(member) = self.executors.write().get_mut(incarnation) {
            member.stopped = true;
        }
        self.touch();
    }

    pub(super) fn get(&self, incarnation: &str) -> Option<Member> {
        self.executors.read().get(incarnation).cloned()
    }

    /// The incarnations that are listed.
    pub(super) fn incarnations(&self) -> Vec<String> {
        self.executors.read().keys().cloned().collect()
    }

    /// The executors that Ballista knows, also those that drain.
    pub(super) fn registered(&self) -> Vec<Node> {
        self.executors.read().values().filter(|m| m.registered).map(|m| m.node.clone()).collect()
    }

    /// The address of an executor whose results can be read now.
    pub(super) fn address(&self, incarnation: &str) -> Option<String> {
        self.executors.read().get(incarnation).filter(|m| m.registered).map(|m| m.node.address.clone())
    }

    /// How many executors take tasks now.
    pub(super) fn ready(&self) -> usize {
        self.executors.read().values().filter(|m| m.takes_tasks()).count()
    }

    /// Tasks that can run at the same time on the executors that take tasks.
    pub(super) fn slots(&self) -> usize {
        self.executors.read().values().filter(|m| m.takes_tasks()).map(|m| m.node.slots as usize).sum()
    }

    /// How many registered executors were lost since the start: a caller that compares two values knows whether one was
    /// lost in between.
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::SeqCst)
    }

    /// Waits until an executor takes tasks; false when none does within `limit`.
    pub(super) async fn wait_ready(&self, limit: Duration) -> bool {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while self.ready() == 0 {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(limit, wait).await;
        self.ready() > 0
    }

    /// Replaces the list of coordinators.
    pub(super) fn put_coordinator(&self, node: Node) {
        self.coordinators.write().insert(node.incarnation.clone(), node);
    }

    pub(super) fn retain_coordinators(&self, keep: impl Fn(&str) -> bool) {
        self.coordinators.write().retain(|incarnation, _| keep(incarnation));
    }

    /// Every node, coordinators first.
    pub(super) fn nodes(&self) -> Vec<Node> {
        let mut nodes: Vec<_> = self.coordinators.read().values().cloned().collect();
        nodes.extend(self.executors.read().values().map(|member| member.node.clone()));
        nodes
    }

    /// One heart beat for each registered executor, stamped now.
    pub(super) fn heartbeats(&self) -> HashMap<String, ExecutorHeartbeat> {
        let executors = self.executors.read();
        executors.iter().filter_map(|(id, member)| Some((id.clone(), heartbeat(member)?))).collect()
    }

    /// The heart beat of one executor; `None` means dead: Ballista then drops its statuses.
    pub(super) fn heartbeat(&self, incarnation: &str) -> Option<ExecutorHeartbeat> {
        heartbeat(self.executors.read().get(incarnation)?)
    }

    fn touch(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

fn heartbeat(member: &Member) -> Option<ExecutorHeartbeat> {
    if !member.registered {
        return None;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (status, stamp) = if member.takes_tasks() {
        (executor_status::Status::Active(String::new()), now)
    } else {
        (executor_status::Status::Terminating(String::new()), now + DRAINING_STAMP_AHEAD)
    };
    Some(ExecutorHeartbeat {
        executor_id: member.node.incarnation.clone(),
        timestamp: stamp.as_secs(),
        status: Some(ExecutorStatus { status: Some(status) }),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use townlake_cluster::Role;

    use super::*;

    fn node(incarnation: &str, state: State) -> Node {
        Node {
            incarnation: incarnation.to_string(),
            role: Role::Executor as i32,
            state: state as i32,
            address: "127.0.0.1:1".to_string(),
            slots: 2,
            ..Default::default()
        }
    }

    #[test]
    fn only_registered_active_executors_take_tasks() {
        let members = Members::new();
        assert!(members.put(node("a", State::Active)));
        assert_eq!((members.ready(), members.slots()), (0, 0));
        members.set_registered("a", true);
        assert_eq!((members.ready(), members.slots()), (1, 2));
        members.put(node("a", State::Draining));
        assert_eq!(members.ready(), 0);
        let beat = members.heartbeat("a").unwrap();
        assert!(matches!(beat.status.unwrap().status, Some(executor_status::Status::Terminating(_))));
        assert!(members.address("a").is_some(), "a draining executor still serves its results");
    }

    #[test]
    fn a_loss_is_counted_once() {
        let members = Members::new();
        members.put(node("a", State::Active));
        members.set_registered("a", true);
        members.set_registered("a", false);
        members.forget("a");
        assert_eq!(members.losses(), 1);
        assert!(members.heartbeat("a").is_none());
        assert!(!members.forget("a"));
    }

    #[tokio::test]
    async fn waiting_ends_when_an_executor_comes() {
        let members = Arc::new(Members::new());
        assert!(!members.wait_ready(Duration::from_millis(10)).await);
        let waiting = tokio::spawn({
            let members = Arc::clone(&members);
            async move { members.wait_ready(Duration::from_secs(20)).await }
        });
        members.put(node("a", State::Active));
        members.set_registered("a", true);
        assert!(waiting.await.unwrap());
    }
}
