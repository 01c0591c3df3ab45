//! What the properties of a table ask for.

use std::collections::HashMap;
use std::time::Duration;

use crate::catalogs::TableName;

/// Properties and procedures, in the order in which they make sense one after another.
const PROCEDURES: [(&str, &str); 5] = [
    ("townlake.optimize.every", "optimize"),
    ("townlake.rewrite-position-deletes.every", "rewrite_position_deletes"),
    ("townlake.rewrite-manifests.every", "rewrite_manifests"),
    ("townlake.expire-snapshots.every", "expire_snapshots"),
    ("townlake.remove-orphan-files.every", "remove_orphan_files"),
];

/// A procedure that is to be called so often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub procedure: &'static str,
    pub every: Duration,
}

/// What the properties of a table ask for. One that is no duration asks for nothing, and is told in the log; nor does `0s`.
pub(super) fn wanted(table: &TableName, properties: &HashMap<String, String>) -> Vec<Wanted> {
    let known = PROCEDURES.iter().filter_map(|(property, procedure)| {
        let text = properties.get(*property)?;
        match humantime::parse_duration(text) {
            Ok(every) => Some(Wanted { procedure, every }),
            Err(error) => {
                tracing::warn!(%table, property, %error, "a table property is not a duration like '1h'");
                None
            }
        }
    });
    known.filter(|wanted| !wanted.every.is_zero()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_asked_for_in_order_and_nothing_else() {
        let properties = [
            ("townlake.expire-snapshots.every", "1 day"),
            ("townlake.optimize.every", "30m"),
            ("townlake.rewrite-manifests.every", "often"),
            ("townlake.remove-orphan-files.every", "0s"),
            ("townlake.compact.every", "1h"),
        ];
        let properties = properties.map(|(key, value)| (key.to_string(), value.to_string())).into();
        let name = TableName::new("lake", "s", "t");
        let expected = [("optimize", 30 * 60), ("expire_snapshots", 24 * 3600)]
            .map(|(procedure, seconds)| Wanted { procedure, every: Duration::from_secs(seconds) });
        assert_eq!(wanted(&name, &properties), expected);
    }
}
