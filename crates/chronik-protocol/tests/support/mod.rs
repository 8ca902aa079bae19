//! What the tests of the messages share: the golden file, and every message as a value.
#![allow(dead_code, reason = "each test file uses its own part")]

use bytes::Bytes;
use chronik_protocol::json::{JsonError, JsonValue, from_json, to_json};
use chronik_protocol::messages::Message;
use chronik_protocol::wire::{DecodeError, EncodeError, Reader, Writer};
use serde_json::Value;

const GOLDEN: &str = include_str!("../../../../tests/golden/messages.txt");

/// One line of the golden file.
#[derive(Clone, Debug)]
pub(crate) struct Golden {
    pub(crate) message: &'static str,
    pub(crate) version: i16,
    pub(crate) kind: &'static str,
    /// The bytes, or `None` where Kafka refuses to write them.
    pub(crate) bytes: Option<Bytes>,
    pub(crate) json: &'static str,
}

pub(crate) fn golden() -> impl Iterator<Item = Golden> {
    GOLDEN.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let mut columns = line.split('\t');
        let mut column = || columns.next().expect("a golden line has five columns");
        Golden {
            message: column(),
            version: column().parse().expect("a version is a number"),
            kind: column(),
            bytes: Some(column()).filter(|&hex| hex != "-").map(unhex),
            json: column(),
        }
    })
}

fn unhex(hex: &str) -> Bytes {
    let digit = |c: u8| char::from(c).to_digit(16).expect("bytes are in hex");
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::try_from(digit(pair[0]) << 4 | digit(pair[1])).expect("two digits are a byte"))
        .collect()
}

type Decode = fn(&mut Reader<'_>, i16) -> Result<Box<dyn Decoded>, DecodeError>;
type FromJson = fn(&Value, i16) -> Result<Box<dyn Decoded>, JsonError>;

/// Everything that can be done with a message whose type is not known until the test runs.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) min_version: i16,
    pub(crate) max_version: i16,
    pub(crate) is_flexible: fn(i16) -> bool,
    /// Decodes within a budget; gives back the error, or what the message says and its bytes in that version.
    pub(crate) decode: Decode,
    pub(crate) default: fn() -> Box<dyn Decoded>,
    pub(crate) from_json: FromJson,
}

/// A message of some type.
pub(crate) trait Decoded {
    fn encode(&self, version: i16) -> Result<Bytes, EncodeError>;
    fn to_json(&self, version: i16) -> Result<Value, JsonError>;
    /// `Debug` prints every field, so equal text is equal value (and NaN equals itself).
    fn debug(&self) -> String;
}

impl<M: Message + JsonValue> Decoded for M {
    fn encode(&self, version: i16) -> Result<Bytes, EncodeError> {
        let mut writer = Writer::new();
        Message::encode(self, &mut writer, version)?;
        Ok(writer.into_bytes())
    }

    fn to_json(&self, version: i16) -> Result<Value, JsonError> {
        to_json(self, version)
    }

    fn debug(&self) -> String {
        format!("{self:?}")
    }
}

fn subject<M: Message + JsonValue>() -> Subject {
    Subject {
        name: M::NAME,
        min_version: M::MIN_VERSION,
        max_version: M::MAX_VERSION,
        is_flexible: M::is_flexible,
        decode: |reader, version| {
            let message = M::decode(reader, version)?;
            reader.finish()?;
            Ok(Box::new(message))
        },
        default: || Box::new(M::default()),
        from_json: |node, version| Ok(Box::new(from_json::<M>(node, version)?)),
    }
}

macro_rules! subjects {
    ($($message:ident,)*) => {
        vec![$(subject::<chronik_protocol::messages::$message>(),)*]
    };
}

/// Every message.
pub(crate) fn subjects() -> Vec<Subject> {
    chronik_protocol::with_each_message!(subjects)
}

/// A small generator of numbers (splitmix64), seeded so that a failure can be seen again.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 32).expect("32 bits fit") % end.max(1)
    }
}
