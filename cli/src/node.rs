//! One node until it is told to stop.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use townlake_cluster::{EmbeddedMembership, Membership};
use townlake_common::config::{Config, MembershipKind};
use townlake_common::{Error, ErrorCode, Result};
use townlake_coordinator::Coordinator;
use townlake_executor::Executor;

use crate::args::NodeArgs;

/// `townlake coordinator`.
pub async fn coordinator(args: &NodeArgs) -> Result<()> {
    let config = Config::load(args.config.as_deref())?;
    let membership = cluster_membership(&config, "coordinator").await?;
    let handle = Coordinator::start(config, membership).await?;
    stop_signal().await?;
    handle.shutdown().await;
    Ok(())
}

/// `townlake executor`: SIGTERM drains, a second signal stops at once.
pub async fn executor(args: &NodeArgs) -> Result<()> {
    let config = Config::load(args.config.as_deref())?;
    let membership = cluster_membership(&config, "executor").await?;
    let handle = Executor::start(&config, membership).await?;
    stop_signal().await?;
    tokio::select! {
        () = handle.drain() => Ok(()),
        second = stop_signal() => second,
    }
}

/// `townlake standalone`: both in one process.
pub async fn standalone(args: &NodeArgs) -> Result<()> {
    let config = Config::load(args.config.as_deref())?;
    let (coordinator, executor) = start_standalone(config).await?;
    stop_signal().await?;
    coordinator.shutdown().await;
    executor.stop().await;
    Ok(())
}

/// Starts coordinator and executor in this process over embedded membership.
pub async fn start_standalone(
    config: Config,
) -> Result<(townlake_coordinator::CoordinatorHandle, townlake_executor::ExecutorHandle)> {
    if config.cluster.membership != MembershipKind::Embedded {
        return Err(Error::new(ErrorCode::ConfigInvalid, "a standalone node has cluster.membership = \"embedded\"")
            .with_hint("run `townlake coordinator` and `townlake executor` for a cluster over etcd"));
    }
    let membership: Arc<dyn Membership> = Arc::new(EmbeddedMembership::default());
    let executor = Executor::start(&config, Arc::clone(&membership)).await?;
    let coordinator = Coordinator::start(config, membership).await?;
    Ok((coordinator, executor))
}

async fn cluster_membership(config: &Config, node: &str) -> Result<Arc<dyn Membership>> {
    if config.cluster.membership == MembershipKind::Embedded {
        return Err(Error::new(
            ErrorCode::ConfigInvalid,
            format!("a separate {node} finds the others through etcd, and cluster.membership is \"embedded\""),
        )
        .with_hint("set cluster.membership = \"etcd\" and cluster.etcd, or run `townlake standalone`"));
    }
    townlake_cluster::connect(&config.cluster).await
}

/// Waits for SIGINT or SIGTERM.
pub async fn stop_signal() -> Result<()> {
    let listen = |kind| signal(kind).map_err(|e| Error::internal("signals cannot be received").with_source(e));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => tracing::info!("stopping on SIGINT"),
        _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
    }
    Ok(())
}
