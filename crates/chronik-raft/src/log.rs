//! What the broker needs of the metadata log.

use std::sync::Arc;

use chronik_types::{ErrorCode, LogIndex, MonotonicMs, NodeId, Term};
use thiserror::Error;

use crate::metadata::{ApplyError, CommandBatch, CommandError, CommandOutput, Delta, MetadataImage};

/// Called once with the fate of a proposal, after the image with the change is visible and the listener has
/// seen it. It runs on the metadata log's own thread and must not block.
pub type ProposalDone = Box<dyn FnOnce(Result<Applied, ProposeError>) + Send>;

/// Called once with an image that is new enough, or with why there is none. On a node of several it runs on the
/// metadata log's own thread, on a lone one on the caller's; it must not block.
pub type BarrierDone = Box<dyn FnOnce(Result<Arc<MetadataImage>, ProposeError>) + Send>;

/// Told of every change of the image, in order and on the metadata log's own thread, after the new image has
/// become visible and before any proposal in it is answered. It must neither propose and wait, nor subscribe.
pub type MetadataListener = Box<dyn Fn(&Arc<MetadataImage>, &Delta) + Send + Sync>;

/// What the broker needs of the metadata log: propose, and read the current image.
pub trait MetadataLog: Send + Sync {
    /// Proposes a batch of commands, which is applied as a whole or not at all, and once. Where another node leads it
    /// is sent there, and again to the next leader for as long as it may wait. `done` is called exactly once, when
    /// this node has applied the batch. The batch's request id is set here, whatever it was.
    ///
    /// Batches that are under way together may take effect in any order.
    fn propose(&self, batch: CommandBatch, done: ProposalDone);

    /// Proposes a batch if this node leads in this term, and never at another node or in another term: for what
    /// only the controller may decide, from what it knew in that term.
    fn propose_as_leader(&self, term: Term, batch: CommandBatch, done: ProposalDone);

    /// Calls `done` with an image that is at least as new as everything that any node had answered before this call.
    fn barrier(&self, done: BarrierDone);

    /// From now on, the broker of this incarnation lives on this node. Told before that broker registers: once it
    /// has, the node's heartbeats tell the leader that it lives. A log without heartbeats has no use for it.
    ///
    /// A late message of the node's last process may register that one again. A broker that finds another
    /// incarnation under its id in the image registers anew; until then it is not heard of.
    fn set_broker_incarnation(&self, incarnation: u128) {
        let _: u128 = incarnation;
    }

    /// Until when this node may take its image for the truth. After that the cluster may have given to others what the
    /// image says is this node's, and it was not told: it is cut off, was asleep, or there is no majority. A log that
    /// nobody else has a part in is always true.
    fn contact_until(&self) -> MonotonicMs {
        MonotonicMs(u64::MAX)
    }

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
    /// Up to where a leader other than this node is known to have applied, by its word. It lags behind.
    pub leader_applied_index: LogIndex,
    /// The nodes that vote, ascending.
    pub voters: Vec<NodeId>,
    /// The nodes that follow without a vote, ascending.
    pub learners: Vec<NodeId>,
    /// On the leader, how far each voter and learner is, ascending; empty elsewhere.
    pub replicas: Vec<ReplicaState>,
}

/// How far one replica of the metadata log is, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// The node.
    pub node: NodeId,
    /// The last entry that its log is known to hold.
    pub log_end_index: LogIndex,
    /// When it was heard of last.
    pub last_fetch: Option<MonotonicMs>,
    /// When it was last known to hold all that the leader held.
    pub last_caught_up: Option<MonotonicMs>,
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
    /// No node leads, or not this one where it alone may propose. Nothing was written.
    #[error("there is no leader of the metadata log to take the proposal (leader: {})", leader.map_or("none known".to_owned(), |id| id.to_string()))]
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
    /// A newer node wrote the batch, or it holds a command that is none. Nothing was written.
    #[error(
        "the batch has format version {found}{}, and this build knows versions up to {known}: upgrade this node",
        unknown_command.map_or(String::new(), |position| format!(" and an unknown command at {position}"))
    )]
    UnknownFormat {
        /// Its version.
        found: u32,
        /// The newest version that this build knows.
        known: u32,
        /// Which command is unknown, from 0.
        unknown_command: Option<usize>,
    },
    /// The leader will not take the batch, as when it is older than this node.
    #[error("the leader of the metadata log does not take the proposal: {reason}")]
    Unacceptable {
        /// Why.
        reason: String,
    },
    /// The node lost the leadership with a proposal under way that it alone may make. It may or may not take effect.
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
            Self::UnknownFormat { .. } | Self::Unacceptable { .. } => ErrorCode::UnsupportedVersion,
            Self::Refused { error, .. } => error.error_code(),
            Self::CannotApply(_) | Self::Stopped { .. } => ErrorCode::UnknownServerError,
        }
    }
}
