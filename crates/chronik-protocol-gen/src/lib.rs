//! Turns message schemas into Rust.
//!
//! A pure function from texts to texts: the build script of `chronik-protocol` reads the files and writes the
//! results. Nothing here runs in the broker.
//!
//! # The notation
//!
//! A schema says what a message looks like in every version, one line a field; two spaces of indentation open a
//! nested structure; `#` begins a comment line. Names are Kafka's own.
//!
//! ```text
//! request 3 Metadata 0-13 flex 9+
//!   Topics []MetadataRequestTopic 0+ null 1+
//!     TopicId uuid 10+ ignorable
//!     Name string 0+ null 10+
//!   AllowAutoTopicCreation bool 4+ default true
//! ```
//!
//! The first line of a message is one of
//!
//! - `request KEY NAME` or `response KEY NAME`: a message of the API with that key;
//! - `header NAME`: a request or response header;
//! - `data NAME`: something that is stored or embedded elsewhere;
//! - `record-key TYPE NAME` or `record-value TYPE NAME`: a coordinator record of that type,
//!
//! followed by the versions that exist, `flex` and the versions with compact lengths and tagged fields (KIP-482),
//! or `none`, and `unstable` when the last version is not yet settled.
//!
//! A field is a name, a type, the versions that have it, and then any of
//!
//! - `null VERSIONS`: versions in which it may be null;
//! - `tag NUMBER VERSIONS`: versions in which it is a tagged field, with its tag;
//! - `default VALUE`: what an absent field means, where that is not zero, false or empty;
//! - `ignorable`: a value that the version cannot carry is dropped instead of refused;
//! - `inflexible`: its length is never compact.
//!
//! Types are `bool int8 int16 int32 int64 uint16 uint32 float64 uuid string bytes records`, the name of a
//! structure, and `[]T` for an array. A structure's fields follow the first field that uses it, indented; one that
//! several fields share stands in a `struct NAME VERSIONS` block at the end of its message instead.
//! Versions are written `3`, `0-7`, `4+`.

mod json;
mod rust;
mod schema;
mod text;
mod types;

pub use json::json_module;
pub use rust::rust_module;
pub use schema::{
    Field, FieldType, Message, MessageKind, Primitive, SchemaError, SchemaErrorKind, Struct, Versions, parse,
};
