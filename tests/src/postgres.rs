//! A real Postgres 15 of a test's own: in a temporary folder, on a free loopback port, never as root.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

/// Where Debian keeps the server's programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// The superuser's password, to be looked for where it must not be.
pub const PASSWORD: &str = "hunter2-postgres";

static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());

/// A running server. Dropped, also by a failing test, it is killed by its process id and its folder removed.
pub struct Postgres {
    server: Mutex<Child>,
    folder: tempfile::TempDir,
    port: u16,
}

impl Postgres {
    /// A server of one's own; `None` (and a line on standard error) where Postgres is not installed, unless
    /// `TOWNLAKE_REQUIRE_SERVERS` is set. Panics when it is installed and does not start.
    pub fn start(test: &str) -> Option<Self> {
        if !Path::new(PROGRAMS).join("postgres").exists() {
            let required = std::env::var_os("TOWNLAKE_REQUIRE_SERVERS").is_some();
            assert!(!required, "{test} needs Postgres 15 in {PROGRAMS}");
            eprintln!("SKIPPED {test}: there is no Postgres 15 in {PROGRAMS}");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("townlake-postgres-").tempdir().expect("a temporary folder");
        let account = account();
        if let Some(account) = &account {
            let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).expect("chown the folder");
        }
        initialise(folder.path());
        let port = free_port();
        let server = Mutex::new(launch(folder.path(), port));
        let postgres = Self { server, folder, port };
        postgres.wait_until_ready();
        Some(postgres)
    }

    /// The server that tests share while one of them runs. Each test works in a database of its own.
    pub fn shared(test: &str) -> Option<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Some(running);
        }
        let started = Arc::new(Self::start(test)?);
        *shared = Arc::downgrade(&started);
        Some(started)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL of the superuser for one database, with the password in it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// A connection of the superuser. Panics when there is none.
    pub async fn connect(&self, database: &str) -> tokio_postgres::Client {
        let connected = tokio_postgres::connect(&self.url(database), tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("connect to the test's Postgres");
        tokio::spawn(connection);
        client
    }

    /// A new database, and a connection of the superuser to it.
    pub async fn create_database(&self, name: &str) -> tokio_postgres::Client {
        let client = self.connect("postgres").await;
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("create the test's database");
        self.connect(name).await
    }

    /// What the server has logged so far: every statement, with time, process id and application name.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The authority that signed the server's certificate; `None` where openssl is not installed.
    pub fn authority(&self) -> Option<PathBuf> {
        Some(self.folder.path().join("ca.crt")).filter(|path| path.exists())
    }

    /// Stops the server, as an administrator would in a hurry.
    pub fn stop(&self) {
        stop(&mut self.server());
    }

    /// Starts it again, on the same port and data.
    pub fn restart(&self) {
        let mut server = self.server();
        stop(&mut server);
        *server = launch(self.folder.path(), self.port);
        drop(server);
        self.wait_until_ready();
    }

    fn server(&self) -> MutexGuard<'_, Child> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let address = self.port.to_string();
        while Instant::now() < deadline {
            let probe = program("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &address]).status();
            if probe.is_ok_and(|status| status.success()) {
                return;
            }
            let ended = self.server().try_wait().ok().flatten();
            assert!(ended.is_none(), "Postgres ended at once ({ended:?}):\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("Postgres does not get ready:\n{}", self.log());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        stop(&mut self.server());
    }
}

/// Immediate shutdown of the postmaster, which ends its children; SIGKILL should it hang.
fn stop(server: &mut Child) {
    if let Ok(pid) = i32::try_from(server.id())
        && matches!(server.try_wait(), Ok(None))
    {
        let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && matches!(server.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = server.kill();
        let _ = server.wait();
    }
}

/// The account that Postgres runs under when the tests run as root.
fn account() -> Option<User> {
    geteuid().is_root().then(|| User::from_name("postgres").ok().flatten().expect("the account postgres exists"))
}

/// A program of the server, not as root.
fn program(name: &str) -> Command {
    let mut command = Command::new(Path::new(PROGRAMS).join(name));
    if let Some(account) = account() {
        command.uid(account.uid.as_raw()).gid(account.gid.as_raw());
    }
    command.current_dir("/").env_remove("PGPASSWORD").stdin(Stdio::null());
    command
}

fn run(mut command: Command) {
    let output = command.output().expect("run a program");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn initialise(folder: &Path) {
    let password = folder.join("password");
    fs::write(&password, PASSWORD).expect("write the password file");
    let mut initdb = program("initdb");
    initdb.arg("-D").arg(folder.join("data")).arg("--pwfile").arg(&password);
    initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
    run(initdb);
    make_certificate(folder);
}

/// An authority, and a certificate of it for 127.0.0.1, where openssl is installed.
fn make_certificate(folder: &Path) {
    let _ = fs::write(folder.join("extensions"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n");
    let steps: [&[&str]; 3] = [
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=test authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
        ],
        &[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=127.0.0.1",
            "-keyout",
            "server.key",
            "-out",
            "server.csr",
        ],
        &[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-set_serial",
            "1",
            "-extfile",
            "extensions",
            "-out",
            "server.crt",
        ],
    ];
    for step in steps {
        let mut openssl = Command::new("openssl");
        if let Some(account) = account() {
            openssl.uid(account.uid.as_raw()).gid(account.gid.as_raw());
        }
        let _ = openssl.args(step).current_dir(folder).stdin(Stdio::null()).output();
    }
}

fn launch(folder: &Path, port: u16) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("open the log");
    let mut server = program("postgres");
    server.arg("-D").arg(folder.join("data")).arg("-p").arg(port.to_string());
    let mut settings = vec![
        "listen_addresses=127.0.0.1".to_string(),
        "unix_socket_directories=".to_string(),
        "fsync=off".to_string(),
        "max_connections=60".to_string(),
        "shared_buffers=32MB".to_string(),
        "log_statement=all".to_string(),
        "log_line_prefix=%m [%p] %a ".to_string(),
    ];
    if folder.join("server.crt").exists() {
        settings.push("ssl=on".to_string());
        settings.push(format!("ssl_cert_file={}", folder.join("server.crt").display()));
        settings.push(format!("ssl_key_file={}", folder.join("server.key").display()));
    }
    for setting in settings {
        server.arg("-c").arg(setting);
    }
    server.stdout(Stdio::null()).stderr(log).spawn().expect("start Postgres")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
