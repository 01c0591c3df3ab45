//! What a REST server vends: keys for prefixes of locations, and how the store is reached.
//!
//! Source: `LoadTableResult` of the Iceberg REST specification (`config`, `storage-credentials`) and the property names of
//! Iceberg's S3 file IO.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use townlake_common::Secret;

use crate::location::one_spelling;
use crate::s3::S3Settings;

/// How long temporary keys are believed whose end the server does not tell.
const UNTOLD_LIFE: Duration = Duration::from_secs(10 * 60);
/// Keys are asked for again so long before they expire, or in the last third of a shorter life.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// Access to the files of one table.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// The keys, those for longer prefixes first.
    pub grants: Vec<Grant>,
    endpoint: Option<String>,
    region: Option<String>,
    path_style: Option<bool>,
}

/// Keys for what lies below a prefix.
#[derive(Clone)]
pub(crate) struct Grant {
    /// A location like `s3://bucket/path`; empty for all.
    pub prefix: String,
    pub key_id: String,
    pub secret: Secret,
    pub session_token: Option<Secret>,
    /// When other keys are to be asked for; `None`: these do not end.
    pub renew_at: Option<SystemTime>,
    /// Until when they are good, as far as is known.
    ends: Option<SystemTime>,
}

impl Access {
    /// From the settings of the table and those for prefixes.
    pub fn new(config: HashMap<String, String>, for_prefixes: Vec<(String, HashMap<String, String>)>) -> Self {
        let now = SystemTime::now();
        let of_prefixes = for_prefixes
            .iter()
            .filter_map(|(prefix, settings)| Grant::new(one_spelling(prefix).into_owned(), settings, now));
        let mut grants: Vec<Grant> = of_prefixes.chain(Grant::new(String::new(), &config, now)).collect();
        grants.sort_by_key(|grant| std::cmp::Reverse(grant.prefix.len()));
        let setting = |name: &str| {
            let of_prefix = || for_prefixes.iter().find_map(|(_, settings)| settings.get(name));
            config.get(name).or_else(of_prefix).filter(|value| !value.is_empty()).cloned()
        };
        Self {
            grants,
            endpoint: setting("s3.endpoint"),
            region: setting("client.region").or_else(|| setting("s3.region")),
            path_style: setting("s3.path-style-access").and_then(|value| value.to_lowercase().parse().ok()),
        }
    }

    /// The keys for a location: those of the longest prefix of it.
    pub fn grant(&self, location: &str) -> Option<&Grant> {
        self.grants.iter().find(|grant| covers(&grant.prefix, location))
    }

    /// How the store is reached: what our configuration says first, then what the server says.
    pub fn settings(&self, ours: &S3Settings) -> S3Settings {
        let mut settings = ours.clone();
        settings.endpoint = settings.endpoint.or_else(|| self.endpoint.clone());
        settings.region = settings.region.or_else(|| self.region.clone());
        settings.path_style |= self.path_style.unwrap_or_default();
        settings
    }
}

/// Whether keys for `prefix` are for a location. A folder may be written with or without its last `/`.
pub(super) fn covers(prefix: &str, location: &str) -> bool {
    location.starts_with(prefix) || prefix.strip_suffix('/') == Some(location)
}

impl Grant {
    /// `None` where the settings have no keys.
    fn new(prefix: String, settings: &HashMap<String, String>, now: SystemTime) -> Option<Self> {
        let (key_id, secret) = (settings.get("s3.access-key-id")?, settings.get("s3.secret-access-key")?);
        let session_token = settings.get("s3.session-token");
        let told = ["s3.session-token-expires-at-ms", "expiration-time"].iter().find_map(|name| settings.get(*name));
        let told = told.and_then(|ms| ms.parse().ok()).map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        let ends = told.or_else(|| session_token.map(|_| now + UNTOLD_LIFE));
        let renew_at = ends.map(|ends| {
            let life = ends.duration_since(now).unwrap_or_default();
            ends.checked_sub(MARGIN.min(life / 3)).unwrap_or(now)
        });
        Some(Self {
            prefix,
            key_id: key_id.clone(),
            secret: Secret::new(secret.clone()),
            session_token: session_token.map(|token| Secret::new(token.clone())),
            renew_at,
            ends,
        })
    }

    /// Whether no others are to be asked for yet.
    pub fn is_fresh(&self) -> bool {
        self.renew_at.is_none_or(|at| SystemTime::now() < at)
    }

    /// Whether the store takes them still.
    pub fn is_good(&self) -> bool {
        self.ends.is_none_or(|at| SystemTime::now() < at)
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("prefix", &self.prefix).field("renew_at", &self.renew_at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn keys<'a>(id: &'a str, more: &[(&'a str, &'a str)]) -> HashMap<String, String> {
        settings(&[&[("s3.access-key-id", id), ("s3.secret-access-key", "hunter2")], more].concat())
    }

    #[test]
    fn the_longest_prefix_wins_and_secrets_do_not_print() {
        let for_prefixes = vec![
            ("s3://b/t".to_string(), keys("table", &[("s3.session-token", "hunter2-token")])),
            ("s3a://b/t/data".to_string(), keys("data", &[])),
            ("gs://b".to_string(), settings(&[("gcs.oauth2.token", "hunter2")])),
        ];
        let config =
            keys("all", &[("s3.endpoint", "http://h"), ("s3.path-style-access", "TRUE"), ("client.region", "r")]);
        let access = Access::new(config, for_prefixes);
        let key = |location: &str| access.grant(location).unwrap().key_id.as_str();
        assert_eq!(key("s3://b/t/data/1.parquet"), "data");
        assert_eq!(key("s3://b/t/metadata/1.avro"), "table");
        assert_eq!(key("s3://other/x"), "all");
        assert!(!format!("{access:?}").contains("hunter2"));
        let nothing = Access::new(settings(&[("s3.remote-signing-enabled", "true")]), Vec::new());
        assert!(nothing.grant("s3://b/t").is_none());
    }

    #[test]
    fn keys_are_renewed_before_they_expire() {
        let now = SystemTime::now();
        let in_ms = |at: Duration| (now.duration_since(SystemTime::UNIX_EPOCH).unwrap() + at).as_millis().to_string();
        let renewed_in = |settings: &HashMap<String, String>| {
            let at = Grant::new(String::new(), settings, now).unwrap().renew_at;
            at.map(|at| at.duration_since(now).unwrap().as_secs())
        };
        assert_eq!(renewed_in(&keys("k", &[])), None, "keys without a token do not end");
        assert_eq!(renewed_in(&keys("k", &[("s3.session-token", "t")])), Some(400));
        for (life, expected) in [(3600, 3299..=3300), (9, 5..=6)] {
            let ends = in_ms(Duration::from_secs(life));
            let told = keys("k", &[("s3.session-token", "t"), ("s3.session-token-expires-at-ms", &ends)]);
            assert!(expected.contains(&renewed_in(&told).unwrap()), "{life}");
        }
        let expired = keys("k", &[("s3.session-token-expires-at-ms", "1000")]);
        let expired = Grant::new(String::new(), &expired, now).unwrap();
        assert!(!expired.is_fresh() && !expired.is_good());
    }
}
