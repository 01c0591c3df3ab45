//! Names and literals in the SQL that we send.

use postgres_protocol::escape::{escape_identifier, escape_literal};

/// A name as a quoted identifier.
pub(crate) fn identifier(name: &str) -> String {
    escape_identifier(name)
}

/// A text as a quoted literal without a type.
pub(crate) fn literal(text: &str) -> String {
    escape_literal(text)
}

/// A table by its schema and name.
pub(crate) fn relation(schema: &str, table: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes_its_quotes() {
        assert_eq!(relation("pub\"lic", "t; DROP TABLE x"), "\"pub\"\"lic\".\"t; DROP TABLE x\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
    }
}
