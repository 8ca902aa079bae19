//! The admin: it makes the topics, and while records flow it deletes them, makes them anew, deletes their first records
//! and changes how many replicas must be in sync.

use std::collections::BTreeMap;

use chronik_protocol::messages::create_topics_request::CreatableTopic;
use chronik_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use chronik_protocol::messages::delete_topics_request::DeleteTopicState;
use chronik_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use chronik_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, IncrementalAlterConfigsRequest,
};
use chronik_types::{ErrorCode, TopicId};

use super::Context;
use super::member::OWNED_PARTITIONS;
use super::routing::Routing;
use crate::cluster::checkers::PartitionKey;
use crate::cluster::network::Answer;
use crate::cluster::plan::{AdminPlan, Plan};
use crate::cluster::sabotage::Sabotage;

const CREATE_VERSION: i16 = 7;
const DELETE_VERSION: i16 = 6;
const RECORDS_VERSION: i16 = 2;
const ALTER_VERSION: i16 = 1;
const ROUTING: u64 = 0;
/// How long an admin waits: as long as the broker may.
const PATIENCE_MS: u64 = 3_000;
/// Kafka's number of topics among resources, and of setting a config.
const TOPIC_RESOURCE: i8 = 2;
const SET: i8 = 0;

#[derive(Clone, PartialEq, Eq)]
enum Asked {
    Create(String),
    Delete(String),
    Records(PartitionKey),
    Alter,
}

pub(in crate::cluster) struct Admin {
    plan: AdminPlan,
    partition_count: i32,
    replication_factor: i16,
    min_insync: i16,
    names: Vec<String>,
    routing: Routing,
    /// Topics that are to be made.
    missing: Vec<String>,
    asked: BTreeMap<u64, Asked>,
    next_token: u64,
    is_finishing: bool,
}

impl Admin {
    pub(super) fn new(plan: &Plan) -> Self {
        let names: Vec<String> = (0..plan.topic_count).map(|topic| format!("t{topic}")).collect();
        let mut missing = names.clone();
        // Committed offsets are of a topic of their own, which is never deleted.
        missing.push("kept".to_owned());
        Self {
            plan: plan.admin,
            partition_count: plan.partition_count,
            replication_factor: plan.replication_factor,
            min_insync: plan.min_insync,
            routing: Routing::new(names.clone()),
            names,
            missing,
            asked: BTreeMap::new(),
            next_token: 1,
            is_finishing: false,
        }
    }

    pub(super) fn finish(&mut self) {
        self.is_finishing = true;
    }

    /// Whether all topics are there, as far as the admin knows.
    pub(in crate::cluster) fn is_idle(&self) -> bool {
        self.missing.is_empty() && self.asked.is_empty()
    }

    pub(super) fn wake(&mut self, context: &mut Context<'_>) {
        if self.asked.is_empty() {
            if let Some(name) = self.missing.first().cloned() {
                self.create(context, name);
            } else if !self.is_finishing {
                self.routing.refresh(context, ROUTING);
                self.disturb(context);
            }
        }
        let pause_ms = if self.missing.is_empty() { 100 + context.rng.below(600) } else { 30 };
        context.wake_in(pause_ms);
    }

    fn token(&mut self, asked: Asked) -> u64 {
        self.next_token += 1;
        self.asked.insert(self.next_token, asked);
        self.next_token
    }

    fn create(&mut self, context: &mut Context<'_>, name: String) {
        let partition_count = if name == "kept" { i32::from(OWNED_PARTITIONS) } else { self.partition_count };
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: name.clone(),
                num_partitions: partition_count,
                replication_factor: self.replication_factor,
                ..CreatableTopic::default()
            }],
            timeout_ms: 2_000,
            ..CreateTopicsRequest::default()
        };
        let token = self.token(Asked::Create(name));
        let node = context.any_node();
        context.call_patiently(node, CREATE_VERSION, &request, token, PATIENCE_MS);
    }

    fn disturb(&mut self, context: &mut Context<'_>) {
        let name = self.names[context.rng.index(self.names.len())].clone();
        let node = context.any_node();
        match context.rng.below(6) {
            0 if self.plan.recreates || context.sabotage == Some(Sabotage::DeleteTopicsUnasked) => {
                let topic = DeleteTopicState { name: Some(name.clone()), topic_id: TopicId::ZERO };
                let request = DeleteTopicsRequest {
                    topics: vec![topic],
                    timeout_ms: 2_000,
                    ..DeleteTopicsRequest::default()
                };
                context.trace.note(format_args!("{} {name} is to be deleted", context.now_ms));
                if context.sabotage != Some(Sabotage::DeleteTopicsUnasked) {
                    context.checkers.asks_deletion(&name);
                }
                let token = self.token(Asked::Delete(name));
                context.call_patiently(node, DELETE_VERSION, &request, token, PATIENCE_MS);
            }
            1 if self.plan.deletes_records
                || matches!(context.sabotage, Some(Sabotage::DeleteUnasked | Sabotage::DeleteElsewhere)) =>
            {
                self.delete_records(context, &name);
            }
            2 if self.plan.alters_min_insync => {
                let value = 1 + context.rng.below(self.min_insync.unsigned_abs().into());
                let request = IncrementalAlterConfigsRequest {
                    resources: vec![AlterConfigsResource {
                        resource_type: TOPIC_RESOURCE,
                        resource_name: name,
                        configs: vec![AlterableConfig {
                            name: "min.insync.replicas".to_owned(),
                            config_operation: SET,
                            value: Some(value.to_string()),
                        }],
                    }],
                    ..IncrementalAlterConfigsRequest::default()
                };
                let token = self.token(Asked::Alter);
                context.call_patiently(node, ALTER_VERSION, &request, token, PATIENCE_MS);
            }
            _ => {}
        }
    }

    fn delete_records(&mut self, context: &mut Context<'_>, name: &str) {
        let Some(topic) = self.routing.topics.get(name) else { return };
        let index = context.rng.index(topic.leaders.len());
        let Some(leader) = topic.leaders.get(index).and_then(|leader| leader.node) else { return };
        let key = PartitionKey { topic: topic.id, partition: i32::try_from(index).unwrap_or(0) };
        let Some(end) = context.checkers.known_end(key) else { return };
        let offset = i64::try_from(context.rng.below(end.unsigned_abs())).unwrap_or(0);
        match context.sabotage {
            Some(Sabotage::DeleteUnasked) => {}
            Some(Sabotage::DeleteElsewhere) => {
                context.checkers.deletes_before(name, key.partition + 1, offset);
            }
            _ => context.checkers.deletes_before(name, key.partition, offset),
        }
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: name.to_owned(),
                partitions: vec![DeleteRecordsPartition { partition_index: key.partition, offset }],
            }],
            timeout_ms: 1_000,
        };
        context
            .trace
            .note(format_args!("{} records of {name}-{index} before {offset} are to go", context.now_ms));
        let token = self.token(Asked::Records(key));
        context.call_patiently(leader, RECORDS_VERSION, &request, token, PATIENCE_MS);
    }

    pub(super) fn answered(&mut self, context: &mut Context<'_>, token: u64, answer: Option<&Answer>) {
        if token == ROUTING {
            self.routing.answered(context, answer);
            return;
        }
        let Some(asked) = self.asked.remove(&token) else { return };
        match asked {
            Asked::Create(name) => {
                let response = context.read::<CreateTopicsResponse>(answer, CREATE_VERSION);
                let result = response.as_ref().and_then(|response| response.topics.first());
                let error = result.and_then(|topic| ErrorCode::from_code(topic.error_code));
                if matches!(error, Some(ErrorCode::None | ErrorCode::TopicAlreadyExists)) {
                    if let Some(result) = result.filter(|result| result.error_code == 0) {
                        let is_old = context.sabotage == Some(Sabotage::GiveTopicIdsAgain);
                        let id = if is_old { TopicId::ZERO } else { result.topic_id };
                        context.checkers.topic_created(&name, id);
                    }
                    self.missing.retain(|missing| *missing != name);
                    self.routing.distrust();
                }
                context.trace.note(format_args!("{} topic {name} is made: {error:?}", context.now_ms));
            }
            Asked::Delete(name) => {
                let response = context.read::<DeleteTopicsResponse>(answer, DELETE_VERSION);
                let error =
                    response.as_ref().and_then(|response| Some(response.responses.first()?.error_code));
                context.trace.note(format_args!("{} {name} is deleted: {error:?}", context.now_ms));
                context.counts.topics_deleted += u64::from(error == Some(0));
                // Whether it is gone or not: it is there in the end.
                self.missing.push(name);
                self.routing.distrust();
            }
            Asked::Records(key) => {
                let response = context.read::<DeleteRecordsResponse>(answer, RECORDS_VERSION);
                let part = response.as_ref().and_then(|response| response.topics.first()?.partitions.first());
                if let Some(part) = part {
                    context.trace.note(format_args!(
                        "{} records of {key} are deleted: error {}, low watermark {}",
                        context.now_ms, part.error_code, part.low_watermark
                    ));
                }
                self.routing.distrust();
            }
            Asked::Alter => {}
        }
    }
}
