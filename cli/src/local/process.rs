//! One child process: its log file, its end.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use townlake_common::{Error, ErrorCode, Result};

/// A child process that ends when this is dropped: asked first, killed after `grace`.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    stop_signal: Signal,
    grace: Duration,
}

impl Process {
    /// Starts `command` with both outputs in `<folder>/<name>.log`.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let failed = |e: std::io::Error| {
            let program = command.get_program().to_string_lossy().to_string();
            Error::new(ErrorCode::Internal, format!("{name} ({program}) cannot start: {e}"))
        };
        let out = File::options().create(true).append(true).open(&log).map_err(&failed)?;
        let err = out.try_clone().map_err(&failed)?;
        // a group of its own: Ctrl-C at the terminal is for the parent, which stops its children in order
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.map_err(|e| Error::new(ErrorCode::Internal, format!("{name} cannot start: {e}")))?;
        Ok(Self { name: name.to_string(), child, log, stop_signal: Signal::SIGTERM, grace: Duration::from_secs(8) })
    }

    /// Sets how the process is asked to stop, and how long it may take.
    pub fn with_stop(mut self, signal: Signal, grace: Duration) -> Self {
        (self.stop_signal, self.grace) = (signal, grace);
        self
    }

    /// What it is called in logs and messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with everything that it printed.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ended_already = kill(Pid::from_raw(id), signal);
        }
    }

    /// Kills it at once and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        drop(self.child.wait());
    }

    /// Asks it to stop, waits for the grace period, then kills it.
    pub fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        self.signal(self.stop_signal);
        let deadline = Instant::now() + self.grace;
        while Instant::now() < deadline {
            if self.ended().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
    }

    /// Waits until `ready` says yes.
    ///
    /// Errors: `TIMEOUT`, or `INTERNAL` when the process ends before; both with the last lines of its log.
    pub async fn wait_until<F, Fut>(&mut self, limit: Duration, mut ready: F) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = bool>,
    {
        let deadline = Instant::now() + limit;
        loop {
            if ready().await {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                let message = format!("{} ended with {status} before it was ready:\n{}", self.name, self.tail());
                return Err(Error::new(ErrorCode::Internal, message));
            }
            if Instant::now() > deadline {
                let message = format!("{} was not ready within {} s:\n{}", self.name, limit.as_secs(), self.tail());
                return Err(Error::new(ErrorCode::Timeout, message));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The last lines of its log.
    fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A loopback port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    let taken = |e: std::io::Error| Error::new(ErrorCode::Internal, "no free port").with_source(e);
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(taken)?;
    Ok(listener.local_addr().map_err(taken)?.port())
}

/// The port `wanted` where it is free, else another.
pub fn port_or_free(wanted: u16) -> Result<u16> {
    match TcpListener::bind(("127.0.0.1", wanted)) {
        Ok(_) => Ok(wanted),
        Err(_) => free_port(),
    }
}
