//! The member list in etcd.
//!
//! A record lies at `<cluster.name>/v1/<executors|coordinators>/<incarnation>` on a lease of its own. Each seat and each
//! watch has a connection of its own and makes a fresh one, to the next endpoint, when the old one fails: nothing then waits
//! behind a connection that is dead without knowing it.

mod client;
mod roster;
mod seat;
mod watcher;

use async_trait::async_trait;
use std::time::Duration;
use tokio::sync::mpsc;
use townlake_common::config::ClusterConfig;
use townlake_common::{Error, ErrorCode, Result};

use crate::membership::{WATCH_BUFFER, check, check_role};
use crate::{Membership, Node, NodeWatch, Role, Seat};
use client::Dialer;
use seat::EtcdSeat;
use watcher::Watcher;

/// The lease times that make sense: etcd grants no less than 2 s, and a longer lease than a minute hides the dead.
const LEASE_TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(60);

/// etcd tells its watchers within milliseconds; one that is just about to notice that its watch is broken hears of it later.
const DELAY: Duration = Duration::from_secs(2);

/// A member list that lives in etcd, shared by every node with the same endpoints and cluster name.
#[derive(Debug, Clone)]
pub struct EtcdMembership {
    dialer: Dialer,
    cluster: String,
    lease_ttl: Duration,
}

impl EtcdMembership {
    /// The member list of this configuration. Nothing is sent yet: etcd may start later than its users.
    ///
    /// Errors: `CONFIG_INVALID` for endpoints, a cluster name or a lease time that cannot be used.
    pub async fn connect(config: &ClusterConfig) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if config.name.is_empty() || !config.name.chars().all(plain) {
            return Err(invalid("cluster.name: use letters, digits, `-`, `_` and `.`"));
        }
        if !LEASE_TTL.contains(&config.lease_ttl) {
            return Err(invalid("cluster.lease_ttl must lie between 2s and 60s"));
        }
        let dialer = Dialer::new(&config.etcd)?;
        Ok(Self { dialer, cluster: config.name.clone(), lease_ttl: config.lease_ttl })
    }

    /// The folder of a role's records, with a slash at its end: without it one cluster's name could begin another's.
    fn folder(&self, role: Role) -> String {
        let folder = match role {
            Role::Coordinator => "coordinators",
            _ => "executors",
        };
        format!("{}/v1/{folder}/", self.cluster)
    }
}

#[async_trait]
impl Membership for EtcdMembership {
    async fn join(&self, node: Node) -> Result<Box<dyn Seat>> {
        let role = check(&node)?;
        let key = format!("{}{}", self.folder(role), node.incarnation);
        Ok(Box::new(EtcdSeat::take(self.dialer.clone(), key, self.lease_ttl, node).await?))
    }

    async fn watch(&self, role: Role) -> Result<NodeWatch> {
        check_role(role)?;
        let (events, watch) = mpsc::channel(WATCH_BUFFER);
        tokio::spawn(Watcher::new(self.dialer.clone(), self.folder(role), self.lease_ttl, events).run());
        Ok(watch)
    }

    fn delay(&self) -> Duration {
        DELAY
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorCode::ConfigInvalid, message)
}
