//! Every message that a broker answers, stores or forwards, at every version of Apache Kafka 4.3.1.
//!
//! Generated from the files under `schema/` when the crate is built; `chronik-protocol-gen` tells how to read them.
//! A message has one structure with the fields of all versions, in a module of its own beside its parts, such as
//! [`metadata_response::MetadataResponseTopic`]. `Default` gives what an absent field means in Kafka, so that
//! struct-update syntax sets only what matters.

use std::fmt::Debug;

use crate::wire::{DecodeError, EncodeError, Reader, Writer};

/// What every message can do.
pub trait Message: Clone + Debug + Default + PartialEq + Send + Sync + 'static {
    /// The key of its API; −1 for what is no request or response.
    const API_KEY: i16;
    /// The first version that exists.
    const MIN_VERSION: i16;
    /// The last version that exists, settled or not.
    const MAX_VERSION: i16;
    /// The last version that Kafka calls stable.
    const LATEST_STABLE_VERSION: i16;
    /// The first version with compact lengths and tagged fields (KIP-482).
    const FLEXIBLE_FROM: Option<i16>;
    /// Kafka's name, such as `MetadataRequest`.
    const NAME: &'static str;

    /// Reads the fields; the version exists. Call [`decode`](Self::decode) instead.
    #[doc(hidden)]
    fn read_fields(reader: &mut Reader<'_>, version: i16) -> Result<Self, DecodeError>;

    /// Writes the fields; the version exists. Call [`encode`](Self::encode) instead.
    #[doc(hidden)]
    fn write_fields(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError>;

    /// Reads a message. What follows it is left in the reader.
    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, DecodeError> {
        if Self::has_version(version) {
            Self::read_fields(reader, version)
        } else {
            Err(DecodeError::Version { message: Self::NAME, version })
        }
    }

    /// Writes a message. A value that the version cannot carry is an error, unless its field is one that older
    /// versions may go without. After an error the writer holds a part of the message.
    fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if Self::has_version(version) {
            self.write_fields(writer, version)
        } else {
            Err(EncodeError::Version { message: Self::NAME, version })
        }
    }

    /// Whether that version exists.
    fn has_version(version: i16) -> bool {
        Self::MIN_VERSION <= version && version <= Self::MAX_VERSION
    }

    /// Whether that version has compact lengths and tagged fields.
    fn is_flexible(version: i16) -> bool {
        Self::FLEXIBLE_FROM.is_some_and(|first| first <= version)
    }
}

mod prelude {
    pub(crate) use bytes::Bytes;
    pub(crate) use chronik_types::TopicId;

    pub(crate) use super::Message;
    pub(crate) use crate::wire::{DecodeError, EncodeError, Reader, Writer};
}

pub use generated::*;

#[allow(
    clippy::all,
    clippy::pedantic,
    unused_imports,
    reason = "generated; what one message needs another does not"
)]
mod generated {
    use super::{Message, prelude};

    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

#[cfg(feature = "json")]
#[allow(
    clippy::all,
    clippy::pedantic,
    unused_imports,
    reason = "generated; what one message needs another does not"
)]
mod generated_json {
    mod prelude {
        pub(crate) use bytes::Bytes;
        pub(crate) use chronik_types::TopicId;
        pub(crate) use serde_json::{Map, Value};

        pub(crate) use crate::json::{JsonError, JsonValue, field, nullable, object};
        pub(crate) use crate::wire::EncodeError;
    }

    include!(concat!(env!("OUT_DIR"), "/messages_json.rs"));
}
