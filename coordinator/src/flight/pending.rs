//! Results that were promised and not read yet: between `GetFlightInfo`, which plans, and `DoGet`, which runs.
//!
//! A ticket is worth one reading. Whatever is planned lies here under its query id until then, bounded in number, size and
//! time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use townlake_common::{Error, ErrorCode, QueryId, Result};

use crate::query::Prepared;
use crate::session::Session;

/// Results that one principal may have asked for and not read, and all together.
const PER_PRINCIPAL: usize = 1_000;
const TOTAL: usize = 20_000;

/// Bytes of statements and parameters that wait, likewise. A parsed statement takes many times its text.
const BYTES_PER_PRINCIPAL: usize = 16 << 20;
const BYTES_TOTAL: usize = 64 << 20;

/// A planned statement that waits for its reader.
pub struct PendingResult {
    /// The session it was planned in and will run in.
    pub session: Arc<Session>,
    /// The plan.
    pub prepared: Arc<Prepared>,
    /// The bound parameters: one row.
    pub parameters: Option<RecordBatch>,
}

impl PendingResult {
    /// What it is counted as, in bytes.
    pub fn size(&self) -> usize {
        self.prepared.sql.len() + self.parameters.as_ref().map_or(0, RecordBatch::get_array_memory_size)
    }
}

struct Entry<T> {
    principal: String,
    session: String,
    expires: Instant,
    bytes: usize,
    value: T,
}

/// The results that wait. `T` is [`PendingResult`] outside of tests.
pub struct Pending<T = PendingResult> {
    ttl: Duration,
    entries: Mutex<HashMap<QueryId, Entry<T>>>,
}

impl<T> Pending<T> {
    /// None yet; each will wait `ttl` at most.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, entries: Mutex::default() }
    }

    /// How long a result waits for its reader.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Puts a result of `bytes` in waiting. Where a principal has too many or too large ones, its oldest go.
    pub fn put(&self, id: QueryId, session: &Session, bytes: usize, value: T) {
        let principal = session.principal.name.clone();
        let expires = Instant::now() + self.ttl;
        let mut entries = self.entries.lock();
        make_room(&mut entries, PER_PRINCIPAL, BYTES_PER_PRINCIPAL, bytes, |entry| entry.principal == principal);
        make_room(&mut entries, TOTAL, BYTES_TOTAL, bytes, |_| true);
        entries.insert(id, Entry { principal, session: session.id.clone(), expires, bytes, value });
    }

    /// Takes the result out: there is no second reading.
    ///
    /// Errors: `TICKET_INVALID` when it was read, cancelled or never there, `TICKET_EXPIRED` when it waited too long.
    pub fn take(&self, id: &QueryId, principal: &str) -> Result<T> {
        let mut entries = self.entries.lock();
        if entries.get(id).is_none_or(|entry| entry.principal != principal) {
            let message = "the result of this ticket was read already, was cancelled, or is of an earlier server";
            return Err(Error::new(ErrorCode::TicketInvalid, message).with_hint("run the statement again"));
        }
        match entries.remove(id) {
            Some(entry) if entry.expires > Instant::now() => Ok(entry.value),
            _ => Err(Error::new(ErrorCode::TicketExpired, "the result was not read in time")
                .with_hint("run the statement again")),
        }
    }

    /// Drops the results of a session that is closed.
    pub fn forget_session(&self, session: &str) {
        self.entries.lock().retain(|_, entry| entry.session != session);
    }

    /// Drops what waited too long. A background task calls it now and then.
    pub fn expire(&self) {
        let now = Instant::now();
        self.entries.lock().retain(|_, entry| entry.expires > now);
    }
}

/// Removes the oldest of `which` until one more, of `bytes`, is within the limits. One that is over them alone is let in alone.
fn make_room<T>(
    entries: &mut HashMap<QueryId, Entry<T>>,
    most: usize,
    most_bytes: usize,
    bytes: usize,
    which: impl Fn(&Entry<T>) -> bool,
) {
    let (mut number, mut held) = (0, 0);
    for entry in entries.values().filter(|entry| which(entry)) {
        number += 1;
        held += entry.bytes;
    }
    while number > 0 && (number >= most || held + bytes > most_bytes) {
        let oldest = entries.iter().filter(|(_, entry)| which(entry)).min_by_key(|(_, entry)| entry.expires);
        let Some(id) = oldest.map(|(id, _)| id.clone()) else { return };
        held -= entries.remove(&id).map_or(0, |entry| entry.bytes);
        number -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use townlake_common::Principal;

    fn session(name: &str) -> Arc<Session> {
        Session::detached(Principal::new(name, vec![]))
    }

    #[test]
    fn a_ticket_is_worth_one_reading() {
        let pending = Pending::new(Duration::from_secs(60));
        let id = QueryId::generate();
        pending.put(id.clone(), &session("ann"), 8, 7);
        assert_eq!(pending.take(&id, "bob").unwrap_err().code(), ErrorCode::TicketInvalid);
        assert_eq!(pending.take(&id, "ann").unwrap(), 7);
        assert_eq!(pending.take(&id, "ann").unwrap_err().code(), ErrorCode::TicketInvalid);
    }

    #[test]
    fn a_result_waits_only_so_long() {
        let pending = Pending::new(Duration::from_millis(10));
        let id = QueryId::generate();
        pending.put(id.clone(), &session("ann"), 8, ());
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(pending.take(&id, "ann").unwrap_err().code(), ErrorCode::TicketExpired);
    }

    #[test]
    fn a_principal_pushes_out_its_own_and_a_closed_session_takes_its_results() {
        let pending = Pending::new(Duration::from_secs(60));
        let (ann, bob) = (session("ann"), session("bob"));
        let ids: Vec<_> = (0..=PER_PRINCIPAL).map(|_| QueryId::generate()).collect();
        let bobs = QueryId::generate();
        pending.put(bobs.clone(), &bob, 8, ());
        for id in &ids {
            pending.put(id.clone(), &ann, 8, ());
            std::thread::sleep(Duration::from_micros(20));
        }
        assert!(pending.take(&ids[0], "ann").is_err());
        assert!(pending.take(&ids[1], "ann").is_ok());
        pending.forget_session(&ann.id);
        assert!(pending.take(&ids[2], "ann").is_err());
        assert!(pending.take(&bobs, "bob").is_ok());
    }

    #[test]
    fn large_statements_push_out_earlier_ones_of_their_principal() {
        let pending = Pending::new(Duration::from_secs(60));
        let (ann, bob) = (session("ann"), session("bob"));
        let put = |session: &Session, bytes: usize| {
            let id = QueryId::generate();
            pending.put(id.clone(), session, bytes, ());
            std::thread::sleep(Duration::from_micros(20));
            id
        };
        let bobs = put(&bob, 1);
        let anns: Vec<_> = (0..5).map(|_| put(&ann, BYTES_PER_PRINCIPAL / 4)).collect();
        assert!(pending.take(&anns[0], "ann").is_err());
        assert!(anns[1..].iter().all(|id| pending.take(id, "ann").is_ok()));
        let (small, huge) = (put(&ann, 1), put(&ann, BYTES_TOTAL));
        assert!(pending.take(&small, "ann").is_err());
        assert!(pending.take(&huge, "ann").is_ok(), "it is let in alone");
        assert!(pending.take(&bobs, "bob").is_err(), "all together have a limit too");
    }
}
