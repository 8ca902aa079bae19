//! Every message of every version against the bytes and the JSON that Apache Kafka 4.3.1 makes of it.
//!
//! `tests/golden/generate` made the file; its head tells what the kinds of lines are.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value;
use support::{Decoded, Golden, Subject, golden, subjects};

/// What is wrong with a line, if anything.
fn check(subject: &Subject, line: &Golden) -> Result<(), String> {
    let version = line.version;
    let decode = || {
        let bytes = line.bytes.as_ref().ok_or("a line without bytes")?;
        (subject.decode)(&mut chronik_protocol::wire::Reader::new(bytes), version)
            .map_err(|error| format!("decode: {error}"))
    };
    let json = || serde_json::from_str::<Value>(line.json).map_err(|error| format!("golden JSON: {error}"));
    let same_bytes = |what: &str, message: &dyn Decoded| match (message.encode(version), &line.bytes) {
        (Ok(ours), Some(golden)) if ours == *golden => Ok(()),
        (Err(_), None) => Ok(()),
        (ours, golden) => Err(format!("{what}: we write {ours:02x?} where Kafka writes {golden:02x?}")),
    };
    let same_json = |message: &dyn Decoded, version: i16| {
        let ours = message.to_json(version).map_err(|error| format!("to_json: {error}"))?;
        let golden = json()?;
        if ours == golden { Ok(()) } else { Err(format!("we say {ours} where Kafka says {golden}")) }
    };
    match line.kind {
        "default" => same_bytes("default", &*(subject.default)()),
        "low" | "high" | "random" => {
            let decoded = decode()?;
            same_json(&*decoded, version)?;
            same_bytes("decoded", &*decoded)?;
            let built =
                (subject.from_json)(&json()?, version).map_err(|error| format!("from_json: {error}"))?;
            same_bytes("from JSON", &*built)?;
            let (decoded, built) = (decoded.debug(), built.debug());
            if decoded == built { Ok(()) } else { Err(format!("bytes give {decoded}, JSON gives {built}")) }
        }
        "unknown-tag" => same_json(&*decode()?, version),
        "as-last" => same_json(&*decode()?, subject.max_version),
        "of-last" => {
            let built = (subject.from_json)(&json()?, subject.max_version)
                .map_err(|error| format!("from_json: {error}"))?;
            same_bytes("from the last version", &*built)
        }
        other => Err(format!("unknown kind {other}")),
    }
}

#[test]
fn every_message_is_what_kafka_makes_of_it() {
    let subjects: BTreeMap<_, _> = subjects().into_iter().map(|subject| (subject.name, subject)).collect();
    let mut failures = Vec::new();
    let mut line_count = 0_usize;
    for line in golden() {
        line_count += 1;
        let outcome = match subjects.get(line.message) {
            Some(subject) => check(subject, &line),
            None => Err("no such message is generated".to_owned()),
        };
        if let Err(what) = outcome {
            failures.push(format!("{} v{} {}: {what}", line.message, line.version, line.kind));
        }
    }
    assert!(line_count > 3_000, "the golden file has only {line_count} lines");
    let count = failures.len();
    failures.truncate(10);
    assert!(failures.is_empty(), "{count} of {line_count} lines differ; the first:\n{}", failures.join("\n"));
}

#[test]
fn every_message_and_version_is_in_the_golden_file() {
    let generated: BTreeSet<_> = subjects()
        .iter()
        .flat_map(|subject| {
            (subject.min_version..=subject.max_version).map(|version| (subject.name, version))
        })
        .collect();
    for kind in ["default", "low", "high", "random"] {
        let covered: BTreeSet<_> =
            golden().filter(|line| line.kind == kind).map(|line| (line.message, line.version)).collect();
        let missing: Vec<_> = generated.difference(&covered).collect();
        let extra: Vec<_> = covered.difference(&generated).collect();
        assert!(missing.is_empty() && extra.is_empty(), "{kind}: missing {missing:?}, extra {extra:?}");
    }
}

#[test]
fn byte_fields_are_slices_of_the_frame() {
    let frame = Bytes::from_static(b"\x00\x00\x00\x03abc");
    let mut reader = chronik_protocol::wire::Reader::new(&frame);
    let bytes = reader.bytes(false).expect("three bytes");
    assert_eq!(bytes.as_ptr(), frame[4..].as_ptr(), "the bytes were copied");
}
