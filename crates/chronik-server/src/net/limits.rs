//! What a client may cost: every bound of the connection layer, by name.

/// Requests of one connection that are being worked on or wait to be sent. Producers pipeline five by default
/// and librdkafka as many as it likes; past this the socket is not read, which costs a pipelining client nothing
/// but a full send buffer.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 128;

/// Answered but unsent bytes of one connection, past which its socket is not read. One answer may be larger.
pub const UNSENT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The longest first frame of a connection, unless it is a Produce. Whatever speaks another protocol is cut off
/// here instead of being given the memory that its first bytes happen to ask for. Produce is let through because
/// clients with a pinned API version open a connection and produce on it without asking anything before.
pub const FIRST_FRAME_BYTES_MAX: usize = 512 * 1024;

/// The shortest request: API key, version and correlation id.
pub const FRAME_BYTES_MIN: usize = 8;

/// How long a frame may take to arrive, besides [`SLOW_SENDER_BYTES_PER_S`].
pub const SLOW_SENDER_MS_MAX: u64 = 60_000;

/// The slowest rate at which a frame may arrive.
pub const SLOW_SENDER_BYTES_PER_S: u64 = 16 * 1024;

/// How long a client may leave its answers unread. Java consumers that no group watches read nothing between two
/// polls, so this is generous as long as nobody waits for the memory.
pub const SLOW_READER_MS_MAX: u64 = 120_000;

/// The same while other connections wait for memory.
pub const SLOW_READER_CONTENDED_MS_MAX: u64 = 10_000;

/// Requests that one connection is given before others have their turn on the thread.
pub const REQUESTS_PER_TURN_MAX: usize = 64;

/// Bytes that one connection is given before others have their turn on the thread.
pub const BYTES_PER_TURN_MAX: usize = 4 * 1024 * 1024;

/// How file regions leave the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSend {
    /// Read into memory, then written together with what surrounds them.
    Copy,
    /// Handed to the kernel by `sendfile`.
    Sendfile,
}

/// The limits of the connection layer; the defaults are those of the named options.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `max.connections`: more wait unaccepted until one closes (KIP-402).
    pub connections_max: usize,
    /// How many the limit on open files leaves room for.
    pub connections_possible_max: usize,
    /// `max.connections.per.ip`: more are closed at once.
    pub connections_per_ip_max: u32,
    /// `socket.request.max.bytes`: a longer frame closes the connection.
    pub frame_bytes_max: usize,
    /// `queued.max.request.bytes`: requests and unsent answers of all connections; sockets are not read past it.
    pub bytes_in_flight_max: u64,
    /// `connections.max.idle.ms`.
    pub idle_ms_max: u64,
    /// [`REQUESTS_IN_FLIGHT_MAX`].
    pub requests_in_flight_max: usize,
    /// [`UNSENT_BYTES_MAX`].
    pub unsent_bytes_max: u64,
    /// [`SLOW_SENDER_MS_MAX`].
    pub slow_sender_ms_max: u64,
    /// [`SLOW_READER_MS_MAX`].
    pub slow_reader_ms_max: u64,
    /// [`SLOW_READER_CONTENDED_MS_MAX`].
    pub slow_reader_contended_ms_max: u64,
    /// Which way file regions are sent. On loopback, and wherever the client shares the machine's cores, a copy
    /// is measured to be faster than `sendfile`.
    pub file_send: FileSend,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: usize::try_from(i32::MAX).unwrap_or(usize::MAX),
            connections_possible_max: usize::MAX,
            connections_per_ip_max: 2_147_483_647,
            frame_bytes_max: 100 * 1024 * 1024,
            bytes_in_flight_max: 256 * 1024 * 1024,
            idle_ms_max: 600_000,
            requests_in_flight_max: REQUESTS_IN_FLIGHT_MAX,
            unsent_bytes_max: UNSENT_BYTES_MAX,
            slow_sender_ms_max: SLOW_SENDER_MS_MAX,
            slow_reader_ms_max: SLOW_READER_MS_MAX,
            slow_reader_contended_ms_max: SLOW_READER_CONTENDED_MS_MAX,
            file_send: FileSend::Copy,
        }
    }
}
