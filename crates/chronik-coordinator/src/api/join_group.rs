//! `JoinGroup` (11), versions 0–9.
//!
//! A dynamic member without an id is given one and sent away with `MEMBER_ID_REQUIRED` from version 4 on (KIP-394),
//! so that a client which never hears the answer leaves no ghost behind. A static member (version 5, KIP-345)
//! takes the place of whoever had its instance id before; while the group is Stable and its protocol stays, that
//! happens without a rebalance, once it is in the log. Every other way in leads to a rebalance, and the answer
//! comes when it is over.

use std::sync::Arc;

use bytes::Bytes;
use chronik_protocol::messages::JoinGroupRequest;
use chronik_types::{ErrorCode, Now};

use crate::config::{PENDING_MEMBERS_MAX, REASON_CHARS_MAX};
use crate::coordinator::{GroupCoordinator, env, join_refusal};
use crate::effects::{Effects, RequestContext};
use crate::env::{Change, Env};
use crate::group::{Group, Member, Protocol, State, complete_join, join_answer};
use crate::member_id::MemberIds;
use crate::records::{group_metadata_record, new_group_record};

/// The first version whose dynamic members must come back with the id that they are given.
const KNOWN_MEMBER_ID_VERSION: i16 = 4;

impl GroupCoordinator {
    /// Handles a `JoinGroup`.
    pub fn join_group(&mut self, now: Now, context: &RequestContext, request: &JoinGroupRequest) -> Effects {
        let mut fx = Effects::default();
        if let Err(error) = self.check_join(request) {
            complete_join(&mut fx, context.waiter(), join_refusal(&request.member_id, error));
            return fx;
        }
        let id: Arc<str> = request.group_id.as_str().into();
        // A group whose tombstone is on its way counts as gone: what comes after it in the log begins anew.
        let is_new = self.groups.get(&id).is_none_or(|group| group.tombstone_write.is_some());
        if is_new && !request.member_id.is_empty() {
            let refusal = join_refusal(&request.member_id, ErrorCode::UnknownMemberId);
            complete_join(&mut fx, context.waiter(), refusal);
            return fx;
        }
        let mut env = env!(self, now, fx);
        let group =
            self.groups.entry(Arc::clone(&id)).or_insert_with(|| Group::new(Arc::clone(&id), Some(now.wall)));
        let join = Join { context, request, protocols: Protocol::from_request(&request.protocols) };
        join.run(group, &mut env, &mut self.member_ids);
        if is_new && !group.is_deserted() {
            group.tombstone_write = None;
            create(group, &mut env);
        } else if is_new && group.tombstone_write.is_none() {
            // Nobody got in, so there is no group.
            self.groups.remove(&id);
        }
        fx
    }

    fn check_join(&self, request: &JoinGroupRequest) -> Result<(), ErrorCode> {
        let allowed = self.config.group_min_session_timeout_ms..=self.config.group_max_session_timeout_ms;
        self.check_writing()?;
        if request.group_id.is_empty() {
            Err(ErrorCode::InvalidGroupId)
        } else if !allowed.contains(&request.session_timeout_ms) {
            Err(ErrorCode::InvalidSessionTimeout)
        } else if PROTOCOLS_MAX < request.protocols.len() {
            Err(ErrorCode::InconsistentGroupProtocol)
        } else {
            Ok(())
        }
    }
}

/// The most protocols that a member may offer. Clients offer a handful; choosing among them compares each with those of
/// all members.
const PROTOCOLS_MAX: usize = 100;

/// Writes a new group to the log. What its first request was answered waits for that.
fn create(group: &mut Group, env: &mut Env<'_>) {
    let member_id = group.members().map(|member| &member.id).chain(group.pending_ids()).next().cloned();
    let change = Change::Created { group: Arc::clone(&group.id), member_id };
    let answers = std::mem::take(&mut env.fx.completions);
    let write = env.write(vec![new_group_record(group)], vec![change]);
    group.creation_write = Some(write);
    for answer in answers {
        env.hold(write, answer);
    }
}

/// One `JoinGroup` at work on its group.
struct Join<'a> {
    context: &'a RequestContext,
    request: &'a JoinGroupRequest,
    protocols: Vec<Protocol>,
}

impl Join<'_> {
    fn run(self, group: &mut Group, env: &mut Env<'_>, ids: &mut MemberIds) {
        let member_id = self.request.member_id.as_str();
        if !self.fits(group, env) {
            group.remove(env, member_id, ErrorCode::GroupMaxSizeReached);
            group.maybe_complete_join_phase(env);
            self.refuse(env, "", ErrorCode::GroupMaxSizeReached);
        } else if !group.supports(&self.request.protocol_type, &self.protocols) {
            self.refuse(env, member_id, ErrorCode::InconsistentGroupProtocol);
        } else if member_id.is_empty() {
            self.join_unknown(group, env, ids);
        } else if group.is_pending(member_id) {
            self.join_pending(group, env);
        } else {
            self.join_known(group, env);
        }
    }

    /// Whether the group has room. Whoever is in keeps their place, except that of a group which has become too
    /// large only as many may join again as it may hold.
    fn fits(&self, group: &Group, env: &Env<'_>) -> bool {
        let member = group.member(&self.request.member_id);
        match group.state() {
            State::Empty => true,
            State::PreparingRebalance => {
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || group.awaiting_join_count() < env.config.group_max_size
            }
            State::CompletingRebalance | State::Stable => {
                member.is_some() || group.member_count() < env.config.group_max_size
            }
        }
    }

    fn join_unknown(self, group: &mut Group, env: &mut Env<'_>, ids: &mut MemberIds) {
        let instance_id = self.request.group_instance_id.as_deref();
        let member_id: Arc<str> = ids.next(instance_id.unwrap_or(&self.context.client_id)).into();
        let current = instance_id.and_then(|id| group.static_member_id(id)).map(Arc::clone);
        match current {
            Some(current) => self.replace(group, env, &current, &member_id),
            None if instance_id.is_none() && self.context.api_version >= KNOWN_MEMBER_ID_VERSION => {
                self.hand_out(group, env, member_id);
            }
            None => self.add(group, env, &member_id),
        }
    }

    /// Gives a member an id to come back with.
    fn hand_out(&self, group: &mut Group, env: &mut Env<'_>, member_id: Arc<str>) {
        if group.pending_member_count() >= PENDING_MEMBERS_MAX {
            self.refuse(env, "", ErrorCode::GroupMaxSizeReached);
            return;
        }
        let timeout_ms = u64::try_from(self.request.session_timeout_ms).unwrap_or(0);
        env.timers.schedule(group.session_timer(&member_id), env.now.monotonic.plus_ms(timeout_ms));
        self.refuse(env, &member_id, ErrorCode::MemberIdRequired);
        group.add_pending(member_id);
    }

    fn join_pending(self, group: &mut Group, env: &mut Env<'_>) {
        if self.request.group_instance_id.is_some() {
            // Ids are handed out to dynamic members only; no client that follows the protocol comes here.
            self.refuse(env, &self.request.member_id, ErrorCode::UnknownServerError);
        } else {
            let member_id: Arc<str> = self.request.member_id.as_str().into();
            self.add(group, env, &member_id);
        }
    }

    fn join_known(self, group: &mut Group, env: &mut Env<'_>) {
        let member_id = self.request.member_id.as_str();
        let instance_id = self.request.group_instance_id.as_deref();
        if let Err(error) = group.validate_member(member_id, instance_id) {
            return self.refuse(env, member_id, error);
        }
        let is_unchanged = group.member(member_id).is_some_and(|member| member.protocols == self.protocols);
        let reason = match group.state() {
            State::Empty => return self.refuse(env, member_id, ErrorCode::UnknownMemberId),
            State::PreparingRebalance => String::new(),
            // Its last JoinGroup's answer may have been lost; the generation is still the one to be in.
            State::CompletingRebalance if is_unchanged => return self.repeat(group, env),
            State::Stable if is_unchanged && !group.is_leader(member_id) => return self.repeat(group, env),
            State::Stable if group.is_leader(member_id) => format!("leader {member_id} joined again"),
            State::CompletingRebalance | State::Stable => format!("member {member_id} changed its metadata"),
        };
        let reason = self.with_client_reason(&reason);
        let member_id = member_id.to_owned();
        self.update(group, env, &member_id);
        group.rebalance_or_complete(env, &reason);
    }

    /// Tells a member of the current generation once more that it is in it.
    fn repeat(&self, group: &Group, env: &mut Env<'_>) {
        let waiter = self.context.waiter();
        let answer = join_answer(waiter, group.join_response(&self.request.member_id));
        env.reply_after(group.creation_write, waiter, answer);
    }

    /// Takes a new member in.
    fn add(self, group: &mut Group, env: &mut Env<'_>, member_id: &Arc<str>) {
        let request = self.request;
        let instance = request.group_instance_id.as_deref();
        let reason = match instance {
            Some(instance) => format!("static member {member_id} of instance {instance} joined"),
            None => format!("member {member_id} joined"),
        };
        let reason = self.with_client_reason(&reason);
        if group.member_count() == 0 {
            group.protocol_type = Some(request.protocol_type.clone());
        }
        group.note_new_member();
        group.add(Member {
            id: Arc::clone(member_id),
            instance_id: instance.map(Arc::from),
            client_id: self.context.client_id.clone(),
            client_host: self.context.client_host.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms(),
            session_timeout_ms: request.session_timeout_ms,
            assignment: Bytes::new(),
            awaiting_join: Some(self.context.waiter()),
            awaiting_sync: None,
            is_new: true,
            protocols: self.protocols,
        });
        let deadline = env.now.monotonic.plus_ms(env.config.new_member_join_timeout_ms);
        env.timers.schedule(group.session_timer(member_id), deadline);
        group.rebalance_or_complete(env, &reason);
    }

    /// Lets a static member take over the place of its instance id.
    fn replace(self, group: &mut Group, env: &mut Env<'_>, old_id: &str, new_id: &Arc<str>) {
        let instance = self.request.group_instance_id.as_deref().unwrap_or_default();
        tracing::info!(group = %group.id, instance, old = old_id, new = %new_id, "a static member came back");
        let leader = group.leader.as_deref().unwrap_or_default().to_owned();
        let Some(before) = group.replace_static(env, old_id, new_id) else { return };
        group.refresh_session(env, new_id);
        let reason =
            self.with_client_reason(&format!("static member {new_id} of instance {instance} joined"));
        self.update(group, env, new_id);
        match group.state() {
            State::Stable if group.select_protocol() == group.protocol_name => {
                let record = group_metadata_record(group, &group.assignments());
                let change = Change::Replaced {
                    group: Arc::clone(&group.id),
                    generation: group.generation,
                    new_id: Arc::clone(new_id),
                    before: Box::new(before),
                    leader,
                };
                env.write(vec![record], vec![change]);
            }
            State::Stable | State::CompletingRebalance => {
                group.prepare_rebalance(env, &reason);
            }
            State::PreparingRebalance | State::Empty => {
                group.maybe_complete_join_phase(env);
            }
        }
    }

    /// Takes over what the request says of a member, and parks it.
    fn update(self, group: &mut Group, env: &mut Env<'_>, member_id: &str) {
        let rebalance_timeout_ms = self.rebalance_timeout_ms();
        if let Some(member) = group.member_mut(member_id) {
            member.protocols = self.protocols;
            member.rebalance_timeout_ms = rebalance_timeout_ms;
            member.session_timeout_ms = self.request.session_timeout_ms;
        }
        group.await_join(env, member_id, self.context.waiter());
    }

    /// Version 0 has no rebalance timeout: the session timeout served for both.
    fn rebalance_timeout_ms(&self) -> i32 {
        if self.context.api_version == 0 {
            self.request.session_timeout_ms
        } else {
            self.request.rebalance_timeout_ms
        }
    }

    /// What the coordinator saw, and what the client says about it (KIP-800).
    fn with_client_reason(&self, reason: &str) -> String {
        let client_reason = self.request.reason.as_deref().filter(|reason| !reason.is_empty());
        let client_reason: String =
            client_reason.unwrap_or("not provided").chars().take(REASON_CHARS_MAX).collect();
        format!("{reason}; client reason: {client_reason}")
    }

    fn refuse(&self, env: &mut Env<'_>, member_id: &str, error: ErrorCode) {
        complete_join(env.fx, self.context.waiter(), join_refusal(member_id, error));
    }
}
