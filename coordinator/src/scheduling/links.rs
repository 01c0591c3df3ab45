//! From membership to the scheduler: follows the member list, takes executors in, and throws them out when their lease or
//! their process is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::BALLISTA_PROTOCOL_VERSION;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::{ExecutorRegistration, RegisterExecutorParams};
use ballista_core::serde::scheduler::{ExecutorOperatingSystemSpecification, ExecutorSpecification};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use townlake_cluster::{BUILD, Membership, Node, NodeEvent, Role, State};
use townlake_common::{Error, Result};
use tracing::{debug, info, warn};

use super::shared::{Core, Probe, host_and_port};
use super::statuses;

/// How often an executor is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The pauses between attempts to take an executor in.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that is refused this many times in a row is a process that is gone; its lease would tell seconds later.
const REFUSALS: u32 = 2;
/// How long one registration may take.
const REGISTER: Duration = Duration::from_secs(5);
/// A task that its executor does not know is lost after this: longer than a launch may be on its way.
const UNKNOWN_TASK: Duration = Duration::from_secs(20);
/// The pause before a watch that ended is taken up again.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows executors and coordinators until `shutdown`.
pub(super) fn follow(core: &Arc<Core>, membership: &Arc<dyn Membership>, shutdown: &CancellationToken) {
    for role in [Role::Executor, Role::Coordinator] {
        let (core, membership, shutdown) = (Arc::clone(core), Arc::clone(membership), shutdown.clone());
        tokio::spawn(async move {
            let mut links = Links { core, stops: HashMap::new(), shutdown: shutdown.clone() };
            while !shutdown.is_cancelled() {
                links.watch(membership.as_ref(), role).await;
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        });
    }
}

struct Links {
    core: Arc<Core>,
    /// One keeper for each executor on the list.
    stops: HashMap<String, CancellationToken>,
    shutdown: CancellationToken,
}

impl Links {
    async fn watch(&mut self, membership: &dyn Membership, role: Role) {
        let mut events = match membership.watch(role).await {
            Ok(events) => events,
            Err(error) => {
                warn!(?role, %error, "the member list cannot be followed");
                return;
            }
        };
        loop {
            let event = tokio::select! {
                () = self.shutdown.cancelled() => return,
                event = events.recv() => event,
            };
            match (event, role) {
                (None, _) => return,
                (Some(event), Role::Executor) => self.executor(event).await,
                (Some(event), _) => self.coordinator(event),
            }
        }
    }

    fn coordinator(&self, event: NodeEvent) {
        let members = &self.core.members;
        match event {
            NodeEvent::Listed(nodes) => {
                members.retain_coordinators(|incarnation| nodes.iter().any(|node| node.incarnation == incarnation));
                nodes.into_iter().for_each(|node| members.put_coordinator(node));
            }
            NodeEvent::Changed(node) => members.put_coordinator(node),
            NodeEvent::Gone(gone) => members.retain_coordinators(|incarnation| incarnation != gone),
        }
    }

    async fn executor(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Listed(nodes) => {
                for known in self.core.members.incarnations() {
                    if !nodes.iter().any(|node| node.incarnation == known) {
                        self.gone(&known).await;
                    }
                }
                nodes.into_iter().for_each(|node| self.present(node));
            }
            NodeEvent::Changed(node) => self.present(node),
            NodeEvent::Gone(incarnation) => self.gone(&incarnation).await,
        }
    }

    fn present(&mut self, node: Node) {
        let incarnation = node.incarnation.clone();
        let build = node.build.clone();
        if self.core.members.put(node) {
            if build != BUILD {
                warn!(executor = %incarnation, build, ours = BUILD, "an executor of another build gets no tasks");
                return;
            }
            let stop = self.shutdown.child_token();
            tokio::spawn(keep(Arc::clone(&self.core), incarnation.clone(), stop.clone()));
            self.stops.insert(incarnation, stop);
        }
    }

    async fn gone(&mut self, incarnation: &str) {
        if let Some(stop) = self.stops.remove(incarnation) {
            stop.cancel();
        }
        if self.core.members.get(incarnation).is_some_and(|member| member.registered) {
            info!(executor = incarnation, "executor is gone: its lease has ended");
            self.core.drop_executor(incarnation, "its lease has ended").await;
        }
        self.core.members.forget(incarnation);
        self.core.forget_connections(incarnation);
    }
}

/// Takes an executor in, and in again after Ballista threw it out for a call that failed, for as long as it is listed.
async fn keep(core: Arc<Core>, incarnation: String, stop: CancellationToken) {
    let (mut pause, mut refusals) = (FIRST_PAUSE, 0);
    loop {
        let Some(member) = core.members.get(&incarnation).filter(|member| !member.stopped) else { return };
        let wait = if member.registered {
            pause = FIRST_PAUSE;
            let asked = Instant::now();
            match core.probe(&incarnation).await {
                Probe::Unreachable => refusals += 1,
                Probe::Slow => refusals = 0,
                Probe::Answers(seen) => {
                    refusals = 0;
                    if let Some(sent_before) = asked.checked_sub(UNKNOWN_TASK) {
                        statuses::compare(&core, &incarnation, &seen, sent_before).await;
                    }
                }
            }
            if refusals >= REFUSALS {
                info!(executor = %incarnation, "executor is gone: its door is closed");
                core.drop_executor(&incarnation, "its door is closed").await;
            }
            if refusals > 0 { LOOK / 4 } else { LOOK }
        } else if member.node.state() != State::Active {
            LOOK
        } else {
            match take_in(&core, &member.node).await {
                Ok(()) => {
                    let slots = member.node.slots;
                    info!(executor = %incarnation, address = %member.node.address, slots, "executor takes tasks");
                    refusals = 0;
                    LOOK
                }
                Err(error) => {
                    debug!(executor = %incarnation, %error, "executor cannot be taken in yet");
                    pause = (pause * 2).min(LAST_PAUSE);
                    pause
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Registers an executor that answers and does nothing any more of what it was given before it was lost: that is done
/// elsewhere, under the same names.
async fn take_in(core: &Core, node: &Node) -> Result<()> {
    let Probe::Answers(seen) = core.probe(&node.incarnation).await else {
        return Err(Error::internal(format!("nobody answers at {}", node.address)));
    };
    if !seen.tasks.is_empty() {
        core.stop_old_tasks(&node.incarnation, &seen.tasks).await;
        return Err(Error::internal("it still works on tasks of the time before it was lost"));
    }
    let params = RegisterExecutorParams { metadata: Some(registration(node)?) };
    let register = SchedulerGrpc::register_executor(&core.ballista, Request::new(params));
    match tokio::time::timeout(REGISTER, register).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(Error::from_status("registration", &status)),
        Err(_) => Err(Error::internal("registration took too long")),
    }
}

/// Ballista's record of an executor; its tasks and its data are served on one port.
fn registration(node: &Node) -> Result<ExecutorRegistration> {
    let (host, port) = host_and_port(&node.address)?;
    Ok(ExecutorRegistration {
        id: node.incarnation.clone(),
        host: Some(host.to_string()),
        port: u32::from(port),
        grpc_port: u32::from(port),
        specification: Some(ExecutorSpecification::default().with_vcores(node.slots.max(1)).into()),
        os_info: Some(ExecutorOperatingSystemSpecification::default().into()),
        ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_names_host_and_port() {
        let node = Node { incarnation: "i".into(), address: "127.0.0.1:7".into(), slots: 3, ..Default::default() };
        let record = registration(&node).unwrap();
        assert_eq!((record.host.as_deref(), record.port, record.grpc_port), (Some("127.0.0.1"), 7, 7));
        let specification: ExecutorSpecification = record.specification.unwrap().into();
        assert_eq!(specification.vcores, 3);
        assert!(registration(&Node { address: "nowhere".into(), ..node }).is_err());
    }
}
