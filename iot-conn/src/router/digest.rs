//! Names as keyed hashes of 128 bits.
//!
//! The routing table holds no names, only their digests: what is compared lies in the table itself, and not somewhere else in
//! memory. Two names would be taken for each other if their digests were equal. The key is made at random with each router and
//! never leaves it, so nobody can look for such names; among a million filters, a million messages in each second of a
//! century meet one by chance with a probability of 10⁻¹⁷. SipHash: Aumasson, Bernstein, "SipHash: a fast short-input PRF"
//! (2012); with one and three rounds, as in the tables of the standard library.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

use siphasher::sip128::{Hasher128, SipHasher13};

/// What stands for a name.
#[derive(Debug, Copy, Clone, Eq, PartialEq)]
pub(super) struct Digest(u64, u64);

/// A map by digest.
pub(super) type ByDigest<T> = HashMap<Digest, T, BuildHasherDefault<Ready>>;

/// Makes digests, with a key of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Digests(SipHasher13);

impl Digests {
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        Self(SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1)))
    }

    /// The names of one tenant.
    pub(super) fn of_tenant(self, tenant: &str) -> InTenant {
        let mut hasher = self.0;
        hasher.write(tenant.as_bytes());
        // Not in UTF-8: no two names of different tenants are the same bytes.
        hasher.write(&[0xFF]);
        InTenant(hasher)
    }

    /// A level below a node of a trie. Unlike what is said of tenants, it does not end with a byte that is not in UTF-8.
    pub(super) fn level(self, node: usize, level: &str) -> Digest {
        let mut hasher = self.0;
        hasher.write(&(node as u64).to_le_bytes());
        hasher.write(level.as_bytes());
        finish(hasher)
    }
}

/// Makes the digests of one tenant's names.
#[derive(Debug, Clone, Copy)]
pub(super) struct InTenant(SipHasher13);

impl InTenant {
    /// The tenant's own.
    pub(super) fn itself(self) -> Digest {
        finish(self.0)
    }

    pub(super) fn name(self, name: &str) -> Digest {
        let mut hasher = self.0;
        hasher.write(name.as_bytes());
        finish(hasher)
    }
}

fn finish(hasher: SipHasher13) -> Digest {
    let hash = hasher.finish128();
    Digest(hash.h1, hash.h2)
}

impl Digest {
    /// As good a hash as any other of the name.
    pub(super) fn bits(self) -> u64 {
        self.0
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.1);
    }
}

/// The hash of what is a hash already.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not called for digests, but a hasher has to take everything.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Gives memory back when little of it is used.
pub(super) fn shrink<T>(map: &mut ByDigest<T>) {
    if map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}
