//! Commands: the engine that follows each from its request to its end, and the service in front of it.

mod correlator;

pub use correlator::{Cancelled, CommandLimits, Correlator, Effect, Now, Submitted};
