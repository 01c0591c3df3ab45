//! `townlake sql`: the shell, and its non-interactive forms.

mod editor;
mod helpers;
mod output;
mod plain;
mod progress;
mod statements;

use std::io::{IsTerminal, Read};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use townlake_common::{Error, ErrorCode, Result};

use crate::args::{OutputFormat, SqlArgs};
use crate::connection::{Connection, Query};
use crate::shell::output::Printer;

/// How long the server may take to say that it has cancelled a query.
const CANCEL_LIMIT: Duration = Duration::from_secs(3);

/// The exit code of a shell that is left by Ctrl-C: 128 and the number of the signal, as others have it.
const INTERRUPTED: i32 = 130;

/// Runs the command: `-e`, `-f`, standard input that is not a terminal, or the interactive shell.
pub async fn run(args: SqlArgs) -> Result<()> {
    if args.format == OutputFormat::Parquet && std::io::stdout().is_terminal() {
        return Err(Error::new(ErrorCode::InvalidArgument, "a Parquet file is not for a terminal")
            .with_hint("redirect it: townlake sql --format parquet -e '…' > rows.parquet"));
    }
    let script = script(&args)?;
    let connection = Connection::open(&args.connect).await?;
    let interactive = script.is_none();
    let mut shell = Shell { connection, format: args.format, timing: true, interactive };
    let outcome = match script {
        Some(text) => shell.run_script(&text).await,
        None => editor::interact(&mut shell).await,
    };
    shell.connection.close().await;
    outcome
}

/// The statements that the arguments name; nothing for an interactive session.
fn script(args: &SqlArgs) -> Result<Option<String>> {
    if let Some(text) = &args.execute {
        return Ok(Some(text.clone()));
    }
    let unreadable = |name: String| {
        move |e: std::io::Error| Error::new(ErrorCode::InvalidArgument, format!("{name} cannot be read")).with_source(e)
    };
    let from_stdin = || {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(unreadable("standard input".to_string()))?;
        Ok(Some(text))
    };
    match &args.file {
        Some(path) if path.as_os_str() == "-" => from_stdin(),
        Some(path) => std::fs::read_to_string(path).map(Some).map_err(unreadable(path.display().to_string())),
        None if !std::io::stdin().is_terminal() => from_stdin(),
        None => Ok(None),
    }
}

/// One shell: a connection and how it shows things.
pub struct Shell {
    connection: Connection,
    format: OutputFormat,
    timing: bool,
    interactive: bool,
}

impl Shell {
    /// Runs statements one after the other; the first error ends it.
    async fn run_script(&mut self, text: &str) -> Result<()> {
        let statements = statements::split(text);
        if self.format == OutputFormat::Parquet && statements.len() != 1 {
            let message = format!("a Parquet file holds the rows of one statement, and these are {}", statements.len());
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        for statement in statements {
            if statement.starts_with('\\') {
                self.helper(statement).await?;
            } else {
                self.statement(statement).await?;
            }
        }
        Ok(())
    }

    /// Runs one statement and prints its rows. Ctrl-C cancels it, while it is planned too; a second one leaves at once.
    async fn statement(&mut self, sql: &str) -> Result<()> {
        let started = Instant::now();
        // Before the query goes out: from here on no Ctrl-C is lost.
        let mut interrupts = signal(SignalKind::interrupt())
            .map_err(|error| Error::internal("the shell cannot listen for Ctrl-C").with_source(error))?;
        let mut planned = None;
        let rows = tokio::select! {
            rows = self.query(sql, &mut planned) => rows?,
            // what is not planned yet ends with its call, which is dropped here
            _ = interrupts.recv() => return Err(self.cancel(planned.as_ref(), &mut interrupts).await),
        };
        if self.interactive && self.timing {
            eprintln!("({rows}, {:.3} s)\n", started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Plans and runs a statement; `planned` is what there is to cancel.
    async fn query(&self, sql: &str, planned: &mut Option<Query>) -> Result<String> {
        let query = planned.insert(self.connection.query(sql).await?);
        self.print_rows(query).await
    }

    /// Cancels a query on the server, and does not wait long for one that does not answer.
    async fn cancel(&self, planned: Option<&Query>, interrupts: &mut Signal) -> Error {
        let cancelled = || Error::new(ErrorCode::Cancelled, "the query was cancelled");
        let Some(query) = planned else { return cancelled() };
        let answer = tokio::select! {
            answer = tokio::time::timeout(CANCEL_LIMIT, self.connection.cancel(query)) => answer,
            _ = interrupts.recv() => std::process::exit(INTERRUPTED),
        };
        match answer {
            Ok(Ok(())) => cancelled(),
            Ok(Err(error)) => error,
            Err(_) => {
                let id = query.id.as_deref().unwrap_or_default();
                let limit = CANCEL_LIMIT.as_secs();
                let message = format!("the server did not say within {limit} s that query {id} has ended");
                Error::new(ErrorCode::Cancelled, message)
                    .with_hint(format!("CALL system.runtime.kill_query('{id}') tries it again"))
            }
        }
    }

    async fn print_rows(&self, query: &Query) -> Result<String> {
        let progress = progress::show(self.connection.clone(), query.id.clone());
        let mut rows = self.connection.rows(query).await?;
        // the answer to USE, SET or INSERT is for people; in a stream of data it would be a stranger
        let format = if query.has_effect && !self.interactive { OutputFormat::Quiet } else { self.format };
        let mut printer = Printer::new(format, rows.schema.clone())?;
        while let Some(batch) = rows.batches.next().await {
            let batch = batch?;
            progress.hide();
            printer.print(&batch)?;
            // rows that are there already never make this wait: without giving way, Ctrl-C would come after the last one
            tokio::task::yield_now().await;
        }
        progress.hide();
        printer.finish()
    }
}
