//! `ALTER TABLE` and `COMMENT ON`, parsed: Spark's words for Iceberg tables, and those of Trino and Postgres where they
//! say the same.

use bytesize::ByteSize;
use datafusion::sql::sqlparser::ast::DataType;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use townlake_common::{Error, ErrorCode, Result};
use townlake_lake::{DropPartitionField, Position, SortKey, TableChange};

use super::changes::SMALL_FILE_BYTES;
use super::create_table::{parenthesized, partition_field, property, sort_key};
use super::parse::{expect_end, normalize, parse_error, parse_name, parser};
use super::references::{create_reference, drop_reference};
use super::statement::{AlterTableStatement, Alteration, Name, NewColumn, Statement};
use super::tokens::is_word;

/// What parsing ends with: the parser's own error, or a typed refusal of what was understood.
#[derive(Debug)]
pub(super) enum Fault {
    Parser(ParserError),
    Refused(Error),
}

impl From<ParserError> for Fault {
    fn from(error: ParserError) -> Self {
        Self::Parser(error)
    }
}

pub(super) type Parsed<T> = std::result::Result<T, Fault>;

/// Parses `ALTER TABLE …` or `COMMENT ON …`.
pub(super) fn parse_alter_table(tokens: &[TokenWithSpan]) -> Result<Statement> {
    let mut parser = parser(tokens);
    let parsed = match parser.parse_keyword(Keyword::COMMENT) {
        true => comment_on(&mut parser),
        false => alter_table(&mut parser),
    };
    match parsed {
        Ok(statement) => {
            expect_end(tokens, &mut parser)?;
            Ok(Statement::AlterTable(Box::new(statement)))
        }
        Err(Fault::Parser(error)) => Err(parse_error(tokens, &parser, error)),
        Err(Fault::Refused(error)) => Err(error),
    }
}

fn alter_table(parser: &mut Parser<'_>) -> Parsed<AlterTableStatement> {
    parser.expect_keywords(&[Keyword::ALTER, Keyword::TABLE])?;
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let table = parse_name(parser)?;
    let alteration = match action(parser).as_str() {
        "add" => add(parser)?,
        "drop" => drop(parser)?,
        "rename" => rename(parser)?,
        "alter" | "change" => column(parser)?,
        "set" => Alteration::Changes(vec![set_properties(parser)?]),
        "unset" => Alteration::Changes(vec![unset_properties(parser)?]),
        "create" => Alteration::Changes(vec![create_reference(parser)?]),
        "execute" => execute(parser)?,
        "write" => Alteration::Changes(vec![TableChange::SetSortOrder(write_order(parser)?)]),
        _ => {
            parser.prev_token();
            let token = parser.peek_token();
            return Ok(parser.expected(
                "ADD, ALTER, CREATE, DROP, EXECUTE, RENAME, SET, UNSET or WRITE after the table's name",
                token,
            )?);
        }
    };
    Ok(AlterTableStatement { table, if_exists, alteration })
}

/// `EXECUTE optimize [(file_size_threshold => '10MB')]`, as Trino has it.
fn execute(parser: &mut Parser<'_>) -> Parsed<Alteration> {
    if !word(parser, "optimize") {
        return refuse("this procedure of ALTER TABLE … EXECUTE", "only optimize is offered");
    }
    if !parser.consume_token(&Token::LParen) {
        return Ok(Alteration::Optimize { threshold: SMALL_FILE_BYTES });
    }
    if !word(parser, "file_size_threshold") {
        return refuse("this argument of optimize", "it takes (file_size_threshold => '100MB')");
    }
    parser.expect_token(&Token::RArrow)?;
    let text = parser.parse_literal_string()?;
    parser.expect_token(&Token::RParen)?;
    let size = text.parse::<ByteSize>().map_err(|_| {
        let message = format!("file_size_threshold: '{text}' is not a size");
        Fault::Refused(Error::new(ErrorCode::InvalidArgument, message).with_hint("write it like '100MB'"))
    })?;
    Ok(Alteration::Optimize { threshold: size.as_u64() })
}

/// `[LOCALLY] ORDERED BY key, …` or `UNORDERED`, as Spark has it. Files are sorted, not the table.
fn write_order(parser: &mut Parser<'_>) -> Parsed<Vec<SortKey>> {
    if word(parser, "unordered") {
        return Ok(Vec::new());
    }
    let locally = word(parser, "locally");
    if !word(parser, "ordered") {
        let token = parser.peek_token();
        let wanted = if locally { "ORDERED BY" } else { "ORDERED BY or UNORDERED" };
        return Ok(parser.expected(wanted, token)?);
    }
    parser.expect_keyword(Keyword::BY)?;
    Ok(match parser.peek_token().token {
        Token::LParen => parenthesized(parser, sort_key)?,
        _ => parser.parse_comma_separated(sort_key)?,
    })
}

/// The next word, in lower case.
fn action(parser: &mut Parser<'_>) -> String {
    match parser.next_token().token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_lowercase(),
        _ => String::new(),
    }
}

/// Whether the next token is this word, which is then taken.
pub(super) fn word(parser: &mut Parser<'_>, text: &str) -> bool {
    let is = is_word(Some(&parser.peek_token()), text);
    if is {
        parser.next_token();
    }
    is
}

pub(super) fn refuse<T>(what: &str, why: &str) -> Parsed<T> {
    Err(Fault::Refused(Error::new(ErrorCode::NotSupported, format!("{what} is not supported")).with_hint(why)))
}

fn path(parser: &mut Parser<'_>) -> std::result::Result<Vec<String>, ParserError> {
    parse_name(parser).map(|name| name.0)
}

fn add(parser: &mut Parser<'_>) -> Parsed<Alteration> {
    if parser.parse_keyword(Keyword::PARTITION) {
        if !word(parser, "field") {
            return refuse("ADD PARTITION", "partitions come with rows; ADD PARTITION FIELD changes the partitioning");
        }
        let field = partition_field(parser)?;
        let name = if parser.parse_keyword(Keyword::AS) { Some(normalize(parser.parse_identifier()?)) } else { None };
        return Ok(Alteration::Changes(vec![TableChange::AddPartitionField { field, name }]));
    }
    let several = word(parser, "columns") || matches!(parser.peek_token().token, Token::LParen);
    if !several {
        let _optional = parser.parse_keyword(Keyword::COLUMN);
    }
    if parser.peek_token().token == Token::EOF {
        let end = parser.peek_token();
        return Ok(parser.expected("a column", end)?);
    }
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let columns = if several {
        parser.expect_token(&Token::LParen)?;
        let mut columns = vec![new_column(parser)?];
        while parser.consume_token(&Token::Comma) {
            columns.push(new_column(parser)?);
        }
        parser.expect_token(&Token::RParen)?;
        columns
    } else {
        vec![new_column(parser)?]
    };
    Ok(Alteration::AddColumns { columns, if_not_exists })
}

/// `path type [NULL] [COMMENT 'text'] [FIRST | AFTER column]`.
fn new_column(parser: &mut Parser<'_>) -> Parsed<NewColumn> {
    let mut column =
        NewColumn { path: path(parser)?, data_type: parser.parse_data_type()?, comment: None, position: None };
    loop {
        if parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
            let why = "rows that are there have no value for it; leave NOT NULL out";
            return refuse("ADD COLUMN with NOT NULL", why);
        } else if parser.parse_keyword(Keyword::DEFAULT) {
            return refuse("ADD COLUMN with DEFAULT", "a new column is NULL in the rows that are there");
        } else if parser.parse_keyword(Keyword::NULL) {
        } else if column.comment.is_none() && parser.parse_keyword(Keyword::COMMENT) {
            column.comment = Some(parser.parse_literal_string()?);
        } else if let (None, Some(place)) = (&column.position, position(parser)?) {
            column.position = Some(place);
        } else {
            return Ok(column);
        }
    }
}

fn position(parser: &mut Parser<'_>) -> Parsed<Option<Position>> {
    if parser.parse_keyword(Keyword::FIRST) {
        return Ok(Some(Position::First));
    }
    match parser.parse_keyword(Keyword::AFTER) {
        true => Ok(Some(Position::After(normalize(parser.parse_identifier()?)))),
        false => Ok(None),
    }
}

fn drop(parser: &mut Parser<'_>) -> Parsed<Alteration> {
    if let Some(change) = drop_reference(parser)? {
        return Ok(Alteration::Changes(vec![change]));
    }
    if parser.parse_keyword(Keyword::PARTITION) {
        if !word(parser, "field") {
            return refuse("DROP PARTITION", "DROP PARTITION FIELD changes the partitioning");
        }
        let field = partition_field(parser)?;
        let dropped = match field.transform.as_str() {
            "identity" => DropPartitionField::Named(field.column),
            _ => DropPartitionField::Made(field),
        };
        return Ok(Alteration::Changes(vec![TableChange::DropPartitionField(dropped)]));
    }
    if !word(parser, "columns") {
        parser.expect_keyword(Keyword::COLUMN)?;
    }
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let paths = match parser.peek_token().token {
        Token::LParen => parenthesized(parser, path)?,
        _ => vec![path(parser)?],
    };
    let changes = paths.into_iter().map(|path| TableChange::DropColumn { path, if_exists });
    Ok(Alteration::Changes(changes.collect()))
}

fn rename(parser: &mut Parser<'_>) -> Parsed<Alteration> {
    if parser.parse_keyword(Keyword::TO) {
        return Ok(Alteration::RenameTo(parse_name(parser)?));
    }
    let _optional = parser.parse_keyword(Keyword::COLUMN);
    let path = path(parser)?;
    parser.expect_keyword(Keyword::TO)?;
    let to = normalize(parser.parse_identifier()?);
    Ok(Alteration::Changes(vec![TableChange::RenameColumn { path, to }]))
}

/// `ALTER [COLUMN] path …`.
fn column(parser: &mut Parser<'_>) -> Parsed<Alteration> {
    let _optional = parser.parse_keyword(Keyword::COLUMN);
    let path = path(parser)?;
    let one = |change| Ok(Alteration::Changes(vec![change]));
    if parser.parse_keyword(Keyword::TYPE) || parser.parse_keywords(&[Keyword::SET, Keyword::DATA, Keyword::TYPE]) {
        return Ok(Alteration::SetType { path, data_type: parser.parse_data_type()? });
    }
    if parser.parse_keywords(&[Keyword::DROP, Keyword::NOT, Keyword::NULL]) {
        return one(TableChange::DropNotNull { path });
    }
    if parser.parse_keywords(&[Keyword::SET, Keyword::NOT, Keyword::NULL]) {
        return refuse("SET NOT NULL", "rows that are there may have no value");
    }
    if parser.parse_keywords(&[Keyword::SET, Keyword::DEFAULT])
        || parser.parse_keywords(&[Keyword::DROP, Keyword::DEFAULT])
    {
        return refuse("a default of a column", "INSERT leaves NULL in columns that it does not name");
    }
    if parser.parse_keyword(Keyword::COMMENT) {
        let comment = Some(parser.parse_literal_string()?);
        return one(TableChange::CommentColumn { path, comment });
    }
    match position(parser)? {
        Some(position) => one(TableChange::MoveColumn { path, position }),
        None => {
            let token = parser.peek_token();
            Ok(parser.expected("TYPE, SET DATA TYPE, DROP NOT NULL, COMMENT, FIRST or AFTER", token)?)
        }
    }
}

/// `TBLPROPERTIES` as Spark says, or `PROPERTIES` as Trino does.
fn properties_word(parser: &mut Parser<'_>) -> Parsed<()> {
    if word(parser, "tblproperties") || word(parser, "properties") {
        return Ok(());
    }
    let token = parser.peek_token();
    Ok(parser.expected("PROPERTIES or TBLPROPERTIES", token)?)
}

fn set_properties(parser: &mut Parser<'_>) -> Parsed<TableChange> {
    properties_word(parser)?;
    let properties = match parser.peek_token().token {
        Token::LParen => parenthesized(parser, property)?,
        _ => parser.parse_comma_separated(property)?,
    };
    Ok(TableChange::SetProperties(properties))
}

fn unset_properties(parser: &mut Parser<'_>) -> Parsed<TableChange> {
    properties_word(parser)?;
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let key = |parser: &mut Parser<'_>| match parser.peek_token().token {
        Token::SingleQuotedString(_) => parser.parse_literal_string(),
        _ => parse_name(parser).map(|name| name.to_string()),
    };
    Ok(TableChange::UnsetProperties { keys: parenthesized(parser, key)?, if_exists })
}

/// `COMMENT ON TABLE name IS 'text' | NULL`, `COMMENT ON COLUMN table.column IS …`.
fn comment_on(parser: &mut Parser<'_>) -> Parsed<AlterTableStatement> {
    parser.expect_keyword(Keyword::ON)?;
    let of_column = match parser.parse_one_of_keywords(&[Keyword::TABLE, Keyword::COLUMN]) {
        Some(keyword) => keyword == Keyword::COLUMN,
        None => return refuse("COMMENT ON this kind of object", "only tables and columns have comments"),
    };
    let mut parts = path(parser)?;
    let column = if of_column { parts.pop() } else { None };
    if parts.is_empty() {
        let token = parser.peek_token();
        return Ok(parser.expected("table.column", token)?);
    }
    parser.expect_keyword(Keyword::IS)?;
    let comment = match parser.parse_keyword(Keyword::NULL) {
        true => None,
        false => Some(parser.parse_literal_string()?),
    };
    let change = match column {
        Some(column) => TableChange::CommentColumn { path: vec![column], comment },
        None => TableChange::Comment(comment),
    };
    Ok(AlterTableStatement { table: Name(parts), if_exists: false, alteration: Alteration::Changes(vec![change]) })
}

/// The type of a column as the statement has it.
pub(super) type SqlType = DataType;

#[cfg(test)]
mod tests {
    use townlake_lake::{IfTaken, PartitionField, ReferenceKind};

    use super::super::parse::parse;
    use super::*;

    fn alter(sql: &str) -> AlterTableStatement {
        match parse(sql) {
            Ok(Statement::AlterTable(alter)) => *alter,
            other => panic!("{sql}: {other:?}"),
        }
    }

    fn change(sql: &str) -> TableChange {
        match alter(sql).alteration {
            Alteration::Changes(mut changes) if changes.len() == 1 => changes.remove(0),
            other => panic!("{sql}: {other:?}"),
        }
    }

    fn parts(name: &str) -> Vec<String> {
        name.split('.').map(str::to_string).collect()
    }

    #[test]
    fn columns_come_with_type_comment_and_place() {
        let statement =
            alter("ALTER TABLE IF EXISTS a.b.t ADD COLUMN IF NOT EXISTS p.X DECIMAL(12, 2) COMMENT 'c' AFTER \"Y\"");
        assert!(statement.if_exists);
        assert_eq!(statement.table.to_string(), "a.b.t");
        let Alteration::AddColumns { columns, if_not_exists: true } = statement.alteration else { panic!() };
        assert_eq!((columns[0].path.clone(), columns[0].comment.as_deref()), (parts("p.x"), Some("c")));
        assert_eq!(columns[0].position, Some(Position::After("Y".to_string())));
        assert_eq!(columns[0].data_type.to_string(), "DECIMAL(12,2)");
        for sql in ["alter table t add columns (a int, b text first)", "alter table t add (a int, b text null)"] {
            let Alteration::AddColumns { columns, .. } = alter(sql).alteration else { panic!() };
            assert_eq!(columns.len(), 2, "{sql}");
        }
        assert!(matches!(alter("alter table t add x int").alteration, Alteration::AddColumns { .. }));
    }

    #[test]
    fn changes_of_columns() {
        assert_eq!(
            change("alter table t rename column a.b to \"C\""),
            TableChange::RenameColumn { path: parts("a.b"), to: "C".to_string() }
        );
        for sql in ["alter table t alter column a type bigint", "alter table t alter a set data type bigint"] {
            assert!(matches!(alter(sql).alteration, Alteration::SetType { .. }), "{sql}");
        }
        assert_eq!(change("alter table t alter a drop not null"), TableChange::DropNotNull { path: parts("a") });
        assert_eq!(
            change("alter table t alter column a first"),
            TableChange::MoveColumn { path: parts("a"), position: Position::First }
        );
        let Alteration::Changes(dropped) = alter("alter table t drop columns if exists (a, b.c)").alteration else {
            panic!()
        };
        assert_eq!(dropped[1], TableChange::DropColumn { path: parts("b.c"), if_exists: true });
        let Alteration::RenameTo(to) = alter("alter table t rename to x.u").alteration else { panic!() };
        assert_eq!(to.to_string(), "x.u");
    }

    #[test]
    fn comments_and_properties() {
        let statement = alter("COMMENT ON COLUMN a.b.t.c IS 'what'");
        assert_eq!(statement.table.to_string(), "a.b.t");
        assert_eq!(change("comment on table t is null"), TableChange::Comment(None));
        let set =
            TableChange::SetProperties(vec![("a.b".to_string(), "1".to_string()), ("c".to_string(), "x".to_string())]);
        assert_eq!(change("alter table t set tblproperties ('a.b' = '1', 'c' = 'x')"), set);
        assert_eq!(change("alter table t set properties a.b = 1, c = 'x'"), set);
        let unset = TableChange::UnsetProperties { keys: vec!["a".to_string(), "b.c".to_string()], if_exists: true };
        assert_eq!(change("alter table t unset tblproperties if exists ('a', b.c)"), unset);
    }

    #[test]
    fn references_and_partition_fields() {
        let sql = "alter table t create or replace branch audit as of version 12 retain 7 days \
                   with snapshot retention 2 snapshots 3 hours";
        let TableChange::CreateReference(create) = change(sql) else { panic!() };
        assert_eq!((create.name.as_str(), create.kind, create.snapshot), ("audit", ReferenceKind::Branch, Some(12)));
        assert_eq!((create.if_taken, create.max_age_ms), (IfTaken::Replace, Some(604_800_000)));
        assert_eq!((create.min_snapshots, create.max_snapshot_age_ms), (Some(2), Some(10_800_000)));
        let TableChange::CreateReference(tag) = change("alter table t create tag if not exists 'End-2026'") else {
            panic!()
        };
        assert_eq!((tag.name.as_str(), tag.kind, tag.if_taken), ("End-2026", ReferenceKind::Tag, IfTaken::Keep));
        assert!(matches!(
            change("alter table t drop branch if exists b"),
            TableChange::DropReference { if_exists: true, kind: ReferenceKind::Branch, .. }
        ));
        let field = PartitionField { column: "c".to_string(), transform: "bucket[4]".to_string() };
        let added = TableChange::AddPartitionField { field: field.clone(), name: Some("shard".to_string()) };
        assert_eq!(change("alter table t add partition field bucket(4, c) as shard"), added);
        let made = TableChange::DropPartitionField(DropPartitionField::Made(field));
        assert_eq!(change("alter table t drop partition field bucket(4, c)"), made);
        let named = TableChange::DropPartitionField(DropPartitionField::Named("shard".to_string()));
        assert_eq!(change("alter table t drop partition field shard"), named);
    }

    #[test]
    fn what_is_not_offered_is_refused_with_a_reason() {
        for sql in [
            "alter table t add column a int not null",
            "alter table t add column a int default 1",
            "alter table t alter a set not null",
            "alter table t alter a set default 1",
            "alter table t execute vacuum",
            "alter table t add partition (a = 1)",
            "comment on schema s is 'x'",
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.code(), ErrorCode::NotSupported, "{sql}: {error}");
            assert!(error.hint().is_some(), "{sql}");
        }
        for sql in [
            "alter table t",
            "alter table t frobnicate",
            "alter table t add",
            "alter table t alter a",
            "alter table t rename column a b",
            "alter table t create branch",
            "alter table t create tag x retain 0 days",
            "alter table t create tag x with snapshot retention 1 snapshots",
            "comment on column c is 'x'",
            "alter table t drop column a cascade",
            "alter table t for version as of 1 drop column a",
        ] {
            assert_eq!(parse(sql).unwrap_err().code(), ErrorCode::SyntaxError, "{sql}");
        }
    }
}
