//! Names and literals in GoogleSQL, and which names are names at all.

/// A name as a quoted identifier.
pub(crate) fn identifier(name: &str) -> String {
    quoted(name, '`')
}

/// A text as a literal.
pub(crate) fn literal(text: &str) -> String {
    quoted(text, '\'')
}

/// A table by its project, dataset and name.
pub(crate) fn relation(project: &str, dataset: &str, table: &str) -> String {
    [project, dataset, table].map(identifier).join(".")
}

/// Whether a dataset or table can have this name. It goes into paths as well, where a slash would begin another segment.
pub(crate) fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ' ' | '$' | '\u{300}'..='\u{36F}');
    !name.is_empty() && name.len() <= 1024 && name.chars().all(known)
}

/// GoogleSQL knows the same escapes by backslash inside all kinds of quotes.
fn quoted(text: &str, quote: char) -> String {
    let mut sql = String::with_capacity(text.len() + 2);
    sql.push(quote);
    for c in text.chars() {
        match c {
            '\\' => sql.push_str("\\\\"),
            '\n' => sql.push_str("\\n"),
            '\r' => sql.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                sql.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
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
        assert_eq!(relation("p-1", "d`s", "t; DROP TABLE x"), "`p-1`.`d\\`s`.`t; DROP TABLE x`");
        assert_eq!(literal("it's"), "'it\\'s'");
        assert_eq!(literal("a\\'b\0\n\u{85}`"), "'a\\\\\\'b\\u0000\\n\\u0085`'");
    }

    #[test]
    fn only_names_are_names() {
        for name in ["t", "täble", "a b", "t$20240101", "a-b"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a?b", "a#b", "a%2Fb", "a\nb", "a`b", "a\\b", "a.b", &"x".repeat(2000)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
