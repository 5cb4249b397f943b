//! Rollouts as an engine: which devices are offered a release, and when it stops. Pure: time and records are given to it,
//! all arithmetic is in whole numbers.
//!
//! ```text
//!            start             pause
//!   draft ─────────▶ running ◀────────▶ paused
//!     │                │  │    resume     │
//!     │                │  └─ every device has come to an end ──▶ completed
//!     │                └──── too many failures in a group ─────▶ halted
//!     └── cancel ──────┴──────────────────┴────────▶ cancelled ◀── cancel
//! ```
//!
//! A device belongs to one group by a stable hash of rollout and device, or because the first group names it. It has one
//! vote. A gate decides by whole votes, failures before successes, and not before enough devices have voted; a device that
//! was never reached has no vote.

mod assignment;
mod explain;
mod plan;
mod record;
mod share;

pub use assignment::{Assignment, NO_PROGRESS, Phase, REASON_BYTES_MAX, Reported, Vote};
pub use explain::{Explanation, Facts, ReleaseFacts, RunsFacts, explain};
pub use plan::{
    GROUPS_MAX, GROUPS_MIN, Gate, GroupPlan, Judgement, NAMED_DEVICES_MAX, PATIENCE_S_DEFAULT, Plan, PlanError,
    SECONDS_MAX, Votes,
};
pub use record::{Group, Moved, Order, Ordered, Rollout, State, Walk};
pub use share::{PER_MILLE, place_of};
