//! Names as a user may type them.

use std::borrow::Cow;

/// The name as it stands in a statement: quoted where SQL would read it as another one. Unquoted names are lower case.
pub fn quoted(name: &str) -> Cow<'_, str> {
    let plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    match plain {
        true => Cow::Borrowed(name),
        false => Cow::Owned(format!("\"{}\"", name.replace('"', "\"\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn only_plain_names_stand_bare() {
        for plain in ["id", "o_orderkey", "_a1"] {
            assert_eq!(quoted(plain), plain);
        }
        for (name, typed) in [
            ("Id", "\"Id\""),
            ("a b", "\"a b\""),
            ("1st", "\"1st\""),
            ("é", "\"é\""),
            ("", "\"\""),
            ("a\"b", "\"a\"\"b\""),
        ] {
            assert_eq!(quoted(name), typed);
        }
    }
}
