//! The demo as a real cluster: etcd, Postgres, one coordinator and two executors, each a process of its own.

use bytes::Bytes;
use futures::SinkExt;
use tempfile::TempDir;
use tokio_postgres::Client;
use townlake_common::{Error, ErrorCode, Result};
use tpchgen::generators::{CustomerGenerator, NationGenerator};

use super::{LAKE_TABLES, USER, random_password, step};
use crate::args::{ConnectArgs, LoadMode};
use crate::connection::Connection;
use crate::load;
use crate::local::{Cluster, ClusterSpec, Etcd, Postgres};

/// A running demo. Fields drop in order: the cluster goes before what it stands on.
pub struct Demo {
    /// How to connect.
    pub connect: ConnectArgs,
    _cluster: Cluster,
    _etcd: Etcd,
    _postgres: Postgres,
    _folder: TempDir,
}

/// Starts everything and loads the data.
pub async fn start(scale: f64) -> Result<Demo> {
    let folder = tempfile::Builder::new().prefix("townlake-demo-").tempdir();
    let folder = folder.map_err(|e| Error::internal("no temporary folder for the demo").with_source(e))?;
    let postgres = step("a private Postgres", Postgres::start(&[])).await?;
    step("customer and nation into Postgres", load_postgres(&postgres, scale)).await?;
    let etcd = step("a private etcd", Etcd::start(folder.path())).await?;
    let password = random_password();
    let spec = ClusterSpec {
        binary: std::env::current_exe().map_err(|e| Error::internal("where is this binary?").with_source(e))?,
        folder: folder.path().to_path_buf(),
        etcd: etcd.endpoint(),
        executors: 2,
        slots: 1,
        memory: "2GB".to_string(),
        sections: sections(&folder, &postgres, &password)?,
        user: (USER.to_string(), password),
        standard_ports: true,
    };
    let cluster =
        step("two executors and a coordinator that find each other through etcd", Cluster::start(spec)).await?;
    let connect = cluster.connect_args();
    let connection = Connection::open(&connect).await?;
    println!("  six TPC-H tables at scale {scale} into Iceberg, through the door:");
    load::tpch(&connection, "lake", "tpch", scale, &LAKE_TABLES, LoadMode::Create).await?;
    Ok(Demo { connect, _cluster: cluster, _etcd: etcd, _postgres: postgres, _folder: folder })
}

/// Users and catalogs, the same for all three nodes.
fn sections(folder: &TempDir, postgres: &Postgres, password: &str) -> Result<String> {
    let path = folder.path().display();
    let text = format!(
        "[[auth.users]]\nname = \"{USER}\"\npassword_hash = \"{}\"\n\
         [catalogs.lake]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite://{path}/catalog.db\"\n\
         warehouse = \"file://{path}/warehouse\"\nwriters = [\"{USER}\"]\n\
         [catalogs.crm]\ntype = \"postgres\"\nurl = \"{}\"\nreaders = [\"{USER}\"]\n",
        townlake_governance::hash_password(password)?,
        postgres.url("crm"),
    );
    Ok(text)
}

const TABLES: &str = "
CREATE TABLE nation (n_nationkey bigint PRIMARY KEY, n_name varchar(25) NOT NULL, n_regionkey bigint NOT NULL, n_comment varchar(152));
CREATE TABLE customer (c_custkey bigint PRIMARY KEY, c_name varchar(25) NOT NULL, c_address varchar(40) NOT NULL,
    c_nationkey bigint NOT NULL REFERENCES nation, c_phone char(15) NOT NULL, c_acctbal numeric(15,2) NOT NULL,
    c_mktsegment varchar(10) NOT NULL, c_comment varchar(117) NOT NULL);";

/// `nation` and `customer` in a database `crm`, by COPY.
pub async fn load_postgres(postgres: &Postgres, scale: f64) -> Result<()> {
    let admin = postgres.connect("postgres").await?;
    admin.batch_execute("CREATE DATABASE crm").await.map_err(failed)?;
    let client = postgres.connect("crm").await?;
    client.batch_execute(TABLES).await.map_err(failed)?;
    copy(&client, "nation", NationGenerator::new(scale, 1, 1).iter()).await?;
    copy(&client, "customer", CustomerGenerator::new(scale, 1, 1).iter()).await?;
    client.batch_execute("ANALYZE").await.map_err(failed)
}

/// Copies rows in TPC-H's own form: fields and a last one end with `|`, which no field contains.
async fn copy(client: &Client, table: &str, rows: impl Iterator<Item = impl std::fmt::Display>) -> Result<()> {
    const CHUNK: usize = 64 * 1024;
    let statement = format!("COPY {table} FROM STDIN (DELIMITER '|')");
    let sink = client.copy_in::<_, Bytes>(statement.as_str()).await.map_err(failed)?;
    futures::pin_mut!(sink);
    let mut chunk = String::with_capacity(CHUNK + 1024);
    for row in rows {
        let line = row.to_string();
        chunk.push_str(line.strip_suffix('|').unwrap_or(&line));
        chunk.push('\n');
        if chunk.len() >= CHUNK {
            sink.send(Bytes::from(std::mem::take(&mut chunk))).await.map_err(failed)?;
        }
    }
    sink.send(Bytes::from(chunk)).await.map_err(failed)?;
    sink.close().await.map_err(failed)
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::new(ErrorCode::SourceError, "loading the private Postgres failed").with_source(error)
}
