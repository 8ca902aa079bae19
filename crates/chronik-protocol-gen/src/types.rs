//! What a field becomes in Rust: its name, its type, its default.

use crate::schema::{Field, FieldType, Primitive, Struct};
use crate::text::{snake_case, write_to};

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

pub(crate) fn has_trivial_default(field: &Field) -> bool {
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

pub(crate) fn rust_type(field: &Field) -> String {
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

pub(crate) fn field_doc(field: &Field) -> String {
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

pub(crate) fn full_name(owner: &Struct, field: &Field) -> String {
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
