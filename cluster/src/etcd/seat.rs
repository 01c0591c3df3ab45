//! A seat on a lease: grant, publish, renew, and begin again after every failure, until the seat is left.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use etcd_client::{Client, LeaseKeepAliveStream, LeaseKeeper, PutOptions};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use townlake_common::Result;

use super::client::{Dialer, EtcdResult, Outage, broken, within};
use crate::membership::check_update;
use crate::{Node, Seat};

/// How long a node that starts waits for etcd.
const JOIN_LIMIT: Duration = Duration::from_secs(60);
/// How long a change of the record waits until etcd has it.
const UPDATE_LIMIT: Duration = Duration::from_secs(10);

/// The record that should be on the list. Versions count from 1.
struct Wanted {
    version: u64,
    node: Node,
}

/// What the seat and its keeper share.
#[derive(Default)]
struct Shared {
    lease: Mutex<Option<i64>>,
    held_until: Mutex<Option<Instant>>,
    last_error: Mutex<Option<etcd_client::Error>>,
}

/// A member's place in etcd.
pub(super) struct EtcdSeat {
    dialer: Dialer,
    first: Node,
    wanted: watch::Sender<Wanted>,
    stored: watch::Receiver<u64>,
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

impl EtcdSeat {
    /// Stores the record and starts to keep it. Waits for etcd up to [`JOIN_LIMIT`].
    pub async fn take(dialer: Dialer, key: String, ttl: Duration, node: Node) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (wanted, wanted_by_keeper) = watch::channel(Wanted { version: 1, node: node.clone() });
        let (stored_by_keeper, stored) = watch::channel(0);
        let keeper = Keeper {
            dialer: dialer.clone(),
            key,
            ttl,
            wanted: wanted_by_keeper,
            stored: stored_by_keeper,
            shared: Arc::clone(&shared),
        };
        let keeper = tokio::spawn(keeper.run());
        let seat = Self { dialer, first: node, wanted, stored, shared, keeper };
        seat.wait_until_stored(1, JOIN_LIMIT, "joining the cluster").await?;
        Ok(seat)
    }

    async fn wait_until_stored(&self, version: u64, limit: Duration, what: &str) -> Result<()> {
        let mut stored = self.stored.clone();
        match tokio::time::timeout(limit, stored.wait_for(|stored| *stored >= version)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.dialer.unavailable(what, self.shared.last_error.lock().take())),
        }
    }
}

#[async_trait]
impl Seat for EtcdSeat {
    async fn update(&self, node: Node) -> Result<()> {
        check_update(&self.first, &node)?;
        let mut version = 0;
        self.wanted.send_modify(|wanted| {
            version = wanted.version + 1;
            *wanted = Wanted { version, node };
        });
        self.wait_until_stored(version, UPDATE_LIMIT, "changing this member's record").await
    }

    async fn leave(mut self: Box<Self>) -> Result<()> {
        self.keeper.abort();
        let _aborted = (&mut self.keeper).await; // nothing may renew or grant after the revoke
        *self.shared.held_until.lock() = None;
        let Some(lease) = self.shared.lease.lock().take() else { return Ok(()) };
        let mut dialer = self.dialer.clone();
        let mut cause = None;
        for _ in 0..dialer.endpoints() {
            match async { within(dialer.dial().await?.lease_revoke(lease)).await }.await {
                Ok(_) => return Ok(()),
                Err(error) => cause = Some(error),
            }
        }
        Err(self.dialer.unavailable("leaving the cluster", cause))
    }

    fn is_held(&self) -> bool {
        self.shared.held_until.lock().is_some_and(|until| Instant::now() < until)
    }
}

impl Drop for EtcdSeat {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// The background work of a seat.
struct Keeper {
    dialer: Dialer,
    key: String,
    ttl: Duration,
    wanted: watch::Receiver<Wanted>,
    stored: watch::Sender<u64>,
    shared: Arc<Shared>,
}

impl Keeper {
    async fn run(mut self) {
        let mut outage = Outage::new("keep this member's lease");
        loop {
            let Err(error) = self.hold(&mut outage).await;
            outage.wait(&error).await;
            *self.shared.last_error.lock() = Some(error);
        }
    }

    /// One connection's worth of holding the seat: ends with the first failure.
    async fn hold(&mut self, outage: &mut Outage) -> EtcdResult<Infallible> {
        let mut client = self.dialer.dial().await?;
        let began = Instant::now();
        let (mut keeper, mut renewals) = self.lease(&mut client).await?;
        // Also on a lease that lived on: the record may have changed, or been removed by someone else.
        self.publish(&mut client).await?;
        self.held_since(began);
        outage.over();
        let mut renew = tokio::time::interval(self.ttl * 3 / 10);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = renew.tick() => self.renew(&mut keeper, &mut renewals).await?,
                changed = self.wanted.changed() => {
                    changed.map_err(|_| broken("the seat was dropped"))?;
                    self.publish(&mut client).await?;
                }
            }
        }
    }

    /// The lease that this seat holds, if etcd still knows it, else a new one.
    async fn lease(&mut self, client: &mut Client) -> EtcdResult<(LeaseKeeper, LeaseKeepAliveStream)> {
        let held = *self.shared.lease.lock();
        if let Some(lease) = held {
            match within(client.lease_keep_alive(lease)).await {
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => {
                    tracing::warn!(key = self.key, "the lease ran out while etcd was out of reach, taking a new one");
                    *self.shared.lease.lock() = None;
                }
                other => return other,
            }
        }
        let seconds = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let lease = within(client.lease_grant(seconds, None)).await?.id();
        *self.shared.lease.lock() = Some(lease);
        within(client.lease_keep_alive(lease)).await
    }

    /// Writes the wanted record under the lease.
    async fn publish(&mut self, client: &mut Client) -> EtcdResult<()> {
        let (version, value) = {
            let wanted = self.wanted.borrow_and_update();
            (wanted.version, wanted.node.encode_to_vec())
        };
        let lease = self.shared.lease.lock().ok_or_else(|| broken("no lease"))?;
        within(client.put(self.key.as_str(), value, Some(PutOptions::new().with_lease(lease)))).await?;
        self.stored.send_replace(version);
        Ok(())
    }

    async fn renew(&self, keeper: &mut LeaseKeeper, renewals: &mut LeaseKeepAliveStream) -> EtcdResult<()> {
        let sent = Instant::now();
        keeper.keep_alive().await?;
        match within(renewals.message()).await? {
            Some(renewal) if renewal.ttl() > 0 => {
                self.held_since(sent);
                Ok(())
            }
            Some(_) => Err(broken("the lease ran out")),
            None => Err(broken("the stream of renewals ended")),
        }
    }

    /// etcd counts from when it handled the request, so counting from when it was sent errs on the safe side.
    fn held_since(&self, sent: Instant) {
        *self.shared.held_until.lock() = Some(sent + self.ttl);
    }
}
