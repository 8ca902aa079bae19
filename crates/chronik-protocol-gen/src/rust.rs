//! Emits the structures and their codec.
//!
//! The emitted code is flat calls into `chronik_protocol::wire`, one line a field wherever possible: compile time
//! is paid by everyone.

use std::fmt::Write as _;

use crate::schema::{Field, FieldType, Message, MessageKind, Primitive, Struct, Versions};

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

/// Rust that is true when the field differs from its default.
pub(crate) fn is_not_default(field: &Field, object: &str) -> String {
    let place = format!("{object}.{}", field_name(field));
    let default = default_value(field);
    let is_counted = match &field.field_type {
        FieldType::Array(_) => true,
        FieldType::Primitive(primitive) => {
            matches!(primitive, Primitive::String | Primitive::Bytes | Primitive::Records)
        }
        FieldType::Struct(_) => false,
    };
    if default == "None" {
        format!("{place}.is_some()")
    } else if is_option(field) && is_counted {
        format!("{place}.as_ref().is_none_or(|x| !x.is_empty())")
    } else if is_counted && field.default.is_empty() {
        format!("!{place}.is_empty()")
    } else {
        match default.as_str() {
            "false" => place,
            "true" => format!("!{place}"),
            default => format!("{place} != {default}"),
        }
    }
}

pub(crate) fn is_option(field: &Field) -> bool {
    // Kafka's default for records is null even where a version does not allow it.
    !field.nullable.is_empty()
        && !matches!(
            field.field_type,
            FieldType::Primitive(
                Primitive::Bool
                    | Primitive::Int8
                    | Primitive::Int16
                    | Primitive::Int32
                    | Primitive::Int64
                    | Primitive::Uint16
                    | Primitive::Uint32
                    | Primitive::Float64
                    | Primitive::Uuid
            )
        )
        || field.field_type == FieldType::Primitive(Primitive::Records)
}

fn has_trivial_default(field: &Field) -> bool {
    match &field.field_type {
        FieldType::Primitive(Primitive::Records) => true,
        FieldType::Primitive(_) | FieldType::Struct(_) | FieldType::Array(_) => {
            if is_option(field) {
                field.default == "null"
            } else {
                field.default.is_empty()
            }
        }
    }
}

pub(crate) fn default_value(field: &Field) -> String {
    let written = field.default.as_str();
    if field.field_type == FieldType::Primitive(Primitive::Records) || (is_option(field) && written == "null")
    {
        return "None".to_owned();
    }
    let own = match &field.field_type {
        FieldType::Array(_) => "Vec::new()".to_owned(),
        FieldType::Struct(name) => format!("{name}::default()"),
        FieldType::Primitive(primitive) => match primitive {
            Primitive::Bool => if written == "true" { "true" } else { "false" }.to_owned(),
            Primitive::Int8
            | Primitive::Int16
            | Primitive::Int32
            | Primitive::Int64
            | Primitive::Uint16
            | Primitive::Uint32 => if written.is_empty() { "0" } else { written }.to_owned(),
            Primitive::Float64 => format!("{}_f64", if written.is_empty() { "0.0" } else { written }),
            Primitive::Uuid => "TopicId::ZERO".to_owned(),
            Primitive::String => {
                if written.is_empty() {
                    "String::new()".to_owned()
                } else {
                    format!("String::from({written:?})")
                }
            }
            Primitive::Bytes | Primitive::Records => "Bytes::new()".to_owned(),
        },
    };
    if is_option(field) { format!("Some({own})") } else { own }
}

fn rust_type(field: &Field) -> String {
    let own = match &field.field_type {
        FieldType::Array(element) => format!("Vec<{}>", element_type(element)),
        other @ (FieldType::Primitive(_) | FieldType::Struct(_)) => element_type(other),
    };
    if is_option(field) { format!("Option<{own}>") } else { own }
}

pub(crate) fn element_type(element: &FieldType) -> String {
    match element {
        FieldType::Struct(name) => name.clone(),
        FieldType::Array(element) => element_type(element),
        FieldType::Primitive(primitive) => match primitive {
            Primitive::Bool => "bool",
            Primitive::Int8 => "i8",
            Primitive::Int16 => "i16",
            Primitive::Int32 => "i32",
            Primitive::Int64 => "i64",
            Primitive::Uint16 => "u16",
            Primitive::Uint32 => "u32",
            Primitive::Float64 => "f64",
            Primitive::Uuid => "TopicId",
            Primitive::String => "String",
            Primitive::Bytes | Primitive::Records => "Bytes",
        }
        .to_owned(),
    }
}

pub(crate) fn primitive_method(primitive: Primitive) -> &'static str {
    match primitive {
        Primitive::Bool => "bool",
        Primitive::Int8 => "i8",
        Primitive::Int16 => "i16",
        Primitive::Int32 => "i32",
        Primitive::Int64 => "i64",
        Primitive::Uint16 => "u16",
        Primitive::Uint32 => "u32",
        Primitive::Float64 => "f64",
        Primitive::Uuid => "uuid",
        Primitive::String => "string",
        Primitive::Bytes | Primitive::Records => "bytes",
    }
}

fn field_doc(field: &Field) -> String {
    let mut text = format!("`{}`, versions {}", field.name, field.versions);
    if is_option(field) && !field.nullable.is_empty() {
        write_to(&mut text, &format!("; null in {}", field.nullable));
    }
    if !field.tagged.is_empty() {
        write_to(&mut text, &format!("; tag {} in {}", field.tag, field.tagged));
    }
    if !field.default.is_empty() {
        write_to(&mut text, &format!("; {} by default", field.default));
    }
    if field.ignorable {
        text.push_str("; dropped by versions without it");
    }
    text.push('.');
    text
}

fn full_name(owner: &Struct, field: &Field) -> String {
    format!("{}.{}", owner.name, field_name(field))
}

pub(crate) fn field_name(field: &Field) -> String {
    let name = snake_case(&field.name);
    if matches!(name.as_str(), "type" | "match" | "as" | "in" | "ref" | "move" | "use") {
        format!("r#{name}")
    } else {
        name
    }
}

/// `KRaftVersion` → `kraft_version`, `TopicIdPartition` → `topic_id_partition`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut out = String::new();
    let mut was_upper = true;
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            if !was_upper {
                out.push('_');
            }
            was_upper = true;
        } else {
            was_upper = false;
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

pub(crate) fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// Whether `word` stands in `text` as a word of its own.
pub(crate) fn mentions(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|token| token == word)
}

pub(crate) fn line(out: &mut String, depth: usize, text: &str) {
    for _ in 0..depth {
        out.push_str("    ");
    }
    out.push_str(text);
    out.push('\n');
}

fn write_to(out: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _infallible = write!(out, "{text}");
}
