use std::collections::HashMap;

use super::SubscriberId;
use super::members::{Member, Subscribers};

/// Filters with wildcards, by level. Nodes lie in one vector and name each other by place: neither walking nor dropping
/// recurses, however many levels a filter has.
pub(super) struct Trie<H> {
    /// The root comes first; empty if there is no filter.
    nodes: Vec<Node<H>>,
    /// Places whose node was removed.
    free: Vec<usize>,
}

struct Node<H> {
    /// Children by level, `+` aside.
    children: HashMap<Box<str>, usize>,
    /// The child `+`.
    any: Option<usize>,
    /// Whose filter ends here.
    here: Subscribers<H>,
    /// Whose filter ends with a `#` below.
    below: Subscribers<H>,
}

const ROOT: usize = 0;

impl<H> Trie<H> {
    /// The subscribers of a filter, whose nodes are made if they are missing. One has to be added.
    pub(super) fn subscribers(&mut self, filter: &str) -> &mut Subscribers<H> {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let (path, end) = split_end(filter);
        let mut place = ROOT;
        for level in path.into_iter().flat_map(|path| path.split('/')) {
            place = match self.nodes[place].child(level) {
                Some(child) => child,
                None => self.add_child(place, level),
            };
        }
        self.nodes[place].end(end)
    }

    /// Removes a subscription and the nodes that served no other.
    pub(super) fn remove(&mut self, filter: &str, group: Option<&str>, id: SubscriberId) -> Option<Member<H>> {
        let (path, end) = split_end(filter);
        let mut way = Vec::new();
        let mut place = ROOT;
        for level in path.into_iter().flat_map(|path| path.split('/')) {
            way.push((place, level));
            place = self.nodes.get(place)?.child(level)?;
        }
        let removed = self.nodes.get_mut(place)?.end(end).remove(group, id);
        self.prune(place, way);
        removed
    }

    /// Calls `found` with the subscribers of each filter that matches the topic.
    pub(super) fn visit(&self, topic: &str, found: &mut dyn FnMut(&Subscribers<H>)) {
        let reserved = topic.starts_with('$');
        let mut next = (!self.nodes.is_empty()).then_some((ROOT, Some(topic)));
        // One entry for each level above at most: where `+` and a name both lead on.
        let mut branches = Vec::new();
        while let Some((place, rest)) = next.take().or_else(|| branches.pop()) {
            let node = &self.nodes[place];
            // A wildcard in the first level does not match `$` (MQTT 5 §4.7.2).
            let wildcards = place != ROOT || !reserved;
            if wildcards {
                found(&node.below);
            }
            let Some(rest) = rest else {
                found(&node.here);
                continue;
            };
            let (level, rest) = split_level(rest);
            next = node.children.get(level).map(|child| (*child, rest));
            if let Some(any) = node.any.filter(|_| wildcards) {
                branches.push((any, rest));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    #[cfg(test)]
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    fn add_child(&mut self, parent: usize, level: &str) -> usize {
        let child = match self.free.pop() {
            Some(free) => free,
            None => {
                self.nodes.push(Node::default());
                self.nodes.len() - 1
            }
        };
        let parent = &mut self.nodes[parent];
        match level {
            "+" => parent.any = Some(child),
            _ => _ = parent.children.insert(level.into(), child),
        }
        child
    }

    /// Removes the node and its parents for as long as they are empty; `way` leads to it.
    fn prune(&mut self, mut place: usize, mut way: Vec<(usize, &str)>) {
        while self.nodes[place].is_empty() {
            let Some((parent, level)) = way.pop() else {
                *self = Self::default();
                return;
            };
            self.nodes[place] = Node::default();
            self.free.push(place);
            let parent_node = &mut self.nodes[parent];
            match level {
                "+" => parent_node.any = None,
                _ => _ = parent_node.children.remove(level),
            }
            place = parent;
        }
    }
}

impl<H> Default for Trie<H> {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new() }
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
    match rest.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (rest, None),
    }
}

impl<H> Node<H> {
    fn child(&self, level: &str) -> Option<usize> {
        if level == "+" { self.any } else { self.children.get(level).copied() }
    }

    fn end(&mut self, end: End) -> &mut Subscribers<H> {
        match end {
            End::Here => &mut self.here,
            End::Below => &mut self.below,
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.any.is_none() && self.here.is_empty() && self.below.is_empty()
    }
}

impl<H> Default for Node<H> {
    fn default() -> Self {
        Self { children: HashMap::new(), any: None, here: Subscribers::default(), below: Subscribers::default() }
    }
}
