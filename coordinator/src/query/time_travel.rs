//! `t FOR VERSION AS OF 123 | 'tag'` and `t FOR TIMESTAMP AS OF TIMESTAMP '…' | '…'`.
//!
//! The SQL parser of DataFusion's dialect does not know the clause. It is taken out of the tokens before parsing and put
//! back into the parsed statement, at the table whose name stood before it: positions in errors stay those of the text,
//! and one statement may read several states of one table.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};
use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Statement as AstStatement, TableFactor, TableVersion as AstVersion, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};
use townlake_common::{Error, ErrorCode, Result};
use townlake_lake::TableVersion;

use super::tokens::{is_keyword, is_word, location_of, syntax_error};

/// The clauses that were taken out, by the place of the table name's last part.
pub(super) type Clauses = BTreeMap<(u64, u64), Clause>;

/// One clause.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Clause {
    version: TableVersion,
    at: Location,
}

/// Takes the time-travel clauses out of the tokens.
///
/// Errors: `SYNTAX_ERROR` where the clause is malformed, `INVALID_ARGUMENT` for a time that is none.
pub(super) fn take_clauses(tokens: Vec<TokenWithSpan>) -> Result<(Vec<TokenWithSpan>, Clauses)> {
    let mut kept: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut clauses = Clauses::new();
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        let Some(is_timestamp) = clause_kind(&tokens, index) else {
            kept.push(token.clone());
            index += 1;
            continue;
        };
        let at = token.span.start;
        let (version, next) = if is_timestamp { timestamp(&tokens, index + 4)? } else { version(&tokens, index + 4)? };
        match kept.last() {
            Some(TokenWithSpan { token: Token::Word(_), span }) => {
                clauses.insert((span.start.line, span.start.column), Clause { version, at });
            }
            _ => return Err(misplaced(at)),
        }
        index = next;
    }
    Ok((kept, clauses))
}

/// `FOR (VERSION | TIMESTAMP) AS OF` at this token: whether it is the timestamp form.
fn clause_kind(tokens: &[TokenWithSpan], index: usize) -> Option<bool> {
    let token = |offset: usize| tokens.get(index + offset);
    let framed =
        is_keyword(token(0), Keyword::FOR) && is_keyword(token(2), Keyword::AS) && is_keyword(token(3), Keyword::OF);
    match framed {
        true if is_word(token(1), "version") => Some(false),
        true if is_word(token(1), "timestamp") => Some(true),
        _ => None,
    }
}

/// The snapshot id or the reference's name after `FOR VERSION AS OF`.
fn version(tokens: &[TokenWithSpan], index: usize) -> Result<(TableVersion, usize)> {
    match tokens.get(index).map(|t| &t.token) {
        Some(Token::Number(text, _)) => match text.parse() {
            Ok(id) => Ok((TableVersion::SnapshotId(id), index + 1)),
            Err(_) => Err(syntax_error("a snapshot id is a whole number of 64 bits", location_of(tokens, index))),
        },
        Some(Token::SingleQuotedString(name)) => Ok((TableVersion::Reference(name.clone()), index + 1)),
        _ => Err(syntax_error(
            "FOR VERSION AS OF takes a snapshot id or the quoted name of a branch or tag",
            location_of(tokens, index),
        )),
    }
}

/// The time after `FOR TIMESTAMP AS OF`, with or without the word TIMESTAMP before it.
fn timestamp(tokens: &[TokenWithSpan], index: usize) -> Result<(TableVersion, usize)> {
    let index = if is_word(tokens.get(index), "timestamp") { index + 1 } else { index };
    match tokens.get(index).map(|t| &t.token) {
        Some(Token::SingleQuotedString(text)) => {
            Ok((TableVersion::TimestampMillis(parse_time("FOR TIMESTAMP AS OF", text)?), index + 1))
        }
        _ => Err(syntax_error(
            "FOR TIMESTAMP AS OF takes a time in quotes, like TIMESTAMP '2026-01-31 12:00:00'",
            location_of(tokens, index),
        )),
    }
}

/// Milliseconds since the epoch of a time in ISO form; `what` is the clause or argument that it is for. Without a zone it is UTC; without a time of day it is midnight.
pub(super) fn parse_time(what: &str, text: &str) -> Result<i64> {
    let text = text.trim();
    for format in ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z"] {
        if let Ok(time) = DateTime::parse_from_str(text, format) {
            return Ok(time.timestamp_millis());
        }
    }
    let plain = text.strip_suffix('Z').or_else(|| text.strip_suffix(" UTC")).unwrap_or(text);
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(plain, format) {
            return Ok(time.and_utc().timestamp_millis());
        }
    }
    match NaiveDate::parse_from_str(plain, "%Y-%m-%d") {
        Ok(day) => Ok(day.and_time(NaiveTime::MIN).and_utc().timestamp_millis()),
        Err(_) => Err(Error::new(ErrorCode::InvalidArgument, format!("{what}: '{text}' is not a time"))
            .with_hint("write it like '2026-01-31 12:00:00' (UTC) or '2026-01-31T12:00:00+01:00'")),
    }
}

/// Takes out the clause of the table that an INSERT writes to: the branch that it names.
///
/// Errors: `NOT_SUPPORTED` for a clause that names no branch.
pub(super) fn take_branch(table: &ObjectName, clauses: &mut Clauses) -> Result<Option<String>> {
    let place = last_part(table);
    match place.and_then(|place| clauses.remove(&(place.line, place.column))) {
        Some(clause) => branch_of(clause.version).map(Some),
        None => Ok(None),
    }
}

/// The branch that is written to.
///
/// Errors: `NOT_SUPPORTED` for what is no name of one.
pub(super) fn branch_of(version: TableVersion) -> Result<String> {
    match version {
        TableVersion::Reference(name) => Ok(name),
        _ => Err(Error::new(ErrorCode::NotSupported, "only the newest state of a branch can be changed")
            .with_hint("write FOR VERSION AS OF 'branch', or nothing for main")),
    }
}

/// Puts the clauses back, each at its table.
///
/// Errors: `SYNTAX_ERROR` for a clause that follows something else than a table name.
pub(super) fn attach_clauses(statement: &mut AstStatement, clauses: Clauses) -> Result<()> {
    if clauses.is_empty() {
        return Ok(());
    }
    let mut attach = Attach { clauses };
    let _: ControlFlow<()> = statement.visit(&mut attach);
    match attach.clauses.into_values().next() {
        Some(left) => Err(misplaced(left.at)),
        None => Ok(()),
    }
}

struct Attach {
    clauses: Clauses,
}

impl VisitorMut for Attach {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, version, args: None, .. } = factor
            && let Some(place) = last_part(name)
            && let Some(clause) = self.clauses.remove(&(place.line, place.column))
        {
            *version = Some(to_ast(&clause.version));
        }
        ControlFlow::Continue(())
    }
}

fn last_part(name: &ObjectName) -> Option<Location> {
    name.0.last().and_then(|part| part.as_ident()).map(|ident| ident.span.start)
}

fn misplaced(at: Location) -> Error {
    syntax_error(
        "FOR VERSION AS OF and FOR TIMESTAMP AS OF follow the name of a table, before its alias; misplaced",
        at,
    )
}

/// The version in the parsed statement's own vocabulary; [`from_ast`] reads it back.
fn to_ast(version: &TableVersion) -> AstVersion {
    let value = |value: Value| Expr::Value(value.into());
    match version {
        TableVersion::SnapshotId(id) => AstVersion::VersionAsOf(value(Value::Number(id.to_string(), false))),
        TableVersion::Reference(name) => AstVersion::VersionAsOf(value(Value::SingleQuotedString(name.clone()))),
        TableVersion::TimestampMillis(ms) => AstVersion::TimestampAsOf(value(Value::Number(ms.to_string(), false))),
    }
}

/// The version that [`attach_clauses`] put at a table; `None` for a form that is not ours.
pub(super) fn from_ast(version: &AstVersion) -> Option<TableVersion> {
    let (expr, is_time) = match version {
        AstVersion::VersionAsOf(expr) => (expr, false),
        AstVersion::TimestampAsOf(expr) => (expr, true),
        _ => return None,
    };
    let Expr::Value(value) = expr else { return None };
    match (&value.value, is_time) {
        (Value::Number(number, _), true) => number.parse().ok().map(TableVersion::TimestampMillis),
        (Value::Number(number, _), false) => number.parse().ok().map(TableVersion::SnapshotId),
        (Value::SingleQuotedString(name), false) => Some(TableVersion::Reference(name.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::super::tokens::{DIALECT, tokens_of_one_statement};
    use super::*;

    fn parse(sql: &str) -> Result<AstStatement> {
        let (tokens, clauses) = take_clauses(tokens_of_one_statement(sql)?)?;
        let mut statement = Parser::new(&DIALECT).with_tokens_with_locations(tokens).parse_statement().unwrap();
        attach_clauses(&mut statement, clauses)?;
        Ok(statement)
    }

    fn versions(sql: &str) -> Vec<(String, Option<TableVersion>)> {
        struct Collect(Vec<(String, Option<TableVersion>)>);
        impl VisitorMut for Collect {
            type Break = ();
            fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
                if let TableFactor::Table { name, version, .. } = factor {
                    self.0.push((name.to_string(), version.as_ref().and_then(from_ast)));
                }
                ControlFlow::Continue(())
            }
        }
        let mut collect = Collect(Vec::new());
        let _: ControlFlow<()> = parse(sql).unwrap().visit(&mut collect);
        collect.0
    }

    #[test]
    fn each_table_gets_its_own_version() {
        let found = versions(
            "select * from a.b.t for version as of 12 x join a.b.t FOR VERSION AS OF 'v1' as y using (id) \
             join a.b.t z using (id) where exists (select 1 from u for timestamp as of timestamp '1970-01-01 00:00:01')",
        );
        let expect = vec![
            ("a.b.t".to_string(), Some(TableVersion::SnapshotId(12))),
            ("a.b.t".to_string(), Some(TableVersion::Reference("v1".to_string()))),
            ("a.b.t".to_string(), None),
            ("u".to_string(), Some(TableVersion::TimestampMillis(1000))),
        ];
        assert_eq!(found, expect);
    }

    #[test]
    fn text_and_quoted_names_are_left_alone() {
        let found = versions("select 'for version as of 1' as \"for\" from \"for version as of 2\"");
        assert_eq!(found, vec![("\"for version as of 2\"".to_string(), None)]);
    }

    #[test]
    fn a_clause_elsewhere_is_refused_at_its_place() {
        let error = parse("select a for version as of 1 from t").unwrap_err();
        assert_eq!(error.code(), ErrorCode::SyntaxError);
        assert!(error.message().contains("line 1, column 10"), "{error}");
        assert!(parse("select * from (select 1) for version as of 1").is_err());
        assert!(parse("select * from t for version as of x").is_err());
        assert!(parse("select * from t for version as of").is_err());
        assert!(parse("select * from t for version as of 99999999999999999999").is_err());
    }

    #[test]
    fn times() {
        for (text, ms) in [
            ("2026-01-31 12:00:00", 1_769_860_800_000),
            ("2026-01-31T12:00:00Z", 1_769_860_800_000),
            ("2026-01-31T13:00:00+01:00", 1_769_860_800_000),
            ("2026-01-31 12:00:00.250 UTC", 1_769_860_800_250),
            ("2026-01-31", 1_769_817_600_000),
        ] {
            assert_eq!(parse_time("x", text).unwrap(), ms, "{text}");
        }
        assert_eq!(parse_time("x", "yesterday").unwrap_err().code(), ErrorCode::InvalidArgument);
    }
}
