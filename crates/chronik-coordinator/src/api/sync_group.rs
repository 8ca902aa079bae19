//! `SyncGroup` (14), versions 0–5.
//!
//! Followers wait; the leader brings everyone's assignment, which is answered once it is in the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chronik_protocol::messages::SyncGroupRequest;
use chronik_types::{ErrorCode, Now};

use crate::coordinator::{GroupCoordinator, env};
use crate::effects::{Effects, RequestContext, Response};
use crate::env::{Change, Env};
use crate::group::{Group, State, complete_sync_error};
use crate::records::group_metadata_record;

/// The first version that must name the group's protocol.
const NAMED_PROTOCOL_VERSION: i16 = 5;

impl GroupCoordinator {
    /// Handles a `SyncGroup`.
    pub fn sync_group(&mut self, now: Now, context: &RequestContext, request: &SyncGroupRequest) -> Effects {
        let mut fx = Effects::default();
        let waiter = context.waiter();
        let group = self
            .check_sync(context, request)
            .and_then(|()| self.groups.get_mut(request.group_id.as_str()).ok_or(ErrorCode::UnknownMemberId));
        let group = match group {
            Ok(group) => group,
            Err(error) => {
                complete_sync_error(&mut fx, waiter, error);
                return fx;
            }
        };
        let mut env = env!(self, now, fx);
        match group.state() {
            State::Empty => complete_sync_error(env.fx, waiter, ErrorCode::UnknownMemberId),
            State::PreparingRebalance => complete_sync_error(env.fx, waiter, ErrorCode::RebalanceInProgress),
            State::CompletingRebalance => {
                park(group, &mut env, context, &request.member_id);
                if group.is_leader(&request.member_id) && group.assignment_write.is_none() {
                    write_assignment(group, &mut env, request);
                }
            }
            State::Stable => {
                group.remove_pending_sync(&request.member_id);
                group.settle_sync_timer(&mut env);
                let response = group.sync_response(&request.member_id);
                env.fx.complete(waiter, Response::SyncGroup(response));
            }
        }
        fx
    }

    fn check_sync(&self, context: &RequestContext, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        // The client must name what it takes the group's protocol to be (KIP-559).
        let names_protocol = request.protocol_type.is_some() && request.protocol_name.is_some();
        if context.api_version >= NAMED_PROTOCOL_VERSION && !names_protocol {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        self.check_writing()?;
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let group = self.groups.get(request.group_id.as_str()).ok_or(ErrorCode::UnknownMemberId)?;
        group.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |theirs: &Option<String>, ours: &Option<String>| {
            theirs.is_some() && ours.is_some() && theirs != ours
        };
        if differs(&request.protocol_type, &group.protocol_type)
            || differs(&request.protocol_name, &group.protocol_name)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }
}

/// Parks a `SyncGroup` until there is an assignment. An earlier one in the same name has been given up.
fn park(group: &mut Group, env: &mut Env<'_>, context: &RequestContext, member_id: &str) {
    if let Some(member) = group.member_mut(member_id)
        && let Some(previous) = member.awaiting_sync.replace(context.waiter())
    {
        complete_sync_error(env.fx, previous, ErrorCode::RebalanceInProgress);
    }
    group.remove_pending_sync(member_id);
    group.settle_sync_timer(env);
}

/// Sends the leader's assignment to the log. Members that it leaves out own nothing; others that it names are
/// not in this generation.
fn write_assignment(group: &mut Group, env: &mut Env<'_>, request: &SyncGroupRequest) {
    let mut given: BTreeMap<&str, &Bytes> = BTreeMap::new();
    for assignment in &request.assignments {
        given.insert(&assignment.member_id, &assignment.assignment);
    }
    let mut assignments = BTreeMap::new();
    for member in group.members() {
        // Copied, so that the group does not hold on to the leader's frame.
        let assignment = given.get(&*member.id).map(|assignment| Bytes::copy_from_slice(assignment));
        if assignment.is_none() {
            tracing::warn!(
                group = %group.id, generation = group.generation, member = %member.id,
                "the leader assigned nothing to a member"
            );
        }
        assignments.insert(Arc::clone(&member.id), assignment.unwrap_or_default());
    }
    let record = group_metadata_record(group, &assignments);
    let generation = group.generation;
    let change = Change::Assigned { group: Arc::clone(&group.id), generation, assignments };
    group.assignment_write = Some(env.write(vec![record], vec![change]));
}
