//! Names and literals in the SQL that we send.

/// A name as a quoted identifier.
pub(crate) fn identifier(name: &str) -> String {
    quoted(name, '`')
}

/// A text as a literal.
pub(crate) fn literal(text: &str) -> String {
    quoted(text, '\'')
}

/// A table by its database and name.
pub(crate) fn relation(database: &str, table: &str) -> String {
    format!("{}.{}", identifier(database), identifier(table))
}

/// Texts as a list of literals.
pub(crate) fn literals<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    texts.into_iter().map(|text| literal(text)).collect::<Vec<_>>().join(", ")
}

/// ClickHouse knows escapes by backslash inside both kinds of quotes, in every version.
fn quoted(text: &str, quote: char) -> String {
    let mut sql = String::with_capacity(text.len() + 2);
    sql.push(quote);
    for c in text.chars() {
        match c {
            '\\' => sql.push_str("\\\\"),
            '\0' => sql.push_str("\\0"),
            '\n' => sql.push_str("\\n"),
            c if c == quote => {
                sql.push('\\');
                sql.push(c);
            }
            c => sql.push(c),
        }
    }
    sql.push(quote);
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes_its_quotes() {
        assert_eq!(relation("d`b", "t; DROP TABLE x"), "`d\\`b`.`t; DROP TABLE x`");
        assert_eq!(literal("it's"), "'it\\'s'");
        assert_eq!(literal("a\\'b\0\n"), "'a\\\\\\'b\\0\\n'");
        assert_eq!(literals(&["a".to_string(), "'".to_string()]), "'a', '\\''");
    }
}
