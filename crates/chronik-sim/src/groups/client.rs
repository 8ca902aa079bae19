//! A consumer as clients implement it: joins, syncs, heartbeats, fetches its offsets, commits, and does with each
//! error what the Java client does.

use std::collections::BTreeMap;

use chronik_coordinator::{RequestId, Response};
use chronik_protocol::messages::{JoinGroupResponse, SyncGroupResponse};
use chronik_types::{ErrorCode, MonotonicMs};

use super::requests::error;

/// Where a consumer stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stage {
    /// It has to join.
    Out,
    /// Its `JoinGroup` is on the way.
    Joining(RequestId),
    /// It has joined; the leader knows who else has.
    Joined { members: Vec<String>, assigns: bool },
    /// Its `SyncGroup` is on the way.
    Syncing(RequestId),
    /// It owns partitions, each with the next offset to commit once that is known.
    Member,
}

/// One consumer.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) group: String,
    /// Its group instance id, if it is static.
    pub(super) instance: Option<String>,
    pub(super) member_id: String,
    pub(super) generation: i32,
    /// The protocol of the generation, where the version of the answer names it.
    pub(super) protocol_name: Option<String>,
    pub(super) stage: Stage,
    /// Owned partitions; `None` until the committed offset has been fetched.
    pub(super) positions: BTreeMap<i32, Option<i64>>,
    /// Until then it does nothing: it has crashed, or it is stalled.
    pub(super) away_until: MonotonicMs,
    /// Changes now and then, which makes it join again.
    pub(super) metadata: u8,
}

impl Client {
    pub(super) fn new(group: String, instance: Option<String>) -> Self {
        Self {
            group,
            instance,
            member_id: String::new(),
            generation: -1,
            protocol_name: None,
            stage: Stage::Out,
            positions: BTreeMap::new(),
            away_until: MonotonicMs(0),
            metadata: 0,
        }
    }

    /// The process is gone, and with it everything but its configuration.
    pub(super) fn crash(&mut self) {
        *self = Self { away_until: self.away_until, ..Self::new(self.group.clone(), self.instance.clone()) };
    }

    /// Joins again, under its id.
    pub(super) fn rejoin(&mut self) {
        self.stage = Stage::Out;
        self.positions.clear();
    }

    /// Starts from nothing.
    pub(super) fn reset(&mut self) {
        self.rejoin();
        self.member_id.clear();
        self.generation = -1;
    }

    /// Which request it is waiting for.
    pub(super) fn awaits(&self) -> Option<RequestId> {
        match self.stage {
            Stage::Joining(id) | Stage::Syncing(id) => Some(id),
            Stage::Out | Stage::Joined { .. } | Stage::Member => None,
        }
    }

    /// Takes the answer that it has been waiting for.
    pub(super) fn take(&mut self, response: &Response) {
        match response {
            Response::JoinGroup(response) => self.take_join(response),
            Response::SyncGroup(response) => self.take_sync(response),
            Response::Heartbeat(_)
            | Response::LeaveGroup(_)
            | Response::OffsetCommit(_)
            | Response::OffsetDelete(_)
            | Response::DeleteGroups(_) => unreachable!("it waits for joins and syncs only"),
        }
    }

    fn take_join(&mut self, response: &JoinGroupResponse) {
        let error = error(response.error_code);
        if error == ErrorCode::None {
            self.member_id.clone_from(&response.member_id);
            self.generation = response.generation_id;
            self.protocol_name.clone_from(&response.protocol_name);
            let members = response.members.iter().map(|member| member.member_id.clone()).collect();
            let assigns = response.leader == response.member_id && !response.skip_assignment;
            self.stage = Stage::Joined { members, assigns };
        } else if error == ErrorCode::MemberIdRequired {
            self.member_id.clone_from(&response.member_id);
            self.stage = Stage::Out;
        } else {
            self.take_error(error);
        }
    }

    fn take_sync(&mut self, response: &SyncGroupResponse) {
        let error = error(response.error_code);
        if error == ErrorCode::None {
            self.stage = Stage::Member;
            self.positions =
                response.assignment.iter().map(|partition| (i32::from(*partition), None)).collect();
        } else {
            self.take_error(error);
        }
    }

    pub(super) fn take_error(&mut self, error: ErrorCode) {
        if matches!(
            error,
            ErrorCode::UnknownMemberId
                | ErrorCode::IllegalGeneration
                | ErrorCode::FencedInstanceId
                | ErrorCode::GroupIdNotFound
        ) {
            self.reset();
        } else {
            self.rejoin();
        }
    }
}
