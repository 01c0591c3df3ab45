//! Who is in the cluster.
//!
//! A node [joins](Membership::join) with a record of itself and holds a [`Seat`] for as long as it lives; others
//! [watch](Membership::watch) the list. One trait, two implementations: [`EmbeddedMembership`] inside one process and
//! [`EtcdMembership`] for a cluster. [`contract`] is the suite that both must pass. The protocol, with its failures, is in
//! `docs/membership.md`.
//!
//! A seat is not a lock. A member that the list calls gone may still run, and one that it calls alive may be dead for the
//! length of a lease: whoever hands out work names the incarnation that is meant and treats a broken connection as a suspicion.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[doc(hidden)]
pub mod contract;
mod embedded;
mod etcd;
#[cfg(test)]
mod etcd_contract;
mod membership;

use std::sync::Arc;

use townlake_common::Result;
use townlake_common::config::{ClusterConfig, MembershipKind};

pub use embedded::EmbeddedMembership;
pub use etcd::EtcdMembership;
pub use membership::{Membership, NodeEvent, NodeWatch, Seat};
pub use townlake_proto::membership::{Node, Role, State};

/// The version of this build and the fingerprint of what defines its wire formats. Nodes of different builds do not
/// exchange plans.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("TOWNLAKE_BUILD_ID"));

/// A fresh incarnation id: a ULID in lower case, made once per start of a process, so that a node which comes back under its
/// old address is never taken for the one that died.
pub fn incarnation() -> String {
    ulid::Ulid::new().to_string().to_lowercase()
}

/// The member list that the configuration names. Does not wait for etcd to answer.
///
/// Errors: `CONFIG_INVALID`.
pub async fn connect(config: &ClusterConfig) -> Result<Arc<dyn Membership>> {
    Ok(match config.membership {
        MembershipKind::Embedded => Arc::new(EmbeddedMembership::new()),
        MembershipKind::Etcd => Arc::new(EtcdMembership::connect(config).await?),
    })
}
