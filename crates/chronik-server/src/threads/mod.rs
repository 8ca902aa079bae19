//! The threads beside those that serve connections. Each has a duty, which others hand in.

mod controller;
mod fsync;
mod maintenance;
mod metadata;
mod timers;
mod worker;

pub use controller::start_controller;
pub use fsync::start_fsync;
pub use maintenance::{MAINTENANCE_INTERVAL_MS, start_maintenance};
pub use metadata::{MetadataThread, start_metadata};
pub use timers::start_timers;
pub use worker::{Duty, OnPanic, Waker, Worker};

pub(crate) use worker::panic_text;
