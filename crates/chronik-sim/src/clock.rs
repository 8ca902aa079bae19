//! Time in a world: it stands still until the world moves it.

use chronik_types::{MonotonicMs, Now, TimestampMs};

/// The wall clock when the monotonic one is at 0: some day in 2023.
const START_MS: i64 = 1_700_000_000_000;

/// Both clocks of a world, which move together.
#[derive(Clone, Copy, Debug)]
pub struct VirtualClock(Now);

impl Default for VirtualClock {
    fn default() -> Self {
        Self(Now { monotonic: MonotonicMs(0), wall: TimestampMs(START_MS) })
    }
}

impl VirtualClock {
    /// The time.
    pub fn now(&self) -> Now {
        self.0
    }

    /// Moves on to `to`; a time that has passed already changes nothing.
    pub fn advance_to(&mut self, to: MonotonicMs) {
        let passed_ms = to.since_ms(self.0.monotonic);
        let wall_ms = self.0.wall.get().saturating_add_unsigned(passed_ms);
        self.0 = Now { monotonic: self.0.monotonic.plus_ms(passed_ms), wall: TimestampMs(wall_ms) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_move_together_and_never_back() {
        let mut clock = VirtualClock::default();
        clock.advance_to(MonotonicMs(70));
        clock.advance_to(MonotonicMs(50));
        assert_eq!(clock.now().monotonic, MonotonicMs(70));
        assert_eq!(clock.now().wall, TimestampMs(START_MS + 70));
    }
}
