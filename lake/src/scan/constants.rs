//! Columns that a data file lacks because its partition says their one value, as in tables that were migrated.
//!
//! Most partition values are exact bounds, and the reader makes columns of those by itself. Bounds of floats are not exact:
//! so their partition values reach the adapter of the file, which fills the columns that the file does not have. So does the
//! number of the file, where it is asked for.

use std::collections::{HashMap, HashSet};

use datafusion::common::ScalarValue;
use townlake_proto::lake::{Constant, FileConstants as Recipe, constant};

use super::conform::Defaults;

/// The constants of the files of one store, by the file's key.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FileConstants(HashMap<String, Defaults>);

impl FileConstants {
    pub(super) fn insert(&mut self, key: String, constants: Defaults) {
        if !constants.is_empty() {
            self.0.insert(key, constants);
        }
    }

    /// Those of the files with these keys.
    pub(crate) fn to_recipe(&self, keys: &HashSet<&str>) -> Vec<Recipe> {
        let values = |constants: &Defaults| {
            let values = constants.iter().filter_map(|(id, value)| {
                let value = match value {
                    ScalarValue::Float32(Some(v)) => constant::Value::Real(*v),
                    ScalarValue::Float64(Some(v)) => constant::Value::Double(*v),
                    ScalarValue::Int64(Some(v)) => constant::Value::Long(*v),
                    _ => return None,
                };
                Some(Constant { field_id: *id, value: Some(value) })
            });
            values.collect()
        };
        let wanted = self.0.iter().filter(|(key, _)| keys.contains(key.as_str()));
        wanted.map(|(key, constants)| Recipe { path: key.clone(), values: values(constants) }).collect()
    }

    /// What [`FileConstants::to_recipe`] wrote.
    pub(crate) fn from_recipe(recipe: Vec<Recipe>) -> Self {
        let values = |values: Vec<Constant>| {
            let values = values.into_iter().filter_map(|constant| {
                let value = match constant.value? {
                    constant::Value::Real(v) => ScalarValue::Float32(Some(v)),
                    constant::Value::Double(v) => ScalarValue::Float64(Some(v)),
                    constant::Value::Long(v) => ScalarValue::Int64(Some(v)),
                };
                Some((constant.field_id, value))
            });
            values.collect()
        };
        Self(recipe.into_iter().map(|file| (file.path, values(file.values))).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of the file with this key.
    pub(super) fn of(&self, key: &str) -> Option<&Defaults> {
        self.0.get(key)
    }
}
