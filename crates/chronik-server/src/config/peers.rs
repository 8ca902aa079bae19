//! The list of a cluster's first nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chronik_types::NodeId;
use thiserror::Error;

use super::advertise::parse_host;

/// One node of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number: its place in the list, from 1, unless the list names another.
    pub id: NodeId,
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    /// The port for clients and for replication.
    pub kafka_port: u16,
    /// The port for the metadata log.
    pub raft_port: u16,
}

/// The first nodes of a cluster, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers(Vec<Peer>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, host, kafka_port, raft_port } = self;
        if host.contains(':') {
            write!(f, "{id}@[{host}]:{kafka_port}:{raft_port}")
        } else {
            write!(f, "{id}@{host}:{kafka_port}:{raft_port}")
        }
    }
}

impl fmt::Display for Peers {
    /// The list as it can be written in a configuration, with every id named, in one form for all lists that mean
    /// the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, peer) in self.0.iter().enumerate() {
            if 0 < place {
                f.write_str(",")?;
            }
            write!(f, "{peer}")?;
        }
        Ok(())
    }
}

impl Peers {
    /// The nodes by id.
    pub fn as_slice(&self) -> &[Peer] {
        &self.0
    }

    /// The node of this id.
    pub fn get(&self, id: NodeId) -> Option<&Peer> {
        self.0.iter().find(|peer| peer.id == id)
    }
}

/// Why a text is no list of peers.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeersError {
    /// Nothing between two commas.
    #[error("entry {place} is empty")]
    Empty {
        /// Counted from 1.
        place: usize,
    },
    /// Not three parts.
    #[error("'{entry}' is not of the form host:kafka_port:raft_port")]
    Form {
        /// The entry.
        entry: String,
    },
    /// Not a host.
    #[error("'{host}' in '{entry}' is no host name or IP address")]
    Host {
        /// The part in question.
        host: String,
        /// The entry.
        entry: String,
    },
    /// Not a port.
    #[error("'{port}' in '{entry}' is no port from 1 to 65535")]
    Port {
        /// The part in question.
        port: String,
        /// The entry.
        entry: String,
    },
    /// Not an id.
    #[error("'{id}' in '{entry}' is no node id from 0 to 2147483647")]
    Id {
        /// The part in question.
        id: String,
        /// The entry.
        entry: String,
    },
    /// Two nodes of one id.
    #[error("node id {id} stands for both '{first}' and '{second}'")]
    SameId {
        /// The id.
        id: NodeId,
        /// The earlier entry.
        first: String,
        /// The later entry.
        second: String,
    },
    /// One port for two purposes.
    #[error("port {port} of {host} is given twice")]
    SamePort {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
}

impl FromStr for Peers {
    type Err = PeersError;

    fn from_str(text: &str) -> Result<Self, PeersError> {
        let mut by_id: BTreeMap<NodeId, (Peer, &str)> = BTreeMap::new();
        for (place, entry) in (1..).zip(text.split(',').map(str::trim)) {
            let peer = parse_peer(place, entry)?;
            if let Some((_, first)) = by_id.get(&peer.id) {
                return Err(PeersError::SameId {
                    id: peer.id,
                    first: (*first).to_owned(),
                    second: entry.to_owned(),
                });
            }
            let taken = by_id
                .values()
                .filter(|(other, _)| other.host == peer.host)
                .flat_map(|(other, _)| [other.kafka_port, other.raft_port])
                .find(|port| [peer.kafka_port, peer.raft_port].contains(port))
                .or((peer.kafka_port == peer.raft_port).then_some(peer.kafka_port));
            if let Some(port) = taken {
                return Err(PeersError::SamePort { host: peer.host, port });
            }
            by_id.insert(peer.id, (peer, entry));
        }
        Ok(Self(by_id.into_values().map(|(peer, _)| peer).collect()))
    }
}

fn parse_peer(place: i64, entry: &str) -> Result<Peer, PeersError> {
    if entry.is_empty() {
        return Err(PeersError::Empty { place: usize::try_from(place).unwrap_or(usize::MAX) });
    }
    let (id, address) = match entry.split_once('@') {
        Some((id, address)) => (id.to_owned(), address),
        None => (place.to_string(), entry),
    };
    let id = id
        .parse::<i32>()
        .ok()
        .filter(|id| *id >= 0)
        .ok_or_else(|| PeersError::Id { id, entry: entry.to_owned() })?;
    let form = || PeersError::Form { entry: entry.to_owned() };
    let (rest, raft_port) = address.rsplit_once(':').ok_or_else(form)?;
    let (host, kafka_port) = rest.rsplit_once(':').ok_or_else(form)?;
    if host.contains(':') && !host.starts_with('[') {
        return Err(form());
    }
    let port = |text: &str| {
        text.parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| PeersError::Port { port: text.to_owned(), entry: entry.to_owned() })
    };
    let (kafka_port, raft_port) = (port(kafka_port)?, port(raft_port)?);
    // Names are the same in any case, and lists are compared between nodes.
    let host = parse_host(host)
        .ok_or_else(|| PeersError::Host { host: host.to_owned(), entry: entry.to_owned() })?
        .to_ascii_lowercase();
    Ok(Peer { id: NodeId(id), host, kafka_port, raft_port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<Peers>(), expected) {
            (Ok(peers), Ok(expected)) => {
                let shown: Vec<String> = peers
                    .as_slice()
                    .iter()
                    .map(|peer| format!("{}={}:{}:{}", peer.id, peer.host, peer.kafka_port, peer.raft_port))
                    .collect();
                assert_eq!(shown.join(" "), expected, "{text}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
            (parsed, expected) => panic!("{text}: {parsed:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn ids_count_from_one_unless_they_are_named() {
        check(
            "localhost:9092:9192,localhost:9093:9193,localhost:9094:9194",
            Ok("1=localhost:9092:9192 2=localhost:9093:9193 3=localhost:9094:9194"),
        );
        check("node1:9092:9093, node2:9092:9093", Ok("1=node1:9092:9093 2=node2:9092:9093"));
        check("3@c:1:2,a:1:2,0@b:1:2", Ok("0=b:1:2 2=a:1:2 3=c:1:2"));
        check("2147483647@[::1]:1:2", Ok("2147483647=::1:1:2"));
    }

    #[test]
    fn lists_that_mean_the_same_look_the_same() {
        let one: Peers = "a:1:2,b:1:2,7@[::1]:3:4".parse().unwrap();
        let other: Peers = "7@[::1]:3:4, 2@B:1:2 ,1@a:1:2".parse().unwrap();
        assert_eq!(one.to_string(), "1@a:1:2,2@b:1:2,7@[::1]:3:4");
        assert_eq!(other, one);
        assert_eq!(one.to_string().parse::<Peers>(), Ok(one));
    }

    #[test]
    fn what_is_wrong_is_named() {
        check("", Err("entry 1 is empty"));
        check("a:1:2,", Err("entry 2 is empty"));
        check("a:1", Err("'a:1' is not of the form"));
        check("a", Err("form"));
        check("a:1:2:3", Err("form"));
        check("::1:1:2", Err("form"));
        check(":1:2", Err("no host name"));
        check("a b:1:2", Err("no host name"));
        check("a:0:2", Err("'0' in 'a:0:2' is no port"));
        check("a:1:65536", Err("no port"));
        check("a:x:1", Err("no port"));
        check("2147483648@a:1:2", Err("no node id from 0 to 2147483647"));
        check("4294967297@a:1:2", Err("no node id"));
        check("-1@a:1:2", Err("no node id"));
        check("2@a:1:2,b:1:2", Err("node id 2 stands for both '2@a:1:2' and 'b:1:2'"));
        check("a:1:2,A:3:1", Err("port 1 of a is given twice"));
        check("a:1:1", Err("port 1 of a is given twice"));
        check("a:1:2,b:1:2", Ok("1=a:1:2 2=b:1:2"));
    }
}
