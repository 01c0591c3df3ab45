//! ClickHouse's type declarations, as `system.columns` has them.

use super::types::{Kind, Labels, Number, Type, Wide};

/// Deepest nesting that is read; what is deeper is read as text.
const DEPTH: usize = 16;

/// A place in a declaration.
pub(crate) struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// The type of a whole declaration; `None` where a part of it is not known.
    pub fn parse(declared: &'a str) -> Option<Type> {
        let mut parser = Self { rest: declared };
        let found = parser.any(0)?;
        parser.blanks();
        parser.rest.is_empty().then_some(found)
    }

    fn any(&mut self, depth: usize) -> Option<Type> {
        if depth > DEPTH {
            return None;
        }
        let name = self.word()?;
        let kind = match name {
            "Nullable" => {
                let inner = self.wrapped(depth)?;
                // Nullable tuples (new in 2026) are not read; arrays and maps cannot be nullable.
                let is_nested = matches!(inner.kind, Kind::Tuple(_) | Kind::Array(_) | Kind::Map(..) | Kind::State);
                return (!is_nested).then_some(Type { nullable: true, ..inner });
            }
            "LowCardinality" => return self.wrapped(depth),
            "SimpleAggregateFunction" => return self.simple_aggregate(depth),
            "AggregateFunction" => {
                self.rest = "";
                // Only as a whole column: inside another type its text could not be told from that of others.
                return (depth == 0).then_some(Type::plain(Kind::State));
            }
            "Array" => Kind::Array(Box::new(self.wrapped(depth)?)),
            "Map" => self.map(depth)?,
            "Tuple" => Kind::Tuple(self.elements(depth)?),
            "Nested" => Kind::Array(Box::new(Type::plain(Kind::Tuple(self.elements(depth)?)))),
            "Decimal" => self.decimal()?,
            "FixedString" => Kind::FixedString(self.fixed_string()?),
            "Enum8" | "Enum16" => Kind::Enum(self.labels(name == "Enum16")?),
            "DateTime" => {
                if self.open() {
                    self.text()?;
                    self.close()?;
                }
                Kind::DateTime
            }
            "DateTime64" => Kind::DateTime64(self.date_time64()?),
            "Bool" => Kind::Bool,
            "String" => Kind::String,
            "UUID" => Kind::Uuid,
            "IPv4" | "IPv6" => Kind::Ip,
            "Date" => Kind::Date,
            "Date32" => Kind::Date32,
            other => Number::parse(other)
                .map(Kind::Number)
                .or_else(|| Wide::parse(other).map(Kind::Wide))
                .or_else(|| shape(other))?,
        };
        Some(Type::plain(kind))
    }

    /// `(T)`
    fn wrapped(&mut self, depth: usize) -> Option<Type> {
        self.open().then_some(())?;
        let inner = self.any(depth + 1)?;
        self.close()?;
        Some(inner)
    }

    /// `(function, T)`; functions with parameters are not read.
    fn simple_aggregate(&mut self, depth: usize) -> Option<Type> {
        self.open().then_some(())?;
        self.word()?;
        self.comma().then_some(())?;
        let inner = self.any(depth + 1)?;
        self.close()?;
        Some(inner)
    }

    fn map(&mut self, depth: usize) -> Option<Kind> {
        self.open().then_some(())?;
        let key = self.any(depth + 1)?;
        self.comma().then_some(())?;
        let value = self.any(depth + 1)?;
        self.close()?;
        // Arrow's keys have no NULL.
        (!key.nullable).then(|| Kind::Map(Box::new(key), Box::new(value)))
    }

    /// `(name T, …)` or `(T, …)`
    fn elements(&mut self, depth: usize) -> Option<Vec<(String, Type)>> {
        self.open().then_some(())?;
        let mut elements = Vec::new();
        loop {
            let name = self.element_name().unwrap_or_else(|| (elements.len() + 1).to_string());
            elements.push((name, self.any(depth + 1)?));
            if !self.comma() {
                self.close()?;
                return Some(elements);
            }
        }
    }

    fn element_name(&mut self) -> Option<String> {
        self.blanks();
        if self.rest.starts_with('`') {
            return self.quoted('`');
        }
        let start = self.rest;
        let name = self.word().map(str::to_string);
        self.blanks();
        // A type is followed by its arguments, the next element or the end; a name by its type.
        if name.is_none() || self.rest.starts_with([',', '(', ')']) || self.rest.is_empty() {
            self.rest = start;
            return None;
        }
        name
    }

    fn decimal(&mut self) -> Option<Kind> {
        self.open().then_some(())?;
        let precision = u8::try_from(self.number()?).ok().filter(|digits| (1..=76).contains(digits))?;
        self.comma().then_some(())?;
        let scale =
            i8::try_from(self.number()?).ok().filter(|scale| *scale >= 0 && scale.unsigned_abs() <= precision)?;
        self.close()?;
        Some(Kind::Decimal { precision, scale })
    }

    fn fixed_string(&mut self) -> Option<i32> {
        self.open().then_some(())?;
        let size = i32::try_from(self.number()?).ok().filter(|size| *size > 0)?;
        self.close()?;
        Some(size)
    }

    fn date_time64(&mut self) -> Option<u8> {
        self.open().then_some(())?;
        let digits = u8::try_from(self.number()?).ok().filter(|digits| *digits <= 9)?;
        if self.comma() {
            self.text()?;
        }
        self.close()?;
        Some(digits)
    }

    fn labels(&mut self, wide: bool) -> Option<Labels> {
        self.open().then_some(())?;
        let mut labels = Vec::new();
        loop {
            let label = self.text()?;
            self.blanks();
            self.rest = self.rest.strip_prefix('=')?;
            let number = i16::try_from(self.number()?).ok().filter(|number| wide || i8::try_from(*number).is_ok())?;
            labels.push((number, label));
            if !self.comma() {
                self.close()?;
                labels.sort();
                return Some(Labels { wide, labels });
            }
        }
    }

    fn word(&mut self) -> Option<&'a str> {
        self.blanks();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn number(&mut self) -> Option<i64> {
        self.blanks();
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        number.parse().ok()
    }

    fn text(&mut self) -> Option<String> {
        self.blanks();
        self.quoted('\'')
    }

    /// A text in quotes, with ClickHouse's escapes.
    fn quoted(&mut self, quote: char) -> Option<String> {
        let body = self.rest.strip_prefix(quote)?;
        let mut text = String::new();
        let mut chars = body.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.rest = body.get(at + quote.len_utf8()..)?;
                return Some(text);
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            text.push(match chars.next()?.1 {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                // \xHH is how bytes that are no UTF-8 are written: such labels are not read.
                'x' => return None,
                other => other,
            });
        }
        None
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn open(&mut self) -> bool {
        self.sign('(')
    }

    fn comma(&mut self) -> bool {
        self.sign(',')
    }

    fn close(&mut self) -> Option<()> {
        self.sign(')').then_some(())
    }

    fn sign(&mut self, sign: char) -> bool {
        self.blanks();
        match self.rest.strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }
}

/// The geometric types are names for arrays of tuples of two numbers.
fn shape(name: &str) -> Option<Kind> {
    let number = || Type::plain(Kind::Number(Number::Float64));
    let point = Kind::Tuple(vec![("1".to_string(), number()), ("2".to_string(), number())]);
    let arrays = match name {
        "Point" => 0,
        "Ring" | "LineString" => 1,
        "Polygon" | "MultiLineString" => 2,
        "MultiPolygon" => 3,
        _ => return None,
    };
    Some((0..arrays).fold(point, |inner, _| Kind::Array(Box::new(Type::plain(inner)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_any_characters() {
        let found = Parser::parse("Enum8('it\\'s, (b) = \\\\' = 2, 'a\\n' = -1)").unwrap();
        let Kind::Enum(labels) = found.kind else { panic!("no enum") };
        assert_eq!((labels.label(2), labels.label(-1)), (Some("it's, (b) = \\"), Some("a\n")));
        assert!(labels.label(0).is_none() && labels.has("a\n") && !labels.has("a"));
    }

    #[test]
    fn elements_have_names_or_positions() {
        let names = |declared: &str| match Parser::parse(declared)?.kind {
            Kind::Tuple(elements) => Some(elements.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join("|")),
            _ => None,
        };
        assert_eq!(names("Tuple(UInt8, Array(String))").as_deref(), Some("1|2"));
        assert_eq!(names("Tuple(a UInt8, `b,\\`c` Nullable(Decimal(9, 2)))").as_deref(), Some("a|b,`c"));
    }

    #[test]
    fn hostile_declarations_are_not_known() {
        let deep = format!("{}UInt8{}", "Array(".repeat(100_000), ")".repeat(100_000));
        let hostile = [
            "",
            "(",
            "Array",
            "Array(",
            "Array(UInt8",
            "Array(UInt8))",
            "Enum8()",
            "Enum8('a')",
            "Enum8('a' = 300)",
            "Enum8('a",
            "Decimal(0, 0)",
            "Decimal(77, 0)",
            "Decimal(9, 10)",
            "FixedString(0)",
            "FixedString(-1)",
            "DateTime64(10)",
            "Tuple()",
            "Map(Nullable(String), UInt8)",
            "Nullable(Array(UInt8))",
            "UInt8 x",
            "Ünt8",
            &deep,
        ];
        for declared in hostile {
            assert_eq!(Parser::parse(declared), None, "{}", declared.chars().take(40).collect::<String>());
        }
    }
}
