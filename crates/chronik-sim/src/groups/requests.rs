//! What clients ask, in every version that they may ask it in.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chronik_coordinator::{RequestContext, RequestId, Topics};
use chronik_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use chronik_protocol::messages::leave_group_request::MemberIdentity;
use chronik_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use chronik_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use chronik_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use chronik_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest, SyncGroupRequest,
};
use chronik_types::{ErrorCode, TopicId};

use super::world::{PARTITION_COUNT, Sabotage, World};

/// The one topic.
const TOPIC: &str = "t0";
const TOPIC_ID: TopicId = TopicId(1);
/// The first versions that name topics by id.
const IDS_IN_COMMIT: i16 = 10;
const IDS_IN_FETCH: i16 = 10;
/// The first version of `SyncGroup` that must name the group's protocol.
const SYNC_NAMES_PROTOCOL: i16 = 5;
/// The first version of `LeaveGroup` that names its members in a list.
const LEAVE_LISTS: i16 = 3;
/// What every member asks for, in milliseconds.
const SESSION_TIMEOUT_MS: i32 = 10_000;
const REBALANCE_TIMEOUT_MS: i32 = 20_000;

/// The error of this number.
pub(super) fn error(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).expect("the coordinator knows Kafka's errors")
}

/// The topics of the world: one.
pub(super) struct OneTopic;

impl Topics for OneTopic {
    fn name_of(&self, id: TopicId) -> Option<Arc<str>> {
        (id == TOPIC_ID).then(|| TOPIC.into())
    }

    fn id_of(&self, name: &str) -> Option<TopicId> {
        (name == TOPIC).then_some(TOPIC_ID)
    }

    fn partition_count(&self, name: &str) -> i32 {
        if name == TOPIC { i32::from(PARTITION_COUNT) } else { 0 }
    }
}

/// What a request was about, for the checkers of its answer.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Join { group: String, is_replacement: bool },
    Sync { group: String, generation: i32, member: String, owner: String },
    Commit { group: String, generation: i32, partition: i32, offset: i64, client: usize },
    Heartbeat { client: usize, generation: i32 },
    Leave,
    Delete { group: String },
}

impl World {
    /// A request under way. Static members exist since the version `static_from`.
    fn ask(&mut self, versions: (i16, i16), static_from: Option<i16>, asked: Asked) -> RequestContext {
        let (first, last) = versions;
        let api_version = self.rng.version(static_from.unwrap_or(first), last);
        self.next_request += 1;
        let request_id = RequestId(self.next_request);
        self.trace.note(format_args!("request {} v{api_version}: {asked:?}", request_id.0));
        self.asked.insert(request_id, (api_version, asked));
        RequestContext {
            request_id,
            api_version,
            client_id: "client".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
        }
    }

    pub(super) fn send_join(&mut self, index: usize) -> Result<(), String> {
        let client = self.clients[index].clone();
        let protocol = |name: &str| JoinGroupRequestProtocol {
            name: name.to_owned(),
            metadata: Bytes::copy_from_slice(&[client.metadata]),
        };
        let request = JoinGroupRequest {
            group_id: client.group.clone(),
            session_timeout_ms: SESSION_TIMEOUT_MS,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            member_id: client.member_id.clone(),
            group_instance_id: client.instance.clone(),
            protocol_type: "consumer".to_owned(),
            protocols: vec![protocol("range"), protocol("sticky")],
            reason: None,
        };
        let is_replacement = client.instance.is_some() && client.member_id.is_empty();
        let asked = Asked::Join { group: client.group, is_replacement };
        let context = self.ask((0, 9), client.instance.map(|_| 5), asked);
        self.clients[index].stage = super::client::Stage::Joining(context.request_id);
        let effects = self.coordinator.join_group(self.clock.now(), &context, &request);
        self.carry_out(effects)
    }

    pub(super) fn send_sync(
        &mut self,
        index: usize,
        members: &[String],
        assigns: bool,
    ) -> Result<(), String> {
        let client = self.clients[index].clone();
        let mut parts: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        if assigns && !members.is_empty() {
            for (partition, owner) in (0..PARTITION_COUNT).zip(members.iter().cycle()) {
                parts.entry(owner).or_default().push(partition);
            }
            if self.sabotage == Some(Sabotage::AssignTwice) {
                for member in members {
                    parts.entry(member).or_default().push(0);
                }
            }
        }
        let asked = Asked::Sync {
            group: client.group.clone(),
            generation: client.generation,
            owner: client.instance.clone().unwrap_or_else(|| client.member_id.clone()),
            member: client.member_id.clone(),
        };
        let context = self.ask((0, 5), client.instance.as_ref().map(|_| 3), asked);
        let names_protocol = context.api_version >= SYNC_NAMES_PROTOCOL;
        let assignment = |(member, part): (&str, Vec<u8>)| SyncGroupRequestAssignment {
            member_id: member.to_owned(),
            assignment: part.into(),
        };
        let request = SyncGroupRequest {
            group_id: client.group,
            generation_id: client.generation,
            member_id: client.member_id,
            group_instance_id: client.instance,
            protocol_type: names_protocol.then(|| "consumer".to_owned()),
            protocol_name: client.protocol_name.filter(|_| names_protocol),
            assignments: parts.into_iter().map(assignment).collect(),
        };
        self.clients[index].stage = super::client::Stage::Syncing(context.request_id);
        let effects = self.coordinator.sync_group(self.clock.now(), &context, &request);
        self.carry_out(effects)
    }

    pub(super) fn send_heartbeat(&mut self, index: usize) -> Result<(), String> {
        let client = &self.clients[index];
        let request = HeartbeatRequest {
            group_id: client.group.clone(),
            generation_id: client.generation,
            member_id: client.member_id.clone(),
            group_instance_id: client.instance.clone(),
        };
        let asked = Asked::Heartbeat { client: index, generation: client.generation };
        let static_from = client.instance.as_ref().map(|_| 3);
        let context = self.ask((0, 4), static_from, asked);
        let effects = self.coordinator.heartbeat(self.clock.now(), &context, &request);
        self.carry_out(effects)
    }

    /// Consumes some more of one partition and commits it. The committed offset is fetched before.
    pub(super) fn send_commit(&mut self, index: usize) -> Result<(), String> {
        let owned: Vec<i32> = self.clients[index].positions.keys().copied().collect();
        if owned.is_empty() {
            return self.send_heartbeat(index);
        }
        let partition = owned[self.rng.index(owned.len())];
        let client = self.clients[index].clone();
        let known = client.positions.get(&partition).copied().flatten();
        let position = match known.or_else(|| self.fetch(&client.group, partition)) {
            Some(position) => position.max(0),
            // Another offset is on its way; it asks again later.
            None => return Ok(()),
        };
        let offset = position.saturating_add_unsigned(self.rng.below(5));
        self.clients[index].positions.insert(partition, Some(offset));
        let asked = Asked::Commit {
            group: client.group.clone(),
            generation: client.generation,
            partition,
            offset,
            client: index,
        };
        let context = self.ask((2, 10), client.instance.as_ref().map(|_| 7), asked);
        let by_id = context.api_version >= IDS_IN_COMMIT;
        let request = OffsetCommitRequest {
            group_id: client.group,
            generation_id_or_member_epoch: client.generation,
            member_id: client.member_id,
            group_instance_id: client.instance,
            retention_time_ms: -1,
            topics: vec![OffsetCommitRequestTopic {
                name: if by_id { String::new() } else { TOPIC.to_owned() },
                topic_id: if by_id { TOPIC_ID } else { TopicId::ZERO },
                partitions: vec![OffsetCommitRequestPartition {
                    partition_index: partition,
                    committed_offset: offset,
                    committed_metadata: Some(String::new()),
                    ..Default::default()
                }],
            }],
        };
        let effects = self.coordinator.offset_commit(self.clock.now(), &context, &request, &OneTopic);
        self.carry_out(effects)
    }

    pub(super) fn send_leave(&mut self, index: usize) -> Result<(), String> {
        let client = self.clients[index].clone();
        let context = self.ask((0, 5), client.instance.as_ref().map(|_| LEAVE_LISTS), Asked::Leave);
        let mut request = LeaveGroupRequest { group_id: client.group, ..Default::default() };
        if context.api_version < LEAVE_LISTS {
            request.member_id = client.member_id;
        } else {
            // An operator removes a static member by its instance id alone.
            let by_instance = client.instance.is_some() && self.rng.chance(50);
            request.members = vec![MemberIdentity {
                member_id: if by_instance { String::new() } else { client.member_id },
                group_instance_id: client.instance,
                reason: None,
            }];
        }
        self.clients[index].reset();
        let effects = self.coordinator.leave_group(self.clock.now(), &context, &request);
        self.carry_out(effects)
    }

    pub(super) fn delete_a_group(&mut self) -> Result<(), String> {
        let group = format!("g{}", self.rng.below(2));
        let context = self.ask((0, 2), None, Asked::Delete { group: group.clone() });
        // If it is granted its offsets go, now or when the tombstones turn out to have survived.
        if self.coordinator.describe_group(5, &group).group_state == "Empty" {
            self.seen.forget(&group);
        }
        let effects = self.coordinator.delete_groups(self.clock.now(), &context, &[group]);
        self.carry_out(effects)
    }

    /// The stable offset of a partition, −1 where there is none; nothing while one is on its way.
    fn fetch(&mut self, group: &str, partition: i32) -> Option<i64> {
        let api_version = self.rng.version(7, 10);
        let by_id = api_version >= IDS_IN_FETCH;
        let request = OffsetFetchRequestGroup {
            group_id: group.to_owned(),
            topics: Some(vec![OffsetFetchRequestTopics {
                name: if by_id { String::new() } else { TOPIC.to_owned() },
                topic_id: if by_id { TOPIC_ID } else { TopicId::ZERO },
                partition_indexes: vec![partition],
            }]),
            ..Default::default()
        };
        let answer = self.coordinator.offset_fetch(api_version, &request, true, &OneTopic);
        let partition = &answer.topics[0].partitions[0];
        (partition.error_code == 0).then_some(partition.committed_offset)
    }
}
