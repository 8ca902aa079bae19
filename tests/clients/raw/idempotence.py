"""Sequence numbers of idempotent producers, said by hand."""

from __future__ import annotations

from data import topic_name
from report import expect
from wire import INIT_PRODUCER_ID, Connection, batch, fetch, i32, new_topic, produce, string

OUT_OF_ORDER_SEQUENCE, DUPLICATE_SEQUENCE, INVALID_PRODUCER_EPOCH = 45, 46, 47


def init_producer_id(connection: Connection) -> tuple[int, int]:
    """A new producer id and its epoch."""
    for _ in range(100):
        reader = connection.ask(INIT_PRODUCER_ID, 0, string(None) + i32(60_000))
        reader.i32()
        code, producer_id, epoch = reader.i16(), reader.i64(), reader.i16()
        # COORDINATOR_LOAD_IN_PROGRESS and its like pass.
        if code not in (14, 15, 16):
            break
    expect("InitProducerId", code, 0)
    return producer_id, epoch


def numbered(producer: tuple[int, int], sequence: int, *values: bytes) -> bytes:
    producer_id, epoch = producer
    sent = batch(*values, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence)
    return sent.encode()


def producer_ids_differ(bootstrap: str) -> None:
    with Connection(bootstrap) as connection:
        seen = {init_producer_id(connection)[0] for _ in range(50)}
    expect("different ids", len(seen), 50)


def sequences(bootstrap: str) -> None:
    topic = topic_name("raw-sequences")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        me = init_producer_id(connection)
        expect("sequences 0–1", produce(connection, topic, numbered(me, 0, b"a", b"b")), (0, 0))
        expect("sequence 2", produce(connection, topic, numbered(me, 2, b"c")), (0, 2))
        expect("sequences 0–1 again", produce(connection, topic, numbered(me, 0, b"a", b"b")), (0, 0))
        expect("sequence 2 again", produce(connection, topic, numbered(me, 2, b"c")), (0, 2))
        expect("sequence 9", produce(connection, topic, numbered(me, 9, b"z"))[0], OUT_OF_ORDER_SEQUENCE)
        # The same place with other bounds is no duplicate.
        expect("sequences 0–2", produce(connection, topic, numbered(me, 0, b"a", b"b", b"c"))[0], OUT_OF_ORDER_SEQUENCE)
        expect("sequence 3", produce(connection, topic, numbered(me, 3, b"d")), (0, 3))
        expect("high watermark", fetch(connection, topic)[1], 4)


def old_duplicates(bootstrap: str) -> None:
    # A broker remembers the last five batches of a producer.
    topic = topic_name("raw-window")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        me = init_producer_id(connection)
        for sequence in range(8):
            expect("new", produce(connection, topic, numbered(me, sequence, b"x")), (0, sequence))
        for sequence in range(3, 8):
            expect("duplicate", produce(connection, topic, numbered(me, sequence, b"x")), (0, sequence))
        # Kafka cannot tell a batch that has left this window from one that is out of order. Chronik can (ADR 12), and
        # says what clients take for a success.
        code, offset = produce(connection, topic, numbered(me, 2, b"x"))
        expect("too old", (code in (OUT_OF_ORDER_SEQUENCE, DUPLICATE_SEQUENCE), offset), (True, -1))
        expect("too new", produce(connection, topic, numbered(me, 9, b"x"))[0], OUT_OF_ORDER_SEQUENCE)
        expect("high watermark", fetch(connection, topic)[1], 8)


def epochs(bootstrap: str) -> None:
    topic = topic_name("raw-epochs")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        producer_id, epoch = init_producer_id(connection)
        newer = (producer_id, epoch + 1)
        expect("epoch 0", produce(connection, topic, numbered((producer_id, epoch), 0, b"a")), (0, 0))
        code, _ = produce(connection, topic, numbered(newer, 5, b"b"))
        expect("a new epoch that does not begin at 0", code, OUT_OF_ORDER_SEQUENCE)
        expect("a new epoch", produce(connection, topic, numbered(newer, 0, b"b")), (0, 1))
        code, _ = produce(connection, topic, numbered((producer_id, epoch), 1, b"c"))
        expect("the old epoch", code, INVALID_PRODUCER_EPOCH)


def unknown_producer(bootstrap: str) -> None:
    # Kafka takes any first sequence of a producer that it does not know: its records may have been deleted.
    topic = topic_name("raw-unknown-producer")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        expect("first sequence 7", produce(connection, topic, numbered((987_654_321, 0), 7, b"a")), (0, 0))
        expect("next sequence 8", produce(connection, topic, numbered((987_654_321, 0), 8, b"b")), (0, 1))


def wrapping_sequence(bootstrap: str) -> None:
    # Sequences wrap from 2^31-1 to 0.
    topic = topic_name("raw-wrap")
    last = 0x7FFF_FFFF
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        me = (123_456_789, 0)
        expect("up to the last", produce(connection, topic, numbered(me, last - 1, b"a", b"b")), (0, 0))
        expect("sequence 0", produce(connection, topic, numbered(me, 0, b"c")), (0, 2))


def two_partitions_are_two_sequences(bootstrap: str) -> None:
    topic = topic_name("raw-partitions")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic, partitions=2)
        me = init_producer_id(connection)
        for partition in (0, 1):
            sent = produce(connection, topic, numbered(me, 0, b"a"), partition=partition)
            expect(f"partition {partition}", sent, (0, 0))


ATTACKS = [
    producer_ids_differ,
    sequences,
    old_duplicates,
    epochs,
    unknown_producer,
    wrapping_sequence,
    two_partitions_are_two_sequences,
]
