use std::{borrow::Borrow, collections::HashMap, hash::Hash, mem};

/// A table of bounded size. When it is full, the half that was touched longest ago is forgotten, in constant time.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    /// Touched since the halves were last exchanged.
    present: HashMap<K, V>,
    former: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// At most so many entries, at least 2.
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { present: HashMap::new(), former: HashMap::new(), half: (entries_max / 2).max(1) }
    }

    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.present.get(key).or_else(|| self.former.get(key))
    }

    /// The value that was there is gone.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.former.remove(&key);
        if self.present.len() >= self.half && !self.present.contains_key(&key) {
            self.former = mem::take(&mut self.present);
        }
        self.present.insert(key, value);
    }

    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let former = self.former.remove(key);
        self.present.remove(key).or(former)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.present.iter().chain(&self.former)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_what_was_not_touched_for_longest() {
        let mut recent = Recent::new(4);
        for n in 0..2 {
            recent.insert(n, "old");
        }
        recent.insert(0, "again");
        recent.insert(2, "new");
        recent.insert(0, "touched");
        recent.insert(3, "new");
        let mut known: Vec<_> = recent.iter().map(|(key, value)| (*key, *value)).collect();
        known.sort_unstable();
        assert_eq!(known, [(0, "touched"), (2, "new"), (3, "new")]);
        assert_eq!((recent.get(&0), recent.get(&1)), (Some(&"touched"), None));
        assert_eq!((recent.remove(&0), recent.get(&0)), (Some("touched"), None));
    }

    #[test]
    fn it_stays_bounded() {
        let mut recent = Recent::new(10);
        for n in 0..1_000 {
            recent.insert(n, ());
            assert!(recent.iter().count() <= 10);
            assert!(recent.get(&n).is_some());
        }
    }
}
