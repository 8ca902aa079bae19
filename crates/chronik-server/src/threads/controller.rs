//! The thread of the controller's duties: what the leader of the metadata log has to see to.

use std::io;

use chronik_types::{MonotonicMs, Now};

use super::worker::{OnPanic, Waker, Worker};
use crate::clock::Clock;

/// Starts the controller's thread. `run_controller` does what is due and returns when it wants to run again unless
/// `waker` is called before, as it is with every change of the metadata.
pub fn start_controller(
    clock: Clock,
    waker: Waker,
    run_controller: impl FnMut(Now) -> Option<MonotonicMs> + Send + 'static,
    on_panic: OnPanic,
) -> io::Result<Worker> {
    Worker::start("controller", clock, waker, run_controller, on_panic)
}
