//! A circuit breaker, one a source and process: where a source could not be reached several times in a row, the queries that begin are
//! told so at once, until a probe gets through.
//!
//! It stands before what planning asks a source, and before nothing else: a query that is planned has reached its source, and its splits
//! go on trying by their own rules. What the source answers, a refusal too, says that it is there.
//!
//! Of the crates, failsafe (the clock of the system, any number of probes) and recloser (rates, a pause that does not grow) cannot say
//! when the next try is due, which is what the error is for.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use townlake_common::{Error, ErrorCode, Result};

/// Failures that are further apart are not in a row.
const WINDOW: Duration = Duration::from_secs(60);
/// The longest pause between two probes, unless the configuration's is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whether a source is worth asking.
pub(crate) struct Breaker {
    catalog: String,
    /// What it leads to, for errors: `Postgres at 127.0.0.1:5432`.
    server: String,
    /// Failures in a row that open it; 0: it never opens.
    limit: u32,
    pause: Duration,
    state: Mutex<State>,
    /// Tests have a clock of their own.
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
}

#[derive(Debug, Default)]
struct State {
    /// In a row, until now.
    failures: u32,
    last_failure: Option<Instant>,
    open: Option<Open>,
    /// How often it was opened: a probe of another time says nothing of this one.
    times_open: u64,
    failures_total: u64,
    refused_total: u64,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    until: Instant,
    pause: Duration,
    is_probed: bool,
}

/// What a breaker has seen, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerState {
    /// The catalog.
    pub catalog: String,
    /// Whether queries are refused now.
    pub is_open: bool,
    /// Failures to reach the source, since the process began.
    pub failures: u64,
    /// What was refused because of them.
    pub refused: u64,
}

impl Breaker {
    /// A closed one.
    pub fn new(catalog: &str, server: String, limit: u32, pause: Duration) -> Self {
        Self {
            catalog: catalog.to_string(),
            server,
            limit,
            pause,
            state: Mutex::default(),
            clock: Box::new(Instant::now),
        }
    }

    /// Whether one would be let through now, for those who wait for something else first.
    ///
    /// Errors (also of [`Breaker::enter`]): `SOURCE_UNAVAILABLE` (retryable), naming catalog, host and when it is tried again.
    pub fn check(&self) -> Result<()> {
        let mut state = self.state.lock();
        match state.open {
            Some(open) if open.is_probed || (self.clock)() < open.until => Err(self.refuse(&mut state, open)),
            _ => Ok(()),
        }
    }

    /// Lets a try through. When the pause is over, the first one is the probe, and others are refused until it has ended.
    pub fn enter(&self) -> Result<Attempt<'_>> {
        let now = (self.clock)();
        let mut state = self.state.lock();
        let times_open = state.times_open;
        let probe_of = match &mut state.open {
            None => None,
            Some(open) if !open.is_probed && now >= open.until => {
                open.is_probed = true;
                Some(times_open)
            }
            Some(open) => {
                let open = *open;
                return Err(self.refuse(&mut state, open));
            }
        };
        Ok(Attempt { breaker: self, probe_of })
    }

    /// Forgets all failures: the next query tries.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        (state.failures, state.last_failure, state.open) = (0, None, None);
    }

    /// What it has seen.
    pub fn state(&self) -> BreakerState {
        let state = self.state.lock();
        BreakerState {
            catalog: self.catalog.clone(),
            is_open: state.open.is_some(),
            failures: state.failures_total,
            refused: state.refused_total,
        }
    }

    fn refuse(&self, state: &mut State, open: Open) -> Error {
        state.refused_total += 1;
        let left = open.until.saturating_duration_since((self.clock)());
        let next = match open.is_probed {
            true => "it is being tried at this moment".to_string(),
            false => format!("it is tried again in {} s", left.as_secs_f64().ceil().max(1.0)),
        };
        let Self { catalog, server, .. } = self;
        let message =
            format!("catalog {catalog}: {server} could not be reached {} times in a row: {next}", state.failures);
        Error::new(ErrorCode::SourceUnavailable, message)
            .with_hint(format!("CALL {catalog}.system.refresh() lets the next query try at once"))
            .retryable()
    }

    fn reached(&self) {
        if self.state.lock().open.is_some() {
            tracing::info!(catalog = %self.catalog, server = %self.server, "the source is reached again");
        }
        self.reset();
    }

    fn failed(&self, probe_of: Option<u64>) {
        let now = (self.clock)();
        let mut state = self.state.lock();
        state.failures_total += 1;
        let is_apart = state.last_failure.is_some_and(|last| now.duration_since(last) > WINDOW);
        if is_apart && state.open.is_none() {
            state.failures = 0;
        }
        state.failures = state.failures.saturating_add(1);
        state.last_failure = Some(now);
        let pause = match state.open {
            Some(open) if probe_of == Some(state.times_open) => (open.pause * 2).min(LONGEST_PAUSE.max(self.pause)),
            None if self.limit > 0 && state.failures >= self.limit => self.pause,
            _ => return,
        };
        state.times_open += 1;
        state.open = Some(Open { until: now + pause, pause, is_probed: false });
        tracing::info!(catalog = %self.catalog, server = %self.server, ?pause, "the source is not tried for a while");
    }
}

/// A try that was let through. Dropped without a verdict (its query was cancelled), it says nothing.
#[must_use]
pub(crate) struct Attempt<'a> {
    breaker: &'a Breaker,
    /// Which opening it probes the end of.
    probe_of: Option<u64>,
}

impl Attempt<'_> {
    /// The source is there, whatever it said.
    pub fn reached(mut self) {
        self.probe_of = None;
        self.breaker.reached();
    }

    /// Tells how it went: a failure to reach the source counts, whatever the source answered does not.
    pub fn ended<T>(mut self, result: &Result<T>) {
        let probe_of = self.probe_of.take();
        match result {
            Err(error) if error.code() == ErrorCode::SourceUnavailable => self.breaker.failed(probe_of),
            // The budget says nothing of the server.
            Err(error) if error.code() == ErrorCode::ResourceExhausted => self.probe_of = probe_of,
            _ => self.breaker.reached(),
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Some(probe_of) = self.probe_of else { return };
        let mut state = self.breaker.state.lock();
        if state.times_open == probe_of
            && let Some(open) = &mut state.open
        {
            open.is_probed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    struct Clock(Arc<Mutex<Instant>>);

    impl Clock {
        fn advance(&self, by: Duration) {
            *self.0.lock() += by;
        }
    }

    /// A breaker, and its clock, which stands still.
    fn breaker(limit: u32) -> (Breaker, Clock) {
        let mut breaker = Breaker::new("crm", "Postgres at 127.0.0.1:1".to_string(), limit, PAUSE);
        let now = Arc::new(Mutex::new(Instant::now()));
        let told = Arc::clone(&now);
        breaker.clock = Box::new(move || *told.lock());
        (breaker, Clock(now))
    }

    fn fail(breaker: &Breaker) {
        let failed: Result<()> = Err(Error::new(ErrorCode::SourceUnavailable, "gone"));
        breaker.enter().unwrap().ended(&failed);
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_probe_closes_it() {
        let (breaker, clock) = breaker(3);
        fail(&breaker);
        fail(&breaker);
        breaker.enter().unwrap().ended(&Ok(()));
        for _ in 0..3 {
            assert!(breaker.check().is_ok());
            fail(&breaker);
        }
        clock.advance(Duration::from_millis(800));
        let error = breaker.enter().err().unwrap();
        assert!(error.code() == ErrorCode::SourceUnavailable && error.is_retryable());
        let wanted =
            "catalog crm: Postgres at 127.0.0.1:1 could not be reached 3 times in a row: it is tried again in 5 s";
        assert_eq!(error.message(), wanted);
        clock.advance(PAUSE);
        let probe = breaker.enter().unwrap();
        assert!(breaker.check().err().unwrap().message().contains("at this moment"), "one probe at a time");
        assert!(breaker.enter().is_err());
        probe.ended(&Ok(()));
        assert!(breaker.check().is_ok() && !breaker.state().is_open);
        let state = breaker.state();
        assert_eq!((state.failures, state.refused), (5, 3));
    }

    #[test]
    fn the_pause_grows_to_a_bound_and_begins_anew() {
        let (breaker, clock) = breaker(1);
        fail(&breaker);
        for pause in [5, 10, 20, 40, 60, 60] {
            clock.advance(Duration::from_secs(pause) - Duration::from_millis(1));
            assert!(breaker.check().is_err(), "{pause}");
            clock.advance(Duration::from_millis(1));
            fail(&breaker);
        }
        breaker.reset();
        fail(&breaker);
        clock.advance(PAUSE);
        assert!(breaker.check().is_ok());
    }

    #[test]
    fn what_the_source_answers_says_that_it_is_there() {
        let (breaker, _clock) = breaker(2);
        for code in [ErrorCode::SourceDenied, ErrorCode::SourceError, ErrorCode::TableNotFound, ErrorCode::DataCorrupt]
        {
            fail(&breaker);
            let refused: Result<()> = Err(Error::new(code, "no"));
            breaker.enter().unwrap().ended(&refused);
        }
        assert!(breaker.check().is_ok());
    }

    #[test]
    fn failures_that_are_far_apart_are_not_in_a_row() {
        let (breaker, clock) = breaker(2);
        for _ in 0..5 {
            fail(&breaker);
            clock.advance(WINDOW + Duration::from_millis(1));
        }
        assert!(breaker.check().is_ok());
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_its_place() {
        let (breaker, clock) = breaker(1);
        fail(&breaker);
        clock.advance(PAUSE);
        drop(breaker.enter().unwrap());
        let exhausted: Result<()> = Err(Error::new(ErrorCode::ResourceExhausted, "all connections are in use"));
        breaker.enter().unwrap().ended(&exhausted);
        // A probe of another time says nothing of this one.
        let old = breaker.enter().unwrap();
        breaker.reset();
        fail(&breaker);
        clock.advance(PAUSE);
        let probe = breaker.enter().unwrap();
        drop(old);
        assert!(breaker.check().is_err(), "the new probe runs still");
        probe.ended(&Ok(()));
        assert!(breaker.check().is_ok());
    }

    #[test]
    fn a_failure_that_comes_late_does_not_lengthen_the_pause() {
        let (breaker, clock) = breaker(1);
        let late = breaker.enter().unwrap();
        fail(&breaker);
        clock.advance(PAUSE - Duration::from_millis(1));
        let failed: Result<()> = Err(Error::new(ErrorCode::SourceUnavailable, "gone"));
        late.ended(&failed);
        clock.advance(Duration::from_millis(1));
        assert!(breaker.check().is_ok());
    }

    #[test]
    fn without_a_limit_it_never_opens() {
        let (breaker, _clock) = breaker(0);
        (0..100).for_each(|_| fail(&breaker));
        assert!(breaker.check().is_ok());
    }
}
