//! What is in a message between nodes, and in the log of a node that is not running: for checkers and tools.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chronik_disk::Disk;
use chronik_types::{LogIndex, NodeId, Term};
use raft::Storage;
use raft::eraftpb::{Message, MessageType};

use crate::frame::{Body, Frame};
use crate::store::{LogStore, StoreError, node_id};
use crate::wire::WireError;

/// What a message is about; Raft's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Entries for a follower.
    Append,
    /// A follower's answer to them, or to a snapshot.
    AppendResponse,
    /// A candidate asks for a vote.
    Vote,
    /// The answer to that.
    VoteResponse,
    /// A node asks whether it would get a vote (Raft thesis, section 9.6).
    PreVote,
    /// The answer to that.
    PreVoteResponse,
    /// An image in place of entries.
    Snapshot,
    /// The leader lives.
    Heartbeat,
    /// The answer to that.
    HeartbeatResponse,
    /// A wish for another leader.
    TransferLeader,
    /// An order to campaign at once.
    TimeoutNow,
    /// A proposal on its way to the leader.
    Forward,
    /// What the leader did with it.
    ForwardReply,
    /// A question how far the log is committed.
    Barrier,
    /// The answer to that.
    BarrierReply,
    /// A broker lives.
    BrokerHeartbeat,
}

/// A message between nodes, without what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageSummary {
    /// What it is about.
    pub kind: MessageKind,
    /// Who sent it.
    pub from: Option<NodeId>,
    /// Who is to receive it.
    pub to: Option<NodeId>,
    /// The sender's term, or the one that it campaigns for; 0 for what is none of Raft's own messages.
    pub term: Term,
    /// The place that it speaks of: where entries follow, or up to where they have been written.
    pub index: LogIndex,
    /// Whether it says no.
    pub reject: bool,
    /// The number of entries that it carries.
    pub entry_count: usize,
}

/// Says what is in a message.
pub fn summarize_message(bytes: Bytes) -> Result<MessageSummary, WireError> {
    let frame = Frame::decode(bytes)?;
    let kind = match &frame.body {
        Body::Forward { .. } => MessageKind::Forward,
        Body::ForwardReply { .. } => MessageKind::ForwardReply,
        Body::Barrier { .. } => MessageKind::Barrier,
        Body::BarrierReply { .. } => MessageKind::BarrierReply,
        Body::Heartbeat { .. } => MessageKind::BrokerHeartbeat,
        Body::Raft(message) => return summarize_raft(message),
    };
    Ok(MessageSummary {
        kind,
        from: node_id(frame.from),
        to: node_id(frame.to),
        term: Term(0),
        index: LogIndex(0),
        reject: false,
        entry_count: 0,
    })
}

fn summarize_raft(message: &Message) -> Result<MessageSummary, WireError> {
    let kind = match message.get_msg_type() {
        MessageType::MsgAppend => MessageKind::Append,
        MessageType::MsgAppendResponse => MessageKind::AppendResponse,
        MessageType::MsgRequestVote => MessageKind::Vote,
        MessageType::MsgRequestVoteResponse => MessageKind::VoteResponse,
        MessageType::MsgRequestPreVote => MessageKind::PreVote,
        MessageType::MsgRequestPreVoteResponse => MessageKind::PreVoteResponse,
        MessageType::MsgSnapshot => MessageKind::Snapshot,
        MessageType::MsgHeartbeat => MessageKind::Heartbeat,
        MessageType::MsgHeartbeatResponse => MessageKind::HeartbeatResponse,
        MessageType::MsgTransferLeader => MessageKind::TransferLeader,
        MessageType::MsgTimeoutNow => MessageKind::TimeoutNow,
        local @ (MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp) => {
            return Err(WireError::UnknownValue {
                what: "type of Raft message between nodes",
                value: local as u64,
            });
        }
    };
    Ok(MessageSummary {
        kind,
        from: node_id(message.from),
        to: node_id(message.to),
        term: Term(message.term),
        index: LogIndex(message.index),
        reject: message.reject,
        entry_count: message.entries.len(),
    })
}

/// What a node would start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSummary {
    /// Its term.
    pub term: Term,
    /// Whom it has voted for in that term.
    pub voted_for: Option<NodeId>,
    /// The last entry.
    pub last_index: LogIndex,
    /// That entry's term.
    pub last_term: Term,
}

/// Reads the log of a node that is not running. A torn tail is cut off, as the node itself would do.
pub fn summarize_log(disk: Arc<dyn Disk>, dir: &Path, node: NodeId) -> Result<LogSummary, StoreError> {
    let (store, _image) = LogStore::open(disk, dir, node, &[])?;
    let hard_state = store.initial_state().map(|state| state.hard_state).unwrap_or_default();
    let last_index = store.last_index();
    Ok(LogSummary {
        term: Term(hard_state.term),
        voted_for: node_id(hard_state.vote),
        last_index: LogIndex(last_index),
        last_term: Term(store.term(last_index).unwrap_or_default()),
    })
}
