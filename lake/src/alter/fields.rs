//! A schema is a tree, and a change of one field makes a new tree: everything beside the path stays as it is, ids too.

use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedFieldRef, StructType, Type};
use townlake_common::{Error, ErrorCode, Result, nearest};

/// What a change does to the fields of one struct, list or map; the last part of the path names one of them.
pub(super) type Change<'a> = dyn FnMut(&mut Vec<NestedFieldRef>, &str) -> Result<()> + 'a;

/// The type with the fields changed that `path` leads to. `table` is for messages.
///
/// Errors: `COLUMN_NOT_FOUND` with the nearest name, `NOT_SUPPORTED` for another set of fields in a list or map.
pub(super) fn edit(of: &Type, path: &[String], table: &str, change: &mut Change<'_>) -> Result<Type> {
    let [name, rest @ ..] = path else {
        return Err(Error::internal("a column without a name"));
    };
    let mut fields = fields(of);
    if rest.is_empty() {
        change(&mut fields, name)?;
        return rebuild(of, fields, table);
    }
    let index = find(&fields, name, table)?;
    if matches!(of, Type::Map(_)) && index == 0 {
        let message = format!("the keys of a map of table {table} cannot be changed: they are what its values hang on");
        return Err(Error::new(ErrorCode::NotSupported, message));
    }
    if let Some(field) = fields.get_mut(index) {
        let mut changed = field.as_ref().clone();
        changed.field_type = Box::new(edit(&changed.field_type, rest, table, change)?);
        *field = Arc::new(changed);
    }
    rebuild(of, fields, table)
}

fn fields(of: &Type) -> Vec<NestedFieldRef> {
    match of {
        Type::Primitive(_) => Vec::new(),
        Type::Struct(fields) => fields.fields().to_vec(),
        Type::List(list) => vec![Arc::clone(&list.element_field)],
        Type::Map(map) => vec![Arc::clone(&map.key_field), Arc::clone(&map.value_field)],
    }
}

fn rebuild(of: &Type, fields: Vec<NestedFieldRef>, table: &str) -> Result<Type> {
    let refused = || {
        let message = format!("lists and maps of table {table} keep their elements, keys and values under these names");
        Error::new(ErrorCode::NotSupported, message).with_hint("only the fields of structs come and go")
    };
    let same = |old: &NestedFieldRef, new: &NestedFieldRef| old.name == new.name && old.id == new.id;
    match (of, fields.as_slice()) {
        (Type::Struct(_), _) => Ok(Type::Struct(StructType::new(fields))),
        (Type::List(list), [element]) if same(&list.element_field, element) => {
            Ok(Type::List(ListType::new(Arc::clone(element))))
        }
        (Type::Map(map), [key, value]) if map.key_field == *key && same(&map.value_field, value) => {
            Ok(Type::Map(MapType::new(Arc::clone(key), Arc::clone(value))))
        }
        _ => Err(refused()),
    }
}

/// Where the field of this name is.
///
/// Errors: `COLUMN_NOT_FOUND`.
pub(super) fn find(fields: &[NestedFieldRef], name: &str, table: &str) -> Result<usize> {
    fields.iter().position(|field| field.name == name).ok_or_else(|| {
        let error = Error::new(ErrorCode::ColumnNotFound, format!("column {name} does not exist in table {table}"));
        match nearest(name, fields.iter().map(|field| field.name.as_str())) {
            Some(near) => error.with_hint(format!("did you mean {near}?")),
            None => error,
        }
    })
}

/// How many levels of fields there are in a type.
pub(super) fn levels(of: &Type) -> usize {
    fields(of).iter().map(|field| 1 + levels(&field.field_type)).max().unwrap_or(0)
}

/// The field's id and those of all fields in it.
pub(super) fn ids(field: &NestedFieldRef) -> Vec<i32> {
    let inner = fields(&field.field_type);
    std::iter::once(field.id).chain(inner.iter().flat_map(ids)).collect()
}
