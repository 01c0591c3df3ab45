//! What the servers of tests have in common: how they are shared, how they end.

use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use townlake_cli::local;

/// A loopback port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    local::free_port().expect("a free port")
}

/// Nothing, and a line on standard error; panics where `TOWNLAKE_REQUIRE_SERVERS` is set.
pub(crate) fn skip<T>(test: &str, missing: &str) -> Option<T> {
    assert!(std::env::var_os("TOWNLAKE_REQUIRE_SERVERS").is_none(), "{test} needs {missing}");
    eprintln!("SKIPPED {test}: there is no {missing}");
    None
}

/// The server that tests share while one of them runs.
pub(crate) fn shared<T>(slot: &Mutex<Weak<T>>, start: impl FnOnce() -> Option<T>) -> Option<Arc<T>> {
    let mut shared = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return Some(running);
    }
    let started = Arc::new(start()?);
    *shared = Arc::downgrade(&started);
    Some(started)
}

/// Asks a server to end; kills it should it hang.
pub(crate) fn stop(server: &mut Child, signal: Signal, grace: Duration) {
    if let Ok(pid) = i32::try_from(server.id())
        && matches!(server.try_wait(), Ok(None))
    {
        let _ = kill(Pid::from_raw(pid), signal);
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline && matches!(server.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = server.kill();
        let _ = server.wait();
    }
}
