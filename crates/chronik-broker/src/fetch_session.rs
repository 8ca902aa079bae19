//! Incremental fetch sessions (KIP-227).
//!
//! A session remembers which partitions a client fetches and what it was last told of each, so that a request
//! names only what changed and a response holds only what is new. This is bookkeeping alone: reading the logs
//! and writing the response belong to the Fetch API.
//!
//! | request (session id, epoch) | meaning |
//! |---|---|
//! | (0, −1) | no session: a full fetch, nothing remembered |
//! | (0, 0) | a full fetch that asks for a new session |
//! | (id, 0) | closes `id`, then as (0, 0) |
//! | (id, −1) | closes `id`, then as (0, −1) |
//! | (id, n) | the n-th incremental fetch of `id`; any other number is `INVALID_FETCH_SESSION_EPOCH` |
//!
//! Partitions are served in turns, and one that returned data goes to the back. In Kafka one that is new to a session
//! begins at the back, and so it does here for consumers, who forget and name partitions all the time. In a follower's
//! session it comes earlier until its first turn: a producer may wait for it, while those that fill whole answers only catch up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_types::{ErrorCode, MonotonicMs, NodeId, TopicId};
use parking_lot::Mutex;

/// A session may be evicted for another once it has not been used for this long (`min.incremental.fetch.session.eviction.ms`).
const EVICTION_AGE_MS_MIN: u64 = 120_000;

/// The most partitions that all sessions together remember. One takes about 250 bytes, so this is some 50 MB, and room
/// for 20 consumers of 10,000 partitions each. Beyond it fetches are served without a session, as Kafka does beyond its
/// slots; clients then name all their partitions each time.
const SESSION_PARTITIONS_MAX: usize = 200_000;

/// How many bytes of a topic's name come with a partition. No topic has a longer name, but anybody may ask for one, up to
/// 32767 bytes long, which then counts for as many partitions as it takes.
const NAME_BYTES_PER_PARTITION: usize = 250;

/// The most sessions of one follower: one for each of its lanes, and as many that lost connections have left behind. Whoever
/// pretends to be a follower gets no more of what consumers share than that.
const FOLLOWER_SESSIONS_MAX: usize = 4;

/// Names a partition within a session. Requests up to v12 give a name and no id, later ones an id and no name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionKey {
    pub(crate) topic_id: TopicId,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}

impl SessionKey {
    /// For how many partitions it counts where sessions are bounded.
    fn weight(&self) -> usize {
        1 + self.topic.len() / NAME_BYTES_PER_PARTITION
    }
}

/// What a client asked for of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionFetch {
    pub(crate) current_leader_epoch: i32,
    pub(crate) fetch_offset: i64,
    pub(crate) last_fetched_epoch: i32,
    pub(crate) log_start_offset: i64,
    pub(crate) max_bytes: i32,
}

/// One remembered partition.
#[derive(Clone, Debug)]
struct CachedPartition {
    fetch: PartitionFetch,
    /// What the client was last told; −1 makes the next response tell it again.
    told_high_watermark: i64,
    told_log_start_offset: i64,
    /// Its place in the order of service. A partition that returned data goes to the back, so that a busy one
    /// cannot keep the others from being answered.
    turn: u64,
}

/// One session. The epoch is the number that the next request must carry.
#[derive(Debug)]
pub(crate) struct FetchSession {
    id: i32,
    epoch: i32,
    uses_topic_ids: bool,
    is_followers: bool,
    by_key: BTreeMap<SessionKey, CachedPartition>,
    /// For how many partitions they count.
    weight: usize,
    /// Those that are no newcomers.
    by_turn: BTreeMap<u64, SessionKey>,
    /// Those that a follower has named since the session began, and that have not had a turn yet.
    newcomers_by_turn: BTreeMap<u64, SessionKey>,
    next_turn: u64,
}

impl FetchSession {
    /// The partitions that it begins with, in their order.
    fn new(
        id: i32,
        uses_topic_ids: bool,
        is_followers: bool,
        partitions: impl Iterator<Item = (SessionKey, PartitionFetch)>,
    ) -> Self {
        let mut session = Self {
            id,
            epoch: 1,
            uses_topic_ids,
            is_followers,
            by_key: BTreeMap::new(),
            weight: 0,
            by_turn: BTreeMap::new(),
            newcomers_by_turn: BTreeMap::new(),
            next_turn: 0,
        };
        for (key, fetch) in partitions {
            session.upsert(key, fetch, false);
        }
        session
    }

    fn upsert(&mut self, key: SessionKey, fetch: PartitionFetch, is_newcomer: bool) {
        if let Some(cached) = self.by_key.get_mut(&key) {
            cached.fetch = fetch;
            return;
        }
        let turn = self.next_turn;
        self.next_turn += 1;
        let order = if is_newcomer { &mut self.newcomers_by_turn } else { &mut self.by_turn };
        order.insert(turn, key.clone());
        let cached = CachedPartition { fetch, told_high_watermark: -1, told_log_start_offset: -1, turn };
        self.weight += key.weight();
        self.by_key.insert(key, cached);
    }

    fn remove(&mut self, key: &SessionKey) {
        if let Some(cached) = self.by_key.remove(key) {
            self.weight -= key.weight();
            self.by_turn.remove(&cached.turn);
            self.newcomers_by_turn.remove(&cached.turn);
        }
    }

    /// The partitions in the order in which they are to be served: a newcomer, then one of the others, and so on, the first
    /// to come being the first of its kind. However many newcomers there are, half of each answer is left to the others.
    pub(crate) fn partitions(&self) -> Vec<(SessionKey, PartitionFetch)> {
        let (mut newcomers, mut others) = (self.newcomers_by_turn.values(), self.by_turn.values());
        let pairs = std::iter::from_fn(|| {
            let pair = [newcomers.next(), others.next()];
            pair.iter().any(Option::is_some).then_some(pair)
        });
        pairs
            .flatten()
            .flatten()
            .filter_map(|key| self.by_key.get(key).map(|cached| (key.clone(), cached.fetch)))
            .collect()
    }

    /// Notes what the response says of a partition, and returns whether it must say it: always where there is
    /// data, an error or a divergence (`must_tell`), otherwise only where an offset moved since the last time.
    pub(crate) fn tell(&mut self, key: &SessionKey, told: &Told) -> bool {
        let Some(cached) = self.by_key.get_mut(key) else { return true };
        let mut must_tell = told.turn == Turn::Records || told.has_divergence;
        let is_newcomer = || self.newcomers_by_turn.contains_key(&cached.turn);
        if told.turn == Turn::Records || told.turn == Turn::Nothing && is_newcomer() {
            self.by_turn.remove(&cached.turn);
            self.newcomers_by_turn.remove(&cached.turn);
            cached.turn = self.next_turn;
            self.next_turn += 1;
            self.by_turn.insert(cached.turn, key.clone());
        }
        if cached.told_high_watermark != told.high_watermark {
            must_tell = true;
            cached.told_high_watermark = told.high_watermark;
        }
        if cached.told_log_start_offset != told.log_start_offset {
            must_tell = true;
            cached.told_log_start_offset = told.log_start_offset;
        }
        if told.is_error {
            // The next response tells this partition again, so that the client sees the error go.
            must_tell = true;
            cached.told_high_watermark = -1;
        }
        must_tell
    }

    /// The session's number.
    pub(crate) fn id(&self) -> i32 {
        self.id
    }
}

/// What a partition's turn has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Records.
    Records,
    /// There are none to return.
    Nothing,
    /// It has not had one: the answer was full, or there was an error.
    None,
}

/// What a response says of one partition, as far as sessions care.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) high_watermark: i64,
    pub(crate) log_start_offset: i64,
    pub(crate) turn: Turn,
    pub(crate) has_divergence: bool,
    pub(crate) is_error: bool,
}

/// How a request is to be served.
pub(crate) enum FetchContext {
    /// Serve exactly what the request names; remember nothing.
    Sessionless,
    /// Serve what the request names, and begin a session with the answer: a client that goes before it is answered
    /// leaves none behind.
    Full,
    /// Serve what the session holds; say only what is new.
    Incremental(Arc<Mutex<FetchSession>>),
}

/// The sessions of this broker, at most `slots_max`, of at most `partitions_max` partitions together.
pub(crate) struct FetchSessions {
    slots_max: usize,
    partitions_max: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    sessions: BTreeMap<i32, Entry>,
    /// The sum over all sessions.
    partition_count: usize,
    by_last_used: BTreeSet<(MonotonicMs, i32)>,
    next_id: u32,
}

struct Entry {
    session: Arc<Mutex<FetchSession>>,
    /// Whose it is, where that is a follower.
    follower: Option<NodeId>,
    last_used: MonotonicMs,
    partition_count: usize,
}

/// The session part of a Fetch request.
pub(crate) struct SessionRequest<'a> {
    pub(crate) session_id: i32,
    pub(crate) session_epoch: i32,
    pub(crate) uses_topic_ids: bool,
    pub(crate) partitions: &'a [(SessionKey, PartitionFetch)],
    pub(crate) forgotten: &'a [SessionKey],
}

impl FetchSessions {
    /// `seed` spreads session ids, so that a client of an earlier process does not hit a new session by chance.
    pub(crate) fn new(slots_max: usize, seed: u32) -> Self {
        Self::with_partitions_max(slots_max, SESSION_PARTITIONS_MAX, seed)
    }

    fn with_partitions_max(slots_max: usize, partitions_max: usize, seed: u32) -> Self {
        let inner = Inner {
            sessions: BTreeMap::new(),
            partition_count: 0,
            by_last_used: BTreeSet::new(),
            next_id: seed,
        };
        Self { slots_max, partitions_max, inner: Mutex::new(inner) }
    }

    /// Finds the session that a request speaks of.
    pub(crate) fn context(
        &self,
        now: MonotonicMs,
        request: &SessionRequest<'_>,
    ) -> Result<FetchContext, ErrorCode> {
        const INITIAL: i32 = 0;
        const FINAL: i32 = -1;
        if request.session_epoch == INITIAL || request.session_epoch == FINAL {
            if request.session_id != 0 {
                self.inner.lock().remove(request.session_id);
            }
            let wants_session = request.session_epoch == INITIAL;
            return Ok(if wants_session { FetchContext::Full } else { FetchContext::Sessionless });
        }
        let found =
            self.inner.lock().sessions.get(&request.session_id).map(|entry| Arc::clone(&entry.session));
        let session = found.ok_or(ErrorCode::FetchSessionIdNotFound)?;
        // The sessions of other clients are not held up by a request that changes many partitions of this one.
        let partition_count = {
            let mut session = session.lock();
            if session.epoch != request.session_epoch {
                return Err(ErrorCode::InvalidFetchSessionEpoch);
            }
            if session.uses_topic_ids != request.uses_topic_ids {
                return Err(ErrorCode::FetchSessionTopicIdError);
            }
            let is_newcomer = session.is_followers;
            for (key, fetch) in request.partitions {
                session.upsert(key.clone(), *fetch, is_newcomer);
            }
            for key in request.forgotten {
                session.remove(key);
            }
            // Numbers run from 1 to 2147483647 and start over at 1: 0 and −1 have meanings of their own.
            session.epoch = if session.epoch == i32::MAX { 1 } else { session.epoch + 1 };
            session.weight
        };
        let mut inner = self.inner.lock();
        if partition_count == 0 {
            inner.remove(request.session_id);
            return Ok(FetchContext::Sessionless);
        }
        inner.touch(now, request.session_id, partition_count);
        if self.partitions_max < inner.partition_count
            && !inner.makes_way(request.session_id, self.partitions_max)
        {
            // It has outgrown what sessions may hold. The client starts over with a full fetch.
            inner.remove(request.session_id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        Ok(FetchContext::Incremental(session))
    }

    /// Begins a session of these partitions, unless there is no room. `follower` is a broker of this cluster.
    pub(crate) fn create(
        &self,
        now: MonotonicMs,
        follower: Option<NodeId>,
        uses_topic_ids: bool,
        partitions: impl Iterator<Item = (SessionKey, PartitionFetch)> + Clone,
    ) -> Option<Arc<Mutex<FetchSession>>> {
        let weight = partitions.clone().map(|(key, _)| key.weight()).sum();
        if weight == 0 {
            return None;
        }
        let mut inner = self.inner.lock();
        let has_room = match follower {
            Some(follower) => inner.make_room_for(follower, self.slots_max, self.partitions_max, weight),
            None => inner.make_room(now, self.slots_max, self.partitions_max, weight),
        };
        has_room.then(|| inner.create(now, follower, uses_topic_ids, partitions))
    }

    /// Whether there is no session.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many sessions there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.inner.lock().sessions.len()
    }
}

impl Inner {
    fn remove(&mut self, id: i32) {
        if let Some(entry) = self.sessions.remove(&id) {
            self.by_last_used.remove(&(entry.last_used, id));
            self.partition_count -= entry.partition_count;
        }
    }

    fn touch(&mut self, now: MonotonicMs, id: i32, partition_count: usize) {
        if let Some(entry) = self.sessions.get_mut(&id) {
            self.by_last_used.remove(&(entry.last_used, id));
            self.partition_count = self.partition_count - entry.partition_count + partition_count;
            entry.last_used = now;
            entry.partition_count = partition_count;
            self.by_last_used.insert((now, id));
        }
    }

    /// Makes room for a follower's session of `partition_count` partitions, or says that there is none. Consumers' sessions go,
    /// the least recently used first: a consumer without one names all its partitions each time, while without one a
    /// follower of many partitions cannot keep up (Kafka gives them precedence too). Where the follower has many itself, its
    /// own go before.
    fn make_room_for(
        &mut self,
        follower: NodeId,
        slots_max: usize,
        partitions_max: usize,
        partition_count: usize,
    ) -> bool {
        while self.count_of(|other| other == Some(follower)).0 >= FOLLOWER_SESSIONS_MAX {
            self.remove_least_recent(|other| other == Some(follower));
        }
        let (slots_taken, partitions_taken) = self.count_of(|other| other.is_some());
        if slots_max <= slots_taken || partitions_max < partitions_taken + partition_count {
            return false;
        }
        while slots_max <= self.sessions.len() || partitions_max < self.partition_count + partition_count {
            self.remove_least_recent(|other| other.is_none());
        }
        true
    }

    /// Whether a session that has grown may stay, after consumers' sessions have gone for it where it is a follower's.
    fn makes_way(&mut self, id: i32, partitions_max: usize) -> bool {
        let is_followers = self.sessions.get(&id).is_some_and(|entry| entry.follower.is_some());
        if !is_followers || partitions_max < self.count_of(|other| other.is_some()).1 {
            return false;
        }
        while partitions_max < self.partition_count {
            self.remove_least_recent(|other| other.is_none());
        }
        true
    }

    /// How many sessions and partitions those have for whom `is_it` holds.
    fn count_of(&self, is_it: impl Fn(Option<NodeId>) -> bool) -> (usize, usize) {
        let entries = self.sessions.values().filter(|entry| is_it(entry.follower));
        entries.fold((0, 0), |(count, partitions), entry| (count + 1, partitions + entry.partition_count))
    }

    /// Removes the least recently used session of those for whom `is_it` holds. There is one.
    fn remove_least_recent(&mut self, is_it: impl Fn(Option<NodeId>) -> bool) {
        let mut by_last_used = self.by_last_used.iter().map(|&(_, id)| id);
        let found = by_last_used.find(|id| self.sessions.get(id).is_some_and(|entry| is_it(entry.follower)));
        self.remove(found.expect("what is counted is there"));
    }

    /// Makes room for a consumer's session of `partition_count` partitions, or says that there is none: the least recently
    /// used go when they have been idle for long, else the smallest of a consumer when slots are short and it is smaller
    /// than the newcomer.
    fn make_room(
        &mut self,
        now: MonotonicMs,
        slots_max: usize,
        partitions_max: usize,
        partition_count: usize,
    ) -> bool {
        loop {
            let has_slot = self.sessions.len() < slots_max;
            let has_partitions = self.partition_count + partition_count <= partitions_max;
            if has_slot && has_partitions {
                return true;
            }
            let Some(&(last_used, oldest)) = self.by_last_used.first() else { return false };
            if now.since_ms(last_used) > EVICTION_AGE_MS_MIN {
                self.remove(oldest);
                continue;
            }
            let consumers = self.sessions.iter().filter(|(_, entry)| entry.follower.is_none());
            let smallest = consumers.min_by_key(|(_, entry)| entry.partition_count);
            match smallest.map(|(&id, entry)| (id, entry.partition_count)) {
                Some((id, count)) if has_partitions && count < partition_count => self.remove(id),
                Some(_) | None => return false,
            }
        }
    }

    fn create(
        &mut self,
        now: MonotonicMs,
        follower: Option<NodeId>,
        uses_topic_ids: bool,
        partitions: impl Iterator<Item = (SessionKey, PartitionFetch)>,
    ) -> Arc<Mutex<FetchSession>> {
        let id = loop {
            // A multiplication by an odd constant walks all numbers without repeating one soon.
            self.next_id = self.next_id.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let id = i32::try_from(self.next_id >> 1).unwrap_or(1);
            if id != 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let session = FetchSession::new(id, uses_topic_ids, follower.is_some(), partitions);
        let partition_count = session.weight;
        let session = Arc::new(Mutex::new(session));
        let entry = Entry { session: Arc::clone(&session), follower, last_used: now, partition_count };
        self.sessions.insert(id, entry);
        self.partition_count += partition_count;
        self.by_last_used.insert((now, id));
        session
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> SessionKey {
        SessionKey { topic_id: TopicId(7), topic: Arc::from(""), partition }
    }

    fn fetch(fetch_offset: i64) -> PartitionFetch {
        PartitionFetch {
            current_leader_epoch: -1,
            fetch_offset,
            last_fetched_epoch: -1,
            log_start_offset: -1,
            max_bytes: 1_000,
        }
    }

    fn some(count: i32) -> Vec<(SessionKey, PartitionFetch)> {
        (0..count).map(|at| (key(at), fetch(0))).collect()
    }

    fn order(session: &FetchSession) -> Vec<i32> {
        session.partitions().iter().map(|(key, _)| key.partition).collect()
    }

    fn request(id: i32, epoch: i32, partitions: &[(SessionKey, PartitionFetch)]) -> SessionRequest<'_> {
        SessionRequest {
            session_id: id,
            session_epoch: epoch,
            uses_topic_ids: true,
            partitions,
            forgotten: &[],
        }
    }

    fn open(sessions: &FetchSessions, now: u64, partitions: &[(SessionKey, PartitionFetch)]) -> Option<i32> {
        open_for(sessions, None, now, partitions)
    }

    fn open_for(
        sessions: &FetchSessions,
        follower: Option<NodeId>,
        now: u64,
        partitions: &[(SessionKey, PartitionFetch)],
    ) -> Option<i32> {
        let context = sessions.context(MonotonicMs(now), &request(0, 0, partitions));
        assert!(matches!(context, Ok(FetchContext::Full)), "a full fetch was asked for");
        let session = sessions.create(MonotonicMs(now), follower, true, partitions.iter().cloned());
        session.map(|session| session.lock().id())
    }

    /// Replication point 18.
    #[test]
    fn epochs_are_strict() {
        let sessions = FetchSessions::new(10, 1);
        let id = open(&sessions, 0, &[(key(0), fetch(0))]).unwrap();
        let ask = |id, epoch| sessions.context(MonotonicMs(1), &request(id, epoch, &[])).map(|_| ());
        assert_eq!(ask(id, 2), Err(ErrorCode::InvalidFetchSessionEpoch));
        assert_eq!(ask(id, 1), Ok(()));
        assert_eq!(ask(id, 1), Err(ErrorCode::InvalidFetchSessionEpoch));
        assert_eq!(ask(id, 2), Ok(()));
        assert_eq!(ask(id + 1, 1), Err(ErrorCode::FetchSessionIdNotFound));
        let by_name = SessionRequest { uses_topic_ids: false, ..request(id, 3, &[]) };
        assert_eq!(
            sessions.context(MonotonicMs(1), &by_name).map(|_| ()),
            Err(ErrorCode::FetchSessionTopicIdError)
        );
        assert_eq!(ask(id, -1), Ok(()), "the final epoch closes the session");
        assert_eq!(ask(id, 3), Err(ErrorCode::FetchSessionIdNotFound));
    }

    #[test]
    fn forgetting_everything_closes_the_session() {
        let sessions = FetchSessions::new(10, 1);
        let id = open(&sessions, 0, &[(key(0), fetch(0))]).unwrap();
        let forgotten = [key(0)];
        let ask = SessionRequest { forgotten: &forgotten, ..request(id, 1, &[]) };
        assert!(matches!(sessions.context(MonotonicMs(1), &ask), Ok(FetchContext::Sessionless)));
        assert_eq!(sessions.len(), 0);
    }

    /// A name that no topic has may be long, and costs what it takes.
    #[test]
    fn long_names_count_for_more() {
        let sessions = FetchSessions::with_partitions_max(10, 100, 1);
        let named = |partition| {
            let topic = Arc::from("x".repeat(32_000));
            (SessionKey { topic_id: TopicId::ZERO, topic, partition }, fetch(0))
        };
        assert!(open(&sessions, 0, &[named(0)]).is_none(), "it takes the place of 129 partitions");
        assert!(open(&sessions, 0, &some(100)).is_some());
        // Nor may a session grow by it, or stay full once it has forgotten it.
        let sessions = FetchSessions::with_partitions_max(10, 200, 1);
        let id = open(&sessions, 0, &some(1)).unwrap();
        let (key, _) = named(0);
        assert!(sessions.context(MonotonicMs(1), &request(id, 1, &[named(0)])).is_ok());
        let forgotten = [key];
        let ask = SessionRequest { forgotten: &forgotten, ..request(id, 2, &[]) };
        assert!(sessions.context(MonotonicMs(1), &ask).is_ok());
        assert!(sessions.context(MonotonicMs(1), &request(id, 3, &[named(1)])).is_ok());
        let grown = sessions.context(MonotonicMs(1), &request(id, 4, &[named(2)])).map(|_| ());
        assert_eq!(grown, Err(ErrorCode::FetchSessionIdNotFound));
    }

    /// Replication point 18.
    #[test]
    fn only_news_is_told_and_busy_partitions_go_to_the_back() {
        let mut session = FetchSession::new(1, true, false, some(2).into_iter());
        let quiet = Told {
            high_watermark: 5,
            log_start_offset: 0,
            turn: Turn::None,
            has_divergence: false,
            is_error: false,
        };
        assert!(session.tell(&key(0), &quiet), "the first answer is news");
        assert!(!session.tell(&key(0), &quiet));
        assert!(session.tell(&key(0), &Told { high_watermark: 6, ..quiet }));
        assert!(session.tell(&key(0), &Told { log_start_offset: 3, high_watermark: 6, ..quiet }));
        let error = Told { is_error: true, high_watermark: -1, log_start_offset: -1, ..quiet };
        assert!(session.tell(&key(0), &error));
        assert!(session.tell(&key(0), &error), "an error is told every time");
        assert!(session.tell(&key(0), &Told { turn: Turn::Records, ..quiet }));
        assert_eq!(order(&session), [1, 0]);
        session.upsert(key(2), fetch(0), false);
        assert_eq!(order(&session), [1, 0, 2], "Kafka's order for consumers");
    }

    #[test]
    fn what_is_new_to_a_follower_has_every_other_turn_until_it_returns_data() {
        let mut session = FetchSession::new(1, true, true, some(4).into_iter());
        for partition in 4..7 {
            session.upsert(key(partition), fetch(0), true);
        }
        assert_eq!(order(&session), [4, 0, 5, 1, 6, 2, 3]);
        let told = Told {
            high_watermark: 5,
            log_start_offset: 0,
            turn: Turn::None,
            has_divergence: false,
            is_error: false,
        };
        session.tell(&key(4), &told);
        session.tell(&key(0), &Told { turn: Turn::Records, ..told });
        session.tell(&key(5), &Told { turn: Turn::Records, ..told });
        assert_eq!(order(&session), [4, 1, 6, 2, 3, 0, 5], "who had nothing yet keeps its turn");
        session.tell(&key(4), &Told { turn: Turn::Nothing, ..told });
        assert_eq!(order(&session), [6, 1, 2, 3, 0, 5, 4], "it had a turn, and nothing to return");
        session.remove(&key(4));
        session.upsert(key(6), fetch(1), true);
        assert_eq!(order(&session), [6, 1, 2, 3, 0, 5]);
    }

    /// Followers that find consumers' sessions everywhere get their own all the same, up to a limit.
    #[test]
    fn followers_come_before_consumers() {
        let sessions = FetchSessions::with_partitions_max(10, 20, 1);
        let is_there = |id, epoch| sessions.context(MonotonicMs(3), &request(id, epoch, &[])).is_ok();
        let consumers: Vec<i32> = (0..10).map(|at| open(&sessions, at, &some(2)).unwrap()).collect();
        let follower = open_for(&sessions, Some(NodeId(2)), 20, &some(3)).expect("consumers make room");
        assert!(!is_there(consumers[0], 1) && !is_there(consumers[1], 1) && is_there(consumers[2], 1));
        assert_eq!(open(&sessions, 20, &some(5)), None, "no consumer takes a follower's place");
        let many = some(9);
        assert!(sessions.context(MonotonicMs(21), &request(follower, 1, &many)).is_ok(), "it may grow");
        assert_eq!(sessions.inner.lock().partition_count, 19);
        assert_eq!(
            open_for(&sessions, Some(NodeId(3)), 22, &some(12)),
            None,
            "followers may fill the limit,"
        );
        assert!(is_there(follower, 2), "and do not go for one another");
        assert_eq!(sessions.len(), 6, "nor do consumers where that would not help");
        for at in 0..10 {
            assert!(open_for(&sessions, Some(NodeId(3)), 30 + at, &some(1)).is_some());
        }
        assert!(is_there(follower, 3), "one that opens many loses its own");
        let of_three = sessions.inner.lock().count_of(|follower| follower == Some(NodeId(3)));
        assert_eq!(of_three, (FOLLOWER_SESSIONS_MAX, FOLLOWER_SESSIONS_MAX));
        let more = some(17);
        assert!(sessions.context(MonotonicMs(50), &request(follower, 4, &more)).is_err(), "there is an end");
    }

    #[test]
    fn a_full_cache_evicts_the_idle_then_the_smaller() {
        let sessions = FetchSessions::new(2, 1);
        let one = [(key(0), fetch(0))];
        let two = [(key(0), fetch(0)), (key(1), fetch(0))];
        let first = open(&sessions, 0, &two).unwrap();
        open(&sessions, 10, &one).unwrap();
        assert_eq!(open(&sessions, 20, &one), None, "nobody is idle or smaller");
        assert!(open(&sessions, 20, &two).is_some(), "the smaller session makes room");
        assert!(open(&sessions, EVICTION_AGE_MS_MIN + 1, &one).is_some(), "the idle session makes room");
        assert_eq!(
            sessions.context(MonotonicMs(0), &request(first, 1, &[])).map(|_| ()),
            Err(ErrorCode::FetchSessionIdNotFound)
        );
        assert_eq!(sessions.len(), 2);
    }

    #[test]
    fn sessions_hold_so_many_partitions_and_no_more() {
        let sessions = FetchSessions::with_partitions_max(100, 5, 1);
        let first = open(&sessions, 0, &some(3)).unwrap();
        assert_eq!(open(&sessions, 0, &some(3)), None, "there are not that many left");
        let second = open(&sessions, 0, &some(2)).unwrap();
        let grown = some(3);
        assert_eq!(
            sessions.context(MonotonicMs(1), &request(second, 1, &grown)).map(|_| ()),
            Err(ErrorCode::FetchSessionIdNotFound),
            "nor can one grow into more"
        );
        let again = open(&sessions, 1, &some(2)).unwrap();
        assert!(matches!(
            sessions.context(MonotonicMs(2), &request(first, 1, &[])),
            Ok(FetchContext::Incremental(_))
        ));
        let forgotten = [key(1)];
        let less = SessionRequest { forgotten: &forgotten, ..request(again, 1, &[]) };
        assert!(sessions.context(MonotonicMs(2), &less).is_ok());
        assert!(open(&sessions, 2, &some(1)).is_some(), "what was forgotten is free again");
        assert_eq!(sessions.inner.lock().partition_count, 5);
        let later = 2 * EVICTION_AGE_MS_MIN;
        assert!(open(&sessions, later, &some(5)).is_some(), "sessions that are idle go, as many as it takes");
        assert_eq!((sessions.len(), sessions.inner.lock().partition_count), (1, 5));
    }
}
