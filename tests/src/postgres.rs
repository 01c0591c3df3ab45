//! A real Postgres of a test's own: in a temporary folder, on a free loopback port, never as root. Debian's 15, or the one whose programs
//! lie in `TOWNLAKE_POSTGRES_BIN`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::server::{self, free_port, shared, skip};

/// Where Debian keeps the server's programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// Where the server's programs lie.
fn programs() -> PathBuf {
    std::env::var_os("TOWNLAKE_POSTGRES_BIN").map_or_else(|| PathBuf::from(PROGRAMS), PathBuf::from)
}
/// The superuser's password, to be looked for where it must not be.
pub const PASSWORD: &str = "hunter2-postgres";

static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());

/// A running server. Dropped, also by a failing test, it is killed by its process id and its folder removed.
pub struct Postgres {
    server: Mutex<Child>,
    folder: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
}

impl Postgres {
    /// A server of one's own; `None` (and a line on standard error) where Postgres is not installed, unless
    /// `TOWNLAKE_REQUIRE_SERVERS` is set. Panics when it is installed and does not start.
    pub fn start(test: &str) -> Option<Self> {
        let programs = programs();
        if !programs.join("postgres").exists() {
            return skip(test, &format!("Postgres in {}", programs.display()));
        }
        let folder = own_folder();
        initialise(folder.path());
        Some(Self::launched(folder, Vec::new()))
    }

    fn launched(folder: tempfile::TempDir, settings: Vec<String>) -> Self {
        let port = free_port();
        let server = Mutex::new(launch(folder.path(), port, &settings));
        let postgres = Self { server, folder, port, settings };
        postgres.wait_until_ready();
        postgres
    }

    /// A hot standby that streams from this server, with further settings; `None` (and a line on standard error) where there is no
    /// `pg_basebackup`, unless `TOWNLAKE_REQUIRE_SERVERS` is set.
    pub fn standby(&self, test: &str, settings: &[&str]) -> Option<Self> {
        if !programs().join("pg_basebackup").exists() {
            return skip(test, &format!("pg_basebackup in {}", programs().display()));
        }
        let folder = own_folder();
        let mut backup = program("pg_basebackup");
        backup.args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-c",
            "fast",
            "-X",
            "stream",
            "-R",
            "-p",
            &self.port.to_string(),
        ]);
        backup.arg("-D").arg(folder.path().join("data")).env("PGPASSWORD", PASSWORD);
        run(backup);
        Some(Self::launched(folder, settings.iter().map(|setting| setting.to_string()).collect()))
    }

    /// The server that tests share while one of them runs. Each test works in a database of its own.
    pub fn shared(test: &str) -> Option<Arc<Self>> {
        shared(&SHARED, || Self::start(test))
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
        *server = launch(self.folder.path(), self.port, &self.settings);
        drop(server);
        self.wait_until_ready();
    }

    fn server(&self) -> MutexGuard<'_, Child> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if self.asks_for_a_password() {
                return;
            }
            let ended = self.server().try_wait().ok().flatten();
            assert!(ended.is_none(), "Postgres ended at once ({ended:?}):\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("Postgres does not get ready:\n{}", self.log());
    }
}

impl Postgres {
    /// As `pg_isready`, which not every build has: a server that starts up answers with an error.
    fn asks_for_a_password(&self) -> bool {
        let mut startup = vec![0, 0, 0, 23, 0, 3, 0, 0];
        startup.extend(b"user\0postgres\0\0");
        let ask = || -> std::io::Result<u8> {
            let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.write_all(&startup)?;
            let mut kind = [0];
            socket.read_exact(&mut kind)?;
            Ok(kind[0])
        };
        ask().is_ok_and(|kind| kind == b'R')
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        stop(&mut self.server());
    }
}

/// Immediate shutdown of the postmaster, which ends its children; SIGKILL should it hang.
pub(crate) fn stop(server: &mut Child) {
    server::stop(server, Signal::SIGQUIT, Duration::from_secs(10));
}

/// A temporary folder of the server's account.
pub(crate) fn own_folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("townlake-postgres-").tempdir().expect("a temporary folder");
    if let Some(account) = account() {
        let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
        std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).expect("chown the folder");
    }
    folder
}

/// The account that Postgres runs under when the tests run as root.
fn account() -> Option<User> {
    geteuid().is_root().then(|| User::from_name("postgres").ok().flatten().expect("the account postgres exists"))
}

/// A program of the server, not as root.
fn program(name: &str) -> Command {
    not_as_root(&programs().join(name))
}

/// A program that runs under the server's account.
pub(crate) fn not_as_root(program: &Path) -> Command {
    let mut command = Command::new(program);
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

fn launch(folder: &Path, port: u16, more: &[String]) -> Child {
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
    for setting in settings.iter().chain(more) {
        server.arg("-c").arg(setting);
    }
    server.stdout(Stdio::null()).stderr(log).spawn().expect("start Postgres")
}
