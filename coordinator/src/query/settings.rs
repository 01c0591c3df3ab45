//! The settings of a session: their names, what they may be, and what they do to a query.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::config::BALLISTA_SHUFFLE_COMPRESSION_CODEC;
use ballista_core::extension::SessionConfigHelperExt;
use bytesize::ByteSize;
use datafusion::prelude::SessionConfig;
use townlake_common::config::LimitsConfig;
use townlake_common::{Cut, Error, ErrorCode, Result, nearest};
use townlake_engine::session::with_broadcast_limit;

/// One setting, for `SHOW SESSION` and the documentation.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What it does, and which values it takes.
    pub description: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Duration,
    Number {
        from: u64,
        to: u64,
    },
    Size,
    Boolean,
    OneOf(&'static [&'static str]),
    /// Not a text alone: `QueryService::set_setting` knows.
    Cut,
}

/// The longest duration: beyond it is a slip of the hand.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Every setting.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "batch_size",
        description: "rows of a batch inside the engine (64 to 65536)",
        kind: Kind::Number { from: 64, to: 65_536 },
    },
    Setting {
        name: "broadcast_limit",
        description: "the side of a join that is sent whole to every task is estimated at this size at most, like `10MB`",
        kind: Kind::Size,
    },
    Setting {
        name: "cut",
        description: "queries read what an earlier one read: its id, or what the column cut of system.runtime.queries has",
        kind: Kind::Cut,
    },
    Setting {
        name: "exchange_compression",
        description: "how partitions are compressed on their way between executors: none, lz4 or zstd",
        kind: Kind::OneOf(&["none", "lz4", "zstd"]),
    },
    Setting {
        name: "execution",
        description: "where a query runs: `auto` runs tiny ones in the coordinator, `cluster` sends every scan to executors",
        kind: Kind::OneOf(&["auto", "cluster"]),
    },
    Setting {
        name: "parquet_pushdown_filters",
        description: "filter rows while Parquet files are read (late materialisation), besides skipping row groups and pages",
        kind: Kind::Boolean,
    },
    Setting {
        name: "prefer_hash_join",
        description: "join by hash tables in memory (true) or by sorting, which spills (false)",
        kind: Kind::Boolean,
    },
    Setting {
        name: "query_timeout",
        description: "the longest a query may run, like `30s` or `5m`, up to a year; `0s` is the server's own limit",
        kind: Kind::Duration,
    },
    Setting {
        name: "source_pushdown",
        description: "what sources do for us: `all`, only `filters` (with projection and limit), or `none`",
        kind: Kind::OneOf(&["all", "filters", "none"]),
    },
    Setting {
        name: "target_partitions",
        description: "partitions of a scan and an exchange (1 to 1024)",
        kind: Kind::Number { from: 1, to: 1024 },
    },
];

/// The canonical form of `value` for the setting `name`. Call it before a value is stored in a session.
///
/// Errors: `INVALID_ARGUMENT`, naming the setting (or the nearest one) and what it takes.
pub fn validate(name: &str, value: &str) -> Result<String> {
    let setting = find(name)?;
    let value = value.trim();
    let refuse = |expected: &str| {
        Err(Error::new(ErrorCode::InvalidArgument, format!("setting {name}: `{value}` is not {expected}"))
            .with_hint(setting.description))
    };
    match setting.kind {
        Kind::Duration => match parse_duration(value) {
            Some(duration) if duration <= LONGEST => Ok(humantime::format_duration(duration).to_string()),
            _ => refuse("a duration of a year at most"),
        },
        Kind::Number { from, to } => match value.parse::<u64>() {
            Ok(number) if (from..=to).contains(&number) => Ok(number.to_string()),
            _ => refuse(&format!("a whole number from {from} to {to}")),
        },
        Kind::Size => match value.parse::<ByteSize>() {
            Ok(size) => Ok(exact(size)),
            Err(_) => refuse("a size"),
        },
        Kind::Boolean => match value.to_ascii_lowercase().as_str() {
            "true" | "on" => Ok("true".to_string()),
            "false" | "off" => Ok("false".to_string()),
            _ => refuse("true or false"),
        },
        Kind::Cut => refuse("what a session can be given so"),
        Kind::OneOf(values) => match values.iter().find(|known| known.eq_ignore_ascii_case(value)) {
            Some(known) => Ok((*known).to_string()),
            None => refuse(&format!("one of {}", values.join(", "))),
        },
    }
}

/// The setting of this name.
///
/// Errors: `INVALID_ARGUMENT` with the nearest name.
pub fn find(name: &str) -> Result<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name).ok_or_else(|| {
        let error = Error::new(ErrorCode::InvalidArgument, format!("there is no setting `{name}`"));
        match nearest_name(name) {
            Some(near) => error.with_hint(format!("did you mean `{near}`? SHOW SESSION lists all")),
            None => error.with_hint("SHOW SESSION lists all"),
        }
    })
}

/// The setting whose name this is, or nearly is.
pub(super) fn nearest_name(name: &str) -> Option<&'static str> {
    nearest(name, SETTINGS.iter().map(|setting| setting.name))
}

/// What sources do for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourcePushdown {
    /// All that is known to give the same rows there.
    #[default]
    All,
    /// Filters, projection and limit.
    Filters,
    /// Projection.
    None,
}

impl SourcePushdown {
    fn named(name: Option<&str>) -> Self {
        match name {
            Some("filters") => Self::Filters,
            Some("none") => Self::None,
            _ => Self::All,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Filters => "filters",
            Self::None => "none",
        }
    }
}

/// What a session's settings and the configuration's limits come to for one query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The longest the query may run; `None` is for ever.
    pub timeout: Option<Duration>,
    /// Partitions of a scan and an exchange.
    pub target_partitions: usize,
    /// Every scan goes to executors, however small.
    pub always_cluster: bool,
    /// What sources do for us.
    pub source_pushdown: SourcePushdown,
    /// The cut of an earlier query that is read again, and how it was named.
    pub cut: Option<(String, Arc<Cut>)>,
    batch_size: Option<usize>,
    broadcast_limit: Option<ByteSize>,
    prefer_hash_join: Option<bool>,
    pushdown_filters: Option<bool>,
    exchange_compression: Option<String>,
}

impl Effective {
    /// `slots` is the number of tasks that the cluster runs at the same time now.
    pub fn new(settings: &BTreeMap<String, String>, limits: &LimitsConfig, slots: usize) -> Self {
        let flag = |name: &str| settings.get(name).map(|value| value == "true");
        let number = |name: &str| settings.get(name).and_then(|value| value.parse::<usize>().ok());
        let default_partitions = match limits.partitions {
            // As many as run at the same time: more were measured slower, for each task builds the hash tables of its stage anew.
            0 => slots.clamp(2, 1024),
            fixed => fixed,
        };
        Self {
            timeout: timeout(settings.get("query_timeout").map(String::as_str), limits.query_timeout),
            target_partitions: number("target_partitions").unwrap_or(default_partitions),
            always_cluster: settings.get("execution").is_some_and(|value| value == "cluster"),
            source_pushdown: SourcePushdown::named(settings.get("source_pushdown").map(String::as_str)),
            cut: None,
            batch_size: number("batch_size"),
            broadcast_limit: settings.get("broadcast_limit").and_then(|value| value.parse().ok()),
            prefer_hash_join: flag("prefer_hash_join"),
            pushdown_filters: flag("parquet_pushdown_filters"),
            exchange_compression: settings.get("exchange_compression").cloned(),
        }
    }

    /// Puts the settings that concern the engine into its configuration.
    pub fn apply(&self, mut config: SessionConfig) -> SessionConfig {
        if let Some(rows) = self.batch_size {
            config = config.with_batch_size(rows);
        }
        if let Some(limit) = self.broadcast_limit {
            config = with_broadcast_limit(config, usize::try_from(limit.as_u64()).unwrap_or(usize::MAX));
        }
        if let Some(prefer) = self.prefer_hash_join {
            config.options_mut().optimizer.prefer_hash_join = prefer;
        }
        if let Some(filter) = self.pushdown_filters {
            config.options_mut().execution.parquet.pushdown_filters = filter;
        }
        if let Some(codec) = &self.exchange_compression {
            config = config.set_str(BALLISTA_SHUFFLE_COMPRESSION_CODEC, codec);
        }
        config
    }

    /// The value in force, for `SHOW SESSION`.
    pub fn value_of(&self, name: &str, config: &SessionConfig) -> String {
        match name {
            "broadcast_limit" => {
                exact(ByteSize(config.options().optimizer.hash_join_single_partition_threshold as u64))
            }
            "cut" => self.cut.as_ref().map(|(name, _)| name.clone()).unwrap_or_default(),
            "batch_size" => config.batch_size().to_string(),
            "exchange_compression" => exchange_compression(config),
            "execution" => if self.always_cluster { "cluster" } else { "auto" }.to_string(),
            "parquet_pushdown_filters" => config.options().execution.parquet.pushdown_filters.to_string(),
            "prefer_hash_join" => config.options().optimizer.prefer_hash_join.to_string(),
            "query_timeout" => humantime::format_duration(self.timeout.unwrap_or_default()).to_string(),
            "source_pushdown" => self.source_pushdown.name().to_string(),
            "target_partitions" => self.target_partitions.to_string(),
            _ => String::new(),
        }
    }
}

fn exchange_compression(config: &SessionConfig) -> String {
    let entries = config.to_key_value_pairs();
    let entry = entries.into_iter().find(|entry| entry.key == BALLISTA_SHUFFLE_COMPRESSION_CODEC);
    entry.and_then(|entry| entry.value).unwrap_or_default()
}

/// A session may lower the server's limit, never lift it.
fn timeout(session: Option<&str>, limit: Duration) -> Option<Duration> {
    let own = session.and_then(parse_duration).filter(|duration| !duration.is_zero());
    let limit = Some(limit).filter(|duration| !duration.is_zero());
    match (own, limit) {
        (Some(own), Some(limit)) => Some(own.min(limit)),
        (own, limit) => own.or(limit),
    }
}

/// A size as text that reads back as the same: `ByteSize` itself rounds.
fn exact(size: ByteSize) -> String {
    match size.as_u64() {
        mega if mega > 0 && mega % 1_000_000 == 0 => format!("{}MB", mega / 1_000_000),
        bytes => format!("{bytes}B"),
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    match text {
        "0" => Some(Duration::ZERO),
        _ => humantime::parse_duration(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_and_canonical() {
        assert_eq!(validate("prefer_hash_join", "ON").unwrap(), "true");
        assert_eq!(validate("query_timeout", "90s").unwrap(), "1m 30s");
        assert_eq!(validate("execution", "Cluster").unwrap(), "cluster");
        for (given, canonical) in [("10 mb", "10MB"), ("1000kB", "1MB"), ("1MiB", "1048576B"), ("0", "0B")] {
            assert_eq!(validate("broadcast_limit", given).unwrap(), canonical);
            assert_eq!(canonical.parse::<ByteSize>(), given.parse::<ByteSize>());
        }
        for (name, value) in [
            ("target_partitions", "0"),
            ("target_partitions", "1e3"),
            ("batch_size", "-1"),
            ("query_timeout", "soon"),
            ("query_timeout", "100000000000 years"),
            ("query_timeout", "367 days"),
            ("execution", "nowhere"),
            ("broadcast_limit", "small"),
        ] {
            let error = validate(name, value).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.message().contains(name), "{error}");
        }
        assert!(validate("query_timout", "1s").unwrap_err().hint().unwrap().contains("query_timeout"));
    }

    #[test]
    fn a_session_cannot_lift_the_limit() {
        let limit = Duration::from_secs(60);
        assert_eq!(timeout(Some("5m"), limit), Some(limit));
        assert_eq!(timeout(Some("0s"), limit), Some(limit));
        assert_eq!(timeout(Some("5s"), limit), Some(Duration::from_secs(5)));
        assert_eq!(timeout(None, Duration::ZERO), None);
    }
}
