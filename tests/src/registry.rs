//! A real schema registry of a test's own: Apicurio, which speaks Confluent's API and keeps all in memory, from Maven Central;
//! and a door in front of it that asks for a login, over TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use townlake_cli::local::fetched;

use crate::kafka::Kafka;
use crate::server::{free_port, shared, skip};

/// The password of `reader` at the door, to be looked for where it must not be.
pub const PASSWORD: &str = "hunter2-registry";
/// The token that the door takes as well.
pub const TOKEN: &str = "hunter2-token";

static SHARED: Mutex<Weak<Registry>> = Mutex::new(Weak::new());

/// A running registry. Dropped, also by a failing test, it is killed by its process id and its folder removed.
pub struct Registry {
    server: Mutex<Child>,
    door: Mutex<Option<Child>>,
    folder: tempfile::TempDir,
    port: u16,
}

impl Registry {
    /// A registry of one's own; `None` (and a line on standard error) where it was not fetched, unless
    /// `TOWNLAKE_REQUIRE_SERVERS` is set. Panics when it is there and does not start.
    pub fn start(test: &str) -> Option<Self> {
        let home = fetched("TOWNLAKE_REGISTRY", "registry");
        if !home.join("complete.stamp").exists() {
            return skip(test, &format!("Apicurio Registry in {}", home.display()));
        }
        let folder = tempfile::Builder::new().prefix("townlake-registry-").tempdir().expect("a temporary folder");
        let port = free_port();
        let server = Mutex::new(launch(&home, folder.path(), port));
        let registry = Self { server, door: Mutex::new(None), folder, port };
        registry.wait_until_ready();
        Some(registry)
    }

    /// The registry that tests share while one of them runs. Each test works in subjects of its own.
    pub fn shared(test: &str) -> Option<Arc<Self>> {
        shared(&SHARED, || Self::start(test))
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    /// `host:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of a door in front of it: TLS with the certificate of `kafka`'s authority, `reader` and [`PASSWORD`], or [`TOKEN`].
    pub fn door(&self, kafka: &Kafka) -> String {
        let port = free_port();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/registry_door.py");
        let mut command = Command::new("python3");
        command.arg(script).args([port.to_string(), self.port.to_string()]).arg(kafka.file("server.pem"));
        command.args([&format!("reader:{PASSWORD}"), TOKEN]).stdin(Stdio::null()).stdout(Stdio::null());
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = Some(command.spawn().expect("start the door"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the door does not open");
            std::thread::sleep(Duration::from_millis(50));
        }
        format!("https://127.0.0.1:{port}/apis/ccompat/v7")
    }

    /// Kills it.
    pub fn stop(&self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = server.kill();
        let _ = server.wait();
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        while Instant::now() < deadline {
            if log().contains("Listening on:") {
                return;
            }
            let ended = self.server.lock().unwrap_or_else(PoisonError::into_inner).try_wait().ok().flatten();
            assert!(ended.is_none(), "the registry ended at once ({ended:?}):\n{}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the registry does not get ready:\n{}", log());
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
        if let Some(mut door) = self.door.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = door.kill();
            let _ = door.wait();
        }
    }
}

fn launch(home: &Path, folder: &Path, port: u16) -> Child {
    let is_runner = |path: &PathBuf| path.to_string_lossy().ends_with("-runner.jar");
    let mut entries =
        fs::read_dir(home).expect("read the registry's folder").filter_map(|entry| Some(entry.ok()?.path()));
    let runner = entries.find(is_runner).expect("the registry's jar");
    let log = fs::File::create(folder.join("log")).expect("write the log");
    let also = log.try_clone().expect("the log twice");
    let mut command = Command::new("java");
    command.args(["-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1"]);
    command.arg(format!("-Dquarkus.http.port={port}")).arg("-jar").arg(runner);
    command.current_dir(folder).stdin(Stdio::null()).stdout(log).stderr(also).spawn().expect("start the registry")
}
