//! The clock, handed in from outside.

use std::sync::Arc;

use chronik_types::Now;

/// Says what time it is. The process gives the real clock, a simulation its own.
///
/// Requests carry their time with them; this is for work that another thread finishes later, such as an append
/// that had to wait for a sync.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Now;
}

/// A clock that many hold.
pub type SharedClock = Arc<dyn Clock>;
