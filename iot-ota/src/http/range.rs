//! The one range of a request (RFC 9110 §14).

use std::ops::Range;

/// What a request asks of a representation.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// All of it: no range, one in other units, one that does not parse (§14.2 lets a server ignore it), or several, which a
    /// server may ignore as well.
    Whole,
    /// These bytes of it; not empty.
    Part(Range<u64>),
    /// Bytes that it does not have: 416 (§15.5.17).
    Unsatisfiable,
}

/// Reads a `Range` field for a representation of `length` bytes.
pub(super) fn asked(field: Option<&str>, length: u64) -> Asked {
    let Some((unit, set)) = field.and_then(|field| field.split_once('=')) else { return Asked::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Asked::Whole;
    }
    match spec(set.trim()) {
        None => Asked::Whole,
        // Each of `first` ≤ `last` is checked, so that a range that is invalid by itself is ignored before its satisfiability counts.
        Some(Spec::From(first, last)) => match last.unwrap_or(u64::MAX).min(length.saturating_sub(1)) {
            _ if first >= length => Asked::Unsatisfiable,
            last => Asked::Part(first..last + 1),
        },
        Some(Spec::Last(count)) => match count.min(length) {
            0 => Asked::Unsatisfiable,
            count => Asked::Part(length - count..length),
        },
    }
}

enum Spec {
    From(u64, Option<u64>),
    Last(u64),
}

fn spec(text: &str) -> Option<Spec> {
    let (first, last) = text.split_once('-')?;
    match (first, last) {
        ("", last) => Some(Spec::Last(number(last)?)),
        (first, "") => Some(Spec::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From(first, Some(last)))
        }
    }
}

/// `1*DIGIT`; a number too large for us is as good as the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_in_the_standard() {
        let cases = [
            ("bytes=0-499", Asked::Part(0..500)),
            ("bytes=500-999", Asked::Part(500..1_000)),
            ("bytes=-500", Asked::Part(9_500..10_000)),
            ("bytes=9500-", Asked::Part(9_500..10_000)),
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=-1", Asked::Part(9_999..10_000)),
            ("bytes=9999-", Asked::Part(9_999..10_000)),
            ("bytes=0-99999999999999999999999", Asked::Part(0..10_000)),
            ("bytes=-99999", Asked::Part(0..10_000)),
            ("Bytes=1-1", Asked::Part(1..2)),
            ("bytes=10000-", Asked::Unsatisfiable),
            ("bytes=99999999999999999999999-", Asked::Unsatisfiable),
            ("bytes=-0", Asked::Unsatisfiable),
            ("bytes=5-4", Asked::Whole),
            ("bytes=0-1,4-5", Asked::Whole),
            ("bytes=", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("lines=0-1", Asked::Whole),
            ("0-1", Asked::Whole),
        ];
        for (field, expected) in cases {
            assert_eq!(asked(Some(field), 10_000), expected, "{field}");
        }
        assert_eq!(asked(None, 10_000), Asked::Whole);
        assert_eq!(asked(Some("bytes=0-"), 0), Asked::Unsatisfiable);
        assert_eq!(asked(Some("bytes=-1"), 0), Asked::Unsatisfiable);
    }
}
