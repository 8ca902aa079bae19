//! Emits the structures and their codec.
//!
//! The emitted code is flat calls into `chronik_protocol::wire`, one line a field wherever possible: compile time
//! is paid by everyone.

use crate::schema::{Field, FieldType, Message, MessageKind, Primitive, Struct, Versions};
use crate::text::{line, lower_first, mentions, snake_case, write_to};
use crate::types::{
    default_value, field_doc, field_name, full_name, has_trivial_default, is_not_default, is_option,
    primitive_method, rust_type,
};

/// The text of `messages.rs`: one module per message, a re-export of each message, the macro that lists them and
/// the table of APIs.
pub fn rust_module(messages: &[Message]) -> String {
    let mut out = String::new();
    for message in messages {
        module(&mut out, message);
    }
    let mut names: Vec<_> = messages.iter().map(|message| message.name.as_str()).collect();
    names.sort_unstable();
    for name in &names {
        line(&mut out, 0, &format!("pub use {}::{name};", snake_case(name)));
    }
    out.push_str(
        "\n/// Calls the macro `$callback` once with the names of all messages, separated by commas.\n",
    );
    out.push_str("#[macro_export]\nmacro_rules! with_each_message {\n    ($callback:ident) => {\n");
    out.push_str("        $callback! {\n");
    for name in &names {
        line(&mut out, 3, &format!("{name},"));
    }
    out.push_str("        }\n    };\n}\n\n");
    api_table(&mut out, messages);
    out
}

fn api_table(out: &mut String, messages: &[Message]) {
    let mut requests: Vec<_> = messages
        .iter()
        .filter_map(|message| match message.kind {
            MessageKind::Request(key) => Some((key, message)),
            MessageKind::Response(_)
            | MessageKind::Header
            | MessageKind::Data
            | MessageKind::RecordKey(_)
            | MessageKind::RecordValue(_) => None,
        })
        .collect();
    requests.sort_unstable_by_key(|&(key, _)| key);
    out.push_str(
        "/// Key, first and last version, last settled version, first flexible version of every API.\n",
    );
    out.push_str("pub(crate) const API_TABLE: &[(i16, i16, i16, i16, Option<i16>)] = &[\n");
    for (key, request) in requests {
        let versions = request.versions;
        let row = format!(
            "({key}, {}, {}, {}, {}),",
            versions.first,
            versions.last,
            latest_stable(request),
            flexible_from(request)
        );
        line(out, 1, &row);
    }
    out.push_str("];\n");
}

fn latest_stable(message: &Message) -> i16 {
    message.versions.last.saturating_sub(i16::from(message.is_last_unstable))
}

fn flexible_from(message: &Message) -> String {
    let flexible = message.flexible.intersect(message.versions);
    if flexible.is_empty() { "None".to_owned() } else { format!("Some({})", message.flexible.first) }
}

fn module(out: &mut String, message: &Message) {
    let flexible = match message.flexible {
        Versions::NONE => String::from("never flexible"),
        versions => format!("flexible {versions}"),
    };
    let what = match message.kind {
        MessageKind::Request(key) => format!("The request of API {key}"),
        MessageKind::Response(key) => format!("The response of API {key}"),
        MessageKind::Header => "A header".to_owned(),
        MessageKind::Data => "A stored or embedded structure".to_owned(),
        MessageKind::RecordKey(kind) => format!("The key of coordinator records of type {kind}"),
        MessageKind::RecordValue(kind) => format!("The value of coordinator records of type {kind}"),
    };
    let name = &message.name;
    let about = format!("{what}, versions {}, {flexible}.", message.versions);
    line(out, 0, &format!("/// `{name}`: {}", lower_first(&about)));
    line(out, 0, &format!("pub mod {} {{", snake_case(name)));
    line(out, 1, "use super::prelude::*;");
    for (position, owner) in message.structs.iter().enumerate() {
        let about = if position == 0 {
            about.clone()
        } else {
            format!("`{}` within [`{name}`], versions {}.", owner.name, owner.versions)
        };
        structure(out, message, owner, &about);
    }
    message_impl(out, message);
    out.push_str("}\n\n");
}

fn message_impl(out: &mut String, message: &Message) {
    let api_key = match message.kind {
        MessageKind::Request(key) | MessageKind::Response(key) => key,
        MessageKind::Header | MessageKind::Data | MessageKind::RecordKey(_) | MessageKind::RecordValue(_) => {
            -1
        }
    };
    let name = &message.name;
    if let MessageKind::RecordKey(kind) | MessageKind::RecordValue(kind) = message.kind {
        line(out, 1, &format!("impl {name} {{"));
        line(out, 2, "/// The record type, which stands before the key as its version.");
        line(out, 2, &format!("pub const RECORD_TYPE: i16 = {kind};"));
        line(out, 1, "}");
    }
    line(out, 1, &format!("impl Message for {name} {{"));
    line(out, 2, &format!("const API_KEY: i16 = {api_key};"));
    line(out, 2, &format!("const MIN_VERSION: i16 = {};", message.versions.first));
    line(out, 2, &format!("const MAX_VERSION: i16 = {};", message.versions.last));
    line(out, 2, &format!("const LATEST_STABLE_VERSION: i16 = {};", latest_stable(message)));
    line(out, 2, &format!("const FLEXIBLE_FROM: Option<i16> = {};", flexible_from(message)));
    line(out, 2, &format!("const NAME: &'static str = {name:?};"));
    line(
        out,
        2,
        "fn read_fields(r: &mut Reader<'_>, v: i16) -> Result<Self, DecodeError> { Self::read(r, v) }",
    );
    line(
        out,
        2,
        "fn write_fields(&self, w: &mut Writer, v: i16) -> Result<(), EncodeError> { self.write(w, v) }",
    );
    line(out, 1, "}");
}

fn structure(out: &mut String, message: &Message, owner: &Struct, about: &str) {
    let is_derived = owner.fields.iter().all(has_trivial_default);
    line(out, 1, &format!("/// {about}"));
    let derives = if is_derived { "Clone, Debug, Default, PartialEq" } else { "Clone, Debug, PartialEq" };
    line(out, 1, &format!("#[derive({derives})]"));
    line(out, 1, &format!("pub struct {} {{", owner.name));
    for field in &owner.fields {
        line(out, 2, &format!("/// {}", field_doc(field)));
        line(out, 2, &format!("pub {}: {},", field_name(field), rust_type(field)));
    }
    line(out, 1, "}");
    if !is_derived {
        line(out, 1, &format!("impl Default for {} {{", owner.name));
        line(out, 2, "fn default() -> Self {");
        line(out, 3, "Self {");
        for field in &owner.fields {
            line(out, 4, &format!("{}: {},", field_name(field), default_value(field)));
        }
        line(out, 3, "}");
        line(out, 2, "}");
        line(out, 1, "}");
    }
    line(out, 1, &format!("impl {} {{", owner.name));
    read(out, message, owner);
    write(out, message, owner);
    line(out, 1, "}");
}

/// How one structure sees the versions: its own range, and which of it are flexible.
pub(crate) struct Scope {
    pub(crate) versions: Versions,
    pub(crate) flexible: Versions,
}

impl Scope {
    pub(crate) fn new(message: &Message, owner: &Struct) -> Self {
        let versions = message.versions.intersect(owner.versions);
        Self { versions, flexible: message.flexible.intersect(versions) }
    }

    /// Rust that is true in the flexible versions.
    fn flex(&self, field: Option<&Field>) -> &'static str {
        if self.flexible.is_empty() || field.is_some_and(|field| field.inflexible) {
            "false"
        } else if self.flexible.covers(self.versions) {
            "true"
        } else {
            "flex"
        }
    }

    /// Rust that is true in `versions`, given that `v` is in this scope: `None` for always.
    pub(crate) fn condition(&self, versions: Versions) -> Condition {
        let inside = versions.intersect(self.versions);
        if inside.is_empty() {
            Condition::Never
        } else if inside.covers(self.versions) {
            Condition::Always
        } else if inside.first == inside.last {
            Condition::When(format!("v == {}", inside.first))
        } else if inside.last == self.versions.last {
            Condition::When(format!("v >= {}", inside.first))
        } else if inside.first == self.versions.first {
            Condition::When(format!("v <= {}", inside.last))
        } else {
            Condition::When(format!("({}..={}).contains(&v)", inside.first, inside.last))
        }
    }
}

/// When something applies.
pub(crate) enum Condition {
    Always,
    Never,
    When(String),
}

impl Condition {
    /// As a boolean expression.
    pub(crate) fn expression(&self) -> String {
        match self {
            Self::Always => "true".to_owned(),
            Self::Never => "false".to_owned(),
            Self::When(text) => text.clone(),
        }
    }
}

/// The versions in which a field stands in its place among the others.
pub(crate) fn mandatory(field: &Field) -> Versions {
    // The parser has checked that the rest is one range.
    field.versions.without(field.tagged).unwrap_or(Versions::NONE)
}

fn read(out: &mut String, message: &Message, owner: &Struct) {
    let scope = Scope::new(message, owner);
    let mut body = String::new();
    for field in &owner.fields {
        let expression = read_expression(message, &scope, field, false);
        let assign = format!("m.{} = {expression};", field_name(field));
        match scope.condition(mandatory(field)) {
            Condition::Always => line(&mut body, 3, &assign),
            Condition::When(condition) => line(&mut body, 3, &format!("if {condition} {{ {assign} }}")),
            Condition::Never => {}
        }
    }
    let tagged: Vec<_> = owner.fields.iter().filter(|field| is_tagged(&scope, field)).collect();
    let mut tags = String::new();
    if tagged.is_empty() {
        tags.push_str("r.skip_tags()?;");
    } else {
        tags.push_str("r.tags(|r, tag| { match tag { ");
        for field in tagged {
            let guard = match scope.condition(field.tagged) {
                Condition::When(condition) => format!(" if {condition}"),
                Condition::Always | Condition::Never => String::new(),
            };
            let expression = read_expression(message, &scope, field, true);
            let assign = format!("m.{} = {expression}", field_name(field));
            write_to(&mut tags, &format!("{}{guard} => {assign}, ", field.tag));
        }
        tags.push_str("_ => return Ok(false) } Ok(true) })?;");
    }
    conditional(&mut body, 3, scope.flex(None), &tags);
    let needs_mut = body.contains("m.");
    let flex = flex_line(&scope, &body);
    let version = if flex.is_empty() && !mentions(&body, "v") { "_v" } else { "v" };
    let reader = if mentions(&body, "r") { "r" } else { "_r" };
    line(
        out,
        2,
        &format!(
            "pub(crate) fn read({reader}: &mut Reader<'_>, {version}: i16) -> Result<Self, DecodeError> {{"
        ),
    );
    out.push_str(&flex);
    line(out, 3, if needs_mut { "let mut m = Self::default();" } else { "let m = Self::default();" });
    out.push_str(&body);
    line(out, 3, "Ok(m)");
    line(out, 2, "}");
}

fn write(out: &mut String, message: &Message, owner: &Struct) {
    let scope = Scope::new(message, owner);
    let mut body = String::new();
    for field in &owner.fields {
        if !field.ignorable {
            let refuse = format!("return Err(EncodeError::unsupported({:?}, v));", full_name(owner, field));
            let check = format!("if {} {{ {refuse} }}", is_not_default(field, "self"));
            match scope.condition(field.versions) {
                Condition::Always => {}
                Condition::Never => line(&mut body, 3, &check),
                Condition::When(condition) => {
                    line(
                        &mut body,
                        3,
                        &format!("if !({condition}) && {} {{ {refuse} }}", is_not_default(field, "self")),
                    );
                }
            }
        }
        let write = write_expression(&scope, owner, field, false);
        match scope.condition(mandatory(field)) {
            Condition::Always => line(&mut body, 3, &format!("{write};")),
            Condition::When(condition) => line(&mut body, 3, &format!("if {condition} {{ {write}; }}")),
            Condition::Never => {}
        }
    }
    let mut tagged: Vec<_> = owner.fields.iter().filter(|field| is_tagged(&scope, field)).collect();
    tagged.sort_unstable_by_key(|field| field.tag);
    let mut tags = String::new();
    if tagged.is_empty() {
        tags.push_str("w.no_tags();");
    } else {
        tags.push_str("let mut tags = w.begin_tags(); ");
        for field in tagged {
            let write = write_expression(&scope, owner, field, true);
            let write = match write.strip_suffix('?') {
                Some(fallible) => fallible.to_owned(),
                None => format!("{{ {write}; Ok(()) }}"),
            };
            let guard = match scope.condition(field.tagged) {
                Condition::When(condition) => format!("{condition} && "),
                Condition::Always | Condition::Never => String::new(),
            };
            write_to(
                &mut tags,
                &format!(
                    "if {guard}{} {{ w.tag(&mut tags, {}, |w| {write})?; }} ",
                    is_not_default(field, "self"),
                    field.tag
                ),
            );
        }
        tags.push_str("w.end_tags(&tags);");
    }
    conditional(&mut body, 3, scope.flex(None), &tags);
    let flex = flex_line(&scope, &body);
    let version = if flex.is_empty() && !mentions(&body, "v") { "_v" } else { "v" };
    let writer = if mentions(&body, "w") { "w" } else { "_w" };
    line(
        out,
        2,
        &format!(
            "pub(crate) fn write(&self, {writer}: &mut Writer, {version}: i16) -> Result<(), EncodeError> {{"
        ),
    );
    out.push_str(&flex);
    out.push_str(&body);
    line(out, 3, "Ok(())");
    line(out, 2, "}");
}

fn is_tagged(scope: &Scope, field: &Field) -> bool {
    !field.tagged.intersect(scope.flexible).is_empty()
}

fn flex_line(scope: &Scope, body: &str) -> String {
    let mut text = String::new();
    if mentions(body, "flex") {
        line(&mut text, 3, &format!("let flex = {};", scope.condition(scope.flexible).expression()));
    }
    text
}

fn conditional(body: &mut String, depth: usize, condition: &str, statement: &str) {
    match condition {
        "true" => line(body, depth, statement),
        "false" => {}
        condition => line(body, depth, &format!("if {condition} {{ {statement} }}")),
    }
}

/// Reads one value. A tagged field is always compact, and a tagged structure that may be null has a varint before
/// it where an untagged one has a byte.
fn read_expression(message: &Message, scope: &Scope, field: &Field, tagged: bool) -> String {
    let flex = if tagged { "true" } else { scope.flex(Some(field)) };
    let null = scope.condition(field.nullable).expression();
    match &field.field_type {
        FieldType::Primitive(primitive) => match primitive {
            Primitive::String | Primitive::Bytes | Primitive::Records => {
                let reader = if *primitive == Primitive::String { "string" } else { "bytes" };
                if is_option(field) {
                    format!("r.{reader}_opt({flex}, {null})?")
                } else {
                    format!("r.{reader}({flex})?")
                }
            }
            Primitive::Bool
            | Primitive::Int8
            | Primitive::Int16
            | Primitive::Int32
            | Primitive::Int64
            | Primitive::Uint16
            | Primitive::Uint32
            | Primitive::Float64
            | Primitive::Uuid => format!("r.{}()?", primitive_method(*primitive)),
        },
        FieldType::Struct(name) if is_option(field) => {
            let reader = if tagged { "tagged_struct_opt" } else { "struct_opt" };
            format!("r.{reader}({null}, |r| {name}::read(r, v))?")
        }
        FieldType::Struct(name) => format!("{name}::read(r, v)?"),
        FieldType::Array(element) => {
            let size = element_size(message, scope, field, element);
            let element = match &**element {
                FieldType::Struct(name) => format!("|r| {name}::read(r, v)"),
                FieldType::Primitive(primitive @ (Primitive::String | Primitive::Bytes)) => {
                    format!("|r| r.{}({flex})", primitive_method(*primitive))
                }
                FieldType::Primitive(primitive) => format!("Reader::{}", primitive_method(*primitive)),
                FieldType::Array(_) => unreachable_nested(field),
            };
            if is_option(field) {
                format!("r.array_opt({flex}, {null}, {size}, {element})?")
            } else {
                format!("r.array({flex}, {size}, {element})?")
            }
        }
    }
}

/// Writes one value; ends in `?` when that can fail.
fn write_expression(scope: &Scope, owner: &Struct, field: &Field, tagged: bool) -> String {
    let flex = if tagged { "true" } else { scope.flex(Some(field)) };
    let null = scope.condition(field.nullable).expression();
    let place = format!("self.{}", field_name(field));
    let full_name = full_name(owner, field);
    match &field.field_type {
        FieldType::Primitive(primitive) => match primitive {
            Primitive::String if is_option(field) => {
                format!("w.string_opt({place}.as_deref(), {flex}, {null}, {full_name:?})?")
            }
            Primitive::Bytes | Primitive::Records if is_option(field) => {
                format!("w.bytes_opt({place}.as_deref(), {flex}, {null}, {full_name:?})?")
            }
            Primitive::String | Primitive::Bytes | Primitive::Records => {
                format!("w.{}(&{place}, {flex}, {full_name:?})?", primitive_method(*primitive))
            }
            Primitive::Bool
            | Primitive::Int8
            | Primitive::Int16
            | Primitive::Int32
            | Primitive::Int64
            | Primitive::Uint16
            | Primitive::Uint32
            | Primitive::Float64
            | Primitive::Uuid => format!("w.{}({place})", primitive_method(*primitive)),
        },
        FieldType::Struct(_) if is_option(field) => {
            let writer = if tagged { "tagged_struct_opt" } else { "struct_opt" };
            format!("w.{writer}({place}.as_ref(), {null}, {full_name:?}, |w, x| x.write(w, v))?")
        }
        FieldType::Struct(_) => format!("{place}.write(w, v)?"),
        FieldType::Array(element) => {
            let element = match &**element {
                FieldType::Struct(_) => "|w, x| x.write(w, v)".to_owned(),
                FieldType::Primitive(primitive @ (Primitive::String | Primitive::Bytes)) => {
                    format!("|w, x| w.{}(x, {flex}, {full_name:?})", primitive_method(*primitive))
                }
                FieldType::Primitive(primitive) => {
                    format!("|w, x| {{ w.{}(*x); Ok(()) }}", primitive_method(*primitive))
                }
                FieldType::Array(_) => unreachable_nested(field),
            };
            if is_option(field) {
                format!("w.array_opt({place}.as_deref(), {flex}, {null}, {full_name:?}, {element})?")
            } else {
                format!("w.array(&{place}, {flex}, {full_name:?}, {element})?")
            }
        }
    }
}

fn unreachable_nested(field: &Field) -> String {
    // Rust that does not compile, with the reason in it: the notation has no way to ask for this.
    format!("compile_error!(\"the field {} is an array of arrays\")", field.name)
}

/// The smallest wire size of an array's element, as Rust: a number, or a match on the version.
fn element_size(message: &Message, scope: &Scope, field: &Field, element: &FieldType) -> String {
    let present = scope.versions.intersect(field.versions);
    let mut steps: Vec<(i16, usize)> = Vec::new();
    for version in present.first..=present.last {
        let flexible = Versions { first: version, last: version }.intersect(scope.flexible);
        // A message of no bytes would make the bound useless, so every element counts as one byte at least.
        let size =
            size_min(message, element, version, !flexible.is_empty() && !field.inflexible, false).max(1);
        match steps.last_mut() {
            Some((last, same)) if *same == size => *last = version,
            Some(_) | None => steps.push((version, size)),
        }
    }
    match steps.as_slice() {
        [] => "1".to_owned(),
        [(_, only)] => only.to_string(),
        [earlier @ .., (_, latest)] => {
            let mut text = String::from("match v { ");
            for (last, size) in earlier {
                write_to(&mut text, &format!("..={last} => {size}, "));
            }
            write_to(&mut text, &format!("_ => {latest} }}"));
            text
        }
    }
}

/// The smallest number of bytes that a value of this type has in this version.
fn size_min(
    message: &Message,
    field_type: &FieldType,
    version: i16,
    flexible: bool,
    nullable: bool,
) -> usize {
    match field_type {
        FieldType::Primitive(primitive) => match primitive {
            Primitive::Bool | Primitive::Int8 => 1,
            Primitive::Int16 | Primitive::Uint16 => 2,
            Primitive::Int32 | Primitive::Uint32 => 4,
            Primitive::Int64 | Primitive::Float64 => 8,
            Primitive::Uuid => 16,
            Primitive::String => {
                if flexible {
                    1
                } else {
                    2
                }
            }
            Primitive::Bytes | Primitive::Records => {
                if flexible {
                    1
                } else {
                    4
                }
            }
        },
        FieldType::Array(_) => {
            if flexible {
                1
            } else {
                4
            }
        }
        FieldType::Struct(_) if nullable => 1,
        FieldType::Struct(name) => {
            let Some(owner) = message.find(name) else {
                return 0;
            };
            let only = Versions { first: version, last: version };
            let has = |versions: Versions| versions.covers(only);
            let fields = owner
                .fields
                .iter()
                .filter(|field| has(mandatory(field)))
                .map(|field| {
                    let flexible = flexible && !field.inflexible;
                    size_min(message, &field.field_type, version, flexible, has(field.nullable))
                })
                .fold(0_usize, usize::saturating_add);
            fields.saturating_add(usize::from(flexible))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(schema: &str) -> String {
        rust_module(&crate::schema::parse("test", schema).expect("this schema is right"))
    }

    fn check(schema: &str, expected: &[&str]) {
        let text = emitted(schema);
        for line in expected {
            assert!(text.lines().any(|emitted| emitted.trim() == *line), "no line `{line}` in\n{text}");
        }
    }

    #[test]
    fn versions_become_conditions() {
        check(
            "data X 0-5 flex 3+\n  A int32 0+\n  B int32 2+\n  C string 0-1\n  D bool 2-4 ignorable",
            &[
                "m.a = r.i32()?;",
                "if v >= 2 { m.b = r.i32()?; }",
                "if v <= 1 { m.c = r.string(flex)?; }",
                "if (2..=4).contains(&v) { m.d = r.bool()?; }",
                "let flex = v >= 3;",
                "if !(v >= 2) && self.b != 0 { return Err(EncodeError::unsupported(\"X.b\", v)); }",
                "if flex { r.skip_tags()?; }",
            ],
        );
        assert!(!emitted("data X 0-5 flex none\n  D bool 2-4 ignorable").contains("unsupported"));
    }

    #[test]
    fn tags_are_written_in_ascending_order() {
        let text = emitted("data X 0 flex 0+\n  B int8 0+ tag 1 0+\n  A int8 0+ tag 0 0+");
        let place = |tag: &str| text.find(&format!("w.tag(&mut tags, {tag},")).expect("the tag is written");
        assert!(place("0") < place("1"));
    }

    #[test]
    fn arrays_know_their_smallest_element() {
        check(
            "data X 0-2 flex 2+\n  A []Y 0+\n    B string 0+\n    C int64 1+",
            &["m.a = r.array(flex, match v { ..=0 => 2, _ => 10 }, |r| Y::read(r, v))?;"],
        );
    }

    #[test]
    fn defaults_are_kafkas() {
        check(
            "data X 0 flex none\n  A int32 0 default -1\n  B string 0 null 0\n  C string 0 null 0 default null\n  D bool 0 default true",
            &["a: -1,", "b: Some(String::new()),", "c: None,", "d: true,"],
        );
    }
}
