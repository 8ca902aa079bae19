//! The first batches of producers that this broker has refused, and that are to come again before any other (ADR 14).
//!
//! A log that knows nothing of a producer takes any sequence number. A producer that has several batches under way may have
//! its first one refused, for whatever passes, and the second taken a moment later: the first one is then out of order for
//! ever, and librdkafka takes the answer to the second for an answer to both (KAFKA-15591).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use chronik_protocol::produce::TopicRef;
use chronik_types::{MonotonicMs, PartitionIndex, ProducerId};
use parking_lot::Mutex;

/// How long a refused batch is waited for: as long as clients may take to send it again. A producer that has given it up
/// goes on afterwards, as on Kafka.
const WAIT_MS_MAX: u64 = 60_000;
/// How many are waited for. Where more are refused at once, those after them are not, as on Kafka.
const WAITING_MAX: usize = 10_000;

type Key = (ProducerId, TopicRef, PartitionIndex);

/// What is waited for, and since when.
#[derive(Debug, Default)]
pub(crate) struct FirstBatches {
    waiting: Mutex<BTreeMap<Key, MonotonicMs>>,
    /// Nearly always nothing is waited for, which costs nobody a lock.
    has_any: AtomicBool,
}

impl FirstBatches {
    /// A producer's batch with this first sequence number was refused, and may be sent again.
    pub(crate) fn refused(&self, now: MonotonicMs, key: Key, base_sequence: i32) {
        if base_sequence != 0 || key.0.get() < 0 {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING_MAX {
            waiting.retain(|_, since| now.since_ms(*since) < WAIT_MS_MAX);
        }
        if waiting.len() < WAITING_MAX {
            waiting.insert(key, now);
            self.has_any.store(true, Ordering::Release);
        }
    }

    /// Whether anything is waited for.
    pub(crate) fn has_any(&self) -> bool {
        self.has_any.load(Ordering::Acquire)
    }

    /// Whether a batch must come again after its producer's first one. That one is not waited for any more when it is here,
    /// or has come to another leader meanwhile: `is_known` tells whether the log has something of the producer.
    pub(crate) fn is_early(
        &self,
        now: MonotonicMs,
        key: &Key,
        base_sequence: i32,
        is_known: impl FnOnce() -> bool,
    ) -> bool {
        let mut waiting = self.waiting.lock();
        let Some(since) = waiting.get(key) else { return false };
        let is_early = base_sequence > 0 && now.since_ms(*since) < WAIT_MS_MAX && !is_known();
        if !is_early {
            waiting.remove(key);
            self.has_any.store(!waiting.is_empty(), Ordering::Release);
        }
        is_early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(producer: i64) -> Key {
        (ProducerId(producer), TopicRef::Name("orders".to_owned()), PartitionIndex(0))
    }

    fn is_early(batches: &FirstBatches, now: MonotonicMs, key: &Key, base_sequence: i32) -> bool {
        batches.is_early(now, key, base_sequence, || false)
    }

    #[test]
    fn others_wait_until_the_first_one_is_here_or_given_up() {
        let batches = FirstBatches::default();
        let at = MonotonicMs;
        assert!(!is_early(&batches, at(0), &key(1), 5), "a producer that has not been here");
        batches.refused(at(0), key(1), 5);
        batches.refused(at(0), key(-1), 0);
        assert!(!is_early(&batches, at(0), &key(1), 10), "only the first batch is waited for");
        for _ in 0..2 {
            batches.refused(at(0), key(1), 0);
            assert!(is_early(&batches, at(1), &key(1), 5));
            assert!(!is_early(&batches, at(1), &key(2), 5), "others do not wait");
            assert!(!is_early(&batches, at(2), &key(1), 0), "it is here");
            assert!(!is_early(&batches, at(2), &key(1), 5));
        }
        batches.refused(at(0), key(1), 0);
        assert!(is_early(&batches, at(1), &key(1), 5));
        assert!(!batches.is_early(at(1), &key(1), 5, || true), "it has come to another leader");
        assert!(!is_early(&batches, at(1), &key(1), 5));
        batches.refused(at(0), key(1), 0);
        assert!(is_early(&batches, at(WAIT_MS_MAX - 1), &key(1), 5));
        assert!(!is_early(&batches, at(WAIT_MS_MAX), &key(1), 5));
        assert!(!batches.has_any());
    }

    #[test]
    fn there_is_an_end_to_what_is_waited_for() {
        let batches = FirstBatches::default();
        for producer in 0..=WAITING_MAX {
            batches.refused(MonotonicMs(0), key(i64::try_from(producer).unwrap_or(0)), 0);
        }
        assert!(!is_early(&batches, MonotonicMs(1), &key(i64::try_from(WAITING_MAX).unwrap_or(0)), 5));
        batches.refused(MonotonicMs(WAIT_MS_MAX), key(-7), 0);
        batches.refused(MonotonicMs(WAIT_MS_MAX), key(1_000_000), 0);
        assert!(
            is_early(&batches, MonotonicMs(WAIT_MS_MAX), &key(1_000_000), 5),
            "the old ones are forgotten"
        );
    }
}
