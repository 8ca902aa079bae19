//! `DeleteTopics` (key 20, versions 1–6): topics with all their data.
//!
//! Topics are named up to version 5; from version 6 on each is named or identified (KIP-516). Each is one proposal
//! to the metadata log. The answer comes when all of them are applied here, or when the client's time is up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_protocol::messages::delete_topics_response::DeletableTopicResult;
use chronik_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};
use chronik_raft::metadata::{CommandBatch, DeleteTopic, MetadataImage};
use chronik_types::{ErrorCode, TopicId};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::controller::CreationError;

use super::outcomes::Outcomes;

/// The first version that names each topic or identifies it.
const TOPIC_IDS_FROM: i16 = 6;
/// The first version whose clients know `TOPIC_DELETION_DISABLED`.
const DISABLED_KNOWN_FROM: i16 = 3;

type Refusal = (ErrorCode, &'static str);

const DUPLICATE_NAME: Refusal = (ErrorCode::InvalidRequest, "Duplicate topic name.");
const DUPLICATE_ID: Refusal = (ErrorCode::InvalidRequest, "Duplicate topic id.");
const NAME_AND_ID: Refusal = (ErrorCode::InvalidRequest, "You may not specify both topic name and topic id.");
const NEITHER: Refusal = (ErrorCode::InvalidRequest, "Neither topic name nor id were specified.");
const SAME_TOPIC: Refusal =
    (ErrorCode::InvalidRequest, "The provided topic name maps to an ID that was already supplied.");
const UNKNOWN_NAME: Refusal =
    (ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition.");
const UNKNOWN_ID: Refusal = (ErrorCode::UnknownTopicId, "This server does not host this topic ID.");

/// A topic as the request speaks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    name: Option<String>,
    topic_id: TopicId,
}

/// A topic that can be deleted, and its name where the client knows it or may see it.
struct Target {
    topic_id: TopicId,
    name: String,
}

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: DeleteTopicsRequest) {
    let version = context.version();
    let timeout_ms = request.timeout_ms;
    let asked: Vec<Asked> = if TOPIC_IDS_FROM <= version {
        request.topics.into_iter().map(|topic| Asked { name: topic.name, topic_id: topic.topic_id }).collect()
    } else {
        request
            .topic_names
            .into_iter()
            .map(|name| Asked { name: Some(name), topic_id: TopicId::ZERO })
            .collect()
    };
    if !broker.config.delete_topic_enable {
        let refusal = if DISABLED_KNOWN_FROM <= version {
            (ErrorCode::TopicDeletionDisabled, "Topic deletion is disabled: delete.topic.enable is false.")
        } else {
            (ErrorCode::InvalidRequest, "Topic deletion is disabled.")
        };
        let responses = asked.into_iter().map(|topic| refused(topic.name, topic.topic_id, refusal)).collect();
        context.reply(&DeleteTopicsResponse { responses, ..Default::default() });
        return;
    }
    let broker_then = Arc::clone(broker);
    broker.with_fresh_image(move |image| match image {
        Ok(image) => delete(&broker_then, context, &image, asked, timeout_ms),
        Err(error) => {
            let error = CreationError::from_proposal(&error);
            let responses = asked
                .into_iter()
                .map(|topic| DeletableTopicResult {
                    name: topic.name,
                    topic_id: topic.topic_id,
                    error_code: error.code.code(),
                    error_message: Some(error.message.clone()),
                })
                .collect();
            context.reply(&DeleteTopicsResponse { responses, ..Default::default() });
        }
    });
}

fn delete(
    broker: &Arc<Broker>,
    context: RequestContext,
    image: &MetadataImage,
    asked: Vec<Asked>,
    timeout_ms: i32,
) {
    let (targets, responses) = resolve(image, asked);
    let ids: Vec<TopicId> = targets.iter().map(|target| target.topic_id).collect();
    let outcomes = Outcomes::new(
        broker,
        context,
        targets.len(),
        Box::new(move |context, outcomes: Vec<Option<Result<(), CreationError>>>| {
            let mut responses = responses;
            responses
                .extend(targets.into_iter().zip(outcomes).map(|(target, outcome)| deleted(target, outcome)));
            context.reply(&DeleteTopicsResponse { responses, ..Default::default() });
        }),
    );
    for (position, topic_id) in ids.into_iter().enumerate() {
        let outcomes = Arc::clone(&outcomes);
        broker.metadata.propose(
            CommandBatch::new(vec![DeleteTopic::new(topic_id).into()]),
            Box::new(move |outcome| {
                let outcome = outcome.map(|_| ()).map_err(|error| CreationError::from_proposal(&error));
                outcomes.set(position, outcome);
            }),
        );
    }
    outcomes.wait(timeout_ms);
}

/// Finds the topics meant, and refuses what cannot be: each name and each id may stand in a request once, and a
/// name and an id may not mean the same topic.
fn resolve(image: &MetadataImage, asked: Vec<Asked>) -> (Vec<Target>, Vec<DeletableTopicResult>) {
    let mut responses = Vec::new();
    let (mut names, mut ids) = (Once::default(), Once::default());
    for topic in asked {
        match (topic.name, topic.topic_id) {
            (None, TopicId::ZERO) => responses.push(refused(None, TopicId::ZERO, NEITHER)),
            (None, topic_id) => ids.add(topic_id),
            (Some(name), TopicId::ZERO) => names.add(name),
            (name, topic_id) => responses.push(refused(name, topic_id, NAME_AND_ID)),
        }
    }
    let mut known = BTreeMap::new();
    for name in names.once {
        match image.topic(&name) {
            Some(topic) => {
                known.insert(topic.id, name);
            }
            None => responses.push(refused(Some(name), TopicId::ZERO, UNKNOWN_NAME)),
        }
    }
    let mut targets = Vec::new();
    for topic_id in ids.once {
        match image.topic_by_id(topic_id) {
            // The client means one topic twice. Which of the two it means is anybody's guess, so neither is done.
            Some(_) if known.contains_key(&topic_id) => {
                responses.push(refused(known.remove(&topic_id), topic_id, SAME_TOPIC));
            }
            Some(topic) => targets.push(Target { topic_id, name: topic.name.to_string() }),
            None => responses.push(refused(None, topic_id, UNKNOWN_ID)),
        }
    }
    responses.extend(ids.often.iter().map(|topic_id| refused(None, *topic_id, DUPLICATE_ID)));
    for (topic_id, name) in known {
        if ids.often.contains(&topic_id) {
            responses.push(refused(Some(name), topic_id, SAME_TOPIC));
        } else {
            targets.push(Target { topic_id, name });
        }
    }
    responses.extend(names.often.into_iter().map(|name| refused(Some(name), TopicId::ZERO, DUPLICATE_NAME)));
    (targets, responses)
}

/// Tells what was said once from what was said more than once.
struct Once<T> {
    once: BTreeSet<T>,
    often: BTreeSet<T>,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self { once: BTreeSet::new(), often: BTreeSet::new() }
    }
}

impl<T: Ord> Once<T> {
    fn add(&mut self, value: T) {
        if self.often.contains(&value) {
            return;
        }
        if self.once.remove(&value) {
            self.often.insert(value);
        } else {
            self.once.insert(value);
        }
    }
}

fn refused(name: Option<String>, topic_id: TopicId, (code, message): Refusal) -> DeletableTopicResult {
    DeletableTopicResult { name, topic_id, error_code: code.code(), error_message: Some(message.to_owned()) }
}

fn deleted(target: Target, outcome: Option<Result<(), CreationError>>) -> DeletableTopicResult {
    let (code, error_message) = match outcome {
        Some(Ok(())) => (ErrorCode::None, None),
        Some(Err(error)) => (error.code, Some(error.message)),
        None => (ErrorCode::RequestTimedOut, None),
    };
    DeletableTopicResult {
        name: Some(target.name),
        topic_id: target.topic_id,
        error_code: code.code(),
        error_message,
    }
}
