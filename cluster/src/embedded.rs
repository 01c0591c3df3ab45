//! The member list inside one process: `townlake standalone`, the embedded demo, and tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use townlake_common::Result;

use crate::membership::{WATCH_BUFFER, check, check_role, check_update};
use crate::{Membership, Node, NodeEvent, NodeWatch, Role, Seat};

/// Every member by incarnation.
type Members = BTreeMap<String, Arc<Node>>;

/// A member list that lives and dies with the process. Clones share one list.
#[derive(Debug, Clone)]
pub struct EmbeddedMembership {
    members: Arc<watch::Sender<Members>>,
}

impl EmbeddedMembership {
    /// An empty list.
    pub fn new() -> Self {
        Self { members: Arc::new(watch::Sender::new(Members::new())) }
    }
}

impl Default for EmbeddedMembership {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Membership for EmbeddedMembership {
    async fn join(&self, node: Node) -> Result<Box<dyn Seat>> {
        check(&node)?;
        let seat = EmbeddedSeat { first: node.clone(), members: Arc::clone(&self.members) };
        seat.store(node);
        Ok(Box::new(seat))
    }

    async fn watch(&self, role: Role) -> Result<NodeWatch> {
        check_role(role)?;
        let (events, watch) = mpsc::channel(WATCH_BUFFER);
        tokio::spawn(follow(self.members.subscribe(), role, events));
        Ok(watch)
    }

    fn delay(&self) -> Duration {
        Duration::ZERO
    }
}

struct EmbeddedSeat {
    first: Node,
    members: Arc<watch::Sender<Members>>,
}

impl EmbeddedSeat {
    fn store(&self, node: Node) {
        self.members.send_modify(|members| {
            members.insert(node.incarnation.clone(), Arc::new(node));
        });
    }
}

#[async_trait]
impl Seat for EmbeddedSeat {
    async fn update(&self, node: Node) -> Result<()> {
        check_update(&self.first, &node)?;
        self.store(node);
        Ok(())
    }

    async fn leave(self: Box<Self>) -> Result<()> {
        Ok(()) // dropping is leaving: there is no lease that could outlive the process
    }

    fn is_held(&self) -> bool {
        true
    }
}

impl Drop for EmbeddedSeat {
    fn drop(&mut self) {
        self.members.send_modify(|members| {
            members.remove(&self.first.incarnation);
        });
    }
}

/// Turns states of the list into events. A slow reader misses states in between, never the last one.
async fn follow(mut members: watch::Receiver<Members>, role: Role, events: mpsc::Sender<NodeEvent>) {
    let mut known = of_role(&members.borrow_and_update(), role);
    let list = known.values().map(|node| Node::clone(node)).collect();
    if events.send(NodeEvent::Listed(list)).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            () = events.closed() => return,
            changed = members.changed() => if changed.is_err() { return },
        }
        let now = of_role(&members.borrow_and_update(), role);
        for event in differences(&known, &now) {
            if events.send(event).await.is_err() {
                return;
            }
        }
        known = now;
    }
}

fn of_role(members: &Members, role: Role) -> Members {
    let wanted = members.iter().filter(|(_, node)| node.role() == role);
    wanted.map(|(incarnation, node)| (incarnation.clone(), Arc::clone(node))).collect()
}

fn differences(before: &Members, now: &Members) -> Vec<NodeEvent> {
    let gone = before.keys().filter(|incarnation| !now.contains_key(*incarnation));
    let changed = now.iter().filter(|(incarnation, node)| before.get(*incarnation) != Some(*node));
    gone.map(|incarnation| NodeEvent::Gone(incarnation.clone()))
        .chain(changed.map(|(_, node)| NodeEvent::Changed(Node::clone(node))))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn keeps_the_contract() {
        let clusters: Mutex<HashMap<String, EmbeddedMembership>> = Mutex::default();
        crate::contract::run_all(|cluster| {
            let membership = clusters.lock().entry(cluster.to_string()).or_default().clone();
            async move { Ok(Arc::new(membership) as Arc<dyn Membership>) }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_watch_ends_with_its_receiver() {
        let membership = EmbeddedMembership::new();
        let watch = membership.watch(Role::Executor).await.unwrap();
        drop(watch);
        for _ in 0..200 {
            if membership.members.receiver_count() == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("the task of a dropped watch still listens");
    }
}
