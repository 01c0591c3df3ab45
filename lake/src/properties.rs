//! Table properties whose values must be understood: a slip is refused when it is made, not when rows are written.
//!
//! Names: <https://iceberg.apache.org/docs/latest/configuration/>.

use townlake_common::{Error, ErrorCode, Result};

const MODES: &[&str] = &["copy-on-write", "merge-on-read"];
const ISOLATION: &[&str] = &["serializable", "snapshot"];
const CODECS: &[&str] = &["brotli", "gzip", "lz4", "none", "snappy", "uncompressed", "zstd"];
const FLAGS: &[&str] = &["false", "true"];

/// The values that a property takes; `None`: any.
fn values_of(name: &str) -> Option<&'static [&'static str]> {
    match name {
        "write.delete.mode" | "write.update.mode" | "write.merge.mode" => Some(MODES),
        "write.delete.isolation-level" | "write.update.isolation-level" | "write.merge.isolation-level" => {
            Some(ISOLATION)
        }
        "write.parquet.compression-codec" => Some(CODECS),
        "gc.enabled" | "write.metadata.delete-after-commit.enabled" | "townlake.min-max-from-metadata" => Some(FLAGS),
        _ => None,
    }
}

fn is_number(name: &str) -> bool {
    matches!(
        name,
        "write.target-file-size-bytes"
            | "write.parquet.row-group-size-bytes"
            | "write.parquet.compression-level"
            | "write.metadata.previous-versions-max"
            | "commit.retry.num-retries"
    )
}

/// Refuses what a property cannot mean.
///
/// Errors: `INVALID_ARGUMENT` naming the property and what it takes; `NOT_SUPPORTED` for other formats of files.
pub(crate) fn check<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<()> {
    let wrong = |name: &str, value: &str, hint: String| {
        let message = format!("the property {name} cannot be '{value}'");
        Err(Error::new(ErrorCode::InvalidArgument, message).with_hint(hint))
    };
    for (name, value) in properties {
        if name.is_empty() {
            return Err(Error::new(ErrorCode::InvalidArgument, "a property has no name"));
        }
        if let Some(values) = values_of(name)
            && !values.iter().any(|known| known.eq_ignore_ascii_case(value))
        {
            return wrong(name, value, format!("it takes {}", values.join(", ")));
        }
        if is_number(name) && value.parse::<i64>().is_err() {
            return wrong(name, value, "it takes a whole number".to_string());
        }
        let is_format = matches!(name, "write.format.default" | "write.delete.format.default" | "format");
        if is_format && !value.eq_ignore_ascii_case("parquet") {
            let message = format!("files in the format {value} are not written ({name})");
            return Err(Error::new(ErrorCode::NotSupported, message).with_hint("Parquet is"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told() {
        for (name, value) in [
            ("write.delete.mode", "merge_on_read"),
            ("write.target-file-size-bytes", "big"),
            ("write.parquet.compression-codec", "bzip9"),
            ("write.merge.isolation-level", "foo"),
            ("gc.enabled", "maybe"),
        ] {
            let error = check([(name, value)]).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.message().contains(name) && error.message().contains(value), "{error}");
            assert!(error.hint().is_some());
        }
        assert_eq!(check([("write.format.default", "orc")]).unwrap_err().code(), ErrorCode::NotSupported);
        check([("write.delete.mode", "Merge-On-Read"), ("mine", "merge_on_read"), ("write.format.default", "PARQUET")])
            .unwrap();
    }
}
