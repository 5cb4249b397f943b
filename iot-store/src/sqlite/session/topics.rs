//! Which topics have a retained message, as far as memory tells: most subscriptions are to topics that have none, and a look
//! at the file costs each a change of threads.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::{PoisonError, RwLock},
};

use iot_core::{id::TenantId, store::Publication};
use rusqlite::Connection;

use super::super::{fault::Fault, ordered};
use crate::rules::literal_prefix;

/// The most that are remembered, 16 bytes each; with more, the file is asked every time.
const TOPICS_MAX: usize = 1 << 20;

/// Hashes with keys of this process, so that nobody chooses what collides. A topic that is not in here has no retained message;
/// one that is may have had one.
#[derive(Debug, Default)]
pub(in crate::sqlite) struct RetainedTopics {
    keys: RandomState,
    // A small section, never across an await. `None`: too many.
    hashes: RwLock<Option<HashSet<u64>>>,
}

impl RetainedTopics {
    pub(in crate::sqlite) fn load(connection: &Connection) -> Result<Self, Fault> {
        let topics = Self { hashes: RwLock::new(Some(HashSet::new())), ..Self::default() };
        let mut statement = connection.prepare("SELECT tenant, topic FROM retained LIMIT ?1")?;
        let mut rows = statement.query([ordered(TOPICS_MAX as u64 + 1)])?;
        while let Some(row) = rows.next()? {
            let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
            topics.add(text(0)?, text(1)?);
        }
        Ok(topics)
    }

    /// Before they are written.
    pub(super) fn expect(&self, publications: &[Publication]) {
        for message in publications.iter().map(|publication| &publication.message) {
            if message.retain && !message.payload.is_empty() {
                self.add(message.tenant.as_str(), &message.topic);
            }
        }
    }

    fn add(&self, tenant: &str, topic: &str) {
        let hash = self.keys.hash_one((tenant, topic));
        let mut hashes = self.hashes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &mut *hashes {
            known.insert(hash);
            if known.len() > TOPICS_MAX {
                *hashes = None;
            }
        }
    }

    /// Whether a message that `filter` matches may be retained.
    pub(super) fn may_match(&self, tenant: &TenantId, filter: &str) -> bool {
        match &*self.hashes.read().unwrap_or_else(PoisonError::into_inner) {
            None => true,
            Some(known) if literal_prefix(filter) == filter => {
                known.contains(&self.keys.hash_one((tenant.as_str(), filter)))
            }
            Some(known) => !known.is_empty(),
        }
    }
}
