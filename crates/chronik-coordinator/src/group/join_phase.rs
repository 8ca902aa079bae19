//! How a group gets from one generation to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chronik_protocol::messages::SyncGroupResponse;
use chronik_types::ErrorCode;

use super::{Group, InitialDelay, Member, State, complete_sync_error, join_answer};
use crate::WriteId;
use crate::config::EMPTY_METADATA_RETRY_MS;
use crate::effects::Response;
use crate::env::{Change, Env};
use crate::records::group_metadata_record;
use crate::timers::Timer;

impl Group {
    /// Starts a rebalance where none is running, else sees whether the running one is complete.
    pub(crate) fn rebalance_or_complete(&mut self, env: &mut Env<'_>, reason: &str) -> Option<WriteId> {
        if self.is(State::PreparingRebalance) {
            self.maybe_complete_join_phase(env)
        } else {
            self.prepare_rebalance(env, reason)
        }
    }

    /// Opens the join phase. An empty group waits for its initial delay, so that members which start together
    /// end up in one generation; any other goes on as soon as all of its members have joined again.
    pub(crate) fn prepare_rebalance(&mut self, env: &mut Env<'_>, reason: &str) -> Option<WriteId> {
        if self.is(State::CompletingRebalance) {
            self.abandon_assignment(env, ErrorCode::RebalanceInProgress);
        }
        self.pending_sync.clear();
        env.timers.cancel(&self.sync_timer());
        let from = self.state;
        self.transition(env, State::PreparingRebalance);
        tracing::info!(
            group = %self.id, state = %from, generation = self.generation, members = self.members.len(), reason,
            "preparing to rebalance"
        );
        if from == State::Empty {
            let delay_ms = env.config.group_initial_rebalance_delay_ms;
            let remaining_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms);
            self.initial_delay = Some(InitialDelay { delay_ms, remaining_ms });
            self.new_member_added = false;
            env.timers.schedule(self.join_timer(), env.now.monotonic.plus_ms(delay_ms));
            None
        } else if self.has_all_joined() {
            self.complete_join_phase(env)
        } else {
            let deadline = env.now.monotonic.plus_ms(self.rebalance_timeout_ms());
            env.timers.schedule(self.join_timer(), deadline);
            None
        }
    }

    /// Ends the join phase if everyone is there; a group that was empty sits out its initial delay all the same.
    pub(crate) fn maybe_complete_join_phase(&mut self, env: &mut Env<'_>) -> Option<WriteId> {
        let complete = self.is(State::PreparingRebalance)
            && self.previous_state != State::Empty
            && self.has_all_joined();
        if complete { self.complete_join_phase(env) } else { None }
    }

    /// A member has joined during the initial delay, which makes the delay start again.
    pub(crate) fn note_new_member(&mut self) {
        if self.is(State::PreparingRebalance) && self.previous_state == State::Empty {
            self.new_member_added = true;
        }
    }

    /// The join timer has gone off.
    pub(crate) fn join_timeout(&mut self, env: &mut Env<'_>) {
        if !self.is(State::PreparingRebalance) {
            return;
        }
        if let Some(delay) = self.initial_delay
            && self.new_member_added
            && delay.remaining_ms > 0
        {
            self.new_member_added = false;
            let delay_ms = env.config.group_initial_rebalance_delay_ms.min(delay.remaining_ms);
            let remaining_ms = delay.remaining_ms.saturating_sub(delay.delay_ms);
            self.initial_delay = Some(InitialDelay { delay_ms, remaining_ms });
            env.timers.schedule(self.join_timer(), env.now.monotonic.plus_ms(delay_ms));
            return;
        }
        self.complete_join_phase(env);
    }

    /// Ends the join phase: puts out the dynamic members that did not join again, begins the next generation and
    /// answers everyone. Static members keep their place until their session ends.
    fn complete_join_phase(&mut self, env: &mut Env<'_>) -> Option<WriteId> {
        env.timers.cancel(&self.join_timer());
        let absent = |member: &&Member| member.awaiting_join.is_none() && member.instance_id.is_none();
        let absent: Vec<Arc<str>> =
            self.members().filter(absent).map(|member| Arc::clone(&member.id)).collect();
        for id in &absent {
            self.remove(env, id, ErrorCode::UnknownMemberId);
        }
        if !absent.is_empty() {
            tracing::info!(group = %self.id, members = ?absent, "put out members that did not join again in time");
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only static members are left and none of them is here.
            let deadline = env.now.monotonic.plus_ms(self.rebalance_timeout_ms().max(1));
            env.timers.schedule(self.join_timer(), deadline);
            return None;
        }
        self.initial_delay = None;
        self.new_member_added = false;
        self.assignment_write = None;
        // A generation that runs out of numbers starts again where a new group does.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol_name = self.select_protocol();
        self.subscribed_topics = self.compute_subscribed_topics();
        self.pending_sync.clear();
        if self.members.is_empty() {
            self.transition(env, State::Empty);
            tracing::info!(group = %self.id, generation = self.generation, "group is empty");
            return Some(self.write_empty_metadata(env));
        }
        self.transition(env, State::CompletingRebalance);
        tracing::info!(
            group = %self.id, generation = self.generation, members = self.members.len(),
            protocol = self.protocol_name.as_deref(), "all members have joined"
        );
        self.answer_joins(env);
        let deadline = env.now.monotonic.plus_ms(self.rebalance_timeout_ms());
        env.timers.schedule(self.sync_timer(), deadline);
        None
    }

    /// Makes sure that the leader is among those who have joined; false where nobody has.
    fn elect_joined_leader(&mut self) -> bool {
        let leader = self.leader.as_deref().and_then(|id| self.members.get(id));
        if leader.is_some_and(|member| member.awaiting_join.is_some()) {
            return true;
        }
        let joined = self.members().find(|member| member.awaiting_join.is_some());
        let Some(id) = joined.map(|member| Arc::clone(&member.id)) else { return false };
        tracing::info!(group = %self.id, leader = %id, "elected another leader; the last one did not join");
        self.leader = Some(id);
        true
    }

    fn answer_joins(&mut self, env: &mut Env<'_>) {
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for id in ids {
            if let Some(waiter) = self.take_awaiting_join(&id) {
                // A group that is not in the log yet must not tell anyone that they are in it.
                let answer = join_answer(waiter, self.join_response(&id));
                env.reply_after(self.creation_write, waiter, answer);
            }
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
            }
            self.refresh_session(env, &id);
            self.pending_sync.insert(id);
        }
    }

    /// Writes that the group has no members any more.
    pub(crate) fn write_empty_metadata(&mut self, env: &mut Env<'_>) -> WriteId {
        let record = group_metadata_record(self, &BTreeMap::new());
        env.write(vec![record], vec![Change::Emptied { group: Arc::clone(&self.id) }])
    }

    /// The metadata of the emptied group is not in the log: the offsets' clock would not be there after a
    /// failover, so it is written again a little later.
    pub(crate) fn retry_empty_metadata(&self, env: &mut Env<'_>) {
        let deadline = env.now.monotonic.plus_ms(EMPTY_METADATA_RETRY_MS);
        env.timers.schedule(Timer::EmptyMetadata { group: Arc::clone(&self.id) }, deadline);
    }

    /// The leader's assignment is committed: everyone learns their part.
    pub(crate) fn assign(&mut self, env: &mut Env<'_>, assignments: &BTreeMap<Arc<str>, Bytes>) {
        self.assignment_write = None;
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.assignment = assignments.get(&id).cloned().unwrap_or_default();
            let Some(waiter) = member.awaiting_sync.take() else { continue };
            let response = self.sync_response(&id);
            env.fx.complete(waiter, Response::SyncGroup(response));
            self.refresh_session(env, &id);
        }
        self.transition(env, State::Stable);
        tracing::info!(
            group = %self.id, generation = self.generation, members = self.members.len(),
            static_members = self.static_members.len(), "group is stable"
        );
    }

    /// What a member of a settled generation is told when it syncs.
    pub(crate) fn sync_response(&self, member_id: &str) -> SyncGroupResponse {
        SyncGroupResponse {
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            assignment: self
                .members
                .get(member_id)
                .map(|member| member.assignment.clone())
                .unwrap_or_default(),
            ..Default::default()
        }
    }

    /// There will be no assignment in this generation.
    pub(crate) fn abandon_assignment(&mut self, env: &mut Env<'_>, error: ErrorCode) {
        self.assignment_write = None;
        let mut answered = Vec::new();
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(waiter) = member.awaiting_sync.take() {
                complete_sync_error(env.fx, waiter, error);
                answered.push(Arc::clone(&member.id));
            }
        }
        for id in answered {
            self.refresh_session(env, &id);
        }
    }

    /// The sync timer has gone off: whoever has not synced is put out.
    pub(crate) fn sync_timeout(&mut self, env: &mut Env<'_>) {
        let syncing = matches!(self.state, State::CompletingRebalance | State::Stable);
        if !syncing || self.has_all_synced() {
            return;
        }
        let late = self.pending_sync();
        for id in &late {
            self.remove(env, id, ErrorCode::UnknownMemberId);
        }
        self.prepare_rebalance(env, &format!("members {late:?} did not sync in time"));
    }

    /// A session timer has gone off.
    pub(crate) fn session_timeout(&mut self, env: &mut Env<'_>, member_id: &str) {
        if self.is_pending(member_id) {
            tracing::info!(group = %self.id, member = member_id, "a member id was handed out and never used");
            self.remove(env, member_id, ErrorCode::UnknownMemberId);
            self.maybe_complete_join_phase_after_removal(env);
        } else if self.member(member_id).is_some_and(|member| !member.is_excused()) {
            self.remove(env, member_id, ErrorCode::UnknownMemberId);
            if self.is(State::PreparingRebalance) {
                tracing::info!(group = %self.id, member = member_id, "a member's session has ended in a rebalance");
                self.maybe_complete_join_phase_after_removal(env);
            } else {
                self.prepare_rebalance(env, &format!("the session of member {member_id} has ended"));
            }
        }
    }

    /// With one member fewer, the rest may be complete. Unlike a departure, this ends an initial delay too, as
    /// in Kafka: nobody who could still join is known of.
    pub(crate) fn maybe_complete_join_phase_after_removal(&mut self, env: &mut Env<'_>) -> Option<WriteId> {
        if self.is(State::PreparingRebalance) && self.has_all_joined() {
            self.complete_join_phase(env)
        } else {
            None
        }
    }
}
