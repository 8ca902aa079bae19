"""Producers that follow Kafka's protocol to wherever a partition's leader is, and note when it acknowledged what.

They do what every client does: send to the leader that they know of, take the next leader from the error answer where
it names one (KIP-951), else ask some broker for metadata, and give up on a broker that is silent for a request timeout.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import wire
from cluster import metadata

# Errors after which clients look for the leader; after others they try it again.
LEADER_ERRORS = {3, 5, 6, 74, 76}
# What Java's producer waits before it tries again (retry.backoff.ms).
RETRY_BACKOFF_S = 0.1
# How long a broker that was lost is asked for metadata only where there is no other.
LOST_S = 5.0
# Between one acknowledgement and the next record: what is measured are hundreds of milliseconds.
PACE_S = 0.005


def produce_body(topic: str, partition: int, timeout_ms: int, records: bytes) -> bytes:
    """The body of Produce v10: the first version whose answers name the next leader."""
    place = wire.i32(partition) + wire.uvarint(len(records) + 1) + records + wire.NO_TAGS
    wanted = wire.compact_string(topic) + wire.compact_array(place) + wire.NO_TAGS
    head = wire.compact_string(None) + wire.i16(-1) + wire.i32(timeout_ms)
    return head + wire.compact_array(wanted) + wire.NO_TAGS


@dataclass
class Told:
    """What an answer says of its one partition, and of the next leader if it names one (KIP-951)."""

    code: int
    leader: int = -1
    leader_epoch: int = -1
    # Where brokers are, as the answer says.
    endpoints: dict[int, str] = field(default_factory=dict)


def read_hints(reader: wire.Reader, told: Told, partition_fields: dict[int, wire.Reader], tag: int) -> None:
    """The next leader, from the fields of the partition and from those at the end of the answer."""
    if tag in partition_fields:
        told.leader, told.leader_epoch = partition_fields[tag].i32(), partition_fields[tag].i32()
    endpoints = reader.tagged().get(0, wire.Reader(wire.compact_array()))
    for _ in range(endpoints.uvarint() - 1):
        node = endpoints.i32()
        host = (endpoints.compact_bytes() or b"").decode()
        told.endpoints[node] = f"{host}:{endpoints.i32()}"
        endpoints.compact_bytes(), endpoints.tagged()


def produce_answer(reader: wire.Reader) -> Told:
    """What an answer to Produce v10 says."""
    reader.uvarint(), reader.compact_bytes(), reader.uvarint(), reader.i32()
    told = Told(reader.i16())
    reader.i64(), reader.i64(), reader.i64()
    for _ in range(reader.uvarint() - 1):
        reader.i32(), reader.compact_bytes(), reader.uvarint()
    reader.compact_bytes()
    fields = reader.tagged()
    # Behind the topic's own fields comes how long to wait.
    reader.tagged(), reader.i32()
    read_hints(reader, told, fields, 0)
    return told


def fetch_body(topic: bytes, partition: int, offset: int, wait_ms: int) -> bytes:
    """The body of Fetch v16: the first version whose answers say where the next leader is."""
    place = wire.i32(partition) + wire.i32(-1) + wire.i64(offset) + wire.i32(-1) + wire.i64(-1) + wire.i32(1 << 20)
    wanted = topic + wire.compact_array(place + wire.NO_TAGS) + wire.NO_TAGS
    head = wire.i32(wait_ms) + wire.i32(1) + wire.i32(1 << 20) + wire.i8(0) + wire.i32(0) + wire.i32(-1)
    return head + wire.compact_array(wanted) + wire.compact_array() + wire.compact_string("") + wire.NO_TAGS


def fetch_answer(reader: wire.Reader) -> Told:
    """What an answer to Fetch v16 says, but for records."""
    reader.i32()
    if (code := reader.i16()) != 0:
        raise AssertionError(f"Fetch as a whole: error {code}")
    reader.i32(), reader.uvarint(), reader.take(16), reader.uvarint(), reader.i32()
    told = Told(reader.i16())
    reader.i64(), reader.i64(), reader.i64()
    for _ in range(reader.uvarint() - 1):
        reader.i64(), reader.i64(), reader.tagged()
    reader.i32(), reader.compact_bytes()
    fields = reader.tagged()
    reader.tagged()
    read_hints(reader, told, fields, 1)
    return told


def is_closed(connection: wire.Connection) -> bool:
    """Whether the other end of a connection that waits for nothing has closed it."""
    readable, _, _ = select.select([connection.socket], [], [], 0)
    try:
        return bool(readable) and connection.socket.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


class Follower:
    """One record after the other to one partition with acks=all, on a thread of its own."""

    def __init__(self, brokers: dict[int, str], topic: str, partition: int, request_timeout_s: float) -> None:
        self.brokers, self.topic, self.partition = brokers, topic, partition
        self.request_timeout_s = request_timeout_s
        # When each record was acknowledged.
        self.acknowledged_s: list[float] = [time.monotonic()]
        # What went wrong on the way.
        self.setbacks: Counter[str] = Counter()
        # Leaders that an error named and that then acknowledged what came next, without a question to anybody between.
        self.led_to: list[int] = []
        self.hinted = -1
        self.stopping = threading.Event()
        self.leader = -1
        self.asked = partition
        self.connections: dict[int, wire.Connection] = {}
        self.lost_s: dict[int, float] = {}
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Send until told to stop."""
        records = wire.batch(b"x" * 100).encode()
        body = produce_body(self.topic, self.partition, int(self.request_timeout_s * 1000), records)
        while not self.stopping.is_set():
            if self.leader < 0 and not self.find_leader():
                self.stopping.wait(RETRY_BACKOFF_S)
                continue
            leader = self.leader
            try:
                told = produce_answer(self.connect(leader).ask(wire.PRODUCE, 10, body))
            except (OSError, wire.Closed) as error:
                self.lose(leader, error)
                self.leader = -1
                self.stopping.wait(0 if self.find_leader() and self.leader != leader else RETRY_BACKOFF_S)
                continue
            if told.code == 0:
                self.acknowledged_s.append(time.monotonic())
                if self.hinted == leader:
                    self.led_to.append(leader)
                self.hinted = -1
                self.stopping.wait(PACE_S)
                continue
            self.take_hint(told)
        for connection in self.connections.values():
            connection.socket.close()

    def take_hint(self, told: Told) -> None:
        """Go to the next leader if the error names it, or try again after a moment."""
        is_named = told.leader >= 0
        self.setbacks[f"error {told.code}" + (", which names the next leader" if is_named else "")] += 1
        if told.code in LEADER_ERRORS:
            self.leader = told.leader
            # Clients go where the answer says that it is.
            is_found = is_named and told.endpoints.get(told.leader) == self.brokers[told.leader]
            self.hinted = told.leader if is_found else -1
        if told.code not in LEADER_ERRORS or not is_named:
            self.stopping.wait(RETRY_BACKOFF_S)

    def connect(self, node: int) -> wire.Connection:
        """The connection to a broker; a broker that does not take one in time is as good as away.

        One that the broker has closed since it was used last, as when it was restarted meanwhile, counts for nothing:
        clients watch all their connections and have noticed by then.
        """
        if node in self.connections and is_closed(self.connections[node]):
            self.connections.pop(node).socket.close()
        if node not in self.connections:
            self.connections[node] = wire.Connection(self.brokers[node], self.request_timeout_s)
        return self.connections[node]

    def lose(self, node: int, error: Exception) -> None:
        """A broker has closed the connection, or is silent."""
        self.setbacks["timed out" if isinstance(error, TimeoutError) else "disconnected"] += 1
        self.lost_s[node] = time.monotonic()
        if connection := self.connections.pop(node, None):
            connection.socket.close()

    def find_leader(self) -> bool:
        """Ask the next broker who leads, rather one that was not just lost; whether it knew."""
        self.hinted = -1
        recently = time.monotonic() - LOST_S
        nodes = [node for node in sorted(self.brokers) if self.lost_s.get(node, 0.0) < recently] or sorted(self.brokers)
        self.asked = nodes[(nodes.index(self.asked) + 1) % len(nodes)] if self.asked in nodes else nodes[0]
        try:
            told = metadata(self.connect(self.asked), [self.topic]).topics[self.topic]
        except (OSError, wire.Closed) as error:
            self.lose(self.asked, error)
            return False
        self.leader = told[self.partition].leader if self.partition < len(told) else -1
        return self.leader >= 0

    def last_s(self) -> float:
        """When the newest record was acknowledged."""
        return self.acknowledged_s[-1]

    def gap_s(self, since_s: float) -> float:
        """The longest wait for an acknowledgement from a moment on."""
        moments = [since_s, *(moment for moment in list(self.acknowledged_s) if moment > since_s)]
        return max((later - earlier for earlier, later in pairwise(moments)), default=float("inf"))


@contextlib.contextmanager
def following(followers: list[Follower]):  # type: ignore[no-untyped-def]
    """Followers that stop in the end."""
    try:
        yield followers
    finally:
        for follower in followers:
            follower.stopping.set()
        for follower in followers:
            follower.thread.join(60)


def all_go_on(followers: list[Follower], since_s: float, timeout_s: float, check: Callable[[], None]) -> None:
    """Wait until every follower has been acknowledged something from a moment on, and just now."""
    deadline = time.monotonic() + timeout_s
    while True:
        check()
        now = time.monotonic()
        if now >= since_s and all(follower.last_s() > max(since_s, now - 0.2) for follower in followers):
            return
        if now > deadline:
            late = [f"{follower.topic}-{follower.partition}" for follower in followers if follower.last_s() < since_s]
            raise AssertionError(f"nothing is acknowledged for {timeout_s:.0f} s by the leaders of {late}")
        time.sleep(0.02)
