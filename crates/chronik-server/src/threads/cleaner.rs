//! The threads that compact logs, each a log at a time.

use std::io;

use chronik_log::CleanerWorker;
use chronik_types::{MonotonicMs, Now};

use super::worker::{Duty, OnPanic, Waker, Worker};
use crate::clock::Clock;

/// Starts a thread that drives `worker`. It works in small steps, so that it is stopped soon whatever it does; what was
/// begun then is begun anew after the next start.
pub fn start_cleaner(clock: Clock, worker: CleanerWorker, on_panic: OnPanic) -> io::Result<Worker> {
    Worker::start("cleaner", clock, Waker::new(), Cleaning(worker), on_panic)
}

struct Cleaning(CleanerWorker);

impl Duty for Cleaning {
    fn run(&mut self, now: Now) -> Option<MonotonicMs> {
        Some(self.0.step(now))
    }

    fn finish(&mut self, now: Now) {
        self.0.abandon(now);
    }
}
