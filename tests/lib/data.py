"""Records that every client must carry without a change: made from a seed, compared field by field."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass, field

Headers = list[tuple[str, bytes | None]]

# A fixed moment near today: far from it, a broker may refuse the timestamp.
BASE_TIMESTAMP_MS = int(time.time() * 1000) - 3_600_000

NOT_UTF8 = b"\xff\xfe\x00\x80"


@dataclass
class Record:
    """One record as the tests see it, whatever the client calls its parts."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = field(default_factory=list)
    timestamp_ms: int = BASE_TIMESTAMP_MS
    partition: int = 0


def topic_name(purpose: str) -> str:
    """A topic that no other test uses."""
    return f"{purpose}-{uuid.uuid4().hex[:10]}"


def varied(count: int, seed: int, null_header: bool = True, both_null: bool = True) -> list[Record]:
    """Nulls, empties, repeats that compress well, noise that does not, headers with doubled keys."""
    noise = random.Random(seed)
    keys: list[bytes | None] = [None, b"", b"key", "ключ".encode(), NOT_UTF8]
    headers: list[Headers] = [
        [],
        [("trace", b"1")],
        [("twice", b"first"), ("twice", b"second"), ("between", b""), ("twice", b"first")],
        [("binary", NOT_UTF8), ("ünicode", b"\x00")],
    ]
    if null_header:
        headers.append([("null", None), ("null", b"")])
    records = []
    for index in range(count):
        values: list[bytes | None] = [
            f"value {index}".encode(),
            None,
            b"",
            b"abc" * noise.randrange(1, 400),
            noise.randbytes(noise.randrange(1, 600)),
        ]
        key = keys[index % len(keys)]
        value = values[noise.randrange(len(values))]
        if key is None and value is None and not both_null:
            value = b"not null"
        records.append(
            Record(
                value=value,
                key=key,
                headers=list(headers[index // len(keys) % len(headers)]),
                timestamp_ms=BASE_TIMESTAMP_MS + index,
            )
        )
    return records


def plain(count: int, size_bytes: int = 20) -> list[Record]:
    """Small numbered records, for tests of order and number."""
    return [
        Record(value=f"{index:0{size_bytes}d}".encode(), timestamp_ms=BASE_TIMESTAMP_MS + index)
        for index in range(count)
    ]
