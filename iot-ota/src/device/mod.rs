//! A device's end of an update: what it believes, what it loads, and how it comes back when the new image is no good.
//!
//! [`Updater`] opens nothing and knows no clock: things happen to it, and it says by [`Updater::poll_action`] what to do. It
//! works with two slots and never writes to the one that runs.
//!
//! ```text
//!            offer              all chunks match            restart             health(true)
//!    idle ──────────▶ loading ──────────────────▶ trial ──────────────▶ trial ──────────────▶ confirming ──▶ idle
//!                        │                                                │                                 confirmed
//!       idle ◀── failed ─┘                             idle ◀─────────────┘ unwell, too late, too many starts
//!                refused                               rolled back
//! ```
//!
//! **The one rule of use**: before an action is carried out, [`Updater::state`] is stored durably. Then a power cut at any
//! moment leaves a device that starts the old image or the new one, whole: what was loaded is read back and hashed again
//! after every restart, and the slot is given to the boot loader only after the last chunk was read back and matched.

mod action;
mod load;
mod offering;
mod slots;
mod state;
#[cfg(test)]
mod tests;
mod updater;

pub use action::{Action, FetchFailure, Identity, Limits, Now, Offered};
pub use slots::{SlotError, SlotFolder};
pub use state::{BOOTS_MAX, REVERTED_MAX, Running, STATE_BYTES_MAX, State, StateError};
pub use updater::Updater;

pub use crate::wire::Slot;
