//! Keeps clients that misbehave from filling the log.

use chronik_types::MonotonicMs;
use parking_lot::Mutex;

/// Lines a second that get through. Enough to see what is wrong, and of whom.
const LINES_PER_SECOND_MAX: u32 = 10;

/// Lets a bounded number of lines through a second, and then says how many it has held back.
#[derive(Debug, Default)]
pub(crate) struct LogGate {
    second: Mutex<Second>,
}

#[derive(Debug, Default)]
struct Second {
    start: MonotonicMs,
    passed: u32,
    held_back: u64,
}

impl LogGate {
    /// Runs `line`, which logs one line, or counts it.
    pub(crate) fn log(&self, now: MonotonicMs, line: impl FnOnce()) {
        let (may_pass, held_back) = {
            let mut second = self.second.lock();
            let mut held_back = 0;
            if now.since_ms(second.start) >= 1_000 {
                held_back = second.held_back;
                *second = Second { start: now, passed: 0, held_back: 0 };
            }
            let may_pass = second.passed < LINES_PER_SECOND_MAX;
            if may_pass {
                second.passed += 1;
            } else {
                second.held_back += 1;
            }
            (may_pass, held_back)
        };
        if held_back > 0 {
            tracing::warn!("Left out {held_back} lines about clients that misbehave");
        }
        if may_pass {
            line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_lines_pass_each_second() {
        let gate = LogGate::default();
        let mut passed = [0_u32; 3];
        for (second, passed) in (0_u64..).zip(&mut passed) {
            for ms in 0..100 {
                gate.log(MonotonicMs(second * 1_000 + ms), || *passed += 1);
            }
        }
        assert_eq!(passed, [LINES_PER_SECOND_MAX; 3]);
    }
}
