//! The interactive shell in a pseudo-terminal, which util-linux's `script` makes.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use townlake_tests::bed::binary;

use super::interrupt::{SLOW, until_all_are_cancelled};
use super::{Host, Ran};

const PROMPT: &str = "townlake> ";

/// `townlake sql …` in a terminal. `None` (and a line on standard error) where there is no `script`.
fn in_terminal(test: &str, host: &Host, arguments: &str) -> Option<Command> {
    let installed = std::env::split_paths(&std::env::var_os("PATH")?).any(|folder| folder.join("script").is_file());
    if !installed {
        let required = std::env::var_os("TOWNLAKE_REQUIRE_SERVERS").is_some();
        assert!(!required, "{test} needs `script` of util-linux");
        eprintln!("SKIPPED {test}: there is no `script`");
        return None;
    }
    let mut command = Command::new("script");
    let shell = format!("exec '{}' sql {arguments}", binary().display());
    command.args(["--quiet", "--return", "--command", &shell, "/dev/null"]);
    host.prepare(&mut command);
    command.env("SHELL", "/bin/sh");
    Some(command)
}

/// A person at the terminal.
struct Person {
    child: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    seen: String,
}

impl Person {
    fn sit_down(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().expect("start the terminal");
        let (keyboard, screen) = (child.stdin.take().expect("a keyboard"), child.stdout.take().expect("a screen"));
        Self { child, keyboard, screen, seen: String::new() }
    }

    async fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).await.expect("type");
        self.keyboard.flush().await.expect("type");
    }

    /// Reads on until the text has come; what was on the screen up to it.
    async fn sees(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let mut bytes = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(60), self.screen.read_buf(&mut bytes)).await;
            let read = read.unwrap_or_else(|_| panic!("no `{text}` on the screen: {}", self.seen));
            assert!(read.expect("read the screen") > 0, "the shell has gone, without `{text}`: {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    async fn leaves(mut self) -> Option<i32> {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        ended.expect("the shell ends").expect("its status").code()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_types_statements_and_helpers() {
    let host = Host::start().await;
    let Some(command) = in_terminal("a_person_types_statements_and_helpers", &host, "") else { return };
    let mut person = Person::sit_down(command);
    person.sees(PROMPT).await;
    person.types("SELECT 40\r").await;
    person.types("+ 2 AS answer;\r").await;
    let screen = person.sees("(1 row, ").await;
    assert!(screen.contains("| 42"), "a statement over two lines: {screen}");
    person.sees(PROMPT).await;
    person.types("USE lake.web;\r").await;
    person.sees(PROMPT).await;
    person.types("\\d\r").await;
    let screen = person.sees("(1 row, ").await;
    assert!(screen.contains("events"), "{screen}");
    person.sees(PROMPT).await;
    person.types("\\d events\r").await;
    person.sees("(2 rows, ").await;
    person.sees(PROMPT).await;
    person.types("SELECT * FROM evnts;\r").await;
    person.sees("error: TABLE_NOT_FOUND: ").await;
    person.sees(PROMPT).await; // an error ends a statement, not the shell
    person.types("\\q\r").await;
    assert_eq!(person.leaves().await, Some(0));
    let history = host.home.path().join(".local/state/townlake/history");
    let history = std::fs::read_to_string(history).expect("there is a history");
    assert!(history.contains("USE lake.web;") && history.contains("\\d events"), "{history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_at_a_terminal_cancels_and_keeps_the_session() {
    let host = Host::start().await;
    let Some(command) = in_terminal("ctrl_c_at_a_terminal", &host, "") else { return };
    let mut person = Person::sit_down(command);
    person.sees(PROMPT).await;
    person.types("USE lake.web;\r").await;
    person.sees(PROMPT).await;
    for _ in 0..2 {
        person.types(&format!("{SLOW};\r")).await;
        person.sees("running").await; // the progress line, on a terminal
        person.types("\u{3}").await;
        person.sees("error: CANCELLED: ").await;
        person.sees(PROMPT).await;
    }
    until_all_are_cancelled(&host).await;
    person.types("\u{3}").await; // at the prompt it empties the line
    person.sees(PROMPT).await;
    person.types("SELECT count(*) AS n FROM events;\r").await;
    let screen = person.sees("(1 row, ").await;
    assert!(screen.contains("| 3"), "{screen}");
    person.sees(PROMPT).await;
    person.types("\u{4}").await;
    assert_eq!(person.leaves().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_parquet_on_a_terminal() {
    let host = Host::start().await;
    let arguments = "--format parquet -e \"SELECT 1\"";
    let Some(mut command) = in_terminal("no_parquet_on_a_terminal", &host, arguments) else { return };
    let ran = Ran::of(command.output().await.expect("run the shell"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("not for a terminal") && !ran.stdout.contains("PAR1"), "{ran:?}");
}
