//! Frames: a length, a header, a message.
//!
//! On the wire every request and response has its length before it, four bytes that do not count themselves. The
//! functions that decode take a frame without them; those that encode put them in.

use bytes::Bytes;

use crate::api::{ApiKey, ApiVersions};
use crate::messages::{self, Message};
use crate::wire::{DecodeError, EncodeError, Reader, Writer};

/// The bytes of the length before each frame.
pub const FRAME_LENGTH_BYTES: usize = 4;

/// The header of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API.
    pub api_key: ApiKey,
    /// The version of the request, and of its answer.
    pub api_version: i16,
    /// What the client matches the answer by.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<String>,
}

/// Why a frame is not a request, a response, or cannot become one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No such API. The connection cannot go on: nobody knows what an answer would look like.
    #[error("the request {correlation_id} has the API key {api_key}, which does not exist")]
    UnknownApi {
        /// The key.
        api_key: i16,
        /// The version.
        api_version: i16,
        /// The correlation id, which stands at the same place in every header.
        correlation_id: i32,
    },
    /// An API that exists, at a version that does not. For `ApiVersions` the client expects an answer of version 0
    /// with `UNSUPPORTED_VERSION`; for all others the connection cannot go on.
    #[error("the request {correlation_id} is {api_key} version {api_version}, which does not exist")]
    UnknownVersion {
        /// The API.
        api_key: ApiKey,
        /// The version.
        api_version: i16,
        /// The correlation id.
        correlation_id: i32,
    },
    /// The header is malformed.
    #[error("the header cannot be decoded")]
    Header(#[source] DecodeError),
    /// The body is malformed.
    #[error("{name} version {version} cannot be decoded")]
    Body {
        /// The message.
        name: &'static str,
        /// Its version.
        version: i16,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
    /// The message cannot be written.
    #[error("{name} version {version} cannot be encoded")]
    Encode {
        /// The message.
        name: &'static str,
        /// Its version.
        version: i16,
        /// What is wrong.
        #[source]
        source: EncodeError,
    },
}

impl RequestHeader {
    /// Reads the header (version 1 or 2, whichever the request's version asks for) and leaves the reader before
    /// the body.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        let mut header = messages::RequestHeader {
            request_api_key: reader.i16().map_err(FrameError::Header)?,
            request_api_version: reader.i16().map_err(FrameError::Header)?,
            correlation_id: reader.i32().map_err(FrameError::Header)?,
            client_id: None,
        };
        // Key, version and correlation id stand first in every version of the header, so that an unknown API can
        // be told from a malformed frame.
        let (api_version, correlation_id) = (header.request_api_version, header.correlation_id);
        let api_key = ApiKey::from_key(header.request_api_key).ok_or(FrameError::UnknownApi {
            api_key: header.request_api_key,
            api_version,
            correlation_id,
        })?;
        let versions = api_key
            .versions()
            .filter(|versions| versions.contains(api_version))
            .ok_or(FrameError::UnknownVersion { api_key, api_version, correlation_id })?;
        // The client id keeps its two-byte length in version 2 as well (KIP-482). Kafka lets clients call themselves
        // by bytes that are not UTF-8, and so do we: the name serves logs and quotas alone.
        header.client_id = reader.string_lossy_opt(false, true).map_err(FrameError::Header)?;
        if versions.is_flexible(api_version) {
            reader.skip_tags().map_err(FrameError::Header)?;
        }
        Ok(Self { api_key, api_version, correlation_id, client_id: header.client_id })
    }

    /// The versions of the API that the codec speaks.
    ///
    /// `None` for an API that the codec leaves out, which a decoded header never has.
    pub fn versions(&self) -> Option<ApiVersions> {
        self.api_key.versions()
    }
}

/// Reads the body of a request that belongs to `header`. Bytes after it are left in the reader: Kafka ignores them,
/// and so some client may get away with sending them. [`Reader::finish`] makes them an error.
pub fn decode_request<M: Message>(reader: &mut Reader<'_>, header: &RequestHeader) -> Result<M, FrameError> {
    decode_body(reader, header.api_version)
}

fn decode_body<M: Message>(reader: &mut Reader<'_>, version: i16) -> Result<M, FrameError> {
    M::decode(reader, version).map_err(|source| FrameError::Body { name: M::NAME, version, source })
}

/// Writes a request with its length, for clients: tests, and one broker to another.
pub fn encode_request<M: Message>(
    correlation_id: i32,
    client_id: Option<&str>,
    body: &M,
    version: i16,
) -> Result<Bytes, FrameError> {
    let header = messages::RequestHeader {
        request_api_key: M::API_KEY,
        request_api_version: version,
        correlation_id,
        client_id: client_id.map(str::to_owned),
    };
    let header_version = if M::is_flexible(version) { 2 } else { 1 };
    encode_frame(&header, header_version, body, version)
}

/// Writes a response with its length.
pub fn encode_response<M: Message>(correlation_id: i32, body: &M, version: i16) -> Result<Bytes, FrameError> {
    encode_frame(
        &messages::ResponseHeader { correlation_id },
        response_header_version::<M>(version),
        body,
        version,
    )
}

/// Writes the answer to the request with that header, nearly always in the version of the request.
pub fn encode_response_frame<M: Message>(
    header: &RequestHeader,
    body: &M,
    version: i16,
) -> Result<Bytes, FrameError> {
    encode_response(header.correlation_id, body, version)
}

/// Reads a response whose API and version the caller remembers; gives its correlation id and body. Bytes after the
/// body are an error.
pub fn decode_response<M: Message>(frame: &Bytes, version: i16) -> Result<(i32, M), FrameError> {
    let mut reader = Reader::new(frame);
    let header_version = response_header_version::<M>(version);
    let header = messages::ResponseHeader::decode(&mut reader, header_version).map_err(FrameError::Header)?;
    let body = decode_body(&mut reader, version)?;
    reader.finish().map_err(|source| FrameError::Body { name: M::NAME, version, source })?;
    Ok((header.correlation_id, body))
}

/// `ApiVersions` is answered under header version 0 always (KIP-511), all others under what their version asks for.
fn response_header_version<M: Message>(version: i16) -> i16 {
    i16::from(M::is_flexible(version) && M::API_KEY != ApiKey::ApiVersions.key())
}

fn encode_frame<H: Message, M: Message>(
    header: &H,
    header_version: i16,
    body: &M,
    version: i16,
) -> Result<Bytes, FrameError> {
    let mut writer = Writer::new();
    writer.i32(0);
    let written = header.encode(&mut writer, header_version).and_then(|()| body.encode(&mut writer, version));
    written.map_err(|source| FrameError::Encode { name: M::NAME, version, source })?;
    let length = writer.len().saturating_sub(FRAME_LENGTH_BYTES);
    let length = i32::try_from(length).map_err(|_| FrameError::Encode {
        name: M::NAME,
        version,
        source: EncodeError::TooLong { field: "frame", length, length_max: 0x7fff_ffff },
    })?;
    writer.patch_i32(0, length);
    Ok(writer.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{
        ApiVersionsRequest, ApiVersionsResponse, HeartbeatRequest, HeartbeatResponse, MetadataRequest,
        MetadataResponse,
    };

    fn body_of(frame: &Bytes) -> Bytes {
        let length = i32::from_be_bytes(*frame.first_chunk().expect("four bytes"));
        assert_eq!(usize::try_from(length).ok(), frame.len().checked_sub(4));
        frame.slice(4..)
    }

    #[test]
    fn requests_go_there_and_back() {
        for version in MetadataRequest::MIN_VERSION..=MetadataRequest::MAX_VERSION {
            let request = MetadataRequest::default();
            let frame = encode_request(7, Some("client"), &request, version).expect("encodes");
            let body = body_of(&frame);
            let mut reader = Reader::new(&body);
            let header = RequestHeader::decode(&mut reader).expect("a header");
            assert_eq!(
                header,
                RequestHeader {
                    api_key: ApiKey::Metadata,
                    api_version: version,
                    correlation_id: 7,
                    client_id: Some("client".into())
                }
            );
            assert_eq!(decode_request::<MetadataRequest>(&mut reader, &header), Ok(request));
        }
    }

    #[test]
    fn responses_go_there_and_back() {
        for version in MetadataResponse::MIN_VERSION..=MetadataResponse::MAX_VERSION {
            let response = MetadataResponse { controller_id: 3, ..MetadataResponse::default() };
            let expected =
                MetadataResponse { controller_id: if version == 0 { -1 } else { 3 }, ..response.clone() };
            let frame = encode_response(9, &response, version).expect("encodes");
            assert_eq!(decode_response(&body_of(&frame), version), Ok((9, expected)));
        }
    }

    #[test]
    fn the_answer_about_versions_has_the_oldest_header() {
        let response = ApiVersionsResponse::default();
        let old = encode_response(1, &response, 0).expect("encodes");
        assert_eq!(old.as_ref(), [0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        let flexible = encode_response(1, &response, 3).expect("encodes");
        assert_eq!(flexible.as_ref(), [0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]);
        let request = encode_request(1, None, &ApiVersionsRequest::default(), 3).expect("encodes");
        assert_eq!(request.as_ref(), [0, 0, 0, 14, 0, 18, 0, 3, 0, 0, 0, 1, 255, 255, 0, 1, 1, 0]);
    }

    #[test]
    fn unknown_is_told_from_malformed() {
        let header = |bytes: &[u8]| RequestHeader::decode(&mut Reader::new(&Bytes::copy_from_slice(bytes)));
        assert_eq!(
            header(&[0, 99, 0, 1, 0, 0, 0, 5]),
            Err(FrameError::UnknownApi { api_key: 99, api_version: 1, correlation_id: 5 })
        );
        assert_eq!(
            header(&[0, 18, 0, 9, 0, 0, 0, 5]),
            Err(FrameError::UnknownVersion {
                api_key: ApiKey::ApiVersions,
                api_version: 9,
                correlation_id: 5
            })
        );
        assert_eq!(
            header(&[0, 7, 0, 0, 0, 0, 0, 5]),
            Err(FrameError::UnknownApi { api_key: 7, api_version: 0, correlation_id: 5 })
        );
        assert!(matches!(header(&[0, 18, 0, 3, 0, 0]), Err(FrameError::Header(_))));
        assert!(matches!(header(&[0, 18, 0, 3, 0, 0, 0, 5, 0, 4, b'a']), Err(FrameError::Header(_))));
    }

    #[test]
    fn bytes_after_a_request_are_left_to_the_caller() {
        let frame = encode_request(1, None, &HeartbeatRequest::default(), 4).expect("encodes");
        let mut longer = body_of(&frame).to_vec();
        longer.push(0);
        let longer = Bytes::from(longer);
        let mut reader = Reader::new(&longer);
        let header = RequestHeader::decode(&mut reader).expect("a header");
        assert_eq!(decode_request(&mut reader, &header), Ok(HeartbeatRequest::default()));
        assert_eq!(reader.finish(), Err(DecodeError::Trailing { remaining_bytes: 1 }));
    }

    #[test]
    fn bytes_after_a_response_are_refused() {
        let frame = encode_response(1, &HeartbeatResponse::default(), 4).expect("encodes");
        let mut longer = body_of(&frame).to_vec();
        longer.push(0);
        let source = DecodeError::Trailing { remaining_bytes: 1 };
        assert_eq!(
            decode_response::<HeartbeatResponse>(&Bytes::from(longer), 4),
            Err(FrameError::Body { name: "HeartbeatResponse", version: 4, source })
        );
    }

    #[test]
    fn a_client_may_call_itself_anything() {
        let frame = Bytes::from_static(&[0, 12, 0, 0, 0, 0, 0, 5, 0, 2, b'a', 0xff]);
        let header = RequestHeader::decode(&mut Reader::new(&frame)).expect("a header");
        assert_eq!(header.client_id.as_deref(), Some("a\u{fffd}"));
    }

    #[test]
    fn every_cut_and_every_changed_byte_of_a_header_is_survived() {
        let frame = encode_request(7, Some("client"), &MetadataRequest::default(), 13).expect("encodes");
        let frame = body_of(&frame);
        // Key, version, correlation id and client id with its length, then the tagged fields.
        let header_bytes = 2 + 2 + 4 + 2 + 6 + 1;
        for end in 0..header_bytes {
            let cut = frame.slice(..end);
            assert!(RequestHeader::decode(&mut Reader::new(&cut)).is_err(), "cut at {end}");
        }
        for position in 0..header_bytes {
            for byte in 0..=u8::MAX {
                let mut changed = frame.to_vec();
                if let Some(place) = changed.get_mut(position) {
                    *place = byte;
                }
                let changed = Bytes::from(changed);
                if let Ok(header) = RequestHeader::decode(&mut Reader::new(&changed)) {
                    let versions =
                        header.versions().expect("a decoded header has an API that the codec speaks");
                    assert!(versions.contains(header.api_version), "{header:?}");
                }
            }
        }
    }
}
