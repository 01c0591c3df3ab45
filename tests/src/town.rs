//! A whole cluster inside the test's process: real doors and real exchange over TCP, embedded membership, nothing installed.
//!
//! It runs the code that was just compiled, so nothing can be out of date. What needs processes (signals, a real etcd)
//! uses the bed of the chaos tests instead.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use townlake_cli::args::ConnectArgs;
use townlake_cli::connection::Connection;
use townlake_cluster::{EmbeddedMembership, Membership};
use townlake_common::Result;
use townlake_common::config::Config;
use townlake_coordinator::{Coordinator, CoordinatorHandle};
use townlake_executor::{Executor, ExecutorHandle};

/// What the configuration of a [`Town`] says beyond addresses and folders.
pub struct TownSpec {
    executors: usize,
    sections: String,
}

impl Default for TownSpec {
    fn default() -> Self {
        Self { executors: 2, sections: String::new() }
    }
}

impl TownSpec {
    /// So many executors, of two slots each; two, unless told.
    #[must_use]
    pub fn executors(mut self, executors: usize) -> Self {
        self.executors = executors;
        self
    }

    /// Adds a user with a password and groups.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str, groups: &[&str]) -> Self {
        let hash = townlake_governance::hash_password(password).expect("hash the password");
        let _ = writeln!(
            self.sections,
            "[[auth.users]]\nname = \"{name}\"\npassword_hash = \"{hash}\"\ngroups = {groups:?}"
        );
        self
    }

    /// Adds a bearer token.
    #[must_use]
    pub fn token(mut self, name: &str, token: &str, groups: &[&str]) -> Self {
        let hash = townlake_governance::hash_token(token);
        let _ =
            writeln!(self.sections, "[[auth.tokens]]\nname = \"{name}\"\ntoken_hash = \"{hash}\"\ngroups = {groups:?}");
        self
    }

    /// Adds an Iceberg catalog on SQLite and local files, in a folder of its own name.
    #[must_use]
    pub fn lake(mut self, name: &str, readers: &[&str], writers: &[&str]) -> Self {
        let _ = writeln!(
            self.sections,
            "[catalogs.{name}]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite://{{folder}}/{name}.db\"\n\
             warehouse = \"file://{{folder}}/{name}\"\nreaders = {readers:?}\nwriters = {writers:?}"
        );
        self
    }

    /// Adds lines of TOML; `{folder}` in them is the town's folder.
    #[must_use]
    pub fn toml(mut self, lines: &str) -> Self {
        let _ = writeln!(self.sections, "{lines}");
        self
    }

    /// Starts it.
    pub async fn start(self) -> Town {
        Town::start(self).await.expect("start a coordinator and executors in this process")
    }
}

/// A running cluster. Its parts end with it.
pub struct Town {
    coordinator: CoordinatorHandle,
    /// The executors.
    pub executors: Vec<ExecutorHandle>,
    membership: Arc<dyn Membership>,
    sections: String,
    folder: TempDir,
}

impl Town {
    async fn start(spec: TownSpec) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("townlake-test-").tempdir().expect("a temporary folder");
        let membership: Arc<dyn Membership> = Arc::new(EmbeddedMembership::default());
        let mut executors = Vec::new();
        for number in 1..=spec.executors {
            let config = config(folder.path(), &format!("executor-{number}"), &spec.sections)?;
            executors.push(Executor::start(&config, Arc::clone(&membership)).await?);
        }
        let config = config(folder.path(), "coordinator", &spec.sections)?;
        let coordinator = Coordinator::start(config, Arc::clone(&membership)).await?;
        let town = Self { coordinator, executors, membership, sections: spec.sections, folder };
        town.wait_for_executors(spec.executors).await;
        Ok(town)
    }

    async fn wait_for_executors(&self, wanted: usize) {
        self.wait_for_metric("townlake_executors ", |seen| seen >= wanted as f64).await;
    }

    /// Waits until a number that the coordinator tells is as it should be. Its line begins with `metric`.
    pub async fn wait_for_metric(&self, metric: &str, is_right: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let url = self.metrics_url();
        loop {
            let metrics = match reqwest::get(&url).await {
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(_) => String::new(),
            };
            let line = metrics.lines().find(|line| line.starts_with(metric));
            let seen = line.and_then(|line| line.split_whitespace().last()?.parse::<f64>().ok()).unwrap_or_default();
            if is_right(seen) {
                return;
            }
            assert!(Instant::now() < deadline, "{metric} stays {seen}:\n{metrics}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts one more executor.
    pub async fn one_more(&mut self) {
        let number = self.executors.len() + 1;
        let config =
            config(self.folder.path(), &format!("executor-{number}"), &self.sections).expect("a configuration");
        let executor = Executor::start(&config, Arc::clone(&self.membership)).await.expect("start an executor");
        self.executors.push(executor);
        self.wait_for_executors(number).await;
    }

    /// The folder with catalogs, warehouses and the coordinator's store (`state.db`).
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The Flight SQL door.
    pub fn url(&self) -> String {
        format!("http://{}", self.coordinator.flight_addr)
    }

    /// What the coordinator counts.
    pub fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.coordinator.http_addr)
    }

    /// Signs a user in.
    pub async fn try_connect(&self, user: &str, password: &str) -> Result<Connection> {
        let (user, password) = (Some(user.to_string()), Some(password.to_string()));
        Connection::open(&ConnectArgs { url: self.url(), user, password, token: None }).await
    }

    /// Signs a user in whose password is right.
    pub async fn connect(&self, user: &str, password: &str) -> Connection {
        self.try_connect(user, password).await.unwrap_or_else(|error| panic!("{user} cannot sign in: {error}"))
    }

    /// Signs in with a bearer token.
    pub async fn try_connect_with_token(&self, token: &str) -> Result<Connection> {
        let args = ConnectArgs { url: self.url(), user: None, password: None, token: Some(token.to_string()) };
        Connection::open(&args).await
    }

    /// Signs in with a bearer token that is right.
    pub async fn connect_with_token(&self, token: &str) -> Connection {
        self.try_connect_with_token(token).await.unwrap_or_else(|error| panic!("the token does not sign in: {error}"))
    }

    /// Stops the coordinator, then the executors.
    pub async fn stop(self) {
        self.coordinator.shutdown().await;
        for executor in self.executors {
            executor.stop().await;
        }
    }
}

fn config(folder: &Path, node: &str, sections: &str) -> Result<Config> {
    let path = folder.display();
    Config::from_toml(&format!(
        "[server]\nflight = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n[cluster]\ninternal = \"127.0.0.1:0\"\n\
         [store]\nurl = \"sqlite://{path}/state.db\"\n\
         [executor]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\nslots = 2\nmemory = \"1GB\"\nspill_dir = \"{path}/{node}\"\n\
         {}",
        sections.replace("{folder}", &path.to_string())
    ))
}
