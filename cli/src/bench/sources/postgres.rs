//! Postgres beside `psql`'s COPY, and beside DuckDB's scanner of Postgres. Rows are counted by `pg_stat_statements`.

use std::process::Stdio;

use tokio::process::Command;
use tokio_postgres::Client;
use townlake_common::{Error, Result};

use super::{Bed, ROWS, Subject, client, joins, scans};
use crate::local::Postgres;

const SUBJECT: Subject<'static> = Subject {
    scan: "SELECT count(*), sum(id), max(account), max(amount), max(day), max(note) FROM crm.public.big",
    join: Some("SELECT count(*), sum(b.amount) FROM lake.bench.few AS f JOIN crm.public.big AS b ON b.id = f.id"),
    client: "Postgres: psql COPY TO STDOUT (FORMAT binary), its output thrown away",
};
const COPY: &str = "COPY (SELECT id, account, amount, day, note FROM big) TO STDOUT (FORMAT binary)";
const MOVED: &str = "SELECT coalesce(sum(rows), 0)::int8 FROM pg_stat_statements WHERE query LIKE 'COPY%'";
/// The same scan and join in DuckDB; the variable names a Python that has it.
const DUCKDB: &str = include_str!("duckdb.py");
pub(super) const DUCKDB_PYTHON: &str = "TOWNLAKE_DUCKDB_PYTHON";

/// A server with the table.
pub(super) async fn start() -> Result<Postgres> {
    let postgres = Postgres::start(&["shared_preload_libraries=pg_stat_statements", "shared_buffers=1GB"]).await?;
    let admin = postgres.connect("postgres").await?;
    let fill = format!(
        "CREATE EXTENSION pg_stat_statements; \
         CREATE TABLE big (id int PRIMARY KEY, account bigint, amount numeric(12, 2), day date, note text); \
         INSERT INTO big SELECT i, i % 1000003, (i % 100000) / 4.0, DATE '2024-01-01' + i % 700, \
         'note number ' || i % 5000 FROM generate_series(1, {ROWS}) i; VACUUM ANALYZE big"
    );
    for statement in fill.split("; ") {
        admin.batch_execute(statement).await.map_err(|error| failed(statement, error))?;
    }
    Ok(postgres)
}

pub(super) fn catalog(postgres: &Postgres) -> String {
    format!("[catalogs.crm]\ntype = \"postgres\"\nurl = \"{}\"\nwriters = [\"bench\"]\n", postgres.url("postgres"))
}

pub(super) async fn run(bed: &Bed, postgres: &Postgres, rounds: usize) -> Result<()> {
    let admin = postgres.connect("postgres").await?;
    scans(bed, &SUBJECT, rounds, async || copy(postgres).await).await?;
    joins(bed, &SUBJECT, rounds, async || reset(&admin).await, async || moved(&admin).await).await?;
    duckdb(bed, postgres, rounds).await
}

/// Begins to count anew.
pub(super) async fn reset(admin: &Client) -> Result<()> {
    let sql = "SELECT pg_stat_statements_reset()";
    admin.batch_execute(sql).await.map_err(|error| failed(sql, error))
}

/// The rows that it gave since.
pub(super) async fn moved(admin: &Client) -> Result<u64> {
    let row = admin.query_one(MOVED, &[]).await.map_err(|error| failed(MOVED, error))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
}

/// The server's own fastest client.
async fn copy(postgres: &Postgres) -> Result<f64> {
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "--quiet", "-h", "127.0.0.1", "-U", "postgres", "-p", &postgres.port().to_string()]);
    psql.args(["-c", COPY, "-o", "/dev/null"]).env("PGPASSWORD", postgres.password()).stdin(Stdio::null());
    Ok(client(psql, "postgresql-client").await?.1)
}

async fn duckdb(bed: &Bed, postgres: &Postgres, rounds: usize) -> Result<()> {
    let Some(python) = std::env::var_os(DUCKDB_PYTHON) else {
        println!("  DuckDB: set {DUCKDB_PYTHON} to a Python that has it and duckdb-extension-postgres-scanner");
        return Ok(());
    };
    let folder = bed.folder.path().join("warehouse/bench/few/data");
    let mut command = Command::new(python);
    command.args([
        "-c",
        DUCKDB,
        &postgres.port().to_string(),
        &folder.display().to_string(),
        &rounds.max(1).to_string(),
    ]);
    command.env("PGPASSWORD", postgres.password()).env("HOME", bed.folder.path());
    let (lines, _) = client(command, "python3").await?;
    lines.lines().for_each(|line| println!("  DuckDB, two threads: {line}"));
    Ok(())
}

pub(super) fn failed(what: &str, error: tokio_postgres::Error) -> Error {
    Error::internal(format!("Postgres: {what} failed")).with_source(error)
}
