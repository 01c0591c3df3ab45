//! A private etcd.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use townlake_common::{Error, ErrorCode, Result};

use super::process::{Process, command, find_program, free_port};

/// A running one-node etcd.
pub struct Etcd {
    /// The process.
    pub process: Process,
    port: u16,
    peer_port: u16,
    folder: PathBuf,
}

impl Etcd {
    /// Whether an etcd is installed.
    pub fn is_installed() -> bool {
        binary().is_some()
    }

    /// Starts etcd with its data in `<folder>/etcd` and waits until it answers.
    pub async fn start(folder: &Path) -> Result<Self> {
        let (port, peer_port) = (free_port()?, free_port()?);
        let process = spawn(folder, port, peer_port)?;
        let mut etcd = Self { process, port, peer_port, folder: folder.to_path_buf() };
        etcd.wait().await?;
        Ok(etcd)
    }

    /// The client endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts it again on the same data and ports, after a stop or a kill.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.stop();
        self.process = spawn(&self.folder, self.port, self.peer_port)?;
        self.wait().await
    }

    async fn wait(&mut self) -> Result<()> {
        let url = format!("{}/health", self.endpoint());
        self.process
            .wait_until(Duration::from_secs(30), || async {
                reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success())
            })
            .await
    }
}

fn binary() -> Option<PathBuf> {
    find_program("etcd")
}

fn spawn(folder: &Path, port: u16, peer_port: u16) -> Result<Process> {
    let binary = binary().ok_or_else(|| {
        Error::new(ErrorCode::ConfigInvalid, "etcd is not installed")
            .with_hint("apt-get install etcd-server, or use --embedded")
    })?;
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = command(&binary, Signal::SIGTERM);
    command
        .args(["--name", "local", "--logger", "zap", "--log-level", "warn"])
        .args(["--data-dir".as_ref(), folder.join("etcd").as_os_str()])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("local={peer}")]);
    Process::start("etcd", command, folder)
}
