//! What a watcher knows, and its patience after an interruption.
//!
//! While etcd is away no lease can be renewed. When it comes back it may find leases run out whose owners are well, and take
//! their records away before those owners renew. So for one lease time after an interruption an absence is only noted; it
//! becomes [`NodeEvent::Gone`] when that time passes without the member coming back.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::{Node, NodeEvent};

/// The members as told to the reader of one watch.
pub(super) struct Roster {
    patience: Duration,
    patient_until: Option<Instant>,
    known: BTreeMap<String, Node>,
    missing: HashMap<String, Instant>,
}

impl Roster {
    /// An empty list, which waits for `patience` after an interruption before it believes an absence.
    pub fn new(patience: Duration) -> Self {
        Self { patience, patient_until: None, known: BTreeMap::new(), missing: HashMap::new() }
    }

    /// The connection to etcd was interrupted, up to `now`.
    pub fn interrupted(&mut self, now: Instant) {
        self.patient_until = Some(now + self.patience);
    }

    /// etcd's whole list.
    pub fn listed(&mut self, nodes: Vec<Node>, now: Instant) -> NodeEvent {
        let listed: BTreeMap<_, _> = nodes.into_iter().map(|node| (node.incarnation.clone(), node)).collect();
        let absent: Vec<_> =
            self.known.keys().filter(|incarnation| !listed.contains_key(*incarnation)).cloned().collect();
        for incarnation in absent {
            self.absent(&incarnation, now);
        }
        for (incarnation, node) in listed {
            self.present(incarnation, node);
        }
        NodeEvent::Listed(self.known.values().cloned().collect())
    }

    /// A record was written.
    pub fn changed(&mut self, node: Node) -> NodeEvent {
        self.present(node.incarnation.clone(), node.clone());
        NodeEvent::Changed(node)
    }

    /// A record was taken away. Nothing is told of a member that was not known, or whose absence is not believed yet.
    pub fn gone(&mut self, incarnation: &str, now: Instant) -> Option<NodeEvent> {
        let told = self.known.contains_key(incarnation) && self.absent(incarnation, now);
        told.then(|| NodeEvent::Gone(incarnation.to_string()))
    }

    /// When the next absence is to be believed.
    pub fn next_due(&self) -> Option<Instant> {
        self.missing.values().min().copied()
    }

    /// The members whose absence is believed by `now`.
    pub fn due(&mut self, now: Instant) -> Vec<NodeEvent> {
        let due: Vec<_> = self.missing.iter().filter(|(_, at)| **at <= now).map(|(who, _)| who.clone()).collect();
        for incarnation in &due {
            self.missing.remove(incarnation);
            self.known.remove(incarnation);
        }
        due.into_iter().map(NodeEvent::Gone).collect()
    }

    fn present(&mut self, incarnation: String, node: Node) {
        self.missing.remove(&incarnation);
        self.known.insert(incarnation, node);
    }

    /// Notes the absence of a known member; whether it is believed at once.
    fn absent(&mut self, incarnation: &str, now: Instant) -> bool {
        match self.patient_until.filter(|until| now < *until) {
            Some(until) => {
                self.missing.entry(incarnation.to_string()).or_insert(until);
                false
            }
            None => {
                self.missing.remove(incarnation);
                self.known.remove(incarnation);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Role, State};

    const PATIENCE: Duration = Duration::from_secs(5);

    fn node(incarnation: &str) -> Node {
        let (role, state) = (Role::Executor.into(), State::Active.into());
        Node { incarnation: incarnation.into(), role, state, address: "127.0.0.1:1".into(), ..Node::default() }
    }

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn believes_etcd_in_quiet_times() {
        let start = Instant::now();
        let mut roster = Roster::new(PATIENCE);
        assert_eq!(roster.listed(vec![node("a"), node("b")], start), NodeEvent::Listed(vec![node("a"), node("b")]));
        assert_eq!(roster.gone("a", start), Some(NodeEvent::Gone("a".into())));
        assert_eq!(roster.gone("a", start), None);
        assert_eq!(roster.listed(vec![], start), NodeEvent::Listed(vec![]));
    }

    #[test]
    fn an_absence_after_an_interruption_is_believed_late() {
        let start = Instant::now();
        let mut roster = Roster::new(PATIENCE);
        roster.listed(vec![node("a"), node("b"), node("c")], start);
        roster.interrupted(start + second(10));
        let listed = roster.listed(vec![node("b"), node("c")], start + second(10));
        assert_eq!(listed, NodeEvent::Listed(vec![node("a"), node("b"), node("c")]), "a may still come back");
        assert_eq!(roster.gone("b", start + second(11)), None);
        assert_eq!(roster.changed(node("b")), NodeEvent::Changed(node("b")));
        assert_eq!(roster.due(start + second(14)), vec![]);
        assert_eq!(roster.next_due(), Some(start + second(15)));
        assert_eq!(roster.due(start + second(15)), vec![NodeEvent::Gone("a".into())], "only a never came back");
        assert_eq!(roster.next_due(), None);
        assert_eq!(roster.gone("c", start + second(16)), Some(NodeEvent::Gone("c".into())), "patience is over");
    }
}
