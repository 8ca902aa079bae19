use bytes::BytesMut;
use chronik_types::{ErrorCode, ProducerEpoch, ProducerId, TimestampMs};

use super::*;
use crate::records::{BatchBuilder, BatchOptions, RecordRules, inspect_records};

const LIMITS: ClientBatchLimits = ClientBatchLimits { batch_bytes_max: 1 << 20, produce_version: 13 };

/// All that a broker checks: the header, then the records.
fn validate(bytes: &[u8], limits: ClientBatchLimits) -> Result<BatchHeader, BatchError> {
    let header = check_client_batch(bytes, limits)?;
    inspect_records(bytes, &header, &RecordRules::NONE, 1 << 20).map(|_| header)
}

fn batch(options: BatchOptions) -> BytesMut {
    let mut builder = BatchBuilder::new(options);
    for _ in 0..3 {
        builder.append(TimestampMs(1), Some(b"key"), Some(b"value"), &[]).unwrap();
    }
    builder.finish().unwrap()
}

/// A valid batch with the bytes at `position` replaced and its CRC put right.
fn patched(position: usize, bytes: &[u8]) -> BytesMut {
    let mut batch = batch(BatchOptions {
        producer_id: ProducerId(1),
        producer_epoch: ProducerEpoch(0),
        base_sequence: 0,
        ..BatchOptions::default()
    });
    batch[position..][..bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

fn check(bytes: &[u8], error: BatchError, code: ErrorCode) {
    assert_eq!(validate(bytes, LIMITS), Err(error));
    assert_eq!(error.error_code(), code);
}

#[test]
fn a_clients_batch_passes() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let bytes = batch(BatchOptions { compression, ..BatchOptions::default() });
        let header = validate(&bytes, LIMITS).unwrap();
        assert_eq!((header.record_count, header.size_bytes), (3, bytes.len()));
    }
    assert!(validate(&patched(0, &[]), LIMITS).is_ok());
}

#[test]
fn every_cut_and_every_addition_is_refused() {
    let bytes = batch(BatchOptions::default());
    for cut in 0..bytes.len() {
        let error = validate(&bytes[..cut], LIMITS).unwrap_err();
        assert!(matches!(error, BatchError::Truncated { .. }), "{cut}: {error}");
        assert_eq!(error.error_code(), ErrorCode::InvalidRecord);
    }
    for more in [&bytes[..], b"x"] {
        let two = [&bytes, more].concat();
        check(&two, BatchError::NotOneBatch("there is more after the first"), ErrorCode::InvalidRecord);
    }
}

#[test]
fn other_formats_are_told_apart() {
    for (magic, code) in [
        (0, ErrorCode::InvalidRecord),
        (1, ErrorCode::InvalidRecord),
        (3, ErrorCode::CorruptMessage),
        (-1, ErrorCode::CorruptMessage),
    ] {
        check(&patched(16, &i8::to_be_bytes(magic)), BatchError::Magic(magic), code);
    }
    // The smallest message of magic 0: offset, length 14, CRC, magic, attributes, null key, null value.
    let mut message = [0; 26];
    message[11] = 14;
    check(&message, BatchError::Magic(0), ErrorCode::InvalidRecord);
    message[11] = 13;
    check(&message, BatchError::Length(13), ErrorCode::CorruptMessage);
    message[16] = 2;
    message[11] = 14;
    check(&message, BatchError::Length(14), ErrorCode::CorruptMessage);
}

#[test]
fn each_fault_has_kafkas_error() {
    check(&patched(8, &[0xff; 4]), BatchError::Length(-1), ErrorCode::CorruptMessage);
    check(
        &patched(0, &[0, 0, 0, 0, 0, 0, 0, 1]),
        BatchError::NotForClients("its base offset is not 0"),
        ErrorCode::InvalidRecord,
    );
    let mut flipped = patched(0, &[]);
    flipped[70] ^= 1;
    let error = validate(&flipped, LIMITS).unwrap_err();
    assert!(matches!(error, BatchError::Crc { .. }));
    assert_eq!(error.error_code(), ErrorCode::CorruptMessage);

    check(&patched(21, &[0, 5]), BatchError::Codec(5), ErrorCode::UnknownServerError);
    check(
        &patched(21, &[0, 0x20]),
        BatchError::NotForClients("it holds control records"),
        ErrorCode::InvalidRecord,
    );
    check(
        &patched(23, &[0xff; 4]),
        BatchError::Inconsistent("the last offset delta is negative"),
        ErrorCode::InvalidRecord,
    );
    for count in [0, -1] {
        check(
            &patched(57, &i32::to_be_bytes(count)),
            BatchError::Inconsistent("the record count is not positive"),
            ErrorCode::InvalidRecord,
        );
    }
    for count in [2_i32, 4, i32::MAX] {
        check(
            &patched(57, &count.to_be_bytes()),
            BatchError::Inconsistent("the record count does not match the last offset delta"),
            ErrorCode::InvalidRecord,
        );
    }
    check(
        &patched(53, &[0xff; 4]),
        BatchError::Inconsistent("it has a producer id and no sequence number"),
        ErrorCode::InvalidRecord,
    );
}

#[test]
fn limits_come_from_topic_and_version() {
    let bytes = batch(BatchOptions { compression: Compression::Zstd, ..BatchOptions::default() });
    let check = |limits, error: BatchError, code| {
        assert_eq!(validate(&bytes, limits), Err(error));
        assert_eq!(error.error_code(), code);
    };
    let exact = ClientBatchLimits { batch_bytes_max: bytes.len(), produce_version: 7 };
    assert!(validate(&bytes, exact).is_ok());
    check(
        ClientBatchLimits { batch_bytes_max: bytes.len() - 1, ..exact },
        BatchError::TooLarge { size_bytes: bytes.len(), bytes_max: bytes.len() - 1 },
        ErrorCode::MessageTooLarge,
    );
    check(
        ClientBatchLimits { produce_version: 6, ..exact },
        BatchError::CodecVersion,
        ErrorCode::UnsupportedCompressionType,
    );
    let gzip = batch(BatchOptions { compression: Compression::Gzip, ..BatchOptions::default() });
    assert!(validate(&gzip, ClientBatchLimits { produce_version: 3, ..LIMITS }).is_ok());
}

#[test]
fn a_count_that_lies_is_refused() {
    // Count and last offset delta agree with each other, and not with the records.
    for (count, code) in
        [(2_i32, "there are bytes after the last record"), (4, "a record ends in the middle of a field")]
    {
        let mut bytes = patched(57, &count.to_be_bytes());
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        check(&bytes, BatchError::Inconsistent(code), ErrorCode::InvalidRecord);
    }
    check(
        &patched(61, &[0x01]),
        BatchError::Inconsistent("a record has a negative length"),
        ErrorCode::InvalidRecord,
    );
}
