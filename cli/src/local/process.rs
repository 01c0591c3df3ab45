//! One child process: its log file, its end.

use std::fs::File;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng;
use rand::distr::Alphanumeric;
use townlake_common::{Error, ErrorCode, Result};

/// Whether nobody is asked to stop any more, see [`hurry`].
static HURRY: AtomicBool = AtomicBool::new(false);

/// From now on, what is stopped is killed: the user does not want to wait. Ends the waiting of a stop that is under way.
pub fn hurry() {
    HURRY.store(true, Ordering::Relaxed);
}

/// A command for [`Process::start`]. Its process gets `signal` also when nobody is left to stop it: when this process was
/// killed.
///
/// The kernel sends it (PR_SET_PDEATHSIG). A child could ask for that between fork and exec with unsafe code only; so
/// util-linux's `setpriv` asks, and becomes the program then. Where there is none, a child may outlive a parent that is
/// killed.
pub fn command(program: &Path, signal: Signal) -> Command {
    static SETPRIV: OnceLock<Option<PathBuf>> = OnceLock::new();
    let works = |path: &PathBuf| {
        let mut probe = Command::new(path);
        probe.args(["--pdeathsig", "SIGTERM", "--", "true"]);
        let outcome = probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        outcome.is_ok_and(|status| status.success()) // that of busybox does not know the option
    };
    match SETPRIV.get_or_init(|| find_program("setpriv").filter(works)) {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", signal.as_str(), "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// A program of the `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

/// Spawns on a thread that never ends: to the kernel, the parent of a child is the *thread* that made it, and its signal at
/// the parent's death would come when that thread ends.
fn spawn(command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let jobs = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let work = move || {
            for (mut command, answer) in inbox {
                let _nobody_waits = answer.send(command.spawn());
            }
        };
        // without a thread nobody takes the jobs, which whoever sends one is told
        drop(std::thread::Builder::new().name("spawner".to_string()).spawn(work));
        jobs
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (answer, child) = mpsc::channel();
    jobs.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

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
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = spawn(command).map_err(|e| Error::new(ErrorCode::Internal, format!("{name} cannot start: {e}")))?;
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

    /// Asks it to stop, waits for the grace period (or until somebody is in a [`hurry`]), then kills it.
    pub fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        self.signal(self.stop_signal);
        let deadline = Instant::now() + self.grace;
        while Instant::now() < deadline && !HURRY.load(Ordering::Relaxed) {
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

    /// Waits until it has done its work and ended by itself.
    ///
    /// Errors: `TIMEOUT`, or `INTERNAL` when it fails; both with the last lines of its log.
    pub async fn finish(mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            match self.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let message = format!("{} failed with {status}:\n{}", self.name, self.tail());
                    return Err(Error::new(ErrorCode::Internal, message));
                }
                None if Instant::now() > deadline => {
                    let message = format!("{} was not done within {} s:\n{}", self.name, limit.as_secs(), self.tail());
                    return Err(Error::new(ErrorCode::Timeout, message));
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
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

/// A fresh password.
pub fn random_password() -> String {
    rand::rng().sample_iter(Alphanumeric).take(24).map(char::from).collect()
}

/// A file that only its owner can read: it holds passwords.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let failed = |e: io::Error| Error::new(ErrorCode::Internal, format!("{} cannot be written: {e}", path.display()));
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// What `scripts/setup.sh` fetched into a folder of this name, or the folder that a variable names.
pub fn fetched(variable: &str, folder: &str) -> PathBuf {
    let cache = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/townlake").join(folder);
    std::env::var_os(variable).map_or_else(cache, PathBuf::from)
}

/// A program of a virtual environment that lies beside the one of the Python clients.
pub fn program_of(environment: &str, program: &str) -> PathBuf {
    fetched("TOWNLAKE_VENV", "venv").with_file_name(environment).join("bin").join(program)
}

/// The port `wanted` where it is free, else another.
pub fn port_or_free(wanted: u16) -> Result<u16> {
    match TcpListener::bind(("127.0.0.1", wanted)) {
        Ok(_) => Ok(wanted),
        Err(_) => free_port(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_alive(process: u32) -> bool {
        // a zombie has ended
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn a_child_outlives_the_thread_that_started_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let start = move || {
            let mut command = command(Path::new("sleep"), Signal::SIGTERM);
            command.arg("60");
            Process::start("sleeper", command, &path).unwrap()
        };
        let mut process = std::thread::spawn(start).join().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(process.ended().is_none(), "{:?}", process.ended());
        let id = process.id();
        drop(process);
        assert!(!is_alive(id));
    }

    #[tokio::test]
    async fn a_command_that_fails_is_told_with_its_output() {
        let folder = tempfile::tempdir().unwrap();
        let shell = |script: &str, limit| {
            let mut command = command(Path::new("sh"), Signal::SIGTERM);
            command.args(["-c", script]);
            Process::start("script", command, folder.path()).unwrap().finish(Duration::from_secs(limit))
        };
        shell("true", 60).await.unwrap();
        let error = shell("echo no room; exit 3", 60).await.unwrap_err();
        assert!(error.message().contains("no room") && error.message().contains('3'), "{error}");
        assert_eq!(shell("sleep 60", 1).await.unwrap_err().code(), ErrorCode::Timeout);
    }
}
