"""The node that coordinates a group is killed, again and again, while its members read and commit and records come.

After each kill every member must go on under the next coordinator, and each node must answer with offsets that are no
smaller than what members were told is committed. In the end nothing may have been skipped, and the history of the whole
group must break no rule (see history.py). The last kill meets a group that is just making room for one member more.

    failover.py --binary target/release/chronik-server [--logs DIRECTORY] [PART-OF-A-CASE-NAME]
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import load
from confluent_kafka import Consumer, KafkaException, TopicPartition
from load import Client, Group

import report
import wire
from cluster import Cluster, Node, eventually
from report import Case, expect

SETTINGS = {
    "CHRONIK_MIN_INSYNC_REPLICAS": "2",
    "CHRONIK_OFFSETS_TOPIC_NUM_PARTITIONS": "3",
    "CHRONIK_GROUP_INITIAL_REBALANCE_DELAY_MS": "500",
    "CHRONIK_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
}
KILL_COUNT = 4
# How long members may take to commit again: sessions may end meanwhile on a machine that does other things too.
GO_ON_S = 30.0
# With fewer a member might have said only what the dead coordinator had still answered.
COMMITS_MIN = 3
# Two that live through it all and one that joins late.
MEMBERS_MAX = 3
DESCRIBE_GROUPS = 15
# The states of a group that shares its partitions out anew, and how often a member may join unseen.
MAKING_ROOM = ("PreparingRebalance", "CompletingRebalance")
JOINS_MAX = 5
CHOSEN = [("confluent", "range"), ("confluent", "cooperative-sticky"), ("kafka-python", "range")]


def coordinator_by(node: Node, group: str) -> int:
    """The coordinator of a group as a node names it, by FindCoordinator v1."""
    with node.connect(5.0) as connection:
        reader = connection.ask(wire.FIND_COORDINATOR, 1, wire.string(group) + wire.i8(0))
    reader.i32()
    code = reader.i16()
    reader.string()
    return reader.i32() if code == 0 else -1


def state_by(node: Node, group: str) -> tuple[str | None, int]:
    """The state of a group and how many members it has, as its coordinator says by DescribeGroups v0."""
    with node.connect(5.0) as connection:
        reader = connection.ask(DESCRIBE_GROUPS, 0, wire.array(wire.string(group)))
    reader.i32(), reader.i16(), reader.string()
    state = reader.string()
    reader.string(), reader.string()
    return state, reader.i32()


class LedGroup(Group):
    """A group on a cluster whose coordinators die."""

    replicas = 3

    def __init__(self, cluster: Cluster, logs: Path, client: Client, assignor: str) -> None:
        self.cluster = cluster
        broker_logs = [node.log_path for node in cluster.nodes]
        super().__init__(cluster.bootstrap, broker_logs, logs, client, assignor, static=False)
        self.commit_counts: dict[str, int] = defaultdict(int)

    def heard(self, member: str, instance: str, event: dict) -> None:
        super().heard(member, instance, event)
        if event["name"] == "committed":
            self.commit_counts[member] += 1

    def coordinator(self) -> Node:
        """The node that all nodes that run name, once they agree."""
        named: set[int] = set()

        def agree() -> bool:
            named.clear()
            named.update(coordinator_by(node, self.topic) for node in self.cluster.running())
            return len(named) == 1 and named <= {node.node_id for node in self.cluster.running()}

        eventually("the nodes name one coordinator", agree)
        return next(node for node in self.cluster.nodes if node.node_id in named)

    def all_go_on(self) -> None:
        """Wait until every member has been told of commits from now on, and each partition has one owner."""
        before = dict(self.commit_counts)
        names = [member.name for member in self.members]

        def go_on() -> bool:
            counts = {name: self.commit_counts[name] - before.get(name, 0) for name in names}
            with self.lock:
                owner_counts = {place: len(owners) for place, owners in self.history.owners().items()}
            expect("members that commit nothing", [name for name in names if counts[name] < COMMITS_MIN], [])
            expect("owners of each partition", owner_counts, dict.fromkeys(range(self.partitions), 1))
            return True

        eventually("all go on", go_on, GO_ON_S)

    def nothing_is_forgotten(self) -> None:
        """Each node that runs leads to offsets no smaller than what had been acknowledged before it was asked."""
        for node in self.cluster.running():
            with self.lock:
                acknowledged = dict(self.history.acknowledged)
            told = self.committed_by(node)
            smaller = {p: (told.get(p), offset) for p, offset in acknowledged.items() if told.get(p, -1) < offset}
            expect(f"offsets by node {node.node_id} that are smaller than acknowledged", smaller, {})

    def committed_by(self, node: Node) -> dict[int, int]:
        """What the coordinator answers that this node names."""
        consumer = Consumer({"bootstrap.servers": node.bootstrap, "group.id": self.topic})
        places = [TopicPartition(self.topic, index) for index in range(self.partitions)]
        found: dict[int, int] = {}

        def answered() -> bool:
            try:
                found.update((place.partition, place.offset) for place in consumer.committed(places, timeout=10))
            except KafkaException as error:
                raise AssertionError(str(error)) from error
            return True

        try:
            eventually(f"node {node.node_id} tells what is committed", answered)
        finally:
            consumer.close()
        return found

    def all_in_sync(self) -> None:
        """Wait until every node sees all replicas of the topic and of the groups' own in sync."""
        topics = [self.topic, "__consumer_offsets"]
        for node in self.cluster.nodes:

            def is_so(node: Node = node) -> bool:
                told = node.metadata(topics).topics
                return all(len(found.isr) == 3 for topic in topics for found in told[topic])

            eventually(f"node {node.node_id} sees all in sync", is_so, 60)

    def kill_coordinator(self, victim: Node) -> None:
        began = time.monotonic()
        victim.kill()
        heir = self.coordinator()
        expect("another node coordinates", heir is victim, False)
        self.all_go_on()
        took_s = time.monotonic() - began
        self.nothing_is_forgotten()
        print(f"# {self.name}: node {victim.node_id} killed, all go on after {took_s:.1f} s", flush=True)
        victim.spawn()
        victim.wait_until_ready()
        self.all_in_sync()
        self.nothing_is_forgotten()

    def caught_making_room(self) -> Node:
        """Let one member more join, again where it is in before that was seen: the coordinator in the middle of it."""
        for _ in range(JOINS_MAX):
            self.join()
            deadline = time.monotonic() + GO_ON_S
            state, member_count = None, 0
            while member_count < MEMBERS_MAX:
                expect(f"a member more is taken in: {state}, {member_count}", time.monotonic() < deadline, True)
                # Its partition may be given back to its preferred leader meanwhile.
                coordinator = self.coordinator()
                state, member_count = state_by(coordinator, self.topic)
                if state in MAKING_ROOM:
                    print(f"# {self.name}: the last kill meets {state}", flush=True)
                    return coordinator
            late = self.members.pop()
            late.signal(signal.SIGTERM)
            late.wait()
            self.gone(late.name)
            self.all_go_on()
        raise AssertionError(f"{self.name}: of {JOINS_MAX} members that joined none was seen at it")

    def chaos(self) -> None:
        self.join()
        self.join()
        self.all_go_on()
        self.all_in_sync()
        for _ in range(KILL_COUNT - 1):
            self.kill_coordinator(self.coordinator())
        self.kill_coordinator(self.caught_making_room())
        self.all_go_on()


def run(binary: Path, logs: Path, client: Client, assignor: str) -> None:
    with Cluster(binary, settings=SETTINGS) as cluster:
        cluster.start()
        LedGroup(cluster, logs, replace(client, members_max=MEMBERS_MAX), assignor).run()


def cases(binary: Path, logs: Path) -> list[tuple[str, Case]]:
    return [
        (f"{client.name} {assignor}", partial(run, binary, logs, client, assignor))
        for client in load.CLIENTS
        for assignor in client.assignors
        if (client.name, assignor) in CHOSEN
    ]


def main() -> int:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=Path("target/release/chronik-server"))
    parser.add_argument("--logs", type=Path, help="where what members say is kept")
    parser.add_argument("only", nargs="?", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chronik-groups-") as directory:
        return report.run(cases(options.binary, options.logs or Path(directory)), options.only)


if __name__ == "__main__":
    sys.exit(main())
