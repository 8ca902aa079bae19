"""Kafka's own tools on clusters that lack nodes: what they say is true on every node that runs.

tools.py --binary target/release/chronik-server --libs .cache/kafka/libs
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import kafka_tools
import report
import wire
from cluster import Cluster, Node, await_same_segments, create_topics, eventually
from kafka_tools import CONFIGS, DELETE_RECORDS, GET_OFFSETS, LEADER_ELECTION, TOPICS
from report import expect

WHAT = {"binary": Path("target/release/chronik-server"), "libs": Path(".cache/kafka/libs")}
SETTINGS = {"CHRONIK_MIN_INSYNC_REPLICAS": "2"}
TOPIC = "told"
PARTITIONS = 3
NOT_ENOUGH_REPLICAS = 19
FILTERS = ("under-replicated", "unavailable", "under-min-isr", "at-min-isr")


def tool(node: Node, main: str, *arguments: str, code: int = 0) -> str:
    """Run one of Kafka's tools against one node."""
    return kafka_tools.run(WHAT["libs"], main, node.bootstrap, *arguments, code=code)


def described(node: Node, which: str, topic: str = TOPIC) -> list[int]:
    """The partitions of a topic that kafka-topics names under a filter."""
    said = tool(node, TOPICS, "--describe", "--topic", topic, f"--{which}-partitions")
    return sorted(int(found) for found in re.findall(rf"Topic: {topic}\s+Partition: (\d+)", said))


def make_topic(node: Node, topic: str, factor: int, *configs: str, partitions: int = PARTITIONS) -> None:
    """Make a topic with configs of its own."""
    asked = ["--partitions", str(partitions), "--replication-factor", str(factor)]
    for config in configs:
        asked += ["--config", config]
    tool(node, TOPICS, "--create", "--topic", topic, *asked)


def leaders(node: Node, topic: str = TOPIC) -> list[int]:
    """The leader of each partition as a node sees it."""
    return [partition.leader for partition in node.metadata([topic]).topics[topic]]


def in_sync(node: Node) -> list[int]:
    """How many replicas of each partition are in sync as a node sees it."""
    return [len(partition.isr) for partition in node.metadata([TOPIC]).topics[TOPIC]]


def await_in_sync(node: Node, count: int) -> None:
    """Wait until a node sees so many replicas of each partition in sync."""
    eventually(f"node {node.node_id} sees {count} in sync", lambda: in_sync(node) == [count] * PARTITIONS)


def what_is_missing_is_told_on_every_node() -> None:
    everything, nothing = list(range(PARTITIONS)), list[int]()
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        with one.connect() as connection:
            expect("a topic is made", create_topics(connection, {TOPIC: (PARTITIONS, 3)})[TOPIC][0], 0)

        def check(what: str, expected: dict[str, list[int]]) -> None:
            for node in cluster.running():
                found = {which: described(node, which) for which in FILTERS}
                expect(
                    f"{what}, at node {node.node_id}", found, {which: expected.get(which, nothing) for which in FILTERS}
                )

        check("with all three", {})
        three.kill()
        for node in (one, two):
            await_in_sync(node, 2)
        check("without one", {"under-replicated": everything, "at-min-isr": everything})
        three.spawn()
        three.wait_until_ready()
        for node in cluster.nodes:
            await_in_sync(node, 3)
        check("with all three again", {})


def led_by(node: Node, topic: str, wanted: list[int]) -> Callable[[], bool]:
    """Whether a node sees these leaders."""
    return lambda: leaders(node, topic) == wanted


def leaderless(node: Node, topic: str, index: int) -> Callable[[], bool]:
    """Whether a node sees a partition without a leader."""
    return led_at(node, topic, index, -1)


def led_at(node: Node, topic: str, index: int, wanted: int) -> Callable[[], bool]:
    """Whether a node sees a partition led so."""
    return lambda: leaders(node, topic)[index] == wanted


def is_told_as_unclean(nodes: list[Node], topic: str, index: int, leader: int) -> None:
    """The nodes' logs tell an election once, and what it may have cost."""
    logged = [line for node in nodes for line in node.log().splitlines()]
    lines = [line for line in logged if f"Leader of {topic}-{index} is now {leader}" in line]
    expect("it is told once", len(lines), 1)
    expect("with its cause", "unclean election, records may be lost" in lines[0], True)


def partitions_without_enough_or_any_are_told_on_every_node() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        make_topic(one, "alone", 1, "min.insync.replicas=1")
        make_topic(one, "paired", 2)
        # Replicas are [1], [2], [3] and [1, 2], [2, 3], [3, 1].
        three.kill()
        for node in (one, two):
            eventually(f"node {node.node_id} sees no leader", led_by(node, "alone", [1, 2, -1]))
            eventually(f"node {node.node_id} sees leaders", led_by(node, "paired", [1, 2, 1]))
            for topic, expected in (
                # Kafka's tool counts what has no leader as below its minimum.
                ("alone", {"unavailable": [2], "under-min-isr": [2], "at-min-isr": [0, 1, 2]}),
                ("paired", {"under-replicated": [1, 2], "under-min-isr": [1, 2], "at-min-isr": [0]}),
            ):
                found = {which: described(node, which, topic) for which in FILTERS}
                wanted = {which: expected.get(which, []) for which in FILTERS}
                expect(f"{topic} without node 3, at node {node.node_id}", found, wanted)


def an_operator_takes_a_leader_that_lacks_records() -> None:
    """Replication point 10."""
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        make_topic(one, "risky", 2, "min.insync.replicas=1", partitions=2 * PARTITIONS)
        # Partitions 1 and 4 are on nodes 2 and 3; node 2 alone is in sync when it dies.
        three.kill()
        eventually("node 3 leaves the ISR", lambda: len(two.metadata(["risky"]).topics["risky"][1].isr) == 1)
        two.kill()
        three.spawn()
        eventually("two nodes are there", lambda: leaders(one, "risky")[1] == -1)
        three.wait_until_ready()
        for node in (one, three):
            for index in (1, 4):
                eventually("it waits for node 2", leaderless(node, "risky", index))
            expect(f"unavailable, at node {node.node_id}", described(node, "unavailable", "risky"), [1, 4])
        asked = ["--topic", "risky", "--partition", "1"]
        said = tool(one, LEADER_ELECTION, "--election-type", "preferred", *asked, code=1)
        expect("not by a clean election", "PreferredLeaderNotAvailableException" in said, True)
        # One of the two is the controller, and the other is not.
        tool(three, LEADER_ELECTION, "--election-type", "unclean", *asked)
        expect("the other one waits on", leaders(three, "risky")[4], -1)
        tool(one, LEADER_ELECTION, "--election-type", "unclean", "--topic", "risky", "--partition", "4")
        for node in (one, three):
            for index in (1, 4):
                # The tool is answered when the node that it asked knows; the other one may be a moment behind.
                eventually(f"node 3 leads, at node {node.node_id}", led_at(node, "risky", index, 3))
            expect("and all are served", described(node, "unavailable", "risky"), [])
        for index in (1, 4):
            is_told_as_unclean([one, three], "risky", index, 3)
        two.spawn()
        two.wait_until_ready()
        eventually("node 2 is in sync again", lambda: len(one.metadata(["risky"]).topics["risky"][1].isr) == 2)


def written(node: Node, topic: str, index: int = 0, acks: int = -1) -> tuple[int, int]:
    """Write one record; the error code and its offset."""
    with node.connect() as connection:
        return wire.produce(connection, topic, wire.batch(b"value").encode(), partition=index, acks=acks)


def high_watermark(node: Node, topic: str, index: int = 0) -> int:
    """Where the records end that a leader calls committed."""
    with node.connect() as connection:
        code, offset, _ = wire.fetch(connection, topic, index)
    expect("fetched", code, 0)
    return offset


def isr_is(node: Node, topic: str, index: int, wanted: list[int]) -> Callable[[], bool]:
    """Whether a node sees these replicas in sync."""
    return lambda: sorted(node.metadata([topic]).topics[topic][index].isr) == wanted


def a_leader_that_lacks_records_is_elected_when_configs_come_to_allow_it() -> None:
    allow = ["--alter", "--add-config", "unclean.leader.election.enable=true"]
    topics, index = ("risky", "daring"), 1
    with Cluster(WHAT["binary"], settings={"CHRONIK_MIN_INSYNC_REPLICAS": "1"}) as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        with one.connect() as connection:
            made = create_topics(connection, dict.fromkeys(topics, (PARTITIONS, 2)))
        expect("topics are made", [code for code, _ in made.values()], [0, 0])
        for topic in topics:
            # On nodes 2 and 3.
            eventually("its leader is told", led_at(two, topic, index, 2))
            eventually("written to both", lambda topic=topic: written(two, topic, index) == (0, 0))  # type: ignore[misc]
        three.kill()
        for topic in topics:
            eventually("node 3 leaves the ISR", isr_is(two, topic, index, [2]))
            expect("written to node 2 alone", written(two, topic, index), (0, 1))
        two.kill()
        three.spawn()
        three.wait_until_ready()

        def check(wanted: dict[str, int]) -> None:
            for node in (one, three):
                for topic, leader in wanted.items():
                    what = f"node {node.node_id} sees {topic} led by {leader}"
                    eventually(what, led_at(node, topic, index, leader))

        check({"risky": -1, "daring": -1})
        tool(one, CONFIGS, *allow, "--entity-type", "topics", "--entity-name", "risky")
        check({"risky": 3, "daring": -1})
        tool(three, CONFIGS, *allow, "--entity-type", "brokers", "--entity-default")
        check({"risky": 3, "daring": 3})
        for topic in topics:
            is_told_as_unclean([one, three], topic, index, 3)
            eventually("the next record", lambda topic=topic: written(three, topic, index)[0] == 0)  # type: ignore[misc]
            expect("it is where the lost one was", high_watermark(three, topic, index), 2)
        two.spawn()
        two.wait_until_ready()
        for topic in topics:
            eventually("node 2 is in sync again", isr_is(one, topic, index, [2, 3]))
            await_same_segments([two, three], topic, index)


def a_minimum_in_sync_that_changes_is_kept_from_then_on() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        with one.connect() as connection:
            # Partition 0 is on nodes 1 and 2, partition 1 on 2 and 3.
            expect("a topic is made", create_topics(connection, {TOPIC: (PARTITIONS, 2)})[TOPIC][0], 0)
        eventually("written to both", lambda: written(one, TOPIC) == (0, 0))
        two.kill()

        def check(what: str, elr: list[int]) -> None:
            for node in (one, three):

                def is_so(node: Node = node) -> bool:
                    told = node.describe(TOPIC)[0]
                    expect(what, (told.leader, told.isr, told.elr), (1, [1], elr))
                    return True

                eventually(f"node {node.node_id} tells the lone leader", is_so)

        def change(node: Node, minimum: int) -> None:
            asked = ["--alter", "--add-config", f"min.insync.replicas={minimum}"]
            tool(node, CONFIGS, *asked, "--entity-type", "topics", "--entity-name", TOPIC)

        check("with a minimum of two", [2])
        expect("acks=all is refused", written(one, TOPIC)[0], NOT_ENOUGH_REPLICAS)
        expect("acks=1 is taken", written(one, TOPIC, acks=1), (0, 1))
        expect("and not committed", high_watermark(one, TOPIC), 1)
        change(three, 1)
        eventually("acks=all is taken", lambda: written(one, TOPIC) == (0, 2))
        expect("all is committed", high_watermark(one, TOPIC), 3)
        check("with a minimum of one", [])
        expect("at their minimum", described(three, "at-min-isr"), [0, 1])
        change(one, 2)
        eventually("acks=all is refused again", lambda: written(one, TOPIC)[0] == NOT_ENOUGH_REPLICAS)
        end = high_watermark(one, TOPIC)
        expect("acks=1 is taken", written(one, TOPIC, acks=1), (0, end))
        expect("and not committed", high_watermark(one, TOPIC), end)
        two.spawn()
        two.wait_until_ready()
        eventually("acks=all is taken with two", lambda: written(one, TOPIC) == (0, end + 1))
        expect("all is committed", high_watermark(one, TOPIC), end + 2)


def an_operator_elects_leaders() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            expect("a topic is made", create_topics(connection, {TOPIC: (PARTITIONS, 3)})[TOPIC][0], 0)
        last = cluster.nodes[2]
        expect("preferred", leaders(last), [1, 2, 3])
        said = tool(last, LEADER_ELECTION, "--election-type", "preferred", "--topic", TOPIC, "--partition", "0")
        expect("nothing to do", "Valid replica already elected for partitions" in said, True)
        for number, node in enumerate(cluster.nodes):
            victim = cluster.nodes[(number + 1) % 3]
            victim.stop()
            expect("it leads nothing", victim.node_id in leaders(node), False)
            victim.spawn()
            victim.wait_until_ready()
            await_in_sync(node, 3)
            path = cluster.directory / "elect.json"
            partitions = [{"topic": TOPIC, "partition": index} for index in range(PARTITIONS)]
            path.write_text(json.dumps({"partitions": partitions}))
            tool(node, LEADER_ELECTION, "--election-type", "preferred", "--path-to-json-file", str(path))
            expect("its partitions are its own again", leaders(node), [1, 2, 3])
        tool(cluster.nodes[0], LEADER_ELECTION, "--election-type", "preferred", "--all-topic-partitions")
        said = tool(last, LEADER_ELECTION, "--election-type", "unclean", "--topic", TOPIC, "--partition", "1")
        expect("it has a leader", "Valid replica already elected for partitions" in said, True)
        said = tool(
            last,
            LEADER_ELECTION,
            "--election-type",
            "preferred",
            "--topic",
            "missing",
            "--partition",
            "0",
            code=1,
        )
        expect("no such topic", "UnknownTopicOrPartitionException" in said, True)


def records_are_deleted_on_every_replica() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            expect("a topic is made", create_topics(connection, {TOPIC: (PARTITIONS, 3)})[TOPIC][0], 0)
        leader = cluster.nodes[0]
        with leader.connect() as connection:
            for _ in range(10):
                expect("written", wire.produce(connection, TOPIC, wire.batch(b"value").encode())[0], 0)
        path = cluster.directory / "delete.json"
        wanted = {"partitions": [{"topic": TOPIC, "partition": 0, "offset": 7}], "version": 1}
        path.write_text(json.dumps(wanted))
        said = tool(leader, DELETE_RECORDS, "--offset-json-file", str(path))
        expect("deleted", f"partition: {TOPIC}-0\tlow_watermark: 7" in said, True)
        leader.stop()
        said = tool(cluster.nodes[1], GET_OFFSETS, "--topic", TOPIC, "--partitions", "0", "--time", "earliest")
        expect("the next leader's log starts there", said.strip(), f"{TOPIC}:0:7")


CASES = [
    what_is_missing_is_told_on_every_node,
    partitions_without_enough_or_any_are_told_on_every_node,
    an_operator_takes_a_leader_that_lacks_records,
    a_leader_that_lacks_records_is_elected_when_configs_come_to_allow_it,
    a_minimum_in_sync_that_changes_is_kept_from_then_on,
    an_operator_elects_leaders,
    records_are_deleted_on_every_replica,
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
