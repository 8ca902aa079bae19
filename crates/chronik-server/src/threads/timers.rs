//! The thread that ends waits: parked fetches, delayed joins, whatever has a deadline.

use std::io;

use chronik_types::{MonotonicMs, Now};

use super::worker::{OnPanic, Waker, Worker};
use crate::clock::Clock;

/// Starts the timers thread. `run_timers` fires what is due and returns the next deadline; whoever sets an
/// earlier one calls [`Waker::wake_at`] on `waker`.
pub fn start_timers(
    clock: Clock,
    waker: Waker,
    run_timers: impl FnMut(Now) -> Option<MonotonicMs> + Send + 'static,
    on_panic: OnPanic,
) -> io::Result<Worker> {
    Worker::start("timers", clock, waker, run_timers, on_panic)
}
