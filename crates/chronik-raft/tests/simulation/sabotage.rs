//! What is broken on purpose, to see that the checkers notice.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use chronik_raft::inspect::{MessageKind, summarize_message};
use chronik_raft::metadata::{CommandBatch, Delta, PartitionImage};
use chronik_types::{LogIndex, NodeId, PartitionEpoch};

use crate::checkers::Checkers;
use crate::random::Random;

/// Where the id of the request stands in a frame with a forwarded proposal: after version, kind, receiver, sender
/// and the batch's length.
const FORWARD_HEAD_BYTES: usize = 22;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    None,
    /// Votes that were refused arrive as granted.
    ForgedVotes,
    /// A byte of an entry's data changes on its way.
    ChangedEntries,
    /// Syncs succeed and do nothing.
    LyingDisk,
    /// A forwarded proposal arrives a second time, under another id.
    ForgedRequests,
    /// Answers to barriers speak of the beginning of the log.
    EarlyBarriers,
    /// One node never hears anything.
    DeafNode,
    /// A change keeps the partition's epoch.
    KeptEpoch,
    /// An ISR has a member that is no replica.
    ForeignIsr,
    /// A partition moves to other replicas.
    MovedPartition,
}

impl Sabotage {
    /// Does what is asked for to a message on its way.
    pub(crate) fn spoil(self, bytes: Bytes, random: &mut Random) -> Bytes {
        let mut spoiled = bytes.to_vec();
        match self {
            Self::ForgedVotes => {
                let summary = summarize_message(bytes.clone()).unwrap();
                let is_vote =
                    matches!(summary.kind, MessageKind::VoteResponse | MessageKind::PreVoteResponse);
                if !is_vote || !summary.reject {
                    return bytes;
                }
                // The flag comes after version, type and eight numbers.
                spoiled[66] = 0;
                assert!(!summarize_message(spoiled.clone().into()).unwrap().reject);
            }
            Self::ChangedEntries => {
                let summary = summarize_message(bytes.clone()).unwrap();
                let name = b"topic-";
                let place = spoiled.windows(name.len()).position(|window| window == name);
                let Some(place) = place.filter(|_| summary.kind == MessageKind::Append) else { return bytes };
                if random.below(10) != 0 {
                    return bytes;
                }
                spoiled[place] = b'T';
            }
            Self::EarlyBarriers => {
                if summarize_message(bytes.clone()).unwrap().kind != MessageKind::BarrierReply {
                    return bytes;
                }
                let index = spoiled.len() - 8;
                spoiled[index..].fill(0);
            }
            Self::None
            | Self::LyingDisk
            | Self::ForgedRequests
            | Self::DeafNode
            | Self::KeptEpoch
            | Self::ForeignIsr
            | Self::MovedPartition => return bytes,
        }
        spoiled.into()
    }

    /// Another message that follows this one.
    pub(crate) fn extra_copy(self, bytes: &Bytes) -> Option<Bytes> {
        let is_forward = || summarize_message(bytes.clone()).unwrap().kind == MessageKind::Forward;
        if self != Self::ForgedRequests || !is_forward() {
            return None;
        }
        let mut batch = CommandBatch::decode_entry(LogIndex(0), &bytes[FORWARD_HEAD_BYTES..]).unwrap();
        let id = batch.request_id.as_mut().unwrap();
        id.sequence += 1_000;
        let batch = prost::Message::encode_to_vec(&batch);
        let mut forged = BytesMut::from(&bytes[..FORWARD_HEAD_BYTES - 4]);
        forged.put_u32(u32::try_from(batch.len()).unwrap());
        forged.put_slice(&batch);
        Some(forged.freeze())
    }

    /// Shows a checker a change that the state machine would not make.
    pub(crate) fn of_partitions(self, node: NodeId, delta: &Delta, checkers: &mut Checkers) {
        for change in &delta.partitions_changed {
            let Some(old) = &change.old else { continue };
            let mut new = PartitionImage::clone(&change.new);
            match self {
                Self::KeptEpoch => {
                    new.leader = None;
                    new.partition_epoch = PartitionEpoch(old.partition_epoch.get());
                }
                Self::ForeignIsr => new.isr = [NodeId(77)].into(),
                Self::MovedPartition => new.replicas = [NodeId(77)].into(),
                Self::None
                | Self::ForgedVotes
                | Self::ChangedEntries
                | Self::LyingDisk
                | Self::ForgedRequests
                | Self::EarlyBarriers
                | Self::DeafNode => return,
            }
            checkers.partition(node, change.topic_id, Some(old), &Arc::new(new));
        }
    }
}
