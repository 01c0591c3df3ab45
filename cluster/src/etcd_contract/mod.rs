//! The contract and the bad days of the member list, over a real etcd that the tests start themselves.

pub(crate) mod server;

use std::sync::Arc;
use std::time::Duration;

use townlake_common::config::{ClusterConfig, MembershipKind};
use townlake_common::{ErrorCode, Result};

use crate::contract::{GONE_WITHIN, Reader, executor, run_all};
use crate::{EtcdMembership, Membership, Role, Seat, State};
use server::EtcdServer;

/// The time in which things settle once etcd is back: a lease, and some for a machine that is busy with other tests.
const SETTLED: Duration = Duration::from_secs(20);

/// Starts an etcd, or says why the test is skipped. With `TOWNLAKE_REQUIRE_SERVERS` a missing etcd is a failure.
pub(crate) async fn etcd_for(test: &str) -> Option<EtcdServer> {
    if !server::is_installed() {
        assert!(std::env::var_os("TOWNLAKE_REQUIRE_SERVERS").is_none(), "{test}: there is no etcd binary");
        println!("SKIPPED {test}: no etcd binary");
        return None;
    }
    Some(EtcdServer::start().await)
}

async fn view(url: &str, cluster: &str) -> Result<Arc<dyn Membership>> {
    view_over(&[url.to_string()], cluster).await
}

async fn view_over(urls: &[String], cluster: &str) -> Result<Arc<dyn Membership>> {
    let config = ClusterConfig {
        membership: MembershipKind::Etcd,
        etcd: urls.to_vec(),
        name: cluster.to_string(),
        ..ClusterConfig::default()
    };
    Ok(Arc::new(EtcdMembership::connect(&config).await?))
}

async fn held(seat: &dyn Seat) {
    let deadline = tokio::time::Instant::now() + SETTLED;
    while !seat.is_held() {
        assert!(tokio::time::Instant::now() < deadline, "the seat is not held again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn keeps_the_contract() {
    let Some(etcd) = etcd_for("etcd_contract::keeps_the_contract").await else { return };
    let url = etcd.url();
    run_all(|cluster| {
        let (url, cluster) = (url.clone(), cluster.to_string());
        async move { view(&url, &cluster).await }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn nobody_is_gone_while_etcd_is_down_or_after_its_restart() {
    let Some(mut etcd) = etcd_for("etcd_contract::nobody_is_gone_while_etcd_is_down_or_after_its_restart").await else {
        return;
    };
    let members = view(&etcd.url(), "restart").await.unwrap();
    let mut reader = Reader::start(&members, Role::Executor).await.unwrap();
    let mut node = executor("127.0.0.1:3001");
    let seat = members.join(node.clone()).await.unwrap();
    reader.until("join", SETTLED, |r| r.has(&node)).await.unwrap();

    etcd.kill();
    // Longer than the lease: it cannot be renewed, and the list stays as it was all the same.
    reader.all_the_while("etcd is down", Duration::from_secs(8), |r| r.has(&node)).await.unwrap();
    assert!(!seat.is_held(), "a lease that could not be renewed is not held");
    node.state = State::Draining.into();
    let error = tokio::time::timeout(Duration::from_secs(1), seat.update(node.clone())).await;
    assert!(error.is_err(), "an update cannot be stored while etcd is down");

    etcd.restart().await;
    held(seat.as_ref()).await;
    let lists = reader.lists;
    reader.until("the watch lists again", SETTLED, |r| r.lists > lists).await.unwrap();
    let caught_up = |r: &Reader| r.members.get(&node.incarnation) == Some(&node);
    reader.until("the update that waited", SETTLED, caught_up).await.unwrap();
    reader.all_the_while("etcd is back", Duration::from_secs(7), |r| r.has(&node)).await.unwrap();
    assert!(seat.is_held());
}

#[tokio::test]
async fn a_paused_etcd_takes_nobody_away() {
    let Some(etcd) = etcd_for("etcd_contract::a_paused_etcd_takes_nobody_away").await else { return };
    let members = view(&etcd.url(), "pause").await.unwrap();
    let mut reader = Reader::start(&members, Role::Executor).await.unwrap();
    let (lives, dies) = (executor("127.0.0.1:3002"), executor("127.0.0.1:3003"));
    let seat = members.join(lives.clone()).await.unwrap();
    let dying = members.join(dies.clone()).await.unwrap();
    reader.until("join", SETTLED, |r| r.members.len() == 2).await.unwrap();

    etcd.pause();
    drop(dying);
    reader.all_the_while("etcd is paused", Duration::from_secs(9), |r| r.members.len() == 2).await.unwrap();
    etcd.resume();
    // Every lease has run out by etcd's clock. The living member takes a new one, the dead one does not.
    reader.all_the_while("the living one stays", Duration::from_secs(12), |r| r.has(&lives)).await.unwrap();
    assert!(!reader.has(&dies), "the dead one goes, one lease later");
    held(seat.as_ref()).await;
}

#[tokio::test]
async fn an_etcd_that_lost_its_data_is_filled_again() {
    let Some(mut etcd) = etcd_for("etcd_contract::an_etcd_that_lost_its_data_is_filled_again").await else { return };
    let members = view(&etcd.url(), "wiped").await.unwrap();
    let mut reader = Reader::start(&members, Role::Executor).await.unwrap();
    let node = executor("127.0.0.1:3004");
    let seat = members.join(node.clone()).await.unwrap();
    reader.until("join", SETTLED, |r| r.has(&node)).await.unwrap();
    etcd.kill();
    etcd.wipe();
    etcd.restart().await;
    held(seat.as_ref()).await;
    reader.all_the_while("the member stays", Duration::from_secs(7), |r| r.has(&node)).await.unwrap();
    let fresh = Reader::start(&members, Role::Executor).await.unwrap();
    assert!(fresh.has(&node), "the record was written again, under the same incarnation");
}

#[tokio::test]
async fn nodes_may_start_before_etcd() {
    let Some(mut etcd) = etcd_for("etcd_contract::nodes_may_start_before_etcd").await else { return };
    etcd.kill();
    let members = view(&etcd.url(), "early").await.unwrap();
    let node = executor("127.0.0.1:3005");
    let joining = tokio::spawn({
        let (members, node) = (Arc::clone(&members), node.clone());
        async move { members.join(node).await }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!joining.is_finished(), "join waits for etcd");
    etcd.restart().await;
    let seat = tokio::time::timeout(SETTLED, joining).await.unwrap().unwrap().unwrap();
    assert!(seat.is_held());
    assert!(Reader::start(&members, Role::Executor).await.unwrap().has(&node));
    etcd.kill();
    let error = seat.leave().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::MembershipUnavailable);
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_watch_survives_compaction() {
    let Some(etcd) = etcd_for("etcd_contract::a_watch_survives_compaction").await else { return };
    let members = view(&etcd.url(), "compacted").await.unwrap();
    let mut reader = Reader::start(&members, Role::Executor).await.unwrap();
    let (old, new) = (executor("127.0.0.1:3006"), executor("127.0.0.1:3007"));
    let old_seat = members.join(old.clone()).await.unwrap();
    reader.until("join", SETTLED, |r| r.has(&old)).await.unwrap();
    // The watch stands still while history passes and is compacted away under it.
    etcd.pause();
    drop(old_seat);
    tokio::time::sleep(Duration::from_secs(6)).await;
    etcd.resume();
    let _new_seat = members.join(new.clone()).await.unwrap();
    etcd.compact().await;
    let outcome = |r: &Reader| r.has(&new) && !r.has(&old);
    reader.until("the list is right after compaction", GONE_WITHIN + SETTLED, outcome).await.unwrap();
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let Some(etcd) = etcd_for("etcd_contract::a_dead_endpoint_is_passed_over").await else { return };
    let dead = "http://127.0.0.1:1".to_string();
    // Whichever of them a connection begins with, it ends at the one that lives.
    for urls in [[dead.clone(), etcd.url()], [etcd.url(), dead.clone()]] {
        let members = view_over(&urls, "endpoints").await.unwrap();
        let node = executor("127.0.0.1:3008");
        let seat = members.join(node.clone()).await.unwrap();
        let mut reader = Reader::start(&members, Role::Executor).await.unwrap();
        assert!(reader.has(&node));
        seat.leave().await.unwrap();
        reader.until("leave", SETTLED, |r| !r.has(&node)).await.unwrap();
    }
}
