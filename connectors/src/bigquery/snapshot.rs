//! The moment that a query reads: chosen once per query and catalog, so that all tables and splits are of the same state.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat};
use townlake_common::{Error, Pinned, QueryContext, Result};

use super::KIND;

/// A moment in µs since 1970.
pub(crate) struct Snapshot(i64);

impl Snapshot {
    /// The moment of `query` in this catalog: now, the first time; that of an earlier query where its cut is read again.
    pub async fn of(query: &QueryContext, catalog: &str) -> Result<i64> {
        let pin = query.pin(&format!("{KIND} {catalog}"), || async { Self::take(query, catalog) }).await?;
        Ok(pin.0)
    }

    fn take(query: &QueryContext, catalog: &str) -> Result<Self> {
        let micros = match query.replayed(catalog)? {
            Some(pinned) => DateTime::parse_from_rfc3339(&pinned.at).ok().map(|moment| moment.timestamp_micros()),
            None => {
                SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|now| i64::try_from(now.as_micros()).ok())
            }
        };
        let micros = micros.ok_or_else(|| Error::internal("the moment of a query is none"))?;
        query.note(catalog, Pinned::repeatable(KIND, shown(micros)));
        Ok(Self(micros))
    }
}

/// A moment as text, to the microsecond.
pub(crate) fn shown(micros: i64) -> String {
    let moment = DateTime::from_timestamp_micros(micros);
    moment.map(|moment| moment.to_rfc3339_opts(SecondsFormat::Micros, true)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use townlake_common::{Principal, QueryId};

    use super::*;

    #[tokio::test]
    async fn a_moment_is_taken_once_and_can_be_read_again() {
        let of = |cut| QueryContext::replaying(QueryId::generate(), Principal::anonymous(), cut);
        let first = of(None);
        let moment = Snapshot::of(&first, "bq").await.unwrap();
        assert_eq!(Snapshot::of(&first, "bq").await.unwrap(), moment);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        assert!(Snapshot::of(&of(None), "bq").await.unwrap() > moment);
        let again = of(Some(Arc::new(first.cut())));
        assert_eq!(Snapshot::of(&again, "bq").await.unwrap(), moment);
        assert!(Snapshot::of(&again, "other").await.is_err(), "it was not read then");
    }
}
