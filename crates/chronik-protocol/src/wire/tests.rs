//! The primitive encodings at their edges.
#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the path of a method is bound to one lifetime of the reader, which does not compile here"
)]

use bytes::Bytes;
use chronik_types::TopicId;

use super::*;

fn read<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let frame = Bytes::copy_from_slice(bytes);
    let mut reader = Reader::new(&frame);
    let value = read(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new();
    write(&mut writer);
    writer.into_bytes().to_vec()
}

#[test]
fn varints_go_there_and_back_at_every_width() {
    let edges = (0..64).flat_map(|bit| {
        let power = 1_u64 << bit;
        [power.wrapping_sub(1), power, power.wrapping_add(1)]
    });
    for value in edges.chain([u64::MAX]) {
        let long = value.cast_signed();
        for long in [long, long.wrapping_neg()] {
            assert_eq!(read(&written(|w| w.varlong(long)), |r| r.varlong()), Ok(long));
        }
        let Ok(short) = u32::try_from(value) else { continue };
        assert_eq!(read(&written(|w| w.unsigned_varint(short)), |r| r.unsigned_varint()), Ok(short));
        let signed = short.cast_signed();
        assert_eq!(read(&written(|w| w.varint(signed)), |r| r.varint()), Ok(signed));
    }
    // Values that the protocol guide prints.
    assert_eq!(written(|w| w.unsigned_varint(300)), [0xac, 0x02]);
    assert_eq!(written(|w| w.varint(-1)), [0x01]);
    assert_eq!(
        written(|w| w.varlong(i64::MIN)),
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]
    );
}

#[test]
fn varints_that_overflow_are_errors() {
    let error = Err(DecodeError::Varint { position: 0 });
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f], |r| r.unsigned_varint()), Ok(u32::MAX));
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x10], |r| r.unsigned_varint()), error);
    assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], |r| r.unsigned_varint()), error);
    let error = Err(DecodeError::Varint { position: 0 });
    assert_eq!(
        read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], |r| r.varlong()),
        Ok(i64::MIN)
    );
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], |r| r.varlong()), error);
    assert_eq!(read(&[0x80; 11], |r| r.varlong()), error);
}

#[test]
fn strings_have_lengths_of_both_kinds() {
    assert_eq!(read(b"\x00\x03abc", |r| r.string(false)), Ok("abc".to_owned()));
    assert_eq!(read(b"\x04abc", |r| r.string(true)), Ok("abc".to_owned()));
    assert_eq!(read(b"\xff\xff", |r| r.string_opt(false, true)), Ok(None));
    assert_eq!(read(b"\x00", |r| r.string_opt(true, true)), Ok(None));
    assert_eq!(read(b"\xff\xff", |r| r.string(false)), Err(DecodeError::Null { position: 2 }));
    assert_eq!(read(b"\x00", |r| r.string(true)), Err(DecodeError::Null { position: 1 }));
    assert_eq!(
        read(b"\xff\xfe", |r| r.string_opt(false, true)),
        Err(DecodeError::Length { position: 2, length: -2 })
    );
    assert_eq!(read(b"\x00\x01\xff", |r| r.string(false)), Err(DecodeError::Utf8 { position: 2 }));
    assert_eq!(
        read(b"\x00\x05abc", |r| r.string(false)),
        Err(DecodeError::Truncated { position: 2, needed_bytes: 5, remaining_bytes: 3 })
    );
}

#[test]
fn a_compact_string_is_no_longer_than_an_old_one() {
    let longest = "x".repeat(STRING_BYTES_MAX);
    for compact in [false, true] {
        let mut writer = Writer::new();
        writer.string(&longest, compact, "test").expect("the longest string");
        assert_eq!(read(&writer.into_bytes(), |r| r.string(compact)).as_deref(), Ok(longest.as_str()));
        let error = Writer::new().string(&format!("{longest}x"), compact, "test");
        assert_eq!(
            error,
            Err(EncodeError::TooLong {
                field: "test",
                length: STRING_BYTES_MAX.saturating_add(1),
                length_max: STRING_BYTES_MAX
            })
        );
    }
    let mut too_long = written(|w| w.unsigned_varint(0x8001));
    too_long.extend_from_slice("x".repeat(0x8000).as_bytes());
    assert_eq!(read(&too_long, |r| r.string(true)), Err(DecodeError::Length { position: 3, length: 0x8000 }));
}

#[test]
fn any_byte_but_zero_is_true() {
    assert_eq!(read(&[0], |r| r.bool()), Ok(false));
    for byte in 1..=u8::MAX {
        assert_eq!(read(&[byte], |r| r.bool()), Ok(true));
    }
}

#[test]
fn an_array_must_fit_the_rest_of_the_frame() {
    let array = |bytes: &[u8]| read(bytes, |r| r.array(false, 2, Reader::i16));
    assert_eq!(array(&[0, 0, 0, 2, 0, 7, 0, 8]), Ok(vec![7, 8]));
    assert_eq!(
        array(&[0, 0, 0, 3, 0, 7, 0, 8]),
        Err(DecodeError::Count { position: 4, count: 3, count_max: 2 })
    );
    assert_eq!(
        array(&[0x7f, 0xff, 0xff, 0xff]),
        Err(DecodeError::Count { position: 4, count: 0x7fff_ffff, count_max: 0 })
    );
    assert_eq!(array(&[0xff, 0xff, 0xff, 0xfe]), Err(DecodeError::Length { position: 4, length: -2 }));
}

#[test]
fn a_large_array_grows_to_its_count_and_no_further() {
    let count = ARRAY_PREALLOCATED_COUNT_MAX.saturating_mul(3).saturating_add(5);
    let mut writer = Writer::new();
    let values: Vec<i32> = (0..).take(count).collect();
    writer
        .array(&values, true, "test", |w, value| {
            w.i32(*value);
            Ok(())
        })
        .expect("an array");
    let frame = writer.into_bytes();
    let decoded = Reader::new(&frame).array(true, 4, Reader::i32).expect("the same array");
    assert_eq!(decoded, values);
    assert_eq!(decoded.capacity(), count, "room beyond what was charged");
}

#[test]
fn the_budget_is_charged_before_memory_is_taken() {
    let frame = Bytes::from_static(&[0, 0, 0, 4, 1, 2, 3, 4]);
    let wide = |r: &mut Reader<'_>| r.i8().map(|value| [i64::from(value); 8]);
    let error = Reader::with_budget(&frame, 256).array(false, 1, wide).err();
    assert_eq!(error, Some(DecodeError::Budget { position: 4, budget_bytes: 256 }));
    let mut reader = Reader::with_budget(&frame, 512);
    assert!(reader.array(false, 1, wide).is_ok());
    assert!(reader.spent_bytes() >= 256 && reader.spent_bytes() <= 512, "{}", reader.spent_bytes());
}

#[test]
fn unknown_tags_are_skipped_and_known_ones_fill_their_size() {
    let tags = |bytes: &[u8]| {
        let mut seen = None;
        read(bytes, |r| {
            r.tags(|r, tag| {
                if tag == 1 {
                    seen = Some(r.i16()?);
                }
                Ok(tag == 1)
            })
        })
        .map(|()| seen)
    };
    assert_eq!(tags(&[0]), Ok(None));
    assert_eq!(tags(&[2, 0, 3, 9, 9, 9, 1, 2, 0, 5]), Ok(Some(5)));
    assert_eq!(tags(&[1, 1, 3, 0, 5, 9]), Err(DecodeError::TagSize { tag: 1, remaining_bytes: 1 }));
    assert_eq!(
        tags(&[1, 1, 1, 0, 5]),
        Err(DecodeError::Truncated { position: 3, needed_bytes: 2, remaining_bytes: 1 })
    );
    assert!(matches!(tags(&[1, 7, 9, 0]), Err(DecodeError::Truncated { .. })));
    assert!(matches!(tags(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Err(DecodeError::Truncated { .. })));
}

#[test]
fn tagged_values_of_any_size_get_their_size_before_them() {
    for length in [0_usize, 1, 126, 127, 128, 16_384] {
        let value = vec![7_u8; length];
        let mut writer = Writer::new();
        let mut block = writer.begin_tags();
        writer.tag(&mut block, 0, |w| w.bytes(&value, true, "test")).expect("a tag");
        writer
            .tag(&mut block, 300, |w| {
                w.i8(1);
                Ok(())
            })
            .expect("a tag");
        writer.end_tags(&block);
        let mut seen = Vec::new();
        let outcome = read(&writer.into_bytes(), |r| {
            r.tags(|r, tag| {
                seen.push((tag, if tag == 0 { r.bytes(true)?.len() } else { r.i8().map(|_| 1)? }));
                Ok(true)
            })
        });
        assert_eq!(outcome, Ok(()));
        assert_eq!(seen, [(0, length), (300, 1)]);
    }
}

#[test]
fn structures_that_may_be_null_say_so_first() {
    let number = |r: &mut Reader<'_>| r.i8();
    assert_eq!(read(&[0xff], |r| r.struct_opt(true, number)), Ok(None));
    assert_eq!(read(&[1, 5], |r| r.struct_opt(true, number)), Ok(Some(5)));
    assert_eq!(read(&[5], |r| r.struct_opt(false, number)), Ok(Some(5)));
    assert_eq!(read(&[0], |r| r.tagged_struct_opt(true, number)), Ok(None));
    assert_eq!(read(&[1, 5], |r| r.tagged_struct_opt(true, number)), Ok(Some(5)));
}

#[test]
fn fixed_widths_are_big_endian() {
    let bytes = written(|w| {
        w.i8(-2);
        w.i16(-2);
        w.i32(-2);
        w.i64(-2);
        w.u16(0xfffe);
        w.u32(0xffff_fffe);
        w.f64(-0.5);
        w.uuid(TopicId(1));
        w.bool(true);
    });
    assert_eq!(bytes.len(), 1 + 2 + 4 + 8 + 2 + 4 + 8 + 16 + 1);
    let outcome = read(&bytes, |r| {
        let signed = (r.i8()?, r.i16()?, r.i32()?, r.i64()?);
        let unsigned = (r.u16()?, r.u32()?);
        Ok((signed, unsigned, r.f64()?.to_bits(), r.uuid()?, r.bool()?))
    });
    let expected = ((-2, -2, -2, -2), (0xfffe, 0xffff_fffe), (-0.5_f64).to_bits(), TopicId(1), true);
    assert_eq!(outcome, Ok(expected));
    assert_eq!(bytes.get(..3), Some(&[0xfe, 0xff, 0xfe][..]));
}
