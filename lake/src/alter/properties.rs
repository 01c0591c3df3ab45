//! Properties of a table, its comment among them.

use std::collections::HashMap;

use iceberg::TableUpdate;
use iceberg::spec::TableMetadata;
use townlake_common::{Error, ErrorCode, Result, nearest};

use super::Plan;
use crate::lake_catalog::COMMENT;

impl Plan {
    pub(super) fn comment(&mut self, comment: Option<&str>, metadata: &TableMetadata) {
        let update = match comment {
            Some(text) => TableUpdate::SetProperties { updates: [(COMMENT.to_string(), text.to_string())].into() },
            None if metadata.properties().contains_key(COMMENT) => {
                TableUpdate::RemoveProperties { removals: vec![COMMENT.to_string()] }
            }
            None => return,
        };
        self.updates.push(update);
    }

    pub(super) fn set_properties(&mut self, properties: &[(String, String)], table: &str) -> Result<()> {
        let mut updates = HashMap::new();
        for (key, value) in properties {
            let refused = |why: &str| {
                let message = format!("the property {key} of table {table} {why}");
                Err(Error::new(ErrorCode::InvalidArgument, message))
            };
            if key == "location" {
                return refused("cannot be set: its files would stay where they are");
            }
            if updates.insert(key.clone(), value.clone()).is_some() {
                return refused("is given twice");
            }
        }
        self.updates.push(TableUpdate::SetProperties { updates });
        Ok(())
    }

    pub(super) fn unset_properties(
        &mut self,
        keys: &[String],
        if_exists: bool,
        metadata: &TableMetadata,
        table: &str,
    ) -> Result<()> {
        let set = metadata.properties();
        let (there, missing): (Vec<_>, Vec<_>) = keys.iter().cloned().partition(|key| set.contains_key(key));
        if let (Some(key), false) = (missing.first(), if_exists) {
            let message = format!("the property {key} of table {table} is not set");
            let error = Error::new(ErrorCode::InvalidArgument, message);
            return Err(match nearest(key, set.keys().map(String::as_str)) {
                Some(near) => error.with_hint(format!("did you mean '{near}'?")),
                None => error,
            });
        }
        if !there.is_empty() {
            self.updates.push(TableUpdate::RemoveProperties { removals: there });
        }
        Ok(())
    }
}
