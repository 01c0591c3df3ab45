//! The demo in one process, with nothing installed: embedded membership, two Iceberg catalogs on SQLite and local files.

use tempfile::TempDir;
use townlake_common::config::Config;
use townlake_common::{Error, Result};
use townlake_coordinator::CoordinatorHandle;
use townlake_executor::ExecutorHandle;

use super::{CRM_TABLES, LAKE_TABLES, USER, step};
use crate::args::{ConnectArgs, LoadMode};
use crate::connection::Connection;
use crate::load;
use crate::local::{port_or_free, random_password};
use crate::node::start_standalone;

/// A running embedded demo.
pub struct Demo {
    /// How to connect.
    pub connect: ConnectArgs,
    coordinator: CoordinatorHandle,
    executor: ExecutorHandle,
    _folder: TempDir,
}

impl Demo {
    /// Stops both halves of the process.
    pub async fn stop(self) {
        self.coordinator.shutdown().await;
        self.executor.stop().await;
    }
}

/// Starts the node and loads the data.
pub async fn start(scale: f64) -> Result<Demo> {
    let folder = tempfile::Builder::new().prefix("townlake-demo-").tempdir();
    let folder = folder.map_err(|e| Error::internal("no temporary folder for the demo").with_source(e))?;
    let password = random_password();
    let config = configuration(&folder, &password)?;
    let (coordinator, executor) = step("coordinator and executor in this process", start_standalone(config)).await?;
    let connect = ConnectArgs {
        url: format!("http://{}", coordinator.flight_addr),
        user: Some(USER.to_string()),
        password: Some(password),
        token: None,
    };
    let connection = Connection::open(&connect).await?;
    println!("  eight TPC-H tables at scale {scale} into two Iceberg catalogs, through the door:");
    load::tpch(&connection, "lake", "tpch", scale, &LAKE_TABLES, LoadMode::Create).await?;
    load::tpch(&connection, "crm", "public", scale, &CRM_TABLES, LoadMode::Create).await?;
    Ok(Demo { connect, coordinator, executor, _folder: folder })
}

fn configuration(folder: &TempDir, password: &str) -> Result<Config> {
    let path = folder.path().display();
    let (flight, http) = (port_or_free(50050)?, port_or_free(8080)?);
    let hash = townlake_governance::hash_password(password)?;
    let catalog = |name: &str| {
        format!(
            "[catalogs.{name}]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite://{path}/{name}.db\"\n\
             warehouse = \"file://{path}/{name}\"\nwriters = [\"{USER}\"]\n"
        )
    };
    Config::from_toml(&format!(
        "[server]\nflight = \"127.0.0.1:{flight}\"\nhttp = \"127.0.0.1:{http}\"\n\
         [cluster]\ninternal = \"127.0.0.1:0\"\n[store]\nurl = \"sqlite://{path}/state.db\"\n\
         [executor]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\nmemory = \"3GB\"\nspill_dir = \"{path}/spill\"\n\
         [[auth.users]]\nname = \"{USER}\"\npassword_hash = \"{hash}\"\n{}{}",
        catalog("lake"),
        catalog("crm"),
    ))
}
