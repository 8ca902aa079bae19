//! What requests gave, for as long as whoever sent them may send them again.
//!
//! A process numbers its requests and says with each up to where it waits for no answer any more (Ongaro's Raft
//! thesis, section 6.3, has clients do the same). Below that, nothing need be remembered: such a request is late,
//! and is refused without a look at what it asks for. So a request takes effect once however often it arrives, and
//! one that was refused stays refused.
//!
//! Two numbers bound the memory. A process has at most [`REQUESTS_OUTSTANDING_MAX`] requests under way, and no more
//! are kept for it. And a node's last [`INCARNATIONS_REMEMBERED_MAX`] processes are remembered: a message would
//! have to outlive three further starts of the node that sent it to be taken for a new one.

use std::sync::Arc;

use chronik_types::{ErrorCode, LogIndex};
use rpds::RedBlackTreeMapSync;

use super::apply::{BatchOutcome, CommandOutput};
use super::command::RequestId;
use super::error::CommandError;

/// The most requests that one process may have under way: its newest is less than this above its oldest.
pub const REQUESTS_OUTSTANDING_MAX: u64 = 4096;

/// How many processes of each node are remembered.
pub(super) const INCARNATIONS_REMEMBERED_MAX: usize = 4;

/// How much is kept of the words of a refusal.
const REFUSAL_BYTES_MAX: usize = 512;

/// The requests of all nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Requests {
    /// The processes of each node, the one that was heard of last at the end.
    nodes: RedBlackTreeMapSync<i32, Arc<Vec<Arc<Session>>>>,
}

/// The requests of one process.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Session {
    pub(super) incarnation: u64,
    /// The process waits for no request below this one.
    pub(super) answered_below: u64,
    /// What its requests from there on gave, those that have been applied.
    pub(super) outcomes: RedBlackTreeMapSync<u64, Arc<RememberedRequest>>,
}

/// What is kept of one request: enough to answer it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RememberedRequest {
    pub(super) index: LogIndex,
    pub(super) command_count: usize,
    /// The outputs other than [`CommandOutput::Done`], by position.
    pub(super) outputs: Vec<(usize, CommandOutput)>,
    pub(super) refusal: Option<Refusal>,
}

/// Why a request was refused, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) command_position: usize,
    pub(super) error_code: ErrorCode,
    pub(super) reason: String,
}

/// What is known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It has not been applied.
    New,
    /// It was applied at this entry, with this outcome.
    Applied { index: LogIndex, outcome: BatchOutcome },
    /// Whoever sent it has stopped waiting for it, and what it gave is forgotten.
    Expired,
}

impl RememberedRequest {
    fn of(index: LogIndex, outcome: &BatchOutcome) -> Self {
        match outcome {
            BatchOutcome::Applied(outputs) => {
                let told =
                    outputs.iter().copied().enumerate().filter(|(_, output)| *output != CommandOutput::Done);
                Self { index, command_count: outputs.len(), outputs: told.collect(), refusal: None }
            }
            BatchOutcome::Refused { command_position, error } => {
                let mut reason = error.to_string();
                let end =
                    (0..=REFUSAL_BYTES_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
                reason.truncate(end.unwrap_or_default());
                let refusal =
                    Refusal { command_position: *command_position, error_code: error.error_code(), reason };
                Self { index, command_count: 0, outputs: Vec::new(), refusal: Some(refusal) }
            }
        }
    }

    fn outcome(&self) -> BatchOutcome {
        if let Some(refusal) = &self.refusal {
            let Refusal { command_position, error_code, reason } = refusal.clone();
            let error = CommandError::RefusedBefore { error_code, reason };
            return BatchOutcome::Refused { command_position, error };
        }
        let mut outputs = vec![CommandOutput::Done; self.command_count];
        for (position, output) in &self.outputs {
            if let Some(slot) = outputs.get_mut(*position) {
                *slot = *output;
            }
        }
        BatchOutcome::Applied(outputs)
    }
}

impl Requests {
    /// What is known of a request.
    pub(super) fn known(&self, id: RequestId) -> Known {
        let sessions = self.nodes.get(&id.node_id);
        let session = sessions.and_then(|all| all.iter().find(|one| one.incarnation == id.incarnation));
        let Some(session) = session else { return Known::New };
        match session.outcomes.get(&id.sequence) {
            Some(known) => Known::Applied { index: known.index, outcome: known.outcome() },
            None if id.sequence < session.answered_below => Known::Expired,
            None => Known::New,
        }
    }

    /// Remembers what a request gave, and forgets what its process no longer waits for.
    pub(super) fn remember(
        &mut self,
        id: RequestId,
        answered_below: u64,
        index: LogIndex,
        outcome: &BatchOutcome,
    ) {
        let mut sessions = self.nodes.get(&id.node_id).map(|all| Vec::clone(all)).unwrap_or_default();
        let known = sessions.iter().position(|one| one.incarnation == id.incarnation);
        let mut session = match known {
            Some(position) => Session::clone(&sessions.remove(position)),
            None => Session {
                incarnation: id.incarnation,
                answered_below: 0,
                outcomes: RedBlackTreeMapSync::new_sync(),
            },
        };
        session.answered_below = session.answered_below.max(answered_below);
        session.outcomes.insert_mut(id.sequence, Arc::new(RememberedRequest::of(index, outcome)));
        while let Some(oldest) = session.outcomes.first().map(|(sequence, _)| *sequence)
            && (oldest < session.answered_below || REQUESTS_OUTSTANDING_MAX < session.outcomes.size() as u64)
        {
            session.answered_below = session.answered_below.max(oldest.saturating_add(1));
            session.outcomes.remove_mut(&oldest);
        }
        // A process that is known keeps its place: an old one does not become young by a message that was late.
        let place = known.unwrap_or(sessions.len());
        sessions.insert(place, Arc::new(session));
        if INCARNATIONS_REMEMBERED_MAX < sessions.len() {
            sessions.remove(0);
        }
        self.nodes.insert_mut(id.node_id, Arc::new(sessions));
    }

    /// All that is remembered: nodes in order, and each one's processes from the oldest.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (i32, &Arc<Session>)> {
        self.nodes.iter().flat_map(|(node, sessions)| sessions.iter().map(|session| (*node, session)))
    }

    /// Takes in what [`Requests::sessions`] gave; `false` where there is more of it than there can be.
    pub(super) fn restore(&mut self, node_id: i32, session: Session) -> bool {
        let mut sessions = self.nodes.get(&node_id).map(|all| Vec::clone(all)).unwrap_or_default();
        let fits = sessions.len() < INCARNATIONS_REMEMBERED_MAX
            && session.outcomes.size() as u64 <= REQUESTS_OUTSTANDING_MAX;
        sessions.push(Arc::new(session));
        self.nodes.insert_mut(node_id, Arc::new(sessions));
        fits
    }
}
