//! Time as an argument. The core never reads a clock: whoever calls it says what time it is.

use std::fmt;

/// Wall-clock milliseconds since 1970-01-01 UTC; what records carry. −1 means "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimestampMs(pub i64);

impl TimestampMs {
    /// "No timestamp", as Kafka writes it.
    pub const NONE: Self = Self(-1);

    /// The bare integer, as it stands on the wire and on disk.
    #[inline]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for TimestampMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Milliseconds on a clock that never goes back; its zero is arbitrary. Timeouts count on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonotonicMs(pub u64);

impl MonotonicMs {
    /// The moment `delay_ms` after this one.
    #[inline]
    #[must_use]
    pub const fn plus_ms(self, delay_ms: u64) -> Self {
        Self(self.0.saturating_add(delay_ms))
    }

    /// Milliseconds from `earlier` to this moment, 0 where `earlier` is later.
    #[inline]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One reading of both clocks, taken by the caller and handed inwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For timeouts and deadlines.
    pub monotonic: MonotonicMs,
    /// For timestamps and retention.
    pub wall: TimestampMs,
}
