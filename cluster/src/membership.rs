//! The trait of the member list, and what its watchers are told.

use std::time::Duration;

use async_trait::async_trait;
use townlake_common::{Error, ErrorCode, Result};

use crate::{Node, Role};

/// The list of the cluster's members.
#[async_trait]
pub trait Membership: Send + Sync + 'static {
    /// Puts `node` on the list under its incarnation, and keeps it there until the seat is left or dropped.
    ///
    /// Waits until the record is stored; where the list lives in another process, for up to a minute, so that nodes may
    /// start in any order. An incarnation joins once.
    ///
    /// Errors: `INVALID_ARGUMENT` for a record without incarnation, role or address; `MEMBERSHIP_UNAVAILABLE` when the wait
    /// is over.
    async fn join(&self, node: Node) -> Result<Box<dyn Seat>>;

    /// Follows the members of one role. The first event is the whole list, sent as soon as the list can be read. The watch
    /// ends when the receiver is dropped.
    ///
    /// Errors: `INVALID_ARGUMENT` for an unspecified role.
    async fn watch(&self, role: Role) -> Result<NodeWatch>;

    /// How long a change may take to reach the watchers, as long as the list is well.
    fn delay(&self) -> Duration;
}

/// A member's place on the list. Dropping it stops its renewal: the record goes when the lease runs out, as after a crash.
#[async_trait]
pub trait Seat: Send + Sync {
    /// Replaces the record, under the same incarnation and role; returns when the new one is stored.
    ///
    /// Errors: `INVALID_ARGUMENT`; `MEMBERSHIP_UNAVAILABLE` (retryable) when the list did not answer in time. The record is
    /// then still written as soon as it does.
    async fn update(&self, node: Node) -> Result<()>;

    /// Takes the record off the list at once.
    ///
    /// Errors: `MEMBERSHIP_UNAVAILABLE`; the record then goes when its lease runs out.
    async fn leave(self: Box<Self>) -> Result<()>;

    /// Whether the record is on the list for certain: it is stored, and its lease was renewed within its time to live.
    fn is_held(&self) -> bool;
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeEvent {
    /// The whole list. It replaces what was known: the first event, and again after an interruption of the watch.
    Listed(Vec<Node>),
    /// This node joined, or its record changed. May repeat what is known.
    Changed(Node),
    /// The node of this incarnation left or its lease ran out.
    Gone(String),
}

/// The events of one watch, in order.
pub type NodeWatch = tokio::sync::mpsc::Receiver<NodeEvent>;

/// Events that wait for a slow reader before the watch itself waits.
pub(crate) const WATCH_BUFFER: usize = 256;

/// The role of a record that may go on the list.
pub(crate) fn check(node: &Node) -> Result<Role> {
    let role = node.role();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fault = if node.incarnation.is_empty() || node.incarnation.len() > 64 || !node.incarnation.chars().all(plain) {
        "incarnation"
    } else if role == Role::Unspecified {
        "role"
    } else if node.address.is_empty() {
        "address"
    } else {
        return Ok(role);
    };
    Err(Error::new(ErrorCode::InvalidArgument, format!("a member's record needs a valid {fault}")))
}

/// Refuses an update that would turn a seat into another member's.
pub(crate) fn check_update(seat: &Node, node: &Node) -> Result<()> {
    check(node)?;
    if node.incarnation == seat.incarnation && node.role == seat.role {
        return Ok(());
    }
    let message = format!("the seat of {} cannot become another member's", seat.incarnation);
    Err(Error::new(ErrorCode::InvalidArgument, message))
}

/// Refuses a watch without a role.
pub(crate) fn check_role(role: Role) -> Result<()> {
    if role == Role::Unspecified {
        return Err(Error::new(ErrorCode::InvalidArgument, "a watch of the member list needs a role"));
    }
    Ok(())
}
