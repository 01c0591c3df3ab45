//! ClickHouse of a test's own, in a temporary folder, on free loopback ports: Debian's old server, and the modern engine (PyPI
//! `chdb`) behind an HTTP front of ours. The one shows the real wire, users and errors, the other today's types and ArrowStream.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use townlake_cli::local::clickhouse::{self, User};
use townlake_cli::local::{Process, command, program_of};

use crate::server::{free_port, shared, skip};

/// The front of the embedded engine.
const FRONT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/chdb_http.py");
/// How long it may take to end.
const GRACE: Duration = Duration::from_secs(3);
/// The password of every user, to be looked for where it must not be.
pub const PASSWORD: &str = "hunter2-clickhouse";

/// Which ClickHouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Debian's server, 18.16.
    Old,
    /// The engine of today behind our front.
    Modern,
}

static SHARED: [Mutex<Weak<ClickHouse>>; 2] = [const { Mutex::new(Weak::new()) }; 2];

/// A running server. Dropped, also by a failing test, it is killed by its process id and its folder removed.
pub struct ClickHouse {
    /// Which it is.
    pub engine: Engine,
    server: Mutex<Process>,
    folder: tempfile::TempDir,
    port: u16,
    tls_port: u16,
}

impl ClickHouse {
    /// A server of one's own; `None` (and a line on standard error) where it is not installed, unless
    /// `TOWNLAKE_REQUIRE_SERVERS` is set. Panics when it is installed and does not start.
    pub fn start(engine: Engine, test: &str) -> Option<Self> {
        let program = match engine {
            Engine::Old => clickhouse::binary().unwrap_or_else(|| PathBuf::from("clickhouse-server")),
            Engine::Modern => python(),
        };
        if !program.exists() {
            return skip(test, &program.display().to_string());
        }
        let folder = tempfile::Builder::new().prefix("townlake-clickhouse-").tempdir().expect("a temporary folder");
        let (port, tls_port) = (free_port(), free_port());
        if engine == Engine::Old {
            make_certificate(folder.path());
            configure(folder.path(), port, tls_port);
        }
        let server = Mutex::new(launch(engine, folder.path(), port));
        let clickhouse = Self { engine, server, folder, port, tls_port };
        clickhouse.wait_until_ready();
        Some(clickhouse)
    }

    /// The server that tests share while one of them runs. Each test works in a database of its own.
    pub fn shared(engine: Engine, test: &str) -> Option<Arc<Self>> {
        shared(&SHARED[engine as usize], || Self::start(engine, test))
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the administrator, with the password in it.
    pub fn url(&self) -> String {
        self.url_of("default")
    }

    /// The URL of a user: `default`, `reader` (may change no setting), `cut` (whose answers a limit cuts short as well),
    /// `single` (one statement at a time).
    pub fn url_of(&self, user: &str) -> String {
        format!("http://{user}:{PASSWORD}@127.0.0.1:{}/", self.port)
    }

    /// The URL of the administrator over TLS.
    pub fn tls_url(&self) -> String {
        format!("https://default:{PASSWORD}@127.0.0.1:{}/", self.tls_port)
    }

    /// The authority that signed the server's certificate; `None` where openssl is not installed, and of the modern engine.
    pub fn authority(&self) -> Option<PathBuf> {
        Some(self.folder.path().join("ca.crt")).filter(|path| path.exists())
    }

    /// Runs a statement of the administrator and gives its answer. Panics when it fails.
    pub async fn run(&self, sql: &str) -> String {
        let request = reqwest::Client::new().post(format!("http://127.0.0.1:{}/", self.port)).body(sql.to_string());
        let request = request.header("X-ClickHouse-User", "default").header("X-ClickHouse-Key", PASSWORD);
        let answer = request.send().await.expect("reach ClickHouse");
        let status = answer.status();
        let text = answer.text().await.expect("read ClickHouse's answer");
        assert!(status.is_success(), "{sql}\n{status} {text}");
        text
    }

    /// A new database.
    pub async fn create_database(&self, name: &str) {
        self.run(&format!("CREATE DATABASE {name}")).await;
    }

    /// Stops the server, as an administrator would in a hurry.
    pub fn stop(&self) {
        self.server().stop();
    }

    /// Starts it again, on the same port and data.
    pub fn restart(&self) {
        let mut server = self.server();
        server.stop();
        *server = launch(self.engine, self.folder.path(), self.port);
        drop(server);
        self.wait_until_ready();
    }

    fn server(&self) -> MutexGuard<'_, Process> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("clickhouse.log")).unwrap_or_default()
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            let ended = self.server().ended();
            assert!(ended.is_none(), "ClickHouse ended at once ({ended:?}):\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("ClickHouse does not get ready:\n{}", self.log());
    }
}

/// The Python that has `chdb`; scripts/setup.sh installs it.
fn python() -> PathBuf {
    program_of("venv-chdb", "python")
}

/// An authority, and a certificate of it for 127.0.0.1, where openssl is installed.
fn make_certificate(folder: &Path) {
    let _ = fs::write(folder.join("extensions"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n");
    let steps = [
        "req -x509 -newkey rsa:2048 -nodes -subj /CN=authority -keyout ca.key -out ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -set_serial 1 -extfile extensions -out server.crt",
    ];
    for step in steps {
        let mut openssl = Command::new("openssl");
        let _ = openssl.args(step.split(' ')).current_dir(folder).stdin(Stdio::null()).output();
    }
}

fn configure(folder: &Path, port: u16, tls_port: u16) {
    let tls = if folder.join("server.crt").exists() {
        format!(
            "<https_port>{tls_port}</https_port><openSSL><server><certificateFile>{0}/server.crt</certificateFile>\
             <privateKeyFile>{0}/server.key</privateKeyFile><verificationMode>none</verificationMode>\
             <loadDefaultCAFile>false</loadDefaultCAFile></server></openSSL>",
            folder.display()
        )
    } else {
        String::new()
    };
    let more = format!("{tls}<max_concurrent_queries>50</max_concurrent_queries>");
    let users = ["default", "reader", "cut", "loose", "single"];
    let users = users.map(|name| User { name, password: PASSWORD, profile: name });
    clickhouse::configure(folder, port, &more, PROFILES, &users).expect("write the configuration");
}

/// Of each user its own.
const PROFILES: &str = "<default><max_memory_usage>2000000000</max_memory_usage></default>\
    <reader><readonly>1</readonly></reader>\
    <cut><readonly>1</readonly><max_result_rows>10</max_result_rows><result_overflow_mode>break</result_overflow_mode></cut>\
    <loose><max_result_rows>10</max_result_rows><result_overflow_mode>break</result_overflow_mode></loose>\
    <single><max_concurrent_queries_for_user>1</max_concurrent_queries_for_user></single>";

fn launch(engine: Engine, folder: &Path, port: u16) -> Process {
    let server = match engine {
        Engine::Old => clickhouse::launch(folder),
        Engine::Modern => {
            let mut server = command(&python(), Signal::SIGTERM);
            server.arg(FRONT).arg(port.to_string()).arg(folder.join("data")).current_dir(folder);
            Process::start("clickhouse", server, folder)
        }
    };
    server.expect("start ClickHouse").with_stop(Signal::SIGTERM, GRACE)
}
