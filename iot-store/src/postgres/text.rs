//! Texts as PostgreSQL can hold them: it refuses U+0000.
//!
//! U+0000 becomes U+0001 U+0001, and U+0001 becomes U+0001 U+0002. All other texts, which are nearly all there are, stay
//! as they are. Two texts stay different, and their order by bytes stays the same.

use std::borrow::Cow;

const NULL: char = '\u{0}';
const MARK: char = '\u{1}';

/// The stored form of a text.
pub(super) fn stored(text: &str) -> Cow<'_, str> {
    if text.contains([NULL, MARK]) {
        Cow::Owned(text.replace(MARK, "\u{1}\u{2}").replace(NULL, "\u{1}\u{1}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// The stored form of bytes that may be a part of a text.
pub(super) fn stored_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            0 => stored.extend_from_slice(&[1, 1]),
            1 => stored.extend_from_slice(&[1, 2]),
            other => stored.push(*other),
        }
    }
    stored
}

/// Reads [`stored`].
pub(super) fn read(stored: String) -> String {
    if stored.contains(MARK) { stored.replace("\u{1}\u{1}", "\u{0}").replace("\u{1}\u{2}", "\u{1}") } else { stored }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!['\u{0}', '\u{1}', '\u{2}', '\u{3}', 'a', 'é']), 0..8)
            .prop_map(|characters| characters.into_iter().collect())
    }

    proptest! {
        #[test]
        fn every_text_survives_in_its_order(one in text(), other in text()) {
            prop_assert!(!stored(&one).contains(NULL));
            prop_assert_eq!(&read(stored(&one).into_owned()), &one);
            prop_assert_eq!(one.cmp(&other), stored(&one).cmp(&stored(&other)));
            prop_assert_eq!(stored(&one).into_owned().into_bytes(), stored_bytes(one.as_bytes()));
        }
    }
}
