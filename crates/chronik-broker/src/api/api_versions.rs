//! ApiVersions (key 18, versions 0–4): what this broker offers (KIP-35, KIP-511).
//!
//! A request of a version that is not offered is answered in version 0 with `UNSUPPORTED_VERSION` and the range of
//! this API alone, so that a newer client can ask again in a version that both speak.

use bytes::Bytes;
use chronik_protocol::api::ApiKey;
use chronik_protocol::frame;
use chronik_protocol::messages::api_versions_response::ApiVersion;
use chronik_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use chronik_types::ErrorCode;

use crate::context::RequestContext;
use crate::reply::{Reply, Responder, Response};

use super::{OFFERS, Offer};

pub(super) fn handle(context: RequestContext, body: &Bytes) {
    let Some((context, request)) = context.decode::<ApiVersionsRequest>(body) else { return };
    let mut response = ApiVersionsResponse::default();
    if context.version() >= 3
        && !(is_software_word(&request.client_software_name)
            && is_software_word(&request.client_software_version))
    {
        response.error_code = ErrorCode::InvalidRequest.code();
        context.reply(&response);
        return;
    }
    if context.version() >= 3 {
        // A client says this once for each connection; what it says later changes nothing.
        let software = (request.client_software_name, request.client_software_version);
        context.connection.client_software.get_or_init(|| software);
    }
    response.api_keys = OFFERS.iter().copied().map(entry).collect();
    context.reply(&response);
}

/// Answers a request whose version is unknown.
pub(super) fn refuse_version(correlation_id: i32, responder: Responder) {
    let mut response =
        ApiVersionsResponse { error_code: ErrorCode::UnsupportedVersion.code(), ..Default::default() };
    response.api_keys =
        OFFERS.iter().filter(|offer| offer.api_key == ApiKey::ApiVersions).copied().map(entry).collect();
    match frame::encode_response(correlation_id, &response, 0) {
        Ok(bytes) => responder(Reply::Response(Response::from(bytes))),
        Err(error) => responder(Reply::Close(error.to_string())),
    }
}

fn entry(offer: Offer) -> ApiVersion {
    ApiVersion {
        api_key: offer.api_key.key(),
        min_version: offer.min_version,
        max_version: offer.max_version,
    }
}

/// Kafka's rule for a name or version of software: letters and digits at both ends, dots and dashes between.
fn is_software_word(word: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    word.bytes().all(is_inner) && is_end(word.bytes().next()) && is_end(word.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_words_follow_kafkas_pattern() {
        for good in ["a", "apache-kafka-java", "4.3.1", "a-b.c"] {
            assert!(is_software_word(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", ".", "é"] {
            assert!(!is_software_word(bad), "{bad}");
        }
    }
}
