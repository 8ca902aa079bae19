//! The first batches of producers that this broker has refused, and that are to come again before any other (ADR 14).
//!
//! A log that knows nothing of a producer takes any sequence number. A producer that has several batches under way may have
//! its first one refused, for whatever passes, and the second taken a moment later: the first one is then out of order for
//! ever, and librdkafka takes the answer to the second for an answer to both (KAFKA-15591).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use chronik_protocol::produce::TopicRef;
use chronik_types::{MonotonicMs, PartitionIndex, ProducerEpoch, ProducerId, validate_topic_name};
use parking_lot::Mutex;

/// How long a refused batch is waited for: as long as clients may take to send it again. A producer that has given it up
/// goes on afterwards, as on Kafka.
const WAIT_MS_MAX: u64 = 60_000;
/// How many are waited for. Where more are refused at once, those after them are not, as on Kafka.
const WAITING_MAX: usize = 10_000;

type Key = (ProducerId, TopicRef, PartitionIndex);

/// Where a batch stands among those of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) base: i32,
}

/// A batch that is waited for.
#[derive(Clone, Copy, Debug)]
struct Refused {
    epoch: ProducerEpoch,
    since: MonotonicMs,
}

/// What is waited for, and since when.
#[derive(Debug, Default)]
pub(crate) struct FirstBatches {
    waiting: Mutex<BTreeMap<Key, Refused>>,
    /// Nearly always nothing is waited for, which costs nobody a lock.
    has_any: AtomicBool,
}

impl FirstBatches {
    /// A producer's batch was refused with an error that passes, and may be sent again.
    pub(crate) fn refused(
        &self,
        now: MonotonicMs,
        topic: &TopicRef,
        index: PartitionIndex,
        sequence: Option<Sequence>,
    ) {
        let Some(Sequence { producer, epoch, base: 0 }) = sequence else { return };
        if matches!(topic, TopicRef::Name(name) if validate_topic_name(name).is_err()) {
            return;
        }
        let mut waiting = self.waiting.lock();
        let key = (producer, topic.clone(), index);
        // One of an earlier epoch is late, and nobody sends it again.
        let is_late = waiting.get(&key).is_some_and(|newer| epoch < newer.epoch);
        if waiting.len() < WAITING_MAX && !is_late {
            waiting.insert(key, Refused { epoch, since: now });
            self.has_any.store(true, Ordering::Release);
        }
    }

    /// Forgets those that have not come again. Most have gone to another broker.
    pub(crate) fn forget_old(&self, now: MonotonicMs) {
        if self.has_any() {
            let mut waiting = self.waiting.lock();
            waiting.retain(|_, refused| now.since_ms(refused.since) < WAIT_MS_MAX);
            self.has_any.store(!waiting.is_empty(), Ordering::Release);
        }
    }

    /// Whether anything is waited for.
    pub(crate) fn has_any(&self) -> bool {
        self.has_any.load(Ordering::Acquire)
    }

    /// Whether a batch must come again after its producer's first one. That one is not waited for any more when it is here,
    /// or has come to another leader meanwhile: `is_known` tells whether the log has something of the producer's epoch.
    pub(crate) fn is_early(
        &self,
        now: MonotonicMs,
        topic: &TopicRef,
        index: PartitionIndex,
        sequence: Sequence,
        is_known: impl FnOnce() -> bool,
    ) -> bool {
        let key = (sequence.producer, topic.clone(), index);
        let Some(refused) = self.waiting.lock().get(&key).copied() else { return false };
        if sequence.epoch < refused.epoch {
            // It is late, and says nothing of those that are waited for.
            return false;
        }
        // The log may be busy: nobody else waits for it here.
        let is_early = sequence.epoch == refused.epoch
            && sequence.base > 0
            && now.since_ms(refused.since) < WAIT_MS_MAX
            && !is_known();
        if !is_early {
            let mut waiting = self.waiting.lock();
            waiting.remove(&key);
            self.has_any.store(!waiting.is_empty(), Ordering::Release);
        }
        is_early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: PartitionIndex = PartitionIndex(0);

    fn topic() -> TopicRef {
        TopicRef::Name("orders".to_owned())
    }

    fn sequence(producer: i64, epoch: i16, base: i32) -> Sequence {
        Sequence { producer: ProducerId(producer), epoch: ProducerEpoch(epoch), base }
    }

    fn refuse(batches: &FirstBatches, at_ms: u64, sequence: Sequence) {
        batches.refused(MonotonicMs(at_ms), &topic(), INDEX, Some(sequence));
    }

    fn is_early(batches: &FirstBatches, at_ms: u64, sequence: Sequence) -> bool {
        batches.is_early(MonotonicMs(at_ms), &topic(), INDEX, sequence, || false)
    }

    #[test]
    fn others_wait_until_the_first_one_is_here_or_given_up() {
        let batches = FirstBatches::default();
        assert!(!is_early(&batches, 0, sequence(1, 0, 5)), "a producer that has not been here");
        refuse(&batches, 0, sequence(1, 0, 5));
        batches.refused(MonotonicMs(0), &topic(), INDEX, None);
        assert!(!is_early(&batches, 0, sequence(1, 0, 10)), "only the first batch is waited for");
        for _ in 0..2 {
            refuse(&batches, 0, sequence(1, 0, 0));
            assert!(is_early(&batches, 1, sequence(1, 0, 5)));
            assert!(!is_early(&batches, 1, sequence(2, 0, 5)), "others do not wait");
            assert!(!is_early(&batches, 2, sequence(1, 0, 0)), "it is here");
            assert!(!is_early(&batches, 2, sequence(1, 0, 5)));
        }
        refuse(&batches, 0, sequence(1, 0, 0));
        assert!(is_early(&batches, 1, sequence(1, 0, 5)));
        let is_known = batches.is_early(MonotonicMs(1), &topic(), INDEX, sequence(1, 0, 5), || true);
        assert!(!is_known, "it has come to another leader");
        assert!(!is_early(&batches, 1, sequence(1, 0, 5)));
        refuse(&batches, 0, sequence(1, 0, 0));
        assert!(is_early(&batches, WAIT_MS_MAX - 1, sequence(1, 0, 5)));
        assert!(!is_early(&batches, WAIT_MS_MAX, sequence(1, 0, 5)));
        assert!(!batches.has_any());
    }

    #[test]
    fn each_epoch_of_a_producer_has_a_first_batch() {
        let batches = FirstBatches::default();
        refuse(&batches, 0, sequence(1, 3, 0));
        refuse(&batches, 0, sequence(1, 2, 0));
        assert!(!is_early(&batches, 1, sequence(1, 2, 5)), "the log says what it thinks of that");
        assert!(is_early(&batches, 1, sequence(1, 3, 5)));
        assert!(!is_early(&batches, 1, sequence(1, 4, 0)), "nobody sends that epoch again");
        assert!(!batches.has_any());
    }

    #[test]
    fn there_is_an_end_to_what_is_waited_for() {
        let batches = FirstBatches::default();
        let no_topic = TopicRef::Name("no topic".to_owned());
        batches.refused(MonotonicMs(0), &no_topic, INDEX, Some(sequence(1, 0, 0)));
        assert!(!batches.has_any(), "what cannot be a topic is not remembered");
        let number = |at: usize| i64::try_from(at).unwrap_or(0);
        for producer in 0..=WAITING_MAX {
            refuse(&batches, 0, sequence(number(producer), 0, 0));
        }
        assert!(!is_early(&batches, 1, sequence(number(WAITING_MAX), 0, 5)));
        batches.forget_old(MonotonicMs(WAIT_MS_MAX - 1));
        assert!(is_early(&batches, 1, sequence(0, 0, 5)));
        batches.forget_old(MonotonicMs(WAIT_MS_MAX));
        assert!(!batches.has_any(), "most have gone to another broker, and never come again");
    }
}
