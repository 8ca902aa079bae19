//! Kafka's settings that say in one what Chronik's say in several, or in other words.

use super::load::{ConfigError, Origin, Written};

/// Their names.
pub(super) const TRANSLATED: &[&str] = &["advertised.listeners", "listeners", "log.dirs"];

/// The settings that `listeners` is read with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context<'a> {
    /// `listener.security.protocol.map`.
    pub(super) protocols: &'a str,
    /// `controller.listener.names`.
    pub(super) controllers: &'a str,
}

/// What a setting of [`TRANSLATED`] comes to in Chronik's words.
pub(super) fn translate(
    name: &str,
    value: &str,
    context: Context<'_>,
    origin: &Origin,
) -> Result<Vec<(&'static str, String)>, ConfigError> {
    let refuse = |form: &str| ConfigError::Value {
        written: Written { name: name.to_owned(), origin: origin.clone() },
        value: value.to_owned(),
        form: form.to_owned(),
        detail: None,
    };
    if value.is_empty() {
        return Ok(Vec::new());
    }
    match name {
        "log.dirs" if value.contains(',') => {
            Err(refuse("one directory, as Chronik keeps everything that it has in one"))
        }
        "log.dirs" => Ok(vec![("data.dir", value.to_owned())]),
        _ => {
            let form = "a list such as PLAINTEXT://host:9092, with a listener for clients without encryption";
            let (host, port) = plain_listener(value, context).ok_or_else(|| refuse(form))?;
            if name == "advertised.listeners" {
                return Ok(vec![("advertise", format!("{host}:{port}"))]);
            }
            let host = if host.is_empty() { "::" } else { host };
            Ok(vec![("bind", host.to_owned()), ("kafka.port", port.to_string())])
        }
    }
}

/// Host and port of the first listener that speaks without encryption to clients.
fn plain_listener<'a>(value: &'a str, context: Context<'_>) -> Option<(&'a str, u16)> {
    let protocol_of = |listener: &str| -> String {
        let mapped = context.protocols.split(',').filter_map(|entry| entry.trim().split_once(':'));
        let found = mapped.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(listener));
        found.map_or(listener, |(_, protocol)| protocol.trim()).to_ascii_uppercase()
    };
    value.split(',').find_map(|listener| {
        let (name, address) = listener.trim().split_once("://")?;
        let is_controller =
            context.controllers.split(',').any(|controller| controller.trim().eq_ignore_ascii_case(name));
        if is_controller || protocol_of(name) != "PLAINTEXT" {
            return None;
        }
        let (host, port) = address.rsplit_once(':')?;
        Some((host, port.parse().ok()?))
    })
}
