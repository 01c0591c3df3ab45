//! `CREATE CATALOG`, `DROP CATALOG`, `SHOW CREATE CATALOG`.

use chrono::Utc;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use serde_json::{Map, Value};
use townlake_common::config::CatalogDefinition;
use townlake_common::{Error, ErrorCode, QueryId, Result};
use townlake_connectors::Made;

use super::create_table::parenthesized;
use super::parse::parse_name;
use super::service::{Run, command_batch};
use super::statement::{Name, Statement};
use super::tokens::{is_word, tokens_of_one_statement};

/// Keys whose values are lists, for which `'a, b'` will do.
const LISTS: &[&str] = &["brokers", "readers", "writers"];
/// What is kept of a statement that cannot be read and may hold a secret.
const HIDDEN: &str = "CREATE CATALOG … (not shown: it may hold secrets)";

/// `CREATE CATALOG [IF NOT EXISTS] name USING kind [WITH (key = value, …)]`.
#[derive(Clone)]
pub struct CreateCatalogStatement {
    /// The catalog.
    pub name: Name,
    /// Say nothing when it is there.
    pub if_not_exists: bool,
    /// The kind of its source.
    pub kind: String,
    /// As in a section of the configuration. Secrets are among them.
    pub properties: Map<String, Value>,
}

/// Nothing of the properties: they hold secrets.
impl std::fmt::Debug for CreateCatalogStatement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CreateCatalogStatement({} USING {})", self.name, self.kind)
    }
}

/// The statement as logs and the audit may have it.
pub(super) fn without_secrets(sql: &str) -> String {
    // Some words before and after: comments, EXPLAIN, typing errors.
    let tokens = match tokens_of_one_statement(sql) {
        Ok(tokens) => tokens,
        Err(_) if sql.to_ascii_lowercase().contains("catalog") => return HIDDEN.to_string(),
        Err(_) => return sql.to_string(),
    };
    let mentions = tokens.windows(2).any(|pair| is_word(pair.first(), "create") && is_word(pair.get(1), "catalog"));
    if !mentions {
        return sql.to_string();
    }
    match super::parse::parse(sql) {
        Ok(Statement::CreateCatalog(create)) => definition(&create, "").statement(),
        _ => HIDDEN.to_string(),
    }
}

fn definition(create: &CreateCatalogStatement, owner: &str) -> CatalogDefinition {
    CatalogDefinition {
        name: create.name.to_string(),
        id: QueryId::generate().to_string(),
        kind: create.kind.clone(),
        properties: create.properties.clone(),
        owner: owner.to_string(),
    }
}

/// What follows `CREATE CATALOG`, to the end. No error quotes what it found: it may be a secret.
pub(super) fn parse_create_catalog(parser: &mut Parser<'_>) -> Result<Statement, ParserError> {
    let parsed = rest_of_create_catalog(parser).and_then(|statement| match parser.peek_token() {
        token if token.token == Token::EOF => Ok(statement),
        token => parser.expected("the end of the statement", token),
    });
    parsed.map_err(|error| {
        let message = match error {
            ParserError::ParserError(message) | ParserError::TokenizerError(message) => message,
            other => other.to_string(),
        };
        let Some((expected, found)) = message.split_once(", found: ") else { return ParserError::ParserError(message) };
        let place = found.rfind(" at Line: ").and_then(|at| found.get(at..)).unwrap_or_default();
        ParserError::ParserError(format!("{expected}{place}"))
    })
}

fn rest_of_create_catalog(parser: &mut Parser<'_>) -> Result<Statement, ParserError> {
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parse_name(parser)?;
    parser.expect_keyword(Keyword::USING)?;
    let kind = parse_name(parser)?.to_string().to_lowercase();
    let given = match parser.parse_keyword(Keyword::WITH) {
        true => parenthesized(parser, property)?,
        false => Vec::new(),
    };
    let mut properties = Map::new();
    for (key, value) in given {
        let value = match value {
            Value::String(text) if LISTS.contains(&key.as_str()) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(items.map(|item| Value::String(item.to_string())).collect())
            }
            value => value,
        };
        if properties.insert(key.clone(), value).is_some() {
            return Err(ParserError::ParserError(format!("the property {key} is given twice")));
        }
    }
    Ok(Statement::CreateCatalog(CreateCatalogStatement { name, if_not_exists, kind, properties }))
}

fn property(parser: &mut Parser<'_>) -> Result<(String, Value), ParserError> {
    let key = parse_name(parser)?.to_string();
    parser.expect_token(&Token::Eq)?;
    Ok((key, value(parser)?))
}

fn value(parser: &mut Parser<'_>) -> Result<Value, ParserError> {
    let token = parser.next_token();
    match &token.token {
        Token::SingleQuotedString(text) => Ok(Value::String(text.clone())),
        Token::Number(number, _) => {
            number.parse::<i64>().map(Value::from).or_else(|_| hidden("a whole number", &token))
        }
        Token::Word(word) => match word.value.to_lowercase().as_str() {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "array" => {
                parser.expect_token(&Token::LBracket)?;
                let items = parser.parse_comma_separated(Parser::parse_literal_string)?;
                parser.expect_token(&Token::RBracket)?;
                Ok(Value::Array(items.into_iter().map(Value::String).collect()))
            }
            of @ ("env" | "file") => {
                parser.expect_token(&Token::LParen)?;
                let place = parser.parse_literal_string()?;
                parser.expect_token(&Token::RParen)?;
                Ok(Value::Object(Map::from_iter([(of.to_string(), Value::String(place))])))
            }
            _ => hidden("a value: 'text', a number, true, false, ARRAY['…'], env('NAME') or file('PATH')", &token),
        },
        _ => hidden("a value: 'text', a number, true, false, ARRAY['…'], env('NAME') or file('PATH')", &token),
    }
}

/// As the parser's own errors, which quote what they found: here it may be a secret.
fn hidden<T>(expected: &str, found: &TokenWithSpan) -> Result<T, ParserError> {
    Err(ParserError::ParserError(format!("expected {expected}{}", found.span.start)))
}

impl Run<'_> {
    pub(super) async fn create_catalog(&self, create: &CreateCatalogStatement) -> Result<RecordBatch> {
        self.check_administrator("CREATE CATALOG")?;
        let name = one_part(&create.name)?;
        let catalogs = &self.service.catalogs;
        if catalogs.is_configured(name) {
            let message = format!("catalog {name} is in the configuration");
            return Err(Error::new(ErrorCode::AlreadyExists, message));
        }
        let mut definition = definition(create, &self.session.principal.name);
        if !definition.properties.contains_key("readers") && !definition.properties.contains_key("writers") {
            // Closed to all but who made it.
            let owner = Value::String(definition.owner.clone());
            definition.properties.insert("readers".to_string(), Value::Array(vec![owner]));
        }
        let made = Made::new(definition.clone())?;
        self.tracked.set_catalogs(vec![name.to_string()]);
        if !self.service.store().create_catalog(&definition, Utc::now()).await? {
            if create.if_not_exists {
                return command_batch("CREATE CATALOG: it is there already");
            }
            return Err(Error::new(ErrorCode::AlreadyExists, format!("catalog {name} is there already")));
        }
        catalogs.sources().put(made);
        command_batch("CREATE CATALOG")
    }

    pub(super) async fn drop_catalog(&self, name: &Name, if_exists: bool) -> Result<RecordBatch> {
        self.check_administrator("DROP CATALOG")?;
        let name = one_part(name)?;
        let catalogs = &self.service.catalogs;
        if catalogs.is_configured(name) {
            let message = format!("catalog {name} is in the configuration");
            return Err(Error::new(ErrorCode::NotSupported, message)
                .with_hint(format!("take [catalogs.{name}] out of it, and restart the nodes")));
        }
        self.tracked.set_catalogs(vec![name.to_string()]);
        let done = self.service.store().drop_catalog(name).await?;
        catalogs.sources().forget(name);
        match (done, if_exists) {
            (true, _) => command_batch("DROP CATALOG"),
            (false, true) => command_batch("DROP CATALOG: it is not there"),
            (false, false) => Err(catalogs.catalog_not_found(&self.session.principal, name)),
        }
    }

    pub(super) async fn show_create_catalog(&self, name: &Name) -> Result<String> {
        let (name, principal) = (one_part(name)?, &self.session.principal);
        let catalogs = &self.service.catalogs;
        if catalogs.is_configured(name) && catalogs.list_catalogs(principal).iter().any(|visible| visible == name) {
            return Ok(format!("-- {name} is made by the configuration of the nodes: [catalogs.{name}]"));
        }
        catalogs.sources().ensure(name).await?;
        let made = catalogs.sources().made_named(name);
        let visible = made.filter(|made| made.config.readable_by(principal) || self.service.is_admin(principal));
        match visible {
            Some(made) => Ok(made.definition.statement()),
            None => Err(catalogs.catalog_not_found(principal, name)),
        }
    }

    fn check_administrator(&self, what: &str) -> Result<()> {
        if self.service.is_admin(&self.session.principal) {
            return Ok(());
        }
        let message = format!("{what} is for administrators, and {} is none", self.session.principal.name);
        Err(Error::new(ErrorCode::PermissionDenied, message).with_hint("the configuration names them: [auth] admins"))
    }
}

fn one_part(name: &Name) -> Result<&str> {
    match name.parts() {
        [name] => Ok(name),
        _ => Err(Error::new(ErrorCode::InvalidQuery, format!("{name} is not the name of a catalog"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    #[test]
    fn properties_are_those_of_the_configuration() {
        let sql = "CREATE CATALOG IF NOT EXISTS Crm2 USING postgres WITH (url = 'postgres://u:p@h/d', connections = 4, \
                   pass_through = true, readers = 'ann, bob', writers = ARRAY['o''hara'], tls_ca = file('/x'))";
        let Statement::CreateCatalog(create) = parse(sql).unwrap() else { panic!("another statement") };
        assert_eq!((create.name.to_string().as_str(), create.kind.as_str()), ("crm2", "postgres"));
        assert!(create.if_not_exists);
        let expected = serde_json::json!({"url": "postgres://u:p@h/d", "connections": 4, "pass_through": true,
            "readers": ["ann", "bob"], "writers": ["o'hara"], "tls_ca": {"file": "/x"}});
        assert_eq!(Value::Object(create.properties), expected);
        let sql =
            "CREATE CATALOG bus USING kafka WITH (brokers = 'a:9092, b:9092', tables = '[{\"topic\": \"it''s\"}]')";
        let Statement::CreateCatalog(create) = parse(sql).unwrap() else { panic!("another statement") };
        let expected = serde_json::json!({"brokers": ["a:9092", "b:9092"], "tables": "[{\"topic\": \"it's\"}]"});
        assert_eq!(Value::Object(create.properties), expected);
        assert!(matches!(parse("create catalog c using clickhouse").unwrap(), Statement::CreateCatalog(_)));
        assert!(matches!(parse("drop catalog if exists c").unwrap(), Statement::DropCatalog { if_exists: true, .. }));
        assert!(matches!(parse("show create catalog c").unwrap(), Statement::ShowCreateCatalog { .. }));
    }

    #[test]
    fn no_secret_is_told_whatever_is_wrong() {
        for sql in [
            "CREATE CATALOG c USING postgres WITH (url = 'hunter2')",
            "create catalog c using postgres with (url = hunter2)",
            "/* x */ CREATE CATALOG c USING postgres WITH (url = \"hunter2\", url = 'hunter2')",
            "CREATE CATALOG c USING postgres WITH (url 'hunter2')",
            "CREATE CATALOG c USING postgres WITH (url = 'hunter2'",
            "EXPLAIN CREATE CATALOG c USING postgres WITH (url = 'hunter2')",
            "CREATE CATALOG c USING postgres WITH (url = 'hunter2",
            "SELECT 1; CREATE CATALOG c USING postgres WITH (url = 'hunter2')",
        ] {
            assert!(!without_secrets(sql).contains("hunter2"), "{sql}");
            if let Err(error) = parse(sql) {
                assert!(!format!("{error:?} {error}").contains("hunter2"), "{sql}: {error:?}");
            }
        }
        let plain = "SELECT 'create' AS catalog";
        assert_eq!(without_secrets(plain), plain);
    }
}
