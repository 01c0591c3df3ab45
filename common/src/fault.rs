//! Points at which a test can make this process die as `kill -9` would: nothing is flushed, closed or taken back.
//!
//! `TOWNLAKE_FAULT=commit.list:2` ends the process the second time that the point `commit.list` is passed. Without the
//! variable a point costs one load.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

const VARIABLE: &str = "TOWNLAKE_FAULT";

struct Fault {
    point: String,
    left: AtomicUsize,
}

static FAULT: LazyLock<Option<Fault>> = LazyLock::new(|| parse(&std::env::var(VARIABLE).ok()?));

fn parse(text: &str) -> Option<Fault> {
    let (point, count) = text.split_once(':').unwrap_or((text, "1"));
    let count = count.parse().ok().filter(|count| *count > 0)?;
    Some(Fault { point: point.to_string(), left: AtomicUsize::new(count) })
}

/// Ends the process here, if it was told to.
pub fn point(name: &str) {
    let Some(fault) = FAULT.as_ref().filter(|fault| fault.point == name) else { return };
    if fault.left.fetch_sub(1, Ordering::SeqCst) == 1 {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_and_how_often_it_is_passed() {
        let fault = parse("commit.list:3").unwrap();
        assert_eq!((fault.point.as_str(), fault.left.into_inner()), ("commit.list", 3));
        assert_eq!(parse("commit.list").unwrap().left.into_inner(), 1);
        assert!(parse("commit.list:0").is_none() && parse("commit.list:x").is_none());
    }
}
