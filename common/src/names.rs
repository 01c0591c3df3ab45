//! The nearest name to one that does not exist, for error hints.

/// The candidate that a person most likely meant by `wanted`, if one is near enough.
///
/// Compared without case by Damerau-Levenshtein distance; a third of the letters may differ. Give only names that the
/// principal may see: a hint must not tell what a look-up would hide.
pub fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let limit = (wanted.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_slips_and_nothing_else() {
        assert_eq!(nearest("lineitm", ["orders", "lineitem"]), Some("lineitem"));
        assert_eq!(nearest("ORDERS", ["orders", "lineitem"]), Some("orders"));
        assert_eq!(nearest("invoices", ["orders", "lineitem"]), None);
    }
}
