//! Logs. Structured fields, lower-case messages, no secret and no row of data ever.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Writes logs to standard error: text for people, or JSON with `TOWNLAKE_LOG_FORMAT=json`.
///
/// The filter comes from `TOWNLAKE_LOG` (the syntax of `tracing_subscriber::EnvFilter`), else it is `default`. A second call
/// in one process changes nothing.
pub fn init(default: &str) {
    let filter = EnvFilter::try_from_env("TOWNLAKE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let json = std::env::var("TOWNLAKE_LOG_FORMAT").is_ok_and(|format| format == "json");
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let installed = if json { builder.json().try_init() } else { builder.with_target(true).try_init() };
    drop(installed); // a logger that is there already (a test's) stays
}
