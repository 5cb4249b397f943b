//! Deadlines instead of sleeps.

use std::time::{Duration, Instant};

/// How long something may take that has no deadline of its own. Generous: machines under load are not what is tested.
pub const SOON: Duration = Duration::from_secs(20);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` finds something.
///
/// # Panics
///
/// If it has not by then; `what` is in the text.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < within, "waited {within:?} in vain for: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Looks as long as `within`, or until there is something: then that is the fault.
///
/// # Panics
///
/// If `look` finds something.
#[track_caller]
pub fn never<T: std::fmt::Debug>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) {
    let begun = Instant::now();
    while begun.elapsed() < within {
        if let Some(found) = look() {
            panic!("{what}: {found:?}");
        }
        std::thread::sleep(PAUSE);
    }
}
