//! Emits the conversion to and from the JSON form of Kafka's own tools, which tests compare values by.

use crate::rust::{Condition, Scope, mandatory};
use crate::schema::{Field, Message, Struct};
use crate::text::{line, lower_first, mentions, snake_case};
use crate::types::{field_name, is_not_default, is_option};

/// The text of `messages_json.rs`: an implementation of `JsonValue` for every structure.
pub fn json_module(messages: &[Message]) -> String {
    let mut out = String::new();
    for message in messages {
        // A module of its own, so that defaults can name the structures of this message alone.
        let module = snake_case(&message.name);
        line(&mut out, 0, &format!("mod {module} {{"));
        line(&mut out, 1, "use super::prelude::*;");
        line(&mut out, 1, &format!("use super::super::generated::{module}::*;"));
        for owner in &message.structs {
            structure(&mut out, message, owner);
        }
        line(&mut out, 0, "}");
    }
    out
}

fn structure(out: &mut String, message: &Message, owner: &Struct) {
    let scope = Scope::new(message, owner);
    let name = &owner.name;
    line(out, 0, &format!("impl JsonValue for {name} {{"));
    let mut to = String::new();
    let mut from = String::new();
    for field in &owner.fields {
        to_json(&mut to, &scope, owner, field);
        let key = lower_first(&field.name);
        let is_mandatory = scope.condition(mandatory(field)).expression();
        let value = format!("field(node, {name:?}, {key:?}, {is_mandatory}, v)?");
        line(&mut from, 2, &format!("if let Some(value) = {value} {{ m.{} = value; }}", field_name(field)));
    }
    let used = |body: &str| if mentions(body, "v") { "v" } else { "_v" };
    line(out, 1, &format!("fn to_json(&self, {}: i16) -> Result<Value, JsonError> {{", used(&to)));
    line(out, 2, if to.is_empty() { "let o = Map::new();" } else { "let mut o = Map::new();" });
    out.push_str(&to);
    line(out, 2, "Ok(Value::Object(o))");
    line(out, 1, "}");
    line(out, 1, &format!("fn from_json(node: &Value, {}: i16) -> Result<Self, JsonError> {{", used(&from)));
    line(out, 2, "let node = object(node)?;");
    line(out, 2, if from.is_empty() { "let m = Self::default();" } else { "let mut m = Self::default();" });
    out.push_str(&from);
    line(out, 2, "Ok(m)");
    line(out, 1, "}");
    line(out, 0, "}");
}

fn to_json(to: &mut String, scope: &Scope, owner: &Struct, field: &Field) {
    let rust = field_name(field);
    let full_name = format!("{}.{rust}", owner.name);
    let differs = is_not_default(field, "self");
    let present = scope.condition(field.versions);
    if !field.ignorable {
        let refuse = format!("return Err(EncodeError::unsupported({full_name:?}, v).into());");
        match &present {
            Condition::Always => {}
            Condition::Never => line(to, 2, &format!("if {differs} {{ {refuse} }}")),
            Condition::When(condition) => {
                line(to, 2, &format!("if !({condition}) && {differs} {{ {refuse} }}"));
            }
        }
    }
    let mut guards = Vec::new();
    match present {
        Condition::Always => {}
        Condition::Never => return,
        Condition::When(condition) => guards.push(condition),
    }
    match scope.condition(field.tagged) {
        Condition::Always => guards.push(differs),
        Condition::Never => {}
        Condition::When(condition) => guards.push(format!("(!({condition}) || {differs})")),
    }
    let key = lower_first(&field.name);
    let insert = if is_option(field) {
        let null = scope.condition(field.nullable).expression();
        format!("o.insert({key:?}.into(), nullable(self.{rust}.as_ref(), {null}, {full_name:?}, v)?);")
    } else {
        format!("o.insert({key:?}.into(), self.{rust}.to_json(v)?);")
    };
    if guards.is_empty() {
        line(to, 2, &insert);
    } else {
        line(to, 2, &format!("if {} {{ {insert} }}", guards.join(" && ")));
    }
}
