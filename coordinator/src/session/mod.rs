//! Sessions: what a client's calls share. The current catalog and schema, and the settings.
//!
//! A session is keyed by the bearer token that Handshake returns, else by the Flight session cookie, else it lives for one
//! call ([`SessionStore`]). `USE`, `SET SESSION` and the Flight session options act on it.

mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use townlake_common::{Cut, Error, ErrorCode, Principal, QueryId, Result};

use store::Shelf;
pub use store::{SessionLimits, SessionStore};

/// The most settings that one session may hold, and the longest value in bytes: a client cannot fill our memory.
const MAX_SETTINGS: usize = 256;
const MAX_VALUE_BYTES: usize = 4096;
/// The setting whose value is more than its text.
pub const CUT: &str = "cut";

/// One client's session. Cheap to share; everything that changes is behind one short lock.
pub struct Session {
    /// The session's public id.
    pub id: String,
    /// Who opened it. No other principal is ever let in.
    pub principal: Principal,
    state: Mutex<State>,
    /// Where the session is put at its first change: one that never changes need not outlive its call.
    shelf: Weak<Shelf>,
    this: Weak<Session>,
    /// Whether it was put there: a cookie says so, that a lost session is noticed and not silently made anew.
    kept: AtomicBool,
}

#[derive(Debug, Clone, Default)]
struct State {
    catalog: Option<String>,
    schema: Option<String>,
    settings: BTreeMap<String, String>,
    /// The cut that is read, and how the client named it.
    cut: Option<(String, Arc<Cut>)>,
    last_query: Option<QueryId>,
}

impl Session {
    fn new(id: String, principal: Principal, shelf: Weak<Shelf>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            id,
            principal,
            state: Mutex::default(),
            shelf,
            this: this.clone(),
            kept: AtomicBool::new(false),
        })
    }

    /// A session that no store knows and that lives as long as its clones: for calls from inside, and for tests.
    pub fn detached(principal: Principal) -> Arc<Self> {
        Self::new(store::new_id(), principal, Weak::new())
    }

    /// Whether the store keeps this session beyond the call.
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    /// The current catalog and schema, as far as they are set.
    pub fn current(&self) -> (Option<String>, Option<String>) {
        let state = self.state.lock();
        (state.catalog.clone(), state.schema.clone())
    }

    /// Makes `catalog` and `schema` current. The caller has checked that the principal may see them.
    pub fn use_catalog(&self, catalog: Option<String>, schema: Option<String>) {
        {
            let mut state = self.state.lock();
            state.catalog = catalog;
            state.schema = schema;
        }
        self.keep();
    }

    /// Every setting that this session has changed, by name.
    pub fn settings(&self) -> BTreeMap<String, String> {
        self.state.lock().settings.clone()
    }

    /// One setting, if this session has changed it.
    pub fn setting(&self, name: &str) -> Option<String> {
        self.state.lock().settings.get(name).cloned()
    }

    /// Sets one setting. The caller has checked name and value (`query::settings`).
    ///
    /// Errors: `INVALID_ARGUMENT` for a name or value that is too long, `RESOURCE_EXHAUSTED` for too many settings.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        if value.len() > MAX_VALUE_BYTES || name.len() > MAX_VALUE_BYTES {
            let message = format!("a setting's name and value may have {MAX_VALUE_BYTES} bytes each");
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        {
            let settings = &mut self.state.lock().settings;
            if settings.len() >= MAX_SETTINGS && !settings.contains_key(name) {
                let message = format!("a session holds at most {MAX_SETTINGS} settings");
                return Err(Error::new(ErrorCode::ResourceExhausted, message));
            }
            settings.insert(name.to_string(), value.to_string());
        }
        self.keep();
        Ok(())
    }

    /// The cut that the session reads, and how the client named it.
    pub fn cut(&self) -> Option<(String, Arc<Cut>)> {
        self.state.lock().cut.clone()
    }

    /// The session reads this cut from now on.
    pub fn set_cut(&self, name: &str, cut: Arc<Cut>) {
        self.state.lock().cut = Some((name.to_string(), cut));
        self.keep();
    }

    /// The last statement that read or wrote data.
    pub fn last_query(&self) -> Option<QueryId> {
        self.state.lock().last_query.clone()
    }

    /// Says that a statement ran. (A session that has nothing else to remember does not outlive its call for that.)
    pub fn ran(&self, query: &QueryId) {
        self.state.lock().last_query = Some(query.clone());
    }

    /// Takes one setting back to its default.
    pub fn reset(&self, name: &str) {
        {
            let state = &mut *self.state.lock();
            state.settings.remove(name);
            if name == CUT {
                state.cut = None;
            }
        }
        self.keep();
    }

    /// Takes all settings back to their defaults.
    pub fn reset_all(&self) {
        {
            let state = &mut *self.state.lock();
            state.settings.clear();
            state.cut = None;
        }
        self.keep();
    }

    /// A session that has something to remember outlives its call.
    fn keep(&self) {
        if let (Some(shelf), Some(this)) = (self.shelf.upgrade(), self.this.upgrade())
            && !self.is_kept()
        {
            shelf.keep(&this);
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("principal", &self.principal.name).finish_non_exhaustive()
    }
}
