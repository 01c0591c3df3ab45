//! The sessions of one coordinator: bounded in number, ended by silence, never shared between principals.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use townlake_common::{Error, ErrorCode, Principal, Result};

use super::Session;

/// How many sessions there may be and how long a silent one lives.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Sessions of the coordinator.
    pub total: usize,
    /// Sessions of one principal, so that nobody can push out the others'.
    pub per_principal: usize,
    /// A session without calls ends after this.
    pub ttl: Duration,
}

impl SessionLimits {
    /// The limits of a coordinator whose sessions live `ttl` without a call.
    pub fn with_ttl(ttl: Duration) -> Self {
        Self { total: 10_000, per_principal: 1_000, ttl }
    }
}

/// Opens, finds and closes sessions. Clones share the sessions.
#[derive(Clone)]
pub struct SessionStore {
    shelf: Arc<Shelf>,
}

/// Where kept sessions lie. A session holds it weakly, to put itself here at its first change.
pub(super) struct Shelf {
    limits: SessionLimits,
    sessions: Mutex<HashMap<String, Kept>>,
}

struct Kept {
    session: Arc<Session>,
    last_call: Instant,
}

impl SessionStore {
    /// An empty store.
    pub fn new(limits: SessionLimits) -> Self {
        Self { shelf: Arc::new(Shelf { limits, sessions: Mutex::default() }) }
    }

    /// How long a silent session lives.
    pub fn ttl(&self) -> Duration {
        self.shelf.limits.ttl
    }

    /// Opens a session that is kept from now on: what Handshake does. Where there are too many, the one that was silent
    /// for longest makes room: of the same principal first.
    pub fn open(&self, principal: Principal) -> Arc<Session> {
        let session = self.ephemeral(principal);
        self.shelf.keep(&session);
        session
    }

    /// A session for one call. It is kept from its first change on, so that its cookie finds it again.
    pub fn ephemeral(&self, principal: Principal) -> Arc<Session> {
        Session::new(new_id(), principal, Arc::downgrade(&self.shelf))
    }

    /// The session `id` of the principal of this name; this call counts as a sign of life.
    ///
    /// Errors: `SESSION_NOT_FOUND`, the same for an unknown, an ended and another principal's session.
    pub fn find(&self, id: &str, principal: &str) -> Result<Arc<Session>> {
        self.shelf.find(id, principal).ok_or_else(not_found)
    }

    /// The session `id` that was offered to a client and had nothing to remember then: found if it has something by now,
    /// else made again under its id.
    ///
    /// Errors: `SESSION_NOT_FOUND` for another principal's session.
    pub fn find_or_resume(&self, id: &str, principal: &Principal) -> Result<Arc<Session>> {
        match self.shelf.find(id, &principal.name) {
            Some(session) => Ok(session),
            None if self.shelf.sessions.lock().contains_key(id) => Err(not_found()),
            None => Ok(Session::new(id.to_string(), principal.clone(), Arc::downgrade(&self.shelf))),
        }
    }

    /// Ends a session. Whether there was one.
    pub fn close(&self, session: &Session) -> bool {
        self.shelf.sessions.lock().remove(&session.id).is_some()
    }

    /// Sessions that are kept now.
    pub fn len(&self) -> usize {
        self.shelf.sessions.lock().len()
    }

    /// Whether no session is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the sessions that were silent for too long. A background task calls it now and then.
    pub fn expire(&self) {
        let (now, ttl) = (Instant::now(), self.ttl());
        self.shelf.sessions.lock().retain(|_, kept| kept.is_alive(now, ttl));
    }
}

impl Kept {
    fn is_alive(&self, now: Instant, ttl: Duration) -> bool {
        now.saturating_duration_since(self.last_call) < ttl
    }
}

impl Shelf {
    /// Keeps `session` from now on. Does nothing for one that is kept.
    pub(super) fn keep(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock();
        if sessions.contains_key(&session.id) {
            return;
        }
        let of_same = |kept: &Kept| kept.session.principal.name == session.principal.name;
        if sessions.values().filter(|kept| of_same(kept)).count() >= self.limits.per_principal {
            remove_longest_silent(&mut sessions, of_same);
        } else if sessions.len() >= self.limits.total {
            remove_longest_silent(&mut sessions, |_| true);
        }
        session.kept.store(true, Ordering::Release);
        sessions.insert(session.id.clone(), Kept { session: Arc::clone(session), last_call: Instant::now() });
    }

    fn find(&self, id: &str, principal: &str) -> Option<Arc<Session>> {
        let now = Instant::now();
        let mut sessions = self.sessions.lock();
        let kept = sessions.get_mut(id).filter(|kept| kept.session.principal.name == principal)?;
        if !kept.is_alive(now, self.limits.ttl) {
            sessions.remove(id);
            return None;
        }
        kept.last_call = now;
        Some(Arc::clone(&kept.session))
    }
}

fn remove_longest_silent(sessions: &mut HashMap<String, Kept>, which: impl Fn(&Kept) -> bool) {
    let oldest = sessions.iter().filter(|(_, kept)| which(kept)).min_by_key(|(_, kept)| kept.last_call);
    if let Some(id) = oldest.map(|(id, _)| id.clone()) {
        sessions.remove(&id);
    }
}

/// A fresh session id.
pub(super) fn new_id() -> String {
    ulid::Ulid::new().to_string().to_lowercase()
}

fn not_found() -> Error {
    Error::new(ErrorCode::SessionNotFound, "this session is unknown, closed or was silent for too long")
        .with_hint("connect again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(total: usize, per_principal: usize, ttl: Duration) -> SessionStore {
        SessionStore::new(SessionLimits { total, per_principal, ttl })
    }

    fn ann() -> Principal {
        Principal::new("ann", vec![])
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_silent_session_ends() {
        let store = store(10, 10, Duration::from_millis(40));
        let session = store.open(ann());
        std::thread::sleep(Duration::from_millis(25));
        store.find(&session.id, "ann").unwrap(); // a sign of life starts the time anew
        std::thread::sleep(Duration::from_millis(25));
        store.find(&session.id, "ann").unwrap();
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(store.find(&session.id, "ann").unwrap_err().code(), ErrorCode::SessionNotFound);
        store.open(ann());
        std::thread::sleep(Duration::from_millis(60));
        store.expire();
        assert!(store.is_empty());
    }

    #[test]
    fn one_principal_pushes_out_only_its_own() {
        let store = store(3, 2, LONG);
        let bob = store.open(Principal::new("bob", vec![]));
        let first = store.open(ann());
        let second = store.open(ann());
        store.find(&first.id, "ann").unwrap(); // now `second` is the one silent for longest
        let third = store.open(ann());
        assert_eq!(store.len(), 3);
        assert!(store.find(&second.id, "ann").is_err());
        for id in [&first.id, &third.id] {
            store.find(id, "ann").unwrap();
        }
        store.find(&bob.id, "bob").unwrap();
    }

    #[test]
    fn nobody_gets_a_foreign_session() {
        let store = store(10, 10, LONG);
        let session = store.open(ann());
        let bob = Principal::new("bob", vec![]);
        assert_eq!(store.find(&session.id, "bob").unwrap_err().code(), ErrorCode::SessionNotFound);
        assert_eq!(store.find_or_resume(&session.id, &bob).unwrap_err().code(), ErrorCode::SessionNotFound);
        assert!(store.find(&session.id, "ann").is_ok());
    }

    #[test]
    fn a_session_of_one_call_is_kept_from_its_first_change() {
        let store = store(10, 10, LONG);
        let session = store.ephemeral(ann());
        assert!(!session.is_kept() && store.is_empty());
        session.use_catalog(Some("lake".into()), Some("tpch".into()));
        assert!(session.is_kept());
        let again = store.find(&session.id, "ann").unwrap();
        assert_eq!(again.current(), (Some("lake".into()), Some("tpch".into())));
        assert!(store.close(&session));
        assert!(store.find(&session.id, "ann").is_err());
    }

    #[test]
    fn settings_are_bounded() {
        let session = Session::detached(ann());
        assert!(session.set("a", &"x".repeat(5000)).is_err());
        for i in 0..256 {
            session.set(&format!("s{i}"), "1").unwrap();
        }
        assert_eq!(session.set("one_more", "1").unwrap_err().code(), ErrorCode::ResourceExhausted);
        session.set("s7", "2").unwrap();
        assert_eq!(session.setting("s7").as_deref(), Some("2"));
    }
}
