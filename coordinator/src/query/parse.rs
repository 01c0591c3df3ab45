//! From SQL text to one [`Statement`].
//!
//! Queries and inserts are parsed by DataFusion's parser; everything else that we offer is parsed here, with that parser's
//! building blocks. DDL never reaches DataFusion, which would run it in memory of its own.

use datafusion::sql::sqlparser::ast::{Ident, Insert, ObjectName, SetExpr, Statement as AstStatement, TableObject};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use townlake_common::{Error, ErrorCode, Result};

use super::alter_table::parse_alter_table;
use super::catalogs::parse_create_catalog;
use super::changes::{parse_change, parse_truncate};
use super::create_table::parse_create_table;
use super::depth::check_depth;
use super::distinct_from::{put_back, with_operators};
use super::exact_literals::keep_exact;
use super::procedures::CallArgument;
use super::settings;
use super::statement::{Name, Statement};
use super::time_travel::{Clauses, attach_clauses, take_branch, take_clauses};
use super::tokens::{DIALECT, is_keyword, is_word, location_of, syntax_error, tokens_of_one_statement};
use super::views::parse_view_statement;

/// Nested expressions and queries are parsed to this depth; deeper ones are refused before they exhaust the stack.
const RECURSION_LIMIT: usize = 50;

/// The one statement in `sql`.
///
/// Errors: `SYNTAX_ERROR` with line and column, `NOT_ONE_STATEMENT`, and `NOT_SUPPORTED` with the reason for what parses
/// and is not offered.
pub fn parse(sql: &str) -> Result<Statement> {
    let tokens = tokens_of_one_statement(sql)?;
    check_depth(&tokens)?;
    if let Some(statement) = parse_view_statement(sql, &tokens)? {
        return Ok(statement);
    }
    let (tokens, clauses) = take_clauses(tokens)?;
    parse_tokens(&tokens, clauses)
}

pub(super) fn parse_tokens(tokens: &[TokenWithSpan], clauses: Clauses) -> Result<Statement> {
    let first = tokens.first();
    let second = tokens.get(1);
    if is_keyword(first, Keyword::EXPLAIN) {
        return explain(tokens, clauses);
    }
    if is_keyword(first, Keyword::CREATE) && is_keyword(second, Keyword::TABLE) {
        return parse_create_table(tokens, clauses);
    }
    let is_query = is_keyword(first, Keyword::SELECT)
        || is_keyword(first, Keyword::WITH)
        || is_keyword(first, Keyword::VALUES)
        || matches!(first.map(|t| &t.token), Some(Token::LParen));
    if is_query || is_keyword(first, Keyword::INSERT) {
        let (mut ast, mut clauses) = (parse_ast(tokens)?, clauses);
        let branch = match &ast {
            AstStatement::Insert(Insert { table: TableObject::TableName(name), .. }) => {
                take_branch(name, &mut clauses)?
            }
            _ => None,
        };
        attach_clauses(&mut ast, clauses)?;
        return query_or_insert(ast, branch);
    }
    if [Keyword::DELETE, Keyword::UPDATE, Keyword::MERGE].iter().any(|keyword| is_keyword(first, *keyword)) {
        let mut ast = parse_ast(tokens)?;
        attach_clauses(&mut ast, clauses)?;
        return parse_change(ast);
    }
    // No other statement has a table factor: a clause there has no place.
    let mut nothing = AstStatement::Commit { chain: false, end: false, modifier: None };
    attach_clauses(&mut nothing, clauses)?;
    let alters_table = is_keyword(first, Keyword::ALTER) && is_keyword(second, Keyword::TABLE);
    if alters_table || is_keyword(first, Keyword::COMMENT) {
        return parse_alter_table(tokens);
    }
    if is_keyword(first, Keyword::TRUNCATE) {
        return parse_truncate(parse_ast(tokens)?);
    }
    command(tokens)
}

/// Parses all tokens as one statement of DataFusion's dialect.
pub(super) fn parse_ast(tokens: &[TokenWithSpan]) -> Result<AstStatement> {
    let tokens = &with_operators(tokens);
    let mut parser = parser(tokens);
    let mut statement = parser.parse_statement().map_err(|error| parse_error(tokens, &parser, error))?;
    expect_end(tokens, &mut parser)?;
    put_back(&mut statement);
    keep_exact(&mut statement);
    Ok(statement)
}

pub(super) fn parser(tokens: &[TokenWithSpan]) -> Parser<'static> {
    Parser::new(&DIALECT).with_recursion_limit(RECURSION_LIMIT).with_tokens_with_locations(tokens.to_vec())
}

/// The parser's error as ours. Its text ends with the place, except at the end of the text: that place we add.
pub(super) fn parse_error(tokens: &[TokenWithSpan], parser: &Parser<'_>, error: ParserError) -> Error {
    match error {
        ParserError::TokenizerError(message) => Error::new(ErrorCode::SyntaxError, message),
        ParserError::ParserError(message) if message.contains(" at Line: ") => {
            Error::new(ErrorCode::SyntaxError, message)
        }
        ParserError::ParserError(message) => syntax_error(&message, location_of(tokens, parser.index())),
        ParserError::RecursionLimitExceeded => {
            let message = format!("the statement is nested deeper than {RECURSION_LIMIT} levels");
            Error::new(ErrorCode::NotSupported, message)
        }
    }
}

pub(super) fn expect_end(tokens: &[TokenWithSpan], parser: &mut Parser<'_>) -> Result<()> {
    let rest = parser.peek_token();
    match rest.token {
        Token::EOF => Ok(()),
        _ => Err(parse_error(
            tokens,
            parser,
            match parser.expected::<()>("end of statement", rest) {
                Err(error) => error,
                Ok(()) => ParserError::ParserError("unexpected text after the statement".to_string()),
            },
        )),
    }
}

fn explain(tokens: &[TokenWithSpan], clauses: Clauses) -> Result<Statement> {
    let mut index = 1;
    let (mut analyze, mut verbose) = (false, false);
    loop {
        if is_keyword(tokens.get(index), Keyword::ANALYZE) && !analyze && !verbose {
            analyze = true;
        } else if is_keyword(tokens.get(index), Keyword::VERBOSE) && !verbose {
            verbose = true;
        } else {
            break;
        }
        index += 1;
    }
    if is_keyword(tokens.get(index), Keyword::FORMAT) {
        return Err(not_supported("EXPLAIN FORMAT", "plans are shown as indented text"));
    }
    let rest = tokens.get(index..).unwrap_or_default();
    if rest.is_empty() {
        return Err(syntax_error("EXPLAIN is followed by a statement", location_of(tokens, index)));
    }
    let no_plan = || {
        not_supported(
            "EXPLAIN of this statement",
            "queries, INSERT, DELETE, UPDATE, MERGE and CREATE TABLE AS have a plan",
        )
    };
    if is_keyword(rest.first(), Keyword::EXPLAIN) {
        return Err(no_plan()); // before the one in it is parsed, and the one in that
    }
    let statement = parse_tokens(rest, clauses)?;
    let planned = matches!(&statement, Statement::Query(_) | Statement::Insert { .. } | Statement::Change(_))
        || matches!(&statement, Statement::CreateTable(create) if create.as_query);
    match planned {
        true => Ok(Statement::Explain { analyze, verbose, statement: Box::new(statement) }),
        false => Err(no_plan()),
    }
}

fn query_or_insert(ast: AstStatement, branch: Option<String>) -> Result<Statement> {
    match ast {
        AstStatement::Query(query) => {
            match query.body.as_ref() {
                SetExpr::Insert(_) => {
                    return Err(not_supported("WITH before INSERT", "write INSERT INTO table WITH … SELECT …"));
                }
                SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                    return Err(not_supported("WITH before this statement", "write a subquery in place of the name"));
                }
                _ => {}
            }
            Ok(Statement::Query(Box::new(AstStatement::Query(query))))
        }
        AstStatement::Insert(insert) => {
            let (table, overwrite) = (check_insert(&insert)?, insert.overwrite);
            Ok(Statement::Insert { table, branch, overwrite, ast: Box::new(AstStatement::Insert(insert)) })
        }
        _ => Err(Error::internal("the parser returned another statement than its first word says")),
    }
}

/// Only plain appends: what the planner would ignore is refused.
fn check_insert(insert: &Insert) -> Result<Name> {
    let refuse = |what: &str| Err(not_supported(what, "INSERT appends rows: INSERT INTO table [(columns)] query"));
    if insert.replace_into || insert.or.is_some() {
        return refuse("INSERT OR REPLACE");
    }
    if insert.on.is_some() || insert.ignore {
        return refuse("INSERT with ON CONFLICT or IGNORE");
    }
    if insert.returning.is_some() || insert.output.is_some() {
        return refuse("INSERT with RETURNING");
    }
    if insert.partitioned.is_some() || !insert.after_columns.is_empty() || !insert.assignments.is_empty() {
        return refuse("INSERT with PARTITION or SET");
    }
    if insert.source.is_none() {
        return refuse("INSERT without a query");
    }
    match &insert.table {
        TableObject::TableName(name) => name_of(name),
        _ => refuse("INSERT into something that is no table"),
    }
}

/// Everything that is parsed word by word.
fn command(tokens: &[TokenWithSpan]) -> Result<Statement> {
    let mut parser = parser(tokens);
    let parsed = match parser.next_token().token {
        Token::Word(word) if word.quote_style.is_none() => match word.keyword {
            Keyword::USE => parse_name(&mut parser).map(|name| Some(Statement::Use(name))),
            Keyword::SHOW => show(&mut parser),
            Keyword::DESCRIBE | Keyword::DESC => {
                let _optional = parser.parse_keyword(Keyword::TABLE);
                parse_name(&mut parser).map(|table| Some(Statement::ShowColumns { table, like: None }))
            }
            Keyword::SET => set(&mut parser),
            Keyword::RESET => reset(&mut parser),
            Keyword::CREATE if parser.parse_keyword(Keyword::CATALOG) => parse_create_catalog(&mut parser).map(Some),
            Keyword::CREATE => create_schema(&mut parser),
            Keyword::DROP => drop_object(&mut parser),
            Keyword::CALL => call(&mut parser),
            _ => Ok(None),
        },
        _ => Ok(None),
    };
    match parsed.map_err(|error| parse_error(tokens, &parser, error))? {
        Some(statement) => {
            expect_end(tokens, &mut parser)?;
            Ok(statement)
        }
        None => Err(refusal(tokens)),
    }
}

type Parsed<T> = std::result::Result<T, ParserError>;

fn show(parser: &mut Parser<'_>) -> Parsed<Option<Statement>> {
    let what = parser.next_token();
    let Token::Word(word) = &what.token else {
        return parser.expected("CATALOGS, SCHEMAS, TABLES, VIEWS or COLUMNS", what);
    };
    let statement = match word.value.to_ascii_uppercase().as_str() {
        "CATALOGS" => Statement::ShowCatalogs { like: like(parser)? },
        "SCHEMAS" | "DATABASES" => Statement::ShowSchemas { from: from(parser)?, like: like(parser)? },
        "TABLES" => Statement::ShowTables { from: from(parser)?, like: like(parser)? },
        "COLUMNS" => {
            parser.expect_one_of_keywords(&[Keyword::FROM, Keyword::IN])?;
            Statement::ShowColumns { table: parse_name(parser)?, like: like(parser)? }
        }
        "CREATE" if parser.parse_keyword(Keyword::CATALOG) => {
            Statement::ShowCreateCatalog { name: parse_name(parser)? }
        }
        "CUT" => Statement::ShowCut {
            query: match parser.parse_keyword(Keyword::FOR) {
                true => Some(parser.parse_literal_string()?),
                false => None,
            },
        },
        "SESSION" | "ALL" => Statement::ShowSession { like: like(parser)? },
        _ if settings::nearest_name(&word.value).is_some() => {
            Statement::ShowSetting { name: word.value.to_lowercase() }
        }
        _ => return parser.expected("CATALOGS, SCHEMAS, TABLES, COLUMNS, SESSION or the name of a setting", what),
    };
    Ok(Some(statement))
}

pub(super) fn from(parser: &mut Parser<'_>) -> Parsed<Option<Name>> {
    match parser.parse_one_of_keywords(&[Keyword::FROM, Keyword::IN]) {
        Some(_) => parse_name(parser).map(Some),
        None => Ok(None),
    }
}

pub(super) fn like(parser: &mut Parser<'_>) -> Parsed<Option<String>> {
    match parser.parse_keyword(Keyword::LIKE) {
        true => parser.parse_literal_string().map(Some),
        false => Ok(None),
    }
}

fn set(parser: &mut Parser<'_>) -> Parsed<Option<Statement>> {
    if parser.parse_keyword(Keyword::TRANSACTION) || parser.parse_keyword(Keyword::LOCAL) {
        return Ok(None);
    }
    let _optional = parser.parse_keyword(Keyword::SESSION);
    let name = setting_name(parser)?;
    if !parser.consume_token(&Token::Eq) {
        parser.expect_keyword(Keyword::TO)?;
    }
    let negative = parser.consume_token(&Token::Minus);
    let token = parser.next_token();
    let value = match &token.token {
        Token::SingleQuotedString(text) if !negative => text.clone(),
        Token::Word(word) if !negative => word.value.clone(),
        Token::Number(number, _) => format!("{}{number}", if negative { "-" } else { "" }),
        _ => return parser.expected("a value", token),
    };
    Ok(Some(Statement::SetSession { name, value }))
}

fn reset(parser: &mut Parser<'_>) -> Parsed<Option<Statement>> {
    let _optional = parser.parse_keyword(Keyword::SESSION);
    match parser.parse_keyword(Keyword::ALL) {
        true => Ok(Some(Statement::ResetSession { name: None })),
        false => Ok(Some(Statement::ResetSession { name: Some(setting_name(parser)?) })),
    }
}

fn setting_name(parser: &mut Parser<'_>) -> Parsed<String> {
    Ok(parse_name(parser)?.to_string())
}

fn create_schema(parser: &mut Parser<'_>) -> Parsed<Option<Statement>> {
    if parser.parse_one_of_keywords(&[Keyword::SCHEMA, Keyword::DATABASE]).is_none() {
        return Ok(None);
    }
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    Ok(Some(Statement::CreateSchema { name: parse_name(parser)?, if_not_exists }))
}

fn drop_object(parser: &mut Parser<'_>) -> Parsed<Option<Statement>> {
    let kinds = [Keyword::SCHEMA, Keyword::DATABASE, Keyword::TABLE, Keyword::CATALOG];
    let Some(kind) = parser.parse_one_of_keywords(&kinds) else { return Ok(None) };
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let name = parse_name(parser)?;
    if kind == Keyword::TABLE {
        return Ok(Some(Statement::DropTable { name, if_exists }));
    }
    if kind == Keyword::CATALOG {
        return Ok(Some(Statement::DropCatalog { name, if_exists }));
    }
    let _default = parser.parse_keyword(Keyword::RESTRICT);
    Ok(Some(Statement::DropSchema { name, if_exists }))
}

fn call(parser: &mut Parser<'_>) -> Parsed<Option<Statement>> {
    let name = parse_name(parser)?;
    parser.expect_token(&Token::LParen)?;
    let mut arguments = Vec::new();
    while !parser.consume_token(&Token::RParen) {
        if !arguments.is_empty() {
            parser.expect_token(&Token::Comma)?;
        }
        let is_named = parser.peek_nth_token(1).token == Token::RArrow;
        let name = if is_named { Some(normalize(parser.parse_identifier()?)) } else { None };
        if is_named {
            parser.expect_token(&Token::RArrow)?;
        }
        arguments.push(CallArgument { name, value: parser.parse_expr()? });
    }
    Ok(Some(Statement::Call { name, arguments }))
}

pub(super) fn parse_name(parser: &mut Parser<'_>) -> Parsed<Name> {
    let mut parts = vec![normalize(parser.parse_identifier()?)];
    while parser.consume_token(&Token::Period) {
        parts.push(normalize(parser.parse_identifier()?));
    }
    Ok(Name(parts))
}

/// The name in a parsed statement.
pub(super) fn name_of(name: &ObjectName) -> Result<Name> {
    let parts = name.0.iter().map(|part| part.as_ident().cloned().map(normalize)).collect::<Option<Vec<_>>>();
    match parts {
        Some(parts) if (1..=3).contains(&parts.len()) => Ok(Name(parts)),
        _ => Err(Error::new(ErrorCode::InvalidQuery, format!("{name} is not a name of one to three parts"))),
    }
}

/// Unquoted identifiers are lower case, quoted ones are as they are.
pub(super) fn normalize(ident: Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value,
        None => ident.value.to_lowercase(),
    }
}

/// Why a statement that is none of ours is refused: by its first words, or because it is no SQL at all.
fn refusal(tokens: &[TokenWithSpan]) -> Error {
    let word = |index: usize, text: &str| is_word(tokens.get(index), text);
    if word(0, "create") && (word(1, "external") || word(2, "external")) {
        return not_supported("CREATE EXTERNAL TABLE", "tables live in catalogs; load files with `townlake load`");
    }
    for (first, what, why) in REFUSED {
        if word(0, first) {
            return not_supported(what, why);
        }
    }
    match parse_ast(tokens) {
        Ok(_) => not_supported("this statement", "see docs/sql.md for the statements that are offered"),
        Err(error) => error,
    }
}

const REFUSED: &[(&str, &str, &str)] = &[
    ("copy", "COPY", "statements neither read nor write files of the server; load files with `townlake load`"),
    ("alter", "ALTER of this kind of object", "only ALTER TABLE and ALTER VIEW are offered"),
    (
        "create",
        "CREATE of this kind of object",
        "only CREATE CATALOG, CREATE SCHEMA, CREATE TABLE and CREATE VIEW are offered",
    ),
    ("drop", "DROP of this kind of object", "only DROP CATALOG, DROP SCHEMA, DROP TABLE and DROP VIEW are offered"),
    ("prepare", "PREPARE", "use the prepared statements of your Flight SQL client"),
    ("execute", "EXECUTE", "use the prepared statements of your Flight SQL client"),
    ("deallocate", "DEALLOCATE", "use the prepared statements of your Flight SQL client"),
    ("begin", "BEGIN", "each statement commits by itself; there are no transactions"),
    ("start", "START TRANSACTION", "each statement commits by itself; there are no transactions"),
    ("commit", "COMMIT", "each statement commits by itself; there are no transactions"),
    ("rollback", "ROLLBACK", "each statement commits by itself; there are no transactions"),
    ("set", "SET of this kind", "only SET [SESSION] name = value is offered"),
    ("grant", "GRANT", "who may read and write is set in the configuration (readers, writers)"),
    ("revoke", "REVOKE", "who may read and write is set in the configuration (readers, writers)"),
    ("analyze", "ANALYZE", "statistics come from the table's own metadata"),
    ("vacuum", "VACUUM", "see CALL <catalog>.system.optimize, expire_snapshots and remove_orphan_files"),
    ("load", "LOAD", "load files with `townlake load`"),
    ("install", "INSTALL", "there are no extensions"),
    ("attach", "ATTACH", "see CREATE CATALOG"),
];

fn not_supported(what: &str, why: &str) -> Error {
    Error::new(ErrorCode::NotSupported, format!("{what} is not supported")).with_hint(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(sql: &str) -> ErrorCode {
        match parse(sql) {
            Ok(statement) => panic!("{sql} parsed as {statement:?}"),
            Err(error) => error.code(),
        }
    }

    #[test]
    fn statements() {
        assert!(matches!(parse("select 1").unwrap(), Statement::Query(_)));
        assert!(matches!(parse("(select 1) union all values (2)").unwrap(), Statement::Query(_)));
        let Statement::Use(name) = parse("USE Lake.\"Tpch\"").unwrap() else { panic!() };
        assert_eq!(name.parts(), ["lake", "Tpch"]);
        let Statement::ShowTables { from: Some(from), like: Some(like) } =
            parse("SHOW TABLES IN a.b LIKE 'x%'").unwrap()
        else {
            panic!()
        };
        assert_eq!((from.to_string().as_str(), like.as_str()), ("a.b", "x%"));
        assert!(matches!(parse("describe a.b.c").unwrap(), Statement::ShowColumns { .. }));
        let Statement::SetSession { name, value } = parse("SET SESSION query_timeout = '5s'").unwrap() else {
            panic!()
        };
        assert_eq!((name.as_str(), value.as_str()), ("query_timeout", "5s"));
        assert!(matches!(parse("set target_partitions to 4;").unwrap(), Statement::SetSession { .. }));
        assert!(matches!(parse("reset all").unwrap(), Statement::ResetSession { name: None }));
        let Statement::Call { name, arguments } = parse("CALL system.runtime.kill_query('01abc')").unwrap() else {
            panic!()
        };
        assert_eq!(name.to_string(), "system.runtime.kill_query");
        assert!(matches!(arguments.as_slice(), [CallArgument { name: None, value }] if value.to_string() == "'01abc'"));
        let Statement::Call { arguments, .. } =
            parse("CALL a.system.p('t', -1, \"X\" => now() - interval '1' day)").unwrap()
        else {
            panic!()
        };
        assert_eq!(arguments.iter().map(|a| a.name.as_deref()).collect::<Vec<_>>(), [None, None, Some("X")]);
        let Statement::Explain { analyze: true, verbose: true, .. } =
            parse("explain analyze verbose select 1").unwrap()
        else {
            panic!()
        };
    }

    #[test]
    fn inserts() {
        let Statement::Insert { table, .. } = parse("insert into a.b.t (x, y) values (?, 2)").unwrap() else {
            panic!()
        };
        assert_eq!(table.to_string(), "a.b.t");
        assert!(matches!(
            parse("insert into t with q as (select 1) select * from q").unwrap(),
            Statement::Insert { .. }
        ));
        assert_eq!(code("insert or replace into t select 1"), ErrorCode::NotSupported);
        assert_eq!(code("insert into t values (1) on conflict do nothing"), ErrorCode::NotSupported);
        assert_eq!(code("insert into t values (1) returning x"), ErrorCode::NotSupported);
        assert_eq!(code("insert into t default values"), ErrorCode::NotSupported);
    }

    #[test]
    fn refused_with_a_reason() {
        for sql in [
            "create external table t stored as parquet location '/etc'",
            "create materialized view v as select 1",
            "copy t to '/tmp/x.parquet'",
            "prepare p as select 1",
            "begin",
            "create function f() returns int return 1",
            "set transaction read only",
            "explain show tables",
            "drop index i",
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.code(), ErrorCode::NotSupported, "{sql}: {error}");
            assert!(error.hint().is_some(), "{sql}");
        }
    }

    #[test]
    fn syntax_errors_have_their_place() {
        for (sql, place) in [
            ("select\n  1 frm t", "Line: 2, Column: 9"),
            ("selec 1", "Line: 1, Column: 1"),
            ("select 1 from t where", "line 1, column 22"),
            ("show tables like", "line 1, column 17"),
            ("use a b", "Line: 1, Column: 7"),
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.code(), ErrorCode::SyntaxError, "{sql}: {error}");
            assert!(error.message().contains(place), "{sql}: {error}");
        }
    }

    #[test]
    fn a_setting_is_shown_by_its_name() {
        let Statement::ShowSetting { name } = parse("show Query_Timeout").unwrap() else { panic!() };
        assert_eq!(name, "query_timeout");
        assert!(matches!(parse("show query_timout").unwrap(), Statement::ShowSetting { .. }), "refused with a hint");
        assert_eq!(code("show the way"), ErrorCode::SyntaxError);
        assert_eq!(code("show query_timeout like 'x'"), ErrorCode::SyntaxError);
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(code(&"explain ".repeat(50_000)), ErrorCode::NotSupported);
        assert_eq!(code(&format!("select {}1", "interval ".repeat(50_000))), ErrorCode::NotSupported);

        let sql = format!("select {}1{}", "(".repeat(5000), ")".repeat(5000));
        assert_eq!(code(&sql), ErrorCode::NotSupported);
    }
}
