"""kcat, as people use it in a shell: produce, consume, query, list."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import report
from data import BASE_TIMESTAMP_MS, topic_name
from report import Case, expect
from wire import FIND_COORDINATOR, advertised_keys, codecs_of_batches

TIMEOUT_S = 40
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def kcat(bootstrap: str, *arguments: str, given: bytes = b"", code: int = 0) -> bytes:
    """Run kcat; the result is what it printed on standard output."""
    done = subprocess.run(
        ["kcat", "-b", bootstrap, *arguments], input=given, capture_output=True, timeout=TIMEOUT_S, check=False
    )
    expect(f"exit code of kcat {' '.join(arguments)} ({done.stderr.decode()[:300]})", done.returncode, code)
    return done.stdout


def consume(bootstrap: str, topic: str, shape: str, *arguments: str) -> bytes:
    return kcat(bootstrap, "-C", "-q", "-e", "-t", topic, "-p", "0", "-o", "beginning", "-f", shape, *arguments)


def codec(bootstrap: str, name: str) -> None:
    topic = topic_name(f"kcat-{name}")
    lines = [f"key{index}|value {index} {'x' * (index % 90)}" for index in range(5000)]
    given = "\n".join(lines).encode()
    kcat(bootstrap, "-P", "-t", topic, "-p", "0", "-z", name, "-K", "|", given=given)
    expect("what comes back", consume(bootstrap, topic, "%k|%s\\n"), given + b"\n")
    # librdkafka leaves a codec out, without a word, where the broker's version ranges do not promise it.
    # (It also leaves out what would not become smaller, such as a first batch of one message.)
    if name == "lz4" and FIND_COORDINATOR not in advertised_keys(bootstrap):
        raise report.Skip("librdkafka compresses by LZ4 only where FindCoordinator is advertised")
    expect("codec of the stored batches", codecs_of_batches(bootstrap, topic) | {0}, {0, CODECS.index(name)})


def headers(bootstrap: str) -> None:
    topic = topic_name("kcat-headers")
    kcat(bootstrap, "-P", "-t", topic, "-p", "0", "-H", "a=1", "-H", "a=2", "-H", "empty=", "-H", "null", given=b"x")
    expect("headers", consume(bootstrap, topic, "%h"), b"a=1,a=2,empty=,null=NULL")


def nulls(bootstrap: str) -> None:
    topic = topic_name("kcat-nulls")
    kcat(bootstrap, "-P", "-t", topic, "-p", "0", "-K", "|", "-Z", given=b"|value\nkey|\nboth|set\n")
    wanted = b"-1:5 3:-1 4:3 "
    expect("lengths (-1 is null)", consume(bootstrap, topic, "%K:%S "), wanted)


def as_json(bootstrap: str) -> None:
    topic = topic_name("kcat-json")
    kcat(bootstrap, "-P", "-t", topic, "-p", "0", "-K", "|", given=b"k|v")
    printed = kcat(bootstrap, "-C", "-q", "-e", "-J", "-t", topic, "-p", "0", "-o", "beginning")
    message = json.loads(printed)
    expect("message", [message[name] for name in ("topic", "offset", "key", "payload")], [topic, 0, "k", "v"])
    expect("type of the timestamp", message["tstype"], "create")


def from_an_offset(bootstrap: str) -> None:
    topic = topic_name("kcat-offset")
    kcat(bootstrap, "-P", "-t", topic, "-p", "0", given="\n".join(str(i) for i in range(1000)).encode())
    part = kcat(bootstrap, "-C", "-q", "-t", topic, "-p", "0", "-o", "700", "-c", "3", "-f", "%o=%s ")
    expect("from offset 700", part, b"700=700 701=701 702=702 ")
    tail = kcat(bootstrap, "-C", "-q", "-e", "-t", topic, "-p", "0", "-o", "-2", "-f", "%o=%s ")
    expect("the last two", tail, b"998=998 999=999 ")


def by_time(bootstrap: str) -> None:
    topic = topic_name("kcat-time")
    kcat(bootstrap, "-P", "-t", topic, "-p", "0", given=b"one\ntwo")
    expect(
        "offset of a past time",
        kcat(bootstrap, "-Q", "-t", f"{topic}:0:{BASE_TIMESTAMP_MS}").strip(),
        f"{topic} [0] offset 0".encode(),
    )
    expect("offset of the end", kcat(bootstrap, "-Q", "-t", f"{topic}:0:-1").strip(), f"{topic} [0] offset 2".encode())
    since = consume(bootstrap, topic, "%s ", "-o", f"s@{BASE_TIMESTAMP_MS}")
    expect("since a past time", since, b"one two ")


def idempotent(bootstrap: str) -> None:
    topic = topic_name("kcat-idempotent")
    given = "\n".join(str(i) for i in range(3000)).encode()
    kcat(bootstrap, "-P", "-t", topic, "-p", "0", "-X", "enable.idempotence=true", given=given)
    expect("what comes back", consume(bootstrap, topic, "%s\\n"), given + b"\n")


def large(bootstrap: str) -> None:
    topic = topic_name("kcat-large")
    settings = ["-P", "-t", topic, "-p", "0", "-D", "|", "-X", "message.max.bytes=4000000"]
    kcat(bootstrap, *settings, given=b"x" * 1_048_000)
    expect("length", consume(bootstrap, topic, "%S"), b"1048000")
    kcat(bootstrap, *settings, given=b"x" * 1_100_000, code=1)


def metadata(bootstrap: str) -> None:
    topic = topic_name("kcat-metadata")
    kcat(bootstrap, "-P", "-t", topic, "-p", "0", given=b"x")
    listed = json.loads(kcat(bootstrap, "-L", "-J"))
    expect("brokers", [broker["name"] for broker in listed["brokers"]], [bootstrap])
    (mine,) = [about for about in listed["topics"] if about["topic"] == topic]
    expect("partitions", len(mine["partitions"]), 3)
    expect("replicas of partition 0", len(mine["partitions"][0]["replicas"]), 1)


def cases(bootstrap: str) -> list[tuple[str, Case]]:
    named = [
        *[(f"codec_{name}", partial(codec, name=name)) for name in CODECS],
        ("headers", headers),
        ("nulls", nulls),
        ("as_json", as_json),
        ("from_an_offset", from_an_offset),
        ("by_time", by_time),
        ("idempotent", idempotent),
        ("large", large),
        ("metadata", metadata),
    ]
    return [(name, partial(case, bootstrap)) for name, case in named]


if __name__ == "__main__":
    sys.exit(report.run(cases(sys.argv[1]), *sys.argv[2:]))
