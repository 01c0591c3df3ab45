//! How deep a statement may be. Expressions and plans are trees that parser, planner, engine and executors walk by recursion,
//! and `a OR b OR c …` is as deep as it is long: what their stacks do not bear is refused before it is parsed.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Statement as AstStatement, TableFactor, Visit, Visitor};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};
use townlake_common::{Error, ErrorCode, Result};

use super::tokens::location_of;

/// Operators on the way from the root of a statement to its deepest leaf: 2,000 terms of `a = 0 OR …`. The threads' stacks
/// ([`townlake_engine::runtime::THREAD_STACK_BYTES`]) bear the deepest that is let through: `tests/deep.rs` runs it.
pub(super) const MAX_OPERATORS: usize = 4_000;

/// Operators in a row that compute, as of `a + b + c`. DataFusion names each part of them by its whole text, again and again:
/// 1,500 take 10 s to be planned, 3,900 take 95 s, where 3,900 of `OR` take 6 s (2026-11-25, two busy cores, profile `dev`).
const MAX_COMPUTING: usize = 1_000;

/// Tables, subqueries and table functions of a statement: a plan of joins, unions or `WITH` queries that build on each other
/// is as deep as it has many of them.
pub(super) const MAX_RELATIONS: usize = 1_000;

/// `UNION`, `INTERSECT` and `EXCEPT` of a statement: each is a level of its plan, and planned with all that stand before it.
const MAX_SET_OPERATORS: usize = 1_000;

/// What is open at a place of the text: a pair of parentheses, or the statement itself.
#[derive(Default)]
struct Group {
    /// Operators since the last comma: no expression goes over one.
    operators: usize,
    /// Of these, those in a row that compute.
    computing: usize,
    /// The depth of the deepest group since the last comma.
    inner: usize,
    /// The depth of the deepest part before the last comma.
    deepest: usize,
}

impl Group {
    fn depth(&self) -> usize {
        self.deepest.max(self.operators + self.inner)
    }
}

/// Checks the depth of a statement by its tokens: never too low, as each level of a tree has an operator or a parenthesis of
/// its own. (Prefixes, as of `NOT NOT a`, and parentheses are counted by the parser too, more strictly.)
///
/// Errors: `NOT_SUPPORTED` with the place.
pub(super) fn check_depth(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut outer: Vec<Group> = Vec::new();
    let mut group = Group::default();
    let mut set_operators = 0;
    for (index, token) in tokens.iter().enumerate() {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                // a[1][1] is a chain as well
                group.operators += usize::from(token.token == Token::LBracket);
                outer.push(std::mem::take(&mut group));
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                // One that closes nothing is the parser's to refuse.
                let inner = group.depth() + 1;
                group = outer.pop().unwrap_or_default();
                group.inner = group.inner.max(inner);
            }
            Token::Comma => group = Group { deepest: group.depth(), ..Group::default() },
            other if is_operator(other) => {
                group.operators += 1;
                group.computing = if is_logical(other) { 0 } else { group.computing + 1 };
            }
            _ => {}
        }
        set_operators += usize::from(is_keyword_of(SET_OPERATORS, &token.token));
        if set_operators > MAX_SET_OPERATORS {
            return Err(too_many(MAX_SET_OPERATORS, "UNION, INTERSECT and EXCEPT", location_of(tokens, index))
                .with_hint("use VALUES for many rows, or write a part of it into a table first"));
        }
        if group.computing > MAX_COMPUTING {
            return Err(too_many(MAX_COMPUTING, "operators in a row", location_of(tokens, index))
                .with_hint("compute a part of it in a subquery's column"));
        }
        if group.depth() + outer.len() > MAX_OPERATORS {
            return Err(too_many(MAX_OPERATORS, "operators that build on each other", location_of(tokens, index))
                .with_hint("use IN (…) in place of many comparisons, or join with a table of the values"));
        }
    }
    Ok(())
}

fn too_many(limit: usize, what: &str, at: Location) -> Error {
    let message = format!("the statement has more than {limit} {what}, at line {}, column {}", at.line, at.column);
    Error::new(ErrorCode::NotSupported, message)
}

fn is_keyword_of(list: &[Keyword], token: &Token) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && list.contains(&word.keyword))
}

/// Whether the operator compares, or stands between truth values, queries or tables.
fn is_logical(token: &Token) -> bool {
    match token {
        Token::Eq | Token::Neq | Token::Lt | Token::Gt | Token::LtEq | Token::GtEq => true,
        Token::Word(_) => !is_keyword_of(&[Keyword::DIV, Keyword::AT, Keyword::COLLATE, Keyword::INTERVAL], token),
        _ => false,
    }
}

/// Whether the token may stand between (or before) parts of an expression, or between queries or tables.
fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(_) => is_keyword_of(OPERATORS, token) || is_keyword_of(SET_OPERATORS, token),
        Token::Number(..)
        | Token::Char(_)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::Placeholder(_)
        | Token::Period
        | Token::SemiColon => false,
        _ => true,
    }
}

const OPERATORS: &[Keyword] = &[
    Keyword::AND,
    Keyword::OR,
    Keyword::XOR,
    Keyword::NOT,
    Keyword::NOTNULL,
    Keyword::IS,
    Keyword::IN,
    Keyword::BETWEEN,
    Keyword::OVERLAPS,
    Keyword::LIKE,
    Keyword::ILIKE,
    Keyword::RLIKE,
    Keyword::REGEXP,
    Keyword::MATCH,
    Keyword::SIMILAR,
    Keyword::MEMBER,
    Keyword::OPERATOR,
    Keyword::DIV,
    Keyword::AT,
    Keyword::COLLATE,
    Keyword::INTERVAL,
    Keyword::JOIN,
    Keyword::APPLY,
    Keyword::PIVOT,
    Keyword::UNPIVOT,
    Keyword::MATCH_RECOGNIZE,
];

const SET_OPERATORS: &[Keyword] = &[Keyword::UNION, Keyword::INTERSECT, Keyword::EXCEPT, Keyword::MINUS];

/// Checks the number of tables and subqueries.
///
/// Errors: `NOT_SUPPORTED`.
pub(super) fn check_relations(statement: &AstStatement) -> Result<()> {
    match statement.visit(&mut Relations(0)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => {
            let message = format!("the statement names more than {MAX_RELATIONS} tables and subqueries");
            Err(Error::new(ErrorCode::NotSupported, message).with_hint("write a part of it into a table first"))
        }
    }
}

struct Relations(usize);

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_table_factor(&mut self, _: &TableFactor) -> ControlFlow<()> {
        self.0 += 1;
        if self.0 > MAX_RELATIONS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokens::tokens_of_one_statement;
    use super::*;

    fn depth_of(sql: &str) -> Result<()> {
        check_depth(&tokens_of_one_statement(sql).unwrap())
    }

    fn chain(term: &str, operator: &str, terms: usize) -> String {
        vec![term; terms].join(operator)
    }

    #[test]
    fn chains_are_bounded_however_they_are_made() {
        for (term, operator, longest) in [
            ("a = 0", " OR ", 2_000),
            ("a", " OR ", 4_001),
            ("a", " + ", 1_001),
            ("a", " || ", 1_001),
            ("a", " AND NOT ", 2_001),
            ("SELECT 1", " UNION ALL ", 1_001),
            ("t", " JOIN ", 4_001),
        ] {
            assert!(depth_of(&chain(term, operator, longest)).is_ok(), "{operator}");
            let error = depth_of(&chain(term, operator, longest + 1)).unwrap_err();
            assert_eq!(error.code(), ErrorCode::NotSupported);
            assert!(error.message().contains("line 1, column"), "{error}");
        }
        for postfix in ["::int", "[1]", " IS NULL", " COLLATE \"C\"", " AT TIME ZONE 'UTC'"] {
            assert!(depth_of(&format!("SELECT a{}", postfix.repeat(5_000))).is_err(), "{postfix}");
        }
        for prefix in ["INTERVAL ", "ARRAY<", "(", "- "] {
            assert!(depth_of(&format!("SELECT {}", prefix.repeat(5_000))).is_err(), "{prefix}");
        }
    }

    #[test]
    fn chains_in_parentheses_add_up() {
        let mut sql = "a".to_string();
        for _ in 0..10 {
            sql = format!("({sql}) OR {}", chain("a", " OR ", 500));
        }
        assert!(depth_of(&sql).is_err());
        let siblings = vec![format!("({})", chain("a", " OR ", 500)); 10].join(" OR ");
        assert!(depth_of(&siblings).is_ok(), "side by side they do not");
    }

    #[test]
    fn what_is_wide_is_not_deep() {
        let rows = vec!["(1, -2, 'x'::text)"; 10_000].join(", ");
        assert!(depth_of(&format!("INSERT INTO t VALUES {rows}")).is_ok());
        let list = vec!["-1"; 50_000].join(", ");
        assert!(depth_of(&format!("SELECT * FROM t WHERE a IN ({list}) AND b NOT IN ({list})")).is_ok());
        let terms = chain("a + 1 - 1 < -2", " OR ", 600);
        assert!(depth_of(&format!("SELECT {terms}")).is_ok(), "what computes is many short chains");
        assert!(depth_of("SELECT \"or\", 'a or b' FROM t)").is_ok());
    }
}
