//! The commands that serve: `standalone` from the environment alone, `demo`, and how both end.

mod demo;
mod standalone;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use townlake_tests::bed::poll;

/// A command that runs, its two outputs in one file. Killed when it is dropped.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// With its output in `folder`.
    fn start(mut command: Command, folder: &Path) -> Self {
        let log = folder.join("output.log");
        let out = File::create(&log).expect("create the log");
        command.stdin(Stdio::null()).kill_on_drop(true);
        command.stderr(out.try_clone().expect("a second handle")).stdout(out);
        Self { child: command.spawn().expect("start the command"), log }
    }

    fn output(&self) -> String {
        std::fs::read_to_string(&self.log).expect("read the log")
    }

    /// Waits until the output has `text`; the whole output.
    async fn says(&mut self, text: &str) -> String {
        let (log, child) = (&self.log, &mut self.child);
        poll(&format!("it says `{text}`"), Duration::from_secs(120), async || {
            let output = std::fs::read_to_string(log).expect("read the log");
            let ended = child.try_wait().expect("its status");
            assert!(ended.is_none() || output.contains(text), "ended with {ended:?} and without `{text}`:\n{output}");
            output.contains(text).then_some(output)
        })
        .await
    }

    fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().expect("it runs")).expect("a process id"))
    }

    fn signal(&self, signal: Signal) {
        kill(self.id(), signal).expect("send a signal");
    }

    async fn end(&mut self, limit: Duration) -> ExitStatus {
        let ended = tokio::time::timeout(limit, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it runs on:\n{}", self.output())).expect("its status")
    }
}

/// A command with nothing of the environment of the test run but `PATH`; `folder` is its home and temporary folder.
fn clean(program: impl AsRef<std::ffi::OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", folder).env("TMPDIR", folder);
    command
}
