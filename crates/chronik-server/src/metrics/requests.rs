//! Requests and connections, counted by the threads that serve them.
//!
//! Each thread counts in a shard of its own, so that threads do not wait for each other's cache lines; a scrape adds
//! the shards up. Counting one request is a handful of relaxed additions.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// API keys below this are told apart; Kafka's go up to 93. Whatever is above is counted as one.
pub const API_KEYS_MAX: usize = 128;

/// More threads than this share shards.
const SHARDS_MAX: usize = 16;

/// The upper bounds of the classes that latencies are sorted into, in microseconds; one more class holds the rest.
pub const LATENCY_BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer, or with none where none is due.
    Answered,
    /// The connection was closed over it.
    Closed,
}

#[derive(Debug, Default)]
struct ApiCounters {
    requests: AtomicU64,
    closed: AtomicU64,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    latency_us: AtomicU64,
    classes: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
}

/// What one API has been asked, from the start of the process on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApiStats {
    /// Requests that have ended.
    pub requests: u64,
    /// Those of them over which the connection was closed.
    pub closed: u64,
    /// Bytes of all requests.
    pub request_bytes: u64,
    /// Bytes of all answers.
    pub response_bytes: u64,
    /// The sum of all latencies, from the whole request to the whole answer, in microseconds.
    pub latency_us: u64,
    /// How many requests took up to each bound of [`LATENCY_BOUNDS_US`] and more than the one before; the last is of
    /// those that took longer than all bounds.
    pub classes: [u64; LATENCY_BOUNDS_US.len() + 1],
}

/// The counters of all connections.
#[derive(Debug)]
pub struct RequestStats {
    shards: Vec<Box<[ApiCounters]>>,
    connections_accepted: AtomicU64,
    connections_refused: AtomicU64,
}

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The number of this thread; they are given out in turn.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut number = SHARD.get();
    if number == usize::MAX {
        number = NEXT.fetch_add(1, Ordering::Relaxed);
        SHARD.set(number);
    }
    number
}

impl RequestStats {
    /// Counters for about so many threads.
    pub fn new(thread_count: usize) -> Self {
        let shard = || (0..=API_KEYS_MAX).map(|_| ApiCounters::default()).collect();
        Self {
            shards: (0..thread_count.clamp(1, SHARDS_MAX)).map(|_| shard()).collect(),
            connections_accepted: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
        }
    }

    /// Notes a request that has ended.
    pub fn ended(
        &self,
        api_key: i16,
        outcome: Outcome,
        latency: Duration,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        let at = usize::try_from(api_key).unwrap_or(API_KEYS_MAX).min(API_KEYS_MAX);
        let shard = self.shards.get(thread_number() % self.shards.len());
        let Some(counters) = shard.and_then(|shard| shard.get(at)) else { return };
        let add = |counter: &AtomicU64, count| {
            counter.fetch_add(count, Ordering::Relaxed);
        };
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        add(&counters.requests, 1);
        if outcome == Outcome::Closed {
            add(&counters.closed, 1);
        }
        add(&counters.request_bytes, request_bytes);
        add(&counters.response_bytes, response_bytes);
        add(&counters.latency_us, latency_us);
        let class = LATENCY_BOUNDS_US.partition_point(|bound| *bound < latency_us);
        if let Some(class) = counters.classes.get(class) {
            add(class, 1);
        }
    }

    /// Notes a client that was let in.
    pub fn accepted(&self) {
        self.connections_accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a client that was sent away.
    pub fn refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Clients that were let in and that were sent away.
    pub fn connections(&self) -> (u64, u64) {
        (self.connections_accepted.load(Ordering::Relaxed), self.connections_refused.load(Ordering::Relaxed))
    }

    /// What an API has been asked; `None` for all keys that are not told apart.
    pub fn of(&self, api_key: Option<i16>) -> ApiStats {
        let at = api_key.and_then(|key| usize::try_from(key).ok()).unwrap_or(API_KEYS_MAX).min(API_KEYS_MAX);
        let mut sum = ApiStats::default();
        for counters in self.shards.iter().filter_map(|shard| shard.get(at)) {
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            sum.requests += read(&counters.requests);
            sum.closed += read(&counters.closed);
            sum.request_bytes += read(&counters.request_bytes);
            sum.response_bytes += read(&counters.response_bytes);
            sum.latency_us = sum.latency_us.saturating_add(read(&counters.latency_us));
            for (into, class) in sum.classes.iter_mut().zip(&counters.classes) {
                *into += read(class);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_apart_and_are_added_up() {
        let stats = RequestStats::new(3);
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        stats.ended(0, Outcome::Answered, Duration::from_micros(300), 10, 20);
                    }
                });
            }
        });
        let produce = stats.of(Some(0));
        assert_eq!((produce.requests, produce.closed), (500, 0));
        assert_eq!((produce.request_bytes, produce.response_bytes), (5_000, 10_000));
        assert_eq!(produce.latency_us, 150_000);
        assert_eq!(produce.classes[2], 500);
        assert_eq!(stats.of(Some(1)), ApiStats::default());
    }

    #[test]
    fn a_latency_falls_into_the_class_whose_bound_it_does_not_exceed() {
        let stats = RequestStats::new(1);
        for (us, class) in [(0, 0), (100, 0), (101, 1), (10_000_000, 14), (10_000_001, 15), (u64::MAX, 15)] {
            let before = stats.of(Some(3)).classes[class];
            stats.ended(3, Outcome::Answered, Duration::from_micros(us), 0, 0);
            assert_eq!(stats.of(Some(3)).classes[class], before + 1, "{us}");
        }
    }

    #[test]
    fn keys_that_nobody_knows_are_counted_as_one() {
        let stats = RequestStats::new(1);
        for key in [i16::MIN, -1, i16::try_from(API_KEYS_MAX).unwrap(), i16::MAX] {
            stats.ended(key, Outcome::Closed, Duration::ZERO, 1, 0);
        }
        assert_eq!((stats.of(None).requests, stats.of(None).closed), (4, 4));
    }
}
