//! `townlake sql`, the real binary, against a running server: as scripts use it, and as a person at a terminal does.

mod formats;
mod interrupt;
mod terminal;

use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use townlake_cli::connection::Connection;
use townlake_tests::bed::binary;
use townlake_tests::town::{Town, TownSpec};

const USER: &str = "ann";
const PASSWORD: &str = "hunter2-shell";

/// A server with the table `lake.web.events`, and a home for the shell.
struct Host {
    town: Town,
    home: TempDir,
}

impl Host {
    async fn start() -> Self {
        let spec = TownSpec::default().executors(1).user(USER, PASSWORD, &[]).lake("lake", &[], &[USER]);
        let town = spec.start().await;
        let ann = town.connect(USER, PASSWORD).await;
        for sql in [
            "CREATE SCHEMA lake.web",
            "CREATE TABLE lake.web.events AS SELECT value AS id, 'é' || value AS name FROM generate_series(1, 3)",
        ] {
            ann.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
        Self { town, home: tempfile::tempdir().expect("a temporary folder") }
    }

    /// `townlake sql` with these arguments, signed in as ann by its environment.
    fn sql(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("sql").args(arguments);
        self.prepare(&mut command);
        command
    }

    /// Nothing of the environment of the test run gets through.
    fn prepare(&self, command: &mut Command) {
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.home.path()).env("TERM", "xterm");
        command.env("TOWNLAKE_URL", self.town.url()).env("TOWNLAKE_USER", USER).env("TOWNLAKE_PASSWORD", PASSWORD);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    }

    /// Runs statements with `-e`.
    async fn run(&self, arguments: &[&str], statements: &str) -> Ran {
        let output = self.sql(arguments).args(["-e", statements]).output().await;
        Ran::of(output.expect("run the shell"))
    }

    async fn connect(&self) -> Connection {
        self.town.connect(USER, PASSWORD).await
    }
}

/// What a run of the shell left.
#[derive(Debug, PartialEq)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// A run that went well and says nothing but rows.
    fn rows(stdout: &str) -> Self {
        Self { code: Some(0), stdout: stdout.to_string(), stderr: String::new() }
    }
}

const SCRIPT: &str = "USE lake.web; -- nothing to read\n/* a /* ; */ b */ SELECT $$x;y$$ AS a;\n\
    SELECT name FROM events WHERE id = 2";
const ANSWER: &str = "a\nx;y\nname\né2\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_come_by_argument_by_file_and_by_standard_input() {
    let host = Host::start().await;
    assert_eq!(host.run(&["--format", "csv"], SCRIPT).await, Ran::rows(ANSWER));

    let file = host.home.path().join("script.sql");
    std::fs::write(&file, SCRIPT).expect("write the script");
    let path = file.to_str().expect("a path of text");
    let by_file = host.sql(&["--format", "csv", "-f", path]).output().await.expect("run the shell");
    assert_eq!(Ran::of(by_file), Ran::rows(ANSWER));

    for arguments in [&["--format", "csv"][..], &["--format", "csv", "-f", "-"]] {
        let mut child = host.sql(arguments).stdin(Stdio::piped()).spawn().expect("start the shell");
        let mut input = child.stdin.take().expect("its standard input");
        input.write_all(SCRIPT.as_bytes()).await.expect("write the statements");
        drop(input);
        assert_eq!(Ran::of(child.wait_with_output().await.expect("run the shell")), Ran::rows(ANSWER));
    }
    assert_eq!(host.run(&[], " ; -- nothing\n").await, Ran::rows(""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_error_ends_a_script_and_tells_code_and_hint() {
    let host = Host::start().await;
    let script =
        "CREATE TABLE lake.web.before AS SELECT 1 AS a; SELECT * FROM lake.web.evnts; CREATE SCHEMA lake.after";
    let ran = host.run(&["--format", "csv"], script).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.starts_with("error: TABLE_NOT_FOUND: ") && ran.stderr.contains("lake.web.events"), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    let (_, schemas) = host.connect().await.collect("SHOW SCHEMAS FROM lake").await.expect("ask for the schemas");
    let schemas = format!("{schemas:?}");
    assert!(schemas.contains("web") && !schemas.contains("after"), "{schemas}");
    let before = host.run(&["--format", "csv"], "SELECT a FROM lake.web.before").await;
    assert_eq!(before, Ran::rows("a\n1\n"));

    let broken = host.run(&[], "SELECT 'never closed").await;
    assert!(broken.code == Some(1) && broken.stderr.starts_with("error: SYNTAX_ERROR: "), "{broken:?}");

    let wrong = host.sql(&["-e", "SELECT 1"]).env("TOWNLAKE_PASSWORD", "guess").output().await;
    let wrong = Ran::of(wrong.expect("run the shell"));
    assert!(wrong.code == Some(1) && wrong.stderr.starts_with("error: UNAUTHENTICATED: "), "{wrong:?}");
    assert!(!wrong.stderr.contains("guess"), "{wrong:?}");

    let nobody = host.sql(&["-e", "SELECT 1", "--url", "127.0.0.1:1"]).output().await;
    let nobody = Ran::of(nobody.expect("run the shell"));
    assert!(nobody.code == Some(1) && nobody.stderr.starts_with("error: SOURCE_UNAVAILABLE: "), "{nobody:?}");
    assert!(nobody.stderr.contains("townlake demo"), "a hint: {nobody:?}");

    let missing = host.sql(&["-f", "/nowhere.sql"]).output().await;
    let missing = Ran::of(missing.expect("run the shell"));
    assert!(missing.code == Some(1) && missing.stderr.contains("/nowhere.sql"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helper_lines_work_in_scripts_too() {
    let host = Host::start().await;
    let csv = ["--format", "csv"];
    let catalogs = host.run(&csv, "\\l").await;
    assert!(catalogs.code == Some(0) && catalogs.stdout.lines().any(|line| line == "lake"), "{catalogs:?}");
    let schemas = host.run(&csv, "\\dn lake").await;
    assert!(schemas.code == Some(0) && schemas.stdout.lines().any(|line| line == "web"), "{schemas:?}");
    let columns = host.run(&csv, "\\d lake.web.events").await;
    let names = columns.stdout.lines().filter(|line| line.starts_with("id,") || line.starts_with("name,"));
    assert!(columns.code == Some(0) && names.count() == 2, "{columns:?}");
    let tables = host.run(&csv, "USE lake.web;\n\\d\nSELECT 1 AS a").await;
    assert!(tables.stdout.contains("events") && tables.stdout.ends_with("a\n1\n"), "{tables:?}");
    let unknown = host.run(&csv, "\\x").await;
    assert!(unknown.code == Some(1) && unknown.stderr.contains("\\?"), "{unknown:?}");
}
