use std::{ops::Range, time::Duration};

use iot_core::{
    id::{ProductId, TenantId},
    time::{Monotonic, Timestamp},
};

use super::{Running, Slot};
use crate::{
    release::{Hardware, Refused},
    wire::Report,
};

/// What the device is, from its factory.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "whoever builds a device must say all of it")]
pub struct Identity {
    /// Whose product.
    pub tenant: TenantId,
    /// Which product.
    pub product: ProductId,
    /// Which revision of the hardware.
    pub hardware: Hardware,
    /// What it runs as long as it was never updated, from slot A.
    pub factory: Running,
    /// The size of each slot, in bytes.
    pub slot_bytes: u64,
}

/// How patient the device is.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "to be written with ..Default::default()")]
pub struct Limits {
    /// How often one chunk may come wrong before the update fails.
    pub chunk_tries_max: u8,
    /// How often in succession a chunk may not come at all before the update fails.
    pub fetch_tries_max: u8,
    /// How long one chunk may take.
    pub chunk_timeout: Duration,
    /// The pause after the first fetch that failed; it doubles with each further one.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// How often the image may be found damaged after it was written before the update fails.
    pub rewrites_max: u8,
    /// How long a started image has to say that it is well, in each start.
    pub trial: Duration,
    /// How often the boot loader is asked to start an image that it does not start.
    pub activations_max: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            chunk_tries_max: 5,
            fetch_tries_max: 24,
            chunk_timeout: Duration::from_secs(120),
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(300),
            rewrites_max: 3,
            trial: Duration::from_secs(300),
            activations_max: 3,
        }
    }
}

/// Both kinds of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "there are two kinds of time")]
pub struct Now {
    /// The time of day, as well as the device knows it: ends of releases and offers are compared with it.
    pub time: Timestamp,
    /// Since the device started: timers are set by it.
    pub uptime: Monotonic,
}

/// What to do. Store [`Updater::state`](super::Updater::state) durably before doing it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Read this part of a slot and hand it to [`Updater::stored`](super::Updater::stored), shorter where the slot ends.
    Read {
        /// Which slot: never the one that runs.
        slot: Slot,
        /// Which chunk of the image it is.
        chunk: u32,
        /// Where in the slot, in bytes.
        range: Range<u64>,
    },
    /// Load this part of the image and hand it to [`Updater::chunk`](super::Updater::chunk), or say
    /// [`Updater::fetch_failed`](super::Updater::fetch_failed). Stop reading one byte after the range: that byte shows that
    /// the body is too long.
    Fetch {
        /// From where.
        url: String,
        /// Which chunk of the image it is.
        chunk: u32,
        /// Where in the image, in bytes.
        range: Range<u64>,
    },
    /// Write this durably, then say [`Updater::written`](super::Updater::written), or
    /// [`Updater::storage_failed`](super::Updater::storage_failed).
    Write {
        /// Which slot: never the one that runs.
        slot: Slot,
        /// Where in it, in bytes.
        offset: u64,
        /// What. It is a chunk as it was signed.
        bytes: Vec<u8>,
    },
    /// Send [`Updater::hello`](super::Updater::hello): there is no link, or it has expired.
    Hello,
    /// Tell the boot loader to try this slot, and restart.
    Activate {
        /// Which.
        slot: Slot,
    },
    /// Tell the boot loader that this slot is the good one, then say [`Updater::confirmed`](super::Updater::confirmed).
    Confirm {
        /// Which.
        slot: Slot,
    },
    /// Tell the boot loader to go back to this slot, and restart.
    Revert {
        /// Which.
        slot: Slot,
    },
    /// Send this. One that is final is said again after every start until [`Updater::reported`](super::Updater::reported).
    Report(Report),
}

/// Why a part of the image did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchFailure {
    /// No connection, an error of the server, a connection that broke.
    Unreachable,
    /// The server says that the link is valid no more (HTTP 401, 403, 404, 410).
    LinkExpired,
}

/// What became of an offer.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "an offer is taken, continued, needless, too early, or refused")]
pub enum Offered {
    /// The device loads it.
    Accepted,
    /// The device loads it already, from now on by this offer's link and under its rollout.
    Continued,
    /// The device runs this very release; it reports so.
    Present,
    /// A release is being tried, or the device has not said which slot runs. Nothing was looked at; the offer comes again.
    Busy,
    /// No.
    Refused(Refused),
}
