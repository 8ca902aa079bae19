//! Applying a batch of commands: a total, deterministic function from one image to the next.
//!
//! Commands work on a draft. Only a draft that every command of the batch has accepted becomes an image, so a
//! refused batch leaves nothing behind. No command chooses anything, and none looks at a clock.

mod broker;
mod cluster;
mod config;
mod partition;
mod topic;

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_types::{BrokerEpoch, LogIndex, ProducerId, Term, TopicId};
use prost::Message;

use super::command::{CommandBatch, CommandKind, FORMAT_VERSION_MAX, RequestId};
use super::delta::{Delta, Touched};
use super::error::{ApplyError, CommandError};
use super::image::{MetadataImage, TopicImage};
use super::requests::Known;

/// What applying a batch gives.
#[derive(Clone, Debug)]
pub struct Application {
    /// The next image; even a refused batch moves the applied index.
    pub image: MetadataImage,
    /// What changed.
    pub delta: Delta,
    /// What the proposer is told.
    pub outcome: BatchOutcome,
    /// The entry that had this effect: an earlier one where the request is a repetition.
    pub first_index: LogIndex,
}

/// The verdict on a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchOutcome {
    /// All commands took effect; what each gave, in order.
    Applied(Vec<CommandOutput>),
    /// No command took effect.
    Refused {
        /// The command that was refused, from 0.
        command_position: usize,
        /// Why.
        error: CommandError,
    },
}

/// What an applied command gives its proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandOutput {
    /// Nothing beyond its effect.
    Done,
    /// The broker is registered.
    BrokerRegistered {
        /// Under this epoch.
        epoch: BrokerEpoch,
    },
    /// A block of producer ids is the broker's.
    ProducerIdsAllocated {
        /// The first id of the block.
        first: ProducerId,
        /// The number of ids.
        count: i32,
    },
}

impl CommandBatch {
    /// Decodes an entry of the log.
    pub fn decode_entry(index: LogIndex, bytes: &[u8]) -> Result<Self, ApplyError> {
        Self::decode(bytes).map_err(|source| ApplyError::Undecodable { index, source })
    }
}

impl MetadataImage {
    /// The image after the entry `index`, which holds `batch` and was written in `term`.
    ///
    /// An error means that this build does not understand the entry; the caller must stop applying.
    ///
    /// # Panics
    /// When `index` is not after [`MetadataImage::applied_index`], or the result would break META-2 or META-3:
    /// going on would spread the damage.
    pub fn apply(
        &self,
        index: LogIndex,
        term: Term,
        batch: &CommandBatch,
    ) -> Result<Application, ApplyError> {
        assert!(self.applied_index < index, "META-1: entry {index} after entry {}", self.applied_index);
        if FORMAT_VERSION_MAX < batch.format_version {
            let (found, known) = (batch.format_version, FORMAT_VERSION_MAX);
            return Err(ApplyError::UnknownFormat { index, found, known });
        }
        let mut next = self.clone();
        next.applied_index = index;
        next.applied_term = term;
        if let Some(request_id) = batch.request_id {
            match self.requests.known(request_id) {
                Known::New => {}
                Known::Applied { index: first_index, outcome } => {
                    return Ok(Application { image: next, delta: Delta::default(), outcome, first_index });
                }
                Known::Expired => {
                    let outcome =
                        BatchOutcome::Refused { command_position: 0, error: CommandError::RequestExpired };
                    let (image, delta) = (next, Delta::default());
                    return Ok(Application { image, delta, outcome, first_index: index });
                }
            }
        }
        let mut draft = Draft {
            base: self,
            next,
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            touched: Touched::default(),
        };
        let mut outputs = Vec::with_capacity(batch.commands.len());
        for (command_position, command) in batch.commands.iter().enumerate() {
            let Some(kind) = &command.kind else {
                return Err(ApplyError::UnknownCommand { index, command_position });
            };
            if let CommandKind::SetFormatVersion(command) = kind
                && FORMAT_VERSION_MAX < command.format_version
            {
                let (found, known) = (command.format_version, FORMAT_VERSION_MAX);
                return Err(ApplyError::UnknownFormat { index, found, known });
            }
            match draft.apply(kind) {
                Ok(output) => outputs.push(output),
                Err(error) => {
                    // The draft is dropped: only the index has moved. A later command of a kind that this
                    // build does not know changes nothing about that.
                    let mut image = self.clone();
                    image.applied_index = index;
                    image.applied_term = term;
                    let outcome = BatchOutcome::Refused { command_position, error };
                    image.remember(batch, index, &outcome);
                    return Ok(Application { image, delta: Delta::default(), outcome, first_index: index });
                }
            }
        }
        let (mut image, touched) = draft.finish();
        let outcome = BatchOutcome::Applied(outputs);
        image.remember(batch, index, &outcome);
        let delta = Delta::of(self, &image, &touched);
        for change in &delta.partitions_changed {
            assert!(
                change.new.is_consistent(),
                "META-3: {}-{} is {:?}",
                change.topic,
                change.partition,
                change.new
            );
            assert!(
                change.old.as_ref().is_none_or(|old| old.partition_epoch < change.new.partition_epoch),
                "META-2: {}-{} went from {:?} to {:?}",
                change.topic,
                change.partition,
                change.old,
                change.new
            );
        }
        Ok(Application { image, delta, outcome, first_index: index })
    }

    /// The image after an entry that holds no batch: one that a new leader writes, or a change of membership.
    ///
    /// # Panics
    /// When `index` is not after [`MetadataImage::applied_index`].
    #[must_use]
    pub fn skip(&self, index: LogIndex, term: Term) -> Self {
        assert!(self.applied_index < index, "META-1: entry {index} after entry {}", self.applied_index);
        let mut next = self.clone();
        next.applied_index = index;
        next.applied_term = term;
        next
    }

    /// What is known of a request.
    pub(crate) fn known_request(&self, id: RequestId) -> Known {
        self.requests.known(id)
    }

    fn remember(&mut self, batch: &CommandBatch, index: LogIndex, outcome: &BatchOutcome) {
        if let Some(request_id) = batch.request_id {
            self.requests.remember(request_id, batch.answered_below, index, outcome);
        }
    }
}

/// An image that is being changed.
struct Draft<'a> {
    base: &'a MetadataImage,
    /// Brokers, configs and numbers are changed here at once; topics when the draft is finished.
    next: MetadataImage,
    /// Topics that the batch has touched; `None` for one that it has deleted.
    topics: BTreeMap<TopicId, Option<TopicImage>>,
    /// Names that the batch has given or taken, and to which topic.
    names: BTreeMap<Arc<str>, Option<TopicId>>,
    touched: Touched,
}

impl Draft<'_> {
    fn apply(&mut self, kind: &CommandKind) -> Result<CommandOutput, CommandError> {
        match kind {
            CommandKind::RegisterBroker(command) => self.register_broker(command),
            CommandKind::FenceBroker(command) => {
                self.set_fenced(command.broker_id, command.broker_epoch, true)
            }
            CommandKind::UnfenceBroker(command) => {
                self.set_fenced(command.broker_id, command.broker_epoch, false)
            }
            CommandKind::CreateTopic(command) => self.create_topic(command),
            CommandKind::AssignPartition(command) => self.assign_partition(command),
            CommandKind::SetPartitionLeader(command) => self.set_partition_leader(command),
            CommandKind::UpdateIsr(command) => self.update_isr(command),
            CommandKind::DeleteTopic(command) => self.delete_topic(command),
            CommandKind::SetConfig(command) => self.set_config(command),
            CommandKind::AllocateProducerIds(command) => self.allocate_producer_ids(command),
            CommandKind::SetClusterId(command) => self.set_cluster_id(command),
            CommandKind::SetFormatVersion(command) => self.set_format_version(command),
            CommandKind::BeginControlledShutdown(command) => self.begin_controlled_shutdown(command),
        }
    }

    /// The topic of this name, as the batch has left it so far.
    fn topic_id_of(&self, name: &str) -> Option<TopicId> {
        match self.names.get(name) {
            Some(changed) => *changed,
            None => self.base.topic(name).map(|topic| topic.id),
        }
    }

    /// The topic of this id, for changing.
    fn topic_mut(&mut self, topic_id: TopicId) -> Result<&mut TopicImage, CommandError> {
        let base = self.base;
        self.topics
            .entry(topic_id)
            .or_insert_with(|| base.topic_by_id(topic_id).map(|topic| TopicImage::clone(topic)))
            .as_mut()
            .ok_or(CommandError::UnknownTopicId { topic_id })
    }

    fn finish(self) -> (MetadataImage, Touched) {
        let mut next = self.next;
        // Names are freed before they are given, for a topic deleted and created again in one batch.
        for (topic_id, topic) in &self.topics {
            if topic.is_none()
                && let Some(deleted) = self.base.topic_by_id(*topic_id)
            {
                next.topics_by_id.remove_mut(topic_id);
                next.topics_by_name.remove_mut(&deleted.name);
            }
        }
        for (topic_id, topic) in self.topics {
            if let Some(topic) = topic {
                let topic = Arc::new(topic);
                next.topics_by_name.insert_mut(Arc::clone(&topic.name), Arc::clone(&topic));
                next.topics_by_id.insert_mut(topic_id, topic);
            }
        }
        (next, self.touched)
    }
}

#[cfg(test)]
pub(crate) mod tests;
