//! A private emulator of BigQuery (PyPI `bqemulator`: DuckDB behind BigQuery's REST and gRPC doors). It is not BigQuery: see
//! docs/bigquery.md.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use townlake_common::{Error, ErrorCode, Result};

use super::process::{Process, command, free_port, program_of};

/// The project of everything in it.
pub const PROJECT: &str = "town";

/// A running emulator.
pub struct BigQueryEmulator {
    /// The process.
    pub process: Process,
    rest: u16,
    grpc: u16,
}

impl BigQueryEmulator {
    /// Whether the emulator is installed.
    pub fn is_installed() -> bool {
        binary().is_file()
    }

    /// Starts an emulator, its log in `<folder>`, and waits until both doors are open.
    pub async fn start(folder: &Path) -> Result<Self> {
        if !Self::is_installed() {
            return Err(Error::new(ErrorCode::ConfigInvalid, format!("there is no {}", binary().display()))
                .with_hint("`make demo-federation` installs it"));
        }
        let (rest, grpc) = (free_port()?, free_port()?);
        let process = launch(folder, rest, grpc)?;
        let mut emulator = Self { process, rest, grpc };
        let listens = |port| async move { TcpStream::connect(("127.0.0.1", port)).await.is_ok() };
        let ready = || async { listens(rest).await && listens(grpc).await };
        emulator.process.wait_until(Duration::from_secs(90), ready).await?;
        Ok(emulator)
    }

    /// The keys of a catalog that leads here, in TOML.
    pub fn keys(&self) -> String {
        keys(self.rest, self.grpc)
    }

    /// Makes a dataset.
    pub async fn create_dataset(&self, dataset: &str) -> Result<()> {
        self.post("", &json!({"datasetReference": {"projectId": PROJECT, "datasetId": dataset}})).await
    }

    /// Makes a table of columns, each a name and BigQuery's type, all of one mode (`REQUIRED`, `NULLABLE`).
    pub async fn create_table(&self, dataset: &str, table: &str, mode: &str, columns: &[(&str, &str)]) -> Result<()> {
        let field = |(name, kind): &(&str, &str)| json!({"name": name, "type": kind, "mode": mode});
        let fields: Vec<_> = columns.iter().map(field).collect();
        let reference = json!({"projectId": PROJECT, "datasetId": dataset, "tableId": table});
        let body = json!({"tableReference": reference, "schema": {"fields": fields}});
        self.post(&format!("/{dataset}/tables"), &body).await
    }

    /// Appends rows, each an object.
    pub async fn insert(&self, dataset: &str, table: &str, rows: Vec<Value>) -> Result<()> {
        let rows: Vec<_> = rows.into_iter().map(|row| json!({ "json": row })).collect();
        self.post(&format!("/{dataset}/tables/{table}/insertAll"), &json!({ "rows": rows })).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<()> {
        let failed = |text: String| Error::new(ErrorCode::SourceError, format!("the BigQuery emulator: {text}"));
        let url = format!("http://127.0.0.1:{}/bigquery/v2/projects/{PROJECT}/datasets{path}", self.rest);
        let answer = reqwest::Client::new().post(url).json(body).send().await.map_err(|e| failed(e.to_string()))?;
        let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
        // Rows that are not taken are told in an answer that is well.
        let refused = serde_json::from_str::<Value>(&text)
            .is_ok_and(|answer| answer["insertErrors"].as_array().is_some_and(|errors| !errors.is_empty()));
        if refused || !status.is_success() { Err(failed(text)) } else { Ok(()) }
    }
}

/// Starts an emulator with its files in `folder`.
pub fn launch(folder: &Path, rest: u16, grpc: u16) -> Result<Process> {
    let mut server = command(&binary(), Signal::SIGTERM);
    server.args(["start", "--project", PROJECT, "--log-level", "warning", "--rest-port", &rest.to_string()]);
    // It keeps uploads among temporary files, and leaves them there.
    server.args(["--grpc-port", &grpc.to_string()]).current_dir(folder).env("TMPDIR", folder);
    Process::start("bigquery", server, folder)
}

/// The keys of a catalog that leads to an emulator, in TOML.
pub fn keys(rest: u16, grpc: u16) -> String {
    format!(
        "type = \"bigquery\"\nproject = \"{PROJECT}\"\nemulator_rest = \"http://127.0.0.1:{rest}\"\n\
         emulator_grpc = \"http://127.0.0.1:{grpc}\"\n"
    )
}

/// The emulator's program; it is there or not.
pub fn binary() -> PathBuf {
    program_of("venv-bigquery", "bqemulator")
}
