//! The SQL catalog's tables: shared with pyiceberg and Java, on SQLite and on a real Postgres.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arrow::datatypes::DataType;
use iceberg::spec::Struct;
use townlake_common::config::{CatalogConfig, Config, IcebergCatalog};
use townlake_common::{ErrorCode, QueryId, Secret};

use crate::testing::{Lake, create_table, file};
use crate::{LakeCatalog, PartitionField, TableVersion, plan_files};

#[tokio::test]
async fn schemas_and_tables_come_and_go() {
    let lake = Lake::empty().await;
    walk_through(&lake.catalog).await;
    let columns = [("id", DataType::Int64)];
    let nowhere = crate::CreateTable { schema: "none".to_string(), ..create_table("t", &columns, &[]) };
    assert_eq!(lake.catalog.create_table(nowhere).await.unwrap_err().code(), ErrorCode::SchemaNotFound);
    let outside =
        crate::CreateTable { location: Some("file:///etc/t".to_string()), ..create_table("t", &columns, &[]) };
    assert_eq!(lake.catalog.create_table(outside).await.unwrap_err().code(), ErrorCode::PermissionDenied);
    for bad in ["../x", "a/b", "", "a..b"] {
        assert!(lake.catalog.create_schema(bad, false).await.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_wrong_partition_field_is_named() {
    let lake = Lake::empty().await;
    let create = |column: &str, transform: &str| {
        let field = PartitionField { column: column.to_string(), transform: transform.to_string() };
        lake.catalog.create_table(create_table("t", &[("region", DataType::Utf8)], &[field]))
    };
    let error = create("regoin", "identity").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ColumnNotFound);
    assert!(error.hint().unwrap().contains("region"), "{error}");
    for transform in ["day", "bucket[0]", "bucket[x]", "shuffle", "unknown", "truncate[4294967295]"] {
        assert_eq!(create("region", transform).await.unwrap_err().code(), ErrorCode::InvalidQuery, "{transform}");
    }
}

#[tokio::test]
async fn old_metadata_files_go_where_the_table_says_so() {
    let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
    let folder = lake.folder.path().join("warehouse/s/t/metadata");
    let files = || {
        let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".metadata.json")).count()
    };
    let set = async |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        lake.catalog.alter_table("s", "t", &[crate::TableChange::SetProperties(pairs)]).await.unwrap()
    };
    set(&[("write.metadata.previous-versions-max", "2")]).await;
    for n in 0..4 {
        set(&[("n", &n.to_string())]).await;
    }
    assert_eq!(files(), 6, "nothing goes by itself");
    set(&[("write.metadata.delete-after-commit.enabled", "true")]).await;
    // Those of before are nobody's any more, but for the one that fell out now.
    assert_eq!(files(), 6);
    for n in 4..9 {
        set(&[("n", &n.to_string())]).await;
        assert_eq!(files(), 6);
    }
    let log = lake.load("t").await.metadata.metadata_log().to_vec();
    assert!(log.len() == 2 && log.iter().all(|entry| Path::new(&entry.metadata_file["file://".len()..]).is_file()));
}

/// Java and newer catalogs have one column more, and views.
#[tokio::test]
async fn a_catalog_with_views_shows_tables_only() {
    let folder = tempfile::tempdir().unwrap();
    let lake = config(folder.path(), &format!("sqlite://{}/catalog.db", folder.path().display()));
    let database = super::sql_database::Database::connect("lake", &lake.uri).await.unwrap();
    for sql in [
        "CREATE TABLE iceberg_tables (catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL, \
         table_name VARCHAR(255) NOT NULL, metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000), \
         iceberg_type VARCHAR(5), PRIMARY KEY (catalog_name, table_namespace, table_name))",
        "INSERT INTO iceberg_tables VALUES ('lake', 's', 'v', 'file:///nowhere', NULL, 'VIEW')",
    ] {
        database.execute(sql, &[]).await.unwrap();
    }
    let catalog = LakeCatalog::open("lake", &lake).await.unwrap();
    assert!(catalog.list_tables("s").await.unwrap().is_empty());
    assert!(catalog.load("s", "v", None).await.unwrap().is_none());
    catalog.create_table(create_table("t", &[("id", DataType::Int64)], &[])).await.unwrap();
    let types = database.texts("SELECT iceberg_type FROM iceberg_tables ORDER BY table_name", &[]).await.unwrap();
    assert_eq!(types, ["TABLE", "VIEW"]);
}

#[tokio::test]
async fn the_same_on_postgres() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = Server::start("the_same_on_postgres") else { return };
    let uri = format!("postgresql://town@127.0.0.1:{}/postgres", server.port);
    let lake = config(folder.path(), &uri);
    // Two nodes make the tables at once.
    let (one, two) = tokio::join!(LakeCatalog::open("lake", &lake), LakeCatalog::open("lake", &lake));
    let (one, two) = (one.unwrap(), two.unwrap());
    one.create_schema("s", false).await.unwrap();
    walk_through(&one).await;

    let stale = one.create_table(create_table("c", &[("id", DataType::Int64)], &[])).await.unwrap().unwrap();
    let files = |name: &str| vec![file(stale.metadata.location(), name, Struct::empty(), |_| {})];
    let (first, second) = (QueryId::generate(), QueryId::generate());
    let (a, b) =
        tokio::join!(one.commit_append(&stale, files("a"), &first), two.commit_append(&stale, files("b"), &second));
    let (a, b) = (a.unwrap().unwrap(), b.unwrap().unwrap());
    let table = two.load("s", "c", None).await.unwrap().unwrap();
    assert!([Some(a), Some(b)].contains(&table.snapshot_id()));
    assert_eq!(plan_files(&table, &[]).await.unwrap().files.len(), 2);
    assert!(two.load("s", "c", Some(&TableVersion::SnapshotId(a))).await.unwrap().is_some());

    // Who may not make tables can use those that are there.
    let database = super::sql_database::Database::connect("lake", &lake.uri).await.unwrap();
    for sql in ["CREATE ROLE guest LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest"] {
        database.execute(sql, &[]).await.unwrap();
    }
    let guest = IcebergCatalog { uri: Secret::new(uri.replace("town@", "guest@")), ..lake.clone() };
    let guest = LakeCatalog::open("lake", &guest).await.unwrap();
    assert_eq!(guest.list_tables("s").await.unwrap(), ["c"]);
    assert!(guest.create_schema("mine", false).await.is_err());

    let secret = "hunter2";
    drop((database, server));
    let gone = IcebergCatalog { uri: Secret::new(uri.replace("town@", &format!("town:{secret}@"))), ..lake };
    let error = LakeCatalog::open("lake", &gone).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceUnavailable);
    assert!(!format!("{error} {error:?}").contains(secret));
}

async fn walk_through(catalog: &LakeCatalog) {
    assert!(catalog.schema_exists("s").await.unwrap() && !catalog.schema_exists("x").await.unwrap());
    assert_eq!(catalog.create_schema("s", false).await.unwrap_err().code(), ErrorCode::AlreadyExists);
    assert!(!catalog.create_schema("s", true).await.unwrap());
    let create = || create_table("t", &[("id", DataType::Int64)], &[]);
    assert!(catalog.create_table(create()).await.unwrap().is_some());
    assert_eq!(catalog.create_table(create()).await.unwrap_err().code(), ErrorCode::AlreadyExists);
    let quiet = crate::CreateTable { if_not_exists: true, ..create() };
    assert!(catalog.create_table(quiet).await.unwrap().is_none());
    assert_eq!(catalog.list_tables("s").await.unwrap(), ["t"]);
    assert_eq!(catalog.list_schemas().await.unwrap(), ["s"]);
    assert_eq!(catalog.drop_schema("s", false).await.unwrap_err().code(), ErrorCode::InvalidQuery);
    assert!(catalog.drop_table("s", "t", false).await.unwrap());
    assert_eq!(catalog.drop_table("s", "t", false).await.unwrap_err().code(), ErrorCode::TableNotFound);
    assert!(!catalog.drop_table("s", "t", true).await.unwrap());
    assert!(catalog.load("s", "t", None).await.unwrap().is_none());
    assert!(catalog.drop_schema("s", false).await.unwrap());
    assert!(!catalog.drop_schema("s", true).await.unwrap());
    catalog.create_schema("s", false).await.unwrap();
}

fn config(folder: &std::path::Path, uri: &str) -> IcebergCatalog {
    let text = format!(
        "[catalogs.lake]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"{uri}\"\nwarehouse = \"file://{}/warehouse\"",
        folder.display()
    );
    match Config::from_toml(&text).unwrap().catalogs.remove("lake") {
        Some(CatalogConfig::Iceberg(config)) => *config,
        _ => panic!("no iceberg catalog"),
    }
}

/// A Postgres of its own, never run as root.
struct Server {
    programs: PathBuf,
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    /// `None` (and a line of output) where none is installed, unless `TOWNLAKE_REQUIRE_SERVERS` is set.
    fn start(test: &str) -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(std::env::var_os("TOWNLAKE_REQUIRE_SERVERS").is_none(), "{test}: there is no Postgres");
            println!("SKIPPED {test}: there is no Postgres");
            return None;
        };
        let command = |program| command(&programs, program);
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data").display().to_string();
        if is_root() {
            run(Command::new("chown").args(["postgres", &folder.path().display().to_string()]));
        }
        run(command("initdb").args(["-D", &data, "-U", "town", "-A", "trust", "--no-sync"]));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port_text, socket) = (port.to_string(), folder.path().display().to_string());
        let mut postgres = command("postgres");
        postgres.args(["-D", &data, "-p", &port_text, "-h", "127.0.0.1", "-k", &socket, "-c", "fsync=off"]);
        let process = postgres.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "Postgres does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(Self { programs, process, port, folder })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.folder.path().join("data").display().to_string();
        run(command(&self.programs, "pg_ctl").args(["stop", "-D", &data, "-m", "immediate"]));
        self.process.wait().unwrap();
    }
}

/// Whether we are root: then Postgres runs as its own user.
fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    String::from_utf8_lossy(&id.stdout).trim() == "0"
}

/// The programs of the newest version.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin"));
    let number = |bin: &PathBuf| bin.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    versions.filter(|bin| bin.join("initdb").exists()).max_by_key(number)
}

fn command(programs: &Path, program: &str) -> Command {
    let program = programs.join(program);
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(&program).current_dir("/tmp");
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
