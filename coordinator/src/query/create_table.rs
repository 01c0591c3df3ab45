//! `CREATE TABLE`: the clauses that DataFusion's parser does not know are taken out of the tokens, in any order, between
//! the columns and `AS`.

use datafusion::sql::sqlparser::ast::{ColumnOption, CreateTable, Statement as AstStatement};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use townlake_common::{Error, ErrorCode, Result};
use townlake_lake::{PartitionField, RowOrder, SortKey};

use super::parse::{expect_end, name_of, normalize, parse_ast, parse_error, parser};
use super::statement::{CreateTableStatement, Statement};
use super::time_travel::{Clauses, attach_clauses};
use super::tokens::{is_keyword, is_word, tokens_of_one_statement};

/// The clauses between the columns and `AS`.
#[derive(Debug, Default)]
struct TableClauses {
    partition: Vec<PartitionField>,
    sort: Vec<SortKey>,
    comment: Option<String>,
    properties: Vec<(String, String)>,
}

/// Parses `CREATE TABLE …`.
pub(super) fn parse_create_table(tokens: &[TokenWithSpan], versions: Clauses) -> Result<Statement> {
    let (from, to) = clause_range(tokens);
    let clauses = parse_clauses(tokens.get(from..to).unwrap_or_default())?;
    let mut rest = tokens.to_vec();
    rest.drain(from..to);
    let mut ast = parse_ast(&rest)?;
    attach_clauses(&mut ast, versions)?;
    let AstStatement::CreateTable(create) = &ast else {
        return Err(Error::internal("the parser did not return the CREATE TABLE that it was given"));
    };
    check(create)?;
    Ok(Statement::CreateTable(Box::new(CreateTableStatement {
        name: name_of(&create.name)?,
        if_not_exists: create.if_not_exists,
        as_query: create.query.is_some(),
        partition: clauses.partition,
        sort: clauses.sort,
        comment: clauses.comment,
        properties: clauses.properties,
        ast: Box::new(ast),
    })))
}

/// From the first of our clauses to `AS` or the end, both outside parentheses.
fn clause_range(tokens: &[TokenWithSpan]) -> (usize, usize) {
    let mut depth = 0usize;
    let mut from = None;
    // CREATE TABLE [IF NOT EXISTS] name: a name may be one of the words below.
    let name = if is_keyword(tokens.get(2), Keyword::IF) { 5 } else { 2 };
    for (index, token) in tokens.iter().enumerate().skip(name + 1) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        let after_period = matches!(tokens.get(index - 1).map(|t| &t.token), Some(Token::Period));
        if depth > 0 || after_period {
            continue;
        }
        let token = Some(token);
        if is_keyword(token, Keyword::AS) {
            return (from.unwrap_or(index), index);
        }
        let is_layout = is_word(token, "partitioned") || is_word(token, "sorted");
        let opens = is_layout || is_keyword(token, Keyword::COMMENT) || is_keyword(token, Keyword::WITH);
        if opens && from.is_none() {
            from = Some(index);
        }
    }
    (from.unwrap_or(tokens.len()), tokens.len())
}

fn parse_clauses(tokens: &[TokenWithSpan]) -> Result<TableClauses> {
    if tokens.is_empty() {
        return Ok(TableClauses::default());
    }
    let mut parser = parser(tokens);
    let clauses = clauses(&mut parser).map_err(|error| parse_error(tokens, &parser, error))?;
    expect_end(tokens, &mut parser)?;
    Ok(clauses)
}

fn clauses(parser: &mut Parser<'_>) -> Result<TableClauses, ParserError> {
    let mut clauses = TableClauses::default();
    loop {
        let token = parser.peek_token();
        if is_word(Some(&token), "partitioned") && clauses.partition.is_empty() {
            parser.next_token();
            parser.expect_keyword(Keyword::BY)?;
            clauses.partition = parenthesized(parser, partition_field)?;
        } else if is_word(Some(&token), "sorted") && clauses.sort.is_empty() {
            parser.next_token();
            parser.expect_keyword(Keyword::BY)?;
            clauses.sort = parenthesized(parser, sort_key)?;
        } else if is_keyword(Some(&token), Keyword::COMMENT) && clauses.comment.is_none() {
            parser.next_token();
            let _optional = parser.consume_token(&Token::Eq);
            clauses.comment = Some(parser.parse_literal_string()?);
        } else if is_keyword(Some(&token), Keyword::WITH) && clauses.properties.is_empty() {
            parser.next_token();
            clauses.properties = parenthesized(parser, property)?;
        } else if token.token == Token::EOF {
            return Ok(clauses);
        } else {
            return parser.expected("PARTITIONED BY, SORTED BY, COMMENT, WITH (each once) or AS", token);
        }
    }
}

pub(super) fn parenthesized<T>(
    parser: &mut Parser<'_>,
    item: fn(&mut Parser<'_>) -> Result<T, ParserError>,
) -> Result<Vec<T>, ParserError> {
    parser.expect_token(&Token::LParen)?;
    let mut items = vec![item(parser)?];
    while parser.consume_token(&Token::Comma) {
        items.push(item(parser)?);
    }
    parser.expect_token(&Token::RParen)?;
    Ok(items)
}

/// `column`, `day(column)`, `bucket(16, column)`, and `bucket(column, 16)` as Trino writes it.
pub(super) fn partition_field(parser: &mut Parser<'_>) -> Result<PartitionField, ParserError> {
    let name = parser.parse_identifier()?;
    if !parser.consume_token(&Token::LParen) {
        return Ok(PartitionField { column: normalize(name), transform: "identity".to_string() });
    }
    let transform = match name.value.to_lowercase().as_str() {
        plain @ ("identity" | "year" | "month" | "day" | "hour" | "void" | "bucket" | "truncate") => plain.to_string(),
        "years" => "year".to_string(),
        "months" => "month".to_string(),
        "days" => "day".to_string(),
        "hours" => "hour".to_string(),
        _ => {
            let known = "identity, bucket, truncate, year, month, day, hour or void";
            return Err(ParserError::ParserError(format!(
                "there is no transform {name}: it is one of {known}{}",
                name.span.start
            )));
        }
    };
    let field = if transform == "bucket" || transform == "truncate" {
        let (width, column) = width_and_column(parser)?;
        PartitionField { column, transform: format!("{transform}[{width}]") }
    } else {
        PartitionField { column: normalize(parser.parse_identifier()?), transform }
    };
    parser.expect_token(&Token::RParen)?;
    Ok(field)
}

/// `column [ASC | DESC] [NULLS FIRST | NULLS LAST]`, or `bucket(16, column) …`. As in Spark, rows without a value are the least,
/// where nothing is said.
pub(super) fn sort_key(parser: &mut Parser<'_>) -> Result<SortKey, ParserError> {
    let by = partition_field(parser)?;
    let descending = parser.parse_one_of_keywords(&[Keyword::ASC, Keyword::DESC]) == Some(Keyword::DESC);
    let nulls_first = match parser.parse_keyword(Keyword::NULLS) {
        true => parser.expect_one_of_keywords(&[Keyword::FIRST, Keyword::LAST])? == Keyword::FIRST,
        false => !descending,
    };
    Ok(SortKey { by, descending, nulls_first })
}

/// `key, …` or `zorder(column, …)`.
///
/// Errors: `SYNTAX_ERROR`.
pub(super) fn parse_row_order(text: &str) -> Result<RowOrder> {
    let tokens = tokens_of_one_statement(text)?;
    let mut parser = parser(&tokens);
    let order = row_order(&mut parser).map_err(|error| parse_error(&tokens, &parser, error))?;
    expect_end(&tokens, &mut parser)?;
    Ok(order)
}

fn row_order(parser: &mut Parser<'_>) -> Result<RowOrder, ParserError> {
    let is_zorder = is_word(Some(&parser.peek_token()), "zorder") && parser.peek_nth_token(1).token == Token::LParen;
    if !is_zorder {
        return Ok(RowOrder::Keys(parser.parse_comma_separated(sort_key)?));
    }
    parser.next_token();
    Ok(RowOrder::ZOrder(parenthesized(parser, |parser| parser.parse_identifier().map(normalize))?))
}

fn width_and_column(parser: &mut Parser<'_>) -> Result<(u32, String), ParserError> {
    if matches!(parser.peek_token().token, Token::Number(..)) {
        let width = width(parser)?;
        parser.expect_token(&Token::Comma)?;
        return Ok((width, normalize(parser.parse_identifier()?)));
    }
    let column = normalize(parser.parse_identifier()?);
    parser.expect_token(&Token::Comma)?;
    Ok((width(parser)?, column))
}

fn width(parser: &mut Parser<'_>) -> Result<u32, ParserError> {
    let token = parser.next_token();
    match &token.token {
        Token::Number(text, _) => match text.parse::<u32>() {
            Ok(width) if width > 0 && i32::try_from(width).is_ok() => Ok(width),
            _ => parser.expected("a positive whole number", token),
        },
        _ => parser.expected("a number", token),
    }
}

pub(super) fn property(parser: &mut Parser<'_>) -> Result<(String, String), ParserError> {
    let token = parser.next_token();
    let name = match &token.token {
        Token::SingleQuotedString(text) => text.clone(),
        Token::Word(_) => {
            parser.prev_token();
            super::parse::parse_name(parser)?.to_string()
        }
        _ => return parser.expected("a property", token),
    };
    parser.expect_token(&Token::Eq)?;
    let token = parser.next_token();
    let value = match &token.token {
        Token::SingleQuotedString(text) | Token::Number(text, _) => text.clone(),
        Token::Word(word) => word.value.clone(),
        _ => return parser.expected("a value", token),
    };
    Ok((name, value))
}

/// Column options and table kinds that an Iceberg table cannot keep are refused, never dropped in silence.
fn check(create: &CreateTable) -> Result<()> {
    let refuse = |what: &str, why: &str| {
        Err(Error::new(ErrorCode::NotSupported, format!("CREATE TABLE with {what} is not supported")).with_hint(why))
    };
    if !create.constraints.is_empty() {
        return refuse("table constraints", "Iceberg tables have no keys");
    }
    if create.query.is_some() && !create.columns.is_empty() {
        return refuse("columns and AS", "name the columns in the query: SELECT x AS name");
    }
    if create.query.is_none() && create.columns.is_empty() {
        return refuse("no columns", "give columns in parentheses, or AS and a query");
    }
    for column in &create.columns {
        for option in &column.options {
            match &option.option {
                ColumnOption::Null | ColumnOption::NotNull => {}
                _ => {
                    return refuse(
                        &format!("`{}` at column {}", option.option, column.name),
                        "only NOT NULL is offered",
                    );
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn create(sql: &str) -> CreateTableStatement {
        match parse(sql).unwrap() {
            Statement::CreateTable(create) => *create,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clauses_in_any_order() {
        let create = create(
            "CREATE TABLE IF NOT EXISTS lake.s.t (id BIGINT NOT NULL, ts TIMESTAMP, comment VARCHAR, price DECIMAL(12, 2)) \
             COMMENT 'sales' SORTED BY (id DESC, ts NULLS LAST) PARTITIONED BY (bucket(16, id), days(ts), truncate(comment, 4), \"Region\") \
             WITH (location = 's3://b/x', \"write.parquet.compression-codec\" = 'zstd')",
        );
        assert!(create.if_not_exists && !create.as_query);
        let fields: Vec<_> = create.partition.iter().map(|f| (f.transform.as_str(), f.column.as_str())).collect();
        assert_eq!(fields, [("bucket[16]", "id"), ("day", "ts"), ("truncate[4]", "comment"), ("identity", "Region")]);
        let keys: Vec<_> = create.sort.iter().map(|k| (k.by.column.as_str(), k.descending, k.nulls_first)).collect();
        assert_eq!(keys, [("id", true, false), ("ts", false, false)]);
        assert_eq!(create.comment.as_deref(), Some("sales"));
        assert_eq!(create.properties[1], ("write.parquet.compression-codec".to_string(), "zstd".to_string()));
    }

    #[test]
    fn as_query_keeps_the_querys_own_with() {
        let create =
            create("create table a.b.with_x partitioned by (day(d)) as with q as (select 1 as d) select * from q");
        assert!(create.as_query);
        assert_eq!(create.name.to_string(), "a.b.with_x");
        assert_eq!(create.partition.len(), 1);
        assert!(create.properties.is_empty());
    }

    #[test]
    fn what_iceberg_cannot_keep_is_refused() {
        for sql in [
            "create table t (a int primary key)",
            "create table t (a int default 1)",
            "create table t (a int, unique (a))",
            "create table t (a int) as select 1",
        ] {
            assert_eq!(parse(sql).unwrap_err().code(), ErrorCode::NotSupported, "{sql}");
        }
        let error = parse("create table t (a int) partitioned by (mod(a, 3))").unwrap_err();
        assert_eq!(error.code(), ErrorCode::SyntaxError);
        assert!(error.message().contains("Column: 40"), "{error}");
        assert!(parse("create table t (a int) partitioned by (bucket(0, a))").is_err());
    }
}
