//! The thread of the metadata log: proposals and messages come in through a bounded queue, time through ticks.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use chronik_types::{MonotonicMs, Now};
use parking_lot::Mutex;
use thiserror::Error;

use super::worker::{OnPanic, Waker, Worker};
use crate::clock::Clock;

/// Events that wait for the thread at most. Each is a request that its sender waits for, so a full queue means
/// that the log's disk stands still, and more waiting helps nobody.
pub const METADATA_QUEUE_MAX: usize = 10_000;

/// What runs on the thread.
pub trait MetadataDriver: Send + 'static {
    /// What is put into the queue.
    type Event: Send + 'static;

    /// Takes all that has come since the last turn, so that it shares one sync, then does what time demands.
    /// Returns when it wants its next turn at the latest.
    fn turn(&mut self, now: Now, events: VecDeque<Self::Event>) -> Option<MonotonicMs>;
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{METADATA_QUEUE_MAX} events wait for the metadata thread already")]
pub struct MetadataInboxFull;

/// The way in; cheap to clone.
#[derive(Debug)]
pub struct MetadataInbox<E> {
    queue: Arc<Mutex<VecDeque<E>>>,
    waker: Waker,
}

impl<E> Clone for MetadataInbox<E> {
    fn clone(&self) -> Self {
        Self { queue: Arc::clone(&self.queue), waker: self.waker.clone() }
    }
}

impl<E> Default for MetadataInbox<E> {
    fn default() -> Self {
        Self { queue: Arc::default(), waker: Waker::new() }
    }
}

impl<E> MetadataInbox<E> {
    /// Queues an event and wakes the thread.
    pub fn send(&self, event: E) -> Result<(), MetadataInboxFull> {
        {
            let mut queue = self.queue.lock();
            if queue.len() >= METADATA_QUEUE_MAX {
                return Err(MetadataInboxFull);
            }
            queue.push_back(event);
        }
        self.waker.wake();
        Ok(())
    }
}

/// Starts the metadata thread, which gives `driver` what comes in through `inbox`.
pub fn start_metadata<D: MetadataDriver>(
    clock: Clock,
    inbox: &MetadataInbox<D::Event>,
    mut driver: D,
    on_panic: OnPanic,
) -> io::Result<Worker> {
    let queue = Arc::clone(&inbox.queue);
    let duty = move |now: Now| {
        let events = std::mem::take(&mut *queue.lock());
        driver.turn(now, events)
    };
    Worker::start("metadata", clock, inbox.waker.clone(), duty, on_panic)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    struct Collect(mpsc::Sender<Vec<u32>>);

    impl MetadataDriver for Collect {
        type Event = u32;
        fn turn(&mut self, _now: Now, events: VecDeque<u32>) -> Option<MonotonicMs> {
            self.0.send(events.into()).expect("the test listens");
            None
        }
    }

    #[test]
    fn events_arrive_in_order_and_the_queue_is_bounded() {
        let inbox = MetadataInbox::default();
        for event in 0..u32::try_from(METADATA_QUEUE_MAX).expect("small") {
            inbox.send(event).expect("room");
        }
        assert_eq!(inbox.send(0), Err(MetadataInboxFull));
        let (sender, turns) = mpsc::channel();
        let on_panic: OnPanic = Arc::new(|name, text| panic!("{name}: {text}"));
        let _worker = start_metadata(Clock::start(), &inbox, Collect(sender), on_panic).expect("started");
        let mut all = Vec::new();
        while all.len() < METADATA_QUEUE_MAX {
            all.extend(turns.recv_timeout(Duration::from_secs(20)).expect("a turn"));
        }
        assert!((0..).zip(&all).all(|(expected, event)| expected == *event));
        inbox.send(7).expect("room again");
        let next = std::iter::from_fn(|| turns.recv_timeout(Duration::from_secs(20)).ok())
            .find(|turn| !turn.is_empty());
        assert_eq!(next, Some(vec![7]));
    }
}
