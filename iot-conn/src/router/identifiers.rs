use std::fmt;
use std::ops::Deref;

/// Subscription identifiers of a message (MQTT 5 §3.3.2.3.8); up to three of them need no allocation.
#[derive(Clone)]
pub struct Identifiers(List);

#[derive(Clone)]
enum List {
    Inline { len: u8, items: [u32; INLINE_MAX] },
    Heap(Vec<u32>),
}

/// What fits beside the length into the size of a `Vec`.
const INLINE_MAX: usize = 3;

impl Identifiers {
    /// Appends an identifier, whether or not an equal one is there.
    pub fn push(&mut self, identifier: u32) {
        match &mut self.0 {
            List::Heap(items) => items.push(identifier),
            List::Inline { len, items } => match items.get_mut(usize::from(*len)) {
                Some(slot) => {
                    *slot = identifier;
                    *len += 1;
                }
                None => self.0 = List::Heap(items.iter().copied().chain([identifier]).collect()),
            },
        }
    }
}

impl Default for Identifiers {
    fn default() -> Self {
        Self(List::Inline { len: 0, items: [0; INLINE_MAX] })
    }
}

impl Deref for Identifiers {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match &self.0 {
            List::Inline { len, items } => &items[..usize::from(*len)],
            List::Heap(items) => items,
        }
    }
}

impl FromIterator<u32> for Identifiers {
    fn from_iter<I: IntoIterator<Item = u32>>(identifiers: I) -> Self {
        let mut list = Self::default();
        identifiers.into_iter().for_each(|identifier| list.push(identifier));
        list
    }
}

impl PartialEq for Identifiers {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Identifiers {}

impl fmt::Debug for Identifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_keep_their_order_inline_and_beyond() {
        for count in 0..10 {
            let expected: Vec<u32> = (1..=count).collect();
            let list: Identifiers = expected.iter().copied().collect();
            assert_eq!(*list, *expected);
            assert_eq!(list, list.clone());
            assert_eq!(format!("{list:?}"), format!("{expected:?}"));
            assert_eq!(matches!(list.0, List::Inline { .. }), expected.len() <= INLINE_MAX);
        }
        assert_ne!(Identifiers::from_iter([1]), Identifiers::from_iter([1, 1]));
        assert_eq!(size_of::<Identifiers>(), size_of::<Vec<u32>>());
    }
}
