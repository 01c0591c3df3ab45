//! The members of a JSON object, each with its text as it stands.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A name, copied only where escapes are in it.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Names, each with its value.
pub(crate) type Listed<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// The members of an object, in order; `None` for anything else. Values are not looked into, however deep they are nested.
pub(crate) fn members(text: &str) -> Option<Listed<'_>> {
    struct Members;
    impl<'a> Visitor<'a> for Members {
        type Value = Listed<'a>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut members = Vec::new();
            while let Some(Name(name)) = map.next_key()? {
                members.push((name, map.next_value::<&RawValue>()?.get()));
            }
            Ok(members)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = (&mut deserializer).deserialize_map(Members).ok()?;
    deserializer.end().ok().map(|()| members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_listed_in_order() {
        let listed = members(r#"{"b": 1, "\u0061": [2]}"#).unwrap();
        assert_eq!(listed, [("b".into(), "1"), ("a".into(), "[2]")]);
        assert_eq!(members("[1]"), None);
        assert_eq!(members("{} x"), None);
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(members(&deep).unwrap().len(), 1);
    }
}
