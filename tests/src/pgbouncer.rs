//! A real pgbouncer of a test's own, in front of a test's Postgres: SCRAM on both sides, without TLS.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::postgres::{PASSWORD, Postgres, not_as_root, own_folder, stop};
use crate::server::{free_port, skip};

/// Where Debian keeps it.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A running pooler. Dropped, it is stopped by its process id and its folder removed.
pub struct PgBouncer {
    pooler: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl PgBouncer {
    /// A pooler in `mode` (`session`, `transaction`) with at most `pool` connections to each database; `None` (and a line on standard
    /// error) where it is not installed, unless `TOWNLAKE_REQUIRE_SERVERS` is set.
    pub fn start(test: &str, postgres: &Postgres, mode: &str, pool: usize) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            return skip(test, PROGRAM);
        }
        let folder = own_folder();
        let place = folder.path().display().to_string();
        let port = free_port();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {place}/users\npool_mode = {mode}\n\
             default_pool_size = {pool}\nmax_client_conn = 200\nlogfile = {place}/log\nserver_tls_sslmode = disable\n",
            postgres.port()
        );
        fs::write(folder.path().join("pgbouncer.ini"), settings).expect("write pgbouncer.ini");
        // In clear: it logs in to the server with it.
        fs::write(folder.path().join("users"), format!("\"postgres\" \"{PASSWORD}\"\n")).expect("write the users");
        let mut command = not_as_root(Path::new(PROGRAM));
        command.arg(folder.path().join("pgbouncer.ini")).stdout(Stdio::null()).stderr(Stdio::null());
        let pooler = command.spawn().expect("start pgbouncer");
        let pooler = Self { pooler, folder, port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "pgbouncer does not listen: {}", pooler.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(pooler)
    }

    /// A URL of the superuser for one database, through the pooler.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        stop(&mut self.pooler);
    }
}
