//! The clocks. The core never reads one: everything below the server is told what time it is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use chronik_types::{MonotonicMs, Now, TimestampMs};

/// Reads both clocks. The monotonic one counts from the moment when this was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose monotonic zero is now.
    #[expect(clippy::disallowed_methods, reason = "the one place where the process reads a clock")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// What time it is.
    #[expect(clippy::disallowed_methods, reason = "the one place where the process reads a clock")]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            monotonic: self.monotonic(),
            wall: TimestampMs(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    /// The monotonic part of [`Clock::now`] alone.
    pub fn monotonic(&self) -> MonotonicMs {
        MonotonicMs(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The moment of the standard clock that `moment` stands for; for waiting until it comes.
    pub fn instant_of(&self, moment: MonotonicMs) -> Option<Instant> {
        self.start.checked_add(std::time::Duration::from_millis(moment.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back_and_the_wall_clock_is_of_this_century() {
        let clock = Clock::start();
        let first = clock.now();
        let second = clock.now();
        assert!(first.monotonic <= second.monotonic);
        assert!(first.wall.0 > 1_700_000_000_000, "{:?}", first.wall);
        assert!(clock.instant_of(second.monotonic.plus_ms(5)) > clock.instant_of(first.monotonic));
    }
}
