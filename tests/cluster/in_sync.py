"""Replicas in sync on real nodes: who only lags leaves the ISR and comes back, too few of them take no acks=all,
and who was one of the last leads when all are lost (KIP-966).

in_sync.py --binary target/release/chronik-server --libs .cache/kafka/libs [PART-OF-A-NAME]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "chaos"))

import replication
from followers import produce_answer
from followers import produce_body as flexible_produce_body
from network import Network, Unavailable

import kafka_tools
import report
import wire
from cluster import Cluster, Node, await_same_segments, create_topics, eventually
from report import expect

WHAT = {"binary": Path("target/release/chronik-server"), "libs": Path(".cache/kafka/libs")}
SETTINGS = {"CHRONIK_MIN_INSYNC_REPLICAS": "2"}
# Well below the default of 30 s, so that the case is short, and well above what a busy machine takes to fetch.
LAG_MS_MAX = 1_500
# Links are cut here, not spoiled: nothing is drawn at random.
SEED = 1
# How long an ISR may take to change, on a machine that does other things too.
CHANGE_S = 20.0
COMMITTED_COUNT = 10
# How long a start and the election that it brings may take. Without the election the partition waits for ever.
ELECTED_S = 10.0
# How long to see that a node which lacks records is not elected: that would be at the controller's next look.
NOT_ELECTED_S = 2.0
REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS, NOT_ENOUGH_REPLICAS_AFTER_APPEND = 7, 19, 20


def isr_of(node: Node, topic: str, index: int = 0) -> list[int]:
    """The replicas in sync as a node tells them."""
    return sorted(node.metadata([topic]).topics[topic][index].isr)


def await_isr(nodes: list[Node], topic: str, index: int, wanted: list[int]) -> None:
    """Wait until each of some nodes tells this ISR."""
    for node in nodes:

        def is_so(node: Node = node) -> bool:
            expect(f"ISR of {topic}-{index} by node {node.node_id}", isr_of(node, topic, index), sorted(wanted))
            return True

        eventually("the ISR changes", is_so, CHANGE_S)


# --- lag alone


def a_follower_that_only_lags_leaves_the_isr_and_comes_back() -> None:
    """Its fetches do not reach the leader, and all that nodes say to each other does: it lives, and is not fenced."""
    # It knows the hosts, and is a program of its own.
    chaos: Any = importlib.import_module("run")
    topic, settings = "lagging", SETTINGS | {"CHRONIK_REPLICA_LAG_TIME_MAX_MS": str(LAG_MS_MAX)}
    with contextlib.ExitStack() as stack:
        try:
            network = stack.enter_context(Network([1, 2, 3], SEED))
        except Unavailable as error:
            raise report.Skip(f"no network namespaces: {error}") from error
        cluster = stack.enter_context(chaos.HostCluster(WHAT["binary"].absolute(), network, settings))
        replication.started(cluster, topic)
        # The controller is told of lag by itself, and still hears the follower's heartbeats.
        leader = cluster.leader()
        slow, other = cluster.followers()
        partitions = leader.metadata([topic]).topics[topic]
        index = next(at for at, found in enumerate(partitions) if found.leader == leader.node_id)
        elsewhere = next(at for at, found in enumerate(partitions) if found.leader == other.node_id)
        with replication.Load(cluster, topic) as load:
            load.wait_for_more()
            positions = {node: node.log_size() for node in cluster.nodes}
            network.cut_port(leader.node_id, chaos.KAFKA_PORT, network.address(slow.node_id))
            await_isr(cluster.nodes, topic, index, [leader.node_id, other.node_id])
            load.wait_for_more()
            for node in cluster.nodes:
                expect(f"all live, by node {node.node_id}", sorted(node.metadata([]).brokers), [1, 2, 3])
                expect(f"in sync elsewhere, by node {node.node_id}", isr_of(node, topic, elsewhere), [1, 2, 3])
            copies = [len(node.segments(topic, index)) for node in (slow, leader)]
            expect("it lacks records", copies[0] < copies[1], True)
            network.heal()
            replication.all_in_sync(cluster, topic)
            load.check()
        said = "".join(node.log_since(position) for node, position in positions.items())
        for what in ("fallen behind", "caught up"):
            told = [line for line in said.splitlines() if f"ISR of {topic}-{index} is now" in line and what in line]
            expect(f"it is told once that it has {what}", len(told), 1)
        expect("nobody was fenced", "Fencing broker" in said, False)
        replication.replicas_are_the_same(cluster, topic)


# --- too few


class Three:
    """Three replicas on five nodes: two of them may be lost, and the metadata's majority stays."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.cluster, self.topic = cluster, topic
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            expect("a topic is made", create_topics(connection, {topic: (1, 3)})[topic][0], 0)
        found = cluster.nodes[0].metadata([topic]).topics[topic][0]
        by_id = {node.node_id: node for node in cluster.nodes}
        self.leader = by_id[found.leader]
        self.followers = [by_id[node] for node in found.replicas if node != found.leader]
        self.others = [node for node in cluster.nodes if node is not self.leader and node not in self.followers]
        await_isr(cluster.nodes, topic, 0, found.replicas)
        for number in range(COMMITTED_COUNT):
            expect("written while all are in sync", self.write(acks=-1), (0, number))

    def write(
        self, version: int = 7, timeout_ms: int = 10_000, value: bytes = b"value", **settings: int
    ) -> tuple[int, int]:
        """One record to the leader; error code and offset."""
        with self.leader.connect() as connection:
            records = wire.batch(value).encode()
            return wire.produce(connection, self.topic, records, version, timeout_ms=timeout_ms, **settings)

    def read(self) -> tuple[int, int, bool]:
        """Error code, high watermark, and whether there are records."""
        with self.leader.connect() as connection:
            code, high_watermark, records = wire.fetch(connection, self.topic)
        return code, high_watermark, len(records) > 0

    def leader_is_alone(self) -> None:
        """Wait until nobody else is in sync, as all nodes see it that are neither dead nor asleep."""
        await_isr([self.leader, *self.others], self.topic, 0, [self.leader.node_id])

    def is_refused(self) -> None:
        """No version of a request with acks=all is taken, and each says why."""
        for version in (3, 5, 7, 8):
            expect(f"acks=all, version {version}", self.write(version)[0], NOT_ENOUGH_REPLICAS)
        with self.leader.connect() as connection:
            body = flexible_produce_body(self.topic, 0, 10_000, wire.batch(b"value").encode())
            told = produce_answer(connection.ask(wire.PRODUCE, 10, body))
        expect("acks=all, version 10", told.code, NOT_ENOUGH_REPLICAS)

    def values_through_a_client(self) -> list[tuple[int, bytes]]:
        """What a consumer gets that knows the live nodes only: offsets and values."""
        kafka: Any = importlib.import_module("kafka")
        consumer = kafka.KafkaConsumer(
            self.topic,
            bootstrap_servers=[node.bootstrap for node in self.cluster.running()],
            auto_offset_reset="earliest",
            consumer_timeout_ms=3_000,
        )
        found = [(message.offset, message.value) for message in consumer]
        consumer.close()
        return found

    def reads_through_a_client(self, count: int) -> None:
        """A consumer is given all that is committed, and no more."""
        offsets = [offset for offset, _ in self.values_through_a_client()]
        expect("records that a consumer gets", offsets, list(range(count)))


def too_few_in_sync_take_no_acks_all_and_all_else() -> None:
    with Cluster(WHAT["binary"], ids=[1, 2, 3, 4, 5], settings=SETTINGS) as cluster:
        three = Three(cluster, "few")
        for victim in three.followers:
            victim.kill()
        three.leader_is_alone()
        three.is_refused()
        with three.leader.connect() as connection:
            body = wire.produce_body("few", wire.batch(b"value").encode(), acks=0)
            connection.send(wire.PRODUCE, 7, body)
            # The same connection: it is behind the one that has no answer. What was refused has no offsets.
            taken = wire.produce(connection, "few", wire.batch(b"value").encode(), acks=1)
        expect("acks=0 and acks=1 are taken", taken, (0, COMMITTED_COUNT + 1))
        # KIP-966: below the minimum nothing is committed, whatever the acks.
        expect("what was committed is read", three.read(), (0, COMMITTED_COUNT, True))
        three.reads_through_a_client(COMMITTED_COUNT)
        back = three.followers[0]
        back.spawn()
        back.wait_until_ready()
        await_isr([three.leader, *three.others, back], "few", 0, [three.leader.node_id, back.node_id])
        expect("writes go on with two", three.write(), (0, COMMITTED_COUNT + 2))
        expect("and all is committed", three.read(), (0, COMMITTED_COUNT + 3, True))
        three.reads_through_a_client(COMMITTED_COUNT + 3)


def what_waits_while_the_isr_becomes_too_small_is_not_acknowledged() -> None:
    with Cluster(WHAT["binary"], ids=[1, 2, 3, 4, 5], settings=SETTINGS) as cluster:
        three = Three(cluster, "waiting")
        try:
            for sleeper in three.followers:
                sleeper.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
            began = time.monotonic()
            code, _ = three.write(timeout_ms=6_000)
            # It is not committed, so that Kafka too has nothing to say but that its time is up; 20 if it just was.
            expect("it is told", code in (REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND), True)
            expect("that was after they were missed", isr_of(three.leader, "waiting"), [three.leader.node_id])
            print(f"# told {code} after {time.monotonic() - began:.1f} s", flush=True)
            three.is_refused()
            expect("what was committed is read", three.read(), (0, COMMITTED_COUNT, True))
        finally:
            for sleeper in three.followers:
                sleeper.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
        replicas = [three.leader.node_id, *(node.node_id for node in three.followers)]
        await_isr(cluster.nodes, "waiting", 0, replicas)
        # The one that waited was in the log, and is committed now: a producer that sends it again must be idempotent.
        expect("writes go on", three.write(), (0, COMMITTED_COUNT + 1))
        three.reads_through_a_client(COMMITTED_COUNT + 2)


# --- eligible leaders (KIP-966)


def await_described(nodes: Iterable[Node], topic: str, leader: int, isr: list[int], elr: list[int]) -> None:
    """Wait until each of some nodes tells a partition so."""
    for node in nodes:

        def is_so(node: Node = node) -> bool:
            told = node.describe(topic)[0]
            found = (told.leader, sorted(told.isr), sorted(told.elr), told.last_known_elr)
            expect(f"leader, ISR, ELR and last known ELR by node {node.node_id}", found, (leader, isr, elr, []))
            return True

        eventually(f"{topic} is told so", is_so, CHANGE_S)


def left_alone(three: Three) -> list[tuple[int, bytes]]:
    """The leader loses its followers one after the other, and writes between; what was acknowledged by then."""
    (early, heir), leader = three.followers, three.leader.node_id
    early.kill()
    # Two are enough: the high watermark moves on, so that who has left is not eligible.
    await_described(three.cluster.running(), three.topic, leader, sorted([leader, heir.node_id]), [])
    acknowledged = [(number, b"value") for number in range(COMMITTED_COUNT)]
    for number in range(COMMITTED_COUNT, 2 * COMMITTED_COUNT):
        value = f"without the first, {number}".encode()
        expect("written while two are in sync", three.write(value=value), (0, number))
        acknowledged.append((number, value))
    heir.kill()
    await_described(three.cluster.running(), three.topic, leader, [leader], [heir.node_id])
    return acknowledged


def stays_without_leader(three: Three) -> None:
    """For a while no node tells that anybody leads."""
    end = time.monotonic() + NOT_ELECTED_S
    while time.monotonic() < end:
        for node in three.cluster.running():
            expect(f"the leader by node {node.node_id}", node.describe(three.topic)[0].leader, -1)
        time.sleep(0.1)


def comes_to_lead(three: Three, node: Node) -> None:
    """A node is started, and leads at once, as all tell."""
    began = time.monotonic()
    node.spawn()
    for other in three.cluster.running():

        def is_told(other: Node = other) -> bool:
            return other.describe(three.topic)[0].leader == node.node_id

        what = f"node {other.node_id} tells that node {node.node_id} leads"
        eventually(what, is_told, began + ELECTED_S - time.monotonic())
    print(f"# led {time.monotonic() - began:.1f} s after its process began", flush=True)
    three.leader = node


def all_have(three: Three, replicas: list[Node], acknowledged: list[tuple[int, bytes]]) -> None:
    """All replicas come to be in sync and equal, and a consumer gets what was acknowledged, and nothing else."""
    await_isr(three.cluster.nodes, three.topic, 0, [node.node_id for node in replicas])
    await_same_segments(replicas, three.topic, 0)
    expect("a consumer gets what was acknowledged", three.values_through_a_client(), acknowledged)


def who_was_in_sync_when_too_few_were_leads_with_all_that_was_acknowledged() -> None:
    """The last leader stays away, and those that it has lost come back."""
    topic = "eligible"
    with Cluster(WHAT["binary"], ids=[1, 2, 3, 4, 5], settings=SETTINGS) as cluster:
        three = Three(cluster, topic)
        last, (early, heir) = three.leader, three.followers
        acknowledged = left_alone(three)
        asked = ["--describe", "--topic", topic]
        told = kafka_tools.run(WHAT["libs"], kafka_tools.TOPICS, three.others[0].bootstrap, *asked)
        rows = re.findall(r"Leader: (\S+)\s.*Isr: (\S*)\s+Elr: (\S*)\s+LastKnownElr: (\S*)", told)
        wanted = [(str(last.node_id), str(last.node_id), str(heir.node_id), "")]
        expect(f"leader, ISR, ELR and last known ELR by kafka-topics, {told!r}", rows, wanted)
        expect("acks=1 is taken", three.write(value=b"never committed", acks=1), (0, len(acknowledged)))
        expect("and not committed", three.read()[:2], (0, len(acknowledged)))
        last.kill()
        # Three of the five nodes are there again, and the replica among them lacks records.
        early.spawn()
        early.wait_until_ready()
        await_described(cluster.running(), topic, -1, [last.node_id], [heir.node_id])
        stays_without_leader(three)
        comes_to_lead(three, heir)
        await_described(cluster.running(), topic, heir.node_id, sorted([early.node_id, heir.node_id]), [])
        expect("it has what was acknowledged, and no more", three.write(value=b"next"), (0, len(acknowledged)))
        acknowledged.append((len(acknowledged), b"next"))
        expect("a consumer gets what was acknowledged", three.values_through_a_client(), acknowledged)
        logged = "".join(node.log() for node in cluster.nodes)
        lines = re.findall(rf"Leader of {topic}-0 is now {heir.node_id} \(leader epoch \d+\): (.+)", logged)
        print(f"# it was told as: {lines}", flush=True)
        expect("the election is told once, with its cause", len(lines), 1)
        expect("no election was unclean", "unclean election" in logged, False)
        last.spawn()
        last.wait_until_ready()
        all_have(three, [last, early, heir], acknowledged)


def who_may_have_lost_records_is_not_eligible_any_more() -> None:
    """The machine of the eligible one loses power: the partition waits for the last leader, which was only killed."""
    topic = "lossy"
    with Cluster(WHAT["binary"], ids=[1, 2, 3, 4, 5], settings=SETTINGS) as cluster:
        three = Three(cluster, topic)
        last, (early, heir) = three.leader, three.followers
        acknowledged = left_alone(three)
        last.kill()
        replication.lose_power(heir, topic)
        for node in (heir, early):
            node.spawn()
        cluster.wait_until_ready()
        await_described(cluster.running(), topic, -1, [last.node_id], [])
        stays_without_leader(three)
        comes_to_lead(three, last)
        all_have(three, [last, early, heir], acknowledged)


CASES: list[Callable[[], None]] = [
    a_follower_that_only_lags_leaves_the_isr_and_comes_back,
    too_few_in_sync_take_no_acks_all_and_all_else,
    what_waits_while_the_isr_becomes_too_small_is_not_acknowledged,
    who_was_in_sync_when_too_few_were_leads_with_all_that_was_acknowledged,
    who_may_have_lost_records_is_not_eligible_any_more,
]


def main() -> int:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(WHAT["binary"]))
    parser.add_argument("--libs", default=str(WHAT["libs"]))
    parser.add_argument("only", nargs="?", default="")
    options = parser.parse_args()
    WHAT["binary"], WHAT["libs"] = Path(options.binary), Path(options.libs)
    return report.run([(case.__name__.replace("_", " "), case) for case in CASES], options.only.replace("_", " "))


if __name__ == "__main__":
    sys.exit(main())
