//! What a step of sealing computes, away from the threads that answer others.

use iot_core::{event::StoredEvent, id::Metric, store::Series};

use super::super::fault::Fault;
use crate::{
    chunk::{Encoded, Reader, Rollups},
    sealing,
};

/// What is in one chunk: reports of a series that one node took and that are forgotten together. Nodes count each for itself,
/// so that a place in the series is a place of one node.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) part: i64,
    pub(super) series: i64,
    pub(super) node: i64,
}

/// New events, and chunks that they are merged with.
pub(super) struct Group {
    pub(super) key: Key,
    pub(super) series: Series,
    pub(super) events: Vec<StoredEvent>,
    pub(super) chunks: Vec<i64>,
    pub(super) bodies: Vec<Vec<u8>>,
}

/// New statistics of a metric, and those that are there.
pub(super) struct Statistics {
    pub(super) part: i64,
    pub(super) series: i64,
    pub(super) metric: Metric,
    pub(super) era: i64,
    pub(super) new: Rollups,
    pub(super) known: Option<Vec<u8>>,
}

#[derive(Default)]
pub(super) struct Work {
    pub(super) groups: Vec<Group>,
    pub(super) statistics: Vec<Statistics>,
}

pub(super) struct Rolled {
    pub(super) part: i64,
    pub(super) series: i64,
    pub(super) metric: Metric,
    pub(super) era: i64,
    pub(super) body: Vec<u8>,
}

pub(super) struct Compressed {
    pub(super) chunks: Vec<(Key, Encoded)>,
    pub(super) rollups: Vec<Rolled>,
}

impl Work {
    pub(super) fn compress(self) -> Result<Compressed, Fault> {
        let mut chunks = Vec::with_capacity(self.groups.len());
        for group in self.groups {
            let mut events = group.events;
            for body in &group.bodies {
                events.append(&mut Reader::open(body)?.events(&group.series)?);
            }
            chunks.extend(sealing::encode(events)?.into_iter().map(|chunk| (group.key, chunk)));
        }
        let rollups = self.statistics.into_iter().map(Statistics::compress).collect::<Result<_, _>>()?;
        Ok(Compressed { chunks, rollups })
    }
}

impl Statistics {
    fn compress(self) -> Result<Rolled, Fault> {
        let Self { part, series, metric, era, new, known } = self;
        let rollups = match known {
            Some(body) => {
                let mut rollups = Rollups::decode(&body)?;
                rollups.merge(&new);
                rollups
            }
            None => new,
        };
        Ok(Rolled { part, series, metric, era, body: rollups.encode()? })
    }
}
