//! The Produce request, versions 3 to 13, read where it lies.

use bytes::{Buf, BytesMut};
use chronik_types::PartitionIndex;

use super::cursor::Cursor;
use crate::api::ApiKey;
use crate::frame::{FrameError, RequestHeader};
use crate::messages::{self, Message};
use crate::topic_ref::{TOPIC_ID_VERSION, TopicRef};
use crate::wire::{ARRAY_PREALLOCATED_COUNT_MAX, DecodeError};

/// A Produce request.
#[derive(Debug, Default, PartialEq)]
pub struct ProduceRequest {
    /// Who the producer is across its restarts; `None` outside transactions.
    pub transactional_id: Option<String>,
    /// Who must have the records before the answer: 0 nobody, 1 the leader, −1 all in-sync replicas. The broker
    /// refuses other numbers.
    pub acks: i16,
    /// How long the answer may wait for `acks`, in milliseconds.
    pub timeout_ms: i32,
    /// The topics.
    pub topics: Vec<ProduceTopic>,
}

/// One topic of a Produce request.
#[derive(Debug, PartialEq)]
pub struct ProduceTopic {
    /// The topic.
    pub topic: TopicRef,
    /// What goes to its partitions.
    pub partitions: Vec<ProducePartition>,
}

/// What goes to one partition.
#[derive(Debug, PartialEq)]
pub struct ProducePartition {
    /// The partition.
    pub index: PartitionIndex,
    /// The record data, which nobody has looked at. It is a part of the request's frame, which lives as long as the
    /// longest-lived of its parts, and it is exclusive: offset and leader epoch are stamped where it lies.
    pub records: Option<BytesMut>,
}

/// Where record data lies in the body.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    end: usize,
}

/// The memory of one partition while it is parsed.
const PARTITION_BYTES: usize = size_of::<ProducePartition>() + size_of::<Option<Span>>();

impl ProduceRequest {
    /// Reads a whole frame, header and body, without the four bytes of its length.
    ///
    /// A frame of another API is [`FrameError::UnknownApi`].
    pub fn parse_frame(mut frame: BytesMut) -> Result<(RequestHeader, Self), FrameError> {
        let (header, header_bytes) = parse_header(&frame)?;
        let version = header.api_version;
        frame.advance(header_bytes);
        let name = <messages::ProduceRequest as Message>::NAME;
        let request =
            Self::parse(frame, version).map_err(|source| FrameError::Body { name, version, source })?;
        Ok((header, request))
    }

    /// Reads the body of a request, which is all of `body`.
    pub fn parse(mut body: BytesMut, version: i16) -> Result<Self, DecodeError> {
        let (mut request, spans) = parse_body(&body, version)?;
        let partitions = request.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        let mut passed = 0_usize;
        for (partition, span) in partitions.zip(spans) {
            let Some(Span { start, end }) = span else { continue };
            // The spans were found in this order and inside the body, so neither step can run over its end.
            body.advance(start.saturating_sub(passed));
            partition.records = Some(body.split_to(end.saturating_sub(start)));
            passed = end;
        }
        Ok(request)
    }
}

/// The header and its length.
fn parse_header(frame: &[u8]) -> Result<(RequestHeader, usize), FrameError> {
    let mut cursor = Cursor::new(frame);
    let key = cursor.i16().map_err(FrameError::Header)?;
    let api_version = cursor.i16().map_err(FrameError::Header)?;
    let correlation_id = cursor.i32().map_err(FrameError::Header)?;
    let api_key = ApiKey::Produce;
    if key != api_key.key() {
        return Err(FrameError::UnknownApi { api_key: key, api_version, correlation_id });
    }
    if !messages::ProduceRequest::has_version(api_version) {
        return Err(FrameError::UnknownVersion { api_key, api_version, correlation_id });
    }
    // The client id keeps its two-byte length in the flexible header too (KIP-482).
    let client_id = cursor.string_opt(false).map_err(FrameError::Header)?;
    if messages::ProduceRequest::is_flexible(api_version) {
        cursor.skip_tags().map_err(FrameError::Header)?;
    }
    Ok((RequestHeader { api_key, api_version, correlation_id, client_id }, cursor.position()))
}

/// Everything but the record data, and for each partition, in order, where that lies.
fn parse_body(body: &[u8], version: i16) -> Result<(ProduceRequest, Vec<Option<Span>>), DecodeError> {
    if !messages::ProduceRequest::has_version(version) {
        return Err(DecodeError::Version { message: <messages::ProduceRequest as Message>::NAME, version });
    }
    let flexible = messages::ProduceRequest::is_flexible(version);
    let mut cursor = Cursor::new(body);
    let mut request = ProduceRequest {
        transactional_id: cursor.string_opt(flexible)?,
        acks: cursor.i16()?,
        timeout_ms: cursor.i32()?,
        topics: Vec::new(),
    };
    let mut spans = Vec::new();
    let topic_bytes_min = match (version >= TOPIC_ID_VERSION, flexible) {
        (true, _) => 18,
        (false, true) => 3,
        (false, false) => 6,
    };
    let topic_count = cursor.array_count(flexible, topic_bytes_min, size_of::<ProduceTopic>())?;
    request.topics.reserve_exact(topic_count.min(ARRAY_PREALLOCATED_COUNT_MAX));
    for _ in 0..topic_count {
        request.topics.push(parse_topic(&mut cursor, version, flexible, &mut spans)?);
    }
    if flexible {
        cursor.skip_tags()?;
    }
    cursor.finish()?;
    Ok((request, spans))
}

fn parse_topic(
    cursor: &mut Cursor<'_>,
    version: i16,
    flexible: bool,
    spans: &mut Vec<Option<Span>>,
) -> Result<ProduceTopic, DecodeError> {
    let topic = if version >= TOPIC_ID_VERSION {
        TopicRef::Id(cursor.uuid()?)
    } else {
        TopicRef::Name(cursor.string(flexible)?)
    };
    let count = cursor.array_count(flexible, if flexible { 6 } else { 8 }, PARTITION_BYTES)?;
    let mut partitions = Vec::with_capacity(count.min(ARRAY_PREALLOCATED_COUNT_MAX));
    for _ in 0..count {
        let index = PartitionIndex(cursor.i32()?);
        let span = cursor.skip_bytes_opt(flexible)?.map(|length| {
            let end = cursor.position();
            Span { start: end.saturating_sub(length), end }
        });
        if flexible {
            cursor.skip_tags()?;
        }
        spans.push(span);
        partitions.push(ProducePartition { index, records: None });
    }
    if flexible {
        cursor.skip_tags()?;
    }
    Ok(ProduceTopic { topic, partitions })
}
