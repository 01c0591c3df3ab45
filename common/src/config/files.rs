//! `[catalogs.<name>]` with `type = "files"`: a folder of plain Parquet, CSV and JSON files.

use std::time::Duration;

use serde::Deserialize;

use super::catalogs::{check_breaker_pause, default_breaker_failures, default_breaker_pause};
use crate::{Error, ErrorCode, Result, Secret};

/// A folder on an object store, or a local one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesCatalog {
    /// `s3://bucket/prefix` or `file:///path`. What lies in it are the tables: a file, or a folder of files.
    pub location: String,
    /// S3: endpoint URL, where it is not AWS.
    pub s3_endpoint: Option<String>,
    /// S3: region, `auto` for R2.
    pub s3_region: Option<String>,
    /// S3: access key id; without keys those of the environment.
    pub s3_access_key_id: Option<Secret>,
    /// S3: secret access key.
    pub s3_secret_access_key: Option<Secret>,
    /// S3: bucket in the path rather than in the host name.
    #[serde(default)]
    pub s3_path_style: bool,
    /// A scan is cut into at most this many splits; 0 is twice the slots of the cluster.
    #[serde(default)]
    pub max_splits: usize,
    /// So many failures to reach the store in a row, and it is not tried by each query; 0: never.
    #[serde(default = "default_breaker_failures")]
    pub breaker_failures: u32,
    /// For how long.
    #[serde(default = "default_breaker_pause", with = "humantime_serde")]
    pub breaker_pause: Duration,
    /// Users and groups who may read.
    #[serde(default)]
    pub readers: Vec<String>,
    /// Users and groups who may write: none can yet, the connector reads only.
    #[serde(default)]
    pub writers: Vec<String>,
}

impl FilesCatalog {
    /// The absolute path of a local location.
    pub fn local_path(&self) -> Option<&str> {
        self.location.strip_prefix("file://").filter(|path| path.starts_with('/'))
    }

    /// Bucket and prefix of a location on S3.
    pub fn bucket(&self) -> Option<(&str, &str)> {
        let rest = self.location.strip_prefix("s3://").or_else(|| self.location.strip_prefix("s3a://"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        (!bucket.is_empty()).then_some((bucket, prefix))
    }

    pub(super) fn validate(&self, name: &str) -> Result<()> {
        let wrong = |what: &str| Err(Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{name}: {what}")));
        if self.local_path().is_none() && self.bucket().is_none() {
            return wrong("`location` is neither file:///path nor s3://bucket/prefix");
        }
        if self.s3_access_key_id.is_some() != self.s3_secret_access_key.is_some() {
            return wrong("`s3_access_key_id` and `s3_secret_access_key` go together");
        }
        check_breaker_pause(name, self.breaker_pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CatalogConfig, Config};

    fn read(keys: &str) -> Result<FilesCatalog> {
        let text = format!("[catalogs.drop]\ntype = \"files\"\n{keys}");
        match Config::from_toml(&text)?.catalogs.remove("drop") {
            Some(CatalogConfig::Files(catalog)) => Ok(*catalog),
            _ => panic!("not a catalog of files"),
        }
    }

    #[test]
    fn a_location_is_a_folder_or_a_bucket() {
        assert_eq!(read("location = \"file:///srv/drop\"").unwrap().local_path(), Some("/srv/drop"));
        assert_eq!(read("location = \"s3://b/a/c\"").unwrap().bucket(), Some(("b", "a/c")));
        assert_eq!(read("location = \"s3://b\"").unwrap().bucket(), Some(("b", "")));
        for (keys, named) in [
            ("location = \"drop\"", "location"),
            ("location = \"file://drop\"", "location"),
            ("location = \"s3:///x\"", "location"),
            ("location = \"s3://b\"\ns3_access_key_id = \"hunter2\"", "s3_secret_access_key"),
        ] {
            let error = read(keys).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ConfigInvalid, "{keys}");
            assert!(error.message().contains("catalogs.drop") && error.message().contains(named), "{keys}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
