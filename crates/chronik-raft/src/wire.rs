//! Raft's messages and entries as bytes, for peers and for the disk.
//!
//! Hand-written, because the Protocol Buffers decoder that comes with raft 0.7 can be driven into unbounded
//! recursion (RUSTSEC-2024-0437). Integers are big-endian; lists and byte strings carry their length in 4 bytes.
//! Nothing here recurses, and nothing allocates more than a small multiple of the bytes at hand.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use raft::eraftpb::{
    ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};
use thiserror::Error;

/// The version of the messages that peers exchange.
pub(crate) const MESSAGE_VERSION: u8 = 1;

/// The largest message that a peer may send: a snapshot of a very large cluster.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Why bytes are none of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The bytes end too soon.
    #[error("{what} ends after {available_bytes} bytes where {wanted_bytes} more were announced")]
    TooShort {
        /// What was being read.
        what: &'static str,
        /// Bytes that were announced.
        wanted_bytes: usize,
        /// Bytes that are left.
        available_bytes: usize,
    },
    /// Bytes follow the end.
    #[error("{count} bytes follow the end of {what}")]
    TrailingBytes {
        /// What was being read.
        what: &'static str,
        /// How many bytes.
        count: usize,
    },
    /// A newer node sent it.
    #[error("the message has version {found}, and this build knows up to {known}: upgrade this node")]
    UnknownVersion {
        /// The message's version.
        found: u8,
        /// The newest version that this build knows.
        known: u8,
    },
    /// A number that stands for nothing.
    #[error("{value} is no {what}")]
    UnknownValue {
        /// What it should have stood for.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// The entries of a message do not follow one another.
    #[error("entry {found} stands where entry {expected} belongs")]
    EntryOutOfPlace {
        /// The index that the entry has.
        found: u64,
        /// The index that it should have.
        expected: u64,
    },
    /// No cluster can have these members.
    #[error("the membership is none: {reason}")]
    ImpossibleMembership {
        /// What speaks against it.
        reason: &'static str,
    },
    /// The message is too large.
    #[error("a message of {len_bytes} bytes is larger than any may be ({MESSAGE_BYTES_MAX})")]
    TooLarge {
        /// Its size.
        len_bytes: usize,
    },
}

/// Encodes a message for a peer.
pub(crate) fn encode_message(message: &Message) -> Bytes {
    let mut out = BytesMut::with_capacity(128);
    out.put_u8(MESSAGE_VERSION);
    out.put_u8(message_type_code(message.get_msg_type()));
    out.put_u64(message.to);
    out.put_u64(message.from);
    out.put_u64(message.term);
    out.put_u64(message.log_term);
    out.put_u64(message.index);
    out.put_u64(message.commit);
    out.put_u64(message.commit_term);
    out.put_u64(message.request_snapshot);
    out.put_u8(u8::from(message.reject));
    out.put_u64(message.reject_hint);
    out.put_i64(message.priority);
    put_bytes(&mut out, &message.context);
    put_len(&mut out, message.entries.len());
    for entry in &message.entries {
        put_entry(&mut out, entry);
    }
    if message.has_snapshot() {
        out.put_u8(1);
        let snapshot = message.get_snapshot();
        let metadata = snapshot.get_metadata();
        out.put_u64(metadata.index);
        out.put_u64(metadata.term);
        put_conf_state(&mut out, metadata.get_conf_state());
        put_bytes(&mut out, &snapshot.data);
    } else {
        out.put_u8(0);
    }
    out.freeze()
}

/// Checks a message's size and version, and gives what follows.
pub(crate) fn open_message(bytes: Bytes) -> Result<Reader, WireError> {
    if MESSAGE_BYTES_MAX < bytes.len() {
        return Err(WireError::TooLarge { len_bytes: bytes.len() });
    }
    let mut reader = Reader::new("a message between nodes", bytes);
    match reader.u8()? {
        MESSAGE_VERSION => Ok(reader),
        found if MESSAGE_VERSION < found => Err(WireError::UnknownVersion { found, known: MESSAGE_VERSION }),
        found => {
            Err(WireError::UnknownValue { what: "version of messages between nodes", value: found.into() })
        }
    }
}

/// Decodes a message of a peer. What raft takes for granted of a message is checked here: entries follow one
/// another from the message's index, in terms that do not fall and are not above the message's.
pub(crate) fn decode_message(bytes: Bytes) -> Result<Message, WireError> {
    let mut reader = open_message(bytes)?;
    let mut message = Message::default();
    message.set_msg_type(message_type(reader.u8()?)?);
    message.to = reader.u64()?;
    message.from = reader.u64()?;
    message.term = reader.u64()?;
    message.log_term = reader.u64()?;
    message.index = reader.u64()?;
    message.commit = reader.u64()?;
    message.commit_term = reader.u64()?;
    message.request_snapshot = reader.u64()?;
    message.reject = reader.bool()?;
    message.reject_hint = reader.u64()?;
    message.priority = reader.u64()?.cast_signed();
    message.context = reader.bytes()?;
    let entry_count = reader.u32()?;
    let mut entries = Vec::new();
    let mut expected = message.index;
    let mut term_min = message.log_term;
    for _ in 0..entry_count {
        let entry = reader.entry()?;
        expected = expected.saturating_add(1);
        if entry.index != expected {
            return Err(WireError::EntryOutOfPlace { found: entry.index, expected });
        }
        if entry.term < term_min || message.term < entry.term {
            return Err(WireError::UnknownValue {
                what: "term of an entry in this message",
                value: entry.term,
            });
        }
        term_min = entry.term;
        entries.push(entry);
    }
    message.set_entries(entries.into());
    if reader.bool()? {
        let (index, term) = (reader.u64()?, reader.u64()?);
        let mut metadata = SnapshotMetadata { index, term, ..SnapshotMetadata::default() };
        metadata.set_conf_state(reader.conf_state()?);
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(metadata);
        snapshot.data = reader.bytes()?;
        message.set_snapshot(snapshot);
    }
    reader.end()?;
    Ok(message)
}

pub(crate) fn put_entry(out: &mut BytesMut, entry: &Entry) {
    out.put_u8(entry_type_code(entry.get_entry_type()));
    out.put_u64(entry.term);
    out.put_u64(entry.index);
    put_bytes(out, &entry.data);
    put_bytes(out, &entry.context);
}

pub(crate) fn put_hard_state(out: &mut BytesMut, hard_state: &HardState) {
    out.put_u64(hard_state.term);
    out.put_u64(hard_state.vote);
    out.put_u64(hard_state.commit);
}

pub(crate) fn put_conf_state(out: &mut BytesMut, state: &ConfState) {
    for list in [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next] {
        put_ids(out, list);
    }
    out.put_u8(u8::from(state.auto_leave));
}

pub(crate) fn put_ids(out: &mut BytesMut, ids: &[u64]) {
    put_len(out, ids.len());
    for id in ids {
        out.put_u64(*id);
    }
}

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.put_slice(bytes);
}

/// Lengths are bounded by `MESSAGE_BYTES_MAX` long before they reach here.
fn put_len(out: &mut BytesMut, len: usize) {
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
}

/// Takes values off the front of some bytes.
pub(crate) struct Reader {
    what: &'static str,
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(what: &'static str, bytes: Bytes) -> Self {
        Self { what, rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, len_bytes: usize) -> Result<Bytes, WireError> {
        if self.rest.len() < len_bytes {
            return Err(WireError::TooShort {
                what: self.what,
                wanted_bytes: len_bytes,
                available_bytes: self.rest.len(),
            });
        }
        Ok(self.rest.split_to(len_bytes))
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], WireError> {
        let mut array = [0; LEN];
        array.copy_from_slice(&self.take(LEN)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn bool(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(WireError::UnknownValue { what: "truth value", value: other.into() }),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, WireError> {
        Ok(u128::from_be_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, WireError> {
        let len_bytes = self.u32()? as usize;
        self.take(len_bytes)
    }

    pub(crate) fn entry(&mut self) -> Result<Entry, WireError> {
        let mut entry = Entry::default();
        entry.set_entry_type(entry_type(self.u8()?)?);
        entry.term = self.u64()?;
        entry.index = self.u64()?;
        entry.data = self.bytes()?;
        entry.context = self.bytes()?;
        Ok(entry)
    }

    pub(crate) fn hard_state(&mut self) -> Result<HardState, WireError> {
        let (term, vote, commit) = (self.u64()?, self.u64()?, self.u64()?);
        Ok(HardState { term, vote, commit, ..HardState::default() })
    }

    pub(crate) fn conf_state(&mut self) -> Result<ConfState, WireError> {
        let state = ConfState {
            voters: self.ids()?,
            learners: self.ids()?,
            voters_outgoing: self.ids()?,
            learners_next: self.ids()?,
            auto_leave: self.bool()?,
            ..ConfState::default()
        };
        check_membership(&state)?;
        Ok(state)
    }

    pub(crate) fn ids(&mut self) -> Result<Vec<u64>, WireError> {
        let count = self.u32()? as usize;
        // All of them at once, so that a hostile count allocates nothing.
        let mut list = self.take(count.saturating_mul(size_of::<u64>()))?;
        let mut ids = Vec::with_capacity(count);
        while !list.is_empty() {
            ids.push(bytes::Buf::get_u64(&mut list));
        }
        Ok(ids)
    }

    pub(crate) fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(WireError::TrailingBytes { what: self.what, count: self.rest.len() })
        }
    }
}

/// Checks what raft takes for granted of a membership, and would panic at. A joint one (Ongaro's thesis, 4.3) has the
/// voters of two configurations; learners that still vote in the outgoing one are staged.
fn check_membership(state: &ConfState) -> Result<(), WireError> {
    let lists = [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next];
    let [voters, learners, outgoing, staged] =
        lists.map(|ids| ids.iter().copied().collect::<BTreeSet<u64>>());
    let sets = [&voters, &learners, &outgoing, &staged];
    let is_joint = !outgoing.is_empty();
    let faults = [
        (voters.is_empty(), "it has no voter"),
        (sets.iter().any(|ids| ids.contains(&0)), "0 is no node's id"),
        (lists.iter().zip(sets).any(|(list, ids)| list.len() != ids.len()), "it names a node twice"),
        (!learners.is_disjoint(&voters) || !learners.is_disjoint(&outgoing), "a node both learns and votes"),
        (!staged.is_disjoint(&voters) || !staged.is_disjoint(&learners), "a node is staged for what it is"),
        (!staged.is_subset(&outgoing), "a node is staged that does not vote"),
        (state.auto_leave && !is_joint, "it is to leave a configuration and has none"),
    ];
    match faults.into_iter().find(|(is_so, _)| *is_so) {
        Some((_, reason)) => Err(WireError::ImpossibleMembership { reason }),
        None => Ok(()),
    }
}

const fn entry_type_code(entry_type: EntryType) -> u8 {
    match entry_type {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}

fn entry_type(code: u8) -> Result<EntryType, WireError> {
    match code {
        0 => Ok(EntryType::EntryNormal),
        1 => Ok(EntryType::EntryConfChange),
        2 => Ok(EntryType::EntryConfChangeV2),
        other => Err(WireError::UnknownValue { what: "type of entry", value: other.into() }),
    }
}

/// The types that travel between nodes, by Raft's own numbers. The others never leave their node: proposals and
/// reads are not forwarded by raft, which would not know their fate, but in frames of our own.
const MESSAGE_TYPES: [(MessageType, u8); 11] = [
    (MessageType::MsgAppend, 3),
    (MessageType::MsgAppendResponse, 4),
    (MessageType::MsgRequestVote, 5),
    (MessageType::MsgRequestVoteResponse, 6),
    (MessageType::MsgSnapshot, 7),
    (MessageType::MsgHeartbeat, 8),
    (MessageType::MsgHeartbeatResponse, 9),
    (MessageType::MsgTransferLeader, 13),
    (MessageType::MsgTimeoutNow, 14),
    (MessageType::MsgRequestPreVote, 17),
    (MessageType::MsgRequestPreVoteResponse, 18),
];

/// A code that no message has, for those that must not be sent.
const NO_MESSAGE_TYPE: u8 = 0xff;

fn message_type_code(message_type: MessageType) -> u8 {
    let found = MESSAGE_TYPES.iter().find(|(known, _)| *known == message_type);
    found.map_or(NO_MESSAGE_TYPE, |(_, code)| *code)
}

fn message_type(code: u8) -> Result<MessageType, WireError> {
    let found = MESSAGE_TYPES.iter().find(|(_, known)| *known == code);
    found
        .map(|(message_type, _)| *message_type)
        .ok_or(WireError::UnknownValue { what: "type of Raft message between nodes", value: code.into() })
}

/// Whether a message may go to another node.
pub(crate) fn travels(message: &Message) -> bool {
    message_type_code(message.get_msg_type()) != NO_MESSAGE_TYPE
}

#[cfg(test)]
mod tests {
    #![expect(clippy::field_reassign_with_default, reason = "the messages are filled in field by field")]

    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        let mut entry = Entry::default();
        entry.index = index;
        entry.term = term;
        entry.data = Bytes::from(vec![7; usize::try_from(index).unwrap()]);
        entry.context = Bytes::from_static(b"context");
        entry
    }

    fn messages() -> Vec<Message> {
        let mut found = Vec::new();
        for (number, (message_type, _)) in MESSAGE_TYPES.into_iter().enumerate() {
            let number = number as u64;
            let mut message = Message::default();
            message.set_msg_type(message_type);
            message.to = number + 1;
            message.from = number + 2;
            message.term = 40;
            message.log_term = 3;
            message.index = 8;
            message.commit = number + 6;
            message.commit_term = number + 7;
            message.request_snapshot = number + 8;
            message.reject = number.is_multiple_of(2);
            message.reject_hint = number + 9;
            message.priority = -1;
            message.context = Bytes::from_static(b"CampaignTransfer");
            if message_type == MessageType::MsgAppend {
                let mut change = entry(11, 5);
                change.set_entry_type(EntryType::EntryConfChangeV2);
                message.set_entries(vec![entry(9, 3), entry(10, 4), change].into());
            }
            if message_type == MessageType::MsgSnapshot {
                let mut state = ConfState::default();
                state.voters = vec![1, 2, 3];
                state.learners = vec![4];
                state.voters_outgoing = vec![1, 9, u64::MAX];
                state.learners_next = vec![9, u64::MAX];
                state.auto_leave = true;
                let mut metadata = SnapshotMetadata::default();
                metadata.index = 77;
                metadata.term = 12;
                metadata.set_conf_state(state);
                let mut snapshot = Snapshot::default();
                snapshot.set_metadata(metadata);
                snapshot.data = Bytes::from_static(b"the image");
                message.set_snapshot(snapshot);
            }
            found.push(message);
        }
        found
    }

    #[test]
    fn messages_go_there_and_back() {
        for message in messages() {
            assert_eq!(decode_message(encode_message(&message)), Ok(message));
        }
    }

    #[test]
    fn cut_and_changed_messages_never_panic() {
        for message in messages() {
            let encoded = encode_message(&message);
            for len in 0..encoded.len() {
                assert!(decode_message(encoded.slice(..len)).is_err(), "{len} bytes of {message:?}");
            }
            for position in 0..encoded.len() {
                for mask in [1, 0x80, 0xff] {
                    let mut changed = encoded.to_vec();
                    changed[position] ^= mask;
                    // Most are other valid messages; what matters is that each gives an answer.
                    drop(decode_message(changed.into()));
                }
            }
            let mut longer = encoded.to_vec();
            longer.push(0);
            assert!(matches!(decode_message(longer.into()), Err(WireError::TrailingBytes { .. })));
        }
    }

    /// raft ends its process over each of them.
    #[test]
    fn a_snapshot_with_an_impossible_membership_is_refused() {
        let good = ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
        let joint = ConfState {
            voters_outgoing: vec![1, 5],
            learners_next: vec![5],
            auto_leave: true,
            ..good.clone()
        };
        let decoded = |state: &ConfState| {
            let mut message = Message::default();
            message.set_msg_type(MessageType::MsgSnapshot);
            let mut metadata = SnapshotMetadata::default();
            metadata.set_conf_state(state.clone());
            let mut snapshot = Snapshot::default();
            snapshot.set_metadata(metadata);
            message.set_snapshot(snapshot);
            decode_message(encode_message(&message)).map(|_| ())
        };
        assert_eq!(decoded(&good), Ok(()));
        assert_eq!(decoded(&joint), Ok(()));
        for (wrong, reason) in [
            (ConfState { voters: Vec::new(), ..good.clone() }, "it has no voter"),
            (ConfState { voters: vec![0, 1], ..good.clone() }, "0 is no node's id"),
            (ConfState { voters: vec![1, 2, 1], ..good.clone() }, "it names a node twice"),
            (ConfState { learners: vec![3], ..good.clone() }, "a node both learns and votes"),
            (ConfState { learners: vec![5], ..joint.clone() }, "a node both learns and votes"),
            (ConfState { learners_next: vec![1], ..joint.clone() }, "a node is staged for what it is"),
            (ConfState { learners_next: vec![6], ..joint.clone() }, "a node is staged that does not vote"),
            (ConfState { auto_leave: true, ..good.clone() }, "it is to leave a configuration and has none"),
        ] {
            assert_eq!(decoded(&wrong), Err(WireError::ImpossibleMembership { reason }), "{wrong:?}");
        }
    }

    #[test]
    fn entries_must_follow_one_another() {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        message.term = 5;
        message.log_term = 2;
        message.index = 8;
        message.set_entries(vec![entry(9, 2), entry(11, 3)].into());
        let error = decode_message(encode_message(&message)).unwrap_err();
        assert_eq!(error, WireError::EntryOutOfPlace { found: 11, expected: 10 });
        for terms in [[2, 6], [3, 2], [1, 2]] {
            message.set_entries(vec![entry(9, terms[0]), entry(10, terms[1])].into());
            let error = decode_message(encode_message(&message)).unwrap_err();
            assert!(matches!(error, WireError::UnknownValue { .. }), "{terms:?}");
        }
    }

    #[test]
    fn local_messages_do_not_travel() {
        for local in [MessageType::MsgHup, MessageType::MsgPropose, MessageType::MsgReadIndex] {
            let mut message = Message::default();
            message.set_msg_type(local);
            assert!(!travels(&message));
            assert!(decode_message(encode_message(&message)).is_err());
        }
    }
}
