//! The thread of the metadata log: it waits for proposals, messages and time, and drives the quorum's node.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chronik_disk::DiskLock;
use chronik_raft::{RaftDriver, RaftHandle};

use super::worker::{OnPanic, Worker};
use crate::clock::Clock;
use crate::health::Health;

/// What the thread drives, and what it holds while it does.
pub struct MetadataThread {
    /// The node of the quorum.
    pub driver: RaftDriver,
    /// The way to it, which this thread waits on.
    pub handle: RaftHandle,
    /// The clock.
    pub clock: Clock,
    /// Told of every turn of the thread, for whoever asks whether it still lives.
    pub health: Arc<Health>,
    /// The lock of the directory; it is given back when the thread ends.
    pub lock: Box<dyn DiskLock>,
}

/// Starts the metadata thread. A metadata log that fails cannot be mended from within: the process is told as of a
/// panic, and ends.
pub fn start_metadata(thread: MetadataThread, on_panic: OnPanic) -> io::Result<Worker> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let asked = thread.handle.clone();
    thread.health.set_metadata_waker(Box::new(move || asked.wake()));
    let waiting = thread.handle.clone();
    let waker = waiting.clone();
    Worker::run(
        "metadata",
        move || {
            let MetadataThread { mut driver, handle, clock, health, lock } = thread;
            while !stopping.load(Ordering::Acquire) {
                let now = clock.monotonic();
                let next = match driver.poll(now) {
                    Ok(next) => next,
                    Err(error) => return Err(error.to_string()),
                };
                health.metadata_turned(now);
                let at_most =
                    next.map(|deadline| Duration::from_millis(deadline.since_ms(clock.monotonic())));
                handle.wait(at_most);
            }
            drop(driver);
            drop(lock);
            Ok(())
        },
        move || {
            stop.store(true, Ordering::Release);
            waker.wake();
        },
        on_panic,
    )
}
