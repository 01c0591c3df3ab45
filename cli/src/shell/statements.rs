//! Where one statement ends and the next begins, for a person who types and for scripts.
//!
//! The server takes one statement a call. The shell cuts at the `;` that the server's own tokenizer sees, so that quotes,
//! nested comments and `$$…$$` are to both the same. Lines that start with a backslash, between statements, are the
//! shell's own.

use std::str::CharIndices;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

/// The statements and helper lines of `text`, without their semicolons and without empty ones.
pub fn split(text: &str) -> Vec<&str> {
    let Cut { mut statements, rest, is_open } = cut(text);
    if is_open {
        statements.push(rest.trim());
    }
    statements
}

/// Whether `text`, as typed so far, can be run: nothing is open behind its last semicolon.
pub fn is_complete(text: &str) -> bool {
    let cut = cut(text);
    !cut.is_open && (!cut.statements.is_empty() || text.trim().is_empty())
}

struct Cut<'a> {
    /// The finished statements and helper lines.
    statements: Vec<&'a str>,
    /// The text behind them.
    rest: &'a str,
    /// Whether there is more to it than white space and whole comments.
    is_open: bool,
}

fn cut(text: &str) -> Cut<'_> {
    let mut statements = Vec::new();
    let mut rest = text;
    loop {
        match cut_sql(rest, &mut statements) {
            // a helper line is no SQL: what follows it is read afresh
            Next::Helper(at) => {
                let end = rest[at..].find('\n').map_or(rest.len(), |newline| at + newline);
                statements.push(rest[at..end].trim());
                rest = &rest[end..];
            }
            Next::End { start, is_open } => return Cut { statements, rest: &rest[start..], is_open },
        }
    }
}

/// What comes behind the finished statements of a text.
enum Next {
    /// A helper line, which starts there.
    Helper(usize),
    /// The statement that starts there and is not finished.
    End { start: usize, is_open: bool },
}

fn cut_sql<'a>(text: &'a str, statements: &mut Vec<&'a str>) -> Next {
    let mut tokens = Vec::new();
    // an error is a quote or a comment that nothing closes; the tokens before it are there
    let all = Tokenizer::new(&GenericDialect, text).tokenize_with_location_into_buf(&mut tokens);
    let mut offsets = Offsets::new(text);
    let (mut start, mut is_open) = (0, false);
    for token in tokens {
        match token.token {
            Token::SemiColon => {
                let end = offsets.find(token.span.start);
                if !text[end..].starts_with(';') {
                    continue; // one of a hint, `/*! ; */`, which the server refuses
                }
                if is_open {
                    statements.push(text[start..end].trim());
                }
                (start, is_open) = (end + 1, false);
            }
            Token::Backslash if !is_open => return Next::Helper(offsets.find(token.span.start)),
            Token::Whitespace(_) => {}
            _ => is_open = true,
        }
    }
    Next::End { start, is_open: is_open || all.is_err() }
}

/// From the tokenizer's lines and columns, which count characters, to offsets. Asked for places in their order.
struct Offsets<'a> {
    characters: CharIndices<'a>,
    at: Location,
}

impl<'a> Offsets<'a> {
    fn new(text: &'a str) -> Self {
        Self { characters: text.char_indices(), at: Location { line: 1, column: 1 } }
    }

    fn find(&mut self, place: Location) -> usize {
        while self.at < place {
            let Some((_, character)) = self.characters.next() else { break };
            self.at = match character {
                '\n' => Location { line: self.at.line + 1, column: 1 },
                _ => Location { line: self.at.line, column: self.at.column + 1 },
            };
        }
        self.characters.offset()
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
    fn cuts_where_the_server_does() {
        assert_eq!(split("select 1 /* a /* b; */ c; */; select 2"), ["select 1 /* a /* b; */ c; */", "select 2"]);
        assert_eq!(split("select $$a;b'$$; select $t$;$$;$t$;"), ["select $$a;b'$$", "select $t$;$$;$t$"]);
        assert_eq!(split(r"select E'it\'s; so'; select '\';"), [r"select E'it\'s; so'", r"select '\'"]);
        assert_eq!(split("select `a;b`; select 2"), ["select `a;b`", "select 2"]);
        assert_eq!(split("select $1; select a$b; select 3"), ["select $1", "select a$b", "select 3"]);
    }

    #[test]
    fn knows_when_to_wait() {
        assert!(!is_complete("select 1"));
        assert!(is_complete("select 1;"));
        assert!(is_complete("select 1; -- done"));
        assert!(!is_complete("select ';"));
        assert!(!is_complete("select 1; /* a /* b */ still open"));
        assert!(!is_complete("select $$;"));
        assert!(!is_complete("-- nothing yet\n"));
        assert!(is_complete("\\d"));
        assert!(is_complete(""));
    }

    #[test]
    fn leaves_out_what_is_empty() {
        let comments = "-- one more\n".repeat(200_000);
        assert!(split(&comments).is_empty());
        assert!(split(&format!(";; {comments} /* no */ ;")).is_empty());
        assert_eq!(split("/* never closed"), ["/* never closed"], "the server says what is wrong with it");
    }

    #[test]
    fn a_helper_line_is_no_sql() {
        assert_eq!(split("-- look\n \\d it's\nselect 1; \\l"), ["\\d it's", "select 1", "\\l"]);
        assert_eq!(split("select 1 \\ 2;\n\\timing"), ["select 1 \\ 2", "\\timing"]);
    }

    #[test]
    fn survives_text_that_is_not_ascii() {
        assert_eq!(split("select 'é—';\n\n  select 'ü"), ["select 'é—'", "select 'ü"]);
        assert_eq!(split("-- ž\r\nselect 'ř' ;\r\nselect '語;';"), ["-- ž\r\nselect 'ř'", "select '語;'"]);
    }
}
