//! How an answer leaves the broker.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chronik_disk::DiskFile;

/// Takes the answer to one request. It is called at most once, at once or later and from any thread; it never
/// blocks. Dropping it unanswered closes the connection.
pub type Responder = Box<dyn FnOnce(Reply) + Send>;

/// The answer to one request.
#[derive(Debug)]
pub enum Reply {
    /// These bytes, in the order of requests on the connection.
    Response(Response),
    /// Nothing is sent (Produce with `acks=0`).
    Nothing,
    /// The connection is closed once everything before has been sent; the text says why, for the log.
    Close(String),
}

/// A whole response frame, its 4-byte length included, as parts that are sent one after the other.
#[derive(Debug, Default)]
pub struct Response {
    /// The parts, in order.
    pub parts: Vec<ResponsePart>,
}

impl Response {
    /// The length of all parts in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.parts.iter().map(ResponsePart::len_bytes).sum()
    }
}

impl From<Bytes> for Response {
    fn from(bytes: Bytes) -> Self {
        Self { parts: vec![ResponsePart::Bytes(bytes)] }
    }
}

/// One part of a response.
#[derive(Clone)]
pub enum ResponsePart {
    /// Bytes in memory, shared with whoever else holds them.
    Bytes(Bytes),
    /// A region of a segment file. It is immutable: a segment that is deleted meanwhile stays readable.
    File {
        /// The file.
        file: Arc<dyn DiskFile>,
        /// Where the region starts, in bytes.
        position: u64,
        /// How long it is, in bytes.
        len_bytes: u64,
    },
}

impl ResponsePart {
    /// The part's length in bytes.
    pub fn len_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len_bytes, .. } => *len_bytes,
        }
    }
}

impl fmt::Debug for ResponsePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File { position, len_bytes, .. } => write!(f, "File({position}+{len_bytes})"),
        }
    }
}
