"""Clusters of Chronik on loopback: real processes on ports of their own, started as a user would start them."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import wire
from daemon import STOP_TIMEOUT_S, Chronik, answers

# Below the ports that the system gives to outgoing connections: a node that connects to a peer that is away must not
# be given that peer's own port.
FIRST_PORT, LAST_PORT = 20_000, 32_000
GIVEN_OUT: set[int] = set()
FORBIDDEN = ("Failed to elect leader", "Failed to propose", "panicked")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now, and that were not given out before."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(FIRST_PORT, LAST_PORT)
        if port in GIVEN_OUT:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        GIVEN_OUT.add(port)
        found.append(port)
    return found


def eventually(what: str, check: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait until `check` gives something true; what it raises counts as false until the time is up."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            last = check()
            if last:
                return
        except (OSError, AssertionError, wire.Closed) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s, last {last!r}")
        time.sleep(0.02)


@dataclass
class Partition:
    """One partition as Metadata tells it."""

    error: int
    leader: int
    replicas: list[int]
    isr: list[int]


@dataclass
class Metadata:
    """An answer to Metadata v2."""

    brokers: dict[int, tuple[str, int]] = field(default_factory=dict)
    cluster_id: str | None = None
    controller: int = -1
    topics: dict[str, list[Partition]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)


def metadata(connection: wire.Connection, topics: list[str] | None = None) -> Metadata:
    """Metadata v2 of some topics, which creates those that are missing, or of all."""
    body = wire.i32(-1) if topics is None else wire.array(*[wire.string(topic) for topic in topics])
    reader = connection.ask(wire.METADATA, 2, body)
    answer = Metadata()
    for _ in range(reader.i32()):
        node = reader.i32()
        answer.brokers[node] = (reader.string() or "", reader.i32())
        reader.string()
    answer.cluster_id = reader.string()
    answer.controller = reader.i32()
    for _ in range(reader.i32()):
        error, name = reader.i16(), reader.string() or ""
        reader.i8()
        partitions = {}
        for _ in range(reader.i32()):
            code, index, leader = reader.i16(), reader.i32(), reader.i32()
            replicas = [reader.i32() for _ in range(reader.i32())]
            partitions[index] = Partition(code, leader, replicas, [reader.i32() for _ in range(reader.i32())])
        answer.errors[name] = error
        answer.topics[name] = [partitions[index] for index in sorted(partitions)]
    return answer


@dataclass
class Described:
    """One partition as DescribeTopicPartitions tells it."""

    error: int
    leader: int
    replicas: list[int]
    isr: list[int]
    # Who may lead though it is not in sync, by KIP-966.
    elr: list[int]
    last_known_elr: list[int]


def topic_id(connection: wire.Connection, topic: str) -> bytes:
    """The id of a topic, by Metadata v12."""
    wanted = bytes(16) + wire.compact_string(topic) + wire.NO_TAGS
    reader = connection.ask(wire.METADATA, 12, wire.compact_array(wanted) + wire.i8(0) + wire.i8(0) + wire.NO_TAGS)
    reader.i32()
    for _ in range(reader.uvarint() - 1):
        reader.i32(), reader.compact_bytes(), reader.i32(), reader.compact_bytes(), reader.tagged()
    reader.compact_bytes(), reader.i32(), reader.uvarint()
    if (code := reader.i16()) != 0:
        raise AssertionError(f"Metadata of {topic}: error {code}")
    reader.compact_bytes()
    return reader.take(16)


def describe_topic(connection: wire.Connection, topic: str) -> list[Described]:
    """DescribeTopicPartitions v0 of one topic."""
    wanted = wire.compact_array(wire.compact_string(topic) + wire.NO_TAGS)
    # No cursor.
    reader = connection.ask(wire.DESCRIBE_TOPIC_PARTITIONS, 0, wanted + wire.i32(2_000) + wire.i8(-1) + wire.NO_TAGS)
    reader.i32(), reader.uvarint()
    if (code := reader.i16()) != 0:
        raise AssertionError(f"describe {topic}: error {code}")
    reader.compact_bytes(), reader.take(16), reader.i8()
    partitions = {}
    for _ in range(reader.uvarint() - 1):
        error, index, leader, _ = reader.i16(), reader.i32(), reader.i32(), reader.i32()
        # Replicas, ISR, ELR, last known ELR, and replicas that are offline.
        nodes = [reader.compact_i32s() for _ in range(5)]
        partitions[index] = Described(error, leader, *nodes[:4])
        reader.uvarint()
    return [partitions[index] for index in sorted(partitions)]


def create_topics(
    connection: wire.Connection, topics: dict[str, tuple[int, int]], timeout_ms: int = 30_000
) -> dict[str, tuple[int, str | None]]:
    """CreateTopics v2: partitions and replication factors by name; error codes and texts by name."""
    wanted = [
        wire.string(name) + wire.i32(partitions) + wire.i16(factor) + wire.array() + wire.array()
        for name, (partitions, factor) in topics.items()
    ]
    reader = connection.ask(wire.CREATE_TOPICS, 2, wire.array(*wanted) + wire.i32(timeout_ms) + wire.i8(0))
    reader.i32()
    outcomes = {}
    for _ in range(reader.i32()):
        name = reader.string() or ""
        outcomes[name] = (reader.i16(), reader.string())
    return outcomes


def delete_topics(connection: wire.Connection, names: list[str]) -> dict[str, int]:
    """DeleteTopics v1; error codes by name."""
    body = wire.array(*[wire.string(name) for name in names]) + wire.i32(30_000)
    reader = connection.ask(wire.DELETE_TOPICS, 1, body)
    reader.i32()
    outcomes = {}
    for _ in range(reader.i32()):
        name = reader.string() or ""
        outcomes[name] = reader.i16()
    return outcomes


def grow_topic(connection: wire.Connection, name: str, partitions: int) -> int:
    """CreatePartitions v0; the error code."""
    wanted = wire.string(name) + wire.i32(partitions) + wire.i32(-1)
    reader = connection.ask(37, 0, wire.array(wanted) + wire.i32(30_000) + wire.i8(0))
    reader.i32(), reader.i32(), reader.string()
    return reader.i16()


class Node(Chronik):
    """One node of a cluster."""

    def __init__(self, binary: Path, directory: Path, node_id: int, kafka_port: int, peers: str) -> None:
        super().__init__(binary, directory / f"chronik-data-{node_id}", kafka_port)
        self.host = "localhost"
        self.node_id = node_id
        self.directory = directory
        self.log_path = directory / f"node-{node_id}.log"
        self.settings = {
            "CHRONIK_NODE_ID": str(node_id),
            "CHRONIK_CLUSTER_ENABLED": "true",
            "CHRONIK_CLUSTER_PEERS": peers,
        }

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHRONIK_")}
        return {**inherited, "CHRONIK_KAFKA_PORT": str(self.port), **self.settings}

    def spawn(self) -> None:
        """Start the process in the cluster's directory, where its data goes by default."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                env=self.environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def pid(self) -> int:
        """The number of the process."""
        if self.process is None:
            raise AssertionError(f"node {self.node_id} was not started")
        return self.process.pid

    def connect(self, timeout_s: float = 30.0) -> wire.Connection:
        """A connection to this node and no other."""
        return wire.Connection(self.bootstrap, timeout_s)

    def metadata(self, topics: list[str] | None = None) -> Metadata:
        """What this node tells of the cluster."""
        with self.connect() as connection:
            return metadata(connection, topics)

    def describe(self, topic: str) -> list[Described]:
        """What this node tells of a topic's partitions, and who else may lead them."""
        with self.connect() as connection:
            return describe_topic(connection, topic)

    def segment_files(self, topic: str, index: int) -> list[Path]:
        """The segments of a partition on this node's disk, the oldest first."""
        return sorted((self.data_dir / f"{topic}-{index}").glob("*.log"))

    def segments(self, topic: str, index: int) -> bytes:
        """The records of a partition as they lie on this node's disk."""
        return b"".join(path.read_bytes() for path in self.segment_files(topic, index))

    def log(self) -> str:
        """All that this node has written, over all its lives."""
        return self.log_path.read_text(errors="replace")

    def log_size(self) -> int:
        """Where the log ends now, for `log_since`."""
        return self.log_path.stat().st_size

    def log_since(self, position: int) -> str:
        """What this node has written from a place on."""
        with self.log_path.open("rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace")


class Cluster:
    """Some nodes that know of each other."""

    def __init__(
        self,
        binary: Path,
        ids: list[int] | None = None,
        settings: dict[str, str] | None = None,
        host: str = "localhost",
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="chronik-cluster-"))
        numbers = ids or [1, 2, 3]
        ports = free_ports(2 * len(numbers))
        self.kafka_ports, self.raft_ports = ports[: len(numbers)], ports[len(numbers) :]
        places = zip(numbers, self.kafka_ports, self.raft_ports, strict=True)
        named = "{0}@{3}:{1}:{2}" if ids else "{3}:{1}:{2}"
        self.peers = ",".join(named.format(*place, host) for place in places)
        self.nodes = [
            Node(binary, self.directory, number, port, self.peers)
            for number, port in zip(numbers, self.kafka_ports, strict=True)
        ]
        for node in self.nodes:
            node.settings |= settings or {}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        good = False
        try:
            # What else went wrong is told rather than this.
            if kind is None:
                self.check_logs()
                good = True
        finally:
            if good or not os.environ.get("KEEP_CLUSTERS"):
                shutil.rmtree(self.directory, ignore_errors=True)
            else:
                print(f"# kept {self.directory}", flush=True)

    def start(self) -> None:
        """Start all nodes and wait until each of them answers."""
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            # One that has ended by itself is not overlooked.
            node.wait_until_ready()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until all nodes that run answer, and see all nodes that run."""
        for node in self.running():
            node.wait_until_ready()
        ids = sorted(node.node_id for node in self.running())
        for node in self.running():

            def sees_all(node: Node = node) -> bool:
                return sorted(node.metadata([]).brokers) == ids

            eventually(f"node {node.node_id} sees {ids}", sees_all)

    @property
    def bootstrap(self) -> str:
        """What a client is given: all nodes."""
        return ",".join(node.bootstrap for node in self.nodes)

    def stop(self) -> None:
        """SIGTERM to all, together."""
        for node in self.nodes:
            if node.process is not None and node.alive():
                node.process.terminate()
        for node in self.nodes:
            # A second signal would end it at once.
            if node.process is not None and (code := node.process.wait(timeout=STOP_TIMEOUT_S)) != 0:
                raise AssertionError(f"node {node.node_id} ended with code {code}\n{node.log_tail()}")

    def running(self) -> Iterator[Node]:
        """The nodes whose process lives."""
        return (node for node in self.nodes if node.alive())

    def leader(self) -> Node:
        """The node that leads the metadata log, by its own log."""
        newest: tuple[int, Node] | None = None
        for node in self.running():
            terms = [int(term) for term in re.findall(r"became leader at term (\d+)", node.log())]
            if terms and (newest is None or newest[0] < max(terms)):
                newest = (max(terms), node)
        if newest is None:
            raise AssertionError("no node leads")
        return newest[1]

    def followers(self) -> list[Node]:
        """The other nodes that run."""
        leader = self.leader()
        return [node for node in self.running() if node is not leader]

    def check_logs(self) -> None:
        """No node may have written what must never be written."""
        for node in self.nodes:
            if not node.log_path.exists():
                continue
            for words in FORBIDDEN:
                if words in node.log():
                    raise AssertionError(f"node {node.node_id} has written {words!r}\n{node.log_tail()}")


def await_same_segments(nodes: list[Node], topic: str, index: int) -> None:
    """REPL-3, with nothing under way: wait until the segments of these replicas are equal byte for byte."""

    def are_equal() -> bool:
        copies = [node.segments(topic, index) for node in nodes]
        return len(copies[0]) > 0 and copies.count(copies[0]) == len(copies)

    eventually(f"the replicas of {topic}-{index} are the same", are_equal, 30)


def is_up(node: Node) -> bool:
    """Whether a node answers requests."""
    with contextlib.suppress(OSError):
        return answers(node.host, node.port, 0.5)
    return False
