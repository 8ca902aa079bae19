//! Further listeners for clients that reach this node by another way than the other nodes do, such as through a
//! published container port.

use std::collections::BTreeSet;
use std::str::FromStr;

use thiserror::Error;

use super::advertise::{Advertise, AdvertiseError};

/// The name of the listener that every node has.
const MAIN: &str = "PLAINTEXT";
/// More listeners than this serve nobody.
const LISTENERS_MAX: usize = 8;
/// The longest name.
const NAME_BYTES_MAX: usize = 64;

/// One further listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalListener {
    /// Its name. Clients that come by it are told the addresses that the nodes advertise for the same name.
    pub name: String,
    /// The port that is listened on.
    pub port: u16,
    /// The host that its clients are told.
    pub advertised_host: String,
    /// The port that its clients are told.
    pub advertised_port: u16,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalListeners(Vec<ExternalListener>);

impl ExternalListeners {
    /// One by one.
    pub fn as_slice(&self) -> &[ExternalListener] {
        &self.0
    }
}

/// Why a text is no list of listeners.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExternalError {
    /// Not the right parts.
    #[error("'{0}' is not of the form NAME:port=host:port")]
    Form(String),
    /// Not a name.
    #[error("'{0}' is no name; one has up to {NAME_BYTES_MAX} of A-Z, 0-9, - and _")]
    Name(String),
    /// The name of the listener that there is anyway.
    #[error("{MAIN} is the name of the listener at kafka.port")]
    Main,
    /// Not a port.
    #[error("'{0}' is no port from 1 to 65535")]
    Port(String),
    /// Not an address.
    #[error("'{text}': {source}")]
    Advertise {
        /// What was written.
        text: String,
        /// What is wrong with it.
        #[source]
        source: AdvertiseError,
    },
    /// The same twice.
    #[error("'{0}' is there twice")]
    Twice(String),
    /// Too many.
    #[error("there are more than {LISTENERS_MAX}")]
    TooMany,
}

impl FromStr for ExternalListeners {
    type Err = ExternalError;

    fn from_str(text: &str) -> Result<Self, ExternalError> {
        let listeners: Vec<ExternalListener> = text.split(',').map(parse_one).collect::<Result<_, _>>()?;
        if listeners.len() > LISTENERS_MAX {
            return Err(ExternalError::TooMany);
        }
        let (mut names, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for listener in &listeners {
            if !names.insert(&listener.name) {
                return Err(ExternalError::Twice(listener.name.clone()));
            }
            if !ports.insert(listener.port) {
                return Err(ExternalError::Twice(listener.port.to_string()));
            }
        }
        Ok(Self(listeners))
    }
}

fn parse_one(entry: &str) -> Result<ExternalListener, ExternalError> {
    let form = || ExternalError::Form(entry.trim().to_owned());
    let (listener, advertised) = entry.trim().split_once('=').ok_or_else(form)?;
    let (name, port) = listener.split_once(':').ok_or_else(form)?;
    let is_name = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'));
    if !is_name {
        return Err(ExternalError::Name(name.to_owned()));
    }
    if name == MAIN {
        return Err(ExternalError::Main);
    }
    let port =
        port.parse().ok().filter(|port| *port != 0).ok_or_else(|| ExternalError::Port(port.to_owned()))?;
    let Advertise { host, port: advertised_port } = advertised
        .parse()
        .map_err(|source| ExternalError::Advertise { text: advertised.to_owned(), source })?;
    let advertised_port = advertised_port.ok_or_else(form)?;
    Ok(ExternalListener { name: name.to_owned(), port, advertised_host: host, advertised_port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&[(&str, u16, &str, u16)], &str>) {
        match (text.parse::<ExternalListeners>(), expected) {
            (Ok(parsed), Ok(expected)) => {
                let told: Vec<_> = parsed
                    .as_slice()
                    .iter()
                    .map(|one| {
                        (one.name.as_str(), one.port, one.advertised_host.as_str(), one.advertised_port)
                    })
                    .collect();
                assert_eq!(told, expected, "{text}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
            (parsed, expected) => panic!("{text}: {parsed:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn listeners() {
        check("EXTERNAL:19092=localhost:9093", Ok(&[("EXTERNAL", 19092, "localhost", 9093)]));
        check("A:1=h:2, B_2:3=[::1]:4", Ok(&[("A", 1, "h", 2), ("B_2", 3, "::1", 4)]));
        check("", Err("form"));
        check("EXTERNAL:19092", Err("form"));
        check("EXTERNAL=localhost:1", Err("form"));
        check("EXTERNAL:1=localhost", Err("form"));
        check("external:1=localhost:1", Err("no name"));
        check("PLAINTEXT:1=localhost:1", Err("kafka.port"));
        check("EXTERNAL:0=localhost:1", Err("no port"));
        check("EXTERNAL:1=local host:1", Err("no host name"));
        check("EXTERNAL:1=0.0.0.0:1", Err("stands for all"));
        check("A:1=h:1,A:2=h:1", Err("'A' is there twice"));
        check("A:1=h:1,B:1=h:1", Err("'1' is there twice"));
        check(&["A:1=h:1"; 9].join(","), Err("more than"));
    }
}
