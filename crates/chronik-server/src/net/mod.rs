//! Sockets: accepting clients, reading their requests, sending the answers in order.
//!
//! One task per connection does all of it on one thread: read what has arrived, have the broker run each request
//! to completion, write the answers that are ready. Nothing is handed to another task on the way.

mod budget;
mod connection;
mod file_region;
mod limits;
mod listener;
mod live;
mod log_gate;
mod outbox;
mod registry;
mod sender;
mod service;

pub use budget::{Admission, Budget, Lease, SMALL_FRAME_BYTES_MAX};
pub use limits::*;
pub(crate) use listener::canonical;
pub use listener::{BindError, Gauges, Listener, Socket, SocketOptions, bind};
pub use live::LiveLimits;
pub use service::Service;
