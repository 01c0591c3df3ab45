//! The named emulator of BigQuery (PyPI `bqemulator`: DuckDB behind BigQuery's REST and gRPC doors) of a test's own, in a temporary
//! folder, on free loopback ports; data is made by Google's own Python client. It is not BigQuery: see docs/bigquery.md.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use townlake_cli::local::{Process, bigquery, program_of};

use crate::server::{free_port, shared, skip};

/// What has Google's client do things.
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/bigquery_client.py");
/// How long it may take to end.
const GRACE: Duration = Duration::from_secs(3);
/// The project of all tests.
pub const PROJECT: &str = bigquery::PROJECT;

static SHARED: Mutex<Weak<BigQuery>> = Mutex::new(Weak::new());

/// A running emulator. Dropped, also by a failing test, it is stopped by its process id and its folder removed.
pub struct BigQuery {
    server: Mutex<Process>,
    folder: tempfile::TempDir,
    rest: u16,
    grpc: u16,
}

impl BigQuery {
    /// An emulator of one's own; `None` (and a line on standard error) where it is not installed, unless
    /// `TOWNLAKE_REQUIRE_SERVERS` is set. Panics when it is installed and does not start.
    pub fn start(test: &str) -> Option<Self> {
        let program = bigquery::binary();
        if !program.exists() {
            return skip(test, &program.display().to_string());
        }
        let folder = tempfile::Builder::new().prefix("townlake-bigquery-").tempdir().expect("a temporary folder");
        let (rest, grpc) = (free_port(), free_port());
        let server = Mutex::new(launch(folder.path(), rest, grpc));
        let bigquery = Self { server, folder, rest, grpc };
        bigquery.wait_until_ready();
        Some(bigquery)
    }

    /// The emulator that tests share while one of them runs. Each test works in a dataset of its own.
    pub fn shared(test: &str) -> Option<Arc<Self>> {
        shared(&SHARED, || Self::start(test))
    }

    /// The keys of `[catalogs.<name>]` that lead here.
    pub fn keys(&self) -> String {
        bigquery::keys(self.rest, self.grpc)
    }

    /// The port of REST.
    pub fn rest_port(&self) -> u16 {
        self.rest
    }

    /// The port of gRPC.
    pub fn grpc_port(&self) -> u16 {
        self.grpc
    }

    /// Has Google's client run commands (tests/servers/bigquery_client.py), and gives what it printed. Panics when one fails.
    pub fn client(&self, commands: &[Value]) -> Vec<Value> {
        let mut python = Command::new(program("python"));
        python.arg(CLIENT).arg(self.rest.to_string()).arg(self.grpc.to_string());
        let mut python =
            python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("Python");
        let text = commands.iter().map(|command| format!("{command}\n")).collect::<String>();
        let mut stdin = python.stdin.take().expect("its input");
        let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = python.wait_with_output().expect("wait for Google's client");
        let _ = writer.join();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "Google's client failed:\n{errors}\n{}", self.log());
        let printed = String::from_utf8_lossy(&output.stdout);
        printed.lines().map(|line| serde_json::from_str(line).expect("JSON of Google's client")).collect()
    }

    /// Stops the server, as an administrator would in a hurry.
    pub fn stop(&self) {
        self.server().stop();
    }

    fn server(&self) -> MutexGuard<'_, Process> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of what it logged.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("bigquery.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while Instant::now() < deadline {
            if [self.rest, self.grpc].iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok()) {
                return;
            }
            let ended = self.server().ended();
            assert!(ended.is_none(), "the emulator ended at once ({ended:?}):\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the emulator does not get ready:\n{}", self.log());
    }
}

/// A program of the virtual environment that scripts/setup.sh makes.
fn program(name: &str) -> PathBuf {
    program_of("venv-bigquery", name)
}

fn launch(folder: &Path, rest: u16, grpc: u16) -> Process {
    bigquery::launch(folder, rest, grpc).expect("start the emulator").with_stop(Signal::SIGTERM, GRACE)
}
