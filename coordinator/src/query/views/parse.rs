//! `CREATE VIEW` and its kin, parsed: Trino's words.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};
use townlake_common::{Error, ErrorCode, Result};

use crate::query::alter_table::{Fault, Parsed, refuse, word};
use crate::query::create_table::parenthesized;
use crate::query::parse::{
    expect_end, from, like, normalize, parse_error, parse_name, parse_tokens, parser as parser_of,
};
use crate::query::statement::{CreateViewStatement, Name, Statement};
use crate::query::time_travel::take_clauses;
use crate::query::tokens::{is_keyword, is_word, syntax_error};

/// The statement about views that the tokens of `sql` are; `None` for every other statement.
///
/// Errors: `SYNTAX_ERROR` with line and column, `NOT_SUPPORTED` with the reason.
pub(in crate::query) fn parse_view_statement(sql: &str, tokens: &[TokenWithSpan]) -> Result<Option<Statement>> {
    let is = |index: usize, text: &str| is_word(tokens.get(index), text);
    let mut parser = parser_of(tokens);
    let parsed = if is(0, "create") && (is(1, "view") || (is(1, "or") && is(2, "replace") && is(3, "view"))) {
        return create_view(sql, tokens).map(Some);
    } else if is(0, "drop") && is(1, "view") {
        drop_view(&mut parser)
    } else if is(0, "alter") && is(1, "view") {
        alter_view(&mut parser)
    } else if is(0, "comment") && is(1, "on") && is(2, "view") {
        comment_on_view(&mut parser)
    } else if is(0, "show") && is(1, "views") {
        skip(&mut parser, 2);
        from(&mut parser)
            .and_then(|from| Ok(Statement::ShowViews { from, like: like(&mut parser)? }))
            .map_err(Fault::from)
    } else if is(0, "show") && is(1, "create") && is(2, "view") {
        skip(&mut parser, 3);
        parse_name(&mut parser).map(|view| Statement::ShowCreateView { view }).map_err(Fault::from)
    } else {
        return Ok(None);
    };
    match parsed {
        Ok(statement) => {
            expect_end(tokens, &mut parser)?;
            Ok(Some(statement))
        }
        Err(Fault::Parser(error)) => Err(parse_error(tokens, &parser, error)),
        Err(Fault::Refused(error)) => Err(error),
    }
}

fn skip(parser: &mut Parser<'_>, words: usize) {
    for _ in 0..words {
        parser.next_token();
    }
}

fn create_view(sql: &str, tokens: &[TokenWithSpan]) -> Result<Statement> {
    let mut parser = parser_of(tokens);
    let mut create = match head(&mut parser) {
        Ok(create) => create,
        Err(Fault::Parser(error)) => return Err(parse_error(tokens, &parser, error)),
        Err(Fault::Refused(error)) => return Err(error),
    };
    let query = tokens.get(parser.index()..).unwrap_or_default();
    let (Some(first), Some(last)) = (query.first(), query.last()) else {
        let end = tokens.last().map_or(Location { line: 1, column: 1 }, |token| token.span.end);
        return Err(syntax_error("the query of the view is missing", end));
    };
    if query.iter().any(|token| matches!(token.token, Token::Placeholder(_))) {
        return Err(Error::new(ErrorCode::NotSupported, "a parameter (? or $1) in a view is not supported")
            .with_hint("write its value"));
    }
    create.sql = between(sql, first.span.start, last.span.end).to_string();
    let (query, clauses) = take_clauses(query.to_vec())?;
    match parse_tokens(&query, clauses)? {
        Statement::Query(ast) => create.query = Some(ast),
        _ => return Err(syntax_error("a view is AS a query (SELECT, WITH or VALUES)", first.span.start)),
    }
    Ok(Statement::CreateView(Box::new(create)))
}

/// `CREATE [OR REPLACE] VIEW [IF NOT EXISTS] name [(column [COMMENT 'text'], …)] [COMMENT 'text'] [SECURITY INVOKER] AS`.
fn head(parser: &mut Parser<'_>) -> Parsed<CreateViewStatement> {
    parser.expect_keyword(Keyword::CREATE)?;
    let replace = parser.parse_keywords(&[Keyword::OR, Keyword::REPLACE]);
    parser.expect_keyword(Keyword::VIEW)?;
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    if replace && if_not_exists {
        return refuse("OR REPLACE with IF NOT EXISTS", "say one of them");
    }
    let view = parse_name(parser)?;
    let columns = match parser.peek_token().token {
        Token::LParen => parenthesized(parser, column)?,
        _ => Vec::new(),
    };
    let mut create = CreateViewStatement { view, replace, if_not_exists, columns, ..CreateViewStatement::default() };
    loop {
        if create.comment.is_none() && parser.parse_keyword(Keyword::COMMENT) {
            create.comment = Some(parser.parse_literal_string()?);
        } else if word(parser, "security") {
            if !word(parser, "invoker") {
                let why = "who reads a view reads the tables beneath by their own rights (SECURITY INVOKER)";
                return refuse("SECURITY other than INVOKER", why);
            }
        } else if is_keyword(Some(&parser.peek_token()), Keyword::WITH) {
            return refuse("CREATE VIEW with properties", "name, columns, COMMENT and AS are all that it takes");
        } else {
            parser.expect_keyword(Keyword::AS)?;
            return Ok(create);
        }
    }
}

fn column(
    parser: &mut Parser<'_>,
) -> std::result::Result<(String, Option<String>), datafusion::sql::sqlparser::parser::ParserError> {
    let name = normalize(parser.parse_identifier()?);
    let comment = if parser.parse_keyword(Keyword::COMMENT) { Some(parser.parse_literal_string()?) } else { None };
    Ok((name, comment))
}

fn drop_view(parser: &mut Parser<'_>) -> Parsed<Statement> {
    skip(parser, 2);
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    Ok(Statement::DropView { view: parse_name(parser)?, if_exists })
}

fn alter_view(parser: &mut Parser<'_>) -> Parsed<Statement> {
    skip(parser, 2);
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let view = parse_name(parser)?;
    if !word(parser, "rename") {
        return refuse(
            "this change of a view",
            "ALTER VIEW … RENAME TO; else CREATE OR REPLACE VIEW and COMMENT ON VIEW",
        );
    }
    parser.expect_keyword(Keyword::TO)?;
    Ok(Statement::RenameView { view, if_exists, to: parse_name(parser)? })
}

fn comment_on_view(parser: &mut Parser<'_>) -> Parsed<Statement> {
    skip(parser, 3);
    let view: Name = parse_name(parser)?;
    parser.expect_keyword(Keyword::IS)?;
    let comment = match parser.parse_keyword(Keyword::NULL) {
        true => None,
        false => Some(parser.parse_literal_string()?),
    };
    Ok(Statement::CommentView { view, comment })
}

/// The text from one place to another, as the tokenizer counts them: lines and characters, both from 1.
fn between(sql: &str, from: Location, to: Location) -> &str {
    let mut place = Location { line: 1, column: 1 };
    let (mut start, mut end) = (sql.len(), sql.len());
    for (offset, character) in sql.char_indices() {
        if place == from {
            start = offset;
        }
        if place == to {
            end = offset;
            break;
        }
        place = match character {
            '\n' => Location { line: place.line + 1, column: 1 },
            _ => Location { line: place.line, column: place.column + 1 },
        };
    }
    sql.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::parse::parse;

    fn create(sql: &str) -> CreateViewStatement {
        match parse(sql) {
            Ok(Statement::CreateView(create)) => *create,
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn the_text_is_kept_as_it_was_written() {
        for text in [
            "SELECT 1 AS a",
            "WITH q AS (SELECT 'é;--' AS x)\n  SELECT x -- why\n  FROM q /* all */ WHERE x = 'ü'",
            "SELECT * FROM t FOR VERSION AS OF 12 AS u",
            "(SELECT 1)\nUNION ALL\r\nVALUES (2)",
            "VALUES (1, 'a')",
        ] {
            for sql in [
                format!("CREATE VIEW v AS {text}"),
                format!("/* ä */ create\n or replace view\ta.\"B\".v as\n\n{text} ; -- end"),
            ] {
                assert_eq!(create(&sql).sql, text, "{sql}");
            }
        }
    }

    #[test]
    fn names_columns_and_comments() {
        let view = create(
            "CREATE VIEW IF NOT EXISTS Lake.s.\"V\" (a COMMENT 'it''s', \"B\") COMMENT 'all' SECURITY INVOKER AS SELECT 1, 2",
        );
        assert_eq!((view.view.to_string().as_str(), view.if_not_exists, view.replace), ("lake.s.V", true, false));
        assert_eq!(view.columns, [("a".to_string(), Some("it's".to_string())), ("B".to_string(), None)]);
        assert_eq!(view.comment.as_deref(), Some("all"));
        assert!(create("create or replace view as_v as select 1 as x").replace);
        let Statement::DropView { view, if_exists: true } = parse("drop view if exists a.v;").unwrap() else {
            panic!()
        };
        assert_eq!(view.to_string(), "a.v");
        let Statement::RenameView { to, if_exists: false, .. } = parse("alter view a.v rename to w").unwrap() else {
            panic!()
        };
        assert_eq!(to.to_string(), "w");
        let Statement::CommentView { comment: None, .. } = parse("comment on view v is null").unwrap() else {
            panic!()
        };
        assert!(matches!(parse("show create view a.v").unwrap(), Statement::ShowCreateView { .. }));
        let Statement::ShowViews { from: Some(_), like: Some(_) } = parse("show views in a.b like 'x%'").unwrap()
        else {
            panic!()
        };
    }

    #[test]
    fn what_is_no_view_is_refused() {
        for (sql, code) in [
            ("create view v as select ?", ErrorCode::NotSupported),
            ("create view v as select $1", ErrorCode::NotSupported),
            ("create view v security definer as select 1", ErrorCode::NotSupported),
            ("create view v with (a = 'b') as select 1", ErrorCode::NotSupported),
            ("create or replace view if not exists v as select 1", ErrorCode::NotSupported),
            ("create materialized view v as select 1", ErrorCode::NotSupported),
            ("create temporary view v as select 1", ErrorCode::NotSupported),
            ("alter view v set properties a = 1", ErrorCode::NotSupported),
            ("explain create view v as select 1", ErrorCode::NotSupported),
            ("create view v as insert into t select 1", ErrorCode::SyntaxError),
            ("create view v as drop table t", ErrorCode::SyntaxError),
            ("create view v as create view w as select 1", ErrorCode::NotSupported),
            ("create view v as", ErrorCode::SyntaxError),
            ("create view v", ErrorCode::SyntaxError),
            ("create view v () as select 1", ErrorCode::SyntaxError),
            ("create view v as selec 1", ErrorCode::SyntaxError),
            ("create view v as select 1 from t for version as of x", ErrorCode::SyntaxError),
            ("drop view", ErrorCode::SyntaxError),
            ("drop view v cascade", ErrorCode::SyntaxError),
            ("create view v as select 1; select 2", ErrorCode::NotOneStatement),
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.code(), code, "{sql}: {error}");
        }
        let error = parse("create view v\n as selec 1").unwrap_err();
        assert!(error.message().contains("Line: 2, Column: 5"), "{error}");
    }
}
