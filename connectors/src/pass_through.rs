//! What is the same for every source that takes queries in its own language.

use townlake_common::{Error, ErrorCode, Result};

use crate::filters::SQL_LIMIT;

/// The name under which such a query is shown, where tables have theirs.
pub(crate) const SCHEMA: &str = "system";
/// See [`SCHEMA`].
pub(crate) const TABLE: &str = "query";

/// Whether a query may go to a catalog whose owner has said so or not.
///
/// Errors: `NOT_SUPPORTED` where it is off, `INVALID_QUERY` for what is empty, `RESOURCE_EXHAUSTED` for what is too long.
pub(crate) fn check(catalog: &str, allowed: bool, sql: &str) -> Result<()> {
    if !allowed {
        let message = format!("catalog {catalog} does not let queries through");
        return Err(Error::new(ErrorCode::NotSupported, message)
            .with_hint(format!("who owns it can set `pass_through = true` in [catalogs.{catalog}]")));
    }
    if sql.trim().is_empty() {
        return Err(Error::new(ErrorCode::InvalidQuery, format!("the query for catalog {catalog} is empty")));
    }
    if sql.len() > SQL_LIMIT {
        let message = format!("the query for catalog {catalog} is longer than {} KiB", SQL_LIMIT >> 10);
        return Err(Error::new(ErrorCode::ResourceExhausted, message));
    }
    Ok(())
}

/// Checks the names of a result's columns.
///
/// Errors: `INVALID_QUERY` for a name that comes twice, or none at all.
pub(crate) fn check_names<'a>(catalog: &str, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if name.is_empty() || !seen.insert(name) {
            let what = if name.is_empty() { "a column without a name".to_string() } else { format!("{name} twice") };
            return Err(Error::new(ErrorCode::InvalidQuery, format!("the query for catalog {catalog} gives {what}"))
                .with_hint("name each of its columns with AS"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_off_unless_the_owner_says_so() {
        assert_eq!(check("crm", false, "SELECT 1").unwrap_err().code(), ErrorCode::NotSupported);
        assert!(check("crm", true, "SELECT 1").is_ok());
        assert_eq!(check("crm", true, " \n").unwrap_err().code(), ErrorCode::InvalidQuery);
        assert_eq!(check("crm", true, &"x".repeat(SQL_LIMIT + 1)).unwrap_err().code(), ErrorCode::ResourceExhausted);
    }

    #[test]
    fn columns_have_names_of_their_own() {
        assert!(check_names("crm", ["a", "A", "b"]).is_ok());
        assert!(check_names("crm", ["a", "b", "a"]).unwrap_err().message().contains("a twice"));
        assert!(check_names("crm", ["a", ""]).is_err());
    }
}
