//! What happened in a history, in words, and a hash of them by which two runs are compared. Most histories are lived
//! through without: the words take longer than the events.

/// The offset basis and the prime of FNV-1a in 64 bits.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Everything that happened, in order.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace that keeps everything, or nothing.
    pub fn new(is_kept: bool) -> Self {
        Self { hash: BASIS, lines: is_kept.then(Vec::new) }
    }

    /// Notes one event.
    pub fn note(&mut self, event: std::fmt::Arguments<'_>) {
        let Some(lines) = &mut self.lines else { return };
        let line = event.to_string();
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        lines.push(line);
    }

    /// The hash of everything that was kept. Two runs of a seed have the same.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines, if they were kept.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_order_and_division_of_what_happened() {
        let hash = |events: &[&str]| {
            let mut trace = Trace::new(true);
            for event in events {
                trace.note(format_args!("{event}"));
            }
            assert_eq!(trace.lines(), events);
            trace.hash()
        };
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
        assert_ne!(hash(&["a", "b"]), hash(&["b", "a"]));
        assert_ne!(hash(&["a", "b"]), hash(&["ab"]));
        assert_eq!(hash(&[]), BASIS);
    }
}
