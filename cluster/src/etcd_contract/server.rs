//! A real etcd in a temporary folder on free loopback ports, killed when the test ends, also when it fails.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const BINARY: &str = "/usr/bin/etcd";

/// Whether there is an etcd to start.
pub fn is_installed() -> bool {
    Path::new(BINARY).exists()
}

/// The running server.
pub struct EtcdServer {
    folder: TempDir,
    ports: (u16, u16),
    child: Child,
}

impl EtcdServer {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        // A free port can be taken between its choice and its use, so another pair is tried.
        for _ in 0..3 {
            let folder = tempfile::Builder::new().prefix("townlake-etcd-").tempdir().unwrap();
            let ports = (free_port(), free_port());
            let mut server = Self { child: spawn(folder.path(), ports), folder, ports };
            if server.answers().await {
                return server;
            }
        }
        panic!("etcd does not start");
    }

    /// Its client URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.0)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same ports and data.
    pub async fn restart(&mut self) {
        self.child = spawn(self.folder.path(), self.ports);
        assert!(self.answers().await, "etcd does not start again");
    }

    /// Removes the data of a stopped server.
    pub fn wipe(&self) {
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    /// `SIGSTOP`.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// `SIGCONT`.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Forgets all history up to now.
    pub async fn compact(&self) {
        let mut client = Client::connect([self.url()], None).await.unwrap();
        let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
        client.compact(revision, None).await.unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && self.child.try_wait().unwrap().is_none() {
            let ask = async { Client::connect([self.url()], None).await?.get("ready", None).await };
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), ask).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(folder: &Path, ports: (u16, u16)) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{}", ports.0), format!("http://127.0.0.1:{}", ports.1));
    let mut command = Command::new(BINARY);
    command.arg("--data-dir").arg(folder.join("data"));
    command.args(["--name", "test", "--logger", "zap", "--log-level", "error"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("test={peer}")]);
    if skips_fsync() {
        command.arg("--unsafe-no-fsync"); // tests outlive no power cut
    }
    command.env("ETCD_UNSUPPORTED_ARCH", "arm64"); // etcd 3.4 asks for this on arm64
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Whether this etcd knows the flag (3.5 and later).
fn skips_fsync() -> bool {
    let help = Command::new(BINARY).arg("--help").output().unwrap();
    [help.stdout, help.stderr].iter().any(|text| String::from_utf8_lossy(text).contains("unsafe-no-fsync"))
}
