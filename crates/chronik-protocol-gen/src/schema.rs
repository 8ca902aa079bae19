//! What a schema says, and how it is read.

use std::fmt;

/// An inclusive range of versions. Empty when `first > last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The first version.
    pub first: i16,
    /// The last version; [`i16::MAX`] when the range is open.
    pub last: i16,
}

impl Versions {
    /// No version at all.
    pub const NONE: Self = Self { first: 0, last: -1 };

    /// Whether no version is in the range.
    pub const fn is_empty(self) -> bool {
        self.first > self.last
    }

    /// The versions that both ranges have.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        if both.is_empty() { Self::NONE } else { both }
    }

    /// Whether every version of `other` is in this range.
    pub const fn covers(self, other: Self) -> bool {
        other.is_empty() || (self.first <= other.first && other.last <= self.last)
    }

    /// This range without `other`, or `None` when what is left is not one range.
    pub fn without(self, other: Self) -> Option<Self> {
        let cut = self.intersect(other);
        if cut.is_empty() {
            Some(self)
        } else if cut.first == self.first {
            Some(if cut.last == self.last {
                Self::NONE
            } else {
                Self { first: cut.last.saturating_add(1), last: self.last }
            })
        } else if cut.last == self.last {
            Some(Self { first: self.first, last: cut.first.saturating_sub(1) })
        } else {
            None
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse::<i16>().ok().filter(|&version| version >= 0);
        if text == "none" {
            Some(Self::NONE)
        } else if let Some(first) = text.strip_suffix('+') {
            Some(Self { first: number(first)?, last: i16::MAX })
        } else if let Some((first, last)) = text.split_once('-') {
            Some(Self { first: number(first)?, last: number(last)? }).filter(|range| !range.is_empty())
        } else {
            number(text).map(|only| Self { first: only, last: only })
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            f.write_str("none")
        } else if self.last == i16::MAX {
            write!(f, "{}+", self.first)
        } else if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}–{}", self.first, self.last)
        }
    }
}

/// A type that needs no structure of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the notation")]
pub enum Primitive {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint16,
    Uint32,
    Float64,
    Uuid,
    String,
    Bytes,
    Records,
}

/// The type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// A primitive.
    Primitive(Primitive),
    /// A structure, by name.
    Struct(String),
    /// An array of primitives or structures; arrays never nest.
    Array(Box<FieldType>),
}

impl FieldType {
    fn parse(text: &str) -> Self {
        if let Some(element) = text.strip_prefix("[]") {
            return Self::Array(Box::new(Self::parse(element)));
        }
        Self::Primitive(match text {
            "bool" => Primitive::Bool,
            "int8" => Primitive::Int8,
            "int16" => Primitive::Int16,
            "int32" => Primitive::Int32,
            "int64" => Primitive::Int64,
            "uint16" => Primitive::Uint16,
            "uint32" => Primitive::Uint32,
            "float64" => Primitive::Float64,
            "uuid" => Primitive::Uuid,
            "string" => Primitive::String,
            "bytes" => Primitive::Bytes,
            "records" => Primitive::Records,
            name => return Self::Struct(name.to_owned()),
        })
    }

    /// The structure that this type names, directly or as an array's element.
    pub fn struct_name(&self) -> Option<&str> {
        match self {
            Self::Struct(name) => Some(name),
            Self::Array(element) => element.struct_name(),
            Self::Primitive(_) => None,
        }
    }
}

/// One field of a structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Kafka's name.
    pub name: String,
    /// Its type.
    pub field_type: FieldType,
    /// Versions that have it.
    pub versions: Versions,
    /// Versions in which it may be null.
    pub nullable: Versions,
    /// Versions in which it is a tagged field.
    pub tagged: Versions,
    /// Its tag; meaningless without tagged versions.
    pub tag: u32,
    /// The written default; empty for the type's own.
    pub default: String,
    /// Whether a value that a version lacks is dropped.
    pub ignorable: bool,
    /// Whether its length is never compact.
    pub inflexible: bool,
}

/// A structure: a message itself or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struct {
    /// Kafka's name.
    pub name: String,
    /// Versions that have it.
    pub versions: Versions,
    /// Its fields in wire order.
    pub fields: Vec<Field>,
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A request of the API with this key.
    Request(i16),
    /// A response of the API with this key.
    Response(i16),
    /// A request or response header.
    Header,
    /// Something stored or embedded.
    Data,
    /// The key of a coordinator record of this type.
    RecordKey(i16),
    /// The value of a coordinator record of this type.
    RecordValue(i16),
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is for.
    pub kind: MessageKind,
    /// The name of its top structure, such as `MetadataRequest`.
    pub name: String,
    /// Versions that exist.
    pub versions: Versions,
    /// Versions with compact lengths and tagged fields.
    pub flexible: Versions,
    /// Whether the last version is not yet settled.
    pub is_last_unstable: bool,
    /// Its structures; the first is the message itself.
    pub structs: Vec<Struct>,
}

impl Message {
    /// The structure with that name.
    pub fn find(&self, name: &str) -> Option<&Struct> {
        self.structs.iter().find(|candidate| candidate.name == name)
    }
}

/// Why a schema cannot be read, with the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {kind}")]
pub struct SchemaError {
    /// The file's name as given to [`parse`].
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub kind: SchemaErrorKind,
}

/// What can be wrong with a line of a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaErrorKind {
    /// The indentation is odd, or deeper than the line above allows.
    #[error("the indentation does not follow from the line above; use two spaces for each level")]
    Indentation,
    /// The first word opens no kind of message.
    #[error("`{0}` is not request, response, header, data, record-key or record-value")]
    UnknownKind(String),
    /// A word is missing.
    #[error("the line ends where {0} should stand")]
    Missing(&'static str),
    /// A word does not mean what its place asks for.
    #[error("`{word}` is not {expected}")]
    Word {
        /// The word.
        word: String,
        /// What its place asks for.
        expected: &'static str,
    },
    /// A field names a structure that its message does not define.
    #[error("the structure `{0}` is not defined in this message")]
    UnknownStruct(String),
    /// Two structures of a message share a name.
    #[error("the structure `{0}` is defined twice")]
    DuplicateStruct(String),
    /// Tagged versions leave a hole, or are not flexible.
    #[error("the tagged versions of `{0}` must be flexible and reach one end of its versions")]
    TaggedVersions(String),
    /// A structure contains itself.
    #[error("the structure `{0}` contains itself; messages must have a bounded depth")]
    Recursive(String),
}

struct Line<'a> {
    depth: usize,
    words: std::str::SplitWhitespace<'a>,
}

impl<'a> Line<'a> {
    fn next(&mut self, expected: &'static str) -> Result<&'a str, SchemaErrorKind> {
        self.words.next().ok_or(SchemaErrorKind::Missing(expected))
    }

    fn number<T: std::str::FromStr>(&mut self, expected: &'static str) -> Result<T, SchemaErrorKind> {
        let word = self.next(expected)?;
        word.parse().map_err(|_| SchemaErrorKind::Word { word: word.to_owned(), expected })
    }

    fn versions(&mut self) -> Result<Versions, SchemaErrorKind> {
        let word = self.next("versions")?;
        Versions::parse(word).ok_or(SchemaErrorKind::Word { word: word.to_owned(), expected: "versions" })
    }
}

/// Reads one schema file. `file` is its name, for errors.
pub fn parse(file: &str, text: &str) -> Result<Vec<Message>, SchemaError> {
    let mut messages: Vec<Message> = Vec::new();
    // Which structure (by position in the message) the lines of each depth belong to.
    let mut open: Vec<usize> = Vec::new();
    for (position, raw) in text.lines().enumerate() {
        let number = position.saturating_add(1);
        if raw.trim().is_empty() || raw.trim_start().starts_with('#') {
            continue;
        }
        let error = |kind| SchemaError { file: file.to_owned(), line: number, kind };
        let spaces = raw.len().saturating_sub(raw.trim_start().len());
        if spaces % 2 != 0 {
            return Err(error(SchemaErrorKind::Indentation));
        }
        let mut line = Line { depth: spaces / 2, words: raw.split_whitespace() };
        if line.depth == 0 {
            messages.push(message_line(&mut line).map_err(error)?);
            open = vec![0];
        } else {
            let message = messages.last_mut().ok_or_else(|| error(SchemaErrorKind::Indentation))?;
            field_line(&mut line, message, &mut open).map_err(error)?;
        }
    }
    for message in &messages {
        check(message).map_err(|kind| SchemaError {
            file: file.to_owned(),
            line: text.lines().count(),
            kind,
        })?;
    }
    Ok(messages)
}

fn message_line(line: &mut Line<'_>) -> Result<Message, SchemaErrorKind> {
    let word = line.next("a kind")?;
    let (kind, suffix) = match word {
        "request" => (MessageKind::Request(line.number("an API key")?), "Request"),
        "response" => (MessageKind::Response(line.number("an API key")?), "Response"),
        "header" => (MessageKind::Header, ""),
        "data" => (MessageKind::Data, ""),
        "record-key" => (MessageKind::RecordKey(line.number("a record type")?), ""),
        "record-value" => (MessageKind::RecordValue(line.number("a record type")?), ""),
        other => return Err(SchemaErrorKind::UnknownKind(other.to_owned())),
    };
    let name = format!("{}{suffix}", line.next("a name")?);
    let versions = line.versions()?;
    let flex = line.next("flex")?;
    if flex != "flex" {
        return Err(SchemaErrorKind::Word { word: flex.to_owned(), expected: "flex" });
    }
    let flexible = line.versions()?;
    let is_last_unstable = match line.words.next() {
        None => false,
        Some("unstable") => true,
        Some(word) => return Err(SchemaErrorKind::Word { word: word.to_owned(), expected: "unstable" }),
    };
    let structs = vec![Struct { name: name.clone(), versions, fields: Vec::new() }];
    Ok(Message { kind, name, versions, flexible, is_last_unstable, structs })
}

fn field_line(
    line: &mut Line<'_>,
    message: &mut Message,
    open: &mut Vec<usize>,
) -> Result<(), SchemaErrorKind> {
    let name = line.next("a field name")?.to_owned();
    if name == "struct" {
        if line.depth != 1 {
            return Err(SchemaErrorKind::Indentation);
        }
        let name = line.next("a structure name")?.to_owned();
        let versions = line.versions()?.intersect(message.versions);
        open.truncate(1);
        open.push(define(message, name, versions)?);
        return Ok(());
    }
    let field = field(line, name)?;
    let depth = line.depth;
    if depth > open.len() {
        // The first field of a structure that the line above uses and nobody has defined yet.
        if depth != open.len().saturating_add(1) {
            return Err(SchemaErrorKind::Indentation);
        }
        let parent = open
            .last()
            .and_then(|&parent| message.structs.get(parent))
            .ok_or(SchemaErrorKind::Indentation)?;
        let user = parent.fields.last().ok_or(SchemaErrorKind::Indentation)?;
        let name = user.field_type.struct_name().ok_or(SchemaErrorKind::Indentation)?.to_owned();
        let versions = parent.versions.intersect(user.versions);
        open.push(define(message, name, versions)?);
    } else {
        open.truncate(depth);
    }
    let owner =
        open.last().and_then(|&owner| message.structs.get_mut(owner)).ok_or(SchemaErrorKind::Indentation)?;
    owner.fields.push(field);
    Ok(())
}

fn define(message: &mut Message, name: String, versions: Versions) -> Result<usize, SchemaErrorKind> {
    if message.find(&name).is_some() {
        return Err(SchemaErrorKind::DuplicateStruct(name));
    }
    message.structs.push(Struct { name, versions, fields: Vec::new() });
    Ok(message.structs.len().saturating_sub(1))
}

fn field(line: &mut Line<'_>, name: String) -> Result<Field, SchemaErrorKind> {
    let field_type = FieldType::parse(line.next("a type")?);
    let versions = line.versions()?;
    let mut field = Field {
        name,
        field_type,
        versions,
        nullable: Versions::NONE,
        tagged: Versions::NONE,
        tag: 0,
        default: String::new(),
        ignorable: false,
        inflexible: false,
    };
    while let Some(word) = line.words.next() {
        match word {
            "null" => field.nullable = line.versions()?,
            "tag" => {
                field.tag = line.number("a tag")?;
                field.tagged = line.versions()?.intersect(versions);
            }
            "default" => line.next("a default")?.clone_into(&mut field.default),
            "ignorable" => field.ignorable = true,
            "inflexible" => field.inflexible = true,
            other => {
                return Err(SchemaErrorKind::Word {
                    word: other.to_owned(),
                    expected: "null, tag, default, ignorable or inflexible",
                });
            }
        }
    }
    Ok(field)
}

fn check(message: &Message) -> Result<(), SchemaErrorKind> {
    for owner in &message.structs {
        for field in &owner.fields {
            if let Some(name) = field.field_type.struct_name()
                && message.find(name).is_none()
            {
                return Err(SchemaErrorKind::UnknownStruct(name.to_owned()));
            }
            let tagged = field.tagged.intersect(message.versions);
            if field.versions.without(field.tagged).is_none() || !message.flexible.covers(tagged) {
                return Err(SchemaErrorKind::TaggedVersions(field.name.clone()));
            }
        }
        if reaches(message, owner, &owner.name, message.structs.len()) {
            return Err(SchemaErrorKind::Recursive(owner.name.clone()));
        }
    }
    Ok(())
}

/// Whether `target` lies below `owner`. `depth_max` bounds the search: a longer path visits some structure twice,
/// and that one is found when the search starts from it.
fn reaches(message: &Message, owner: &Struct, target: &str, depth_max: usize) -> bool {
    let Some(depth_max) = depth_max.checked_sub(1) else {
        return false;
    };
    owner.fields.iter().filter_map(|field| field.field_type.struct_name()).any(|name| {
        name == target || message.find(name).is_some_and(|child| reaches(message, child, target, depth_max))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(text: &str) -> SchemaErrorKind {
        parse("test", text).expect_err("this schema is wrong").kind
    }

    #[test]
    fn a_message_is_read() {
        let messages = parse(
            "test",
            "# A comment.\nrequest 3 Metadata 0-13 flex 9+ unstable\n  Topics []Topic 0+ null 1+\n    Id uuid 10+ \
             ignorable\n  Epoch int32 9-12 tag 2 9+ default -1\n  Other []Shared 0+\n  struct Shared 0+\n    A bool 2\n",
        )
        .expect("this schema is right");
        let [message] = messages.as_slice() else { panic!("one message, not {messages:?}") };
        assert_eq!(message.name, "MetadataRequest");
        assert_eq!(message.kind, MessageKind::Request(3));
        assert!(message.is_last_unstable);
        assert_eq!(message.flexible, Versions { first: 9, last: i16::MAX });
        let names: Vec<_> = message.structs.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["MetadataRequest", "Topic", "Shared"]);
        let epoch = &message.structs[0].fields[1];
        assert_eq!((epoch.tag, epoch.default.as_str()), (2, "-1"));
        assert_eq!(epoch.tagged, Versions { first: 9, last: 12 });
        assert!(message.structs[1].fields[0].ignorable);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(kind_of("reqest 3 X 0 flex none"), SchemaErrorKind::UnknownKind("reqest".into()));
        assert_eq!(kind_of("request 3 X 0 flex"), SchemaErrorKind::Missing("versions"));
        assert_eq!(kind_of("data X 0 flex none\n   A bool 0"), SchemaErrorKind::Indentation);
        assert_eq!(kind_of("data X 0 flex none\n  A bool 0\n    B bool 0"), SchemaErrorKind::Indentation);
        assert_eq!(kind_of("data X 0 flex none\n  A []Y 0"), SchemaErrorKind::UnknownStruct("Y".into()));
        assert_eq!(kind_of("data X 0 flex none\n  A []X 0"), SchemaErrorKind::Recursive("X".into()));
        assert_eq!(
            kind_of("data X 0-3 flex 2+\n  A bool 0+ tag 0 1+"),
            SchemaErrorKind::TaggedVersions("A".into())
        );
        assert_eq!(
            kind_of("data X 0 flex none\n  A bool 0 nul 0"),
            SchemaErrorKind::Word {
                word: "nul".into(),
                expected: "null, tag, default, ignorable or inflexible"
            }
        );
    }

    #[test]
    fn version_ranges_subtract() {
        let range = |first, last| Versions { first, last };
        assert_eq!(range(0, 9).without(range(4, 9)), Some(range(0, 3)));
        assert_eq!(range(0, 9).without(range(0, 3)), Some(range(4, 9)));
        assert_eq!(range(0, 9).without(range(0, i16::MAX)), Some(Versions::NONE));
        assert_eq!(range(0, 9).without(range(3, 4)), None);
        assert_eq!(range(0, 9).without(Versions::NONE), Some(range(0, 9)));
    }
}
