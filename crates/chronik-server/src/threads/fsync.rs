//! The thread that syncs logs to disk: all that have asked since its last turn, each file once.

use std::io;

use chronik_types::{MonotonicMs, Now};

use super::worker::{OnPanic, Waker, Worker};
use crate::clock::Clock;

/// Starts the sync thread. `sync` takes what has asked to be synced, syncs it, runs what waited for that, and
/// returns when the next sync by time is due. Appends that ask to be synced call [`Waker::wake`] on `waker`;
/// those that come while a sync runs are the next one's.
pub fn start_fsync(
    clock: Clock,
    waker: Waker,
    sync: impl FnMut(Now) -> Option<MonotonicMs> + Send + 'static,
    on_panic: OnPanic,
) -> io::Result<Worker> {
    Worker::start("fsync", clock, waker, sync, on_panic)
}
