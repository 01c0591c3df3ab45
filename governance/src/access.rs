//! Who may see and change which catalog.

use std::collections::BTreeMap;
use std::sync::Arc;

use townlake_common::Principal;
use townlake_common::config::CatalogConfig;

/// The access rules of all configured catalogs. Clones share them.
///
/// An unknown catalog and one that the principal may not read look alike: both are `false`. The caller's errors and
/// suggestions must keep it so.
#[derive(Debug, Clone)]
pub struct Access {
    catalogs: Arc<BTreeMap<String, CatalogConfig>>,
}

impl Access {
    /// The rules of these catalogs.
    pub fn new(catalogs: &BTreeMap<String, CatalogConfig>) -> Self {
        Self { catalogs: Arc::new(catalogs.clone()) }
    }

    /// Whether there are rules of this catalog, whoever may see it.
    pub fn knows(&self, catalog: &str) -> bool {
        self.catalogs.contains_key(catalog)
    }

    /// Whether the principal may see the catalog and read what is in it.
    pub fn can_read(&self, principal: &Principal, catalog: &str) -> bool {
        self.catalogs.get(catalog).is_some_and(|config| config.readable_by(principal))
    }

    /// Whether the principal may change what is in the catalog. Who may write may read.
    pub fn can_write(&self, principal: &Principal, catalog: &str) -> bool {
        self.catalogs.get(catalog).is_some_and(|config| config.writable_by(principal))
    }

    /// The names of the catalogs that the principal may see, sorted.
    pub fn readable_catalogs(&self, principal: &Principal) -> Vec<&str> {
        let readable = self.catalogs.iter().filter(|(_, config)| config.readable_by(principal));
        readable.map(|(name, _)| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use townlake_common::config::Config;

    use super::*;

    fn principal(name: &str, groups: &[&str]) -> Principal {
        Principal::new(name, groups.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn is_closed_unless_the_configuration_opens_it() {
        let config = Config::from_toml(
            r#"
            [catalogs.closed]
            type = "postgres"
            url = "postgres://h/d"
            [catalogs.lake]
            type = "iceberg"
            catalog = "sql"
            uri = "sqlite:///x"
            warehouse = "file:///w"
            readers = ["analysts"]
            writers = ["ann"]
            "#,
        )
        .unwrap();
        let access = Access::new(&config.catalogs);
        let (ann, bob, eve) = (principal("ann", &[]), principal("bob", &["analysts"]), principal("eve", &["sales"]));
        assert!(access.can_write(&ann, "lake") && access.can_read(&ann, "lake"), "who may write may read");
        assert!(access.can_read(&bob, "lake") && !access.can_write(&bob, "lake"));
        assert!(!access.can_read(&eve, "lake") && !access.can_write(&eve, "lake"));
        for one in [&ann, &bob, &eve, &Principal::anonymous()] {
            assert!(
                !access.can_read(one, "closed") && !access.can_read(one, "nowhere") && !access.can_write(one, "closed")
            );
        }
        assert_eq!(access.readable_catalogs(&bob), ["lake"]);
        assert!(access.readable_catalogs(&eve).is_empty());
    }
}
