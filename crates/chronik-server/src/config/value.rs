//! The kinds of values that settings take, each parsed once into a type of its own.

use std::path::PathBuf;

use chronik_types::NodeId;

use super::advertise::Advertise;
use super::external::ExternalListeners;
use super::peers::Peers;

/// A kind of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// `true` or `false`.
    Boolean,
    /// A number within the setting's range.
    Integer,
    /// Any text.
    Text,
    /// A path.
    Path,
    /// A network address of this machine, or a name for it.
    Host,
    /// See [`Advertise`].
    Advertise,
    /// See [`Peers`].
    Peers,
    /// See [`ExternalListeners`].
    ExternalListeners,
    /// A filter of log lines.
    LogFilter,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Some of these words, separated by commas.
    ListOf(&'static [&'static str]),
    /// A number that need not be whole, within the setting's range.
    Number,
}

impl ValueType {
    /// What a value should look like, to complete "should be …".
    pub fn form(self, range: (i64, i64)) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Integer => match range {
                (min, i64::MAX) => format!("a whole number from {min} up"),
                (min, max) => format!("a whole number from {min} to {max}"),
            },
            Self::Text => "a text without control characters".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Host => "an IP address or a host name, such as 127.0.0.1 or ::".to_owned(),
            Self::Advertise => "host or host:port, such as broker1.example.com:9092".to_owned(),
            Self::Peers => {
                "a list of host:kafka_port:raft_port, such as node1:9092:9093,node2:9092:9093,node3:9092:9093"
                    .to_owned()
            }
            Self::ExternalListeners => {
                "a list of NAME:port=host:port, such as EXTERNAL:19092=localhost:9092".to_owned()
            }
            Self::LogFilter => {
                "a level (off, error, warn, info, debug, trace) or a list such as info,chronik_log=debug"
                    .to_owned()
            }
            Self::OneOf(words) => words.join(" or "),
            Self::ListOf(words) => format!("a list of {}", words.join(" and ")),
            Self::Number => match range {
                (min, i64::MAX) => format!("a number from {min} up"),
                (min, max) => format!("a number from {min} to {max}"),
            },
        }
    }
}

/// Why a text is no value of its kind: what is wrong with it, where that is not obvious from the form.
pub(super) type Invalid = Option<String>;

/// A type that settings have.
pub(super) trait Value: Sized {
    /// The kind of text that it is parsed from.
    const TYPE: ValueType;
    /// The smallest and largest number of the type.
    const RANGE: (i64, i64) = (i64::MIN, i64::MAX);
    /// Reads the text. Numbers are within `range`.
    fn parse(text: &str, range: (i64, i64)) -> Result<Self, Invalid>;
}

fn integer(text: &str, (min, max): (i64, i64)) -> Result<i64, Invalid> {
    let number: i64 = text.parse().map_err(|_| None)?;
    if min <= number && number <= max { Ok(number) } else { Err(None) }
}

macro_rules! integer_value {
    ($($type:ty),+) => {$(
        impl Value for $type {
            const TYPE: ValueType = ValueType::Integer;
            fn parse(text: &str, range: (i64, i64)) -> Result<Self, Invalid> {
                integer(text, range)?.try_into().map_err(|_| None)
            }
        }
    )+};
}

integer_value!(i16, i32, i64, u16, u32, u64, usize);

impl Value for f64 {
    const TYPE: ValueType = ValueType::Number;
    fn parse(text: &str, (min, max): (i64, i64)) -> Result<Self, Invalid> {
        let number: Self = text.parse().map_err(|_| None)?;
        #[expect(clippy::cast_precision_loss, reason = "bounds are small numbers or no bounds")]
        let (min, max) = (min as Self, max as Self);
        // No number counts as within bounds that is none.
        let is_within = min <= number && (number <= max || max >= 1e18);
        if is_within && number.is_finite() { Ok(number) } else { Err(None) }
    }
}

impl Value for NodeId {
    const TYPE: ValueType = ValueType::Integer;
    fn parse(text: &str, range: (i64, i64)) -> Result<Self, Invalid> {
        i32::parse(text, range).map(NodeId)
    }
}

impl Value for bool {
    const TYPE: ValueType = ValueType::Boolean;
    fn parse(text: &str, _range: (i64, i64)) -> Result<Self, Invalid> {
        match text.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(None),
        }
    }
}

impl Value for String {
    const TYPE: ValueType = ValueType::Text;
    fn parse(text: &str, _range: (i64, i64)) -> Result<Self, Invalid> {
        if text.is_empty() || text.chars().any(char::is_control) { Err(None) } else { Ok(text.to_owned()) }
    }
}

impl Value for PathBuf {
    const TYPE: ValueType = ValueType::Path;
    fn parse(text: &str, _range: (i64, i64)) -> Result<Self, Invalid> {
        if text.is_empty() || text.contains('\0') { Err(None) } else { Ok(text.into()) }
    }
}

impl<T: Value> Value for Option<T> {
    const TYPE: ValueType = T::TYPE;
    const RANGE: (i64, i64) = T::RANGE;
    fn parse(text: &str, range: (i64, i64)) -> Result<Self, Invalid> {
        if text.is_empty() { Ok(None) } else { T::parse(text, range).map(Some) }
    }
}

impl Value for Advertise {
    const TYPE: ValueType = ValueType::Advertise;
    fn parse(text: &str, _range: (i64, i64)) -> Result<Self, Invalid> {
        text.parse().map_err(|error: super::advertise::AdvertiseError| Some(error.to_string()))
    }
}

impl Value for Peers {
    const TYPE: ValueType = ValueType::Peers;
    fn parse(text: &str, _range: (i64, i64)) -> Result<Self, Invalid> {
        text.parse().map_err(|error: super::peers::PeersError| Some(error.to_string()))
    }
}

impl Value for ExternalListeners {
    const TYPE: ValueType = ValueType::ExternalListeners;
    fn parse(text: &str, _range: (i64, i64)) -> Result<Self, Invalid> {
        text.parse().map_err(|error: super::external::ExternalError| Some(error.to_string()))
    }
}

/// An address to listen on, or a name for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(pub String);

impl Value for Host {
    const TYPE: ValueType = ValueType::Host;
    fn parse(text: &str, _range: (i64, i64)) -> Result<Self, Invalid> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let is_address = bare.parse::<std::net::IpAddr>().is_ok();
        let is_name = !bare.is_empty()
            && bare.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '_'));
        if is_address || is_name { Ok(Self(bare.to_owned())) } else { Err(None) }
    }
}

/// Which log lines are written.
#[derive(Clone, Debug)]
pub struct LogFilter(pub tracing_subscriber::filter::Targets);

impl Value for LogFilter {
    const TYPE: ValueType = ValueType::LogFilter;
    fn parse(text: &str, _range: (i64, i64)) -> Result<Self, Invalid> {
        // A bare word that is no level would be taken for the name of a module and turn all other lines off.
        for part in text.split(',') {
            let level = part.rsplit('=').next().unwrap_or(part);
            level.trim().parse::<tracing_subscriber::filter::LevelFilter>().map_err(|_| None)?;
        }
        text.parse().map(Self).map_err(|_| None)
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl Value for $name {
            const TYPE: ValueType = ValueType::OneOf(&[$($word),+]);
            fn parse(text: &str, _range: (i64, i64)) -> Result<Self, Invalid> {
                $(if text.eq_ignore_ascii_case($word) { return Ok(Self::$variant); })+
                Err(None)
            }
        }

        impl $name {
            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

words! {
    /// How log lines look.
    LogFormat {
        /// In Kafka's layout.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// Whose clock stamps records.
    TimestampType {
        /// The producer's.
        CreateTime = "CreateTime",
        /// The broker's.
        LogAppendTime = "LogAppendTime",
    }
}

words! {
    /// How batches are stored.
    CompressionType {
        /// As the producer compressed them.
        Producer = "producer",
        /// Without compression.
        Uncompressed = "uncompressed",
        /// With gzip.
        Gzip = "gzip",
        /// With snappy.
        Snappy = "snappy",
        /// With lz4.
        Lz4 = "lz4",
        /// With zstd.
        Zstd = "zstd",
    }
}

/// What becomes of old data. Neither keeps everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicies {
    /// It is removed.
    pub delete: bool,
    /// The newest record of each key is kept.
    pub compact: bool,
}

impl Value for CleanupPolicies {
    const TYPE: ValueType = ValueType::ListOf(&["compact", "delete"]);
    fn parse(text: &str, _range: (i64, i64)) -> Result<Self, Invalid> {
        let mut policies = Self { delete: false, compact: false };
        for word in text.split(',').map(str::trim) {
            match word {
                "delete" => policies.delete = true,
                "compact" => policies.compact = true,
                _ => return Err(None),
            }
        }
        Ok(policies)
    }
}
