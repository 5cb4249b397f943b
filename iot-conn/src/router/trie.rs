use super::SubscriberId;
use super::digest::{ByDigest, Digest, Digests, shrink};
use super::members::{Member, Subscribers};

/// Filters with wildcards, by tenant and level. Nodes lie in one vector and name each other by place: neither walking nor
/// dropping recurses, however many levels a filter has.
pub(super) struct Trie<H> {
    nodes: Vec<Node<H>>,
    /// Places whose node was removed.
    free: Vec<usize>,
    /// The first node of each tenant, and of each node the children by level, but for those that it knows itself.
    edges: ByDigest<usize>,
}

struct Node<H> {
    /// The child `+`.
    any: Option<usize>,
    /// One of the others, by its name: many nodes have no more, and to compare is less than to hash.
    one: Option<(Box<str>, usize)>,
    /// How many more there are.
    more: usize,
    /// Whose filter ends here.
    here: Subscribers<H>,
    /// Whose filter ends with a `#` below.
    below: Subscribers<H>,
}

impl<H> Trie<H> {
    /// The subscribers of a filter, whose nodes are made if they are missing. One has to be added.
    pub(super) fn subscribers(&mut self, digests: Digests, tenant: Digest, filter: &str) -> &mut Subscribers<H> {
        let (path, end) = split_end(filter);
        let mut place = match self.edges.get(&tenant) {
            Some(root) => *root,
            None => {
                let root = self.add_node();
                self.edges.insert(tenant, root);
                root
            }
        };
        for level in path.into_iter().flat_map(|path| path.split('/')) {
            place = match self.child(digests, place, level) {
                Some(child) => child,
                None => self.add_child(digests, place, level),
            };
        }
        self.nodes[place].end(end)
    }

    /// Removes a subscription and the nodes that served no other.
    pub(super) fn remove(
        &mut self,
        digests: Digests,
        tenant: Digest,
        filter: &str,
        group: Option<&str>,
        id: SubscriberId,
    ) -> Option<Member<H>> {
        let (path, end) = split_end(filter);
        let mut way = Vec::new();
        let mut place = *self.edges.get(&tenant)?;
        for level in path.into_iter().flat_map(|path| path.split('/')) {
            way.push((place, level));
            place = self.child(digests, place, level)?;
        }
        let removed = self.nodes[place].end(end).remove(group, id);
        self.prune(digests, tenant, place, way);
        removed
    }

    /// Calls `found` with the subscribers of each filter that matches the topic.
    pub(super) fn visit(&self, digests: Digests, tenant: Digest, topic: &str, found: &mut dyn FnMut(&Subscribers<H>)) {
        let Some(root) = self.edges.get(&tenant).copied() else { return };
        let reserved = topic.starts_with('$');
        let mut next = Some((root, Some(topic)));
        // One entry for each level above at most: where `+` and a name both lead on.
        let mut branches = Vec::new();
        while let Some((place, rest)) = next.take().or_else(|| branches.pop()) {
            let node = &self.nodes[place];
            // A wildcard in the first level does not match `$` (MQTT 5 §4.7.2).
            let wildcards = place != root || !reserved;
            if wildcards {
                found(&node.below);
            }
            let Some(rest) = rest else {
                found(&node.here);
                continue;
            };
            let (level, rest) = split_level(rest);
            let named = self.named(digests, place, level);
            let any = node.any.filter(|_| wildcards);
            next = named.or(any).map(|child| (child, rest));
            if let (Some(_), Some(any)) = (named, any) {
                branches.push((any, rest));
            }
        }
    }

    /// How many nodes there are.
    #[cfg(test)]
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    fn child(&self, digests: Digests, parent: usize, level: &str) -> Option<usize> {
        if level == "+" { self.nodes[parent].any } else { self.named(digests, parent, level) }
    }

    fn named(&self, digests: Digests, parent: usize, level: &str) -> Option<usize> {
        match &self.nodes[parent] {
            Node { one: Some((name, child)), .. } if **name == *level => Some(*child),
            Node { more: 0, .. } => None,
            _ => self.edges.get(&digests.level(parent, level)).copied(),
        }
    }

    fn add_node(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        })
    }

    fn add_child(&mut self, digests: Digests, parent: usize, level: &str) -> usize {
        let child = self.add_node();
        let node = &mut self.nodes[parent];
        if level == "+" {
            node.any = Some(child);
        } else if node.one.is_none() {
            node.one = Some((level.into(), child));
        } else {
            node.more += 1;
            self.edges.insert(digests.level(parent, level), child);
        }
        child
    }

    /// Removes the node and its parents for as long as they are empty; `way` leads to it.
    fn prune(&mut self, digests: Digests, tenant: Digest, mut place: usize, mut way: Vec<(usize, &str)>) {
        while self.nodes[place].is_empty() {
            self.nodes[place] = Node::default();
            self.free.push(place);
            let Some((parent, level)) = way.pop() else {
                self.edges.remove(&tenant);
                break;
            };
            let node = &mut self.nodes[parent];
            if level == "+" {
                node.any = None;
            } else if node.one.take_if(|(name, _)| **name == *level).is_none() {
                node.more -= 1;
                self.edges.remove(&digests.level(parent, level));
            }
            place = parent;
        }
        if self.edges.is_empty() {
            *self = Self::default();
        }
        shrink(&mut self.edges);
    }
}

impl<H> Default for Trie<H> {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), edges: ByDigest::default() }
    }
}

#[derive(Clone, Copy)]
enum End {
    Here,
    Below,
}

/// The levels down to the node of a filter, `None` for the root's, and which of the node's subscribers are the filter's.
fn split_end(filter: &str) -> (Option<&str>, End) {
    match filter.strip_suffix('#') {
        Some("") => (None, End::Below),
        Some(path) => match path.strip_suffix('/') {
            Some(path) => (Some(path), End::Below),
            None => (Some(filter), End::Here),
        },
        None => (Some(filter), End::Here),
    }
}

fn split_level(rest: &str) -> (&str, Option<&str>) {
    match rest.bytes().position(|byte| byte == b'/') {
        Some(end) => (&rest[..end], Some(&rest[end + 1..])),
        None => (rest, None),
    }
}

impl<H> Node<H> {
    fn end(&mut self, end: End) -> &mut Subscribers<H> {
        match end {
            End::Here => &mut self.here,
            End::Below => &mut self.below,
        }
    }

    fn is_empty(&self) -> bool {
        self.any.is_none() && self.one.is_none() && self.more == 0 && self.here.is_empty() && self.below.is_empty()
    }
}

impl<H> Default for Node<H> {
    fn default() -> Self {
        Self { any: None, one: None, more: 0, here: Subscribers::default(), below: Subscribers::default() }
    }
}
