//! The cut of a query: at which moment it reads each of its sources, and whether the same can be read once more.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorCode, Result};

/// The longest text of a cut that is taken from outside, in bytes.
const LONGEST_TEXT: usize = 1 << 20;

/// What one source or table of a query is pinned at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// The kind of the source (`iceberg`, `postgres`, …).
    pub kind: String,
    /// The moment, in the source's own terms; empty where nothing is pinned.
    pub at: String,
    /// What may be expected of it.
    pub promise: Promise,
}

/// What a source promises of the moment that a query reads it at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Promise {
    /// The same rows in all splits, and again later, as long as the source keeps them.
    Repeatable,
    /// The same rows in all splits; the source forgets the moment when the query ends.
    Held,
    /// Nothing: each split reads what is there when it begins.
    Unpinned,
}

impl Promise {
    /// The public name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Repeatable => "repeatable",
            Self::Held => "held",
            Self::Unpinned => "unpinned",
        }
    }
}

impl Pinned {
    /// A moment that can be read again.
    pub fn repeatable(kind: &str, at: String) -> Self {
        Self { kind: kind.to_string(), at, promise: Promise::Repeatable }
    }

    /// A moment that lasts as long as the query.
    pub fn held(kind: &str, at: String) -> Self {
        Self { kind: kind.to_string(), at, promise: Promise::Held }
    }

    /// No moment.
    pub fn unpinned(kind: &str) -> Self {
        Self { kind: kind.to_string(), at: String::new(), promise: Promise::Unpinned }
    }
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.promise {
            Promise::Unpinned => write!(f, "{}, unpinned", self.kind),
            promise => write!(f, "{}, {} ({})", self.kind, self.at, promise.as_str()),
        }
    }
}

/// What each source or table of a query is pinned at, by its name: `catalog`, or `catalog.schema.table` with the version that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cut(BTreeMap<String, Pinned>);

impl Cut {
    /// The cut that [`Cut::to_text`] wrote.
    ///
    /// Errors: `INVALID_ARGUMENT` for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |what: String| {
            Error::new(ErrorCode::InvalidArgument, what)
                .with_hint("give the id of a query, or what the column cut of system.runtime.queries has")
        };
        if text.len() > LONGEST_TEXT {
            return Err(refused(format!("a cut has at most {LONGEST_TEXT} bytes")));
        }
        if !text.trim_start().starts_with('{') {
            return Err(refused("this is no query id of this coordinator and no text of a cut".to_string()));
        }
        serde_json::from_str(text).map_err(|error| refused(format!("this is no cut: {error}")))
    }

    /// The cut as text (JSON).
    pub fn to_text(&self) -> String {
        // A map of texts: nothing that could not be written.
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// Says what a source or table is pinned at. What was said of it before is forgotten.
    pub fn note(&mut self, what: &str, pinned: Pinned) {
        self.0.insert(what.to_string(), pinned);
    }

    /// What a source or table is pinned at.
    pub fn get(&self, what: &str) -> Option<&Pinned> {
        self.0.get(what)
    }

    /// All of it, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Pinned)> {
        self.0.iter().map(|(what, pinned)| (what.as_str(), pinned))
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (what, pinned)) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{what}: {pinned}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_is_read_again_and_nothing_else_is() {
        let mut cut = Cut::default();
        cut.note("lake.s.t", Pinned::repeatable("iceberg", "snapshot 7, schema 0".to_string()));
        cut.note("crm", Pinned::held("postgres", "snapshot 0003-1".to_string()));
        cut.note("events.db.clicks", Pinned::unpinned("clickhouse"));
        assert_eq!(Cut::parse(&cut.to_text()).unwrap(), cut);
        assert_eq!(cut.to_string().lines().count(), 3);
        let error = Cut::parse("nonsense").unwrap_err();
        assert_eq!(error.message(), "this is no query id of this coordinator and no text of a cut");
        for text in ["", "now", "[]", "{\"a\":1}", "{\"a\":{\"kind\":\"x\",\"at\":\"\",\"promise\":\"sure\"}}"] {
            assert_eq!(Cut::parse(text).unwrap_err().code(), ErrorCode::InvalidArgument, "{text}");
        }
    }
}
