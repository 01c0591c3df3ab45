//! One coordinator and some executors as processes, over an etcd.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use townlake_common::Result;

use super::process::{Process, command, free_port, port_or_free, write_private};
use crate::args::ConnectArgs;

/// What the cluster is to look like.
pub struct ClusterSpec {
    /// The `townlake` binary.
    pub binary: PathBuf,
    /// Where configuration, logs, spill and state go.
    pub folder: PathBuf,
    /// The etcd endpoint.
    pub etcd: String,
    /// Executors.
    pub executors: usize,
    /// Slots of each executor.
    pub slots: usize,
    /// Memory of each executor, for example `2GB`.
    pub memory: String,
    /// `[auth]`, `[catalogs.…]` and `[limits]` in TOML. The same for every node.
    pub sections: String,
    /// User and password of the sections, for the readiness check and [`Cluster::connect_args`].
    pub user: (String, String),
    /// Takes the standard ports where they are free.
    pub standard_ports: bool,
}

/// A running cluster.
pub struct Cluster {
    /// The coordinator.
    pub coordinator: Process,
    /// The executors.
    pub executors: Vec<Process>,
    spec: ClusterSpec,
    flight: u16,
    http: u16,
    started: usize,
}

impl Cluster {
    /// Starts everything, executors first (they wait for nobody), and returns when every executor is a member.
    pub async fn start(spec: ClusterSpec) -> Result<Self> {
        let port = |wanted| if spec.standard_ports { port_or_free(wanted) } else { free_port() };
        let (flight, http) = (port(50050)?, port(8080)?);
        let mut executors = Vec::new();
        for number in 1..=spec.executors {
            executors.push(start_executor(&spec, number)?);
        }
        let coordinator = start_coordinator(&spec, flight, http)?;
        let started = spec.executors;
        let mut cluster = Self { coordinator, executors, spec, flight, http, started };
        cluster.wait_ready(started).await?;
        Ok(cluster)
    }

    /// Starts one more executor; returns its index.
    pub fn add_executor(&mut self) -> Result<usize> {
        self.started += 1;
        self.executors.push(start_executor(&self.spec, self.started)?);
        Ok(self.executors.len() - 1)
    }

    /// Starts the coordinator again, on the same ports, after a stop or a kill.
    pub async fn restart_coordinator(&mut self) -> Result<()> {
        self.coordinator.stop();
        self.coordinator = start_coordinator(&self.spec, self.flight, self.http)?;
        let alive = self.executors.iter_mut().filter_map(|executor| executor.ended().is_none().then_some(())).count();
        self.wait_ready(alive).await
    }

    /// Waits until the coordinator is ready and sees at least `executors` members.
    pub async fn wait_ready(&mut self, executors: usize) -> Result<()> {
        let ready = format!("{}/readyz", self.http_url());
        let metrics = format!("{}/metrics", self.http_url());
        self.coordinator
            .wait_until(Duration::from_secs(60), || async {
                let up = reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success());
                up && members(&metrics).await >= executors
            })
            .await
    }

    /// The Flight SQL door.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.flight)
    }

    /// The HTTP door.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// How a client of ours connects.
    pub fn connect_args(&self) -> ConnectArgs {
        let (user, password) = self.spec.user.clone();
        ConnectArgs { url: self.url(), user: Some(user), password: Some(password), token: None }
    }
}

/// The members that the coordinator counts in its metrics.
async fn members(metrics: &str) -> usize {
    let Ok(answer) = reqwest::get(metrics).await else { return 0 };
    let text = answer.text().await.unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("townlake_executors"));
    let value = line.and_then(|line| line.split_whitespace().last()).and_then(|value| value.parse::<f64>().ok());
    value.map_or(0, |value| value as usize)
}

fn start_coordinator(spec: &ClusterSpec, flight: u16, http: u16) -> Result<Process> {
    let text = format!(
        "[server]\nflight = \"127.0.0.1:{flight}\"\nhttp = \"127.0.0.1:{http}\"\n\
         [cluster]\ninternal = \"127.0.0.1:0\"\nmembership = \"etcd\"\netcd = [\"{}\"]\n\
         [store]\nurl = \"sqlite://{}\"\n{}",
        spec.etcd,
        spec.folder.join("state.db").display(),
        spec.sections
    );
    start_node(spec, "coordinator", "coordinator", &text)
}

fn start_executor(spec: &ClusterSpec, number: usize) -> Result<Process> {
    let name = format!("executor-{number}");
    let text = format!(
        "[cluster]\nmembership = \"etcd\"\netcd = [\"{}\"]\n\
         [executor]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\nslots = {}\nmemory = \"{}\"\nspill_dir = \"{}\"\n\
         drain_limit = \"5s\"\n[store]\nurl = \"sqlite://{}\"\n{}",
        spec.etcd,
        spec.slots,
        spec.memory,
        spec.folder.join(&name).display(),
        spec.folder.join("state.db").display(),
        spec.sections
    );
    start_node(spec, "executor", &name, &text)
}

fn start_node(spec: &ClusterSpec, role: &str, name: &str, config: &str) -> Result<Process> {
    let path = spec.folder.join(format!("{name}.toml"));
    write_private(&path, config)?;
    let mut process = command(&spec.binary, Signal::SIGTERM);
    process.args([role, "--config"]).arg(&path);
    Process::start(name, process, &spec.folder)
}
