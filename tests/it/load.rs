//! Rows on their way into the lake: `townlake load`, the real binary, against a running server, and the stream underneath.
//! A load is everything or nothing.

mod files;
mod names;
mod replace;
mod sessions;
mod streams;
mod types;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tempfile::TempDir;
use tokio::process::Command;
use townlake_cli::connection::Connection;
use townlake_common::{Error, ErrorCode};
use townlake_tests::bed::{binary, poll};
use townlake_tests::town::{Town, TownSpec};

const USER: &str = "ann";
const PASSWORD: &str = "hunter2-load";
const TOKEN: &str = "00112233445566778899aabbccddeeff";

/// A server with the empty schema `lake.web`, a session of ann, and a folder for files.
struct Host {
    town: Town,
    ann: Connection,
    folder: TempDir,
}

/// What became of a run of the binary.
struct Ran {
    succeeded: bool,
    /// Standard error: progress and the error.
    said: String,
}

impl Host {
    async fn start() -> Self {
        let spec = TownSpec::default().executors(1).user(USER, PASSWORD, &[]).token("ci", TOKEN, &[]);
        let town = spec.lake("lake", &["ci"], &[USER]).start().await;
        let ann = town.connect(USER, PASSWORD).await;
        let host = Self { town, ann, folder: tempfile::tempdir().expect("a temporary folder") };
        host.run("CREATE SCHEMA lake.web").await;
        host
    }

    /// Writes a file to load; its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        std::fs::write(&path, text).expect("write a file");
        path.to_str().expect("a plain path").to_string()
    }

    /// `townlake load` with these arguments, signed in as ann by its environment.
    async fn load(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(binary());
        command.arg("load").args(arguments).env_clear();
        command.env("TOWNLAKE_URL", self.town.url()).env("TOWNLAKE_USER", USER).env("TOWNLAKE_PASSWORD", PASSWORD);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.expect("run the binary");
        Ran { succeeded: output.status.success(), said: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// A load that must succeed.
    async fn loads(&self, arguments: &[&str]) {
        let ran = self.load(arguments).await;
        assert!(ran.succeeded, "{arguments:?}: {}", ran.said);
    }

    /// A load that must fail with each of `words`.
    async fn fails(&self, arguments: &[&str], words: &[&str]) {
        let ran = self.load(arguments).await;
        assert!(!ran.succeeded, "{arguments:?} succeeded: {}", ran.said);
        for word in words {
            assert!(ran.said.contains(word), "{arguments:?} does not say `{word}`: {}", ran.said);
        }
        self.settle().await;
    }

    async fn run(&self, sql: &str) {
        self.ann.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The rows of a query that must succeed, cells joined by `|`.
    async fn rows(&self, sql: &str) -> Vec<String> {
        rows(&self.ann, sql).await
    }

    async fn error(&self, sql: &str) -> Error {
        match self.ann.collect(sql).await {
            Err(error) => error,
            Ok((_, batches)) => panic!("{sql} gave {:?}", batches.iter().flat_map(text).collect::<Vec<_>>()),
        }
    }

    /// Waits until the server is done with every ingest, whatever became of them.
    async fn settle(&self) {
        let running = "SELECT count(*) FROM system.runtime.queries WHERE sql LIKE '-- bulk ingest%' \
                       AND state NOT IN ('FINISHED', 'FAILED', 'CANCELLED')";
        poll("no ingest runs", Duration::from_secs(30), async || (self.rows(running).await == ["0"]).then_some(()))
            .await;
    }

    /// Waits until the table is gone: that of a failed load is dropped after its client was told.
    async fn is_gone(&self, table: &str) {
        let sql = format!("SELECT count(*) FROM {table}");
        poll("the table is gone", Duration::from_secs(30), async || match self.ann.collect(&sql).await {
            Err(error) if error.code() == ErrorCode::TableNotFound => Some(()),
            Err(error) => panic!("{sql}: {error}"),
            Ok((_, batches)) => {
                assert_eq!(batches.iter().flat_map(text).collect::<Vec<_>>(), ["0"], "rows were committed");
                None
            }
        })
        .await;
    }
}

async fn rows(connection: &Connection, sql: &str) -> Vec<String> {
    let (_, batches) = connection.collect(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    batches.iter().flat_map(text).collect()
}

fn text(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("a column that can be shown"))
        .collect();
    let row = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|");
    (0..batch.num_rows()).map(row).collect()
}
