//! A metadata log without a log, for tests of what stands on it: a proposal is applied at once, on the caller's
//! thread, and nothing outlives the process.

use std::sync::Arc;

use arc_swap::ArcSwap;
use chronik_types::{LogIndex, NodeId, Term};
use parking_lot::Mutex;

use crate::log::{
    Applied, BarrierDone, MetadataListener, MetadataLog, ProposalDone, ProposeError, QuorumState,
};
use crate::metadata::{Application, BatchOutcome, CommandBatch, Delta, MetadataImage};

/// The one term of a log that never elects.
const ONLY_TERM: Term = Term(1);

/// A [`MetadataLog`] in memory, always the leader.
pub struct InMemoryMetadata {
    node_id: NodeId,
    image: ArcSwap<MetadataImage>,
    /// Held while a batch is applied, so that batches have an order.
    listener: Mutex<Option<MetadataListener>>,
}

impl InMemoryMetadata {
    /// An empty log of the node `node_id`. Its listener must not propose: that would wait for itself.
    pub fn new(node_id: NodeId) -> Self {
        let image = ArcSwap::from_pointee(MetadataImage::default());
        Self { node_id, image, listener: Mutex::new(None) }
    }
}

impl MetadataLog for InMemoryMetadata {
    fn propose(&self, batch: CommandBatch, done: ProposalDone) {
        let outcome = {
            let listener = self.listener.lock();
            let image = self.image.load_full();
            let index = LogIndex(image.applied_index().get().saturating_add(1));
            match image.apply(index, ONLY_TERM, &batch) {
                Ok(Application { image, delta, outcome, first_index }) => {
                    let image = Arc::new(image);
                    self.image.store(Arc::clone(&image));
                    if let Some(listener) = listener.as_ref() {
                        listener(&image, &delta);
                    }
                    match outcome {
                        BatchOutcome::Applied(outputs) => Ok(Applied { index: first_index, outputs }),
                        BatchOutcome::Refused { command_position, error } => {
                            Err(ProposeError::Refused { command_position, error })
                        }
                    }
                }
                Err(error) => Err(ProposeError::CannotApply(Arc::new(error))),
            }
        };
        done(outcome);
    }

    fn propose_as_leader(&self, term: Term, batch: CommandBatch, done: ProposalDone) {
        if term == ONLY_TERM {
            self.propose(batch, done);
        } else {
            done(Err(ProposeError::NotLeader { leader: Some(self.node_id) }));
        }
    }

    fn barrier(&self, done: BarrierDone) {
        done(Ok(self.image.load_full()));
    }

    fn image(&self) -> Arc<MetadataImage> {
        self.image.load_full()
    }

    fn subscribe(&self, listener: MetadataListener) {
        let mut slot = self.listener.lock();
        let image = self.image.load_full();
        listener(&image, &Delta::between(&MetadataImage::default(), &image));
        *slot = Some(listener);
    }

    fn quorum(&self) -> QuorumState {
        let applied_index = self.image.load().applied_index();
        QuorumState {
            is_leader: true,
            leader: Some(self.node_id),
            term: ONLY_TERM,
            commit_index: applied_index,
            applied_index,
            leader_applied_index: LogIndex(0),
            voters: vec![self.node_id],
            learners: Vec::new(),
            replicas: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use chronik_types::TopicId;

    use super::*;
    use crate::metadata::{Command, CreateTopic, DeleteTopic};

    #[test]
    fn a_proposal_is_visible_when_it_is_answered() {
        let told_count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&told_count);
        let log = Arc::new(InMemoryMetadata::new(NodeId(7)));
        log.subscribe(Box::new(move |_, delta| {
            counter.fetch_add(delta.topics_created.len(), Ordering::Relaxed);
        }));
        let create = Command::from(CreateTopic::new("orders", TopicId(5), 1, 1));
        let (reader, told) = (Arc::clone(&log), Arc::clone(&told_count));
        log.propose(
            CommandBatch::new(vec![create.clone()]),
            Box::new(move |outcome| {
                assert_eq!(outcome.unwrap().index, LogIndex(1));
                assert!(reader.image().topic("orders").is_some());
                assert_eq!(told.load(Ordering::Relaxed), 1);
            }),
        );
        let refused = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&refused);
        log.propose(
            CommandBatch::new(vec![DeleteTopic::new(TopicId(5)).into(), create]),
            Box::new(move |outcome| *slot.lock() = Some(outcome)),
        );
        let error = refused.lock().take().expect("answered").unwrap_err();
        assert!(matches!(error, ProposeError::Refused { command_position: 1, .. }), "{error:?}");
        assert!(log.image().topic("orders").is_some(), "the whole batch was refused");
        assert!(log.is_leader());
        log.subscribe(Box::new(|image, delta| {
            assert_eq!(
                (image.topic_count(), delta.topics_created.len()),
                (1, 1),
                "what is there is told first"
            );
        }));
        assert_eq!(log.quorum().leader, Some(NodeId(7)));
    }
}
