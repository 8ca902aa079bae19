"""Three combined nodes of Apache Kafka on loopback, to measure beside three nodes of Chronik."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import wire
from cluster import free_ports
from daemon import Kafka

DESCRIBE_QUORUM = 55
wire.FIRST_FLEXIBLE[DESCRIBE_QUORUM] = 0


def quorum_leader(connection: wire.Connection) -> int:
    """The node that leads the metadata log, by DescribeQuorum v0."""
    partition = wire.i32(0) + wire.NO_TAGS
    topic = wire.compact_string("__cluster_metadata") + wire.compact_array(partition) + wire.NO_TAGS
    reader = connection.ask(DESCRIBE_QUORUM, 0, wire.compact_array(topic) + wire.NO_TAGS)
    if (code := reader.i16()) != 0:
        raise AssertionError(f"DescribeQuorum: error {code}")
    reader.uvarint(), reader.compact_bytes(), reader.uvarint(), reader.i32(), reader.i16()
    return reader.i32()


class KafkaNode(Kafka):
    """One node that is broker and controller."""

    def __init__(self, libs: Path, directory: Path, node_id: int, port: int, voters: dict[int, int]) -> None:
        super().__init__(libs, directory / f"kafka-{node_id}", port)
        self.node_id = node_id
        self.controller_port = voters[node_id]
        self.voters = ",".join(f"{node}@127.0.0.1:{place}" for node, place in voters.items())

    def _properties(self) -> str:
        lines = super()._properties().splitlines()
        kept = [line for line in lines if not line.startswith(("node.id=", "controller.quorum.voters="))]
        return "\n".join([*kept, f"node.id={self.node_id}", f"controller.quorum.voters={self.voters}"])

    def connect(self, timeout_s: float = 30.0) -> wire.Connection:
        """A connection to this node."""
        return wire.Connection(self.bootstrap, timeout_s)

    def pid(self) -> int:
        """The number of the process."""
        if self.process is None:
            raise AssertionError(f"node {self.node_id} was not started")
        return self.process.pid


class KafkaCluster:
    """Three nodes that know of each other."""

    def __init__(self, libs: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kafka-cluster-"))
        ports = free_ports(6)
        voters = dict(zip([1, 2, 3], ports[3:], strict=True))
        self.nodes = [KafkaNode(libs, self.directory, number, port, voters) for number, port in enumerate(ports[:3], 1)]

    def __enter__(self) -> KafkaCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def prepare(self) -> None:
        """Format the directories, which Chronik does not ask for and is not part of a start."""
        for node in self.nodes:
            node.prepare()

    def start(self) -> None:
        """Start all nodes and wait until each of them answers."""
        self.prepare()
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.wait_until_ready()

    def leader(self) -> KafkaNode:
        """The node that leads the metadata log."""
        for node in self.nodes:
            if node.alive():
                with node.connect() as connection:
                    leader = quorum_leader(connection)
                return next(node for node in self.nodes if node.node_id == leader)
        raise AssertionError("no node runs")
