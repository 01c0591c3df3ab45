//! What lies at some places in a JSON value, found in one pass, each as the text that stands there: numbers keep all their
//! digits, because nobody has made a float of them.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::types::Step;

/// A tree of the places that are wanted.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Which of the wanted things is this value.
    here: Vec<usize>,
    members: Vec<(String, Places)>,
    elements: Vec<(u32, Places)>,
}

/// What was found, by the number of the place; `None` where there is nothing or `null`.
pub(crate) type Found<'a> = Vec<Option<&'a RawValue>>;

impl Places {
    /// The tree of these paths.
    pub fn new<'p>(paths: impl Iterator<Item = &'p [Step]>) -> Self {
        let mut root = Self::default();
        for (index, path) in paths.enumerate() {
            let place = path.iter().fold(&mut root, |place, step| place.child(step));
            place.here.push(index);
        }
        root
    }

    fn child(&mut self, step: &Step) -> &mut Self {
        match step {
            Step::Member(name) => {
                let known = self.members.iter().position(|(known, _)| known == name);
                let index = known.unwrap_or(self.members.len());
                if index == self.members.len() {
                    self.members.push((name.clone(), Self::default()));
                }
                &mut self.members[index].1
            }
            Step::Element(element) => {
                let known = self.elements.iter().position(|(known, _)| known == element);
                let index = known.unwrap_or(self.elements.len());
                if index == self.elements.len() {
                    self.elements.push((*element, Self::default()));
                }
                &mut self.elements[index].1
            }
        }
    }

    /// Fills `found` (one entry a path) from a value. `false`: the value is no JSON, or not the object or array that the
    /// paths lead into. A member that comes twice counts as its last; a path that leads into something else finds nothing.
    pub fn find<'a>(&self, value: &'a [u8], found: &mut Found<'a>) -> bool {
        found.iter_mut().for_each(|place| *place = None);
        let Ok(text) = std::str::from_utf8(value) else { return false };
        let Ok(whole) = serde_json::from_str::<&RawValue>(text) else { return false };
        let fits = match whole.get().as_bytes().first() {
            Some(b'{') => self.elements.is_empty(),
            Some(b'[') => self.members.is_empty(),
            _ => self.members.is_empty() && self.elements.is_empty(),
        };
        fits && self.take(whole, found)
    }

    fn take<'a>(&self, value: &'a RawValue, found: &mut Found<'a>) -> bool {
        for index in &self.here {
            if let Some(place) = found.get_mut(*index) {
                *place = Some(value).filter(|value| value.get() != "null");
            }
        }
        if self.members.is_empty() && self.elements.is_empty() {
            return true;
        }
        let mut deserializer = serde_json::Deserializer::from_str(value.get());
        Walk { places: self, found }.deserialize(&mut deserializer).is_ok()
    }

    fn forget(&self, found: &mut Found<'_>) {
        for index in &self.here {
            if let Some(place) = found.get_mut(*index) {
                *place = None;
            }
        }
        self.members.iter().map(|(_, places)| places).for_each(|places| places.forget(found));
        self.elements.iter().map(|(_, places)| places).for_each(|places| places.forget(found));
    }
}

/// Walks one value along the tree.
struct Walk<'w, 'a> {
    places: &'w Places,
    found: &'w mut Found<'a>,
}

impl<'a> DeserializeSeed<'a> for Walk<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Walk<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(member) = map.next_key_seed(Key(&self.places.members))? {
            match member.and_then(|index| self.places.members.get(index)) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some((_, places)) => {
                    places.forget(self.found);
                    places.take(map.next_value::<&RawValue>()?, self.found);
                }
            }
        }
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut sequence: S) -> Result<(), S::Error> {
        let mut index = 0u32;
        while let Some(value) = sequence.next_element::<&RawValue>()? {
            if let Some((_, places)) = self.places.elements.iter().find(|(element, _)| *element == index) {
                places.take(value, self.found);
            }
            index = index.saturating_add(1);
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Which of some members a key is.
struct Key<'w>(&'w [(String, Places)]);

impl<'a> DeserializeSeed<'a> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|(name, _)| name == key))
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::parse_path;
    use super::*;

    fn find(paths: &[&str], value: &str) -> Option<Vec<Option<String>>> {
        let paths: Vec<_> = paths.iter().map(|path| parse_path(path).unwrap()).collect();
        let places = Places::new(paths.iter().map(Vec::as_slice));
        let mut found = vec![None; paths.len()];
        let sound = places.find(value.as_bytes(), &mut found);
        sound.then(|| found.iter().map(|found| found.map(|raw| raw.get().to_string())).collect())
    }

    fn some(texts: &[&str]) -> Option<Vec<Option<String>>> {
        Some(texts.iter().map(|text| Some(text.to_string()).filter(|text| text != "-")).collect())
    }

    #[test]
    fn places_are_found_as_they_stand() {
        let value = r#" {"a": 12345678901234567890.10, "b": {"c": [1, {"d": "x\ny"}], "e": null}, "\u0061b": true} "#;
        assert_eq!(find(&["$.a", "$.ab"], value), some(&["12345678901234567890.10", "true"]));
        assert_eq!(find(&["$.b.c[1].d", "$.b.c[0]", "$.b.e"], value), some(&[r#""x\ny""#, "1", "-"]));
        assert_eq!(
            find(&["$.b", "$.b.c", "$.b.c[0]"], value).unwrap()[2].as_deref(),
            Some("1"),
            "a place inside a place"
        );
        assert_eq!(find(&["$.a.x", "$.b[0]", "$.z", "$.b.c[7]"], value), some(&["-", "-", "-", "-"]));
        assert_eq!(find(&["$"], "[1]"), some(&["[1]"]));
        assert_eq!(find(&["$[1]"], "[1, 2]"), some(&["2"]));
        assert_eq!(
            find(&["$.a.b", "$.a.c"], r#"{"a": {"b": 1}, "a": {"c": 2}}"#),
            some(&["-", "2"]),
            "the last counts"
        );
    }

    #[test]
    fn what_is_no_json_or_another_shape_is_told() {
        for wrong in
            ["", "{", "nope", "{\"a\": 1} x", "{\"a\": 01}", "{\"a\" 1}", "[1]", "\"text\"", "7", "{\"b\": tru}"]
        {
            assert_eq!(find(&["$.a"], wrong), None, "{wrong}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(find(&["$.a"], &format!("{{\"a\": {deep}")), None);
        let places = Places::new(std::iter::empty());
        assert!(!places.find(b"\xff", &mut Vec::new()));
    }
}
