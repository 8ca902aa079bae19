//! The first words between two nodes: who speaks, to whom, of which cluster, and by which list of peers.
//!
//! | from the node that connects | |
//! |---|---|
//! | magic `CHRONIKR`, version u16 | so that anything else is seen at once |
//! | frame: stream u8, from i32, to i32, cluster id, list of peers | texts carry their length in 4 bytes; an empty id is none |
//!
//! The other side answers with magic and version too, and a frame: verdict u8, and a text that says what to do where
//! the verdict is a refusal. Every later version begins with the same ten bytes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use chronik_types::NodeId;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::frame::{FrameError, read_frame, write_frame};

const MAGIC: [u8; 8] = *b"CHRONIKR";

/// The version of what nodes say to each other, the handshake included.
const VERSION: u16 = 1;

/// The longest first frame: a list of a thousand nodes fits.
const HELLO_BYTES_MAX: usize = 64 << 10;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    /// Messages of the metadata log, in order.
    Messages,
    /// One snapshot of the metadata, beside the messages.
    Snapshot,
    /// One request of a Kafka client that another node is to answer.
    Request,
}

/// What the node that connects says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) stream: Stream,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    /// The cluster that the node belongs to, once it belongs to one.
    pub(crate) cluster_id: Option<String>,
    /// The list of peers in its one form.
    pub(crate) peers: String,
}

/// Why a node does not speak with another. The text tells both what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: RefusalKind,
    pub(crate) text: String,
}

/// What is at odds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// The lists of peers.
    Peers,
    /// The clusters.
    Cluster,
    /// The connection has come to a node other than the one meant.
    Node,
}

/// Why there is no conversation.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    /// The connection failed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Whoever it is, it is no node of Chronik.
    #[error("the other side does not speak as a node of Chronik")]
    NotChronik,
    /// A node of another version.
    #[error("the other node speaks version {found} of the protocol between nodes, and this one {VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
    /// The words make no sense.
    #[error("the other node's first words cannot be read")]
    Malformed,
}

impl From<std::io::Error> for HandshakeError {
    fn from(error: std::io::Error) -> Self {
        Self::Frame(error.into())
    }
}

/// Says hello, and gives the other side's verdict.
pub(crate) async fn introduce<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    hello: &Hello,
) -> Result<Result<(), Refusal>, HandshakeError> {
    write_opening(stream, &encode_hello(hello)).await?;
    read_opening(stream).await?;
    let answer = read_frame(stream, HELLO_BYTES_MAX).await?;
    decode_verdict(answer).ok_or(HandshakeError::Malformed)
}

/// Hears who has connected.
pub(crate) async fn hear<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<Hello, HandshakeError> {
    let heard = read_opening(stream).await;
    if let Err(HandshakeError::Version { .. }) = heard {
        // So that the other side can name both versions as well.
        write_opening(stream, &[]).await?;
    }
    heard?;
    decode_hello(read_frame(stream, HELLO_BYTES_MAX).await?).ok_or(HandshakeError::Malformed)
}

/// Tells who has connected what it is to expect.
pub(crate) async fn answer<S: AsyncWrite + Unpin>(
    stream: &mut S,
    verdict: &Result<(), Refusal>,
) -> Result<(), HandshakeError> {
    Ok(write_opening(stream, &encode_verdict(verdict)).await?)
}

async fn write_opening<W: AsyncWrite + Unpin>(writer: &mut W, payload: &[u8]) -> std::io::Result<()> {
    let mut opening = Vec::with_capacity(MAGIC.len() + payload.len() + 16);
    opening.extend_from_slice(&MAGIC);
    opening.extend_from_slice(&VERSION.to_be_bytes());
    write_frame(&mut opening, payload).await?;
    writer.write_all(&opening).await?;
    writer.flush().await
}

async fn read_opening<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(), HandshakeError> {
    let mut magic = [0; MAGIC.len()];
    if let Err(error) = reader.read_exact(&mut magic).await {
        return Err(closed(error).into());
    }
    if magic != MAGIC {
        return Err(HandshakeError::NotChronik);
    }
    match reader.read_u16().await {
        Ok(VERSION) => Ok(()),
        Ok(found) => Err(HandshakeError::Version { found }),
        Err(error) => Err(closed(error).into()),
    }
}

fn closed(error: std::io::Error) -> FrameError {
    if error.kind() == std::io::ErrorKind::UnexpectedEof { FrameError::Closed } else { error.into() }
}

fn encode_hello(hello: &Hello) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(match hello.stream {
        Stream::Messages => 0,
        Stream::Snapshot => 1,
        Stream::Request => 2,
    });
    out.put_i32(hello.from.get());
    out.put_i32(hello.to.get());
    put_text(&mut out, hello.cluster_id.as_deref().unwrap_or_default());
    put_text(&mut out, &hello.peers);
    out
}

fn decode_hello(mut bytes: Bytes) -> Option<Hello> {
    let stream = match bytes.try_get_u8().ok()? {
        0 => Stream::Messages,
        1 => Stream::Snapshot,
        2 => Stream::Request,
        _ => return None,
    };
    let from = NodeId(bytes.try_get_i32().ok()?);
    let to = NodeId(bytes.try_get_i32().ok()?);
    let cluster_id = Some(take_text(&mut bytes)?).filter(|id| !id.is_empty());
    let peers = take_text(&mut bytes)?;
    bytes.is_empty().then_some(Hello { stream, from, to, cluster_id, peers })
}

fn encode_verdict(verdict: &Result<(), Refusal>) -> BytesMut {
    let mut out = BytesMut::new();
    match verdict {
        Ok(()) => out.put_u8(0),
        Err(refusal) => {
            out.put_u8(match refusal.kind {
                RefusalKind::Peers => 1,
                RefusalKind::Cluster => 2,
                RefusalKind::Node => 3,
            });
            put_text(&mut out, &refusal.text);
        }
    }
    out
}

fn decode_verdict(mut bytes: Bytes) -> Option<Result<(), Refusal>> {
    let kind = match bytes.try_get_u8().ok()? {
        0 => return bytes.is_empty().then_some(Ok(())),
        1 => RefusalKind::Peers,
        2 => RefusalKind::Cluster,
        3 => RefusalKind::Node,
        _ => return None,
    };
    let text = take_text(&mut bytes)?;
    bytes.is_empty().then_some(Err(Refusal { kind, text }))
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put_slice(text.as_bytes());
}

fn take_text(bytes: &mut Bytes) -> Option<String> {
    let len_bytes = bytes.try_get_u32().ok()? as usize;
    if bytes.len() < len_bytes {
        return None;
    }
    String::from_utf8(bytes.split_to(len_bytes).to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            stream: Stream::Snapshot,
            from: NodeId(0),
            to: NodeId(i32::MAX),
            cluster_id: Some("cluster".to_owned()),
            peers: "1@a:1:2".to_owned(),
        }
    }

    #[test]
    fn hellos_and_verdicts_go_there_and_back() {
        for stream in [Stream::Messages, Stream::Snapshot, Stream::Request] {
            for cluster_id in [None, Some("c".to_owned())] {
                let hello = Hello { stream, cluster_id, ..hello() };
                assert_eq!(decode_hello(encode_hello(&hello).freeze()), Some(hello));
            }
        }
        let mut verdicts = vec![Ok(())];
        for kind in [RefusalKind::Peers, RefusalKind::Cluster, RefusalKind::Node] {
            verdicts.push(Err(Refusal { kind, text: "do this".to_owned() }));
        }
        for verdict in verdicts {
            assert_eq!(decode_verdict(encode_verdict(&verdict).freeze()), Some(verdict));
        }
    }

    #[test]
    fn cut_and_changed_words_never_panic() {
        let bytes = encode_hello(&hello());
        for len in 0..bytes.len() {
            assert_eq!(decode_hello(Bytes::copy_from_slice(&bytes[..len])), None, "{len}");
        }
        for position in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[position] ^= 0xff;
            // Some are other valid words; what matters is that each gives an answer.
            drop(decode_hello(changed.into()));
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(decode_hello(longer.into()), None);
        assert_eq!(decode_verdict(Bytes::from_static(&[9])), None);
    }

    #[test]
    fn strangers_and_other_versions_are_told_apart() {
        let run = |bytes: &'static [u8]| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut near, mut far) = tokio::io::duplex(1 << 10);
                far.write_all(bytes).await.unwrap();
                far.shutdown().await.unwrap();
                hear(&mut near).await.unwrap_err()
            })
        };
        assert!(matches!(run(b"GET / HTTP/1.1\r\n"), HandshakeError::NotChronik));
        assert!(matches!(run(b"CHRONIKR\x00\x02more"), HandshakeError::Version { found: 2 }));
        assert!(matches!(run(b"CHRON"), HandshakeError::Frame(FrameError::Closed)));
    }
}
