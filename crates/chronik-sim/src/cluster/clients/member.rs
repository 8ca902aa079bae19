//! A member of a group: it joins, is given partitions, asks what is committed of them, commits more and more of them, and
//! does with each error what clients do. Now and then it leaves, is gone without a word, or has another subscription.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use chronik_protocol::messages::leave_group_request::MemberIdentity;
use chronik_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use chronik_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use chronik_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use chronik_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use chronik_types::ErrorCode;

use super::Context;
use crate::cluster::checkers::Rule;
use crate::cluster::network::Answer;
use crate::cluster::sabotage::Sabotage;

const JOIN_VERSION: i16 = 9;
const SYNC_VERSION: i16 = 5;
const HEARTBEAT_VERSION: i16 = 4;
const LEAVE_VERSION: i16 = 5;
const COMMIT_VERSION: i16 = 8;
const FETCH_VERSION: i16 = 8;
/// The group of all members, and its topic, which is never deleted: its offsets would go with it.
pub(in crate::cluster) const GROUP: &str = "members";
const TOPIC: &str = "kept";
/// How many partitions there are to own.
pub(in crate::cluster) const OWNED_PARTITIONS: u8 = 3;
/// Short enough that who is gone without a word does not keep the others waiting for long.
pub(in crate::cluster) const SESSION_TIMEOUT_MS: i32 = 1_500;
const REBALANCE_TIMEOUT_MS: i32 = 1_500;
/// How long a member waits for the others beyond that.
const REBALANCE_PATIENCE_MS: u64 = 3_500;
/// Coordinators hold a commit for up to five seconds.
const COMMIT_PATIENCE_MS: u64 = 2_500;

/// Where a member stands.
enum Stage {
    /// It has to join.
    Out,
    /// It has joined; the leader knows who else has.
    Joined { members: Vec<String>, assigns: bool },
    /// It owns partitions, each with the offset that is committed, once that is known.
    In { positions: BTreeMap<i32, Option<i64>> },
}

#[derive(Clone, Copy)]
enum Asked {
    Coordinator,
    Join,
    Sync { newest_before: i32 },
    Fetch { partition: i32 },
    Commit { partition: i32, offset: i64, generation: i32, newest_before: i32 },
    Heartbeat,
    Leave,
}

#[expect(clippy::struct_field_names, reason = "the protocol calls it a member id")]
pub(in crate::cluster) struct Member {
    pause_ms: u64,
    coordinator: Option<usize>,
    member_id: String,
    generation: i32,
    protocol_name: Option<String>,
    /// Its subscription; another one makes it join again.
    metadata: u8,
    stage: Stage,
    under_way: Option<(u64, Asked)>,
    next_token: u64,
    is_finishing: bool,
    /// A commit was acknowledged, so that its topic is there.
    knows_topic: bool,
    /// In this generation the coordinator has taken its word after everything was mended.
    confirmed_in: Option<i32>,
}

impl Member {
    pub(super) fn new(pause_ms: u64) -> Self {
        Self {
            pause_ms,
            coordinator: None,
            member_id: String::new(),
            generation: -1,
            protocol_name: None,
            metadata: 0,
            stage: Stage::Out,
            under_way: None,
            next_token: 1,
            is_finishing: false,
            knows_topic: false,
            confirmed_in: None,
        }
    }

    pub(super) fn finish(&mut self) {
        self.is_finishing = true;
        self.forget_positions();
    }

    /// It asks for what is committed again.
    fn forget_positions(&mut self) {
        if let Stage::In { positions } = &mut self.stage {
            for position in positions.values_mut() {
                *position = None;
            }
        }
    }

    /// Whether it is in the group's newest generation, was heard there after everything was mended, and has read back
    /// what is committed.
    pub(in crate::cluster) fn is_settled(&self, newest_generation: i32) -> bool {
        matches!(&self.stage, Stage::In { positions } if positions.values().all(Option::is_some))
            && self.generation == newest_generation
            && self.confirmed_in == Some(newest_generation)
    }

    pub(super) fn wake(&mut self, context: &mut Context<'_>) {
        if self.under_way.is_none() {
            self.act(context);
        }
        let pause_ms = 5 + context.rng.below(self.pause_ms);
        context.wake_in(pause_ms);
    }

    fn act(&mut self, context: &mut Context<'_>) {
        let token = self.next_token;
        self.next_token += 1;
        let Some(coordinator) = self.coordinator else {
            context.find_coordinator(GROUP, token);
            self.under_way = Some((token, Asked::Coordinator));
            return;
        };
        let asked = match &self.stage {
            Stage::Out => Some(self.join(context, coordinator, token)),
            Stage::Joined { members, assigns } => {
                let parts = shares(members, *assigns, context.sabotage);
                Some(self.sync(context, coordinator, token, parts))
            }
            Stage::In { positions } => {
                let owned: Vec<(i32, Option<i64>)> =
                    positions.iter().map(|(key, value)| (*key, *value)).collect();
                self.work(context, coordinator, token, &owned)
            }
        };
        self.under_way = asked.map(|asked| (token, asked));
    }

    fn join(&self, context: &mut Context<'_>, coordinator: usize, token: u64) -> Asked {
        let protocol = |name: &str| JoinGroupRequestProtocol {
            name: name.to_owned(),
            metadata: Bytes::copy_from_slice(&[self.metadata]),
        };
        let request = JoinGroupRequest {
            group_id: GROUP.to_owned(),
            session_timeout_ms: SESSION_TIMEOUT_MS,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            member_id: self.member_id.clone(),
            protocol_type: "consumer".to_owned(),
            protocols: vec![protocol("range"), protocol("sticky")],
            ..JoinGroupRequest::default()
        };
        context.call_patiently(coordinator, JOIN_VERSION, &request, token, REBALANCE_PATIENCE_MS);
        Asked::Join
    }

    fn sync(
        &self,
        context: &mut Context<'_>,
        coordinator: usize,
        token: u64,
        parts: Vec<(String, Vec<u8>)>,
    ) -> Asked {
        let assignment = |(member_id, part): (String, Vec<u8>)| SyncGroupRequestAssignment {
            member_id,
            assignment: part.into(),
        };
        let request = SyncGroupRequest {
            group_id: GROUP.to_owned(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            protocol_type: Some("consumer".to_owned()),
            protocol_name: self.protocol_name.clone(),
            assignments: parts.into_iter().map(assignment).collect(),
            ..SyncGroupRequest::default()
        };
        context.call_patiently(coordinator, SYNC_VERSION, &request, token, REBALANCE_PATIENCE_MS);
        Asked::Sync { newest_before: context.checkers.newest_generation(GROUP) }
    }

    /// What a member does that owns its partitions.
    fn work(
        &mut self,
        context: &mut Context<'_>,
        coordinator: usize,
        token: u64,
        owned: &[(i32, Option<i64>)],
    ) -> Option<Asked> {
        if let Some((partition, _)) = owned.iter().find(|(_, position)| position.is_none()) {
            return Some(Self::fetch(context, coordinator, token, *partition));
        }
        if !self.is_finishing && context.rng.chance(3) {
            return self.go(context, coordinator, token);
        }
        // In the end it only stays, so that its group comes to rest.
        let is_done = self.confirmed_in == Some(self.generation);
        if !owned.is_empty() && !is_done && context.rng.chance(60) {
            let (partition, position) = owned[context.rng.index(owned.len())];
            return Some(self.commit(context, coordinator, token, partition, position.unwrap_or(-1) + 1));
        }
        let request = HeartbeatRequest {
            group_id: GROUP.to_owned(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            ..HeartbeatRequest::default()
        };
        context.call(coordinator, HEARTBEAT_VERSION, &request, token);
        Some(Asked::Heartbeat)
    }

    /// Leaves, is gone, or joins again.
    fn go(&mut self, context: &mut Context<'_>, coordinator: usize, token: u64) -> Option<Asked> {
        match context.rng.below(3) {
            0 => {
                let request = LeaveGroupRequest {
                    group_id: GROUP.to_owned(),
                    members: vec![MemberIdentity {
                        member_id: std::mem::take(&mut self.member_id),
                        ..MemberIdentity::default()
                    }],
                    ..LeaveGroupRequest::default()
                };
                context.call(coordinator, LEAVE_VERSION, &request, token);
                self.reset();
                Some(Asked::Leave)
            }
            1 => {
                self.reset();
                None
            }
            _ => {
                self.metadata = self.metadata.wrapping_add(1);
                self.stage = Stage::Out;
                None
            }
        }
    }

    fn fetch(context: &mut Context<'_>, coordinator: usize, token: u64, partition: i32) -> Asked {
        let request = OffsetFetchRequest {
            groups: vec![OffsetFetchRequestGroup {
                group_id: GROUP.to_owned(),
                topics: Some(vec![OffsetFetchRequestTopics {
                    name: TOPIC.to_owned(),
                    partition_indexes: vec![partition],
                    ..OffsetFetchRequestTopics::default()
                }]),
                ..OffsetFetchRequestGroup::default()
            }],
            require_stable: true,
            ..OffsetFetchRequest::default()
        };
        context.call(coordinator, FETCH_VERSION, &request, token);
        Asked::Fetch { partition }
    }

    fn commit(
        &mut self,
        context: &mut Context<'_>,
        coordinator: usize,
        token: u64,
        partition: i32,
        offset: i64,
    ) -> Asked {
        let request = OffsetCommitRequest {
            group_id: GROUP.to_owned(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.member_id.clone(),
            topics: vec![OffsetCommitRequestTopic {
                name: TOPIC.to_owned(),
                partitions: vec![OffsetCommitRequestPartition {
                    partition_index: partition,
                    committed_offset: offset,
                    ..OffsetCommitRequestPartition::default()
                }],
                ..OffsetCommitRequestTopic::default()
            }],
            ..OffsetCommitRequest::default()
        };
        context.checkers.commits(GROUP, self.generation, partition, offset);
        if let Stage::In { positions } = &mut self.stage {
            positions.insert(partition, Some(offset));
        }
        context.call_patiently(coordinator, COMMIT_VERSION, &request, token, COMMIT_PATIENCE_MS);
        let newest_before = context.checkers.newest_generation(GROUP);
        Asked::Commit { partition, offset, generation: self.generation, newest_before }
    }

    fn reset(&mut self) {
        self.stage = Stage::Out;
        self.member_id.clear();
        self.generation = -1;
    }

    pub(super) fn answered(&mut self, context: &mut Context<'_>, token: u64, answer: Option<&Answer>) {
        let Some((_, asked)) = self.under_way.take_if(|(under_way, _)| *under_way == token) else { return };
        if answer.is_none() {
            self.coordinator = None;
            return;
        }
        match asked {
            Asked::Coordinator => self.coordinator = context.coordinator_found(answer),
            Asked::Join => {
                if let Some(response) = context.read::<JoinGroupResponse>(answer, JOIN_VERSION) {
                    self.take_join(context, response);
                }
            }
            Asked::Sync { newest_before } => {
                if let Some(response) = context.read::<SyncGroupResponse>(answer, SYNC_VERSION) {
                    self.take_sync(context, &response, newest_before);
                }
            }
            Asked::Fetch { partition } => {
                if let Some(response) = context.read::<OffsetFetchResponse>(answer, FETCH_VERSION) {
                    self.take_committed(context, partition, &response);
                }
            }
            Asked::Commit { partition, offset, generation, newest_before } => {
                let response = context.read::<OffsetCommitResponse>(answer, COMMIT_VERSION);
                let part = response.as_ref().and_then(|response| response.topics.first()?.partitions.first());
                let code = part.map(|part| context.told_error(part.error_code));
                let Some(error) = code.and_then(ErrorCode::from_code) else { return };
                context.trace.note(format_args!(
                    "{} {} commits {offset} of {partition} in generation {generation}: {error}",
                    context.now_ms, self.member_id
                ));
                if error == ErrorCode::None {
                    let generation = told_generation(context, generation);
                    self.knows_topic = true;
                    context.checkers.group_committed(GROUP, generation, newest_before, partition, offset);
                    self.confirm();
                } else {
                    self.take_error(context, error);
                }
            }
            Asked::Heartbeat => {
                let response = context.read::<HeartbeatResponse>(answer, HEARTBEAT_VERSION);
                match response.and_then(|response| ErrorCode::from_code(response.error_code)) {
                    Some(ErrorCode::None) => self.confirm(),
                    Some(error) => self.take_error(context, error),
                    None => {}
                }
            }
            Asked::Leave => drop(context.read::<LeaveGroupResponse>(answer, LEAVE_VERSION)),
        }
    }

    fn confirm(&mut self) {
        if self.is_finishing && self.confirmed_in != Some(self.generation) {
            self.confirmed_in = Some(self.generation);
            // Nobody commits after this, and what was committed last is to be read back.
            self.forget_positions();
        }
    }

    fn take_join(&mut self, context: &mut Context<'_>, response: JoinGroupResponse) {
        match ErrorCode::from_code(response.error_code) {
            Some(ErrorCode::None) => {
                let members = response.members.into_iter().map(|member| member.member_id).collect();
                let assigns = response.leader == response.member_id && !response.skip_assignment;
                self.member_id = response.member_id;
                self.generation = response.generation_id;
                self.protocol_name = response.protocol_name;
                self.stage = Stage::Joined { members, assigns };
            }
            Some(ErrorCode::MemberIdRequired) => self.member_id = response.member_id,
            Some(error) => self.take_error(context, error),
            None => {}
        }
    }

    fn take_sync(&mut self, context: &mut Context<'_>, response: &SyncGroupResponse, newest_before: i32) {
        match ErrorCode::from_code(response.error_code) {
            Some(ErrorCode::None) => {
                let owned = &response.assignment;
                context.trace.note(format_args!(
                    "{} {} owns {owned:?} in generation {}",
                    context.now_ms, self.member_id, self.generation
                ));
                let generation = told_generation(context, self.generation);
                context.checkers.assigned(GROUP, &self.member_id, generation, newest_before, owned);
                let positions = owned.iter().map(|partition| (i32::from(*partition), None)).collect();
                self.stage = Stage::In { positions };
            }
            Some(error) => self.take_error(context, error),
            None => {}
        }
    }

    fn take_committed(&mut self, context: &mut Context<'_>, partition: i32, response: &OffsetFetchResponse) {
        let group = response.groups.first();
        let part = group.and_then(|group| group.topics.first()?.partitions.first());
        let code = group.map_or(0, |group| group.error_code);
        let code = if code == 0 { part.map_or(0, |part| part.error_code) } else { code };
        match (ErrorCode::from_code(code), part) {
            (Some(ErrorCode::None), Some(part)) => {
                let mut offset = part.committed_offset;
                let is_last = self.confirmed_in == Some(self.generation);
                let is_old = match context.sabotage {
                    Some(Sabotage::ForgetGroupCommits) => true,
                    Some(Sabotage::ForgetLastGroupCommits) => is_last,
                    _ => false,
                };
                if is_old && offset > 3 {
                    offset -= 3;
                }
                context.checkers.group_fetched(GROUP, self.generation, partition, offset);
                if let Stage::In { positions } = &mut self.stage {
                    positions.insert(partition, Some(offset));
                }
            }
            (Some(error), _) if error != ErrorCode::None => self.take_error(context, error),
            _ => {}
        }
    }

    fn take_error(&mut self, context: &mut Context<'_>, error: ErrorCode) {
        match error {
            ErrorCode::NotCoordinator
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::CoordinatorLoadInProgress => self.coordinator = None,
            ErrorCode::RebalanceInProgress => self.stage = Stage::Out,
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => self.reset(),
            // Another commit is on its way; it asks again.
            ErrorCode::UnstableOffsetCommit => {}
            // The admin has not made the topic yet.
            ErrorCode::UnknownTopicOrPartition if !self.knows_topic => {}
            // A client tells its application of others.
            _ => {
                let text = format!("{} of group {GROUP} is answered {error}", self.member_id);
                context.checkers.report(Rule::Errors, text);
            }
        }
    }
}

/// The generation of which a member is told, or with which it has committed.
fn told_generation(context: &mut Context<'_>, generation: i32) -> i32 {
    let is_old = context.sabotage == Some(Sabotage::TellOldGenerations) && context.rng.chance(20);
    if is_old { generation - 1 } else { generation }
}

/// What the leader gives each member: all partitions, in turn.
fn shares(members: &[String], assigns: bool, sabotage: Option<Sabotage>) -> Vec<(String, Vec<u8>)> {
    if !assigns {
        return Vec::new();
    }
    let mut shares: Vec<(String, Vec<u8>)> =
        members.iter().map(|member| (member.clone(), Vec::new())).collect();
    let count = shares.len().max(1);
    let given_count = OWNED_PARTITIONS - u8::from(sabotage == Some(Sabotage::AssignNever));
    for partition in 0..given_count {
        if let Some((_, share)) = shares.get_mut(usize::from(partition) % count) {
            share.push(partition);
        }
    }
    if sabotage == Some(Sabotage::AssignTwice) {
        for (_, share) in shares.iter_mut().skip(1) {
            share.push(0);
        }
    }
    shares
}
