//! A broker around one coordinator, reduced to a log and a clock.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use chronik_coordinator::{
    Effects, GroupConfig, GroupCoordinator, Record, RequestContext, RequestId, Response, Topics, Write,
};
use chronik_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use chronik_protocol::messages::leave_group_request::MemberIdentity;
use chronik_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use chronik_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use chronik_protocol::messages::offset_fetch_response::OffsetFetchResponsePartitions;
use chronik_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use chronik_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    OffsetCommitRequest, SyncGroupRequest, SyncGroupResponse,
};
use chronik_types::{ErrorCode, MonotonicMs, Now, TimestampMs, TopicId};

/// The wall clock when the monotonic one is at 0.
pub(crate) const START_MS: i64 = 1_700_000_000_000;

/// The error of this number.
pub(crate) fn error(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).expect("the coordinator knows Kafka's errors")
}

/// Topics `t0`, `t1`, … exist, with 100 partitions and ids 1, 2, …; no other does.
pub(crate) struct TestTopics;

impl Topics for TestTopics {
    fn name_of(&self, id: TopicId) -> Option<Arc<str>> {
        (1..=50).contains(&id.0).then(|| format!("t{}", id.0 - 1).into())
    }

    fn id_of(&self, name: &str) -> Option<TopicId> {
        let number: u128 = name.strip_prefix('t')?.parse().ok()?;
        (number < 50).then_some(TopicId(number + 1))
    }

    fn partition_count(&self, name: &str) -> i32 {
        if self.id_of(name).is_some() { 100 } else { 0 }
    }
}

/// One coordinator with its log.
pub(crate) struct Harness {
    pub(crate) coordinator: GroupCoordinator,
    pub(crate) config: GroupConfig,
    pub(crate) now: Now,
    /// What is committed.
    pub(crate) log: Vec<Record>,
    /// What is appended and not yet committed.
    pub(crate) appended: VecDeque<Write>,
    /// Whether an append is committed at once.
    pub(crate) commits_at_once: bool,
    /// What the next append fails with.
    pub(crate) append_error: Option<ErrorCode>,
    pub(crate) answers: BTreeMap<RequestId, Response>,
    next_request: u64,
    pub(crate) api_version: i16,
}

/// The versions that today's clients speak.
pub(crate) const LATEST: i16 = 9;

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with(GroupConfig::default())
    }

    pub(crate) fn with(config: GroupConfig) -> Self {
        let mut harness = Self {
            coordinator: GroupCoordinator::new(config.clone(), 1),
            config,
            now: Now { monotonic: MonotonicMs(0), wall: TimestampMs(START_MS) },
            log: Vec::new(),
            appended: VecDeque::new(),
            commits_at_once: true,
            append_error: None,
            answers: BTreeMap::new(),
            next_request: 0,
            api_version: LATEST,
        };
        let effects = harness.coordinator.loaded(harness.now);
        harness.carry_out(effects);
        harness
    }

    pub(crate) fn context(&mut self) -> RequestContext {
        self.next_request += 1;
        RequestContext {
            request_id: RequestId(self.next_request),
            api_version: self.api_version,
            client_id: "client".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
        }
    }

    pub(crate) fn carry_out(&mut self, effects: Effects) {
        for completion in effects.completions {
            let previous = self.answers.insert(completion.request_id, completion.response);
            assert!(previous.is_none(), "request {:?} was answered twice", completion.request_id);
        }
        for write in effects.writes {
            assert!(!write.records.is_empty());
            if let Some(error) = self.append_error.take() {
                let effects = self.coordinator.failed(self.now, write.id, error);
                self.carry_out(effects);
            } else {
                self.appended.push_back(write);
                if self.commits_at_once {
                    self.commit_all();
                }
            }
        }
    }

    /// Commits everything that is appended.
    pub(crate) fn commit_all(&mut self) {
        while let Some(write) = self.appended.pop_front() {
            self.log.extend(write.records);
            let effects = self.coordinator.committed(self.now, write.id);
            self.carry_out(effects);
        }
    }

    /// Fails everything that is appended.
    pub(crate) fn fail_all(&mut self, error: ErrorCode) {
        while let Some(write) = self.appended.pop_front() {
            let effects = self.coordinator.failed(self.now, write.id, error);
            self.carry_out(effects);
        }
    }

    /// Lets time pass, with every timer at its time.
    pub(crate) fn advance(&mut self, ms: u64) {
        let end = self.now.monotonic.plus_ms(ms);
        while let Some(deadline) = self.coordinator.next_deadline()
            && deadline <= end
        {
            self.set_time(deadline.max(self.now.monotonic));
            let effects = self.coordinator.poll(self.now);
            self.carry_out(effects);
        }
        self.set_time(end);
    }

    pub(crate) fn set_time(&mut self, to: MonotonicMs) {
        let passed = i64::try_from(to.since_ms(self.now.monotonic)).expect("a test does not last for ages");
        self.now = Now { monotonic: to, wall: TimestampMs(self.now.wall.get() + passed) };
    }

    /// Another coordinator takes over with what is committed.
    pub(crate) fn fail_over(&mut self) {
        let effects = self.coordinator.unload();
        self.carry_out(effects);
        self.appended.clear();
        self.coordinator = replayed(&self.log, &self.config, self.next_request);
        let effects = self.coordinator.loaded(self.now);
        self.carry_out(effects);
    }

    pub(crate) fn answer(&self, id: RequestId) -> Option<&Response> {
        self.answers.get(&id)
    }

    // --- requests ---------------------------------------------------------------------------------------------

    pub(crate) fn send_join(&mut self, join: &Join<'_>) -> RequestId {
        let context = self.context();
        let effects = self.coordinator.join_group(self.now, &context, &join.request());
        self.carry_out(effects);
        context.request_id
    }

    pub(crate) fn joined(&self, id: RequestId) -> JoinGroupResponse {
        match self.answer(id) {
            Some(Response::JoinGroup(response)) => response.clone(),
            other => panic!("no answer to the join: {other:?}"),
        }
    }

    /// Joins with a fresh id, handshake included; the answer comes later.
    pub(crate) fn send_new(&mut self, join: &Join<'_>) -> (RequestId, String) {
        let first = self.send_join(join);
        let response = self.joined(first);
        assert_eq!(response.error_code, ErrorCode::MemberIdRequired.code());
        let id = response.member_id;
        (self.send_join(&Join { member_id: &id, ..join.clone() }), id)
    }

    pub(crate) fn send_sync(
        &mut self,
        group: &str,
        generation: i32,
        member: &str,
        assignments: &[(&str, &str)],
    ) -> RequestId {
        let context = self.context_v(3);
        let request = SyncGroupRequest {
            group_id: group.to_owned(),
            generation_id: generation,
            member_id: member.to_owned(),
            assignments: assignments
                .iter()
                .map(|(member, assignment)| SyncGroupRequestAssignment {
                    member_id: (*member).to_owned(),
                    assignment: Bytes::copy_from_slice(assignment.as_bytes()),
                })
                .collect(),
            ..Default::default()
        };
        let effects = self.coordinator.sync_group(self.now, &context, &request);
        self.carry_out(effects);
        context.request_id
    }

    pub(crate) fn synced(&self, id: RequestId) -> SyncGroupResponse {
        match self.answer(id) {
            Some(Response::SyncGroup(response)) => response.clone(),
            other => panic!("no answer to the sync: {other:?}"),
        }
    }

    pub(crate) fn context_v(&mut self, api_version: i16) -> RequestContext {
        RequestContext { api_version, ..self.context() }
    }

    pub(crate) fn heartbeat(&mut self, group: &str, generation: i32, member: &str) -> ErrorCode {
        self.heartbeat_as(group, generation, member, None)
    }

    pub(crate) fn heartbeat_as(
        &mut self,
        group: &str,
        generation: i32,
        member: &str,
        instance: Option<&str>,
    ) -> ErrorCode {
        let context = self.context_v(4);
        let request = HeartbeatRequest {
            group_id: group.to_owned(),
            generation_id: generation,
            member_id: member.to_owned(),
            group_instance_id: instance.map(str::to_owned),
        };
        let effects = self.coordinator.heartbeat(self.now, &context, &request);
        self.carry_out(effects);
        match self.answer(context.request_id) {
            Some(Response::Heartbeat(response)) => error(response.error_code),
            other => panic!("no answer to the heartbeat: {other:?}"),
        }
    }

    pub(crate) fn send_leave(&mut self, group: &str, members: &[(&str, Option<&str>)]) -> RequestId {
        let context = self.context_v(5);
        let member = |(member_id, instance): &(&str, Option<&str>)| MemberIdentity {
            member_id: (*member_id).to_owned(),
            group_instance_id: instance.map(str::to_owned),
            reason: Some("done".to_owned()),
        };
        let request = LeaveGroupRequest {
            group_id: group.to_owned(),
            members: members.iter().map(member).collect(),
            ..Default::default()
        };
        let effects = self.coordinator.leave_group(self.now, &context, &request);
        self.carry_out(effects);
        context.request_id
    }

    pub(crate) fn left(&self, id: RequestId) -> LeaveGroupResponse {
        match self.answer(id) {
            Some(Response::LeaveGroup(response)) => response.clone(),
            other => panic!("no answer to the leave: {other:?}"),
        }
    }

    pub(crate) fn send_commit(&mut self, commit: &Commit<'_>) -> RequestId {
        let context = self.context_v(commit.api_version);
        let effects = self.coordinator.offset_commit(self.now, &context, &commit.request(), &TestTopics);
        self.carry_out(effects);
        context.request_id
    }

    /// The error of the first partition, once there is one.
    pub(crate) fn commit_error(&self, id: RequestId) -> Option<ErrorCode> {
        let answer = self.answer(id)?;
        let Response::OffsetCommit(response) = answer else { panic!("no answer to a commit: {answer:?}") };
        Some(error(response.topics[0].partitions[0].error_code))
    }

    pub(crate) fn commit(&mut self, commit: &Commit<'_>) -> ErrorCode {
        let id = self.send_commit(commit);
        self.commit_error(id).expect("the commit is answered at once")
    }

    pub(crate) fn fetch(&self, group: &str, topic: &str, partition: i32) -> OffsetFetchResponsePartitions {
        let request = OffsetFetchRequestGroup {
            group_id: group.to_owned(),
            topics: Some(vec![OffsetFetchRequestTopics {
                name: topic.to_owned(),
                partition_indexes: vec![partition],
                ..Default::default()
            }]),
            ..Default::default()
        };
        let group = self.coordinator.offset_fetch(8, &request, true, &TestTopics);
        assert_eq!(group.error_code, 0);
        group.topics[0].partitions[0].clone()
    }

    pub(crate) fn fetched(&self, group: &str, topic: &str, partition: i32) -> i64 {
        self.fetch(group, topic, partition).committed_offset
    }

    pub(crate) fn delete_groups(&mut self, groups: &[&str]) -> RequestId {
        let context = self.context_v(2);
        let groups: Vec<String> = groups.iter().map(|&group| group.to_owned()).collect();
        let effects = self.coordinator.delete_groups(self.now, &context, &groups);
        self.carry_out(effects);
        context.request_id
    }

    pub(crate) fn deleted(&self, id: RequestId) -> Vec<ErrorCode> {
        match self.answer(id) {
            Some(Response::DeleteGroups(results)) => {
                results.iter().map(|result| error(result.error_code)).collect()
            }
            other => panic!("no answer to the delete: {other:?}"),
        }
    }

    pub(crate) fn state(&self, group: &str) -> String {
        self.coordinator.describe_group(5, group).group_state
    }

    // --- whole stories ----------------------------------------------------------------------------------------

    /// A group of `count` dynamic members, Stable, each with the assignment `part of <id>`. The first is the
    /// leader; the generation is 1.
    pub(crate) fn stable_group(&mut self, group: &str, count: usize) -> Vec<String> {
        let join = Join { group, ..Join::default() };
        let joins: Vec<(RequestId, String)> = (0..count).map(|_| self.send_new(&join)).collect();
        self.advance(self.config.group_initial_rebalance_delay_ms * (count as u64 + 1));
        let mut members: Vec<String> = Vec::new();
        for (request, id) in joins {
            let response = self.joined(request);
            assert_eq!(response.error_code, 0);
            assert_eq!(response.generation_id, 1);
            if response.leader == id {
                members.insert(0, id);
            } else {
                members.push(id);
            }
        }
        self.settle(group, 1, &members);
        members
    }

    /// Takes a generation to Stable; the first member leads.
    pub(crate) fn settle(&mut self, group: &str, generation: i32, members: &[String]) {
        let parts: Vec<String> = members.iter().map(|id| format!("part of {id}")).collect();
        let assignments: Vec<(&str, &str)> =
            members.iter().zip(&parts).map(|(id, part)| (id.as_str(), part.as_str())).collect();
        let mut syncs = Vec::new();
        for id in members.iter().skip(1) {
            syncs.push((id, self.send_sync(group, generation, id, &[])));
        }
        syncs.push((&members[0], self.send_sync(group, generation, &members[0], &assignments)));
        for (id, sync) in syncs {
            let response = self.synced(sync);
            assert_eq!(response.error_code, 0);
            assert_eq!(response.assignment, format!("part of {id}").into_bytes());
        }
        assert_eq!(self.state(group), "Stable");
    }
}

/// The coordinator that `log` makes, not yet serving.
pub(crate) fn replayed(log: &[Record], config: &GroupConfig, seed: u64) -> GroupCoordinator {
    let mut coordinator = GroupCoordinator::new(config.clone(), seed.wrapping_add(1_000_003));
    for record in log {
        coordinator.replay(&record.key, record.value.as_ref()).expect("it reads what it has written");
    }
    coordinator
}

/// A `JoinGroup`.
#[derive(Clone)]
pub(crate) struct Join<'a> {
    pub(crate) group: &'a str,
    pub(crate) member_id: &'a str,
    pub(crate) instance: Option<&'a str>,
    pub(crate) protocol_type: &'a str,
    pub(crate) protocols: &'a [(&'a str, &'a [u8])],
    pub(crate) session_timeout_ms: i32,
    pub(crate) rebalance_timeout_ms: i32,
}

/// A subscription of a consumer to the topic `t0`.
pub(crate) const SUBSCRIBED_TO_T0: &[u8] = b"\0\x01\0\0\0\x01\0\x02t0\xff\xff\xff\xff\0\0\0\0";

impl Default for Join<'_> {
    fn default() -> Self {
        Self {
            group: "g",
            member_id: "",
            instance: None,
            protocol_type: "consumer",
            protocols: &[("range", SUBSCRIBED_TO_T0)],
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
        }
    }
}

impl Join<'_> {
    pub(crate) fn request(&self) -> JoinGroupRequest {
        JoinGroupRequest {
            group_id: self.group.to_owned(),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            member_id: self.member_id.to_owned(),
            group_instance_id: self.instance.map(str::to_owned),
            protocol_type: self.protocol_type.to_owned(),
            protocols: self
                .protocols
                .iter()
                .map(|(name, metadata)| JoinGroupRequestProtocol {
                    name: (*name).to_owned(),
                    metadata: Bytes::copy_from_slice(metadata),
                })
                .collect(),
            reason: Some("a test".to_owned()),
        }
    }
}

/// An `OffsetCommit` of one partition.
#[derive(Clone)]
pub(crate) struct Commit<'a> {
    pub(crate) api_version: i16,
    pub(crate) group: &'a str,
    pub(crate) generation: i32,
    pub(crate) member_id: &'a str,
    pub(crate) instance: Option<&'a str>,
    pub(crate) topic: &'a str,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) metadata: &'a str,
    pub(crate) retention_ms: i64,
}

impl Default for Commit<'_> {
    fn default() -> Self {
        Self {
            api_version: 8,
            group: "g",
            generation: -1,
            member_id: "",
            instance: None,
            topic: "t0",
            topic_id: TopicId::ZERO,
            partition: 0,
            offset: 0,
            metadata: "",
            retention_ms: -1,
        }
    }
}

impl Commit<'_> {
    pub(crate) fn request(&self) -> OffsetCommitRequest {
        OffsetCommitRequest {
            group_id: self.group.to_owned(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.member_id.to_owned(),
            group_instance_id: self.instance.map(str::to_owned),
            retention_time_ms: self.retention_ms,
            topics: vec![OffsetCommitRequestTopic {
                name: self.topic.to_owned(),
                topic_id: self.topic_id,
                partitions: vec![OffsetCommitRequestPartition {
                    partition_index: self.partition,
                    committed_offset: self.offset,
                    committed_metadata: Some(self.metadata.to_owned()),
                    ..Default::default()
                }],
            }],
        }
    }
}
