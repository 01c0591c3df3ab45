//! From what was written to what the table wants: one plan for each pair of schemas.
//!
//! As Avro has it: fields by name or by an alias of the reader's, numbers promoted, strings and bytes for each other, defaults
//! for what was not written, a default for symbols that the reader does not know. Beyond it, because a column may be NULL and
//! instants are instants: a null that was written is NULL also where the reader's type has no null, and times of other units
//! and decimals of other scales are converted. Names of types count only where they choose a branch of a union.

use std::cell::Cell;

use super::super::datum::Datum;
use super::defaults::default;
use super::leaf::{Target, Written};
use super::schema::{Body, Named, Schema, Shape, Type, short};

/// How a value of the writer's becomes one of a column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Plan {
    Leaf(Written, Target),
    /// The text of each of the writer's symbols; `None` for one that the reader does not know.
    Enum(Vec<Option<String>>),
    List(Box<Plan>),
    Map(Box<Plan>),
    Record(Fields),
    /// By the writer's branch.
    Union(Vec<Plan>),
    /// One member of a struct, of so many.
    Branch {
        at: usize,
        of: usize,
        inner: Box<Plan>,
    },
    /// There is no way to the column's type: it is passed over.
    Misfit(Type),
}

/// How a record becomes members, of which there are `width`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fields {
    pub width: usize,
    /// In the order of the writer's fields.
    pub steps: Vec<Step>,
    /// What was not written: the default, if there is one.
    pub filled: Vec<(usize, Option<Datum<'static>>)>,
}

/// What happens to a field that was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Take(usize, Plan),
    Skip(Type),
}

/// The plan for some columns of a table, in this order; each by its number among the reader's.
pub(crate) fn plan(writer: &Schema, reader: &Schema, wanted: &[usize]) -> Plan {
    let pair = Pair { writer, reader, places: Cell::new(MOST_PLACES) };
    pair.columns(&writer.root, wanted)
}

struct Pair<'s> {
    writer: &'s Schema,
    reader: &'s Schema,
    /// How many more there may be: unions within unions multiply.
    places: Cell<usize>,
}

/// So many places may a plan have; what is beyond does not fit.
const MOST_PLACES: usize = 200_000;

impl Pair<'_> {
    fn columns(&self, written: &Type, wanted: &[usize]) -> Plan {
        let Some(fields) = self.reader.fields(&self.reader.root) else {
            return self.of(written, &self.reader.root);
        };
        if let Shape::Union(branches) = &written.shape {
            return Plan::Union(branches.iter().map(|branch| self.columns(branch, wanted)).collect());
        }
        if written.shape == Shape::Null {
            return Plan::Leaf(Written::Null, Target::Null);
        }
        match self.writer.fields(written) {
            Some(_) => {
                let wanted: Vec<_> = wanted.iter().filter_map(|index| fields.get(*index)).collect();
                self.record(written, &wanted)
            }
            None => Plan::Misfit(written.clone()),
        }
    }

    /// Ends, because the reader's types do not recur: the table was made of them.
    fn of(&self, written: &Type, wanted: &Type) -> Plan {
        let Some(left) = self.places.get().checked_sub(1) else { return Plan::Misfit(written.clone()) };
        self.places.set(left);
        if let Shape::Union(branches) = &written.shape {
            return Plan::Union(branches.iter().map(|branch| self.of(branch, wanted)).collect());
        }
        let misfit = || Plan::Misfit(written.clone());
        if written.shape == Shape::Null {
            return Plan::Leaf(Written::Null, Target::Null);
        }
        match (&written.shape, &wanted.shape) {
            (_, Shape::Union(union)) => self.branch(written, union).unwrap_or_else(misfit),
            (Shape::Array(written), Shape::Array(wanted)) => Plan::List(Box::new(self.of(written, wanted))),
            (Shape::Map(written), Shape::Map(wanted)) => Plan::Map(Box::new(self.of(written, wanted))),
            _ => match (self.body(self.writer, written), self.body(self.reader, wanted)) {
                (Some(Body::Record(_)), Some(Body::Record(fields))) => {
                    self.record(written, &fields.iter().collect::<Vec<_>>())
                }
                (Some(Body::Enum { symbols, .. }), Some(Body::Enum { symbols: known, default })) => {
                    let default = default.as_ref().filter(|default| known.contains(default));
                    let text = |symbol: &String| if known.contains(symbol) { Some(symbol) } else { default }.cloned();
                    Plan::Enum(symbols.iter().map(text).collect())
                }
                _ => {
                    let target = Target::of((self.writer, written), (self.reader, wanted));
                    match (Written::of(self.writer, written), target) {
                        (Some(leaf), Some(target)) => Plan::Leaf(leaf, target),
                        _ => misfit(),
                    }
                }
            },
        }
    }

    fn body<'s>(&self, schema: &'s Schema, of: &Type) -> Option<&'s Body> {
        match of.shape {
            Shape::Named(index) => schema.named(index).map(|named| &named.body),
            _ => None,
        }
    }

    fn record(&self, written: &Type, wanted: &[&super::schema::Field]) -> Plan {
        let Some(fields) = self.writer.fields(written) else { return Plan::Misfit(written.clone()) };
        // A name of the writer's is taken once: by the field of this name before one that has it as an alias.
        let by_name = |name: &str| wanted.iter().position(|field| field.name == name);
        let by_alias = |name: &str| wanted.iter().position(|field| field.aliases.iter().any(|alias| alias == name));
        let is_written = |name: &str| fields.iter().any(|field| field.name == name);
        let mut taken = vec![false; wanted.len()];
        let mut steps = Vec::with_capacity(fields.len());
        for field in fields {
            let renamed = || by_alias(&field.name).filter(|at| wanted.get(*at).is_some_and(|to| !is_written(&to.name)));
            let slot = by_name(&field.name).or_else(renamed);
            let free = slot.filter(|slot| taken.get(*slot) == Some(&false));
            steps.push(match free.and_then(|slot| Some((slot, wanted.get(slot)?))) {
                Some((slot, to)) => {
                    if let Some(taken) = taken.get_mut(slot) {
                        *taken = true;
                    }
                    Step::Take(slot, self.of(&field.schema, &to.schema))
                }
                None => Step::Skip(field.schema.clone()),
            });
        }
        let missing = taken.iter().zip(wanted).enumerate().filter(|(_, (taken, _))| !**taken);
        let filled = missing.map(|(slot, (_, field))| (slot, default(self.reader, field))).collect();
        Plan::Record(Fields { width: wanted.len(), steps, filled })
    }

    /// The branch of a reader's union that takes a type: that of the same name, of the same kind, or what it promotes to.
    fn branch(&self, written: &Type, union: &[Type]) -> Option<Plan> {
        let branches = self.reader.branches(union);
        let best =
            branches.iter().enumerate().filter_map(|(at, (_, branch))| Some((self.nearness(written, branch)?, at)));
        let (_, at) = best.min()?;
        let inner = self.of(written, branches.get(at)?.1);
        Some(match branches.len() {
            1 => inner,
            of => Plan::Branch { at, of, inner: Box::new(inner) },
        })
    }

    /// How far a type is from a branch; `None`: there is no way.
    fn nearness(&self, written: &Type, branch: &Type) -> Option<u8> {
        let (name, other) = (self.named(self.writer, written), self.named(self.reader, branch));
        match (&written.shape, &branch.shape) {
            (Shape::Array(_), Shape::Array(_)) | (Shape::Map(_), Shape::Map(_)) => Some(0),
            _ => match (name.map(|name| (&name.body, name)), other.map(|name| (&name.body, name))) {
                (Some((Body::Record(_), name)), Some((Body::Record(_), other)))
                | (Some((Body::Enum { .. }, name)), Some((Body::Enum { .. }, other)))
                | (Some((Body::Fixed(_), name)), Some((Body::Fixed(_), other))) => {
                    let is_leaf = matches!(name.body, Body::Fixed(_));
                    if is_leaf && Target::of((self.writer, written), (self.reader, branch)).is_none() {
                        return None;
                    }
                    Some(match () {
                        () if name.full == other.full || other.aliases.contains(&name.full) => 0,
                        () if name.short() == other.short() => 1,
                        () if other.aliases.iter().any(|alias| short(alias) == name.short()) => 1,
                        () => 4,
                    })
                }
                _ => {
                    Target::of((self.writer, written), (self.reader, branch))?;
                    let means = self.writer.logical(written) == self.reader.logical(branch);
                    Some(match written.shape == branch.shape {
                        true if means => 0,
                        true => 2,
                        false => 3,
                    })
                }
            },
        }
    }

    fn named<'s>(&self, schema: &'s Schema, of: &Type) -> Option<&'s Named> {
        match of.shape {
            Shape::Named(index) => schema.named(index),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &str) -> Schema {
        Schema::parse(&format!(r#"{{"type": "record", "name": "n.R", "fields": [{fields}]}}"#), []).unwrap()
    }

    fn of(writer: &str, reader: &str) -> Plan {
        let writer = Schema::parse(writer, []).unwrap();
        let reader = Schema::parse(reader, []).unwrap();
        Pair { writer: &writer, reader: &reader, places: Cell::new(MOST_PLACES) }.of(&writer.root, &reader.root)
    }

    #[test]
    fn fields_are_found_by_name_then_by_alias() {
        let writer = record(
            r#"{"name": "old", "type": "int"}, {"name": "gone", "type": "string"}, {"name": "b", "type": "int"}"#,
        );
        let reader = record(
            r#"{"name": "new", "aliases": ["old"], "type": "long"}, {"name": "b", "aliases": ["gone"], "type": "double"},
               {"name": "more", "type": "int", "default": 5}, {"name": "must", "type": "int"}"#,
        );
        let Plan::Record(fields) = plan(&writer, &reader, &[3, 0, 1, 2]) else { panic!("no record") };
        let string = || writer.fields(&writer.root).unwrap()[1].schema.clone();
        let expected = [
            Step::Take(1, Plan::Leaf(Written::Int, Target::Int)),
            Step::Skip(string()),
            Step::Take(2, Plan::Leaf(Written::Int, Target::Double)),
        ];
        assert_eq!(fields.steps, expected, "who is called so comes before who was");
        assert_eq!(fields.filled, [(0, None), (3, Some(Datum::Int(5)))]);
        assert_eq!(fields.width, 4);
    }

    #[test]
    fn promotions_are_those_of_avro() {
        let leaf = |writer: &str, reader: &str| matches!(of(writer, reader), Plan::Leaf(..));
        for (writer, reader) in [
            (r#""int""#, r#""long""#),
            (r#""int""#, r#""float""#),
            (r#""long""#, r#""double""#),
            (r#""float""#, r#""double""#),
            (r#""string""#, r#""bytes""#),
            (r#""bytes""#, r#""string""#),
        ] {
            assert!(leaf(writer, reader), "{writer} {reader}");
        }
        for (writer, reader) in [
            (r#""long""#, r#""int""#),
            (r#""float""#, r#""long""#),
            (r#""double""#, r#""float""#),
            (r#""boolean""#, r#""int""#),
            (r#""int""#, r#""string""#),
        ] {
            assert!(!leaf(writer, reader), "{writer} {reader}");
        }
        let symbols = of(
            r#"{"type": "enum", "name": "E", "symbols": ["A", "B"]}"#,
            r#"{"type": "enum", "name": "E", "symbols": ["A", "Z"], "default": "Z"}"#,
        );
        assert_eq!(symbols, Plan::Enum(vec![Some("A".into()), Some("Z".into())]));
    }

    #[test]
    fn branches_are_chosen_by_name_then_by_kind() {
        let inner = |at| match at {
            Plan::Branch { at, of, .. } => (at, of),
            other => panic!("{other:?}"),
        };
        let fixed = |name: &str| format!(r#"{{"type": "fixed", "name": "{name}", "size": 2}}"#);
        let union = format!(r#"["null", "double", "long", "string", {}, {}]"#, fixed("a.F"), fixed("G"));
        assert_eq!(inner(of(r#""long""#, &union)), (1, 5), "the same before a promotion");
        assert_eq!(inner(of(r#""int""#, &union)), (0, 5));
        assert_eq!(inner(of(&fixed("G"), &union)), (4, 5));
        assert_eq!(inner(of(&fixed("b.F"), &union)), (3, 5), "a name without its namespace");
        assert!(matches!(of(r#""boolean""#, &union), Plan::Misfit(_)));
        assert_eq!(of(r#""null""#, r#""int""#), Plan::Leaf(Written::Null, Target::Null));
        let Plan::Union(branches) = of(r#"["null", "int"]"#, r#""long""#) else { panic!("no union") };
        assert_eq!(branches[1], Plan::Leaf(Written::Int, Target::Int));
    }
}
