//! Where one statement ends and the next begins, for a person who types and for scripts.
//!
//! The server takes one statement a call; the shell cuts at `;` outside of quotes and comments. Lines that start with a
//! backslash, between statements, are the shell's own.

/// The statements and helper lines of `text`, without their semicolons and without empty ones.
pub fn split(text: &str) -> Vec<String> {
    let (mut statements, rest) = cut(text);
    if !is_blank(rest) {
        statements.push(rest.trim().to_string());
    }
    statements
}

/// Whether `text`, as typed so far, can be run: nothing is open behind its last semicolon.
pub fn is_complete(text: &str) -> bool {
    let (statements, rest) = cut(text);
    is_blank(rest) && (!statements.is_empty() || text.trim().is_empty())
}

/// The finished statements, and the text behind them.
fn cut(text: &str) -> (Vec<String>, &str) {
    let mut statements = Vec::new();
    let mut start = 0;
    while let Some(end) = end_of_statement(&text[start..]) {
        let statement = text[start..start + end.length].trim();
        if !is_blank(statement) {
            statements.push(statement.to_string());
        }
        start += end.length + end.terminator;
    }
    (statements, &text[start..])
}

struct End {
    length: usize,
    terminator: usize,
}

fn end_of_statement(text: &str) -> Option<End> {
    let lead = text.len() - text.trim_start().len();
    if text[lead..].starts_with('\\') {
        let length = text[lead..].find('\n').map_or(text.len(), |newline| lead + newline);
        return Some(End { length, terminator: usize::from(length < text.len()) });
    }
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b';' => return Some(End { length: at, terminator: 1 }),
            quote @ (b'\'' | b'"') => at += 1 + skip_past(&text[at + 1..], &(quote as char).to_string())?,
            b'-' if text[at..].starts_with("--") => at += skip_past(&text[at..], "\n").unwrap_or(text.len() - at),
            b'/' if text[at..].starts_with("/*") => at += 2 + skip_past(&text[at + 2..], "*/")?,
            _ => at += 1,
        }
    }
    None
}

/// How far behind the next `mark` is. A doubled quote is two neighbouring strings to this cut, which is all the same.
fn skip_past(text: &str, mark: &str) -> Option<usize> {
    text.find(mark).map(|at| at + mark.len())
}

/// Whether there is nothing to run: white space and comments only.
fn is_blank(text: &str) -> bool {
    let text = text.trim_start();
    if text.is_empty() {
        true
    } else if text.starts_with("--") {
        text.find('\n').is_none_or(|newline| is_blank(&text[newline..]))
    } else if let Some(comment) = text.strip_prefix("/*") {
        comment.find("*/").is_some_and(|end| is_blank(&comment[end + 2..]))
    } else {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_at_semicolons_outside_of_quotes_and_comments() {
        let text = "select ';' as a; -- not; here\n select \"x;y\" /* ; */ from t;\n\\d t\nselect 'it''s'";
        assert_eq!(
            split(text),
            ["select ';' as a", "-- not; here\n select \"x;y\" /* ; */ from t", "\\d t", "select 'it''s'"]
        );
    }

    #[test]
    fn knows_when_to_wait() {
        assert!(!is_complete("select 1"));
        assert!(is_complete("select 1;"));
        assert!(is_complete("select 1; -- done"));
        assert!(!is_complete("select ';"));
        assert!(is_complete("\\d"));
        assert!(is_complete(""));
    }

    #[test]
    fn survives_text_that_is_not_ascii() {
        assert_eq!(split("select 'é—';select 'ü"), ["select 'é—'", "select 'ü"]);
    }
}
