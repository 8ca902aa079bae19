//! One request on its way through the broker.

use std::sync::Arc;

use bytes::Bytes;
use chronik_protocol::api::ApiKey;
use chronik_protocol::frame::{self, RequestHeader};
use chronik_protocol::messages::Message;
use chronik_types::Now;

use crate::connection::Connection;
use crate::reply::{Reply, Responder, Response};

/// What a handler knows of its request beside the body, and how it answers.
///
/// A context is answered once, by value; one that is dropped closes the connection, so that a client never waits
/// for an answer that does not come.
pub(crate) struct RequestContext {
    pub(crate) now: Now,
    pub(crate) connection: Arc<Connection>,
    pub(crate) header: RequestHeader,
    responder: Responder,
}

impl RequestContext {
    pub(crate) fn new(
        now: Now,
        connection: Arc<Connection>,
        header: RequestHeader,
        responder: Responder,
    ) -> Self {
        Self { now, connection, header, responder }
    }

    /// The version of the request.
    pub(crate) fn version(&self) -> i16 {
        self.header.api_version
    }

    /// Reads the body; a malformed one closes the connection, as Kafka does.
    pub(crate) fn decode<M: Message>(self, body: &Bytes) -> Option<(Self, M)> {
        let mut reader = chronik_protocol::wire::Reader::new(body);
        match frame::decode_request(&mut reader, &self.header) {
            Ok(message) => Some((self, message)),
            Err(error) => {
                self.close(&error);
                None
            }
        }
    }

    /// Answers with a message of the request's version.
    pub(crate) fn reply<M: Message>(self, response: &M) {
        match frame::encode_response_frame(&self.header, response, self.version()) {
            Ok(bytes) => self.send(Response::from(bytes)),
            Err(error) => {
                // Only a handler that fills a field which the version lacks comes here: a defect, not bad input.
                tracing::error!(
                    api = self.api_key().name(),
                    version = self.version(),
                    "cannot answer: {error}"
                );
                self.close(&error);
            }
        }
    }

    /// Answers with a frame that is written already.
    pub(crate) fn send(self, response: Response) {
        (self.responder)(Reply::Response(response));
    }

    /// Answers with nothing, as `acks=0` asks.
    pub(crate) fn nothing(self) {
        (self.responder)(Reply::Nothing);
    }

    /// Closes the connection, with the reason for the log.
    pub(crate) fn close(self, error: &dyn std::error::Error) {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason.push_str(": ");
            reason.push_str(&cause.to_string());
            source = cause.source();
        }
        self.close_because(reason);
    }

    /// Closes the connection, with the reason for the log.
    pub(crate) fn close_because(self, reason: String) {
        (self.responder)(Reply::Close(reason));
    }

    /// The request's API.
    pub(crate) fn api_key(&self) -> ApiKey {
        self.header.api_key
    }
}
