//! The demo as a real cluster: etcd, Postgres (or four sources), one coordinator and two executors, each a process of its own.

use std::path::Path;

use bytes::Bytes;
use futures::SinkExt;
use tempfile::TempDir;
use tokio_postgres::Client;
use townlake_common::{Error, ErrorCode, Result};
use tpchgen::generators::{CustomerGenerator, NationGenerator};

use super::showcase::Place;
use super::sources::Sources;
use super::{LAKE_TABLES, USER, step};
use crate::args::{ConnectArgs, LoadMode};
use crate::connection::Connection;
use crate::load;
use crate::local::{Cluster, ClusterSpec, Etcd, Postgres, random_password};
use crate::tpch::Table;

/// A running demo. Fields drop in order: the cluster goes before what it stands on.
pub struct Demo {
    /// How to connect.
    pub connect: ConnectArgs,
    _cluster: Cluster,
    _etcd: Etcd,
    sources: Behind,
    _folder: TempDir,
}

impl Demo {
    /// Where the data lies.
    pub fn place(&self) -> Place<'_> {
        match &self.sources {
            Behind::Postgres(_) => Place::Cluster,
            Behind::Federation(sources) => Place::Federation(sources),
        }
    }
}

/// What the catalogs lead to, beside the lake.
enum Behind {
    Postgres(Postgres),
    Federation(Box<Sources>),
}

impl Behind {
    async fn start(folder: &Path, federation: bool) -> Result<Self> {
        if federation {
            return Ok(Self::Federation(Box::new(Sources::start(folder).await?)));
        }
        Ok(Self::Postgres(step("a private Postgres", start_postgres()).await?))
    }

    async fn load(&self, scale: f64) -> Result<()> {
        match self {
            Self::Postgres(postgres) => step("customer and nation into Postgres", load_postgres(postgres, scale)).await,
            Self::Federation(sources) => sources.load(scale).await,
        }
    }

    fn sections(&self) -> String {
        match self {
            Self::Postgres(postgres) => {
                let url = postgres.url("crm");
                format!("[catalogs.crm]\ntype = \"postgres\"\nurl = \"{url}\"\nreaders = [\"{USER}\"]\n")
            }
            Self::Federation(sources) => sources.sections(USER),
        }
    }

    fn lake_tables(&self) -> &'static [Table] {
        match self {
            Self::Postgres(_) => &LAKE_TABLES,
            Self::Federation(_) => &[Table::LineItem],
        }
    }
}

/// Starts everything and loads the data: with `federation` over five systems, else over two.
pub async fn start(scale: f64, federation: bool) -> Result<Demo> {
    let folder = tempfile::Builder::new().prefix("townlake-demo-").tempdir();
    let folder = folder.map_err(|e| Error::internal("no temporary folder for the demo").with_source(e))?;
    let sources = Behind::start(folder.path(), federation).await?;
    sources.load(scale).await?;
    let etcd = step("a private etcd", Etcd::start(folder.path())).await?;
    let password = random_password();
    let spec = ClusterSpec {
        binary: std::env::current_exe().map_err(|e| Error::internal("where is this binary?").with_source(e))?,
        folder: folder.path().to_path_buf(),
        etcd: etcd.endpoint(),
        executors: 2,
        slots: 1,
        memory: "2GB".to_string(),
        sections: sections(&folder, &sources, &password)?,
        user: (USER.to_string(), password),
        standard_ports: true,
    };
    let cluster =
        step("two executors and a coordinator that find each other through etcd", Cluster::start(spec)).await?;
    let connect = cluster.connect_args();
    let connection = Connection::open(&connect).await?;
    let tables = sources.lake_tables();
    match tables {
        [table] => println!("  {table} at scale {scale} into Iceberg, through the door:"),
        tables => println!("  {} TPC-H tables at scale {scale} into Iceberg, through the door:", tables.len()),
    }
    load::tpch(&connection, "lake", "tpch", scale, tables, LoadMode::Create).await?;
    Ok(Demo { connect, _cluster: cluster, _etcd: etcd, sources, _folder: folder })
}

/// Users and catalogs, the same for all three nodes.
fn sections(folder: &TempDir, sources: &Behind, password: &str) -> Result<String> {
    let path = folder.path().display();
    let text = format!(
        "[auth]\nadmins = [\"{USER}\"]\n[[auth.users]]\nname = \"{USER}\"\npassword_hash = \"{}\"\n\
         [catalogs.lake]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite://{path}/catalog.db\"\n\
         warehouse = \"file://{path}/warehouse\"\nwriters = [\"{USER}\"]\n{}",
        townlake_governance::hash_password(password)?,
        sources.sections(),
    );
    Ok(text)
}

const TABLES: &str = "
CREATE TABLE nation (n_nationkey bigint PRIMARY KEY, n_name varchar(25) NOT NULL, n_regionkey bigint NOT NULL, n_comment varchar(152));
CREATE TABLE customer (c_custkey bigint PRIMARY KEY, c_name varchar(25) NOT NULL, c_address varchar(40) NOT NULL,
    c_nationkey bigint NOT NULL REFERENCES nation, c_phone char(15) NOT NULL, c_acctbal numeric(15,2) NOT NULL,
    c_mktsegment varchar(10) NOT NULL, c_comment varchar(117) NOT NULL);";

/// A Postgres with an empty database `crm`.
pub async fn start_postgres() -> Result<Postgres> {
    let postgres = Postgres::start(&[]).await?;
    let admin = postgres.connect("postgres").await?;
    admin.batch_execute("CREATE DATABASE crm").await.map_err(failed)?;
    Ok(postgres)
}

/// `nation` and `customer` in the database `crm`, by COPY.
pub async fn load_postgres(postgres: &Postgres, scale: f64) -> Result<()> {
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
