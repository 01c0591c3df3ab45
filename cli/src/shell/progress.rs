//! The live line while a query runs: stages and tasks, as the coordinator counts them.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::connection::Connection;

/// How often the coordinator is asked.
const INTERVAL: Duration = Duration::from_millis(250);

/// A progress line that is shown until it is hidden or dropped.
pub struct ProgressLine {
    bar: ProgressBar,
    poller: Option<JoinHandle<()>>,
}

/// Shows the progress of a query on standard error, where that is a terminal.
pub fn show(connection: Connection, query_id: Option<String>) -> ProgressLine {
    let (Some(query_id), true) = (query_id, std::io::stderr().is_terminal()) else {
        return ProgressLine { bar: ProgressBar::hidden(), poller: None };
    };
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    let line = bar.clone();
    let poller = tokio::spawn(async move {
        loop {
            tokio::time::sleep(INTERVAL).await;
            match connection.progress(&query_id).await {
                Ok(progress) => line.set_message(describe(&progress)),
                Err(_) => break, // the query has ended, or an older server does not tell
            }
        }
    });
    ProgressLine { bar, poller: Some(poller) }
}

impl ProgressLine {
    /// Takes the line away: rows are coming.
    pub fn hide(&self) {
        if let Some(poller) = &self.poller {
            poller.abort();
        }
        self.bar.finish_and_clear();
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.hide();
    }
}

/// `running · stage 2: 3/8 tasks` from the answer of the coordinator.
fn describe(progress: &Value) -> String {
    let state = progress.get("state").and_then(Value::as_str).unwrap_or("running").to_lowercase();
    let stages = progress.get("stages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let number = |stage: &Value, key: &str| stage.get(key).and_then(Value::as_u64).unwrap_or(0);
    let mut parts = vec![state];
    parts.extend(stages.iter().filter(|stage| number(stage, "tasks") > 0).map(|stage| {
        let (done, total) = (number(stage, "done"), number(stage, "tasks"));
        format!("stage {}: {done}/{total} tasks", number(stage, "stage"))
    }));
    parts.join(" · ")
}
