//! Every section but the catalogs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use crate::{Error, ErrorCode, Result, Secret};

/// `[server]`: the public doors of a coordinator. Port 0 takes a free port, told in the first log line.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Flight SQL.
    pub flight: SocketAddr,
    /// Health, metrics, later the API and the console.
    pub http: SocketAddr,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { flight: loopback(50050), http: loopback(8080) }
    }
}

/// `[cluster]`: how nodes find each other.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Scheduler and executor traffic of a coordinator. Loopback only until mTLS comes.
    pub internal: SocketAddr,
    /// Who keeps the member list.
    pub membership: MembershipKind,
    /// The etcd endpoints.
    pub etcd: Vec<String>,
    /// Prefix of this cluster's keys in etcd: two clusters may share one etcd.
    pub name: String,
    /// How long a silent member stays in the list (D3: 5 s).
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            internal: loopback(50051),
            membership: MembershipKind::Embedded,
            etcd: vec!["http://127.0.0.1:2379".to_string()],
            name: "townlake".to_string(),
            lease_ttl: Duration::from_secs(5),
        }
    }
}

/// Where the member list lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MembershipKind {
    /// In this process: `townlake standalone`.
    Embedded,
    /// In etcd: a cluster.
    Etcd,
}

/// `[store]`: the coordinator's durable state.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `sqlite:///path/state.db` or `postgres://…`.
    pub url: Secret,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { url: Secret::new("sqlite:///var/lib/townlake/state.db") }
    }
}

/// `[executor]`: one executor node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutorConfig {
    /// Tasks and exchange.
    pub listen: SocketAddr,
    /// What other nodes dial; by default `listen`.
    pub advertise: Option<String>,
    /// Health and metrics.
    pub http: SocketAddr,
    /// Tasks that run at the same time; by default one a core.
    pub slots: usize,
    /// Memory for query data. A task that needs more than its share spills, then fails alone.
    pub memory: ByteSize,
    /// The part of `memory` that the output of tasks may take until it is read; by default a quarter. With `0B` all of it goes
    /// into files.
    pub exchange_memory: Option<ByteSize>,
    /// Shuffle files and spilled data. Emptied at start: give each executor its own.
    pub spill_dir: PathBuf,
    /// How long a stopping executor serves what it has.
    #[serde(with = "humantime_serde")]
    pub drain_limit: Duration,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self {
            listen: loopback(50061),
            advertise: None,
            http: loopback(8081),
            slots: std::thread::available_parallelism().map_or(2, usize::from),
            memory: ByteSize::gb(4),
            exchange_memory: None,
            spill_dir: PathBuf::from("/var/lib/townlake/spill"),
            drain_limit: Duration::from_secs(30),
        }
    }
}

impl ExecutorConfig {
    /// The part of the memory that is for the output of tasks.
    ///
    /// Errors: `CONFIG_INVALID` when it leaves nothing for the tasks.
    pub fn exchange_memory(&self) -> Result<ByteSize> {
        let part = self.exchange_memory.unwrap_or_else(|| ByteSize::b(self.memory.as_u64() / 4));
        if part.as_u64() < self.memory.as_u64() {
            return Ok(part);
        }
        let message = format!("executor.exchange_memory is {part}, and executor.memory only {}", self.memory);
        Err(Error::new(ErrorCode::ConfigInvalid, message).with_hint("leave at least half of the memory to the tasks"))
    }
}

/// `[auth]`: who may come in.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Lets anyone in as `anonymous`; accepted only with loopback doors.
    pub anonymous: bool,
    /// People, with passwords.
    pub users: Vec<UserConfig>,
    /// Services, with bearer tokens.
    pub tokens: Vec<TokenConfig>,
    /// Users and groups who may see and kill every query.
    pub admins: Vec<String>,
    /// Key that signs tickets and session tokens; by default a fresh random one per start.
    pub signing_key: Option<Secret>,
}

/// `[[auth.users]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserConfig {
    /// The user's name.
    pub name: String,
    /// Made by `townlake hash-password`.
    pub password_hash: Secret,
    /// Its groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// `[[auth.tokens]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The principal's name when this token comes.
    pub name: String,
    /// SHA-256 of the token, in hexadecimal (`townlake hash-password --token`).
    pub token_hash: Secret,
    /// Its groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

impl AuthConfig {
    pub(super) fn validate(&self, server: &ServerConfig) -> Result<()> {
        let open_door = [server.flight, server.http].into_iter().find(|door| !door.ip().is_loopback());
        match open_door {
            Some(door) if self.anonymous => Err(Error::new(
                ErrorCode::ConfigInvalid,
                format!("auth.anonymous = true is for loopback doors only, and a door listens on {door}"),
            )
            .with_hint("give [[auth.users]] or listen on 127.0.0.1")),
            _ => Ok(()),
        }
    }
}

/// `[limits]`: limits and defaults of queries; the session may lower them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// How long a query waits for the first executor before it fails with `NO_EXECUTORS`.
    #[serde(with = "humantime_serde")]
    pub executor_wait: Duration,
    /// The longest a query may run; 0 is for ever.
    #[serde(with = "humantime_serde")]
    pub query_timeout: Duration,
    /// Queries that run at the same time; more wait.
    pub concurrent_queries: usize,
    /// Memory of the queries that run inside the coordinator.
    pub coordinator_memory: ByteSize,
    /// How long a result ticket is good.
    #[serde(with = "humantime_serde")]
    pub ticket_ttl: Duration,
    /// A session without calls ends after this.
    #[serde(with = "humantime_serde")]
    pub session_ttl: Duration,
    /// The largest statement text in bytes.
    pub statement_size: ByteSize,
    /// Partitions of an exchange; 0 is twice the slots of the cluster.
    pub partitions: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            executor_wait: Duration::from_secs(30),
            query_timeout: Duration::ZERO,
            concurrent_queries: 64,
            coordinator_memory: ByteSize::gb(1),
            ticket_ttl: Duration::from_secs(3600),
            session_ttl: Duration::from_secs(4 * 3600),
            statement_size: ByteSize::mb(1),
            partitions: 0,
        }
    }
}

/// `[maintenance]`: a coordinator looks after tables as their properties say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaintenanceConfig {
    /// How often it looks what is due; 0 is never.
    #[serde(with = "humantime_serde")]
    pub check_every: Duration,
    /// In whose name: tables of catalogs that this principal may not write are left alone.
    pub principal: String,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self { check_every: Duration::from_secs(5 * 60), principal: "maintenance".to_string() }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
