"""Clusters of three real nodes: what they agree on, what they write, and what they survive.

suite.py --binary target/release/chronik-server --libs DIRECTORY-OF-KAFKA-JARS [PART-OF-A-NAME]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kafka_tools
import report
import wire
from cluster import (
    Cluster,
    Node,
    Partition,
    create_topics,
    delete_topics,
    eventually,
    free_ports,
    grow_topic,
    is_up,
    metadata,
)
from report import expect

BINARY = Path("target/release/chronik-server")
LIBS = ""
NOT_LEADER, TOPIC_EXISTS, INVALID_FACTOR, UNKNOWN_TOPIC = 6, 36, 38, 3
INCREMENTAL_ALTER_CONFIGS, DESCRIBE_CONFIGS = 44, 32

# The table of nine partitions on three nodes.
ROUND_ROBIN = [[[1, 2, 3], [2, 3, 1], [3, 1, 2]][index % 3] for index in range(9)]


def table(replicas: list[list[int]]) -> list[Partition]:
    """Partitions that are led by their first replica and wholly in sync."""
    return [Partition(0, nodes[0], nodes, nodes) for nodes in replicas]


def tool(node: Node, main: str, *arguments: str) -> str:
    """Run one of Kafka's own tools against one node; its output."""
    if not LIBS or not Path(LIBS).is_dir():
        raise report.Skip("no jars of Kafka are given")
    return kafka_tools.run(Path(LIBS), main, node.bootstrap, *arguments)


def describe(node: Node, topics: str) -> dict[str, list[tuple[int, list[int], list[int]]]]:
    """Leader, replicas and ISR of each partition of some topics by kafka-topics --describe."""
    text = tool(node, kafka_tools.TOPICS, "--describe", "--topic", topics)
    row = r"^\tTopic: (\S+)\tPartition: (\d+)\tLeader: (\S+)\tReplicas: (\S+)\tIsr: (\S+)"
    found: dict[str, list[tuple[int, list[int], list[int]]]] = {}
    for topic, partition, leader, replicas, isr in re.findall(row, text, re.M):
        rows = found.setdefault(topic, [])
        expect(f"{topic}: partitions in order", int(partition), len(rows))
        rows.append((int(leader), ints(replicas), ints(isr)))
    return found


def ints(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def everywhere(cluster: Cluster, topic: str, wanted: list[Partition]) -> None:
    """All nodes come to say this of a topic; the node that was asked to make it says so at once."""
    for node in cluster.running():

        def same(node: Node = node) -> bool:
            got = node.metadata(None).topics.get(topic)
            if got != wanted:
                raise AssertionError(f"{got}")
            return True

        eventually(f"node {node.node_id} knows {topic}", same, 10)


def lines_of(text: str, words: str) -> list[str]:
    return [line for line in text.splitlines() if words in line]


# --- one cluster that works


def started_together_they_form_one_cluster() -> None:
    with Cluster(BINARY) as cluster:
        started = time.monotonic()
        cluster.start()
        print(f"# ready after {time.monotonic() - started:.2f} s", flush=True)
        seen = [node.metadata(None) for node in cluster.nodes]
        for about in seen:
            expect("brokers", sorted(about.brokers), [1, 2, 3])
            expect("cluster id", about.cluster_id, seen[0].cluster_id)
            expect("controller", about.controller, cluster.leader().node_id)
            expect("addresses", about.brokers, {n.node_id: ("localhost", n.port) for n in cluster.nodes})
            expect("__meta", about.topics["__meta"], table([[1, 2, 3]]))
        for node in cluster.nodes:
            expect("data directory", (cluster.directory / f"chronik-data-{node.node_id}").is_dir(), True)
        cluster.stop()


def the_table_is_round_robin_on_every_node() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        with cluster.leader().connect() as leader:
            outcome = create_topics(leader, {"orders": (9, 3), "single": (3, 1)})
            expect("create", {name: code for name, (code, _) in outcome.items()}, {"orders": 0, "single": 0})
        everywhere(cluster, "orders", table(ROUND_ROBIN))
        everywhere(cluster, "single", table([[1], [2], [3]]))
        rows = [(nodes[0], nodes, nodes) for nodes in ROUND_ROBIN]
        expect("leaders", sorted(row[0] for row in rows), [1, 1, 1, 2, 2, 2, 3, 3, 3])
        with ThreadPoolExecutor(3) as threads:
            described = list(threads.map(lambda node: describe(node, "orders|single"), cluster.nodes))
        for node, topics in zip(cluster.nodes, described, strict=True):
            expect(f"kafka-topics on node {node.node_id}", topics["orders"], rows)
            expect("RF 1", topics["single"], [(1, [1], [1]), (2, [2], [2]), (3, [3], [3])])


def kafka_python_sees_the_same_on_every_node() -> None:
    # Only this case needs the client.
    client: Any = importlib.import_module("kafka.admin")
    with Cluster(BINARY) as cluster:
        cluster.start()
        for number, node in enumerate(cluster.nodes):
            admin = client.KafkaAdminClient(bootstrap_servers=node.bootstrap)
            admin.create_topics([client.NewTopic(f"made-{number}", 9, 3)])
            admin.close()
        for node in cluster.nodes:
            admin = client.KafkaAdminClient(bootstrap_servers=node.bootstrap)
            for number in range(3):
                (about,) = admin.describe_topics([f"made-{number}"])
                rows = sorted(about["partitions"], key=lambda p: p.get("partition_index", p.get("partition", 0)))
                got = [
                    (
                        row.get("leader_id", row.get("leader")),
                        list(row.get("replica_nodes", row.get("replicas"))),
                        list(row.get("isr_nodes", row.get("isr"))),
                    )
                    for row in rows
                ]
                expect(f"made-{number} on node {node.node_id}", got, [(n[0], n, n) for n in ROUND_ROBIN])
            about_cluster = admin.describe_cluster()
            brokers = about_cluster["brokers"]
            expect("brokers", sorted(b.get("node_id", b.get("broker_id")) for b in brokers), [1, 2, 3])
            expect("controller", about_cluster["controller_id"], cluster.leader().node_id)
            admin.close()


def the_log_says_what_people_look_for() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        leader = cluster.leader()
        follower = cluster.followers()[0]
        with follower.connect() as connection:
            expect("create", create_topics(connection, {"orders": (9, 3)})["orders"][0], 0)
            metadata(connection, ["invoices"])
        everywhere(cluster, "orders", table(ROUND_ROBIN))
        everywhere(cluster, "invoices", table(ROUND_ROBIN[:3]))
        text = leader.log()
        for words in [
            "Cluster mode enabled - performing initial partition assignment",
            "Starting partition assignment for existing topics",
            "Cluster nodes: [1, 2, 3]",
            "Found 1 topics to assign",
            "Assigning topic 'orders': 9 partitions, RF=3",
            "Successfully assigned 9 partitions for topic 'orders'",
            "Partition assignment complete",
            "This node is Raft leader - initializing partition metadata for existing topics",
            "✓ Proposed Raft metadata for __meta-0: replicas=[1, 2, 3], leader=1, ISR=[1, 2, 3]",
            "✓ Initialized Raft partition metadata for orders-0: replicas=[1, 2, 3], leader=1, ISR=[1, 2, 3]",
            "✓ Initialized Raft partition metadata for orders-8: replicas=[3, 1, 2], leader=3, ISR=[3, 1, 2]",
            "✓ Completed Raft partition metadata initialization for topic 'orders' (leader node)",
            "became leader at term",
        ]:
            expect(f"times that the leader wrote {words!r}", len(lines_of(text, f" INFO {words}")), 1)
        text = follower.log()
        for words in [
            "Topic 'invoices' not found, attempting auto-creation",
            "Auto-creating topic 'invoices' in cluster mode with 3 peers",
            "Successfully auto-created topic 'invoices' with 3 partitions and replication factor 3",
        ]:
            expect(f"times that the follower wrote {words!r}", len(lines_of(text, f" INFO {words}")), 1)
        skipped = (
            "✓ Skipping metadata initialization - this node is a Raft follower "
            "(will receive metadata via Raft replication)"
        )
        for node in cluster.nodes:
            for topic, count in (("orders", 9), ("invoices", 3)):
                for index in range(count):
                    words = f" INFO Assigned partition {topic}/{index} to node {index % 3 + 1} (leader)"
                    expect(f"node {node.node_id}: {words}", len(lines_of(node.log(), words)), 1)
            expect(f"node {node.node_id} skipped", len(lines_of(node.log(), skipped)), 0 if node is leader else 1)
            if node is not leader:
                expect("followers propose nothing", lines_of(node.log(), "Proposed Raft metadata"), [])


def any_node_takes_any_request() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        for round_number in range(3):
            order = [*cluster.nodes[round_number:], *cluster.nodes[:round_number]]
            connections = [node.connect() for node in order]
            first, second, third = connections
            name = f"round-{round_number}"
            expect("create", create_topics(first, {name: (3, 3)})[name], (0, None))
            expect("seen where it was made", metadata(first, [name]).topics[name], table(ROUND_ROBIN[:3]))
            expect("made again", create_topics(second, {name: (3, 3)})[name][0], TOPIC_EXISTS)
            expect("grown", grow_topic(third, name, 6), 0)
            expect("seen where it was grown", len(metadata(third, [name]).topics[name]), 6)
            expect("not grown to less", grow_topic(second, name, 5), 37)
            expect("deleted", delete_topics(second, [name]), {name: 0})
            expect("gone", delete_topics(first, [name]), {name: UNKNOWN_TOPIC})
            expect("the first topic, deleted", delete_topics(third, ["__meta"]), {"__meta": 0})
            eventually("comes again", lambda: metadata(first, None).topics.get("__meta") == table([[1, 2, 3]]))  # noqa: B023
            expect("made anew", create_topics(third, {name: (1, 1)})[name], (0, None))
            code, text = create_topics(first, {f"{name}-wide": (1, 4)})[f"{name}-wide"]
            expect("more replicas than nodes", (code, "4" in (text or ""), "3" in (text or "")), (38, True, True))
            for connection in connections:
                connection.socket.close()


def any_legal_id_and_address_will_do() -> None:
    ids = [0, 7, 2_147_483_647]
    with Cluster(BINARY, ids, {"CHRONIK_BIND": "127.0.0.1"}, host="127.0.0.1") as cluster:
        cluster.start()
        with cluster.nodes[2].connect() as connection:
            expect("create", create_topics(connection, {"ids": (3, 3)})["ids"], (0, None))
        everywhere(cluster, "ids", table([[0, 7, 2_147_483_647], [7, 2_147_483_647, 0], [2_147_483_647, 0, 7]]))
        about = cluster.nodes[0].metadata([])
        expect("addresses", about.brokers, {node.node_id: ("127.0.0.1", node.port) for node in cluster.nodes})
        cluster.leader().kill()
        with next(cluster.running()).connect() as connection:
            expect("two decide", create_topics(connection, {"two": (1, 1)})["two"], (0, None))


def one_two_or_five_nodes_are_a_cluster_too() -> None:
    for ids in ([1], [1, 2], [1, 2, 3, 4, 5]):
        with Cluster(BINARY, ids) as cluster:
            cluster.start()
            count = len(ids)
            with cluster.nodes[-1].connect() as connection:
                made = create_topics(connection, {"wide": (count, count), "wider": (1, count + 1)})
            expect("created", {name: code for name, (code, _) in made.items()}, {"wide": 0, "wider": INVALID_FACTOR})
            everywhere(cluster, "wide", table([ids[at:] + ids[:at] for at in range(count)]))
            everywhere(cluster, "__meta", table([ids[:3]]))
            cluster.stop()
            cluster.start()
            everywhere(cluster, "wide", table([ids[at:] + ids[:at] for at in range(count)]))


def racks_and_advertised_addresses_count() -> None:
    with Cluster(BINARY, settings={"CHRONIK_NUM_PARTITIONS": "5", "CHRONIK_REPLICATION_FACTOR": "2"}) as cluster:
        for node, rack in zip(cluster.nodes, ("near", "near", "far"), strict=True):
            node.settings |= {"CHRONIK_RACK": rack, "CHRONIK_ADVERTISE": f"127.0.0.1:{node.port}"}
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            expect("create", create_topics(connection, {"spread": (6, 2)})["spread"], (0, None))
            metadata(connection, ["auto"])
            about = metadata(connection, None)
        expect("addresses", about.brokers, {node.node_id: ("127.0.0.1", node.port) for node in cluster.nodes})
        expect("each partition is in both racks", [3 in p.replicas for p in about.topics["spread"]], [True] * 6)
        auto = [(len(partition.replicas), partition.error) for partition in about.topics["auto"]]
        expect("defaults", auto, [(2, 0)] * 5)


def records_and_groups_work_across_nodes() -> None:
    # Only this case and one other need the client.
    kafka: Any = importlib.import_module("kafka")

    with Cluster(BINARY) as cluster:
        cluster.start()
        producer = kafka.KafkaProducer(bootstrap_servers=cluster.nodes[0].bootstrap, acks=1)
        sent = [producer.send("events", f"{number}".encode(), partition=number % 3) for number in range(300)]
        for future in sent:
            future.get(30)
        producer.close()
        read: list[int] = []
        consumer = kafka.KafkaConsumer(
            "events",
            bootstrap_servers=cluster.nodes[2].bootstrap,
            group_id="readers",
            auto_offset_reset="earliest",
            consumer_timeout_ms=10_000,
        )
        for message in consumer:
            read.append(int(message.value))
            if len(read) == 300:
                break
        consumer.commit()
        consumer.close()
        expect("everything is read", sorted(read), list(range(300)))
        again = kafka.KafkaConsumer(
            "events", bootstrap_servers=cluster.nodes[1].bootstrap, group_id="readers", consumer_timeout_ms=4_000
        )
        expect("and not again", [message.value for message in again], [])
        again.close()


def internal_topics_are_made_as_asked_for() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        with cluster.followers()[0].connect() as connection:
            expect("create", create_topics(connection, {"__consumer_offsets": (4, 2)})["__consumer_offsets"][0], 0)
        everywhere(cluster, "__consumer_offsets", table([[1, 2], [2, 3], [3, 1], [1, 2]]))


def configs_change_through_followers() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        follower = cluster.followers()[0]
        if INCREMENTAL_ALTER_CONFIGS not in wire.advertised_keys(follower.bootstrap):
            raise report.Skip("configs cannot be changed yet")
        with follower.connect() as connection:
            expect("create", create_topics(connection, {"set": (1, 3)})["set"][0], 0)
        about = ["--entity-type", "topics", "--entity-name", "set"]
        tool(follower, kafka_tools.CONFIGS, "--alter", "--add-config", "retention.ms=4321", *about)
        for node in cluster.nodes:
            text = tool(node, kafka_tools.CONFIGS, "--describe", *about)
            expect(f"node {node.node_id} knows the config", "retention.ms=4321" in text, True)


def the_quorum_is_told_on_every_node() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        leader = cluster.leader().node_id

        def ask(node: Node, what: str) -> str:
            return tool(node, kafka_tools.METADATA_QUORUM, "describe", what)

        with ThreadPoolExecutor(3) as threads:
            statuses = list(threads.map(lambda node: ask(node, "--status"), cluster.nodes))
            replications = list(threads.map(lambda node: ask(node, "--replication"), cluster.nodes))
        for status, replication in zip(statuses, replications, strict=True):
            expect("leader", re.findall(r"LeaderId:\s+(\d+)", status), [str(leader)])
            expect("lag", re.findall(r"MaxFollowerLag:\s+(\d+)", status), ["0"])
            for port in cluster.raft_ports:
                expect("endpoints", f"CONTROLLER://localhost:{port}" in status, True)
            rows = re.findall(r"^(\d+)\s+\S+\s+(\d+)\s+(\d+)\s+(\S+)\s+(\d+)\s+(\w+)", replication, re.M)
            expect("nodes", sorted(int(row[0]) for row in rows), [1, 2, 3])
            expect("leader's row", [int(row[0]) for row in rows if row[5] == "Leader"], [leader])
            expect("ends", len({row[1] for row in rows}), 1)


def only_leaders_serve_partitions() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            expect("create", create_topics(connection, {"served": (3, 1)})["served"][0], 0)
        everywhere(cluster, "served", table([[1], [2], [3]]))
        for node in cluster.nodes:
            with node.connect() as connection:
                for index in range(3):
                    own = index + 1 == node.node_id
                    records = wire.batch(b"value").encode()
                    code, _ = wire.produce(connection, "served", records, partition=index)
                    expect(f"produce to {index} on node {node.node_id}", code, 0 if own else NOT_LEADER)
                    code, _, found = wire.fetch(connection, "served", index)
                    expect(f"fetch of {index} on node {node.node_id}", code, 0 if own else NOT_LEADER)
                    expect("records", b"value" in found, own)


# --- restarts


def restarts_change_nothing() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        with cluster.nodes[1].connect() as connection:
            expect("create", create_topics(connection, {"kept": (9, 3)})["kept"][0], 0)
        everywhere(cluster, "kept", table(ROUND_ROBIN))
        cluster_id = cluster.nodes[0].metadata([]).cluster_id
        sizes = {node.node_id: node.log_size() for node in cluster.nodes}

        def check(how: str) -> None:
            everywhere(cluster, "kept", table(ROUND_ROBIN))
            for node in cluster.nodes:
                expect(f"{how}: cluster id", node.metadata([]).cluster_id, cluster_id)
                told = lines_of(node.log_since(sizes[node.node_id]), "Assigned partition kept/")
                expect(f"{how}: nothing is assigned twice on node {node.node_id}", told, [])

        cluster.stop()
        cluster.start()
        check("all together")
        for node in cluster.nodes:
            expect("exit code", node.stop(), 0)

            def is_fenced(node: Node = node) -> bool:
                return node.node_id not in next(cluster.running()).metadata([]).brokers

            eventually("fenced", is_fenced)
            others = [other for other in cluster.nodes if other is not node]
            with others[0].connect() as connection:
                name = f"without-{node.node_id}"
                expect("two of three decide", create_topics(connection, {name: (2, 2)})[name], (0, None))
                auto = metadata(connection, [f"auto-{name}"]).topics[f"auto-{name}"]
                factors = [len(partition.replicas) for partition in auto]
                expect("a default is clamped to the nodes that live", factors, [2, 2, 2])
            node.spawn()
            cluster.wait_until_ready()
            check(f"node {node.node_id}")
            sizes = {each.node_id: each.log_size() for each in cluster.nodes}
        for node in cluster.nodes:
            node.kill()
        cluster.start()
        check("after kill -9 of all")


def nodes_may_start_far_apart() -> None:
    with Cluster(BINARY) as cluster:
        third, second, first = cluster.nodes[2], cluster.nodes[1], cluster.nodes[0]
        third.spawn()
        time.sleep(4)
        expect("a node alone waits", (third.alive(), is_up(third)), (True, False))
        waiting = lines_of(third.log(), "Waiting for a majority of the cluster's nodes")
        expect("it says so once", len(waiting), 1)
        expect("and names whom", all(str(port) in waiting[0] for port in cluster.raft_ports[:2]), True)
        first.spawn()
        cluster.wait_until_ready()
        with first.connect() as connection:
            expect("two decide", create_topics(connection, {"early": (2, 2)})["early"], (0, None))
        time.sleep(3)
        second.spawn()
        cluster.wait_until_ready()
        expect("one cluster", len({node.metadata([]).cluster_id for node in cluster.nodes}), 1)
        everywhere(cluster, "early", table([[1, 3], [3, 1]]))
        with second.connect() as connection:
            expect("three serve", create_topics(connection, {"late": (9, 3)})["late"], (0, None))
        everywhere(cluster, "late", table(ROUND_ROBIN))


# --- faults


def the_leader_dies_amid_two_hundred_topics() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        leader, (asked, _) = cluster.leader(), cluster.followers()
        outcomes: dict[str, int | None] = {}
        begun = threading.Event()

        def create(part: range) -> None:
            with asked.connect() as connection:
                for number in part:
                    name = f"topic-{number}"
                    outcomes[name] = None
                    outcomes[name] = create_topics(connection, {name: (3, 3 if number % 2 else 2)})[name][0]
                    if number % 50 == 15:
                        begun.set()

        threads = [threading.Thread(target=create, args=(range(start, start + 50),)) for start in range(0, 200, 50)]
        for thread in threads:
            thread.start()
        begun.wait(30)
        leader.kill()
        killed = time.monotonic()
        for thread in threads:
            thread.join(90)
        took_s = time.monotonic() - killed
        expect("calls answered", sum(code is not None for code in outcomes.values()), 200)
        made = [name for name, code in outcomes.items() if code == 0]
        print(f"# {len(made)} of 200 made, {took_s:.1f} s after the kill", flush=True)
        # Three replicas cannot be had once the node is fenced; two always.
        even = [name for name, code in outcomes.items() if code == 0 and int(name.split("-")[1]) % 2 == 0]
        expect("topics of two replicas", len(even), 100)
        leader.spawn()
        cluster.wait_until_ready()
        for node in cluster.nodes:
            about = node.metadata(None)
            for name, code in outcomes.items():
                found = len(about.topics.get(name, []))
                if code == 0:
                    expect(f"{name} on node {node.node_id}", found, 3)
                elif code == INVALID_FACTOR:
                    expect(f"{name}, refused, on node {node.node_id}", found, 0)
                else:
                    expect(f"{name}, error {code}, is whole or not there", found in (0, 3), True)
        for node in (node for node in cluster.nodes if node is not leader):
            for name in made:
                told = lines_of(node.log(), f"Assigned partition {name}/0 to")
                expect(f"times that node {node.node_id} assigned {name}", len(told) <= 1, True)


def a_leader_that_sleeps_is_replaced() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        leader, (first, second) = cluster.leader(), cluster.followers()
        os.kill(leader.pid(), signal.SIGSTOP)
        try:

            def is_fenced() -> bool:
                return leader.node_id not in first.metadata([]).brokers

            eventually("it is fenced", is_fenced, 10)
            with second.connect() as connection:
                expect("two decide", create_topics(connection, {"asleep": (2, 2)})["asleep"], (0, None))
        finally:
            os.kill(leader.pid(), signal.SIGCONT)
        cluster.wait_until_ready()
        with leader.connect() as connection:
            expect("it follows", create_topics(connection, {"awake": (3, 3)})["awake"], (0, None))
        eventually("it knows all", lambda: tells_the_same(leader, first))
        expect("another leads", cluster.leader() is not leader, True)


def brokers_are_fenced_once_and_return_once() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        leader = cluster.leader()

        def changes(position: int) -> list[str]:
            return re.findall(r"((?:F|Unf)encing broker \d+)", leader.log_since(position))

        for index, node in enumerate(cluster.followers()):
            sizes = leader.log_size()
            node.kill() if index else node.stop()
            killed = time.monotonic()

            def is_fenced(node: Node = node) -> bool:
                return node.node_id not in leader.metadata([]).brokers

            eventually("fenced", is_fenced, 5)
            took_s = time.monotonic() - killed
            print(f"# fenced after {took_s:.3f} s", flush=True)
            ended = lines_of(leader.log_since(sizes), f"Fencing broker {node.node_id}: its process has ended")
            expect("without waiting for the session timeout", len(ended), 1)
            expect("at once", took_s < 1.0, True)
            time.sleep(2.5)
            expect("and no more is said of it", changes(sizes), [f"Fencing broker {node.node_id}"])
            node.spawn()
            cluster.wait_until_ready()
            time.sleep(1)
            wanted = [f"Fencing broker {node.node_id}", f"Unfencing broker {node.node_id}"]
            expect("until it returns", changes(sizes), wanted)
        node = cluster.followers()[0]
        sizes = leader.log_size()
        os.kill(node.pid(), signal.SIGSTOP)
        time.sleep(5)
        os.kill(node.pid(), signal.SIGCONT)
        cluster.wait_until_ready()
        time.sleep(1)
        wanted = [f"Fencing broker {node.node_id}", f"Unfencing broker {node.node_id}"]
        expect("one that sleeps is fenced once, too", changes(sizes), wanted)


def a_follower_far_behind_catches_up_by_snapshot() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        away, busy = cluster.followers()
        expect("exit code", away.stop(), 0)
        size = away.log_size()
        with busy.connect() as connection:
            for part in range(55):
                names = {f"brief-{part}-{number}": (1, 1) for number in range(100)}
                made = create_topics(connection, names)
                expect("made", {code for code, _ in made.values()}, {0})
                expect("deleted", set(delete_topics(connection, list(names)).values()), {0})
            expect("create", create_topics(connection, {"after": (6, 2)})["after"][0], 0)
        away.spawn()
        cluster.wait_until_ready()
        eventually("the same topics", lambda: tells_the_same(away, busy))
        taken = lines_of(away.log_since(size), "metadata snapshot installed")
        expect("a snapshot was taken", len(taken) >= 1, True)
        with away.connect() as connection:
            expect("and it works", create_topics(connection, {"again": (3, 3)})["again"][0], 0)


def tells_the_same(one: Node, other: Node) -> bool:
    """Whether two nodes know the same topics. Both are asked each time: replicas come back into the ISR and preferred
    leaders into their office meanwhile, so that what was told once is soon no longer so."""
    return one.metadata(None).topics == other.metadata(None).topics


def raft_log(node: Node) -> Path:
    """The newest file of a node's metadata log."""
    files = [path for path in (node.data_dir / "raft").iterdir() if path.is_file() and path.stat().st_size > 200]
    logs = [path for path in files if "snapshot" not in path.name and not path.name.startswith(".")]
    return max(logs, key=lambda path: path.name)


def a_torn_frame_is_cut_and_a_flipped_byte_stops_the_node() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        follower = cluster.followers()[0]
        with follower.connect() as connection:
            for number in range(20):
                create_topics(connection, {f"filler-{number}": (3, 3)})
        follower.kill()
        # What a crash leaves of a write that was not finished, and that nobody was told of.
        path = raft_log(follower)
        whole = path.read_bytes()
        path.write_bytes(whole + bytes(37))
        follower.spawn()
        cluster.wait_until_ready()
        eventually("it has all again", lambda: tells_the_same(follower, cluster.leader()))
        follower.kill()
        path = raft_log(follower)
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(flipped) // 2] ^= 0x40
        path.write_bytes(flipped)
        size = follower.log_size()
        follower.spawn()
        eventually("the node stops", lambda: not follower.alive())
        line = follower.log_since(size)
        expect("it names the file", path.name in line, True)
        expect("and a place in it", bool(re.search(r"\b(byte|position|offset)\D*\d+", line)), True)
        with cluster.leader().connect() as connection:
            expect("the others go on", create_topics(connection, {"without": (2, 2)})["without"][0], 0)


def a_full_disk_under_the_metadata_log() -> None:
    with Cluster(BINARY) as cluster:
        node = cluster.nodes[2]
        node.data_dir.mkdir(parents=True)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(node.data_dir)], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            raise report.Skip("this user may not mount a small disk")
        try:
            cluster.start()
            ballast = node.data_dir / "ballast"
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            with cluster.nodes[0].connect() as connection:
                for number in range(30):
                    name = f"meanwhile-{number}"
                    expect("the others decide", create_topics(connection, {name: (3, 2)})[name][0], 0)
            expect("the node lives and answers", (node.alive(), is_up(node)), (True, True))
            ballast.unlink()
            eventually("it catches up once there is room", lambda: tells_the_same(node, cluster.nodes[0]))
            with node.connect() as connection:
                expect("and decides with them", create_topics(connection, {"room": (3, 3)})["room"][0], 0)
        finally:
            for each in cluster.nodes:
                each.kill()
            subprocess.run(["umount", str(node.data_dir)], check=True)


def hostile_bytes_on_the_raft_port() -> None:
    with Cluster(BINARY) as cluster:
        cluster.start()
        hello = b"CHRONIKR\x00\x01"
        attacks = [
            b"GET / HTTP/1.1\r\n\r\n",
            os.urandom(4096),
            hello + b"\xff" * 64,
            hello + (0x7FFFFFFF).to_bytes(4, "big") + bytes(4),
            b"CHRONIKR\x00\x63" + bytes(100),
            hello + (60_000).to_bytes(4, "big") + bytes(1000),
        ]
        held = []
        for port in cluster.raft_ports:
            for attack in attacks * 5:
                with socket.create_connection(("localhost", port), timeout=10) as attacker:
                    attacker.sendall(attack)
            held += [socket.create_connection(("localhost", port), timeout=10) for _ in range(100)]
        with cluster.followers()[0].connect() as connection:
            expect("create", create_topics(connection, {"calm": (9, 3)})["calm"][0], 0)
        leader = cluster.leader()
        leader.kill()
        leader.spawn()
        cluster.wait_until_ready()
        for silent in held:
            silent.close()
        for node in cluster.nodes:
            resident_kib = int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{node.pid()}/status").read_text())[0])
            expect("memory", resident_kib < 100_000, True)


# --- configurations that cannot work


def stopped(settings: dict[str, str], *parts: str, timeout_s: float = 20.0) -> None:
    """A node with these settings ends by itself with one line that holds all parts."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHRONIK_")}
    done = subprocess.run(
        [str(BINARY.resolve())],
        env={**inherited, **settings},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd="/tmp",
    )
    expect(f"{settings} stops", done.returncode in (1, 2), True)
    lines = done.stderr.strip().splitlines()
    expect(f"{settings}: one line", len(lines), 1)
    for part in parts:
        if part not in lines[0]:
            raise AssertionError(f"{lines[0]!r} lacks {part!r}")


def half_configurations_stop_with_one_line() -> None:
    peers = "localhost:29092:29192,localhost:29093:29193,localhost:29094:29194"
    whole = {"CHRONIK_CLUSTER_ENABLED": "true", "CHRONIK_CLUSTER_PEERS": peers, "CHRONIK_NODE_ID": "1"}
    without = lambda name: {key: value for key, value in whole.items() if key != name}  # noqa: E731
    stopped(without("CHRONIK_CLUSTER_ENABLED"), "CHRONIK_CLUSTER_PEERS", "CHRONIK_CLUSTER_ENABLED", "true")
    stopped(without("CHRONIK_CLUSTER_PEERS"), "CHRONIK_CLUSTER_PEERS", "host:kafka_port:raft_port")
    stopped(without("CHRONIK_NODE_ID"), "CHRONIK_NODE_ID", "1, 2, 3")
    stopped({**whole, "CHRONIK_NODE_ID": "4"}, "CHRONIK_NODE_ID is '4'", "1, 2, 3", "4@host:kafka_port:raft_port")
    stopped({**whole, "CHRONIK_NODE_ID": "2147483648"}, "CHRONIK_NODE_ID is '2147483648'", "2147483647")
    stopped({**whole, "CHRONIK_NODE_ID": "-1"}, "CHRONIK_NODE_ID is '-1'", "2147483647")
    stopped({**whole, "CHRONIK_KAFKA_PORT": "29093"}, "CHRONIK_KAFKA_PORT is '29093'", "29092")
    twice = "localhost:29092:29192,localhost:29093:29192"
    stopped({**whole, "CHRONIK_CLUSTER_PEERS": twice}, "CHRONIK_CLUSTER_PEERS", "29192", "twice")
    large = "2147483648@localhost:1:2"
    stopped({**whole, "CHRONIK_CLUSTER_PEERS": large}, "CHRONIK_CLUSTER_PEERS", "2147483648", "2147483647")
    stopped({**whole, "CHRONIK_CLUSTER_PEERS": "a:1"}, "CHRONIK_CLUSTER_PEERS", "host:kafka_port:raft_port")


def a_list_that_disagrees_stops_the_node() -> None:
    with Cluster(BINARY) as cluster:
        wrong, other = cluster.nodes[2], free_ports(1)[0]
        right = wrong.settings["CHRONIK_CLUSTER_PEERS"]
        wrong.settings["CHRONIK_CLUSTER_PEERS"] = right.replace(str(cluster.raft_ports[0]), str(other))
        for node in cluster.nodes:
            node.spawn()
        eventually("the odd one out stops", lambda: not wrong.alive(), 20)
        line = lines_of(wrong.log(), "chronik-server: ")
        expect("one line", len(line), 1)
        for part in ("CHRONIK_CLUSTER_PEERS", str(other), str(cluster.raft_ports[0]), "same list"):
            expect(f"it says {part}", part in line[0], True)
        cluster.wait_until_ready()
        told = [bool(lines_of(node.log(), "CHRONIK_CLUSTER_PEERS is '")) for node in cluster.nodes[:2]]
        expect("the others say it too", told, [True, True])
        wrong.settings["CHRONIK_CLUSTER_PEERS"] = right
        wrong.spawn()
        cluster.wait_until_ready()


def an_id_that_is_used_twice_stops_the_second_node() -> None:
    # As with containers: every host uses the same ports, so that only the id is wrong.
    with Cluster(BINARY) as cluster:
        kafka_port, raft_port = free_ports(2)
        for number, node in enumerate(cluster.nodes, 1):
            node.port = kafka_port
            node.settings["CHRONIK_BIND"] = f"127.0.0.{number}"
            node.settings["CHRONIK_DATA_DIR"] = str(cluster.directory / f"host-{number}")
            node.settings["CHRONIK_CLUSTER_PEERS"] = ",".join(
                f"127.0.0.{other}:{kafka_port}:{raft_port}" for other in (1, 2, 3)
            )
        impostor = cluster.nodes[1]
        impostor.settings["CHRONIK_NODE_ID"] = "1"
        for node in cluster.nodes:
            node.spawn()
        eventually("the second node 1 stops", lambda: not impostor.alive(), 20)
        line = lines_of(impostor.log(), "chronik-server: ")
        expect("one line", len(line), 1)
        expect("it says what to write", "set CHRONIK_NODE_ID=2" in line[0], True)
        expect("the others go on", [node.alive() for node in cluster.nodes], [True, False, True])


def a_data_directory_remembers_whose_it_is() -> None:
    with Cluster(BINARY) as cluster, Cluster(BINARY) as stranger:
        cluster.start()
        stranger.start()
        cluster.stop()
        stranger.stop()
        moved, settings = cluster.nodes[2], dict(cluster.nodes[2].settings)
        moved.settings["CHRONIK_DATA_DIR"] = str(stranger.nodes[2].data_dir)
        for node in cluster.nodes[:2]:
            node.spawn()
        for node in cluster.nodes[:2]:
            node.wait_until_ready()
        moved.spawn()
        eventually("a node of another cluster stops", lambda: not moved.alive(), 20)
        line = lines_of(moved.log(), "chronik-server: ")
        expect("it says why", len(line) == 1 and "cluster" in line[0] and "CHRONIK_DATA_DIR" in line[0], True)
        size = moved.log_size()
        moved.settings["CHRONIK_DATA_DIR"] = str(cluster.nodes[0].data_dir.parent / "copy")
        subprocess.run(["cp", "-r", str(stranger.nodes[0].data_dir), moved.settings["CHRONIK_DATA_DIR"]], check=True)
        moved.spawn()
        eventually("a node with another's directory stops", lambda: not moved.alive(), 20)
        line = lines_of(moved.log_since(size), "chronik-server: ")
        expect("it says why", len(line) == 1 and "node 1" in line[0], True)
        moved.settings = settings
        moved.spawn()
        cluster.wait_until_ready()


CASES: list[Callable[[], None]] = [
    half_configurations_stop_with_one_line,
    started_together_they_form_one_cluster,
    the_table_is_round_robin_on_every_node,
    kafka_python_sees_the_same_on_every_node,
    the_log_says_what_people_look_for,
    any_node_takes_any_request,
    any_legal_id_and_address_will_do,
    one_two_or_five_nodes_are_a_cluster_too,
    racks_and_advertised_addresses_count,
    records_and_groups_work_across_nodes,
    internal_topics_are_made_as_asked_for,
    configs_change_through_followers,
    the_quorum_is_told_on_every_node,
    only_leaders_serve_partitions,
    restarts_change_nothing,
    nodes_may_start_far_apart,
    the_leader_dies_amid_two_hundred_topics,
    a_leader_that_sleeps_is_replaced,
    brokers_are_fenced_once_and_return_once,
    a_follower_far_behind_catches_up_by_snapshot,
    a_torn_frame_is_cut_and_a_flipped_byte_stops_the_node,
    a_full_disk_under_the_metadata_log,
    hostile_bytes_on_the_raft_port,
    a_list_that_disagrees_stops_the_node,
    an_id_that_is_used_twice_stops_the_second_node,
    a_data_directory_remembers_whose_it_is,
]


def main() -> int:
    """Run the cases that are asked for."""
    global BINARY, LIBS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(BINARY))
    parser.add_argument("--libs", default=os.environ.get("KAFKA_LIBS", ""))
    parser.add_argument("only", nargs="?", default="")
    options = parser.parse_args()
    BINARY, LIBS = Path(options.binary), options.libs
    return report.run([(case.__name__.replace("_", " "), case) for case in CASES], options.only.replace("_", " "))


if __name__ == "__main__":
    sys.exit(main())
