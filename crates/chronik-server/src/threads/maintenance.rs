//! The thread that keeps logs in order: checkpoints, retention, removal of deleted files.

use std::io;

use chronik_types::{MonotonicMs, Now};

use super::worker::{OnPanic, Waker, Worker};
use crate::clock::Clock;

/// How long upkeep waits for its next turn at the most.
pub const MAINTENANCE_INTERVAL_MS: u64 = 1_000;
/// How long it waits at the least, unless it is woken: upkeep that is late must not take a core for itself.
const MAINTENANCE_PAUSE_MS: u64 = 5;

/// Starts the maintenance thread, which calls `maintain` when it says that it wants to be called again, at least every
/// [`MAINTENANCE_INTERVAL_MS`], and when woken.
pub fn start_maintenance(
    clock: Clock,
    waker: Waker,
    mut maintain: impl FnMut(Now) -> MonotonicMs + Send + 'static,
    on_panic: OnPanic,
) -> io::Result<Worker> {
    let duty = move |now: Now| {
        let wanted = maintain(now);
        // From when it ends, so that slow upkeep does not follow itself without a pause.
        let ended = clock.monotonic();
        Some(wanted.clamp(ended.plus_ms(MAINTENANCE_PAUSE_MS), ended.plus_ms(MAINTENANCE_INTERVAL_MS)))
    };
    Worker::start("maintenance", clock, waker, duty, on_panic)
}
