//! A private ClickHouse server, Debian's: real, loopback only, with a password of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use townlake_common::{Error, ErrorCode, Result};

use super::process::{Process, command, find_program, free_port, random_password, write_private};

/// Each statement is in `system.query_log`, half a second later.
const QUERY_LOG: &str = "<query_log><database>system</database><table>query_log</table>\
    <flush_interval_milliseconds>500</flush_interval_milliseconds></query_log>";
const PROFILE: &str = "<default><max_memory_usage>2000000000</max_memory_usage><log_queries>1</log_queries><log_query_threads>0</log_query_threads></default>";

/// A running ClickHouse server.
pub struct ClickHouse {
    /// The process.
    pub process: Process,
    port: u16,
    password: String,
}

impl ClickHouse {
    /// Whether a server is installed.
    pub fn is_installed() -> bool {
        binary().is_some()
    }

    /// Starts a server with its data in `<folder>/clickhouse` and waits until it answers.
    pub async fn start(folder: &Path) -> Result<Self> {
        let folder = folder.join("clickhouse");
        let (port, password) = (free_port()?, random_password());
        let users = [User { name: "default", password: &password, profile: "default" }];
        configure(&folder, port, QUERY_LOG, PROFILE, &users)?;
        let process = launch(&folder)?;
        let mut clickhouse = Self { process, port, password };
        let ping = format!("http://127.0.0.1:{port}/ping");
        let answers = || async { reqwest::get(&ping).await.is_ok_and(|answer| answer.status().is_success()) };
        clickhouse.process.wait_until(Duration::from_secs(60), answers).await?;
        Ok(clickhouse)
    }

    /// The URL with the password in it.
    pub fn url(&self) -> String {
        format!("http://default:{}@127.0.0.1:{}/", self.password, self.port)
    }

    /// The password, to be looked for where it must not be.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Runs a statement, with data after its text where it is an `INSERT … FORMAT`.
    pub async fn run(&self, sql: &str, data: String) -> Result<()> {
        let failed = |text: String| Error::new(ErrorCode::SourceError, format!("the private ClickHouse: {text}"));
        let request = reqwest::Client::new().post(format!("http://127.0.0.1:{}/", self.port));
        let request = request.body(format!("{sql}\n{data}"));
        let request = request.header("X-ClickHouse-User", "default").header("X-ClickHouse-Key", &self.password);
        let answer = request.send().await.map_err(|error| failed(error.to_string()))?;
        if !answer.status().is_success() {
            return Err(failed(answer.text().await.unwrap_or_default()));
        }
        Ok(())
    }
}

/// The server's program. Debian keeps it where a user's `PATH` may not lead.
pub fn binary() -> Option<PathBuf> {
    let debian = PathBuf::from("/usr/sbin/clickhouse-server");
    if debian.is_file() { Some(debian) } else { find_program("clickhouse-server") }
}

/// A user with its password and the name of its profile.
pub struct User<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its password.
    pub password: &'a str,
    /// What it may and may not, one of the profiles.
    pub profile: &'a str,
}

/// Writes the settings of a server that keeps its data in `folder`; `more` and `profiles` are XML.
pub fn configure(folder: &Path, port: u16, more: &str, profiles: &str, users: &[User<'_>]) -> Result<()> {
    let (tcp, interserver) = (free_port()?, free_port()?);
    let path = |name: &str| {
        let path = folder.join(name);
        let failed = |e| Error::new(ErrorCode::Internal, format!("{} cannot be made: {e}", path.display()));
        std::fs::create_dir_all(&path).map_err(failed)?;
        Ok::<_, Error>(format!("{}/", path.display()))
    };
    let config = format!(
        "<yandex>{more}<logger><level>warning</level><console>1</console></logger>\
         <http_port>{port}</http_port><tcp_port>{tcp}</tcp_port><interserver_http_port>{interserver}</interserver_http_port>\
         <listen_host>127.0.0.1</listen_host><timezone>UTC</timezone>\
         <path>{}</path><tmp_path>{}</tmp_path><user_files_path>{}</user_files_path><format_schema_path>{}</format_schema_path>\
         <users_config>users.xml</users_config><default_profile>default</default_profile>\
         <default_database>default</default_database><mark_cache_size>67108864</mark_cache_size></yandex>",
        path("data")?,
        path("tmp")?,
        path("files")?,
        path("schemas")?
    );
    let user = |User { name, password, profile }: &User<'_>| {
        format!(
            "<{name}><password>{password}</password><networks><ip>127.0.0.1</ip></networks><profile>{profile}</profile>\
             <quota>default</quota></{name}>"
        )
    };
    let users = format!(
        "<yandex><profiles>{profiles}</profiles><users>{}</users><quotas><default/></quotas></yandex>",
        users.iter().map(user).collect::<String>()
    );
    write_private(&folder.join("config.xml"), &config)?;
    write_private(&folder.join("users.xml"), &users)
}

/// Starts the server, as it is configured.
pub fn launch(folder: &Path) -> Result<Process> {
    let binary = binary().ok_or_else(|| {
        Error::new(ErrorCode::ConfigInvalid, "no ClickHouse server is installed")
            .with_hint("apt-get install clickhouse-server")
    })?;
    let mut server = command(&binary, Signal::SIGTERM);
    server.arg(format!("--config-file={}", folder.join("config.xml").display())).current_dir(folder);
    Process::start("clickhouse", server, folder)
}
