//! Names for members that have none yet.

/// The longest prefix of a member id. The whole must fit a string of the protocol, which has 32,767 bytes.
const PREFIX_BYTES_MAX: usize = 32_000;

/// Makes member ids as Kafka does: the client id (or the group instance id) and a random UUID. The randomness
/// is a seeded sequence, so that a simulation repeats itself; the broker seeds each shard from the system.
#[derive(Clone, Debug)]
pub(crate) struct MemberIds {
    state: u64,
}

impl MemberIds {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// `prefix`, a dash and a version 4 UUID. A prefix too long for an id to be sent is cut.
    pub(crate) fn next(&mut self, prefix: &str) -> String {
        let mut length = prefix.len().min(PREFIX_BYTES_MAX);
        while !prefix.is_char_boundary(length) {
            length -= 1;
        }
        let prefix = &prefix[..length];
        let high = (self.next_u64() & 0xffff_ffff_ffff_0fff) | 0x4000;
        let low = (self.next_u64() & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
        format!(
            "{prefix}-{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }

    /// One step of `SplitMix64`, whose period is 2^64: no id repeats within a shard's life.
    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_have_the_shape_of_a_version_4_uuid_and_differ() {
        let mut ids = MemberIds::new(7);
        let mut seen = BTreeSet::new();
        for _ in 0..1_000 {
            let id = ids.next("consumer-1");
            let uuid = id.strip_prefix("consumer-1-").unwrap();
            let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{uuid}");
            assert_eq!(&uuid[14..15], "4", "{uuid}");
            assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
            assert!(seen.insert(id));
        }
        assert_ne!(MemberIds::new(1).next("x"), MemberIds::new(2).next("x"));
    }

    #[test]
    fn a_prefix_is_cut_where_the_id_could_not_be_sent() {
        for prefix in ["x".repeat(32_767), "é".repeat(16_383), "日".repeat(10_922)] {
            let id = MemberIds::new(1).next(&prefix);
            assert!(id.len() <= 32_037 && id.len() > 32_000);
        }
    }
}
