//! One group under the classic protocol: who is in it, and how far its rebalance has come.
//!
//! | from | on | to |
//! |---|---|---|
//! | Empty | the first member joins | `PreparingRebalance`, for the initial delay |
//! | `PreparingRebalance` | every member has joined again, or the rebalance timeout is over | `CompletingRebalance`, generation + 1; every waiting `JoinGroup` is answered |
//! | `PreparingRebalance` | the same, with no member left | Empty, generation + 1; the group's metadata is written |
//! | `CompletingRebalance` | the leader's assignment is committed | Stable; every waiting `SyncGroup` is answered |
//! | `CompletingRebalance` | a member joins, leaves, fails or does not sync in time; the assignment cannot be written | `PreparingRebalance`; waiting `SyncGroups` get `REBALANCE_IN_PROGRESS` |
//! | Stable | a member joins, leaves, fails or does not sync in time; the leader joins again; a member changes its metadata | `PreparingRebalance` |
//! | Stable | a static member comes back under a new id and the chosen protocol stays | Stable; the metadata is written |
//! | (nothing) | replay of metadata with members, without members | Stable, Empty |
//! | any | the shard is unloaded | (gone); every waiter gets `NOT_COORDINATOR` |
//! | Empty | `DeleteGroups`, or nothing left to remember | (gone), once the tombstone is committed |
//!
//! Kafka's state Dead is a group that is not there.
//!
//! A group in memory is more than the log knows: generations that never reached Stable, member ids handed out,
//! who waits. All of that may be lost; a new coordinator starts from the last metadata, and clients join again.

mod join_phase;
mod member;
mod subscription;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chronik_protocol::messages::join_group_response::JoinGroupResponseMember;
use chronik_protocol::messages::{JoinGroupResponse, SyncGroupResponse};
use chronik_types::{ErrorCode, TimestampMs};

pub(crate) use member::{Member, Protocol};
pub(crate) use subscription::CONSUMER_PROTOCOL_TYPE;

use crate::WriteId;
use crate::effects::{Effects, Response, Waiter};
use crate::env::Env;
use crate::timers::Timer;

/// Where a group stands; see the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl State {
    /// Kafka's name for it, as the tools print it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is left of the initial delay.
#[derive(Clone, Copy, Debug)]
struct InitialDelay {
    /// How long the part that runs now is.
    delay_ms: u64,
    /// How much more may be added to it.
    remaining_ms: u64,
}

/// One group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) id: Arc<str>,
    state: State,
    previous_state: State,
    /// When it came into this state; the clock of offset expiry in the state Empty. `None` for groups that have
    /// only ever committed offsets.
    pub(crate) state_timestamp: Option<TimestampMs>,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol_name: Option<String>,
    pub(crate) generation: i32,
    pub(crate) leader: Option<Arc<str>>,
    members: BTreeMap<Arc<str>, Member>,
    /// Which member stands behind each group instance id.
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids that were handed out and not yet used (KIP-394).
    pending_members: BTreeSet<Arc<str>>,
    /// Members of this generation that have not synced yet.
    pending_sync: BTreeSet<Arc<str>>,
    /// Known once a generation of consumers has begun.
    subscribed_topics: Option<BTreeSet<String>>,
    awaiting_join_count: usize,
    initial_delay: Option<InitialDelay>,
    new_member_added: bool,
    /// The write that is to make the group exist. Until then it is not listed.
    pub(crate) creation_write: Option<WriteId>,
    /// The write of the leader's assignment in this generation.
    pub(crate) assignment_write: Option<WriteId>,
    /// The write that is to end the group, unless it is used again before.
    pub(crate) tombstone_write: Option<WriteId>,
}

impl Group {
    pub(crate) fn new(id: Arc<str>, state_timestamp: Option<TimestampMs>) -> Self {
        Self {
            id,
            state: State::Empty,
            previous_state: State::Empty,
            state_timestamp,
            protocol_type: None,
            protocol_name: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_members: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            subscribed_topics: None,
            awaiting_join_count: 0,
            initial_delay: None,
            new_member_added: false,
            creation_write: None,
            assignment_write: None,
            tombstone_write: None,
        }
    }

    /// The group as its last metadata in the log has it.
    pub(crate) fn replayed(mut self, members: Vec<Member>) -> Self {
        for member in members {
            // A log that names an instance twice is none that a coordinator wrote; the later member wins.
            self.add(member);
        }
        self.state = if self.members.is_empty() { State::Empty } else { State::Stable };
        self.previous_state = self.state;
        self.subscribed_topics = self.compute_subscribed_topics();
        self
    }

    // --- what it is -------------------------------------------------------------------------------------------

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn is(&self, state: State) -> bool {
        self.state == state
    }

    /// Nobody is in it and nobody has been told to come back.
    pub(crate) fn is_deserted(&self) -> bool {
        self.members.is_empty() && self.pending_members.is_empty()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(crate) fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    pub(crate) fn member_mut(&mut self, id: &str) -> Option<&mut Member> {
        self.members.get_mut(id)
    }

    pub(crate) fn member_count(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn awaiting_join_count(&self) -> usize {
        self.awaiting_join_count
    }

    pub(crate) fn static_member_id(&self, instance_id: &str) -> Option<&Arc<str>> {
        self.static_members.get(instance_id)
    }

    pub(crate) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub(crate) fn is_pending(&self, member_id: &str) -> bool {
        self.pending_members.contains(member_id)
    }

    pub(crate) fn pending_member_count(&self) -> usize {
        self.pending_members.len()
    }

    /// The ids that were handed out and not yet used.
    pub(crate) fn pending_ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pending_members.iter()
    }

    pub(crate) fn add_pending(&mut self, member_id: Arc<str>) {
        self.pending_members.insert(member_id);
    }

    pub(crate) fn has_all_joined(&self) -> bool {
        self.members.len() == self.awaiting_join_count && self.pending_members.is_empty()
    }

    pub(crate) fn has_all_synced(&self) -> bool {
        self.pending_sync.is_empty()
    }

    pub(crate) fn pending_sync(&self) -> Vec<Arc<str>> {
        self.pending_sync.iter().cloned().collect()
    }

    pub(crate) fn remove_pending_sync(&mut self, member_id: &str) {
        self.pending_sync.remove(member_id);
    }

    /// The longest rebalance timeout of any member, in milliseconds.
    pub(crate) fn rebalance_timeout_ms(&self) -> u64 {
        let longest = self.members().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0);
        u64::try_from(longest).unwrap_or(0)
    }

    pub(crate) fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    pub(crate) fn knows_subscribed_topics(&self) -> bool {
        self.subscribed_topics.is_some()
    }

    /// Whether offsets of `topic` are in use. A group of consumers that cannot be read is taken to use them all.
    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    /// Whether the log may know the group; until then it is not shown.
    pub(crate) fn is_visible(&self) -> bool {
        self.creation_write.is_none()
    }

    /// Whether `member_id` is a member, and the one behind `instance_id` if that is given.
    pub(crate) fn validate_member(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if &**current != member_id => {
                    tracing::info!(
                        group = %self.id, member = member_id, instance = instance_id, current = %current,
                        "fenced a member whose group instance id another member has taken over"
                    );
                    return Err(ErrorCode::FencedInstanceId);
                }
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    // --- protocols --------------------------------------------------------------------------------------------

    /// Whether every member supports the protocol `name`.
    fn all_support(&self, name: &str) -> bool {
        self.members().all(|member| member.protocols.iter().any(|protocol| protocol.name == name))
    }

    /// Whether a member with these protocols fits in.
    pub(crate) fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.is(State::Empty) {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|protocol| self.all_support(&protocol.name))
    }

    /// The protocol that most members like best, of those that all of them support. Equal votes go to the first
    /// name in the alphabet, so that every coordinator decides alike.
    pub(crate) fn select_protocol(&self) -> Option<String> {
        let first = self.members.values().next()?;
        let names = first.protocols.iter().map(|protocol| protocol.name.as_str());
        let candidates: BTreeSet<&str> = names.filter(|name| self.all_support(name)).collect();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for vote in self.members().filter_map(|member| member.vote(&candidates)) {
            *votes.entry(vote).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }

    fn compute_subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        let mut topics = BTreeSet::new();
        if self.members.is_empty() {
            return Some(topics);
        }
        let protocol_name = self.protocol_name.as_deref()?;
        for member in self.members() {
            subscription::read_topics(&member.metadata(protocol_name), &mut topics)?;
        }
        Some(topics)
    }

    // --- who is in it -----------------------------------------------------------------------------------------

    /// Takes a member in. The first one settles the group's protocol type and leads it.
    pub(crate) fn add(&mut self, member: Member) {
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(Arc::clone(instance_id), Arc::clone(&member.id));
        }
        if self.leader.is_none() {
            self.leader = Some(Arc::clone(&member.id));
        }
        self.pending_members.remove(&member.id);
        self.awaiting_join_count += usize::from(member.awaiting_join.is_some());
        if let Some(previous) = self.members.insert(Arc::clone(&member.id), member) {
            self.awaiting_join_count -= usize::from(previous.awaiting_join.is_some());
        }
    }

    /// Puts a member or a pending id out, with `error` for whoever waits in its name, and forgets its timers.
    pub(crate) fn remove(&mut self, env: &mut Env<'_>, member_id: &str, error: ErrorCode) {
        env.timers.cancel(&self.session_timer(member_id));
        self.pending_members.remove(member_id);
        self.pending_sync.remove(member_id);
        let Some(member) = self.members.remove(member_id) else { return };
        self.awaiting_join_count -= usize::from(member.awaiting_join.is_some());
        if let Some(waiter) = member.awaiting_join {
            complete_join(
                env.fx,
                waiter,
                JoinGroupResponse { error_code: error.code(), ..Default::default() },
            );
        }
        if let Some(waiter) = member.awaiting_sync {
            complete_sync_error(env.fx, waiter, error);
        }
        if let Some(instance_id) = &member.instance_id
            && self.static_members.get(instance_id).is_some_and(|current| **current == *member_id)
        {
            self.static_members.remove(instance_id);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Gives a static member another id, in its place in the group; whoever waits under the old id is fenced.
    /// Returns the member as it was.
    pub(crate) fn replace_static(
        &mut self,
        env: &mut Env<'_>,
        old_id: &str,
        new_id: &Arc<str>,
    ) -> Option<Member> {
        let mut member = self.members.remove(old_id)?;
        env.timers.cancel(&self.session_timer(old_id));
        let before = Member { awaiting_join: None, awaiting_sync: None, ..member.clone() };
        if let Some(waiter) = member.awaiting_join.take() {
            self.awaiting_join_count -= 1;
            let fenced = JoinGroupResponse {
                member_id: old_id.to_owned(),
                error_code: ErrorCode::FencedInstanceId.code(),
                ..Default::default()
            };
            complete_join(env.fx, waiter, fenced);
        }
        if let Some(waiter) = member.awaiting_sync.take() {
            complete_sync_error(env.fx, waiter, ErrorCode::FencedInstanceId);
        }
        if self.is_leader(old_id) {
            self.leader = Some(Arc::clone(new_id));
        }
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(Arc::clone(instance_id), Arc::clone(new_id));
        }
        // Its place among those that still have to sync is the new member's now.
        if self.pending_sync.remove(old_id) {
            self.pending_sync.insert(Arc::clone(new_id));
        }
        member.id = Arc::clone(new_id);
        member.is_new = false;
        self.members.insert(Arc::clone(new_id), member);
        Some(before)
    }

    /// Parks a `JoinGroup`. One that was parked before in the same name is told to try again: its sender has
    /// given it up, and answers leave a connection in order.
    pub(crate) fn await_join(&mut self, env: &mut Env<'_>, member_id: &str, waiter: Waiter) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        match member.awaiting_join.replace(waiter) {
            None => self.awaiting_join_count += 1,
            Some(previous) => {
                let again = JoinGroupResponse {
                    member_id: member_id.to_owned(),
                    error_code: ErrorCode::RebalanceInProgress.code(),
                    ..Default::default()
                };
                complete_join(env.fx, previous, again);
            }
        }
    }

    /// Takes the parked `JoinGroup` of a member.
    pub(crate) fn take_awaiting_join(&mut self, member_id: &str) -> Option<Waiter> {
        let waiter = self.members.get_mut(member_id)?.awaiting_join.take()?;
        self.awaiting_join_count -= 1;
        Some(waiter)
    }

    /// Takes everything that is parked: the member, its `JoinGroup` and its `SyncGroup`.
    pub(crate) fn take_waiters(&mut self) -> Vec<(Arc<str>, Option<Waiter>, Option<Waiter>)> {
        self.awaiting_join_count = 0;
        let waiters = |member: &mut Member| {
            (Arc::clone(&member.id), member.awaiting_join.take(), member.awaiting_sync.take())
        };
        self.members.values_mut().map(waiters).collect()
    }

    /// Puts a static member back as it was; its id is a member's.
    pub(crate) fn restore(&mut self, before: Member) {
        if let Some(member) = self.members.get_mut(&before.id) {
            *member = before;
        }
    }

    // --- what it says -----------------------------------------------------------------------------------------

    /// The members as the leader is told of them.
    pub(crate) fn members_for_leader(&self) -> Vec<JoinGroupResponseMember> {
        let protocol_name = self.protocol_name.as_deref().unwrap_or_default();
        let member = |member: &Member| JoinGroupResponseMember {
            member_id: member.id.to_string(),
            group_instance_id: member.instance_id.as_deref().map(str::to_owned),
            metadata: member.metadata(protocol_name),
        };
        self.members().map(member).collect()
    }

    /// What a member of the current generation is told; the leader learns who the members are.
    pub(crate) fn join_response(&self, member_id: &str) -> JoinGroupResponse {
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.as_deref().unwrap_or_default().to_owned(),
            member_id: member_id.to_owned(),
            members: if self.is_leader(member_id) { self.members_for_leader() } else { Vec::new() },
            ..Default::default()
        }
    }

    /// Every member's current assignment.
    pub(crate) fn assignments(&self) -> BTreeMap<Arc<str>, Bytes> {
        self.members().map(|member| (Arc::clone(&member.id), member.assignment.clone())).collect()
    }

    pub(crate) fn session_timer(&self, member_id: &str) -> Timer {
        Timer::Session { group: Arc::clone(&self.id), member: member_id.into() }
    }

    /// Forgets the timers of the group itself. Those of its members go with the members.
    pub(crate) fn cancel_timers(&self, env: &mut Env<'_>) {
        env.timers.cancel(&self.join_timer());
        env.timers.cancel(&self.sync_timer());
        env.timers.cancel(&Timer::EmptyMetadata { group: Arc::clone(&self.id) });
    }

    fn join_timer(&self) -> Timer {
        Timer::Join { group: Arc::clone(&self.id) }
    }

    fn sync_timer(&self) -> Timer {
        Timer::Sync { group: Arc::clone(&self.id) }
    }

    /// Starts a member's session anew.
    pub(crate) fn refresh_session(&self, env: &mut Env<'_>, member_id: &str) {
        let Some(member) = self.members.get(member_id) else { return };
        let timeout_ms = u64::try_from(member.session_timeout_ms).unwrap_or(0);
        env.timers.schedule(self.session_timer(member_id), env.now.monotonic.plus_ms(timeout_ms));
    }

    /// The sync phase needs no watching once everyone has synced.
    pub(crate) fn settle_sync_timer(&self, env: &mut Env<'_>) {
        if self.has_all_synced() {
            env.timers.cancel(&self.sync_timer());
        }
    }

    fn transition(&mut self, env: &Env<'_>, to: State) {
        let legal = match to {
            State::PreparingRebalance => self.state != State::PreparingRebalance,
            State::CompletingRebalance | State::Empty => self.state == State::PreparingRebalance,
            State::Stable => self.state == State::CompletingRebalance,
        };
        assert!(legal, "group {}: no way from {} to {to}", self.id, self.state);
        self.previous_state = self.state;
        self.state = to;
        self.state_timestamp = Some(env.now.wall);
    }
}

/// A `JoinGroup`'s answer in the form of its version: a missing protocol name is null from version 7 on, and empty
/// before (KIP-559).
pub(crate) fn join_answer(waiter: Waiter, mut response: JoinGroupResponse) -> Response {
    let name = response.protocol_name.take().filter(|name| !name.is_empty());
    response.protocol_name = if waiter.api_version < 7 { Some(name.unwrap_or_default()) } else { name };
    Response::JoinGroup(response)
}

/// Answers a `JoinGroup`.
pub(crate) fn complete_join(fx: &mut Effects, waiter: Waiter, response: JoinGroupResponse) {
    fx.complete(waiter, join_answer(waiter, response));
}

/// Refuses a `SyncGroup`.
pub(crate) fn complete_sync_error(fx: &mut Effects, waiter: Waiter, error: ErrorCode) {
    let response = SyncGroupResponse { error_code: error.code(), ..Default::default() };
    fx.complete(waiter, Response::SyncGroup(response));
}
