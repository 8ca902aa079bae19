//! Record batches from a hostile sender: no bytes make the readers panic, run on, or hold more than their limit.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use chronik_protocol::records::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchError, BatchHeader, BatchIter, BatchOptions, ClientBatchLimits,
    Compression, Header, RecordIter, RecordRules, check_client_batch, decompress, inspect_records,
};
use chronik_types::TimestampMs;

const INFLATED_BYTES_MAX: usize = 256 * 1024;
/// What a reader may hold beyond its limit: twice the limit while the buffer grows, a decoder's own tables, and the two
/// largest LZ4 blocks.
const HELD_BYTES_MAX: usize = 2 * INFLATED_BYTES_MAX + (10 << 20);
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// Counts what the thread holds, and the most that it has held.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator is unsafe to write; this one only counts and passes on")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.get().saturating_add(layout.size());
        HELD.set(held);
        PEAK.set(PEAK.get().max(held));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and gives the most that it held at any time.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, PEAK.get().saturating_sub(before))
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }
}

fn batch(compression: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for index in 0..8_u8 {
        let headers = [Header { key: b"h", value: Some(&[index]) }, Header { key: b"", value: None }];
        let value = vec![index; usize::from(index) * 40];
        builder.append(TimestampMs(index.into()), Some(&[index]), Some(&value), &headers).unwrap();
    }
    builder.finish().unwrap().to_vec()
}

/// Everything that reads a batch, over bytes that may be anything. Says how many records came out.
fn read_all(bytes: &[u8]) -> Result<usize, BatchError> {
    let mut batches = 0;
    for batch in BatchIter::new(bytes) {
        batches += 1;
        let Ok(batch) = batch else { break };
        assert!(batch.bytes.len() >= BATCH_HEADER_BYTES);
    }
    assert!(batches <= bytes.len() / BATCH_HEADER_BYTES + 1);
    let limits = ClientBatchLimits { batch_bytes_max: bytes.len(), produce_version: 13 };
    if let Ok(header) = check_client_batch(bytes, limits) {
        assert_eq!(header.size_bytes, bytes.len());
    }
    let inspected = BatchHeader::parse(bytes).and_then(|header| {
        inspect_records(bytes, &header, &RecordRules::NONE, INFLATED_BYTES_MAX).map(|_| header)
    });
    let all = read_records(bytes);
    if let Ok(header) = inspected
        && i64::from(header.last_offset_delta) + 1 == i64::from(header.record_count)
    {
        // What is let in can be read by whoever comes next.
        assert_eq!(all.map(i32::try_from), Ok(Ok(header.record_count)));
    }
    all
}

fn read_records(bytes: &[u8]) -> Result<usize, BatchError> {
    let mut records = RecordIter::new(bytes, INFLATED_BYTES_MAX)?;
    let mut count = 0;
    while let Some(record) = records.next_record()? {
        assert_eq!(record.headers.iter().count(), record.headers.len());
        count += 1;
    }
    Ok(count)
}

fn check(bytes: &[u8]) -> Result<usize, BatchError> {
    let (result, peak) = peak_of(|| read_all(bytes));
    assert!(peak <= HELD_BYTES_MAX, "{peak} bytes were held for {} bytes of input", bytes.len());
    result
}

/// Whether there are records in these bytes does not matter.
fn survive(bytes: &[u8]) {
    let _records = check(bytes);
}

#[test]
fn truncated_batches_are_errors() {
    for codec in CODECS {
        let whole = batch(codec);
        assert_eq!(check(&whole), Ok(8));
        for cut in 0..whole.len() {
            assert!(check(&whole[..cut]).is_err());
            // The header says that all is there, and the records end early.
            if cut >= BATCH_HEADER_BYTES {
                let mut shorter = whole[..cut].to_vec();
                let length = u32::try_from(cut - 12).unwrap();
                shorter[8..12].copy_from_slice(&length.to_be_bytes());
                assert!(check(&shorter).is_err(), "{codec:?} {cut}");
            }
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    for codec in CODECS {
        let whole = batch(codec);
        for position in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[position] ^= 1 << bit;
                // Whatever the records then say, the CRC does not hold.
                let limits = ClientBatchLimits { batch_bytes_max: whole.len(), produce_version: 13 };
                // The leader epoch is the broker's to set, whatever it was.
                let harmless = (12..16).contains(&position);
                assert_eq!(check_client_batch(&flipped, limits).is_ok(), harmless, "{codec:?} {position}");
                survive(&flipped);
            }
        }
    }
}

#[test]
fn counts_that_do_not_fit_are_errors() {
    for codec in CODECS {
        for count in [-1, 0, 1, 7, 9, 1_000_000, i32::MAX, i32::MIN] {
            let mut other = batch(codec);
            other[57..61].copy_from_slice(&count.to_be_bytes());
            assert!(check(&other).is_err(), "{codec:?} {count}");
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random(42);
    for codec in CODECS {
        let whole = batch(codec);
        for _ in 0..3_000 {
            let mut bytes = whole[..BATCH_HEADER_BYTES].to_vec();
            bytes.extend((0..random.below(300)).map(|_| random.0.wrapping_mul(31).to_le_bytes()[3]));
            for _ in 0..random.below(200) {
                bytes.push(random.byte());
            }
            let length = u32::try_from(bytes.len() - 12).unwrap();
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            survive(&bytes);
            survive(&bytes[random.below(bytes.len())..]);

            let mut spliced = whole.clone();
            for _ in 0..=random.below(6) {
                let position = BATCH_HEADER_BYTES + random.below(whole.len() - BATCH_HEADER_BYTES);
                spliced[position] = [0, 0x7f, 0x80, 0xff, random.byte()][random.below(5)];
            }
            survive(&spliced);
        }
    }
}

#[test]
fn a_bomb_is_held_to_the_limit() {
    // 64 MiB of zeros as one record's value, in a few kilobytes.
    let zeros = vec![0; 64 << 20];
    for compression in CODECS {
        if compression == Compression::None {
            continue;
        }
        let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
        builder.append(TimestampMs(0), None, Some(b"first"), &[]).unwrap();
        builder.append(TimestampMs(0), None, Some(&zeros), &[]).unwrap();
        let bomb = builder.finish().unwrap();
        let limits = ClientBatchLimits { batch_bytes_max: bomb.len(), produce_version: 13 };
        let (result, peak) = peak_of(|| {
            let header = check_client_batch(&bomb, limits).unwrap();
            let look = |bytes_max| inspect_records(&bomb, &header, &RecordRules::NONE, bytes_max);
            assert_eq!(look(INFLATED_BYTES_MAX), Err(BatchError::Inflated { bytes_max: INFLATED_BYTES_MAX }));
            // Looking at a record of any size takes no more memory than looking at a small one.
            assert_eq!(look(usize::MAX).unwrap().fault_count, 0);
            let mut records = RecordIter::new(&bomb, INFLATED_BYTES_MAX).unwrap();
            let first = records.next_record().unwrap().unwrap();
            assert_eq!(first.value, Some(&b"first"[..]));
            records.next_record().map(|record| record.is_some())
        });
        assert_eq!(result, Err(BatchError::Inflated { bytes_max: INFLATED_BYTES_MAX }), "{compression:?}");
        assert!(peak <= HELD_BYTES_MAX, "{compression:?} held {peak} bytes");
        let (result, peak) =
            peak_of(|| decompress(compression, &bomb[BATCH_HEADER_BYTES..], INFLATED_BYTES_MAX));
        assert!(matches!(result, Err(BatchError::Inflated { .. })));
        assert!(peak <= HELD_BYTES_MAX, "{compression:?} held {peak} bytes");
    }
}

#[test]
fn a_failure_stays_a_failure() {
    let mut bytes = batch(Compression::None);
    bytes[BATCH_HEADER_BYTES] = 0x01;
    let mut records = RecordIter::new(&bytes, 0).unwrap();
    let first = records.next_record().unwrap_err();
    assert_eq!(records.next_record(), Err(first));
}
