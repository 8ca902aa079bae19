//! Randomness that comes from one seed.

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use chronik_types::TopicId;

/// A seeded generator that threads share. Nothing on the data path draws from it.
pub(crate) struct Random(Mutex<StdRng>);

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self(Mutex::new(StdRng::from_seed(seed)))
    }

    pub(crate) fn next_u32(&self) -> u32 {
        self.0.lock().next_u32()
    }

    pub(crate) fn next_u128(&self) -> u128 {
        let mut generator = self.0.lock();
        (u128::from(generator.next_u64()) << 64) | u128::from(generator.next_u64())
    }

    /// An id for a topic or cluster: a version-4 UUID whose text does not begin with a dash, so that tools do not
    /// take it for an option (Kafka keeps to the same).
    pub(crate) fn uuid(&self) -> TopicId {
        loop {
            let bits = self.next_u128();
            let versioned = (bits & !(0xf << 76)) | (0x4 << 76);
            let id = TopicId((versioned & !(0x3 << 62)) | (0x2 << 62));
            if !id.to_string().starts_with('-') {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_ids_and_none_twice() {
        let (first, second) = (Random::new([7; 32]), Random::new([7; 32]));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1_000 {
            let id = first.uuid();
            assert_eq!(id, second.uuid());
            assert!(seen.insert(id));
            assert!(!id.to_string().starts_with('-'));
        }
    }
}
