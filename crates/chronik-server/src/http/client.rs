//! `chronik-server health`: asks a node's HTTP port whether it is ready, for places that have no other client.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// How long the node may take for anything.
const TIMEOUT: Duration = Duration::from_secs(12);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// An address of the form `http://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Host and port.
    authority: String,
    /// The path, with its slash.
    path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("'{text}' should look like http://localhost:9644/health/ready");
        let rest = text.strip_prefix("http://").ok_or_else(form)?;
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, format!("/{path}")),
            None => (rest, "/health/ready".to_owned()),
        };
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let is_clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if port.is_none() || authority.starts_with(':') || !is_clean(authority) || !is_clean(&path) {
            return Err(form());
        }
        Ok(Self { authority: authority.to_owned(), path })
    }
}

/// Why it is not known how the node is.
#[derive(Debug, Error)]
pub enum CheckError {
    /// Nobody answers there.
    #[error("cannot ask http://{authority}: {source}")]
    Unreachable {
        /// Host and port.
        authority: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// What answers is no HTTP server.
    #[error("http://{authority} does not speak HTTP")]
    NotHttp {
        /// Host and port.
        authority: String,
    },
}

/// What a node answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Whether the answer was 200.
    pub is_healthy: bool,
    /// What it said.
    pub body: String,
}

impl HealthCheck {
    /// Asks once.
    pub fn run(url: &Url) -> Result<Self, CheckError> {
        let authority = url.authority.clone();
        let text = exchange(url)
            .map_err(|source| CheckError::Unreachable { authority: authority.clone(), source })?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status =
            head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or(CheckError::NotHttp { authority })?;
        Ok(Self { is_healthy: status == 200, body: body.trim_end().to_owned() })
    }
}

fn exchange(url: &Url) -> io::Result<String> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in url.authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return ask(stream, url),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn ask(mut stream: TcpStream, url: &Url) -> io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let Url { authority, path } = url;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parsed = |text: &str| text.parse::<Url>().map(|url| (url.authority, url.path));
        let ready = |authority: &str| Ok((authority.to_owned(), "/health/ready".to_owned()));
        assert_eq!(parsed("http://localhost:9644"), ready("localhost:9644"));
        assert_eq!(parsed("http://[::1]:9644/health/ready"), ready("[::1]:9644"));
        assert_eq!(parsed("http://a:1/").map(|(_, path)| path), Ok("/".to_owned()));
        for wrong in
            ["", "localhost:9644", "https://a:1", "http://a", "http://:1", "http://a:x", "http://a:1/b c"]
        {
            assert!(parsed(wrong).is_err_and(|error| error.contains("should look like")), "{wrong}");
        }
    }
}
