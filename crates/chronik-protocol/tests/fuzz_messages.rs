//! Hostile bytes against the decoder of every message in every version (WIRE-2).
//!
//! Nothing may panic, and no decoding may hold more memory than its budget, which a counting allocator watches.
//! What is accepted must survive writing and reading again (WIRE-1). All cases come from seeds and are bounded.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use chronik_protocol::wire::{BUDGET_FLOOR_BYTES, BUDGET_FRAME_MULTIPLE, DecodeError, Reader};
use support::{Decoded, Golden, Numbers, Subject, golden, subjects};

/// What decoding may take beside its budget: the message itself, which the test keeps in a box, and the reference
/// count of the frame.
const BESIDE_BUDGET_BYTES: isize = 4_096;

thread_local! {
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<isize> = const { Cell::new(0) };
}

struct CountingAllocator;

fn count(bytes: isize) {
    // Memory that a thread frees while it ends is of no interest.
    let _ended = LIVE_BYTES.try_with(|live| {
        live.set(live.get() + bytes);
        PEAK_BYTES.with(|peak| peak.set(peak.get().max(live.get())));
    });
}

#[expect(unsafe_code, reason = "the trait is unsafe; every call goes to the system's allocator as it came")]
// SAFETY: the system's allocator does the work; counting does not allocate.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

type Outcome = Result<Box<dyn Decoded>, DecodeError>;

/// Decodes and checks what the decoding held at its peak.
fn decode_within(subject: &Subject, frame: &Bytes, version: i16, budget_bytes: usize) -> Outcome {
    let before = LIVE_BYTES.get();
    PEAK_BYTES.set(before);
    let outcome = (subject.decode)(&mut Reader::with_budget(frame, budget_bytes), version);
    let held = PEAK_BYTES.get() - before;
    let name = subject.name;
    assert!(
        held <= budget_bytes.cast_signed() + BESIDE_BUDGET_BYTES,
        "{name} v{version}: {held} bytes held with a budget of {budget_bytes}, for {frame:02x?}"
    );
    outcome
}

/// The budget of [`Reader::new`].
fn default_budget(frame: &Bytes) -> usize {
    BUDGET_FLOOR_BYTES + BUDGET_FRAME_MULTIPLE * frame.len()
}

/// Decodes; what is accepted must be written again, and read as the same value.
fn check(subject: &Subject, frame: &Bytes, version: i16, budget_bytes: usize) -> Result<(), DecodeError> {
    let message = decode_within(subject, frame, version, budget_bytes)?;
    let name = subject.name;
    let again = message
        .encode(version)
        .unwrap_or_else(|error| panic!("{name} v{version}: {error}: decoded from {frame:02x?}"));
    let decoded = decode_within(subject, &again, version, default_budget(&again))
        .unwrap_or_else(|error| panic!("{name} v{version}: {error}: written anew from {frame:02x?}"));
    assert_eq!(decoded.debug(), message.debug(), "{name} v{version}: changed by writing, from {frame:02x?}");
    Ok(())
}

fn by_name() -> BTreeMap<&'static str, Subject> {
    subjects().into_iter().map(|subject| (subject.name, subject)).collect()
}

/// The golden lines of one kind, with their bytes.
fn samples(kind: &str) -> impl Iterator<Item = (Golden, Bytes)> {
    golden()
        .filter(move |line| line.kind == kind)
        .filter_map(|line| line.bytes.clone().map(|bytes| (line, bytes)))
}

fn overwritten(frame: &Bytes, position: usize, pattern: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(frame.as_ref());
    for (place, byte) in bytes.iter_mut().skip(position).zip(pattern) {
        *place = *byte;
    }
    bytes.freeze()
}

#[test]
fn every_truncation_is_an_error() {
    let subjects = by_name();
    for kind in ["high", "random"] {
        for (line, frame) in samples(kind) {
            let subject = &subjects[line.message];
            for end in 0..frame.len() {
                let cut = frame.slice(..end);
                let outcome = decode_within(subject, &cut, line.version, default_budget(&cut));
                assert!(outcome.is_err(), "{} v{}: cut at {end} of {frame:02x?}", line.message, line.version);
            }
        }
    }
}

#[test]
fn a_byte_too_many_is_an_error() {
    let subjects = by_name();
    for (line, frame) in samples("high") {
        let mut longer = BytesMut::from(frame.as_ref());
        longer.extend_from_slice(&[0]);
        let longer = longer.freeze();
        let outcome = decode_within(&subjects[line.message], &longer, line.version, default_budget(&longer));
        let error = outcome.err();
        assert_eq!(
            error,
            Some(DecodeError::Trailing { remaining_bytes: 1 }),
            "{} v{}",
            line.message,
            line.version
        );
    }
}

#[test]
fn hostile_lengths_at_every_byte_are_survived() {
    let patterns: [&[u8]; 8] = [
        &i32::MAX.to_be_bytes(),
        &(-2_i32).to_be_bytes(),
        &i32::MIN.to_be_bytes(),
        &i16::MAX.to_be_bytes(),
        &(-2_i16).to_be_bytes(),
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0xff, 0x7f],
        &[0x80, 0x80, 0x80, 0x80, 0x80],
    ];
    let subjects = by_name();
    let mut refused: BTreeMap<&str, u32> = BTreeMap::new();
    for (line, frame) in samples("high") {
        for position in 0..frame.len() {
            // Two patterns a position, others in the next version, so that all meet every field.
            let turn = position + usize::from(line.version.cast_unsigned());
            for pattern in patterns.iter().cycle().skip(turn * 2 % patterns.len()).take(2) {
                let hostile = overwritten(&frame, position, pattern);
                let budget_bytes = default_budget(&hostile);
                if let Err(error) = check(&subjects[line.message], &hostile, line.version, budget_bytes) {
                    *refused.entry(kind_of(&error)).or_default() += 1;
                }
            }
        }
    }
    for kind in ["truncated", "length", "count", "null", "utf-8", "varint"] {
        assert!(refused.get(kind).is_some_and(|&count| count > 100), "{kind} is hardly reached: {refused:?}");
    }
}

fn kind_of(error: &DecodeError) -> &'static str {
    match error {
        DecodeError::Truncated { .. } => "truncated",
        DecodeError::Length { .. } => "length",
        DecodeError::Count { .. } => "count",
        DecodeError::Null { .. } => "null",
        DecodeError::Varint { .. } => "varint",
        DecodeError::Utf8 { .. } => "utf-8",
        DecodeError::Budget { .. } => "budget",
        DecodeError::TagSize { .. } => "tag size",
        DecodeError::Trailing { .. } => "trailing",
        DecodeError::Version { .. } => "version",
    }
}

#[test]
fn flipped_bits_are_survived() {
    let subjects = by_name();
    let mut numbers = Numbers(1);
    let mut accepted = 0_usize;
    for (line, frame) in samples("random") {
        for _ in 0..40 {
            let mut flipped = BytesMut::from(frame.as_ref());
            for _ in 0..=numbers.below(3) {
                let position = numbers.below(frame.len());
                if let Some(byte) = flipped.get_mut(position) {
                    *byte ^= 1 << numbers.below(8);
                }
            }
            let flipped = flipped.freeze();
            let outcome = check(&subjects[line.message], &flipped, line.version, default_budget(&flipped));
            accepted += usize::from(outcome.is_ok());
        }
    }
    assert!(accepted > 1_000, "only {accepted} were accepted: round trips are hardly tested");
}

#[test]
fn random_bytes_are_survived() {
    // Bytes that mean something at the front of a value come up more often than the others.
    const TELLING: [u8; 8] = [0, 0, 0, 1, 2, 3, 0x7f, 0xff];
    let mut numbers = Numbers(2);
    let mut accepted = 0_usize;
    for subject in subjects() {
        for version in subject.min_version..=subject.max_version {
            for _ in 0..150 {
                let frame: Bytes = (0..numbers.below(80))
                    .map(|_| match numbers.below(3) {
                        0 => numbers.next().to_le_bytes()[0],
                        _ => TELLING[numbers.below(TELLING.len())],
                    })
                    .collect();
                let mut outcome = check(&subject, &frame, version, default_budget(&frame));
                if let Err(DecodeError::Trailing { remaining_bytes }) = outcome {
                    // The front of the frame is a message; look at it alone.
                    let front = frame.slice(..frame.len() - remaining_bytes);
                    outcome = check(&subject, &front, version, default_budget(&front));
                }
                accepted += usize::from(outcome.is_ok());
            }
        }
    }
    assert!(accepted > 1_000, "only {accepted} were accepted: round trips are hardly tested");
}

#[test]
fn large_frames_of_small_elements_stay_within_the_budget() {
    const FRAME_BYTES: usize = 16 << 10;
    let fills: [&[u8]; 6] = [&[0], &[1], &[2], &[0, 0, 0x40, 0], &[0, 0, 0, 1], &[0xff, 0xff, 1]];
    let mut refused: BTreeMap<&str, u32> = BTreeMap::new();
    for subject in subjects() {
        for version in subject.min_version..=subject.max_version {
            for fill in fills {
                // A count that the frame has room for, and elements that are as small as they can be.
                for count in [&[0x80, 0x20][..], &[0, 0, 0x10, 0]] {
                    let body = fill.iter().copied().cycle();
                    let frame: Bytes = count.iter().copied().chain(body).take(FRAME_BYTES).collect();
                    for budget_bytes in [2_048, FRAME_BYTES] {
                        if let Err(error) = decode_within(&subject, &frame, version, budget_bytes) {
                            *refused.entry(kind_of(&error)).or_default() += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(
        refused.get("budget").is_some_and(|&count| count > 100),
        "the budget hardly matters: {refused:?}"
    );
}

#[test]
fn versions_that_do_not_exist_are_errors() {
    for subject in subjects() {
        for version in [i16::MIN, -1, subject.min_version - 1, subject.max_version + 1, i16::MAX] {
            let frame = Bytes::from_static(&[0; 64]);
            let error = decode_within(&subject, &frame, version, 0).err();
            assert_eq!(error, Some(DecodeError::Version { message: subject.name, version }));
            assert!((subject.default)().encode(version).is_err(), "{} v{version}", subject.name);
        }
    }
}
