//! Which partition of `__consumer_offsets` a group lives in.

/// The partition of `__consumer_offsets`, of `partition_count`, that coordinates `group_id`; `FindCoordinator`
/// answers with that partition's leader. Kafka takes Java's `String.hashCode`, and so every broker of a mixed
/// history must. `None` where `partition_count` is not positive.
pub fn partition_for(group_id: &str, partition_count: i32) -> Option<i32> {
    if partition_count <= 0 {
        return None;
    }
    // Kafka's `Utils.abs` maps the one int without a positive counterpart to 0.
    java_hash(group_id).checked_abs().unwrap_or(0).checked_rem(partition_count)
}

/// Java's `String.hashCode`: over UTF-16 units, wrapping.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_javas() {
        // Printed by `"…".hashCode()` of a JVM.
        for (text, hash) in [
            ("", 0),
            ("a", 97),
            ("my-group", -1_906_497_762),
            ("connect-cluster", 1_440_343_063),
            ("gruppe-äöü-日本", 164_993_212),
            ("😀", 1_772_899),
            ("polygenelubricants", i32::MIN),
        ] {
            assert_eq!(java_hash(text), hash, "{text}");
        }
    }

    #[test]
    fn the_hash_without_a_positive_counterpart_lands_in_partition_0() {
        assert_eq!(partition_for("polygenelubricants", 50), Some(0));
        assert_eq!(partition_for("a", 50), Some(47));
        assert_eq!(partition_for("a", 1), Some(0));
        assert_eq!(partition_for("a", 0), None);
        assert_eq!(partition_for("a", -3), None);
    }
}
