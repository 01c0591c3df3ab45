//! Looking after tables: snapshots that go, files that nobody needs, manifests that are written anew.
//!
//! Nothing is deleted that a snapshot of the table names, and nothing outside of the table's own folder: metadata comes from
//! outside, and could name the files of another table.

mod catalog;
mod cleanup;
mod expire;
mod manifests;
mod orphans;
mod position_deletes;
mod reachable;
#[cfg(test)]
mod tests;

use iceberg::spec::TableMetadata;
use townlake_common::{Error, ErrorCode, Result};

pub use self::catalog::Expiry;
pub use self::cleanup::Deleted;
pub use self::expire::Expiration;
pub(crate) use self::expire::ancestors;
pub(crate) use self::manifests::ManifestRewrite;
pub(crate) use self::orphans::table_around;
pub use self::orphans::{OrphanFile, OrphanSearch};
pub use self::position_deletes::PositionDeletes;

const GC_ENABLED: &str = "gc.enabled";

/// Refuses a table whose files may belong to another one too.
///
/// Errors: `NOT_SUPPORTED` where the property `gc.enabled` is false.
fn check_collectable(metadata: &TableMetadata, table: &str) -> Result<()> {
    match metadata.properties().get(GC_ENABLED) {
        Some(value) if value.eq_ignore_ascii_case("false") => {
            let message =
                format!("table {table} says {GC_ENABLED} = false: its files may be those of other tables too");
            Err(Error::new(ErrorCode::NotSupported, message)
                .with_hint("unset the property where no other table has its files"))
        }
        _ => Ok(()),
    }
}

/// A table property that is a whole number.
///
/// Errors: `INVALID_ARGUMENT` where it is something else.
pub(crate) fn property(metadata: &TableMetadata, key: &str, table: &str) -> Result<Option<i64>> {
    let Some(text) = metadata.properties().get(key) else { return Ok(None) };
    text.parse().map(Some).map_err(|error| {
        let message = format!("the property {key} = {text} of table {table} is not a whole number");
        Error::new(ErrorCode::InvalidArgument, message).with_source(error)
    })
}
