//! From the member list to the shares that a process has of its sources' connections ([`townlake_connectors::share`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use townlake_cluster::{Membership, NodeEvent, NodeWatch, Role};
use townlake_common::Result;
use townlake_connectors::SourceConnections;
use townlake_connectors::share::{ProcessRole, Standing};

/// The pause before a watch that ended is taken up again.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows the member list for the sources of one process. While the list cannot be read the last one holds.
pub struct Follower {
    sources: Arc<SourceConnections>,
    me: String,
    role: ProcessRole,
}

impl Follower {
    /// For the process that is on the list as `me`. Until it knows the others its sources open no connection.
    pub fn new(sources: Arc<SourceConnections>, me: &str, role: ProcessRole) -> Self {
        sources.stand(Standing::Unknown, true);
        Self { sources, me: me.to_string(), role }
    }

    /// Follows until `shutdown`. To be called when the process is on the list: from then on the others shrink.
    pub async fn follow(self, membership: Arc<dyn Membership>, shutdown: CancellationToken) {
        let follow = async {
            let (mut list, mut seen) = (List::default(), None);
            loop {
                if let Err(error) = self.watch(membership.as_ref(), &mut list, &mut seen).await {
                    tracing::warn!(code = %error.code(), "the members cannot be followed: the shares of connections stay");
                }
                sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = follow => {}
        }
    }

    async fn watch(&self, membership: &dyn Membership, list: &mut List, seen: &mut Option<Standing>) -> Result<()> {
        let mut coordinators = membership.watch(Role::Coordinator).await?;
        let mut executors = membership.watch(Role::Executor).await?;
        let mut settles: Option<Instant> = None;
        loop {
            let settled = async {
                match settles {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = coordinators.recv() => match event {
                    Some(event) => tell(&mut list.coordinators, event),
                    None => return Ok(()),
                },
                event = executors.recv() => match event {
                    Some(event) => tell(&mut list.executors, event),
                    None => return Ok(()),
                },
                () = settled => {
                    settles = None;
                    seen.iter().for_each(|standing| self.sources.stand(*standing, true));
                    continue;
                }
            }
            take_all(&mut coordinators, &mut list.coordinators);
            take_all(&mut executors, &mut list.executors);
            let (Some(coordinators), Some(executors)) = (&list.coordinators, &list.executors) else { continue };
            let standing = Standing::of(&self.me, self.role, coordinators, executors);
            if *seen == Some(standing) && settles.is_none() {
                continue;
            }
            // The first of all waits for nobody. Who is left alone later does: the others may still be closing theirs.
            let is_first = seen.is_none()
                && matches!(standing, Standing::Member { coordinators, executors, .. } if coordinators + executors == 1);
            *seen = Some(standing);
            let delay = if is_first { Duration::ZERO } else { membership.delay() };
            self.sources.stand(standing, delay.is_zero());
            settles = (!delay.is_zero()).then(|| Instant::now() + delay);
        }
    }
}

/// The incarnations of each role, as far as they were told.
#[derive(Default)]
struct List {
    coordinators: Option<BTreeSet<String>>,
    executors: Option<BTreeSet<String>>,
}

fn tell(members: &mut Option<BTreeSet<String>>, event: NodeEvent) {
    match event {
        NodeEvent::Listed(nodes) => *members = Some(nodes.into_iter().map(|node| node.incarnation).collect()),
        NodeEvent::Changed(node) => drop(members.get_or_insert_default().insert(node.incarnation)),
        NodeEvent::Gone(incarnation) => drop(members.get_or_insert_default().remove(&incarnation)),
    }
}

/// What is there already: a list that changes at several places is looked at once.
fn take_all(events: &mut NodeWatch, members: &mut Option<BTreeSet<String>>) {
    while let Ok(event) = events.try_recv() {
        tell(members, event);
    }
}

#[cfg(test)]
mod tests {
    use townlake_cluster::{EmbeddedMembership, Node, Seat};
    use townlake_common::config::Config;

    use super::*;

    fn node(incarnation: &str, role: Role) -> Node {
        Node { incarnation: incarnation.into(), role: role.into(), address: "127.0.0.1:1".into(), ..Node::default() }
    }

    fn sources() -> Arc<SourceConnections> {
        let toml = "[catalogs.crm]\ntype = \"postgres\"\nurl = \"postgres://127.0.0.1:1/crm\"\nconnections = 16";
        SourceConnections::from_config(&Config::from_toml(toml).unwrap().catalogs).unwrap()
    }

    async fn becomes(sources: &SourceConnections, share: usize) {
        for _ in 0..400 {
            if sources.budgets()[0].share == share {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("{:?} does not become {share}", sources.budgets());
    }

    /// A list whose changes are taken to be late.
    struct Late(EmbeddedMembership);

    const LATE: Duration = Duration::from_millis(400);

    #[async_trait::async_trait]
    impl Membership for Late {
        async fn join(&self, node: Node) -> Result<Box<dyn Seat>> {
            self.0.join(node).await
        }

        async fn watch(&self, role: Role) -> Result<NodeWatch> {
            self.0.watch(role).await
        }

        fn delay(&self) -> Duration {
            LATE
        }
    }

    #[tokio::test]
    async fn a_newcomer_waits_until_the_others_have_shrunk() {
        let membership = Arc::new(Late(EmbeddedMembership::new()));
        let shutdown = CancellationToken::new();
        let start = async |me: &'static str, role: Role, as_role: ProcessRole| {
            let sources = sources();
            let follower = Follower::new(Arc::clone(&sources), me, as_role);
            let seat = membership.join(node(me, role)).await.unwrap();
            let membership: Arc<dyn Membership> = Arc::clone(&membership) as _;
            tokio::spawn(follower.follow(membership, shutdown.clone()));
            (sources, seat)
        };
        let (first, _seat) = start("a", Role::Coordinator, ProcessRole::Coordinator).await;
        becomes(&first, 16).await;
        let since = Instant::now();
        let (second, seat) = start("b", Role::Executor, ProcessRole::Executor).await;
        becomes(&first, 8).await;
        assert!(since.elapsed() < LATE, "who shrinks does so at once");
        assert_eq!(second.budgets()[0].share, 0);
        becomes(&second, 8).await;
        assert!(since.elapsed() >= LATE);
        drop(seat);
        tokio::time::sleep(LATE / 4).await;
        assert_eq!(first.budgets()[0].share, 8, "and who grows waits as well");
        becomes(&first, 16).await;
        shutdown.cancel();
    }

    #[tokio::test]
    async fn who_comes_and_goes_changes_the_shares() {
        let membership = EmbeddedMembership::new();
        let ours = sources();
        let follower = Follower::new(Arc::clone(&ours), "a", ProcessRole::Coordinator);
        assert_eq!(ours.budgets()[0].share, 0);
        let shutdown = CancellationToken::new();
        let seat = membership.join(node("a", Role::Coordinator)).await.unwrap();
        tokio::spawn(follower.follow(Arc::new(membership.clone()), shutdown.clone()));
        becomes(&ours, 16).await;
        let first = membership.join(node("b", Role::Executor)).await.unwrap();
        becomes(&ours, 8).await;
        let second = membership.join(node("c", Role::Coordinator)).await.unwrap();
        becomes(&ours, 5).await;
        assert_eq!(ours.budgets()[0].needed, 5);
        drop((first, second));
        becomes(&ours, 16).await;
        drop(seat);
        shutdown.cancel();
    }
}
