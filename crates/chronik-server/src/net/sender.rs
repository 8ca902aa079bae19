//! Sends the answers of one connection: many parts and many answers in one system call.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use chronik_broker::{Response, ResponsePart};
use chronik_disk::DiskFile;
use tokio::io::{AsyncWrite as _, Interest};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::budget::{Budget, Lease};
use super::file_region::{self, CHUNK_BYTES_MAX, ChunkBuffer, Reading};
use super::limits::FileSend;

/// Parts that one system call takes. Linux allows 1,024; past some dozens the call's own cost no longer shows.
const SLICES_MAX: usize = 64;

/// What is on its way to one client.
#[derive(Debug)]
pub(crate) struct Sender {
    budget: Arc<Budget>,
    file_send: FileSend,
    queue: VecDeque<Part>,
    queued_bytes: u64,
    /// The chunk at the front of the first file region, being read where waiting is allowed.
    cold_read: Option<JoinHandle<io::Result<(ChunkBuffer, usize)>>>,
}

/// Something to send. The last part of an answer carries the answer's lease.
#[derive(Debug)]
struct Part {
    data: Data,
    lease: Option<Lease>,
}

enum Data {
    Bytes(Bytes),
    Chunk { buffer: ChunkBuffer, start: usize, end: usize },
    File { file: Arc<dyn DiskFile>, position: u64, len_bytes: u64 },
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Chunk { start, end, .. } => write!(f, "Chunk({start}..{end})"),
            Self::File { position, len_bytes, .. } => write!(f, "File({position}+{len_bytes})"),
        }
    }
}

impl Data {
    /// What can be written from memory; empty for a file.
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Chunk { buffer, start, end } => buffer.bytes().get(*start..*end).unwrap_or_default(),
            Self::File { .. } => &[],
        }
    }
}

impl Sender {
    pub(crate) fn new(budget: Arc<Budget>, file_send: FileSend) -> Self {
        Self { budget, file_send, queue: VecDeque::new(), queued_bytes: 0, cold_read: None }
    }

    /// Bytes still to be sent, file regions included.
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// Whether all has been sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Puts an answer at the end of the queue. `lease` is held until its last byte has been written.
    pub(crate) fn push(&mut self, response: Response, lease: Lease) {
        for part in response.parts {
            let len_bytes = part.len_bytes();
            if len_bytes == 0 {
                continue;
            }
            self.queued_bytes = self.queued_bytes.saturating_add(len_bytes);
            let data = match part {
                ResponsePart::Bytes(bytes) => Data::Bytes(bytes),
                ResponsePart::File { file, position, len_bytes } => Data::File { file, position, len_bytes },
            };
            self.queue.push_back(Part { data, lease: None });
        }
        if let Some(last) = self.queue.back_mut()
            && last.lease.is_none()
        {
            last.lease = Some(lease);
        }
    }

    /// Sends what the socket takes. `Ready` tells how many bytes went out, `Pending` that none did and the task
    /// is woken when some may.
    pub(crate) fn poll_send(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<u64>> {
        let mut sent_bytes = 0;
        while !self.queue.is_empty() {
            match self.poll_step(stream, cx) {
                Poll::Ready(Ok(written)) => sent_bytes += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if sent_bytes == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(sent_bytes))
    }

    fn poll_step(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        if self.file_send == FileSend::Sendfile
            && let Some(Part { data: Data::File { file, position, len_bytes }, .. }) = self.queue.front()
            && file_region::can_sendfile(file.as_ref())
        {
            let len_bytes = clamp_chunk(*len_bytes);
            let sent = ready!(poll_sendfile(stream, cx, file.as_ref(), *position, len_bytes))?;
            if sent == 0 {
                return Poll::Ready(Err(file_ended(*position)));
            }
            self.advance(sent);
            return Poll::Ready(Ok(sent as u64));
        }
        ready!(self.poll_load(cx))?;

        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut slice_count = 0;
        for (slice, part) in slices.iter_mut().zip(&self.queue) {
            let bytes = part.data.bytes();
            if bytes.is_empty() {
                break;
            }
            *slice = IoSlice::new(bytes);
            slice_count += 1;
        }
        let slices = slices.get(..slice_count).unwrap_or_default();
        let written = ready!(Pin::new(stream).poll_write_vectored(cx, slices))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(written as u64))
    }

    /// Brings a chunk of the first file region into memory, if little of what stands before it is left to send.
    /// `Pending` only when nothing can be sent before that chunk is there.
    fn poll_load(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let first_file = self.queue.iter().position(|part| matches!(part.data, Data::File { .. }));
        let Some(index) = first_file else { return Poll::Ready(Ok(())) };
        let before_bytes: usize = self.queue.iter().take(index).map(|part| part.data.bytes().len()).sum();
        if self.file_send == FileSend::Sendfile && before_bytes > 0 || before_bytes >= CHUNK_BYTES_MAX {
            return Poll::Ready(Ok(()));
        }
        let Some(Part { data: Data::File { file, position, len_bytes }, .. }) = self.queue.get(index) else {
            return Poll::Ready(Ok(()));
        };
        let (position, wanted) = (*position, clamp_chunk(*len_bytes));

        let (buffer, read) = if let Some(reading) = &mut self.cold_read {
            match Pin::new(reading).poll(cx) {
                Poll::Pending if before_bytes > 0 => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(done) => {
                    self.cold_read = None;
                    done.map_err(io::Error::other)??
                }
            }
        } else {
            let mut buffer = ChunkBuffer::new(wanted);
            let into = buffer.bytes_mut().get_mut(..wanted).unwrap_or_default();
            match file_region::read_now(file.as_ref(), into, position)? {
                Reading::Read(read) => (buffer, read),
                Reading::Cold => {
                    drop(buffer);
                    let file = Arc::clone(file);
                    let read = move || file_region::read_waiting(&file, position, wanted);
                    self.cold_read = Some(tokio::task::spawn_blocking(read));
                    return self.poll_load(cx);
                }
            }
        };
        if read == 0 {
            return Poll::Ready(Err(file_ended(position)));
        }
        self.put_chunk(index, buffer, read);
        Poll::Ready(Ok(()))
    }

    /// Puts a chunk before the file region that it is the beginning of, or in its place if it is all of it.
    fn put_chunk(&mut self, index: usize, buffer: ChunkBuffer, read: usize) {
        let memory = self.budget.count(buffer.bytes().len() as u64);
        let data = Data::Chunk { buffer, start: 0, end: read };
        let Some(region) = self.queue.get_mut(index) else { return };
        if let Data::File { position, len_bytes, .. } = &mut region.data {
            *position = position.saturating_add(read as u64);
            *len_bytes = len_bytes.saturating_sub(read as u64);
            if *len_bytes == 0 {
                region.data = data;
                match &mut region.lease {
                    Some(lease) => lease.absorb(memory),
                    none => *none = Some(memory),
                }
                return;
            }
        }
        self.queue.insert(index, Part { data, lease: Some(memory) });
    }

    fn advance(&mut self, mut written: usize) {
        self.queued_bytes = self.queued_bytes.saturating_sub(written as u64);
        while written > 0
            && let Some(part) = self.queue.front_mut()
        {
            let left = match &mut part.data {
                Data::Bytes(bytes) => {
                    let taken = written.min(bytes.len());
                    bytes.advance(taken);
                    written -= taken;
                    bytes.len() as u64
                }
                Data::Chunk { start, end, .. } => {
                    let taken = written.min(*end - *start);
                    *start += taken;
                    written -= taken;
                    (*end - *start) as u64
                }
                Data::File { position, len_bytes, .. } => {
                    let taken = (written as u64).min(*len_bytes);
                    *position += taken;
                    *len_bytes -= taken;
                    written = 0;
                    *len_bytes
                }
            };
            if left > 0 {
                break;
            }
            self.queue.pop_front();
        }
    }
}

fn clamp_chunk(len_bytes: u64) -> usize {
    usize::try_from(len_bytes).map_or(CHUNK_BYTES_MAX, |len| len.min(CHUNK_BYTES_MAX))
}

fn file_ended(position: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("a segment file ended at byte {position} while a region of it was being sent"),
    )
}

#[cfg(target_os = "linux")]
fn poll_sendfile(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    file: &dyn DiskFile,
    position: u64,
    len_bytes: usize,
) -> Poll<io::Result<usize>> {
    use rustix::fd::AsFd as _;
    loop {
        ready!(stream.poll_write_ready(cx))?;
        let send = || file_region::sendfile(stream.as_fd(), file, position, len_bytes);
        match stream.try_io(Interest::WRITABLE, send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return Poll::Ready(other),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn poll_sendfile(
    _stream: &TcpStream,
    _cx: &mut Context<'_>,
    _file: &dyn DiskFile,
    _position: u64,
    _len_bytes: usize,
) -> Poll<io::Result<usize>> {
    Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
}
