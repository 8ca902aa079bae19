//! What a follower asks of one leader, over all partitions that it follows there.
//!
//! One request is under way at a time, and the leader holds it until there is something to say. Where the leader
//! grants a session, a request names only the partitions whose position has changed since the last one (KIP-227),
//! so that idle partitions cost nothing on the wire.

use std::collections::{BTreeMap, BTreeSet};

use chronik_types::{LeaderEpoch, MonotonicMs, Offset};

/// The epoch that opens a session, or goes without one when it is final.
const INITIAL_EPOCH: i32 = 0;

/// Where a follower is with one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPosition {
    /// The end of its log.
    pub fetch_offset: Offset,
    /// The start of its log.
    pub log_start_offset: Offset,
    /// The leader epoch in which it follows.
    pub current_leader_epoch: LeaderEpoch,
    /// The epoch of its last record, −1 where it has none.
    pub last_fetched_epoch: LeaderEpoch,
}

/// A request to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPlan<K> {
    /// 0 for a new session.
    pub session_id: i32,
    /// 0 for a new session.
    pub session_epoch: i32,
    /// Partitions that are new to the session or have moved.
    pub fetch: Vec<(K, FetchPosition)>,
    /// Partitions that the session is to forget.
    pub forget: Vec<K>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    position: FetchPosition,
    /// The position that the leader's session has.
    told: Option<FetchPosition>,
    /// Left alone until then.
    resume_at: Option<MonotonicMs>,
}

/// What is fetched from one leader. `K` names a partition.
#[derive(Clone, Debug)]
pub struct Fetcher<K> {
    partitions: BTreeMap<K, Slot>,
    /// Partitions that the leader's session has and should not.
    to_forget: BTreeSet<K>,
    session_id: i32,
    session_epoch: i32,
    is_in_flight: bool,
    /// The one that moved last. Answers follow the order of the request, and the last that got records was the last
    /// that had a turn: a request that names all begins with the next, so that each gets its turn without a session too.
    last_moved: Option<K>,
}

impl<K> Default for Fetcher<K> {
    fn default() -> Self {
        Self {
            partitions: BTreeMap::new(),
            to_forget: BTreeSet::new(),
            session_id: 0,
            session_epoch: INITIAL_EPOCH,
            is_in_flight: false,
            last_moved: None,
        }
    }
}

impl<K: Ord + Clone> Fetcher<K> {
    /// A fetcher of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins to follow a partition from a position, or goes on from another one.
    pub fn follow(&mut self, key: K, position: FetchPosition) {
        self.to_forget.remove(&key);
        let told = self.partitions.get(&key).and_then(|slot| slot.told);
        self.partitions.insert(key, Slot { position, told, resume_at: None });
    }

    /// Stops following a partition.
    pub fn stop(&mut self, key: &K) {
        if self.partitions.remove(key).is_some_and(|slot| slot.told.is_some()) {
            self.to_forget.insert(key.clone());
        }
    }

    /// Leaves a partition alone until then.
    pub fn delay(&mut self, key: &K, until: MonotonicMs) {
        if let Some(slot) = self.partitions.get_mut(key) {
            slot.resume_at = Some(until);
        }
    }

    /// Where a followed partition is.
    pub fn position(&self, key: &K) -> Option<FetchPosition> {
        self.partitions.get(key).map(|slot| slot.position)
    }

    /// The position that the leader was told last, which is what its answer is about.
    pub fn told(&self, key: &K) -> Option<FetchPosition> {
        self.partitions.get(key).and_then(|slot| slot.told)
    }

    /// A followed partition has moved. Where it is followed in another epoch by now, the move is of no account.
    pub fn moved(&mut self, key: &K, position: FetchPosition) {
        if let Some(slot) = self.partitions.get_mut(key)
            && slot.position.current_leader_epoch == position.current_leader_epoch
        {
            if slot.position != position {
                self.last_moved = Some(key.clone());
            }
            slot.position = position;
        }
    }

    /// Those that the leader has been asked for, and that go on from where it was asked.
    pub fn asked(&self) -> impl Iterator<Item = K> + '_ {
        self.partitions
            .iter()
            .filter(|(_, slot)| slot.told == Some(slot.position))
            .map(|(key, _)| key.clone())
    }

    /// Whether nothing is followed.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// The number of partitions that are followed.
    pub fn len(&self) -> usize {
        self.partitions.len()
    }

    /// Whether a request is under way.
    pub fn is_in_flight(&self) -> bool {
        self.is_in_flight
    }

    /// When the first of the partitions that are left alone is due.
    pub fn next_resume(&self) -> Option<MonotonicMs> {
        self.partitions.values().filter_map(|slot| slot.resume_at).min()
    }

    /// The next request, where there is something to ask for and none is under way. The caller sends it, and calls
    /// [`answered`](Self::answered) or [`failed`](Self::failed).
    pub fn next_request(&mut self, now: MonotonicMs) -> Option<FetchPlan<K>> {
        if self.is_in_flight {
            return None;
        }
        for slot in self.partitions.values_mut() {
            slot.resume_at = slot.resume_at.filter(|at| now < *at);
        }
        if self.partitions.values().all(|slot| slot.resume_at.is_some()) {
            return None;
        }
        let mut plan = FetchPlan {
            session_id: self.session_id,
            session_epoch: self.session_epoch,
            fetch: Vec::new(),
            forget: std::mem::take(&mut self.to_forget).into_iter().collect(),
        };
        let is_full = self.session_epoch == INITIAL_EPOCH;
        if is_full {
            plan.forget.clear();
        }
        for (key, slot) in &mut self.partitions {
            if slot.resume_at.is_some() {
                if slot.told.take().is_some() && !is_full {
                    plan.forget.push(key.clone());
                }
            } else if is_full || slot.told != Some(slot.position) {
                slot.told = Some(slot.position);
                plan.fetch.push((key.clone(), slot.position));
            }
        }
        if let Some(last) = self.last_moved.as_ref().filter(|_| is_full) {
            let next = plan.fetch.partition_point(|(key, _)| key <= last);
            plan.fetch.rotate_left(next);
        }
        self.is_in_flight = true;
        Some(plan)
    }

    /// The leader has answered, and granted this session (0: none).
    pub fn answered(&mut self, session_id: i32) {
        self.is_in_flight = false;
        if session_id == 0 {
            self.begin_anew();
            return;
        }
        self.session_epoch = if self.session_id == session_id {
            next_epoch(self.session_epoch)
        } else {
            next_epoch(INITIAL_EPOCH)
        };
        self.session_id = session_id;
    }

    /// There was no answer, or the leader does not know the session: the next request opens a new one.
    pub fn failed(&mut self) {
        self.is_in_flight = false;
        self.begin_anew();
    }

    fn begin_anew(&mut self) {
        self.session_id = 0;
        self.session_epoch = INITIAL_EPOCH;
        self.to_forget.clear();
        for slot in self.partitions.values_mut() {
            slot.told = None;
        }
    }
}

/// Epochs of a session run from 1 to the largest number, and then from 1 again.
fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> FetchPosition {
        FetchPosition {
            fetch_offset: Offset(offset),
            log_start_offset: Offset(0),
            current_leader_epoch: LeaderEpoch(1),
            last_fetched_epoch: LeaderEpoch(1),
        }
    }

    fn ask(fetcher: &mut Fetcher<u8>, now_ms: u64) -> (i32, i32, Vec<(u8, i64)>, Vec<u8>) {
        let plan = fetcher.next_request(MonotonicMs(now_ms)).expect("something to ask for");
        let fetch = plan.fetch.iter().map(|(key, position)| (*key, position.fetch_offset.get())).collect();
        (plan.session_id, plan.session_epoch, fetch, plan.forget)
    }

    #[test]
    fn kip_227_a_session_is_told_what_has_changed_and_nothing_else() {
        let mut fetcher = Fetcher::new();
        assert_eq!(fetcher.next_request(MonotonicMs(0)), None);
        for key in [1, 2, 3] {
            fetcher.follow(key, at(0));
        }
        assert_eq!(ask(&mut fetcher, 0), (0, 0, vec![(1, 0), (2, 0), (3, 0)], vec![]));
        assert_eq!(fetcher.next_request(MonotonicMs(0)), None, "one at a time");
        fetcher.answered(7);
        fetcher.follow(2, at(5));
        assert_eq!(ask(&mut fetcher, 0), (7, 1, vec![(2, 5)], vec![]));
        fetcher.answered(7);
        fetcher.stop(&1);
        fetcher.delay(&3, MonotonicMs(10));
        assert_eq!(ask(&mut fetcher, 9), (7, 2, vec![], vec![1, 3]));
        fetcher.answered(7);
        assert_eq!(fetcher.next_resume(), Some(MonotonicMs(10)));
        fetcher.follow(1, at(2));
        assert_eq!(ask(&mut fetcher, 10), (7, 3, vec![(1, 2), (3, 0)], vec![]));
        fetcher.failed();
        assert_eq!(ask(&mut fetcher, 10), (0, 0, vec![(1, 2), (2, 5), (3, 0)], vec![]));
        fetcher.answered(0);
        assert_eq!(ask(&mut fetcher, 10).1, 0, "without a session every request is whole");
    }

    #[test]
    fn a_partition_that_comes_back_before_it_was_forgotten_is_told_again() {
        let mut fetcher = Fetcher::new();
        fetcher.follow(1, at(3));
        fetcher.follow(2, at(3));
        ask(&mut fetcher, 0);
        fetcher.answered(7);
        fetcher.stop(&1);
        fetcher.follow(1, at(3));
        assert_eq!(ask(&mut fetcher, 0), (7, 1, vec![(1, 3)], vec![]));
        fetcher.answered(7);
        fetcher.delay(&1, MonotonicMs(5));
        fetcher.delay(&2, MonotonicMs(6));
        assert_eq!(fetcher.next_request(MonotonicMs(4)), None, "all are left alone");
        assert_eq!(ask(&mut fetcher, 5), (7, 2, vec![], vec![2]));
    }

    #[test]
    fn requests_that_name_all_begin_behind_the_one_that_was_served_last() {
        let mut fetcher = Fetcher::new();
        for key in [1, 2, 3, 4] {
            fetcher.follow(key, at(0));
        }
        // An answer has room for the first two of a request.
        let mut serve = || {
            let (_, _, fetch, _) = ask(&mut fetcher, 0);
            for (key, offset) in &fetch[..2] {
                fetcher.moved(key, at(offset + 1));
            }
            for (key, offset) in &fetch[2..] {
                fetcher.moved(key, at(*offset));
            }
            fetcher.answered(0);
            fetch.iter().map(|(key, _)| *key).collect::<Vec<_>>()
        };
        assert_eq!(serve(), [1, 2, 3, 4]);
        assert_eq!(serve(), [3, 4, 1, 2]);
        assert_eq!(serve(), [1, 2, 3, 4]);
        fetcher.stop(&2);
        assert_eq!(ask(&mut fetcher, 0).2, [(3, 1), (4, 1), (1, 2)]);
    }

    #[test]
    fn session_epochs_wrap_to_one() {
        assert_eq!(next_epoch(i32::MAX), 1);
        assert_eq!(next_epoch(INITIAL_EPOCH), 1);
    }
}
