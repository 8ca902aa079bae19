"""Three nodes, real clients, faults, and a look at every replica's disk afterwards.

    run.py --binary target/release/chronik-server --venvs .cache/venv --libs .cache/kafka/libs
           [--faults 42] [--records 0] [--records-per-second 4000] [--seed N] [--only PART-OF-A-FAULT'S-NAME]
    run.py --judge DIRECTORY

Producers of librdkafka, kafka-python and Java (Kafka's VerifiableProducer), all idempotent with acks=all, write all the
time, and a consumer reads along. Faults come one after the other, each healed, and the cluster whole again before the
next, until there were as many faults and acknowledged records as asked for. At the end all nodes are stopped and the
segments of all replicas compared with each other and with what was acknowledged. SIGTERM ends the faults, and what
there is by then is judged. With network namespaces each node has one of its own; without them the faults of the network
are left out, and the run says so. With KEEP_CLUSTERS=1 a run that fails leaves its directory, which --judge looks at.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import faults
import judge
from disk import SmallDisk
from judge import JAVA_TOPIC, PARTITIONS, READER, TOPIC
from network import Network, Unavailable

import clients

from cluster import Cluster, Node, create_topics, eventually

KAFKA_PORT, RAFT_PORT = 9092, 9192
SETTINGS = {
    "CHRONIK_MIN_INSYNC_REPLICAS": "2",
    # A replica that is cut off leaves the ISR while the fault lasts.
    "CHRONIK_REPLICA_LAG_TIME_MAX_MS": "2000",
    # Segments end within a run of some minutes.
    "CHRONIK_LOG_SEGMENT_BYTES": str(4 << 20),
}
# How long the cluster may take to be whole again after a fault.
WHOLE_S_MAX = 60.0
# How long all goes well between two faults.
CALM_S = 0.5
# Readers that may lock themselves up: rare, or something else is wrong.
LOCKED_UP_MAX = 5


class HostNode(Node):
    """A node on a host of its own."""

    def __init__(self, binary: Path, directory: Path, node_id: int, network: Network, peers: str) -> None:
        super().__init__(binary, directory, node_id, KAFKA_PORT, peers)
        self.network = network
        self.host = network.address(node_id)

    def command(self) -> list[str]:
        """The same program, inside."""
        binary = [str(Path(part).resolve()) if number == 0 else part for number, part in enumerate(super().command())]
        return ["ip", "netns", "exec", self.network.space(self.node_id), *binary]


class HostCluster(Cluster):
    """Nodes on hosts of their own."""

    def __init__(self, binary: Path, network: Network, settings: dict[str, str]) -> None:
        super().__init__(binary, settings=settings)
        peers = ",".join(f"{network.address(node)}:{KAFKA_PORT}:{RAFT_PORT}" for node in network.nodes)
        self.nodes = [HostNode(binary, self.directory, node, network, peers) for node in network.nodes]
        for node in self.nodes:
            node.settings |= settings


class Controllers:
    """Who leads the metadata log, by what the nodes write; each line is read once, since logs grow long."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.read_bytes = dict.fromkeys((node.node_id for node in nodes), 0)
        self.newest = (0, nodes[0])

    def leader(self) -> Node:
        """The one with the newest term."""
        for node in self.nodes:
            # A line that is being written is read the next time.
            whole, _, _ = node.log_since(self.read_bytes[node.node_id]).encode().rpartition(b"\n")
            self.read_bytes[node.node_id] += len(whole)
            for term in re.findall(rb"became leader at term (\d+)", whole):
                self.newest = max(self.newest, (int(term), node), key=lambda known: known[0])
        return self.newest[1]


class Run:
    """One cluster, its clients, and what happened."""

    def __init__(
        self, options: argparse.Namespace, cluster: Cluster, network: Network | None, disk: SmallDisk | None
    ) -> None:
        self.options, self.cluster, self.network, self.disk = options, cluster, network, disk
        self.random = random.Random(options.seed)
        self.directory = cluster.directory
        self.record = judge.Record(options.seed, [node.node_id for node in cluster.nodes])
        self.controllers = Controllers(cluster.nodes)
        self.tally = clients.Tally(self.directory)
        self.asked_to_end = threading.Event()
        self.began = time.monotonic()

    def kinds(self) -> list[str]:
        """The faults that this machine allows."""
        kinds = list(faults.PROCESS_FAULTS)
        kinds += faults.NETWORK_FAULTS if self.network else []
        kinds += faults.DISK_FAULTS if self.disk else []
        return [kind.__name__ for kind in kinds if self.options.only in kind.__name__]

    def start(self) -> dict[str, clients.Client]:
        """The cluster, its topics, and the clients."""
        self.cluster.start()
        with self.cluster.nodes[0].connect() as connection:
            outcome = create_topics(connection, {topic: (PARTITIONS, 3) for topic in (TOPIC, JAVA_TOPIC)})
            if any(code != 0 for code, _ in outcome.values()):
                raise AssertionError(f"topics: {outcome}")
        bootstrap = ",".join(node.bootstrap for node in self.cluster.nodes)
        venvs, libs = Path(self.options.venvs).absolute(), Path(self.options.libs).absolute()
        return clients.start(venvs, libs, bootstrap, self.options.records_per_second, self.directory)

    def leader(self) -> Node:
        """Who leads partition 0, as some node sees it, as soon as one does.

        After a link that was slow a node may still be without contact, and name nobody (ADR 13).
        """
        found: list[Node] = []

        def is_named() -> bool:
            for node in self.cluster.running():
                with contextlib.suppress(OSError, AssertionError):
                    named = node.metadata([TOPIC]).topics[TOPIC][0].leader
                    found.extend(node for node in self.cluster.nodes if node.node_id == named)
            return bool(found)

        eventually("some node names a leader", is_named, WHOLE_S_MAX)
        return found[0]

    def await_whole(self) -> None:
        """All nodes run, and all see all replicas in sync."""
        for node in self.cluster.nodes:
            if not node.alive():
                node.spawn()
        for node in self.cluster.nodes:
            node.wait_until_ready()

            def is_whole(node: Node = node) -> bool:
                told = node.metadata([TOPIC, JAVA_TOPIC]).topics
                return all(
                    len(partition.isr) == len(self.cluster.nodes) and partition.leader > 0
                    for partition in told[TOPIC] + told[JAVA_TOPIC]
                )

            eventually(f"node {node.node_id} sees all replicas in sync", is_whole, WHOLE_S_MAX)

    def fault(self, name: str) -> None:
        """One fault, from a whole cluster to a whole cluster."""
        disk = (self.cluster.nodes[-1], self.disk) if self.disk else None
        world = faults.World(
            self.cluster.nodes, self.network, disk, self.random, TOPIC, self.leader(), self.controllers.leader()
        )
        began = time.monotonic()
        try:
            getattr(faults, name)(world)
        finally:
            if self.network:
                self.network.heal()
        self.await_whole()
        ended = time.monotonic()
        self.record.happened.append((name, began, ended))
        self.record.write(self.directory)
        self.tell(f"{name}: whole again after {ended - began:.1f} s")
        time.sleep(CALM_S)

    def replace_reader(self, running: dict[str, clients.Client]) -> None:
        """Another reader goes on for one that has locked itself up."""
        self.record.locked_up_count += 1
        self.record.write(self.directory)
        if self.record.locked_up_count > LOCKED_UP_MAX:
            raise AssertionError(f"{self.record.locked_up_count} readers have locked themselves up")
        print(f"# {len(self.record.happened):4} the reader has locked itself up: another one goes on", flush=True)
        running[READER] = running[READER].replace()

    def tell(self, words: str) -> None:
        """How far the run is."""
        done, acknowledged, spent_s = len(self.record.happened), self.tally.count(), time.monotonic() - self.began
        shares = [done / self.options.faults, acknowledged / max(self.options.records, 1)]
        left_s = spent_s / max(min(shares), 1e-6) - spent_s
        rate = acknowledged / spent_s
        print(
            f"# {done:4} {words}; {acknowledged:,} acknowledged, {rate:,.0f}/s, {max(left_s, 0) / 60:.0f} min left",
            flush=True,
        )

    def all_faults(self, running: dict[str, clients.Client]) -> None:
        """As many as asked for: all kinds as evenly as their number allows, in any order."""
        kinds = self.kinds()
        while True:
            self.random.shuffle(kinds)
            for name in kinds:
                if self.asked_to_end.is_set() or self.is_enough():
                    return
                self.fault(name)
                if running[READER].is_locked_up():
                    self.replace_reader(running)

    def is_enough(self) -> bool:
        """Whether there were as many faults and records as asked for."""
        return len(self.record.happened) >= self.options.faults and self.tally.count() >= self.options.records

    def end(self, running: dict[str, clients.Client]) -> None:
        """Clients and nodes end in good order, when all replicas have everything."""
        ended = [name for name, client in running.items() if client.process.poll() is not None]
        clients.stop(client for name, client in running.items() if name != READER)
        self.await_whole()
        while True:
            try:
                clients.stop([running[READER]])
                break
            except clients.LockedUpError:
                self.replace_reader(running)
        self.cluster.stop()
        if ended:
            raise AssertionError(f"clients have ended by themselves: {ended}")

    def go(self) -> bool:
        """All of it."""
        print(f"# seed {self.options.seed}, {len(self.kinds())} kinds of faults, in {self.directory}", flush=True)
        running = self.start()
        good = True
        try:
            time.sleep(clients.START_S)
            self.began = time.monotonic()
            try:
                # A JVM that is stopped while it starts says nothing of its end.
                eventually("the Java producer writes", lambda: self.tally.count() and self.tally.java_count > 0, 60)
                self.all_faults(running)
                self.end(running)
            except (AssertionError, OSError, RuntimeError) as error:
                good = False
                print(f"# {len(self.record.happened) + 1:4} failed: {error}", flush=True)
        finally:
            for client in running.values():
                client.kill()
            for node in self.cluster.nodes:
                node.kill()
        self.record.write(self.directory)
        if self.network and self.network.relayed:
            print(f"# relays: {'; '.join(self.network.relayed)}")
            print(f"# {self.network.checksum_errors()} segments were dropped for their checksums")
        good = judge_directory(self.directory, self.record) and good
        if not self.is_enough():
            print("# it ended before there were as many faults and records as asked for", flush=True)
            good = False
        return good


def judge_directory(directory: Path, record: judge.Record) -> bool:
    """Look at what a run has left, and tell it."""
    began = time.monotonic()
    outcome = judge.judge(directory, record)
    verdict = outcome.verdict
    print("fault | times | median gap s | worst gap s")
    for name, found in sorted(judge.gaps_by_kind(record, outcome.gaps).items()):
        ordered = sorted(found)
        print(f"{name} | {len(found)} | {ordered[len(ordered) // 2]:.2f} | {ordered[-1]:.2f}")
    print(
        f"seed {record.seed}: {len(record.happened)} faults, "
        f"{verdict.acknowledged_count} records acknowledged ({verdict.unplaced_count} without an offset), "
        f"{verdict.record_count} found, {verdict.seen_count} seen; "
        f"{verdict.lost} lost, {verdict.misplaced} at another place, "
        f"{verdict.doubled} doubled, {verdict.reordered} reordered, {verdict.unknown} unknown, "
        f"{verdict.damaged} damaged, {verdict.unseen} unseen, "
        f"{verdict.different_bytes} of {verdict.byte_count} bytes differ between replicas, "
        f"{record.locked_up_count} readers had locked themselves up, "
        f"{len(outcome.errors)} errors told to applications; judged in {time.monotonic() - began:.0f} s"
    )
    for words in verdict.words:
        print(f"  {words}")
    for words, count in Counter(outcome.errors).most_common(10):
        print(f"  {count} × {words}")
    sys.stdout.flush()
    return verdict.is_good() and not outcome.errors


def tell_left_out(kinds: list[Callable[[faults.World], None]], why: str) -> None:
    """A line for each kind of fault that this machine does not allow, as for a case that is skipped."""
    for kind in kinds:
        print(f"skip {kind.__name__}: {why}", flush=True)


def main() -> int:
    """Run, and say by the exit code whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/chronik-server")
    parser.add_argument("--venvs", default=".cache/venv")
    parser.add_argument("--libs", default=".cache/kafka/libs")
    parser.add_argument("--faults", type=int, default=42)
    parser.add_argument("--records", type=int, default=0)
    parser.add_argument("--records-per-second", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", default="")
    parser.add_argument("--judge", metavar="DIRECTORY", type=Path)
    options = parser.parse_args()
    if options.judge:
        return 0 if judge_directory(options.judge, judge.Record.read(options.judge)) else 1
    binary = Path(options.binary).absolute()
    with contextlib.ExitStack() as stack:
        network: Network | None = None
        try:
            network = stack.enter_context(Network([1, 2, 3], options.seed))
            cluster: Cluster = HostCluster(binary, network, SETTINGS)
        except Unavailable as error:
            tell_left_out(faults.NETWORK_FAULTS, f"no network namespaces: {error}")
            cluster = Cluster(binary, settings=SETTINGS)
        stack.enter_context(cluster)
        disk: SmallDisk | None = None
        try:
            disk = stack.enter_context(SmallDisk(cluster.directory / f"chronik-data-{cluster.nodes[-1].node_id}"))
        except Unavailable as error:
            tell_left_out(faults.DISK_FAULTS, f"no disk of its own for a node: {error}")
        run = Run(options, cluster, network, disk)
        signal.signal(signal.SIGTERM, lambda *_: run.asked_to_end.set())
        if not run.go():
            raise AssertionError("not all is as it should be: see above")
    return 0


if __name__ == "__main__":
    sys.exit(main())
