//! Bounding the cleaner's reads and writes (`log.cleaner.io.max.bytes.per.second`), without a clock and without
//! sleeping: each piece of work moves the time before which the next one is not to begin.

use chronik_types::MonotonicMs;

/// When the next piece of work may begin.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// Milliseconds, with their fraction, so that small pieces count too.
    free_at_ms: f64,
}

impl Throttle {
    /// Counts `bytes` that were read or written, and gives the time from which on there may be more.
    pub(super) fn spend(&mut self, now: MonotonicMs, bytes: u64, bytes_per_second: f64) -> MonotonicMs {
        let now_ms = as_f64(now.0);
        if bytes_per_second <= 0.0 || !bytes_per_second.is_finite() {
            return now;
        }
        self.free_at_ms = self.free_at_ms.max(now_ms) + as_f64(bytes) * 1000.0 / bytes_per_second;
        let wait_ms = (self.free_at_ms - now_ms).floor();
        now.plus_ms(as_u64(wait_ms))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate is no more exact than this")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative; a cast saturates"
)]
fn as_u64(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_spread_over_time() {
        let mut throttle = Throttle::default();
        let mut now = MonotonicMs(5_000);
        for _ in 0..1_000 {
            now = throttle.spend(now, 700, 100_000.0);
        }
        assert_eq!(now, MonotonicMs(12_000));
        // Idle time is not saved up.
        assert_eq!(throttle.spend(MonotonicMs(50_000), 100_000, 100_000.0), MonotonicMs(51_000));
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let mut throttle = Throttle::default();
        for limit in [f64::MAX, f64::INFINITY] {
            assert_eq!(throttle.spend(MonotonicMs(7), u64::MAX, limit), MonotonicMs(7));
        }
    }
}
