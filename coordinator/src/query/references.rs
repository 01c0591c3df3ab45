//! `CREATE BRANCH`, `CREATE TAG`, `DROP BRANCH` and `DROP TAG` inside an `ALTER TABLE`, as Spark writes them.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;
use townlake_lake::{CreateReference, IfTaken, ReferenceKind, TableChange};

use super::alter_table::{Parsed, word};
use super::parse::normalize;

const MINUTE_MS: i64 = 60_000;

type Inner<T> = Result<T, ParserError>;

/// `[OR REPLACE] BRANCH | TAG [IF NOT EXISTS] name [AS OF VERSION n] [RETAIN n DAYS] [WITH SNAPSHOT RETENTION …]`.
pub(super) fn create_reference(parser: &mut Parser<'_>) -> Parsed<TableChange> {
    let replace = parser.parse_keywords(&[Keyword::OR, Keyword::REPLACE]);
    let Some(kind) = kind(parser) else {
        let token = parser.peek_token();
        return Ok(parser.expected("BRANCH or TAG", token)?);
    };
    let keep = !replace && parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let if_taken = match (replace, keep) {
        (true, _) => IfTaken::Replace,
        (_, true) => IfTaken::Keep,
        _ => IfTaken::Refuse,
    };
    let name = name(parser)?;
    let snapshot = snapshot(parser)?;
    let max_age_ms = if word(parser, "retain") { Some(age(parser)?) } else { None };
    let with = kind == ReferenceKind::Branch && parser.parse_keyword(Keyword::WITH);
    let (min_snapshots, max_snapshot_age_ms) = if with { snapshot_retention(parser)? } else { (None, None) };
    let create = CreateReference { name, kind, snapshot, if_taken, max_age_ms, min_snapshots, max_snapshot_age_ms };
    Ok(TableChange::CreateReference(create))
}

/// `BRANCH | TAG [IF EXISTS] name`; `None` for what else can be dropped.
pub(super) fn drop_reference(parser: &mut Parser<'_>) -> Parsed<Option<TableChange>> {
    let Some(kind) = kind(parser) else { return Ok(None) };
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    Ok(Some(TableChange::DropReference { name: name(parser)?, kind, if_exists }))
}

fn kind(parser: &mut Parser<'_>) -> Option<ReferenceKind> {
    if word(parser, "branch") {
        return Some(ReferenceKind::Branch);
    }
    word(parser, "tag").then_some(ReferenceKind::Tag)
}

fn name(parser: &mut Parser<'_>) -> Inner<String> {
    match parser.peek_token().token {
        Token::SingleQuotedString(_) => parser.parse_literal_string(),
        _ => parser.parse_identifier().map(normalize),
    }
}

fn snapshot(parser: &mut Parser<'_>) -> Inner<Option<i64>> {
    if !parser.parse_keywords(&[Keyword::AS, Keyword::OF]) {
        return Ok(None);
    }
    parser.expect_keyword(Keyword::VERSION)?;
    number(parser).map(Some)
}

/// A positive whole number.
fn number<T: TryFrom<i64>>(parser: &mut Parser<'_>) -> Inner<T> {
    let token = parser.next_token();
    let number = match &token.token {
        Token::Number(text, _) => text.parse::<i64>().ok().filter(|number| *number > 0),
        _ => None,
    };
    match number.and_then(|number| T::try_from(number).ok()) {
        Some(number) => Ok(number),
        None => parser.expected("a positive whole number", token),
    }
}

/// `n DAYS | HOURS | MINUTES`, in milliseconds.
fn age(parser: &mut Parser<'_>) -> Inner<i64> {
    let count: i64 = number(parser)?;
    let unit = parser.next_token();
    let minutes = match &unit.token {
        Token::Word(word) => match word.value.to_lowercase().as_str() {
            "day" | "days" => 24 * 60,
            "hour" | "hours" => 60,
            "minute" | "minutes" => 1,
            _ => return parser.expected("DAYS, HOURS or MINUTES", unit),
        },
        _ => return parser.expected("DAYS, HOURS or MINUTES", unit),
    };
    match count.checked_mul(minutes * MINUTE_MS) {
        Some(age) => Ok(age),
        None => parser.expected("a shorter time", unit),
    }
}

/// `SNAPSHOT RETENTION [n SNAPSHOTS] [n DAYS]`.
fn snapshot_retention(parser: &mut Parser<'_>) -> Inner<(Option<i32>, Option<i64>)> {
    for expected in ["snapshot", "retention"] {
        if !word(parser, expected) {
            let token = parser.peek_token();
            return parser.expected("SNAPSHOT RETENTION", token);
        }
    }
    let of_snapshots = matches!(&parser.peek_nth_token(1).token,
        Token::Word(word) if matches!(word.value.to_lowercase().as_str(), "snapshot" | "snapshots"));
    let snapshots = if of_snapshots { Some(number(parser)?) } else { None };
    if of_snapshots {
        parser.next_token();
    }
    let more = matches!(parser.peek_token().token, Token::Number(..));
    let snapshot_age = if more || !of_snapshots { Some(age(parser)?) } else { None };
    Ok((snapshots, snapshot_age))
}
