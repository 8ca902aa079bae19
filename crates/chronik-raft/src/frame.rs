//! What one node sends to another: Raft's own messages, and those by which a node reaches the leader.
//!
//! Every frame begins with a version and a kind. Kinds below 64 are Raft's message types, which [`wire`] knows;
//! the others are here. Integers are big-endian.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use bytes::{BufMut, Bytes, BytesMut};
use raft::eraftpb::Message;

use crate::wire::{self, MESSAGE_VERSION, Reader, WireError};

const KIND_FORWARD: u8 = 64;
const KIND_FORWARD_REPLY: u8 = 65;
const KIND_BARRIER: u8 = 66;
const KIND_BARRIER_REPLY: u8 = 67;
const KIND_HEARTBEAT: u8 = 68;

/// The most that is kept of the words in which a leader refuses a proposal.
const REASON_BYTES_MAX: usize = 1024;

/// A frame with its sender and receiver, by their raft ids.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame {
    pub(crate) to: u64,
    pub(crate) from: u64,
    pub(crate) body: Body,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    /// A message of Raft.
    Raft(Box<Message>),
    /// A proposal for the leader: an encoded batch, which holds the id of the request.
    Forward { batch: Bytes },
    /// What the leader did with it. What the batch gives is seen by each node as it applies it.
    ForwardReply { incarnation: u64, sequence: u64, verdict: Verdict },
    /// Asks the leader how far the log is committed, by the word of a majority.
    Barrier { incarnation: u64, round: u64 },
    /// The answer to that.
    BarrierReply { incarnation: u64, round: u64, index: u64 },
    /// The broker on this node lives.
    Heartbeat { broker_epoch: i64, incarnation: u128, applied_index: u64 },
}

/// What became of a forwarded proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in the leader's log, or was applied long ago.
    Taken { term: u64 },
    /// Not now; another attempt may succeed, here or at another node.
    NotNow,
    /// Never.
    Unacceptable { reason: String },
}

impl Frame {
    /// A message of Raft.
    pub(crate) fn raft(message: Message) -> Self {
        Self { to: message.to, from: message.from, body: Body::Raft(Box::new(message)) }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        match &self.body {
            Body::Raft(message) => return wire::encode_message(message),
            Body::Forward { batch } => {
                self.put_head(&mut out, KIND_FORWARD);
                wire::put_bytes(&mut out, batch);
            }
            Body::ForwardReply { incarnation, sequence, verdict } => {
                self.put_head(&mut out, KIND_FORWARD_REPLY);
                out.put_u64(*incarnation);
                out.put_u64(*sequence);
                match verdict {
                    Verdict::Taken { term } => {
                        out.put_u8(0);
                        out.put_u64(*term);
                    }
                    Verdict::NotNow => out.put_u8(1),
                    Verdict::Unacceptable { reason } => {
                        out.put_u8(2);
                        let reason = reason.as_bytes();
                        wire::put_bytes(&mut out, reason.get(..REASON_BYTES_MAX).unwrap_or(reason));
                    }
                }
            }
            Body::Barrier { incarnation, round } => {
                self.put_head(&mut out, KIND_BARRIER);
                out.put_u64(*incarnation);
                out.put_u64(*round);
            }
            Body::BarrierReply { incarnation, round, index } => {
                self.put_head(&mut out, KIND_BARRIER_REPLY);
                out.put_u64(*incarnation);
                out.put_u64(*round);
                out.put_u64(*index);
            }
            Body::Heartbeat { broker_epoch, incarnation, applied_index } => {
                self.put_head(&mut out, KIND_HEARTBEAT);
                out.put_i64(*broker_epoch);
                out.put_u128(*incarnation);
                out.put_u64(*applied_index);
            }
        }
        out.freeze()
    }

    fn put_head(&self, out: &mut BytesMut, kind: u8) {
        out.put_u8(MESSAGE_VERSION);
        out.put_u8(kind);
        out.put_u64(self.to);
        out.put_u64(self.from);
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, WireError> {
        if bytes.get(1).is_none_or(|kind| *kind < KIND_FORWARD || KIND_HEARTBEAT < *kind) {
            return wire::decode_message(bytes).map(Self::raft);
        }
        let mut reader = wire::open_message(bytes)?;
        let kind = reader.u8()?;
        let (to, from) = (reader.u64()?, reader.u64()?);
        let body = match kind {
            KIND_FORWARD => Body::Forward { batch: reader.bytes()? },
            KIND_FORWARD_REPLY => Body::ForwardReply {
                incarnation: reader.u64()?,
                sequence: reader.u64()?,
                verdict: verdict(&mut reader)?,
            },
            KIND_BARRIER => Body::Barrier { incarnation: reader.u64()?, round: reader.u64()? },
            KIND_BARRIER_REPLY => {
                Body::BarrierReply { incarnation: reader.u64()?, round: reader.u64()?, index: reader.u64()? }
            }
            _ => Body::Heartbeat {
                broker_epoch: reader.u64()?.cast_signed(),
                incarnation: reader.u128()?,
                applied_index: reader.u64()?,
            },
        };
        reader.end()?;
        Ok(Self { to, from, body })
    }
}

fn verdict(reader: &mut Reader) -> Result<Verdict, WireError> {
    match reader.u8()? {
        0 => Ok(Verdict::Taken { term: reader.u64()? }),
        1 => Ok(Verdict::NotNow),
        2 => {
            let reason = reader.bytes()?;
            let reason = reason.get(..REASON_BYTES_MAX).unwrap_or(&reason);
            Ok(Verdict::Unacceptable { reason: String::from_utf8_lossy(reason).into_owned() })
        }
        other => {
            Err(WireError::UnknownValue { what: "verdict on a forwarded proposal", value: other.into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::MessageType;

    use super::*;

    fn frames() -> Vec<Frame> {
        let verdicts = [
            Verdict::Taken { term: 7 },
            Verdict::NotNow,
            Verdict::Unacceptable { reason: "too large".to_owned() },
        ];
        let mut bodies: Vec<Body> = verdicts
            .into_iter()
            .map(|verdict| Body::ForwardReply { incarnation: u64::MAX, sequence: 3, verdict })
            .collect();
        bodies.push(Body::Forward { batch: Bytes::from_static(b"a batch") });
        bodies.push(Body::Barrier { incarnation: 1, round: 2 });
        bodies.push(Body::BarrierReply { incarnation: 1, round: 2, index: 3 });
        bodies.push(Body::Heartbeat { broker_epoch: -1, incarnation: u128::MAX - 1, applied_index: 9 });
        let mut found: Vec<Frame> = bodies.into_iter().map(|body| Frame { to: 1, from: 2, body }).collect();
        let mut message = Message { to: 1, from: 2, term: 4, ..Message::default() };
        message.set_msg_type(MessageType::MsgHeartbeat);
        found.push(Frame::raft(message));
        found
    }

    #[test]
    fn frames_go_there_and_back() {
        for frame in frames() {
            assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn cut_and_changed_frames_never_panic() {
        for frame in frames() {
            let encoded = frame.encode();
            for len in 0..encoded.len() {
                assert!(Frame::decode(encoded.slice(..len)).is_err(), "{len} bytes of {frame:?}");
            }
            for position in 0..encoded.len() {
                let mut changed = encoded.to_vec();
                changed[position] ^= 0xff;
                // Most are other valid frames; what matters is that each gives an answer.
                drop(Frame::decode(changed.into()));
            }
            let mut longer = encoded.to_vec();
            longer.push(0);
            assert!(matches!(Frame::decode(longer.into()), Err(WireError::TrailingBytes { .. })));
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        for frame in frames() {
            let mut encoded = frame.encode().to_vec();
            encoded[0] = 9;
            let error = Frame::decode(encoded.into()).unwrap_err();
            assert_eq!(error, WireError::UnknownVersion { found: 9, known: MESSAGE_VERSION });
            assert!(error.to_string().contains("version 9") && error.to_string().contains("upgrade"));
        }
    }

    #[test]
    fn the_words_of_a_refusal_are_bounded() {
        let verdict = Verdict::Unacceptable { reason: "é".repeat(2000) };
        let body = Body::ForwardReply { incarnation: 1, sequence: 1, verdict };
        let decoded = Frame::decode(Frame { to: 1, from: 2, body }.encode()).unwrap();
        let Body::ForwardReply { verdict: Verdict::Unacceptable { reason }, .. } = decoded.body else {
            panic!("{decoded:?}")
        };
        assert_eq!(reason.len(), REASON_BYTES_MAX);
    }
}
