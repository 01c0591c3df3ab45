//! What travels with a query from the front door to its last split.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::{Cut, Error, ErrorCode, Pinned, Principal, Promise, Result};

/// The public id of a query: a ULID, so that ids sort by time and cannot be guessed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(String);

impl QueryId {
    /// A fresh id.
    pub fn generate() -> Self {
        Self(ulid::Ulid::new().to_string().to_lowercase())
    }

    /// The id that a client or peer names; refused unless it is a plain ULID (an id is also a directory name).
    pub fn parse(text: &str) -> Result<Self> {
        match ulid::Ulid::from_string(text) {
            Ok(_) if text.chars().all(|c| c.is_ascii_alphanumeric()) => Ok(Self(text.to_lowercase())),
            _ => {
                Err(Error::new(ErrorCode::QueryNotFound, "this is not a query id")
                    .with_hint("see system.runtime.queries"))
            }
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Pin = Arc<dyn Any + Send + Sync>;

/// One query on its way: who asks, under which id, and what it holds on to.
///
/// A connector *pins* what must stay the same for the whole query (an exported Postgres snapshot, for one) under a key of
/// its own. Pins live until the query has ended ([`QueryContext::release`]); their `Drop` releases the resource.
pub struct QueryContext {
    /// The query's id.
    pub id: QueryId,
    /// Who asks.
    pub principal: Principal,
    pins: Mutex<HashMap<String, Arc<OnceCell<Pin>>>>,
    cut: Mutex<Cut>,
    replayed: Option<Arc<Cut>>,
}

impl QueryContext {
    /// The context of a new query.
    pub fn new(id: QueryId, principal: Principal) -> Arc<Self> {
        Self::replaying(id, principal, None)
    }

    /// The context of a new query that reads what an earlier one read.
    pub fn replaying(id: QueryId, principal: Principal, replayed: Option<Arc<Cut>>) -> Arc<Self> {
        Arc::new(Self { id, principal, pins: Mutex::default(), cut: Mutex::default(), replayed })
    }

    /// Says at which moment the query reads a source or table.
    pub fn note(&self, what: &str, pinned: Pinned) {
        self.cut.lock().note(what, pinned);
    }

    /// At which moments the query reads its sources, as far as that is known by now.
    pub fn cut(&self) -> Cut {
        self.cut.lock().clone()
    }

    /// Where the query reads what an earlier one read: what this source or table was pinned at then.
    ///
    /// Errors: `SNAPSHOT_NOT_FOUND` where it was not read, or cannot be read so once more.
    pub fn replayed(&self, what: &str) -> Result<Option<&Pinned>> {
        let Some(cut) = &self.replayed else { return Ok(None) };
        let refused = |message: String| {
            Err(Error::new(ErrorCode::SnapshotNotFound, message)
                .with_hint("RESET SESSION cut, or leave it out of the query"))
        };
        match cut.get(what) {
            Some(pinned) if pinned.promise == Promise::Repeatable => Ok(Some(pinned)),
            Some(pinned) if pinned.promise == Promise::Held => {
                refused(format!("{what} ({}) kept its state for the query of the cut only", pinned.kind))
            }
            Some(pinned) => refused(format!("{what} ({}) was not pinned by the query of the cut", pinned.kind)),
            None => refused(format!("the query of the cut did not read {what}")),
        }
    }

    /// The pin under `key`, made by `make` the first time it is asked for. Concurrent callers share one making.
    pub async fn pin<T, F, Fut>(&self, key: &str, make: F) -> Result<Arc<T>>
    where
        T: Any + Send + Sync,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let cell = Arc::clone(self.pins.lock().entry(key.to_string()).or_default());
        let pin = cell.get_or_try_init(|| async { make().await.map(|value| Arc::new(value) as Pin) }).await?;
        Arc::clone(pin)
            .downcast::<T>()
            .map_err(|_| Error::internal(format!("the pin {key} was made with another type")))
    }

    /// Forgets every pin and the cut: the query is planned once more, at another moment.
    pub fn begin_anew(&self) {
        self.release();
        *self.cut.lock() = Cut::default();
    }

    /// Lets go of every pin: the query has ended. A clone of this context may live on, for one in the sessions that the
    /// scheduler keeps of ended jobs, and what was pinned must not wait for it.
    pub fn release(&self) {
        let pins = std::mem::take(&mut *self.pins.lock());
        drop(pins); // outside the lock: a pin may do much when it goes
    }

    /// All pins of one type.
    pub fn pins<T: Any + Send + Sync>(&self) -> Vec<Arc<T>> {
        let pins = self.pins.lock();
        pins.values().filter_map(|cell| Arc::clone(cell.get()?).downcast::<T>().ok()).collect()
    }

    /// The keys of all pins, sorted: what EXPLAIN and the query history show.
    pub fn pin_keys(&self) -> Vec<String> {
        let mut keys: Vec<_> =
            self.pins.lock().iter().filter(|(_, c)| c.initialized()).map(|(k, _)| k.clone()).collect();
        keys.sort();
        keys
    }
}

impl fmt::Debug for QueryContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryContext").field("id", &self.id).field("principal", &self.principal).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_query_lets_its_pins_go_whoever_holds_the_context() {
        let context = QueryContext::new(QueryId::generate(), Principal::new("ann", Vec::new()));
        let pinned =
            Arc::downgrade(&context.pin("postgres crm", || async { Ok("a snapshot".to_string()) }).await.unwrap());
        let held_by_another = Arc::clone(&context);
        assert!(pinned.upgrade().is_some());
        context.release();
        assert!(pinned.upgrade().is_none() && held_by_another.pin_keys().is_empty());
    }

    #[tokio::test]
    async fn a_query_that_begins_anew_has_another_cut() {
        let context = QueryContext::new(QueryId::generate(), Principal::new("ann", Vec::new()));
        let take = |name: &'static str| async move { Ok(name.to_string()) };
        context.pin("postgres crm", || take("first")).await.unwrap();
        context.note("crm", Pinned::held("postgres", "first".to_string()));
        context.note("erp", Pinned::held("postgres", "first".to_string()));
        context.begin_anew();
        assert!(context.cut().is_empty());
        assert_eq!(*context.pin("postgres crm", || take("second")).await.unwrap(), "second");
    }
}
