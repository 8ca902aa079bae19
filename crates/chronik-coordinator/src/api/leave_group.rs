//! `LeaveGroup` (13), versions 0–5. From version 3 on one request may name several members, static ones by their
//! instance id alone (KIP-345).

use std::sync::Arc;

use chronik_protocol::messages::leave_group_request::MemberIdentity;
use chronik_protocol::messages::leave_group_response::MemberResponse;
use chronik_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};
use chronik_types::{ErrorCode, Now};

use crate::WriteId;
use crate::config::REASON_CHARS_MAX;
use crate::coordinator::{GroupCoordinator, env};
use crate::effects::{Effects, RequestContext, Response};
use crate::env::Env;
use crate::group::{Group, State};

/// The first version that names its members in a list.
const BATCH_VERSION: i16 = 3;

impl GroupCoordinator {
    /// Handles a `LeaveGroup`.
    pub fn leave_group(
        &mut self,
        now: Now,
        context: &RequestContext,
        request: &LeaveGroupRequest,
    ) -> Effects {
        let mut fx = Effects::default();
        if let Err(error) = self.check_leave(request) {
            let response = LeaveGroupResponse { error_code: error.code(), ..Default::default() };
            fx.complete(context.waiter(), Response::LeaveGroup(response));
            return fx;
        }
        let leaving = if context.api_version < BATCH_VERSION {
            vec![MemberIdentity { member_id: request.member_id.clone(), ..Default::default() }]
        } else {
            request.members.clone()
        };
        let mut env = env!(self, now, fx);
        let (members, write) = match self.groups.get_mut(request.group_id.as_str()) {
            Some(group) => leave(group, &mut env, &leaving),
            None => {
                (leaving.iter().map(|member| outcome(member, ErrorCode::UnknownMemberId)).collect(), None)
            }
        };
        let response = Response::LeaveGroup(in_form(context.api_version, members));
        env.reply_after(write, context.waiter(), response);
        fx
    }

    fn check_leave(&self, request: &LeaveGroupRequest) -> Result<(), ErrorCode> {
        self.check_writing()?;
        if request.group_id.is_empty() { Err(ErrorCode::InvalidGroupId) } else { Ok(()) }
    }
}

fn leave(
    group: &mut Group,
    env: &mut Env<'_>,
    leaving: &[MemberIdentity],
) -> (Vec<MemberResponse>, Option<WriteId>) {
    let mut members = Vec::with_capacity(leaving.len());
    let mut left: Vec<String> = Vec::new();
    for member in leaving {
        let was_pending = group.is_pending(&member.member_id);
        let error = match leave_one(group, env, member) {
            Ok(_) if was_pending => {
                tracing::info!(group = %group.id, member = member.member_id, "a member id was given back");
                ErrorCode::None
            }
            Ok(id) => {
                let reason = member.reason.as_deref().filter(|reason| !reason.is_empty());
                let reason: String =
                    reason.unwrap_or("not provided").chars().take(REASON_CHARS_MAX).collect();
                left.push(format!("{id} (client reason: {reason})"));
                ErrorCode::None
            }
            Err(error) => error,
        };
        members.push(outcome(member, error));
    }
    // An id that was never used has no part in the generation: giving it back disturbs nobody (Kafka rebalances).
    let write = match group.state() {
        State::Stable | State::CompletingRebalance if left.is_empty() => None,
        State::Stable | State::CompletingRebalance => {
            group.prepare_rebalance(env, &format!("members left: {}", left.join(", ")))
        }
        State::PreparingRebalance => {
            if !left.is_empty() {
                tracing::info!(group = %group.id, members = %left.join(", "), "members left in a rebalance");
            }
            group.maybe_complete_join_phase(env)
        }
        State::Empty => None,
    };
    (members, write)
}

fn leave_one(group: &mut Group, env: &mut Env<'_>, member: &MemberIdentity) -> Result<Arc<str>, ErrorCode> {
    let instance_id = member.group_instance_id.as_deref();
    let id: Arc<str> = if member.member_id.is_empty() {
        let current = instance_id.and_then(|instance_id| group.static_member_id(instance_id));
        Arc::clone(current.ok_or(ErrorCode::UnknownMemberId)?)
    } else {
        if !group.is_pending(&member.member_id) {
            group.validate_member(&member.member_id, instance_id)?;
        }
        member.member_id.as_str().into()
    };
    group.remove(env, &id, ErrorCode::UnknownMemberId);
    Ok(id)
}

fn outcome(member: &MemberIdentity, error: ErrorCode) -> MemberResponse {
    MemberResponse {
        member_id: member.member_id.clone(),
        group_instance_id: member.group_instance_id.clone(),
        error_code: error.code(),
    }
}

/// Before version 3 the one member's error is the request's.
fn in_form(api_version: i16, members: Vec<MemberResponse>) -> LeaveGroupResponse {
    if api_version < BATCH_VERSION {
        let error_code = members.first().map_or(0, |member| member.error_code);
        LeaveGroupResponse { error_code, ..Default::default() }
    } else {
        LeaveGroupResponse { members, ..Default::default() }
    }
}
