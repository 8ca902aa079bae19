//! One client's connection: a future that reads requests, has them run, and sends the answers.
//!
//! Small frames are read many at a time into a buffer that the thread's connections share, and each is copied
//! once into memory of exactly its length: an idle connection owns no buffer, and a small frame that is parked
//! or kept by a log does not keep a large buffer alive. A frame that does not end in that buffer is read straight
//! into memory of its length. After a large frame, only the length of the next is read into the shared buffer, so
//! that a stream of large frames is never copied.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, BytesMut};
use chronik_broker::{Connection, Reply};
use thiserror::Error;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use super::budget::{Admission, Budget, Lease};
use super::limits::{
    BYTES_PER_TURN_MAX, FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MIN, Limits, REQUESTS_PER_TURN_MAX,
    SLOW_SENDER_BYTES_PER_S,
};
use super::log_gate::LogGate;
use super::outbox::{Outbox, Taken};
use super::registry::{Phase, Place};
use super::sender::Sender;
use super::service::Service;
use crate::clock::Clock;
use crate::metrics::{Outcome, RequestStats};
use crate::threads::panic_text;

/// The buffer that the connections of a thread read small frames into.
const SHARED_BUFFER_BYTES: usize = 64 * 1024;

/// A frame of this length or more is followed by a read of [`AFTER_LARGE_BYTES`] only.
const LARGE_FRAME_BYTES: usize = 16 * 1024;

/// What is read into the shared buffer after a large frame.
const AFTER_LARGE_BYTES: usize = 64;

/// The length before each frame.
const LENGTH_BYTES: usize = 4;

/// The API key of Produce.
const PRODUCE: i16 = 0;

thread_local! {
    static SHARED_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) service: Arc<dyn Service>,
    pub(crate) limits: Limits,
    pub(crate) budget: Arc<Budget>,
    pub(crate) clock: Clock,
    pub(crate) stats: Arc<RequestStats>,
    /// Lets through some of the lines about clients that misbehave.
    pub(crate) client_faults: LogGate,
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum CloseReason {
    #[error("the client closed it")]
    ClientClosed,
    #[error("reading from it failed: {0}")]
    Receive(#[source] io::Error),
    #[error("writing to it failed: {0}")]
    Send(#[source] io::Error),
    #[error(
        "the client announced a request of {length} bytes, and the limit is {max} (socket.request.max.bytes)"
    )]
    FrameTooLong { length: i64, max: usize },
    #[error(
        "the client announced a request of {length} bytes, which is too short for one; it may speak another \
         protocol than Kafka's"
    )]
    FrameTooShort { length: i64 },
    #[error(
        "its first request is of {length} bytes and no Produce; the limit for that is {FIRST_FRAME_BYTES_MAX}. \
         The client may speak another protocol than Kafka's"
    )]
    FirstFrameTooLong { length: i64 },
    #[error("nothing happened on it for {0} ms (connections.max.idle.ms)")]
    Idle(u64),
    #[error("a request did not arrive in full in time")]
    SlowSender,
    #[error("the client did not read its answers for {0} ms")]
    SlowReader(u64),
    #[error("{0}")]
    Broker(String),
    #[error("a request was dropped unanswered")]
    Unanswered,
    #[error("the handler of a request panicked: {0}")]
    HandlerPanicked(String),
    #[error("this node is shutting down")]
    ShuttingDown,
}

/// Runs a connection until it ends.
pub(crate) async fn run(
    shared: Arc<Shared>,
    place: Place,
    stream: TcpStream,
    local: SocketAddr,
    peer: SocketAddr,
    listener: Option<Arc<str>>,
) {
    let connection = Arc::new(Connection::new(place.id(), local, peer).by_listener(listener));
    let mut task = Task::new(shared, place, stream, connection);
    let reason = poll_fn(|cx| task.poll(cx)).await;
    log_end(&task.shared, &task.connection, &reason);
}

fn log_end(shared: &Shared, connection: &Connection, reason: &CloseReason) {
    let (id, peer) = (connection.id, connection.peer);
    match reason {
        CloseReason::ClientClosed
        | CloseReason::Receive(_)
        | CloseReason::Send(_)
        | CloseReason::Idle(_)
        | CloseReason::ShuttingDown => tracing::debug!("Closed connection {id} from {peer}: {reason}"),
        CloseReason::FrameTooLong { .. }
        | CloseReason::FrameTooShort { .. }
        | CloseReason::FirstFrameTooLong { .. }
        | CloseReason::SlowSender
        | CloseReason::SlowReader(_)
        | CloseReason::Broker(_)
        | CloseReason::Unanswered => shared.client_faults.log(shared.clock.monotonic(), || {
            tracing::warn!("Closed connection {id} from {peer}: {reason}");
        }),
        CloseReason::HandlerPanicked(_) => tracing::error!("Closed connection {id} from {peer}: {reason}"),
    }
}

struct Task {
    shared: Arc<Shared>,
    place: Place,
    connection: Arc<Connection>,
    outbox: Arc<Outbox>,
    stream: TcpStream,
    sender: Sender,
    receiver: Receiver,
    /// Why the connection ends once everything before has been sent.
    closing: Option<CloseReason>,
    deadlines: Deadlines,
}

/// The receiving side.
struct Receiver {
    /// Bytes that have arrived and are not yet part of a frame. Empty while a frame is being read.
    stash: BytesMut,
    frame: Option<PartialFrame>,
    /// A frame of so many bytes waits for memory.
    waiting: Option<(usize, oneshot::Receiver<Lease>)>,
    /// A request of this connection has been answered, so it is a Kafka client.
    proved: bool,
    after_large: bool,
}

struct PartialFrame {
    bytes: BytesMut,
    length: usize,
    lease: Lease,
}

impl PartialFrame {
    fn missing(&self) -> usize {
        self.length.saturating_sub(self.bytes.len())
    }
}

/// When things last moved, to tell what has stopped.
struct Deadlines {
    sleep: Pin<Box<Sleep>>,
    active_at: Instant,
    sent_at: Instant,
    /// Since when a frame has been arriving while its socket was being read.
    frame_since: Option<Instant>,
}

/// What one turn of a connection on its thread has used up.
#[derive(Default)]
struct Turn {
    requests: usize,
    bytes: usize,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.requests >= REQUESTS_PER_TURN_MAX || self.bytes >= BYTES_PER_TURN_MAX
    }
}

impl Task {
    fn new(shared: Arc<Shared>, place: Place, stream: TcpStream, connection: Arc<Connection>) -> Self {
        let now = Instant::now();
        let sender = Sender::new(Arc::clone(&shared.budget), shared.limits.file_send);
        let idle = Duration::from_millis(shared.limits.idle_ms_max);
        Self {
            outbox: Arc::clone(place.outbox()),
            place,
            connection,
            stream,
            sender,
            receiver: Receiver {
                stash: BytesMut::new(),
                frame: None,
                waiting: None,
                proved: false,
                after_large: false,
            },
            closing: None,
            deadlines: Deadlines {
                sleep: Box::pin(tokio::time::sleep(idle)),
                active_at: now,
                sent_at: now,
                frame_since: None,
            },
            shared,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        match self.poll_turn(cx) {
            Ok(()) => Poll::Pending,
            Err(reason) => Poll::Ready(reason),
        }
    }

    /// Does all that can be done now. On return the task is sure to be woken when there is more.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let mut turn = Turn::default();
        loop {
            let collected = self.collect();
            let sent = self.poll_send(cx)?;
            self.check_end()?;
            let received = self.closing.is_none()
                && self.place.phase() == Phase::Open
                && self.has_room()
                && self.poll_receive(cx, &mut turn)?;
            if turn.is_over() {
                cx.waker().wake_by_ref();
                return Ok(());
            }
            if collected || sent || received {
                continue;
            }
            if !self.poll_deadlines(cx)? && self.outbox.sleep(cx.waker(), self.can_take()) {
                return Ok(());
            }
        }
    }

    /// Moves the answers that are ready to the sender.
    fn collect(&mut self) -> bool {
        let mut any = false;
        while self.can_take()
            && let Some(taken) = self.outbox.take_front()
        {
            any = true;
            match taken {
                Taken::Response(response, lease) => {
                    self.receiver.proved = true;
                    if self.sender.is_empty() {
                        self.deadlines.sent_at = Instant::now();
                    }
                    self.sender.push(response, lease);
                }
                Taken::Nothing => self.receiver.proved = true,
                Taken::Close(reason) => self.closing = Some(CloseReason::Broker(reason)),
                Taken::Dropped => self.closing = Some(CloseReason::Unanswered),
            }
        }
        any
    }

    /// Whether the sender has room for another answer.
    fn can_take(&self) -> bool {
        self.closing.is_none() && self.sender.queued_bytes() < self.shared.limits.unsent_bytes_max
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if self.sender.is_empty() {
            return Ok(false);
        }
        match self.sender.poll_send(&mut self.stream, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(CloseReason::Send(error)),
            Poll::Ready(Ok(_)) => {
                let now = Instant::now();
                self.deadlines.sent_at = now;
                self.deadlines.active_at = now;
                Ok(true)
            }
        }
    }

    /// Whether the connection has come to its end.
    fn check_end(&mut self) -> Result<(), CloseReason> {
        let phase = self.place.phase();
        if phase == Phase::Aborting {
            return Err(CloseReason::ShuttingDown);
        }
        if !self.sender.is_empty() {
            return Ok(());
        }
        if let Some(reason) = self.closing.take() {
            return Err(reason);
        }
        if phase == Phase::Draining && self.outbox.open_count() == 0 {
            return Err(CloseReason::ShuttingDown);
        }
        Ok(())
    }

    /// Whether this connection may have another request worked on.
    fn has_room(&self) -> bool {
        let limits = &self.shared.limits;
        let unsent_bytes = self.sender.queued_bytes().saturating_add(self.outbox.answered_bytes());
        unsent_bytes < limits.unsent_bytes_max && self.outbox.open_count() < limits.requests_in_flight_max
    }

    /// Takes one step in reading and running requests; true if it got anywhere.
    fn poll_receive(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Result<bool, CloseReason> {
        if let Some((length, waiting)) = &mut self.receiver.waiting {
            let length = *length;
            match Pin::new(waiting).poll(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(lease) => {
                    self.receiver.waiting = None;
                    // The budget never drops whom it has not served.
                    let lease = lease.map_err(|_| CloseReason::ShuttingDown)?;
                    self.begin_frame(length, lease);
                }
            }
        }
        if !self.receiver.stash.is_empty() && !self.only_length_missing() {
            let stash = self.receiver.stash.split();
            let consumed = self.consume(&stash, turn)?;
            self.receiver.stash = stash;
            self.receiver.stash.advance(consumed);
            if self.receiver.stash.is_empty() {
                self.receiver.stash = BytesMut::new();
            }
            if consumed > 0 || self.receiver.waiting.is_some() {
                return Ok(true);
            }
        }
        self.poll_socket(cx, turn)
    }

    /// Whether what is stashed is too little to tell the next frame's length, so that more must be read first.
    fn only_length_missing(&self) -> bool {
        self.receiver.stash.len() < LENGTH_BYTES
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Result<bool, CloseReason> {
        if let Some(frame) = &mut self.receiver.frame {
            let missing = frame.missing();
            let stream = Pin::new(&mut self.stream);
            match poll_read_buf(stream, cx, &mut (&mut frame.bytes).limit(missing)) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) => return Err(CloseReason::Receive(error)),
                Poll::Ready(Ok(0)) => return Err(CloseReason::ClientClosed),
                Poll::Ready(Ok(read)) => turn.bytes += read,
            }
            if frame.missing() == 0 {
                self.finish_frame(turn)?;
            }
            return Ok(true);
        }

        let mut shared =
            SHARED_BUFFER.take().unwrap_or_else(|| vec![0; SHARED_BUFFER_BYTES].into_boxed_slice());
        let outcome = self.poll_shared(cx, turn, &mut shared);
        SHARED_BUFFER.set(Some(shared));
        outcome
    }

    fn poll_shared(
        &mut self,
        cx: &mut Context<'_>,
        turn: &mut Turn,
        shared: &mut [u8],
    ) -> Result<bool, CloseReason> {
        let stashed = self.receiver.stash.len();
        let end = if self.receiver.after_large { stashed + AFTER_LARGE_BYTES } else { shared.len() };
        let Some(room) = shared.get_mut(..end) else {
            // More is stashed than the buffer holds, which waits for room or memory and not for the socket.
            return Ok(false);
        };
        let mut buffer = ReadBuf::new(room);
        buffer.put_slice(&self.receiver.stash);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(error)) => return Err(CloseReason::Receive(error)),
            Poll::Ready(Ok(())) => {}
        }
        let filled = buffer.filled();
        if filled.len() == stashed {
            return Err(CloseReason::ClientClosed);
        }
        turn.bytes += filled.len() - stashed;
        self.deadlines.active_at = Instant::now();
        self.receiver.stash = BytesMut::new();
        self.receiver.after_large = false;
        let consumed = self.consume(filled, turn)?;
        if let Some(rest) = filled.get(consumed..)
            && !rest.is_empty()
        {
            self.receiver.stash = BytesMut::from(rest);
        }
        Ok(true)
    }

    /// Cuts frames out of `input` and runs them, as far as it goes. Returns how many bytes it has dealt with.
    fn consume(&mut self, input: &[u8], turn: &mut Turn) -> Result<usize, CloseReason> {
        let mut rest = input;
        while !rest.is_empty() && self.receiver.waiting.is_none() {
            if let Some(frame) = &mut self.receiver.frame {
                let taken = frame.missing().min(rest.len());
                let (head, tail) = rest.split_at(taken);
                frame.bytes.extend_from_slice(head);
                rest = tail;
                if frame.missing() == 0 {
                    self.finish_frame(turn)?;
                }
                continue;
            }
            if turn.is_over() || !self.has_room() {
                break;
            }
            let Some(length) = self.frame_length(rest)? else { break };
            rest.advance(LENGTH_BYTES);
            match self.shared.budget.acquire(length as u64) {
                Admission::Granted(lease) => self.begin_frame(length, lease),
                Admission::Waiting(receiver) => self.receiver.waiting = Some((length, receiver)),
            }
        }
        Ok(input.len() - rest.len())
    }

    /// The length of the frame that `input` begins with, or `None` if more must be seen.
    fn frame_length(&self, mut input: &[u8]) -> Result<Option<usize>, CloseReason> {
        let Ok(length) = input.try_get_i32() else { return Ok(None) };
        let announced = i64::from(length);
        let max = self.shared.limits.frame_bytes_max;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length >= FRAME_BYTES_MIN)
            .ok_or(CloseReason::FrameTooShort { length: announced })?;
        if length > max {
            return Err(CloseReason::FrameTooLong { length: announced, max });
        }
        if !self.receiver.proved && length > FIRST_FRAME_BYTES_MAX {
            let Ok(api_key) = input.try_get_i16() else { return Ok(None) };
            if api_key != PRODUCE {
                return Err(CloseReason::FirstFrameTooLong { length: announced });
            }
        }
        Ok(Some(length))
    }

    fn begin_frame(&mut self, length: usize, lease: Lease) {
        self.receiver.frame = Some(PartialFrame { bytes: BytesMut::with_capacity(length), length, lease });
        self.deadlines.frame_since = None;
    }

    fn finish_frame(&mut self, turn: &mut Turn) -> Result<(), CloseReason> {
        let Some(PartialFrame { bytes, length, lease }) = self.receiver.frame.take() else { return Ok(()) };
        self.receiver.after_large = length >= LARGE_FRAME_BYTES;
        self.deadlines.frame_since = None;
        self.deadlines.active_at = Instant::now();
        turn.requests += 1;
        let ticket = self.outbox.open(lease);
        let now = self.shared.clock.now();
        catch_unwind(AssertUnwindSafe(|| {
            let counted = Counted::of(&self.shared.stats, &bytes, self.deadlines.active_at);
            let responder = Box::new(move |reply| {
                counted.end(&reply);
                ticket.answer(reply);
            });
            self.shared.service.handle(now, &self.connection, bytes, responder);
        }))
        .map_err(|panic| CloseReason::HandlerPanicked(panic_text(panic.as_ref())))
    }

    /// Sees to what has stopped moving. True if the task must look around once more before it sleeps.
    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let deadline = self.next_deadline()?;
        if deadline < self.deadlines.sleep.deadline() {
            self.deadlines.sleep.as_mut().reset(deadline);
        }
        if self.deadlines.sleep.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        // It was armed for something that has moved since, or for what `next_deadline` finds to be over.
        let deadline = self.next_deadline()?.max(Instant::now() + Duration::from_millis(1));
        self.deadlines.sleep.as_mut().reset(deadline);
        Ok(true)
    }

    /// When to look for a standstill next; an error if there is one now.
    fn next_deadline(&mut self) -> Result<Instant, CloseReason> {
        let now = Instant::now();
        let limits = &self.shared.limits;
        let idle = Duration::from_millis(limits.idle_ms_max);

        if !self.sender.is_empty() {
            let contended_ms = limits.slow_reader_contended_ms_max;
            let contended = self.shared.budget.waiting_count() > 0;
            let allowed_ms = if contended { contended_ms } else { limits.slow_reader_ms_max };
            if self.deadlines.sent_at + Duration::from_millis(allowed_ms) <= now {
                return Err(CloseReason::SlowReader(allowed_ms));
            }
            self.deadlines.frame_since = None;
            return Ok(now + Duration::from_millis(contended_ms.min(allowed_ms)));
        }
        let arriving = self.receiver.waiting.is_none()
            && self.has_room()
            && (self.receiver.frame.is_some() || !self.receiver.stash.is_empty());
        if arriving {
            let length = self.receiver.frame.as_ref().map_or(0, |frame| frame.length);
            let for_length_ms = (length as u64).saturating_mul(1000) / SLOW_SENDER_BYTES_PER_S;
            let since = *self.deadlines.frame_since.get_or_insert(now);
            let deadline =
                since + Duration::from_millis(limits.slow_sender_ms_max.saturating_add(for_length_ms));
            return if deadline <= now { Err(CloseReason::SlowSender) } else { Ok(deadline) };
        }
        self.deadlines.frame_since = None;
        if self.receiver.waiting.is_some() || self.outbox.open_count() > 0 {
            // Whoever waits for the broker is not idle, however long it takes.
            self.deadlines.active_at = now;
        }
        let deadline = self.deadlines.active_at + idle;
        if deadline <= now { Err(CloseReason::Idle(limits.idle_ms_max)) } else { Ok(deadline) }
    }
}

/// What the counters need to know of a request once it ends.
struct Counted {
    stats: Arc<RequestStats>,
    api_key: i16,
    request_bytes: u64,
    arrived_at: Instant,
}

impl Counted {
    fn of(stats: &Arc<RequestStats>, frame: &BytesMut, arrived_at: Instant) -> Self {
        // Every frame is long enough for its key; one that were not would be counted with the unknown ones.
        let api_key = frame.first_chunk().map_or(-1, |key| i16::from_be_bytes(*key));
        Self { stats: Arc::clone(stats), api_key, request_bytes: frame.len() as u64, arrived_at }
    }

    fn end(self, reply: &Reply) {
        let (outcome, response_bytes) = match reply {
            Reply::Response(response) => (Outcome::Answered, response.len_bytes()),
            Reply::Nothing => (Outcome::Answered, 0),
            Reply::Close(_) => (Outcome::Closed, 0),
        };
        let latency = self.arrived_at.elapsed();
        self.stats.ended(self.api_key, outcome, latency, self.request_bytes, response_bytes);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.outbox.close();
        self.connection.mark_closed();
        let now = self.shared.clock.now();
        self.shared.service.connection_closed(now, &self.connection);
    }
}
