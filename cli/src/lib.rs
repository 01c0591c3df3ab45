//! The command line of Town Lake: nodes, the shell, loading, the demo and the benchmark.
//!
//! | module | what |
//! |---|---|
//! | [`args`] | the commands and their help |
//! | [`node`] | `coordinator`, `executor`, `standalone`: one node until it is told to stop |
//! | [`connection`] | the Flight SQL connection that shell, load and demo share |
//! | [`shell`] | `townlake sql` |
//! | [`load`] | files and TPC-H data into Iceberg tables |
//! | [`local`] | etcd, Postgres and nodes as processes of this machine: for demo, benchmark and tests |
//! | [`demo`] | `townlake demo` |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod args;
pub mod bench;
pub mod connection;
pub mod demo;
pub mod load;
pub mod local;
pub mod node;
pub mod shell;
pub mod tpch;

use std::process::ExitCode;

use clap::Parser;
use townlake_common::{Error, ErrorCode, Result};

use crate::args::{Cli, Command};

/// What a node logs. Ballista calls every query that fails, every late status of one that was cancelled, and every reader that
/// goes away early (as under a LIMIT) an error of the server; how queries end we log ourselves. Its own display of metrics does not know unions
/// whose sides are given other columns when a plan is decoded, and is nobody's here.
const LOGGED: &str = "warn,townlake=info,ballista_scheduler::scheduler_server::query_stage_scheduler=off,\
    ballista_scheduler::state::task_manager=off,ballista_scheduler::display=off,ballista_core::execution_plans::shuffle_reader=off";

/// Parses the arguments, runs the command, and turns its outcome into an exit code: 0, or 1 with one line on stderr.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let quiet = matches!(command, Command::Sql(_) | Command::Load(_) | Command::HashPassword(_) | Command::Demo(_));
    townlake_common::telemetry::init(if quiet { "error" } else { LOGGED });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("townlake")
        .thread_stack_size(townlake_engine::runtime::THREAD_STACK_BYTES)
        .build()
        .map_err(|e| Error::new(ErrorCode::Internal, "the runtime cannot start").with_source(e))?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Coordinator(args) => node::coordinator(&args).await,
            Command::Executor(args) => node::executor(&args).await,
            Command::Standalone(args) => node::standalone(&args).await,
            Command::Sql(args) => shell::run(args).await,
            Command::Load(args) => load::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Bench(args) => node::until_stopped(bench::run(args)).await,
            Command::HashPassword(args) => hash_password(&args),
        }
    });
    // A thread that still waits for a terminal line must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}

/// Reads a password (or token) from standard input and prints its hash for the configuration.
fn hash_password(args: &args::HashPasswordArgs) -> Result<()> {
    use std::io::{IsTerminal, Read};
    let mut text = String::new();
    if std::io::stdin().is_terminal() {
        text = rpassword::prompt_password("Password: ").map_err(stdin_error)?;
    } else {
        std::io::stdin().take(64 * 1024).read_to_string(&mut text).map_err(stdin_error)?;
    }
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Error::new(ErrorCode::InvalidArgument, "the password is empty")
            .with_hint("pipe it in: printf %s 'secret' | townlake hash-password"));
    }
    let hash =
        if args.token { townlake_governance::hash_token(text) } else { townlake_governance::hash_password(text)? };
    println!("{hash}");
    Ok(())
}

fn stdin_error(error: std::io::Error) -> Error {
    Error::new(ErrorCode::InvalidArgument, "the password cannot be read from standard input").with_source(error)
}
