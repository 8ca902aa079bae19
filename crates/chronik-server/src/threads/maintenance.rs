//! The thread that keeps logs in order: checkpoints, retention, removal of deleted files.

use std::io;

use chronik_types::Now;

use super::worker::{OnPanic, Waker, Worker};
use crate::clock::Clock;

/// How often upkeep is offered its turn. What is due is decided below, by intervals of its own.
pub const MAINTENANCE_INTERVAL_MS: u64 = 1_000;

/// Starts the maintenance thread, which calls `maintain` every [`MAINTENANCE_INTERVAL_MS`] and when woken.
pub fn start_maintenance(
    clock: Clock,
    waker: Waker,
    mut maintain: impl FnMut(Now) + Send + 'static,
    on_panic: OnPanic,
) -> io::Result<Worker> {
    let duty = move |now: Now| {
        maintain(now);
        // From when it ends, so that slow upkeep does not follow itself without a pause.
        Some(clock.monotonic().plus_ms(MAINTENANCE_INTERVAL_MS))
    };
    Worker::start("maintenance", clock, waker, duty, on_panic)
}
