//! From SQL text to the tokens of exactly one statement.
//!
//! What has to happen before parsing happens here, on tokens that keep their positions: one statement a call, and `?`
//! placeholders numbered.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use townlake_common::{Error, ErrorCode, Result};

/// The dialect of the whole SQL surface: DataFusion's default.
pub(super) const DIALECT: GenericDialect = GenericDialect;

/// The tokens of the one statement in `sql`, without white space, comments and the closing `;`.
///
/// Errors: `SYNTAX_ERROR` with line and column for text that is no SQL, `NOT_ONE_STATEMENT` for none or several.
pub(super) fn tokens_of_one_statement(sql: &str) -> Result<Vec<TokenWithSpan>> {
    let tokens = Tokenizer::new(&DIALECT, sql)
        .tokenize_with_location()
        .map_err(|error| syntax_error(&error.message, error.location))?;
    let mut statement: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF)).collect();
    while statement.last().is_some_and(|token| token.token == Token::SemiColon) {
        statement.pop();
    }
    if statement.is_empty() {
        return Err(Error::new(ErrorCode::NotOneStatement, "there is no statement in this call"));
    }
    if let Some(separator) = statement.iter().find(|token| token.token == Token::SemiColon) {
        let Location { line, column } = separator.span.start;
        let message =
            format!("a call carries one statement, and another one follows the `;` at line {line}, column {column}");
        return Err(
            Error::new(ErrorCode::NotOneStatement, message).with_hint("send each statement in a call of its own")
        );
    }
    number_placeholders(&mut statement)?;
    Ok(statement)
}

/// Turns each `?` into `$1`, `$2`, … in their order: what the planner understands.
fn number_placeholders(tokens: &mut [TokenWithSpan]) -> Result<()> {
    let mut anonymous = 0usize;
    let mut numbered = None;
    for token in tokens.iter_mut() {
        match &token.token {
            Token::Question => anonymous += 1,
            Token::Placeholder(text) if text == "?" => anonymous += 1,
            Token::Placeholder(_) => {
                numbered = Some(token.span.start);
                continue;
            }
            _ => continue,
        }
        token.token = Token::Placeholder(format!("${anonymous}"));
    }
    match numbered {
        Some(location) if anonymous > 0 => {
            Err(syntax_error("parameters are either all `?` or all `$1`, `$2`, …, not both", location))
        }
        _ => Ok(()),
    }
}

/// A syntax error at a place of the text as the user wrote it.
pub(super) fn syntax_error(message: &str, at: Location) -> Error {
    let place = match at.line {
        0 => String::new(),
        _ => format!(" at line {}, column {}", at.line, at.column),
    };
    Error::new(ErrorCode::SyntaxError, format!("{message}{place}"))
}

/// Whether the token is this keyword, unquoted.
pub(super) fn is_keyword(token: Option<&TokenWithSpan>, keyword: Keyword) -> bool {
    matches!(token.map(|t| &t.token), Some(Token::Word(word)) if word.keyword == keyword && word.quote_style.is_none())
}

/// Whether the token is this word, unquoted, whatever its case: for words that are no keyword of the parser.
pub(super) fn is_word(token: Option<&TokenWithSpan>, text: &str) -> bool {
    matches!(token.map(|t| &t.token),
        Some(Token::Word(word)) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

/// Where the token starts; after the last token, where the statement ends.
pub(super) fn location_of(tokens: &[TokenWithSpan], index: usize) -> Location {
    match tokens.get(index) {
        Some(token) => token.span.start,
        None => tokens.last().map_or(Location { line: 1, column: 1 }, |token| token.span.end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(sql: &str) -> ErrorCode {
        tokens_of_one_statement(sql).unwrap_err().code()
    }

    #[test]
    fn one_statement_a_call() {
        assert_eq!(tokens_of_one_statement("select 1 ; ; -- done;").unwrap().len(), 2);
        assert_eq!(code(""), ErrorCode::NotOneStatement);
        assert_eq!(code(" ; /* nothing */ "), ErrorCode::NotOneStatement);
        assert_eq!(code("select 1; drop table x"), ErrorCode::NotOneStatement);
        assert_eq!(code("select 1;/**/;select 2"), ErrorCode::NotOneStatement);
        assert!(tokens_of_one_statement("select ';' as \";\"").is_ok());
    }

    #[test]
    fn a_second_statement_is_located() {
        let error = tokens_of_one_statement("select 1\n  ; select 2").unwrap_err();
        assert!(error.message().contains("line 2, column 3"), "{error}");
    }

    #[test]
    fn unclosed_text_is_a_syntax_error_with_its_place() {
        let error = tokens_of_one_statement("select\n 'abc").unwrap_err();
        assert_eq!(error.code(), ErrorCode::SyntaxError);
        assert!(error.message().contains("line 2, column 2"), "{error}");
    }

    #[test]
    fn question_marks_are_numbered() {
        let tokens = tokens_of_one_statement("select ? + ?").unwrap();
        let placeholders: Vec<_> = tokens
            .iter()
            .filter_map(|t| match &t.token {
                Token::Placeholder(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(placeholders, ["$1", "$2"]);
        assert_eq!(code("select ? + $2"), ErrorCode::SyntaxError);
    }
}
