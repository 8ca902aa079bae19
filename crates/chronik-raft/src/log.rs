//! What the broker needs of the metadata log.

use std::sync::Arc;

use chronik_types::{ErrorCode, LogIndex, NodeId, Term};
use thiserror::Error;

use crate::metadata::{ApplyError, CommandBatch, CommandError, CommandOutput, Delta, MetadataImage};

/// Called once with the fate of a proposal, after the image with the change is visible and the listener has
/// seen it. It runs on the metadata log's own thread and must not block.
pub type ProposalDone = Box<dyn FnOnce(Result<Applied, ProposeError>) + Send>;

/// Told of every change of the image, in order and on the metadata log's own thread, after the new image has
/// become visible and before any proposal in it is answered. It must neither propose and wait, nor subscribe.
pub type MetadataListener = Box<dyn Fn(&Arc<MetadataImage>, &Delta) + Send + Sync>;

/// What the broker needs of the metadata log: propose, and read the current image.
pub trait MetadataLog: Send + Sync {
    /// Proposes a batch of commands, which is applied as a whole or not at all. `done` is called exactly once.
    fn propose(&self, batch: CommandBatch, done: ProposalDone);

    /// The newest image that this node has applied.
    fn image(&self) -> Arc<MetadataImage>;

    /// Sets who is told of changes from now on, in place of whoever was told before. The listener is called at
    /// once, on the caller's thread, with all that differs from an empty image; no change is missed or told twice.
    fn subscribe(&self, listener: MetadataListener);

    /// Whether this node leads the metadata log, and so is the controller.
    fn is_leader(&self) -> bool {
        self.quorum().is_leader
    }

    /// How the quorum stands, as this node sees it.
    fn quorum(&self) -> QuorumState;
}

/// The state of the metadata quorum as one node sees it. It is no part of the image: nodes may differ in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumState {
    /// Whether this node leads.
    pub is_leader: bool,
    /// The leader (Kafka's controller), where one is known.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: Term,
    /// The last entry known to be committed.
    pub commit_index: LogIndex,
    /// The last entry applied to the image.
    pub applied_index: LogIndex,
    /// The nodes that vote, ascending.
    pub voters: Vec<NodeId>,
    /// The nodes that follow without a vote, ascending.
    pub learners: Vec<NodeId>,
}

/// A batch that has been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The log entry that held it, or, for a repeated request, the entry that held it first.
    pub index: LogIndex,
    /// What each command gave, in the order of the batch.
    pub outputs: Vec<CommandOutput>,
}

/// Why a batch was not applied, or may not have been.
#[derive(Debug, Error)]
pub enum ProposeError {
    /// Another node leads, or none does. Nothing was written.
    #[error("this node does not lead the metadata log (leader: {})", leader.map_or("none known".to_owned(), |id| id.to_string()))]
    NotLeader {
        /// The leader, where one is known.
        leader: Option<NodeId>,
    },
    /// The leader takes no more proposals at the moment: too many are under way. Nothing was written.
    #[error("the metadata log has too many proposals under way; try again")]
    Busy,
    /// The disk under the metadata log is full. Nothing was written.
    #[error("the disk under the metadata log is full; free some room and try again")]
    DiskFull,
    /// The batch is larger than an entry may be. Nothing was written.
    #[error(
        "the batch of {len_bytes} bytes and {command_count} commands is more than one metadata entry holds ({max_bytes} bytes, {max_count} commands)"
    )]
    TooLarge {
        /// Its encoded size.
        len_bytes: usize,
        /// The number of its commands.
        command_count: usize,
        /// The largest encoded size.
        max_bytes: usize,
        /// The largest number of commands.
        max_count: usize,
    },
    /// The node lost the leadership with the proposal under way. It may or may not take effect.
    #[error("the metadata leader changed while the proposal was under way; its outcome is unknown")]
    LeadershipLost,
    /// No majority confirmed the proposal in time. It may or may not take effect.
    #[error("no majority confirmed the proposal within {timeout_ms} ms; its outcome is unknown")]
    TimedOut {
        /// How long the proposal waited.
        timeout_ms: u64,
    },
    /// The state machine refused a command, and with it the batch. Nothing has changed.
    #[error("command {command_position} of the batch was refused")]
    Refused {
        /// Which command of the batch, from 0.
        command_position: usize,
        /// Why.
        #[source]
        error: CommandError,
    },
    /// The node met something that it cannot apply, and has stopped taking part.
    #[error("the metadata log of this node has stopped")]
    CannotApply(#[source] Arc<ApplyError>),
    /// The metadata log of this node has stopped; the text says why. It may or may not take effect.
    #[error("the metadata log of this node has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl ProposeError {
    /// What a Kafka client is told.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::NotLeader { .. } | Self::LeadershipLost => ErrorCode::NotController,
            Self::Busy | Self::TimedOut { .. } => ErrorCode::RequestTimedOut,
            Self::DiskFull => ErrorCode::KafkaStorageError,
            Self::TooLarge { .. } => ErrorCode::PolicyViolation,
            Self::Refused { error, .. } => error.error_code(),
            Self::CannotApply(_) | Self::Stopped { .. } => ErrorCode::UnknownServerError,
        }
    }
}
