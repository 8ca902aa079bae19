//! The coordinator of all groups of one partition of `__consumer_offsets`: loading, commits, timers. What each
//! request means is in [`api`](crate::api).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chronik_protocol::messages::JoinGroupResponse;
use chronik_types::{ErrorCode, MonotonicMs, Now};

use crate::config::{GroupConfig, PENDING_WRITES_MAX};
use crate::effects::{Effects, Waiter, WriteId, append_error};
use crate::env::{Change, Env, PendingWrite, Writes};
use crate::group::{Group, State, complete_join, complete_sync_error};
use crate::member_id::MemberIds;
use crate::offsets::{OffsetKey, Offsets};
use crate::records::{ReplayError, Replayed, read_record};
use crate::timers::{Timer, Timers};

/// Whether requests can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The log is being read; clients get `COORDINATOR_LOAD_IN_PROGRESS`.
    Loading,
    /// Requests are served.
    Active,
    /// The partition has another leader; clients get `NOT_COORDINATOR`.
    Unloaded,
}

/// The coordinator of all groups of one partition of `__consumer_offsets`. See the [crate](crate) for how it is
/// driven.
#[derive(Clone, Debug)]
pub struct GroupCoordinator {
    phase: Phase,
    pub(crate) config: GroupConfig,
    pub(crate) groups: BTreeMap<Arc<str>, Group>,
    pub(crate) offsets: Offsets,
    pub(crate) timers: Timers,
    pub(crate) writes: Writes,
    pub(crate) member_ids: MemberIds,
}

/// Borrows everything but the groups and the offsets, which the caller holds apart.
macro_rules! env {
    ($coordinator:expr, $now:expr, $fx:expr) => {
        crate::env::Env {
            now: $now,
            config: &$coordinator.config,
            timers: &mut $coordinator.timers,
            writes: &mut $coordinator.writes,
            fx: &mut $fx,
        }
    };
}
pub(crate) use env;

impl GroupCoordinator {
    /// A coordinator that has read nothing yet. `seed` makes member ids; two coordinators must not share it.
    pub fn new(config: GroupConfig, seed: u64) -> Self {
        Self {
            phase: Phase::Loading,
            config,
            groups: BTreeMap::new(),
            offsets: Offsets::default(),
            timers: Timers::default(),
            writes: Writes::default(),
            member_ids: MemberIds::new(seed),
        }
    }

    /// Puts other settings in force. Timers that run keep their time, but for the look for expired offsets, which
    /// comes after the new interval.
    pub fn set_config(&mut self, now: Now, config: GroupConfig) {
        let before = self.config.offsets_retention_check_interval_ms;
        let is_rescheduled = before != config.offsets_retention_check_interval_ms;
        self.config = config;
        if is_rescheduled && self.phase == Phase::Active {
            self.schedule_expiry(now);
        }
    }

    // --- loading ----------------------------------------------------------------------------------------------

    /// Takes in one record of the log, in order. Only committed records are replayed. Records of types that this
    /// coordinator does not keep are passed over.
    pub fn replay(&mut self, key: &Bytes, value: Option<&Bytes>) -> Result<(), ReplayError> {
        match read_record(key, value)? {
            Replayed::Offset(key, committed) => {
                if committed.is_some() {
                    self.ensure_group(&key.group);
                }
                self.offsets.replay(&key, committed);
            }
            Replayed::Group(group) => {
                self.groups.insert(Arc::clone(&group.id), *group);
            }
            Replayed::GroupTombstone(id) => {
                self.groups.remove(&*id);
            }
            Replayed::Other(key_type) => {
                tracing::debug!(
                    key_type,
                    "passed over a record of __consumer_offsets that is no classic group's"
                );
            }
        }
        Ok(())
    }

    /// The whole log has been replayed: requests are served from now on, and every member has its session
    /// timeout to be heard of.
    pub fn loaded(&mut self, now: Now) -> Effects {
        let mut fx = Effects::default();
        self.phase = Phase::Active;
        self.schedule_expiry(now);
        for id in self.offsets.group_ids() {
            self.ensure_group(&id);
        }
        let mut env = env!(self, now, fx);
        for group in self.groups.values_mut() {
            let ids: Vec<Arc<str>> = group.members().map(|member| Arc::clone(&member.id)).collect();
            for id in ids {
                group.refresh_session(&mut env, &id);
            }
            if group.member_count() > env.config.group_max_size {
                let reason = format!("the loaded group has more than {} members", env.config.group_max_size);
                group.prepare_rebalance(&mut env, &reason);
            }
        }
        fx
    }

    /// The partition has another leader now: everyone who waits is sent there, everything is forgotten.
    pub fn unload(&mut self) -> Effects {
        let mut fx = Effects::default();
        let mut env = env!(self, Now::default(), fx);
        for mut pending in std::mem::take(&mut env.writes.pending).into_values() {
            env.refuse_held(&mut pending, ErrorCode::NotCoordinator);
        }
        for group in self.groups.values_mut() {
            for (id, join, sync) in group.take_waiters() {
                if let Some(waiter) = join {
                    complete_join(env.fx, waiter, join_refusal(&id, ErrorCode::NotCoordinator));
                }
                if let Some(waiter) = sync {
                    complete_sync_error(env.fx, waiter, ErrorCode::NotCoordinator);
                }
            }
        }
        self.phase = Phase::Unloaded;
        self.groups.clear();
        self.offsets.clear();
        self.timers.clear();
        fx
    }

    /// Why a request cannot be served at the moment, if so.
    pub(crate) fn check_serving(&self) -> Result<(), ErrorCode> {
        match self.phase {
            Phase::Loading => Err(ErrorCode::CoordinatorLoadInProgress),
            Phase::Unloaded => Err(ErrorCode::NotCoordinator),
            Phase::Active => Ok(()),
        }
    }

    /// Why a request that may write cannot be served at the moment, if so.
    pub(crate) fn check_writing(&self) -> Result<(), ErrorCode> {
        self.check_serving()?;
        if self.writes.pending.len() < PENDING_WRITES_MAX {
            Ok(())
        } else {
            Err(ErrorCode::CoordinatorNotAvailable)
        }
    }

    // --- commits ----------------------------------------------------------------------------------------------

    /// Every write up to and including `up_to` that has not failed is committed.
    pub fn committed(&mut self, now: Now, up_to: WriteId) -> Effects {
        let mut fx = Effects::default();
        while let Some(entry) = self.writes.pending.first_entry()
            && *entry.key() <= up_to
        {
            let (id, pending) = entry.remove_entry();
            self.commit(now, id, pending, &mut fx);
        }
        fx
    }

    fn commit(&mut self, now: Now, id: WriteId, pending: PendingWrite, fx: &mut Effects) {
        self.timers.cancel(&Timer::Write(id));
        for key in &pending.offsets {
            self.offsets.commit(key, id);
            if self.offsets.committed(&key.group, &key.topic, key.partition).is_some() {
                self.ensure_group(&key.group);
            }
        }
        for change in pending.changes {
            self.apply(now, id, change, fx);
        }
        fx.completions.extend(pending.held);
    }

    fn apply(&mut self, now: Now, id: WriteId, change: Change, fx: &mut Effects) {
        let mut env = env!(self, now, *fx);
        match change {
            Change::Created { group, .. } => {
                if let Some(group) = self.groups.get_mut(&group)
                    && group.creation_write == Some(id)
                {
                    group.creation_write = None;
                }
            }
            Change::Emptied { .. } => {}
            Change::Deleted { group } => {
                if self.groups.get(&group).is_some_and(|group| group.tombstone_write == Some(id)) {
                    self.groups.remove(&group);
                    env.timers.cancel(&Timer::EmptyMetadata { group: Arc::clone(&group) });
                    self.ensure_group_of_offsets(&group);
                }
            }
            Change::Assigned { group, generation, assignments } => {
                if let Some(group) = self.groups.get_mut(&group)
                    && group.is(State::CompletingRebalance)
                    && group.generation == generation
                {
                    group.assign(&mut env, &assignments);
                }
            }
            Change::Replaced { group, generation, new_id, leader, .. } => {
                if let Some(group) = self.groups.get_mut(&group)
                    && group.is(State::Stable)
                    && group.generation == generation
                    && let Some(waiter) = group.take_awaiting_join(&new_id)
                {
                    answer_replaced(group, &mut env, waiter, &new_id, leader);
                }
            }
        }
    }

    /// `write` is not in the log and never will be; `error` says why.
    pub fn failed(&mut self, now: Now, write: WriteId, error: ErrorCode) -> Effects {
        let mut fx = Effects::default();
        let Some(mut pending) = self.writes.pending.remove(&write) else { return fx };
        self.timers.cancel(&Timer::Write(write));
        let refusal = append_error(error);
        if !pending.changes.is_empty() {
            // A commit that fails is the client's to repeat; it would fill the log on a full disk.
            tracing::warn!(write = write.0, %error, "what happened to a group could not be written");
        }
        for key in &pending.offsets {
            self.offsets.revert(key, write);
        }
        for change in std::mem::take(&mut pending.changes) {
            self.roll_back(now, write, change, refusal, &mut fx);
        }
        env!(self, now, fx).refuse_held(&mut pending, refusal);
        fx
    }

    fn roll_back(&mut self, now: Now, write: WriteId, change: Change, error: ErrorCode, fx: &mut Effects) {
        let mut env = env!(self, now, *fx);
        match change {
            Change::Created { group: id, member_id } => {
                let Some(group) = self.groups.get_mut(&id) else { return };
                if group.creation_write == Some(write) {
                    group.creation_write = None;
                }
                if let Some(member_id) = member_id {
                    group.remove(&mut env, &member_id, error);
                }
                match group.state() {
                    State::CompletingRebalance | State::Stable => {
                        group.prepare_rebalance(&mut env, "the group's first record could not be written");
                    }
                    State::PreparingRebalance | State::Empty => {
                        group.maybe_complete_join_phase(&mut env);
                    }
                }
                if group.is_deserted() && group.generation == 0 {
                    group.cancel_timers(&mut env);
                    self.groups.remove(&id);
                }
            }
            Change::Emptied { group } => {
                if let Some(group) = self.groups.get(&group)
                    && group.is(State::Empty)
                {
                    group.retry_empty_metadata(&mut env);
                }
            }
            Change::Deleted { group } => {
                if let Some(group) = self.groups.get_mut(&group)
                    && group.tombstone_write == Some(write)
                {
                    group.tombstone_write = None;
                }
            }
            Change::Assigned { group, generation, .. } => {
                if let Some(group) = self.groups.get_mut(&group)
                    && group.is(State::CompletingRebalance)
                    && group.generation == generation
                {
                    refuse_assignment(group, &mut env, error);
                }
            }
            Change::Replaced { group, generation, new_id, before, .. } => {
                if let Some(group) = self.groups.get_mut(&group)
                    && group.is(State::Stable)
                    && group.generation == generation
                    && let Some(waiter) = group.take_awaiting_join(&new_id)
                {
                    complete_join(env.fx, waiter, join_refusal("", error));
                    let old_id = Arc::clone(&before.id);
                    group.replace_static(&mut env, &new_id, &old_id);
                    group.restore(*before);
                    group.refresh_session(&mut env, &old_id);
                }
            }
        }
    }

    /// A group that is committed to without having members needs to be known too (a "simple" group).
    pub(crate) fn ensure_group(&mut self, id: &Arc<str>) {
        if !self.groups.contains_key(id) {
            self.groups.insert(Arc::clone(id), Group::new(Arc::clone(id), None));
        }
    }

    /// Offsets that outlive the tombstone of their group must still have one to expire with.
    fn ensure_group_of_offsets(&mut self, id: &Arc<str>) {
        if self.offsets.has_any(id) {
            self.ensure_group(id);
        }
    }

    /// Stages what `id` carries in the slots of the offsets.
    pub(crate) fn stage(
        &mut self,
        id: WriteId,
        values: Vec<(OffsetKey, Option<crate::offsets::CommittedOffset>)>,
    ) {
        let mut keys = Vec::with_capacity(values.len());
        for (key, value) in values {
            self.offsets.stage(&key, id, value);
            keys.push(key);
        }
        if let Some(pending) = self.writes.pending.get_mut(&id) {
            pending.offsets.extend(keys);
        }
    }

    // --- time -------------------------------------------------------------------------------------------------

    /// When [`poll`](Self::poll) has something to do next.
    pub fn next_deadline(&self) -> Option<MonotonicMs> {
        self.timers.next_deadline()
    }

    /// Does everything whose time has come.
    pub fn poll(&mut self, now: Now) -> Effects {
        let mut fx = Effects::default();
        while let Some(timer) = self.timers.pop_due(now.monotonic) {
            self.fire(now, timer, &mut fx);
        }
        fx
    }

    fn fire(&mut self, now: Now, timer: Timer, fx: &mut Effects) {
        match timer {
            Timer::Session { group, member } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.session_timeout(&mut env!(self, now, *fx), &member);
                }
            }
            Timer::Join { group } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.join_timeout(&mut env!(self, now, *fx));
                }
            }
            Timer::Sync { group } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.sync_timeout(&mut env!(self, now, *fx));
                }
            }
            Timer::EmptyMetadata { group } => {
                if let Some(group) = self.groups.get_mut(&group)
                    && group.is(State::Empty)
                {
                    group.write_empty_metadata(&mut env!(self, now, *fx));
                }
            }
            Timer::Write(id) => self.write_timeout(now, id, fx),
            Timer::Expiry => {
                self.schedule_expiry(now);
                self.expire(now, fx);
            }
        }
    }

    /// The replies to a write have waited long enough. What it carries may be committed yet, so nothing is
    /// rolled back; only a rebalance does not wait any longer.
    fn write_timeout(&mut self, now: Now, id: WriteId, fx: &mut Effects) {
        let mut env = env!(self, now, *fx);
        let Some(mut pending) = env.writes.pending.remove(&id) else { return };
        let refusal = append_error(ErrorCode::RequestTimedOut);
        env.refuse_held(&mut pending, refusal);
        pending.refusal = Some(refusal);
        for change in &pending.changes {
            match change {
                Change::Assigned { group, generation, .. } => {
                    if let Some(group) = self.groups.get_mut(group)
                        && group.is(State::CompletingRebalance)
                        && group.generation == *generation
                    {
                        refuse_assignment(group, &mut env, refusal);
                    }
                }
                Change::Replaced { group, new_id, .. } => {
                    if let Some(group) = self.groups.get_mut(group)
                        && group.is(State::Stable)
                        && let Some(waiter) = group.take_awaiting_join(new_id)
                    {
                        complete_join(env.fx, waiter, join_refusal("", refusal));
                        group.refresh_session(&mut env, new_id);
                    }
                }
                Change::Created { .. } | Change::Emptied { .. } | Change::Deleted { .. } => {}
            }
        }
        env.writes.pending.insert(id, pending);
    }
}

/// A `JoinGroup` that cannot be granted; Kafka names the member in most of them.
pub(crate) fn join_refusal(member_id: &str, error: ErrorCode) -> JoinGroupResponse {
    JoinGroupResponse { error_code: error.code(), member_id: member_id.to_owned(), ..Default::default() }
}

fn refuse_assignment(group: &mut Group, env: &mut Env<'_>, error: ErrorCode) {
    group.abandon_assignment(env, error);
    group.prepare_rebalance(env, &format!("{error} when the group's assignment was stored"));
}

/// Answers a static member that has taken its old place. From version 9 on its client is told not to assign
/// anew if it leads (KIP-814); an older one is told the last leader's id, so that it does not take itself for it.
fn answer_replaced(group: &Group, env: &mut Env<'_>, waiter: Waiter, id: &str, last_leader: String) {
    let mut response = group.join_response(id);
    if waiter.api_version >= 9 {
        response.skip_assignment = group.is_leader(id);
    } else {
        response.leader = last_leader;
        response.members.clear();
    }
    complete_join(env.fx, waiter, response);
    group.refresh_session(env, id);
}
