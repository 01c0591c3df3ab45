//! A real Postgres for the tests, in a temporary folder on a free loopback port, killed when the test ends.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use townlake_common::Secret;

/// The running server.
pub struct PostgresServer {
    port: u16,
    child: Child,
    _folder: TempDir,
}

/// Starts a server, or says why the test is skipped. With `TOWNLAKE_REQUIRE_SERVERS` a missing one is a failure.
pub fn postgres_for(test: &str) -> Option<PostgresServer> {
    let Some(binaries) = binaries() else {
        assert!(std::env::var_os("TOWNLAKE_REQUIRE_SERVERS").is_none(), "{test}: there is no Postgres");
        println!("SKIPPED {test}: no Postgres binaries");
        return None;
    };
    let folder = tempfile::Builder::new().prefix("townlake-postgres-").tempdir().unwrap();
    if is_root() {
        chown(folder.path(), Some(id("-u")), Some(id("-g"))).unwrap();
    }
    let data = folder.path().join("data");
    let made = as_postgres(&binaries.join("initdb"))
        .args(["--auth=trust", "--username=postgres", "--no-sync", "--pgdata"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = as_postgres(&binaries.join("postgres"))
        .arg("-D")
        .arg(&data)
        .arg("-k")
        .arg(folder.path())
        .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = PostgresServer { port, child, _folder: folder };
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "Postgres does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(server)
}

impl PostgresServer {
    /// The URL of its database.
    pub fn url(&self) -> Secret {
        Secret::new(format!("postgres://postgres@127.0.0.1:{}/postgres", self.port))
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let _already_dead = self.child.kill(); // its children see the postmaster die and follow
        let _reaped = self.child.wait();
    }
}

/// Postgres refuses to run as root; `setpriv` becomes it, so that killing the child kills the server.
fn as_postgres(binary: &Path) -> Command {
    if !is_root() {
        return Command::new(binary);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(binary).current_dir("/");
    command
}

fn binaries() -> Option<PathBuf> {
    let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok).collect();
    versions.sort_by_key(std::fs::DirEntry::file_name);
    versions.into_iter().rev().map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists())
}

fn is_root() -> bool {
    run("id", &["-u"]) == "0"
}

fn id(which: &str) -> u32 {
    run("id", &[which, "postgres"]).parse().unwrap()
}

fn run(command: &str, arguments: &[&str]) -> String {
    String::from_utf8(Command::new(command).args(arguments).output().unwrap().stdout).unwrap().trim().to_string()
}
