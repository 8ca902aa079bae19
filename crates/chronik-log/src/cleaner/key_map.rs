//! The last offset of each key, in memory of a fixed size.
//!
//! Keys are kept as 16-byte hashes, as in Kafka, so that an entry has the same size whatever the key is. The hash is a
//! keyed one (SipHash-1-3 of 128 bits): whoever does not know its secret cannot make two keys that are taken for one,
//! which would lose the older of the two. The table is never larger than it was made, and never fuller than its load
//! factor allows; a key that finds no room ends the part of the log that one pass cleans.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

/// A key as the map knows it.
pub(super) type KeyHash = [u64; 2];

/// An entry: the hash and the offset, as Kafka counts them.
pub(super) const ENTRY_BYTES: usize = 24;
const WORDS: usize = ENTRY_BYTES / 8;

/// The last offset of each key.
#[derive(Debug)]
pub(super) struct KeyMap {
    /// Three words for each slot: the hash, and the offset plus one. Zero there says that the slot is empty.
    words: Vec<u64>,
    slot_count: usize,
    len: usize,
    len_max: usize,
    secret: [u64; 2],
}

impl KeyMap {
    /// A map that takes `len_max` keys or as many as fit `bytes_max` at `load_factor`, whichever is less, and at least
    /// one.
    pub(super) fn new(bytes_max: usize, load_factor: f64, len_max: u64, secret: [u64; 2]) -> Self {
        let slots_max = (bytes_max / ENTRY_BYTES).max(2);
        // At least one slot stays empty, so that each search comes to an end.
        let len_max = usize::try_from(len_max).unwrap_or(usize::MAX);
        let len_max = len_max.min(portion(slots_max, load_factor).min(slots_max - 1)).max(1);
        let slot_count = stretched(len_max, load_factor).clamp(len_max + 1, slots_max.max(len_max + 1));
        Self { words: vec![0; slot_count * WORDS], slot_count, len: 0, len_max, secret }
    }

    /// The hash of a key.
    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        let mut hasher = SipHasher13::new_with_keys(self.secret[0], self.secret[1]);
        hasher.write(key);
        let hash = hasher.finish128();
        [hash.h1, hash.h2]
    }

    /// Keys in the map.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The most keys that it takes.
    pub(super) fn len_max(&self) -> usize {
        self.len_max
    }

    /// Bytes that the map holds.
    pub(super) fn size_bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Notes that `offset` has the key, unless a later one is known. False where the key is new and there is no room.
    pub(super) fn put(&mut self, hash: KeyHash, offset: i64) -> bool {
        let stored = u64::try_from(offset).unwrap_or(0).saturating_add(1);
        let at = self.find(hash);
        let is_full = self.len >= self.len_max;
        let Some(slot) = self.words.get_mut(at..at + WORDS) else { return false };
        match slot {
            [_, _, known] if *known != 0 => {
                *known = stored.max(*known);
                true
            }
            [h1, h2, empty] if !is_full => {
                (*h1, *h2, *empty) = (hash[0], hash[1], stored);
                self.len += 1;
                true
            }
            _ => false,
        }
    }

    /// The last offset of the key.
    pub(super) fn get(&self, hash: KeyHash) -> Option<i64> {
        let stored = *self.words.get(self.find(hash) + WORDS - 1)?;
        i64::try_from(stored.checked_sub(1)?).ok()
    }

    /// Where the key's slot begins, or the empty one where it would be.
    fn find(&self, hash: KeyHash) -> usize {
        let slots = self.slot_count as u64;
        let mut slot = usize::try_from(hash[0] % slots).unwrap_or(0);
        loop {
            let at = slot * WORDS;
            match self.words.get(at..at + WORDS) {
                Some([h1, h2, stored]) if *stored != 0 && [*h1, *h2] != hash => {
                    slot = if slot + 1 == self.slot_count { 0 } else { slot + 1 };
                }
                _ => return at,
            }
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count is rounded down anyway"
)]
fn portion(count: usize, share: f64) -> usize {
    (count as f64 * share.clamp(0.0, 1.0)) as usize
}

/// How many slots `len` keys want at a load factor.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count is rounded anyway"
)]
fn stretched(len: usize, load_factor: f64) -> usize {
    (len as f64 / load_factor.clamp(0.01, 1.0)).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(bytes_max: usize, len_max: u64) -> KeyMap {
        KeyMap::new(bytes_max, 0.9, len_max, [1, 2])
    }

    #[test]
    fn the_last_offset_of_each_key_is_kept() {
        let mut keys = map(24 * 1000, u64::MAX);
        assert_eq!(keys.len_max(), 900);
        for offset in 0..2000_i64 {
            let hash = keys.hash(format!("key {}", offset % 900).as_bytes());
            assert!(keys.put(hash, offset));
        }
        assert_eq!(keys.len(), 900);
        for key in 0..900_i64 {
            let hash = keys.hash(format!("key {key}").as_bytes());
            let last = (0..2000).rev().find(|offset| offset % 900 == key);
            assert_eq!(keys.get(hash), last);
        }
        assert_eq!(keys.get(keys.hash(b"other")), None);
    }

    #[test]
    fn an_earlier_offset_does_not_replace_a_later_one() {
        let mut keys = map(1000, 10);
        let hash = keys.hash(b"");
        assert!(keys.put(hash, 7) && keys.put(hash, 3));
        assert_eq!(keys.get(hash), Some(7));
        assert!(keys.put(hash, 0));
    }

    #[test]
    fn a_full_map_takes_known_keys_only() {
        let mut keys = map(24 * 10, u64::MAX);
        let hashes: Vec<KeyHash> = (0..20_u8).map(|key| keys.hash(&[key])).collect();
        let taken: Vec<bool> = hashes.iter().map(|&hash| keys.put(hash, 5)).collect();
        assert_eq!(taken.iter().filter(|&&taken| taken).count(), keys.len_max());
        assert!(keys.put(hashes[0], 9));
        assert_eq!((keys.get(hashes[0]), keys.get(hashes[19])), (Some(9), None));
    }

    #[test]
    fn memory_is_bounded_and_by_need() {
        assert!(map(1 << 20, u64::MAX).size_bytes() <= 1 << 20);
        assert!(map(1 << 30, 100).size_bytes() < 24 * 120);
        // Even the smallest makes progress.
        assert!(map(0, 0).put([0, 0], 0));
        for bytes in 0..500 {
            for len in [1, 2, 7, 100] {
                let keys = map(bytes, len);
                assert!(keys.size_bytes() <= bytes.max(48), "{bytes} {len}");
            }
        }
    }

    #[test]
    fn another_secret_gives_another_hash() {
        let other = KeyMap::new(1000, 0.9, 10, [1, 3]);
        assert_ne!(map(1000, 10).hash(b"key"), other.hash(b"key"));
    }
}
