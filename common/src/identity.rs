//! Who asks.

use serde::{Deserialize, Serialize};

/// An authenticated user or service, with the groups that the configuration gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Principal {
    /// The user's name, or the token's name for a service.
    pub name: String,
    /// The groups it belongs to.
    pub groups: Vec<String>,
}

impl Principal {
    /// A principal of this name and these groups.
    pub fn new(name: impl Into<String>, groups: Vec<String>) -> Self {
        Self { name: name.into(), groups }
    }

    /// Who works where the configuration lets anyone in. It is a member of the group `anonymous` and of nothing else.
    pub fn anonymous() -> Self {
        Self::new("anonymous", vec!["anonymous".to_string()])
    }

    /// Whether one of `names` is this principal's name or one of its groups.
    pub fn is_any_of(&self, names: &[String]) -> bool {
        names.iter().any(|name| *name == self.name || self.groups.contains(name))
    }
}
