//! The names of files: engines spell the URI of one file in several ways.

use std::borrow::Cow;

/// What Hadoop and Spark call `s3://`: <https://iceberg.apache.org/docs/latest/aws/#s3-fileio>.
pub(crate) const S3_SCHEMES: [&str; 3] = ["s3://", "s3a://", "s3n://"];

/// The one spelling of a URI by which files are compared: engines write `s3a://b/f` or `file:/f` where others write
/// `s3://b/f` or `file:///f`, and mean one file. Never the name of a file in what is written.
pub(crate) fn one_spelling(uri: &str) -> Cow<'_, str> {
    if let Some(rest) = S3_SCHEMES.iter().skip(1).find_map(|scheme| uri.strip_prefix(scheme)) {
        return Cow::Owned(format!("s3://{rest}"));
    }
    match uri.strip_prefix("file:").or_else(|| uri.starts_with('/').then_some(uri)) {
        Some(path) if path.starts_with('/') && !path.starts_with("//") => Cow::Owned(format!("file://{path}")),
        _ => Cow::Borrowed(uri),
    }
}

/// All spellings of [`one_spelling`], the given one first.
pub(crate) fn spellings(uri: &str) -> Vec<String> {
    let one = one_spelling(uri);
    let others: Vec<String> = match (one.strip_prefix("s3://"), one.strip_prefix("file://")) {
        (Some(rest), _) => S3_SCHEMES.iter().map(|scheme| format!("{scheme}{rest}")).collect(),
        (_, Some(path)) => ["file://", "file:", ""].iter().map(|scheme| format!("{scheme}{path}")).collect(),
        (None, None) => Vec::new(),
    };
    std::iter::once(uri.to_string()).chain(others.into_iter().filter(|other| other != uri)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_one_spelling() {
        for uri in ["s3://b/day=a%2Fb c//k", "s3a://b/day=a%2Fb c//k", "s3n://b/day=a%2Fb c//k"] {
            assert_eq!(one_spelling(uri), "s3://b/day=a%2Fb c//k", "keys stay raw");
            let mut all = spellings(uri);
            assert_eq!(all[0], uri);
            all.sort();
            assert_eq!(all, ["s3://b/day=a%2Fb c//k", "s3a://b/day=a%2Fb c//k", "s3n://b/day=a%2Fb c//k"]);
        }
        for uri in ["file:///t/k", "file:/t/k", "/t/k"] {
            assert_eq!((one_spelling(uri).as_ref(), spellings(uri).len()), ("file:///t/k", 3));
        }
        for uri in ["gs://b/k", "s3.example/k", "relative/k", ""] {
            assert_eq!((one_spelling(uri).as_ref(), spellings(uri)), (uri, vec![uri.to_string()]));
        }
    }
}
