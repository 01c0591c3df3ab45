//! Avro schemas, as their JSON says.
//!
//! Read by ourselves: apache-avro (0.21) panics on names that are none (`Name::new(…).unwrap()`), refuses defaults of `fixed`
//! with bytes above 127, and forgets whether a UUID is text or bytes and what named types with a logical type are called, which
//! resolution needs. arrow-avro (59) decodes straight into builders: a record that turns out to be damaged half-way cannot be
//! given up, and whose fault it was is not told.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::super::datum::DEEPEST;

/// A schema and the types that it names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schema {
    pub root: Type,
    pub named: Vec<Named>,
}

/// A type at its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Type {
    pub shape: Shape,
    pub logical: Option<Logical>,
}

/// What is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Array(Box<Type>),
    Map(Box<Type>),
    Union(Vec<Type>),
    /// One of the schema's named types.
    Named(usize),
}

/// A type that has a name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Named {
    /// With its namespace.
    pub full: String,
    /// Other full names.
    pub aliases: Vec<String>,
    pub body: Body,
    pub logical: Option<Logical>,
}

/// What a named type is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Body {
    Record(Vec<Field>),
    Enum {
        symbols: Vec<String>,
        default: Option<String>,
    },
    Fixed(usize),
    /// Named, and not read yet.
    Open,
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub schema: Type,
    pub default: Option<Value>,
}

/// What written values mean. One that does not fit what it stands at is ignored, as the specification wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logical {
    Decimal {
        precision: u8,
        scale: i8,
    },
    Uuid,
    Date,
    TimeMillis,
    TimeMicros,
    /// Digits of a second: 3, 6 or 9; whether it is an instant, or local.
    Timestamp {
        digits: u8,
        instant: bool,
    },
    Duration,
}

/// Why a text is no schema. It may quote names of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoSchema(pub String);

/// So many types and places are read of one schema.
const MOST_TYPES: usize = 100_000;

impl Schema {
    /// The schema of a text; `references` define types that it names, what refers to nothing first.
    pub fn parse<'t>(text: &str, references: impl IntoIterator<Item = &'t str>) -> Result<Self, NoSchema> {
        let mut parser = Parser::default();
        for reference in references {
            parser.parse_text(reference)?;
        }
        let root = parser.parse_text(text)?;
        Ok(Self { root, named: parser.named })
    }

    /// What a named type is.
    pub fn named(&self, index: usize) -> Option<&Named> {
        self.named.get(index)
    }

    /// What the values of a type mean, be it said at its place or where it is named.
    pub fn logical(&self, of: &Type) -> Option<Logical> {
        match of.shape {
            Shape::Named(index) => self.named(index).and_then(|named| named.logical),
            _ => of.logical,
        }
    }
}

impl Named {
    /// Its name without a namespace.
    pub fn short(&self) -> &str {
        short(&self.full)
    }
}

/// A name without its namespace.
pub(crate) fn short(full: &str) -> &str {
    full.rsplit_once('.').map_or(full, |(_, name)| name)
}

impl Type {
    fn plain(shape: Shape) -> Self {
        Self { shape, logical: None }
    }
}

#[derive(Default)]
struct Parser {
    named: Vec<Named>,
    by_name: HashMap<String, usize>,
    types: usize,
}

fn wrong<T>(what: impl Into<String>) -> Result<T, NoSchema> {
    Err(NoSchema(what.into()))
}

impl Parser {
    fn parse_text(&mut self, text: &str) -> Result<Type, NoSchema> {
        // serde_json stops at a depth of 128.
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            // Some registries give a schema of one word as it is.
            Err(_) if primitive(text.trim()).is_some() => Value::String(text.trim().to_string()),
            Err(_) => return wrong("it is no JSON"),
        };
        self.parse(&value, "", 0)
    }

    fn parse(&mut self, value: &Value, namespace: &str, depth: usize) -> Result<Type, NoSchema> {
        self.types += 1;
        if self.types > MOST_TYPES || depth > DEEPEST {
            return wrong("it is too large or too deep");
        }
        match value {
            Value::String(name) => self.of_name(name, namespace),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.parse(branch, namespace, depth + 1));
                let branches = branches.collect::<Result<Vec<_>, _>>()?;
                if branches.iter().any(|branch| matches!(branch.shape, Shape::Union(_))) {
                    return wrong("a union within a union");
                }
                Ok(Type::plain(Shape::Union(branches)))
            }
            Value::Object(object) => self.of_object(object, namespace, depth),
            _ => wrong("a type that is neither text, list nor object"),
        }
    }

    fn of_name(&self, name: &str, namespace: &str) -> Result<Type, NoSchema> {
        if let Some(shape) = primitive(name) {
            return Ok(Type::plain(shape));
        }
        let full = full_name(name, namespace);
        match self.by_name.get(&full).or_else(|| self.by_name.get(name)) {
            Some(index) => Ok(Type::plain(Shape::Named(*index))),
            None => wrong(format!("the type {full} is named and not defined")),
        }
    }

    fn of_object(&mut self, object: &Map<String, Value>, namespace: &str, depth: usize) -> Result<Type, NoSchema> {
        let kind = match object.get("type") {
            Some(Value::String(kind)) => kind.as_str(),
            // {"type": {…}}: what is inside.
            Some(inside) => {
                let mut inner = self.parse(inside, namespace, depth + 1)?;
                inner.logical = inner.logical.or_else(|| logical(object, &inner.shape, None));
                return Ok(inner);
            }
            None => return wrong("a type without `type`"),
        };
        match kind {
            "array" => {
                let items = object.get("items").ok_or_else(|| NoSchema("an array without `items`".to_string()))?;
                Ok(Type::plain(Shape::Array(Box::new(self.parse(items, namespace, depth + 1)?))))
            }
            "map" => {
                let values = object.get("values").ok_or_else(|| NoSchema("a map without `values`".to_string()))?;
                Ok(Type::plain(Shape::Map(Box::new(self.parse(values, namespace, depth + 1)?))))
            }
            "record" | "error" | "enum" | "fixed" => self.definition(kind, object, namespace, depth),
            name => {
                let mut named = self.of_name(name, namespace)?;
                named.logical = logical(object, &named.shape, None);
                Ok(named)
            }
        }
    }

    fn definition(
        &mut self,
        kind: &str,
        object: &Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Type, NoSchema> {
        let Some(name) = object.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
            return wrong(format!("a type of kind {kind} without a name"));
        };
        let own = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
        let full = full_name(name, own);
        let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_string();
        let aliases = texts(object.get("aliases")).into_iter().map(|alias| full_name(&alias, &namespace)).collect();
        let index = self.named.len();
        if primitive(&full).is_some() || self.by_name.insert(full.clone(), index).is_some() {
            return wrong(format!("the type {full} is defined twice"));
        }
        self.named.push(Named { full: full.clone(), aliases, body: Body::Open, logical: None });
        let body = match kind {
            "enum" => {
                let symbols = texts(object.get("symbols"));
                let default = object.get("default").and_then(Value::as_str).map(str::to_string);
                Body::Enum { symbols, default }
            }
            "fixed" => {
                let size = object.get("size").and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
                Body::Fixed(size.ok_or_else(|| NoSchema(format!("the fixed {full} has no size")))?)
            }
            _ => Body::Record(self.fields(&full, object, &namespace, depth)?),
        };
        let size = match &body {
            Body::Fixed(size) => Some(*size),
            _ => None,
        };
        if let Some(named) = self.named.get_mut(index) {
            named.logical = logical(object, &Shape::Named(index), size);
            named.body = body;
        }
        Ok(Type::plain(Shape::Named(index)))
    }

    fn fields(
        &mut self,
        record: &str,
        object: &Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Vec<Field>, NoSchema> {
        let Some(list) = object.get("fields").and_then(Value::as_array) else {
            return wrong(format!("the record {record} has no fields"));
        };
        let mut fields: Vec<Field> = Vec::new();
        for field in list {
            let parts =
                field.as_object().and_then(|field| Some((field.get("name")?.as_str()?, field.get("type")?, field)));
            let Some((name, kind, field)) = parts else {
                return wrong(format!("a field of the record {record} has no name or no type"));
            };
            let mut schema = self.parse(kind, namespace, depth + 1)?;
            // Some write the logical type at the field.
            schema.logical = schema.logical.or_else(|| logical(field, &schema.shape, None));
            let aliases = texts(field.get("aliases"));
            fields.push(Field { name: name.to_string(), aliases, schema, default: field.get("default").cloned() });
        }
        let mut names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => wrong(format!("the record {record} has two fields {}", pair.join(" "))),
            None => Ok(fields),
        }
    }
}

fn primitive(name: &str) -> Option<Shape> {
    Some(match name {
        "null" => Shape::Null,
        "boolean" => Shape::Boolean,
        "int" => Shape::Int,
        "long" => Shape::Long,
        "float" => Shape::Float,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "string" => Shape::String,
        _ => return None,
    })
}

fn full_name(name: &str, namespace: &str) -> String {
    // A name with a point has its namespace, and one that begins with it has none.
    match (name.strip_prefix('.'), name.contains('.') || namespace.is_empty()) {
        (Some(rest), _) => rest.to_string(),
        (None, true) => name.to_string(),
        (None, false) => format!("{namespace}.{name}"),
    }
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_string).collect()
}

/// The logical type that an object says, if it fits what it stands at; `size` is that of a fixed.
fn logical(object: &Map<String, Value>, shape: &Shape, size: Option<usize>) -> Option<Logical> {
    let is = |wanted: Shape| *shape == wanted;
    let timestamp = |digits, instant| is(Shape::Long).then_some(Logical::Timestamp { digits, instant });
    match object.get("logicalType")?.as_str()? {
        "decimal" if is(Shape::Bytes) || size.is_some() => {
            let precision = u8::try_from(object.get("precision")?.as_u64()?).ok()?;
            let scale =
                object.get("scale").map_or(Some(0), Value::as_u64).and_then(|scale| i8::try_from(scale).ok())?;
            let fits = precision > 0 && i64::from(scale) <= i64::from(precision);
            fits.then_some(Logical::Decimal { precision, scale })
        }
        "uuid" if is(Shape::String) || size == Some(16) => Some(Logical::Uuid),
        "date" if is(Shape::Int) => Some(Logical::Date),
        "time-millis" if is(Shape::Int) => Some(Logical::TimeMillis),
        "time-micros" if is(Shape::Long) => Some(Logical::TimeMicros),
        "timestamp-millis" => timestamp(3, true),
        "timestamp-micros" => timestamp(6, true),
        "timestamp-nanos" => timestamp(9, true),
        "local-timestamp-millis" => timestamp(3, false),
        "local-timestamp-micros" => timestamp(6, false),
        "local-timestamp-nanos" => timestamp(9, false),
        "duration" if size == Some(12) => Some(Logical::Duration),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Schema, NoSchema> {
        Schema::parse(text, [])
    }

    #[test]
    fn names_have_their_namespaces() {
        let text = r#"{"type": "record", "name": "a.b.R", "aliases": ["Old", "x.Older"], "fields": [
            {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A"]}},
            {"name": "again", "type": ["null", "E"]}, {"name": "full", "type": "a.b.E"},
            {"name": "self", "type": ["null", "R"]},
            {"name": "f", "type": {"type": "fixed", "name": "F", "namespace": "c", "size": 16, "logicalType": "uuid"}},
            {"name": "g", "type": "c.F"}]}"#;
        let schema = parse(text).unwrap();
        let names: Vec<_> = schema.named.iter().map(|named| named.full.as_str()).collect();
        assert_eq!(names, ["a.b.R", "a.b.E", "c.F"]);
        assert_eq!(schema.named[0].aliases, ["a.b.Old", "x.Older"]);
        let Body::Record(fields) = &schema.named[0].body else { panic!("no record") };
        assert_eq!(fields[5].schema.shape, Shape::Named(2));
        assert_eq!(schema.logical(&fields[5].schema), Some(Logical::Uuid));
    }

    #[test]
    fn types_of_other_subjects_are_known() {
        let address = r#"{"type": "record", "name": "shop.Address", "fields": [{"name": "city", "type": "string"}]}"#;
        let person =
            r#"{"type": "record", "name": "shop.Person", "fields": [{"name": "home", "type": "shop.Address"}]}"#;
        assert_eq!(Schema::parse(person, [address]).unwrap().root.shape, Shape::Named(1));
        assert!(parse(person).unwrap_err().0.contains("shop.Address"));
        assert_eq!(parse("string").unwrap().root.shape, Shape::String);
    }

    #[test]
    fn logical_types_that_do_not_fit_are_ignored() {
        let logical = |text: &str| {
            let schema = parse(text).unwrap();
            schema.logical(&schema.root)
        };
        let decimal = |precision, scale| Some(Logical::Decimal { precision, scale });
        for (text, expected) in [
            (r#"{"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}"#, decimal(9, 2)),
            (r#"{"type": "fixed", "name": "F", "size": 4, "logicalType": "decimal", "precision": 9}"#, decimal(9, 0)),
            (r#"{"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3}"#, None),
            (r#"{"type": "string", "logicalType": "decimal", "precision": 2}"#, None),
            (r#"{"type": "int", "logicalType": "timestamp-millis"}"#, None),
            (
                r#"{"type": "long", "logicalType": "local-timestamp-nanos"}"#,
                Some(Logical::Timestamp { digits: 9, instant: false }),
            ),
            (r#"{"type": {"type": "int"}, "logicalType": "date"}"#, Some(Logical::Date)),
            (r#"{"type": "fixed", "name": "F", "size": 11, "logicalType": "duration"}"#, None),
        ] {
            assert_eq!(logical(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_schema_is_told() {
        for text in [
            "",
            "{",
            "7",
            "nope",
            "{}",
            r#"{"type": "array"}"#,
            r#"{"type": "record", "name": "R"}"#,
            r#"{"type": "record", "name": "", "fields": []}"#,
            r#"{"type": "record", "name": "R", "fields": [{"name": "a"}]}"#,
            r#"{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}"#,
            r#"{"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "fixed", "name": "R", "size": 1}}]}"#,
            r#"{"type": "fixed", "name": "F", "size": -1}"#,
            r#"["int", ["null"]]"#,
            r#"{"type": "!"}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let deep = format!("{}\"int\"{}", r#"{"type": "array", "items": "#.repeat(100), "}".repeat(100));
        assert!(parse(&deep).is_err());
        let deeper = "[".repeat(100_000);
        assert!(parse(&deeper).is_err());
    }
}
