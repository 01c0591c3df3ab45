//! A server that lets no more of us in for now: whoever reads a split asks it again, with pauses that become longer.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// For so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The tries of one split.
pub(crate) struct Retry {
    since: Instant,
    pause: Duration,
}

impl Retry {
    /// Before the first.
    pub fn new() -> Self {
        Self { since: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Waits before the next try; false when it is time to give up.
    pub async fn pause(&mut self, catalog: &str) -> bool {
        if self.since.elapsed() >= PATIENCE {
            return false;
        }
        if self.pause == FIRST_PAUSE {
            tracing::info!(%catalog, "the server has no connection left for us: a split tries on");
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}
