//! One node until it is told to stop.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use townlake_cluster::{EmbeddedMembership, Membership};
use townlake_common::config::{Config, MembershipKind};
use townlake_common::{Error, ErrorCode, Result};
use townlake_coordinator::{Coordinator, CoordinatorHandle};
use townlake_executor::{Executor, ExecutorHandle};

use crate::args::NodeArgs;

/// `townlake coordinator`.
pub async fn coordinator(args: &NodeArgs) -> Result<()> {
    let start = async {
        let config = Config::load(args.config.as_deref())?;
        let membership = cluster_membership(&config, "coordinator").await?;
        Coordinator::start(config, membership).await
    };
    serve(start, async |coordinator| coordinator.shutdown().await).await
}

/// `townlake executor`: a signal drains it.
pub async fn executor(args: &NodeArgs) -> Result<()> {
    let start = async {
        let config = Config::load(args.config.as_deref())?;
        let membership = cluster_membership(&config, "executor").await?;
        Executor::start(&config, membership).await
    };
    serve(start, async |executor| executor.drain().await).await
}

/// `townlake standalone`: both in one process.
pub async fn standalone(args: &NodeArgs) -> Result<()> {
    let start = async { start_standalone(Config::load(args.config.as_deref())?).await };
    let stop = async |(coordinator, executor): (CoordinatorHandle, ExecutorHandle)| {
        coordinator.shutdown().await;
        executor.stop().await;
    };
    serve(start, stop).await
}

/// One node: a signal ends its start at once, and its service in order; a second one does not wait for that.
async fn serve<Node>(start: impl Future<Output = Result<Node>>, stop: impl AsyncFnOnce(Node)) -> Result<()> {
    let mut signals = StopSignals::listen()?;
    let node = tokio::select! {
        node = start => node?,
        signal = signals.next() => {
            tracing::info!("stopping on {signal}, while it starts");
            return Ok(());
        }
    };
    let signal = signals.next().await;
    tracing::info!("stopping on {signal}");
    tokio::select! {
        () = stop(node) => {}
        _ = signals.next() => {}
    }
    Ok(())
}

/// Starts coordinator and executor in this process over embedded membership.
pub async fn start_standalone(config: Config) -> Result<(CoordinatorHandle, ExecutorHandle)> {
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

/// SIGINT, SIGTERM and SIGHUP: the terminal was closed. A SIGHUP that whoever started this process had ignored (`nohup`)
/// stays ignored.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl StopSignals {
    /// From here on no signal is lost, nor does one end the process by itself.
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|e| Error::internal("signals cannot be received").with_source(e));
        // before the first listener for it: that one ends the ignoring
        let hangup = if ignores_hangup() { None } else { Some(listen(SignalKind::hangup())?) };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())?, hangup })
    }

    /// Waits for the next one; its name.
    async fn next(&mut self) -> &'static str {
        let hung_up = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = hung_up => "SIGHUP",
        }
    }
}

/// Whether SIGHUP, the first signal in Linux's mask of ignored ones, is ignored.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Works until a signal says to stop. What the work started is stopped as it is dropped; a second signal hurries that.
pub async fn until_stopped(work: impl Future<Output = Result<()>>) -> Result<()> {
    let (mut first, mut second) = (StopSignals::listen()?, StopSignals::listen()?);
    tokio::spawn(async move {
        second.next().await;
        second.next().await;
        crate::local::hurry();
    });
    tokio::select! {
        outcome = work => outcome,
        _ = first.next() => Ok(()),
    }
}
