//! The address that clients are told to connect to.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// A host, and a port where it is not the one that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    /// The port, if it was given.
    pub port: Option<u16>,
}

/// Why a text is no address to advertise.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdvertiseError {
    /// `PLAINTEXT://…`, as Kafka writes listeners.
    #[error("it takes no protocol")]
    Protocol,
    /// Several addresses.
    #[error("it takes one address")]
    Several,
    /// Not a port.
    #[error("'{0}' is no port from 1 to 65535")]
    Port(String),
    /// Not a host.
    #[error("'{0}' is no host name or IP address")]
    Host(String),
    /// An address such as 0.0.0.0.
    #[error("no client can connect to '{0}', which stands for all addresses")]
    Unspecified(IpAddr),
}

impl FromStr for Advertise {
    type Err = AdvertiseError;

    fn from_str(text: &str) -> Result<Self, AdvertiseError> {
        if text.contains("://") {
            return Err(AdvertiseError::Protocol);
        }
        if text.contains(',') {
            return Err(AdvertiseError::Several);
        }
        let (host, port) = split_port(text);
        let port = port.map(parse_port).transpose()?;
        let host = parse_host(host).ok_or_else(|| AdvertiseError::Host(host.to_owned()))?;
        match host.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => Err(AdvertiseError::Unspecified(ip)),
            Ok(_) | Err(_) => Ok(Self { host, port }),
        }
    }
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.parse::<Ipv6Addr>().is_ok() {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

fn parse_port(text: &str) -> Result<u16, AdvertiseError> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| AdvertiseError::Port(text.to_owned()))
}

/// Splits `host:port`, `[::1]:port` and `::1`.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if text.parse::<Ipv6Addr>().is_ok() {
        return (text, None);
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    }
}

/// A host name, an IPv4 address, or an IPv6 address with or without brackets, which it loses.
pub(super) fn parse_host(text: &str) -> Option<String> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Some(address) = bracketed {
        return address.parse::<Ipv6Addr>().ok().map(|address| address.to_string());
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Some(address.to_string());
    }
    let is_name = !text.is_empty()
        && text.len() <= 253
        && text.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '_'));
    is_name.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, Option<u16>, &str), &str>) {
        match (text.parse::<Advertise>(), expected) {
            (Ok(parsed), Ok((host, port, shown))) => {
                assert_eq!((parsed.host.as_str(), parsed.port), (host, port), "{text}");
                assert_eq!(parsed.to_string(), shown);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
            (parsed, expected) => panic!("{text}: {parsed:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn hosts_with_and_without_a_port() {
        check("broker1", Ok(("broker1", None, "broker1")));
        check(
            "broker1.example.com:9093",
            Ok(("broker1.example.com", Some(9093), "broker1.example.com:9093")),
        );
        check("10.0.0.1:1", Ok(("10.0.0.1", Some(1), "10.0.0.1:1")));
        check("::1", Ok(("::1", None, "[::1]")));
        check("[fe80::1]:9092", Ok(("fe80::1", Some(9092), "[fe80::1]:9092")));
        check("[::1]", Ok(("::1", None, "[::1]")));
        check("", Err("no host name"));
        check(":9092", Err("no host name"));
        check("a b", Err("no host name"));
        check("host:", Err("no port"));
        check("host:0", Err("no port"));
        check("host:65536", Err("no port"));
        check("host:http", Err("no port"));
        check("PLAINTEXT://host:9092", Err("protocol"));
        check("a:1,b:2", Err("one address"));
        check("0.0.0.0:9092", Err("stands for all"));
        check("::", Err("stands for all"));
        check("[nonsense]:1", Err("no host name"));
    }
}
