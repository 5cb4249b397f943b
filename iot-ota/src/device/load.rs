use std::{collections::BTreeSet, time::Duration};

use iot_core::time::Monotonic;

use super::{Action, Limits, Slot};
use crate::release::{Digest, Hasher, Image};

/// Fills a slot with an image: reads what is there, loads what differs, and reads again until all of it matches.
///
/// It trusts nothing that is written down about an earlier attempt. What matches by its hash is kept, be it of an attempt
/// that was cut off or of the image that was there before.
#[derive(Debug)]
pub(super) struct Load {
    slot: Slot,
    at: At,
    missing: BTreeSet<u32>,
    whole: Hasher,
    /// Passes that found something missing.
    passes: u8,
    wrong: u8,
    lost: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Reading { chunk: u32 },
    Fetching { chunk: u32, until: Monotonic },
    Pausing { chunk: u32, until: Monotonic },
    Writing { chunk: u32 },
}

/// What follows.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Do(Action),
    /// Fetch this chunk, or ask for a link.
    Fetch(u32),
    /// Nothing until a timer or an answer.
    Wait,
    /// All of it matches.
    Whole,
    /// The parts match and the whole does not.
    Contradiction,
    Failed(&'static str),
}

impl Load {
    pub(super) fn new(slot: Slot) -> Self {
        let at = At::Reading { chunk: 0 };
        Self { slot, at, missing: BTreeSet::new(), whole: Hasher::new(), passes: 0, wrong: 0, lost: 0 }
    }

    pub(super) fn read(&mut self, image: &Image, chunk: u32) -> Next {
        if chunk == 0 {
            self.whole = Hasher::new();
        }
        self.at = At::Reading { chunk };
        let range = image.range(chunk).unwrap_or_default();
        Next::Do(Action::Read { slot: self.slot, chunk, range })
    }

    pub(super) fn stored(&mut self, image: &Image, limits: &Limits, chunk: u32, bytes: &[u8]) -> Next {
        if self.at != (At::Reading { chunk }) {
            return Next::Wait;
        }
        self.whole.update(bytes);
        if check(image, chunk, bytes).is_err() {
            self.missing.insert(chunk);
        }
        if chunk + 1 < image.count() { self.read(image, chunk + 1) } else { self.end_pass(image, limits) }
    }

    fn end_pass(&mut self, image: &Image, limits: &Limits) -> Next {
        match self.missing.first() {
            None if self.whole.clone().finish() == image.sha256 => Next::Whole,
            None => Next::Contradiction,
            Some(_) if self.passes.saturating_sub(1) >= limits.rewrites_max => Next::Failed("storage"),
            Some(&first) => {
                self.passes = self.passes.saturating_add(1);
                Next::Fetch(first)
            }
        }
    }

    /// A chunk is on its way.
    pub(super) fn fetching(&mut self, limits: &Limits, chunk: u32, now: Monotonic) {
        self.at = At::Fetching { chunk, until: now.plus(limits.chunk_timeout) };
    }

    pub(super) fn fetched(&mut self, image: &Image, limits: &Limits, chunk: u32, bytes: Vec<u8>) -> Next {
        if !matches!(self.at, At::Fetching { chunk: asked, .. } if asked == chunk) {
            return Next::Wait;
        }
        if let Err(code) = check(image, chunk, &bytes) {
            self.wrong = self.wrong.saturating_add(1);
            return if self.wrong >= limits.chunk_tries_max { Next::Failed(code) } else { Next::Fetch(chunk) };
        }
        self.at = At::Writing { chunk };
        let offset = image.range(chunk).unwrap_or_default().start;
        Next::Do(Action::Write { slot: self.slot, offset, bytes })
    }

    pub(super) fn written(&mut self, image: &Image) -> Next {
        let At::Writing { chunk } = self.at else { return Next::Wait };
        (self.wrong, self.lost) = (0, 0);
        self.missing.remove(&chunk);
        match self.missing.first() {
            Some(&next) => Next::Fetch(next),
            None => self.read(image, 0),
        }
    }

    /// The chunk that is on its way does not come: pauses, longer each time.
    pub(super) fn lost(&mut self, limits: &Limits, code: &'static str, now: Monotonic) -> Next {
        match self.at {
            At::Fetching { chunk, .. } => self.pause(limits, chunk, code, now),
            _ => Next::Wait,
        }
    }

    pub(super) fn pause(&mut self, limits: &Limits, chunk: u32, code: &'static str, now: Monotonic) -> Next {
        self.lost = self.lost.saturating_add(1);
        if self.lost >= limits.fetch_tries_max {
            return Next::Failed(code);
        }
        self.at = At::Pausing { chunk, until: now.plus(pause_after(limits, self.lost)) };
        Next::Wait
    }

    /// There is a link: a pause is over.
    pub(super) fn linked(&mut self) -> Next {
        match self.at {
            At::Pausing { chunk, .. } => Next::Fetch(chunk),
            _ => Next::Wait,
        }
    }

    pub(super) fn tick(&mut self, limits: &Limits, now: Monotonic) -> Next {
        match self.at {
            At::Fetching { until, .. } if until <= now => self.lost(limits, "too_slow", now),
            At::Pausing { chunk, until } if until <= now => Next::Fetch(chunk),
            _ => Next::Wait,
        }
    }

    pub(super) fn deadline(&self) -> Option<Monotonic> {
        match self.at {
            At::Fetching { until, .. } | At::Pausing { until, .. } => Some(until),
            At::Reading { .. } | At::Writing { .. } => None,
        }
    }

    /// How much of the image is there while chunks are loaded, in percent.
    pub(super) fn percent(&self, image: &Image) -> Option<u8> {
        let count = u64::from(image.count()).max(1);
        let there = count.saturating_sub(self.missing.len() as u64);
        (!matches!(self.at, At::Reading { .. })).then(|| u8::try_from(there * 100 / count).unwrap_or(100))
    }
}

fn check(image: &Image, chunk: u32, bytes: &[u8]) -> Result<(), &'static str> {
    let range = image.range(chunk).unwrap_or_default();
    match (bytes.len() as u64).cmp(&(range.end - range.start)) {
        std::cmp::Ordering::Less => Err("body_truncated"),
        std::cmp::Ordering::Greater => Err("body_too_long"),
        std::cmp::Ordering::Equal if image.chunks.get(chunk as usize) == Some(&Digest::of(bytes)) => Ok(()),
        std::cmp::Ordering::Equal => Err("chunk_hash"),
    }
}

fn pause_after(limits: &Limits, lost: u8) -> Duration {
    let doubled = 1_u32.checked_shl(u32::from(lost.saturating_sub(1))).unwrap_or(u32::MAX);
    limits.pause_min.saturating_mul(doubled).min(limits.pause_max)
}
