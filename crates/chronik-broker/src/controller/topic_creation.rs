//! From "I want this topic" to the commands that make it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_raft::ProposeError;
use chronik_raft::metadata::{
    AssignPartition, Command, CommandBatch, CommandError, CreateTopic, MetadataImage, SetPartitionLeader,
    UpdateIsr,
};
use chronik_types::{ErrorCode, NodeId, PartitionIndex, TopicId, validate_topic_name};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::config::TopicConfigDef;
use crate::groups::OFFSETS_TOPIC;

use super::placement;

/// The most partitions that one request may add. Each takes three commands of one metadata entry.
pub(crate) const PARTITIONS_PER_REQUEST_MAX: i32 = 30_000;

/// A topic that someone wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewTopic {
    pub(crate) name: String,
    /// −1 for the broker's default, or where `assignments` says it.
    pub(crate) partition_count: i32,
    /// −1 for the broker's default, or where `assignments` says it.
    pub(crate) replication_factor: i16,
    /// The replicas of each partition by its number, where the client chooses them; empty where it does not.
    pub(crate) assignments: Vec<(i32, Vec<i32>)>,
    pub(crate) configs: Vec<(String, Option<String>)>,
}

/// Why a topic cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreationError {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl CreationError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What the client is told when the metadata log did not take the commands.
    pub(crate) fn from_proposal(error: &ProposeError) -> Self {
        let message = if let ProposeError::Refused { error, .. } = error {
            error.to_string()
        } else {
            error.to_string()
        };
        Self::new(error.error_code(), message)
    }
}

/// A topic that can be made, with everything decided.
pub(crate) struct PlannedTopic {
    pub(crate) topic_id: TopicId,
    pub(crate) replicas: Vec<Vec<NodeId>>,
    pub(crate) configs: BTreeMap<String, String>,
    pub(crate) commands: Vec<Command>,
}

impl PlannedTopic {
    /// Replicas of each partition.
    pub(crate) fn replication_factor(&self) -> usize {
        self.replicas.first().map_or(0, Vec::len)
    }
}

/// Topics that are being made because a client named them.
struct Progress {
    remaining: usize,
    failures: Vec<(String, ErrorCode)>,
    done: Option<AutoCreated>,
}

type AutoCreated = Box<dyn FnOnce(Vec<(String, ErrorCode)>) + Send>;

impl Broker {
    /// Decides everything about a new topic: its id, where its partitions go, who leads them (KIP-455's manual
    /// assignments honoured). Proposes nothing.
    pub(crate) fn plan_topic(
        &self,
        image: &MetadataImage,
        wanted: &NewTopic,
    ) -> Result<PlannedTopic, CreationError> {
        check_name(image, &wanted.name)?;
        let configs = check_configs(&wanted.configs)?;
        let replicas = if wanted.assignments.is_empty() {
            let partition_count = match wanted.partition_count {
                -1 => self.config.num_partitions,
                count if count > 0 => count,
                _ => {
                    return Err(CreationError::new(
                        ErrorCode::InvalidPartitions,
                        "Number of partitions was set to an invalid non-positive value.",
                    ));
                }
            };
            let replication_factor = match wanted.replication_factor {
                // A default that the cluster cannot reach is clamped to it; a number that was asked for is not.
                -1 => self.default_replication_factor(image),
                factor => usize::try_from(factor).ok().filter(|factor| *factor > 0).ok_or_else(|| {
                    CreationError::new(
                        ErrorCode::InvalidReplicationFactor,
                        "Replication factor must be larger than 0, or -1 to use the default value.",
                    )
                })?,
            };
            placement::place(image, 0, partition_count, replication_factor)?
        } else {
            check_assignments(image, wanted)?
        };
        let topic_id = self.random.uuid();
        let mut create = CreateTopic::new(
            wanted.name.clone(),
            topic_id,
            i32::try_from(replicas.len()).unwrap_or(i32::MAX),
            i32::try_from(replicas.first().map_or(0, Vec::len)).unwrap_or(i32::MAX),
        );
        create.configs.clone_from(&configs);
        let mut commands = vec![create.into()];
        commands.extend(assignment_commands(topic_id, 0, &replicas));
        Ok(PlannedTopic { topic_id, replicas, configs, commands })
    }

    /// Replicas of a topic that does not say how many: what is configured, as far as there are brokers in service.
    pub(super) fn default_replication_factor(&self, image: &MetadataImage) -> usize {
        let live_count = image.live_brokers().count();
        usize::try_from(self.config.default_replication_factor).unwrap_or(1).min(live_count).max(1)
    }

    /// What a topic is that is made because someone needs it: the broker's defaults, or those of its own topics.
    fn auto_topic(&self, image: &MetadataImage, name: &str) -> NewTopic {
        let wanted = NewTopic {
            name: name.to_owned(),
            partition_count: -1,
            replication_factor: -1,
            ..Default::default()
        };
        if name != OFFSETS_TOPIC {
            return wanted;
        }
        let broker_count = i16::try_from(image.live_brokers().count()).unwrap_or(i16::MAX);
        let segment_bytes = self.config.offsets_topic_segment_bytes.to_string();
        NewTopic {
            partition_count: self.config.offsets_topic_num_partitions,
            replication_factor: self.config.offsets_topic_replication_factor.min(broker_count).max(1),
            configs: vec![("segment.bytes".to_owned(), Some(segment_bytes))],
            ..wanted
        }
    }

    /// Makes topics that a client named and that do not exist, with the broker's defaults; `done` hears which could
    /// not be made. A topic that someone else makes meanwhile is no failure.
    pub(crate) fn auto_create_topics(self: &Arc<Self>, names: BTreeSet<String>, done: AutoCreated) {
        let broker = Arc::clone(self);
        self.with_fresh_image(move |image| match image {
            Ok(image) => broker.auto_create_in(&image, names, done),
            Err(error) => {
                tracing::debug!("Topics are not created automatically: {error}");
                done(names.into_iter().map(|name| (name, ErrorCode::LeaderNotAvailable)).collect());
            }
        });
    }

    fn auto_create_in(
        self: &Arc<Self>,
        image: &MetadataImage,
        mut names: BTreeSet<String>,
        done: AutoCreated,
    ) {
        // Somebody else may have been first.
        names.retain(|name| image.topic(name).is_none());
        if names.is_empty() {
            done(Vec::new());
            return;
        }
        let progress =
            Arc::new(Mutex::new(Progress { remaining: names.len(), failures: Vec::new(), done: Some(done) }));
        let finish_one = move |progress: &Mutex<Progress>, failure: Option<(String, ErrorCode)>| {
            let finished = {
                let mut progress = progress.lock();
                progress.failures.extend(failure);
                progress.remaining = progress.remaining.saturating_sub(1);
                if progress.remaining > 0 {
                    return;
                }
                progress.done.take().map(|done| (done, std::mem::take(&mut progress.failures)))
            };
            if let Some((done, failures)) = finished {
                done(failures);
            }
        };
        for name in names {
            tracing::info!("Topic '{name}' not found, attempting auto-creation");
            if self.is_in_cluster() {
                let peer_count = self.config.cluster_nodes.len();
                tracing::info!("Auto-creating topic '{name}' in cluster mode with {peer_count} peers");
            }
            let planned = match self.plan_topic(image, &self.auto_topic(image, &name)) {
                Ok(planned) => planned,
                Err(error) => {
                    let failure = (error.code != ErrorCode::TopicAlreadyExists).then_some((name, error.code));
                    finish_one(&progress, failure);
                    continue;
                }
            };
            let (partition_count, replication_factor) =
                (planned.replicas.len(), planned.replication_factor());
            let progress = Arc::clone(&progress);
            self.metadata.propose(
                CommandBatch::new(planned.commands),
                Box::new(move |outcome| {
                    let failure = match outcome {
                        Ok(_) => {
                            tracing::info!(
                                "Successfully auto-created topic '{name}' with {partition_count} partitions and \
                                 replication factor {replication_factor}"
                            );
                            None
                        }
                        Err(ProposeError::Refused { error: CommandError::TopicExists { .. }, .. }) => None,
                        Err(error) => {
                            tracing::warn!(topic = name, "cannot create a topic automatically: {error}");
                            Some((name, ErrorCode::UnknownTopicOrPartition))
                        }
                    };
                    finish_one(&progress, failure);
                }),
            );
        }
    }
}

/// The three commands of each partition, from number `first` on: where it is, who leads it, who is in sync (M2).
pub(crate) fn assignment_commands(topic_id: TopicId, first: i32, replicas: &[Vec<NodeId>]) -> Vec<Command> {
    let mut commands = Vec::with_capacity(replicas.len().saturating_mul(3));
    for (index, nodes) in (first..).map(PartitionIndex).zip(replicas) {
        commands.push(AssignPartition::new(topic_id, index, nodes).into());
        commands.push(SetPartitionLeader::new(topic_id, index, nodes.first().copied()).into());
        commands.push(UpdateIsr::new(topic_id, index, nodes, None).into());
    }
    commands
}

fn check_name(image: &MetadataImage, name: &str) -> Result<(), CreationError> {
    validate_topic_name(name).map_err(|error| {
        CreationError::new(ErrorCode::InvalidTopicException, format!("Topic name is invalid: {error}"))
    })?;
    if image.topic(name).is_some() {
        let message = format!("Topic '{name}' already exists.");
        return Err(CreationError::new(ErrorCode::TopicAlreadyExists, message));
    }
    // Metric names turn dots into underscores, so that two topics that differ in nothing else would share theirs.
    if name.contains(['.', '_']) {
        let folded = name.replace('.', "_");
        let twin = image
            .topics()
            .find(|topic| topic.name.len() == name.len() && topic.name.replace('.', "_") == folded);
        if let Some(twin) = twin {
            let message = format!("Topic '{name}' collides with existing topic: {}", twin.name);
            return Err(CreationError::new(ErrorCode::InvalidTopicException, message));
        }
    }
    Ok(())
}

/// Checks configs by the table; names and values come back as they are stored.
pub(crate) fn check_configs(
    configs: &[(String, Option<String>)],
) -> Result<BTreeMap<String, String>, CreationError> {
    let refuse = |message: String| CreationError::new(ErrorCode::InvalidConfig, message);
    let mut checked = BTreeMap::new();
    for (name, value) in configs {
        let Some(def) = TopicConfigDef::find(name) else {
            return Err(refuse(format!("Unknown topic config name: {name}")));
        };
        let Some(value) = value else {
            return Err(refuse(format!("Null value not supported for topic configs: {name}")));
        };
        def.validate(value).map_err(refuse)?;
        checked.insert(name.clone(), value.trim().to_owned());
    }
    Ok(checked)
}

fn check_assignments(image: &MetadataImage, wanted: &NewTopic) -> Result<Vec<Vec<NodeId>>, CreationError> {
    let invalid = |message: &str| Err(CreationError::new(ErrorCode::InvalidRequest, message));
    if wanted.replication_factor != -1 {
        return invalid(
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        );
    }
    if wanted.partition_count != -1 {
        return invalid("A manual partition assignment was specified, but numPartitions was not set to -1.");
    }
    placement::check_manual(image, 0, None, &wanted.assignments)
}
