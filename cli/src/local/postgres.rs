//! A private Postgres: real, loopback only, with a password of its own.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tempfile::TempDir;
use townlake_common::{Error, ErrorCode, Result};

use super::process::{Process, command, free_port, random_password};

/// A running Postgres server.
pub struct Postgres {
    /// The postmaster.
    pub process: Process,
    port: u16,
    password: String,
    folder: TempDir,
}

impl Postgres {
    /// Whether a Postgres server is installed.
    pub fn is_installed() -> bool {
        binaries().is_some()
    }

    /// Makes a new database cluster and starts it. `settings` are lines of postgresql.conf.
    ///
    /// Postgres refuses to run as root: then it runs as the user `postgres`, in a folder under the system's temporary
    /// folder (a home of root is closed to that user).
    pub async fn start(settings: &[&str]) -> Result<Self> {
        let binaries = binaries().ok_or_else(|| {
            Error::new(ErrorCode::ConfigInvalid, "no Postgres server is installed")
                .with_hint("apt-get install postgresql-15, or use --embedded")
        })?;
        let failed = |what: &str, e: std::io::Error| Error::new(ErrorCode::Internal, format!("Postgres: {what}: {e}"));
        let folder = tempfile::Builder::new().prefix("townlake-postgres-").tempdir();
        let folder = folder.map_err(|e| failed("no temporary folder", e))?;
        let owner = server_user()?;
        let password = random_password();
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, &password).map_err(|e| failed("password file", e))?;
        std::fs::set_permissions(&password_file, std::fs::Permissions::from_mode(0o600))
            .map_err(|e| failed("password file", e))?;
        if let Some(owner) = &owner {
            for path in [folder.path(), password_file.as_path()] {
                chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).map_err(|e| failed("ownership", e))?;
            }
        }
        let data = folder.path().join("data");
        let mut initdb = server_command(&binaries.join("initdb"), owner.as_ref(), folder.path());
        initdb.args(["--pgdata".as_ref(), data.as_os_str()]);
        initdb.args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]);
        initdb.arg(format!("--pwfile={}", password_file.display()));
        Process::start("initdb", initdb, folder.path())?.finish(Duration::from_secs(60)).await?;
        let port = free_port()?;
        let mut command = server_command(&binaries.join("postgres"), owner.as_ref(), folder.path());
        command.args(["-D".as_ref(), data.as_os_str()]).args(["-p", &port.to_string(), "-k"]).arg(folder.path());
        for setting in ["listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off"].iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let process =
            Process::start("postgres", command, folder.path())?.with_stop(Signal::SIGINT, Duration::from_secs(8));
        let mut postgres = Self { process, port, password, folder };
        let url = postgres.url("postgres");
        postgres.process.wait_until(Duration::from_secs(30), || async { connect(&url).await.is_ok() }).await?;
        Ok(postgres)
    }

    /// The connection URL of a database, with its password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Everything that the server logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("postgres.log")).unwrap_or_default()
    }

    /// A client connection to a database.
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client> {
        connect(&self.url(database)).await
    }
}

async fn connect(url: &str) -> Result<tokio_postgres::Client> {
    let refused =
        |e: tokio_postgres::Error| Error::new(ErrorCode::SourceUnavailable, "Postgres does not answer").with_source(e);
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.map_err(refused)?;
    tokio::spawn(connection);
    Ok(client)
}

/// The folder of `initdb` and `postgres`: Debian's newest version, else the `PATH`.
fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(|entry| entry.ok());
    let mut folders: Vec<_> = versions.map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    folders.into_iter().find(|folder| folder.join("postgres").is_file() && folder.join("initdb").is_file())
}

/// Who runs the server when we are root.
fn server_user() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres").ok().flatten();
    user.map(Some).ok_or_else(|| {
        Error::new(ErrorCode::ConfigInvalid, "Postgres does not run as root and there is no user `postgres`")
            .with_hint("the package postgresql-15 makes one; or run as another user")
    })
}

fn server_command(program: &Path, owner: Option<&User>, folder: &Path) -> Command {
    // SIGINT is Postgres's fast shutdown
    let mut command = command(program, Signal::SIGINT);
    command.current_dir(folder).env("LC_ALL", "C.UTF-8");
    if let Some(owner) = owner {
        command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
    }
    command
}
