"""How long producers wait when a leader dies, falls silent, is cut off, or is stopped in good order.

failover.py --binary target/release/chronik-server [--rounds 10] [--only PART-OF-A-NAME]
            [--kafka DIRECTORY-OF-KAFKA-JARS]

A producer for each of three partitions writes all the time with acks=all, and follows the leaders by Kafka's protocol.
The figure of a round is the longest that any of them waited, from the fault on. In faults of silence their request
timeout is 1 s: with a client's default of 30 s nothing but that would be measured. With --kafka it measures Apache
Kafka instead, where a leader is killed.

What is checked is that everybody goes on, that no application hears of a planned stop, and that errors name the next
leader (KIP-951). The figures are printed, because what else runs on the machine decides about them too; a median that
misses its goal fails its case, and so does any figure that is far beyond it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "chaos"))

from followers import (
    Follower,
    Told,
    all_go_on,
    fetch_answer,
    fetch_body,
    following,
    produce_answer,
    produce_body,
)
from network import SUBNET, Network, Unavailable
from rolling import Producer, all_in_sync, led_by

import report
import wire
from cluster import Cluster, Node, create_topics, eventually, metadata, topic_id
from kafka_cluster import KafkaCluster, KafkaNode
from report import expect

OPTIONS: dict[str, Any] = {}
TOPIC, PARTITIONS = "failover", 3
SETTINGS = {"CHRONIK_MIN_INSYNC_REPLICAS": "2", "CHRONIK_OFFSETS_TOPIC_NUM_PARTITIONS": "3"}
REQUEST_TIMEOUT_S, SILENCE_TIMEOUT_S = 30.0, 1.0
# How long everybody may take to go on: beyond all timeouts, on a machine that does other things too.
GO_ON_S = 60.0
# The longest that an application's record may take while all nodes are restarted one by one.
ROLL_GOAL_S = 0.5
# What has to be noticed first is noticed by then.
SILENCE_S_MIN = 3.2
# What a network draws at random is of no account here: links are cut, not spoiled.
SEED = 1
ELECT_LEADERS = 43
NOT_LEADER_OR_FOLLOWER = 6
# How far beyond its goal a figure may be, and what a machine that does other things too may always take.
GOAL_FACTOR_MAX, BUSY_S = 3.0, 1.0


def expect_near(what: str, worst_s: float, goal_s: float) -> None:
    """Fail what misses its goal by more than a machine that does other things too can be blamed for."""
    allowed_s = max(GOAL_FACTOR_MAX * goal_s, BUSY_S)
    expect(f"{what}: {worst_s:.3f} s are within {allowed_s} s", worst_s <= allowed_s, True)


class Figures:
    """What the rounds of one case gave."""

    def __init__(self, name: str, goal_s: float) -> None:
        self.name, self.goal_s = name, goal_s
        self.gaps_s: list[float] = []
        self.setbacks: Counter[str] = Counter()

    def note(self, gap_s: float, followers: list[Follower]) -> None:
        """The outcome of a round."""
        self.gaps_s.append(gap_s)
        for follower in followers:
            self.setbacks += follower.setbacks
            follower.setbacks.clear()

    def tell(self) -> None:
        """One line: the distribution, and the goal, which may not be missed by far."""
        ordered = sorted(self.gaps_s)
        at = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.9, 0.99)]
        shown = ", ".join(f"{name} {value:.3f}" for name, value in zip(("median", "p90", "p99"), at, strict=True))
        met = "met" if ordered[-1] <= self.goal_s else "MISSED"
        print(
            f"{self.name}: {shown}, worst {ordered[-1]:.3f} s of {len(ordered)}; goal {self.goal_s} s: {met}; "
            + "on the way: "
            + (", ".join(f"{count} × {what}" for what, count in self.setbacks.most_common()) or "nothing"),
            flush=True,
        )
        expect(f"{self.name}: the median, {at[0]:.3f} s, meets the goal", at[0] <= self.goal_s, True)
        expect_near(self.name, ordered[-1], self.goal_s)


def elect_preferred(node: Node | KafkaNode) -> None:
    """Give all partitions back to their preferred leaders, by ElectLeaders v0."""
    with node.connect() as connection:
        connection.ask(ELECT_LEADERS, 0, wire.i32(-1) + wire.i32(10_000))


class World:
    """A cluster with its topic, and the producers that write to it."""

    def __init__(self, cluster: Any, request_timeout_s: float) -> None:
        self.cluster = cluster
        self.nodes: list[Any] = cluster.nodes
        with self.nodes[0].connect() as connection:
            made = create_topics(connection, {TOPIC: (PARTITIONS, 3)})
        expect("the topic is made", made[TOPIC][0], 0)
        self.whole()
        brokers = {node.node_id: node.bootstrap for node in self.nodes}
        self.followers = [Follower(brokers, TOPIC, index, request_timeout_s) for index in range(PARTITIONS)]

    def look(self) -> Any:
        """The cluster as some node that answers sees it."""
        for node in self.nodes:
            if node.alive():
                with contextlib.suppress(OSError, wire.Closed), node.connect(5.0) as connection:
                    return metadata(connection, [TOPIC])
        raise AssertionError("no node answers")

    def whole(self) -> None:
        """All nodes run, all replicas are in sync everywhere, and every node leads its share."""
        for node in self.nodes:
            if not node.alive():
                node.spawn()
        for node in self.nodes:
            node.wait_until_ready()
        elected_s = 0.0

        def is_whole() -> bool:
            nonlocal elected_s
            for node in self.nodes:
                with node.connect(5.0) as connection:
                    told = metadata(connection, [TOPIC]).topics[TOPIC]
                if len(told) != PARTITIONS or any(len(partition.isr) != 3 for partition in told):
                    return False
                if any(partition.leader != partition.replicas[0] for partition in told):
                    if time.monotonic() - elected_s > 1:
                        elected_s = time.monotonic()
                        elect_preferred(self.controller())
                    return False
            return True

        eventually("the cluster is whole", is_whole, 120)

    def controller(self) -> Any:
        """Who leads the metadata log."""
        return self.cluster.leader()

    def victim(self, is_controller: bool) -> Any:
        """A leader of a partition that is the controller, or is not."""
        controller = self.controller()
        leaders = {partition.leader for partition in self.look().topics[TOPIC]}
        return next(node for node in self.nodes if node.node_id in leaders and (node is controller) == is_controller)

    def others(self, node: Any) -> list[Any]:
        """The other nodes."""
        return [other for other in self.nodes if other is not node]

    def settle(self) -> None:
        """Wait until all producers go on as if nothing had happened."""
        all_go_on(self.followers, time.monotonic() + 0.3, GO_ON_S, lambda: None)

    def measure(self, figures: Figures, fault: Callable[[], None], lasts_s: float) -> None:
        """Do something, and note the longest wait from then on."""
        self.settle()
        for follower in self.followers:
            follower.setbacks.clear()
        began = time.monotonic()
        fault()
        all_go_on(self.followers, began + lasts_s, GO_ON_S, lambda: None)
        figures.note(max(follower.gap_s(began) for follower in self.followers), self.followers)


def rounds(default: int | None = None) -> int:
    """How many rounds a case has."""
    return int(OPTIONS["rounds"] if default is None else min(default, OPTIONS["rounds"]))


def kill_rounds(cluster: Any, figures: Figures, is_controller: bool, count: int) -> None:
    """Kill a leader, again and again."""
    world = World(cluster, REQUEST_TIMEOUT_S)
    with following(world.followers):
        for _ in range(count):
            # A node that fetches and votes again has nothing left to do on the side.
            world.whole()
            world.measure(figures, world.victim(is_controller).kill, 1.5)
    figures.tell()


def killed(is_controller: bool) -> None:
    what = "that is the controller" if is_controller else "that is not the controller"
    with Cluster(OPTIONS["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        kill_rounds(cluster, Figures(f"kill -9 of a leader {what}", 1.0), is_controller, rounds())


def a_leader_is_killed_that_is_not_the_controller() -> None:
    killed(False)


def a_leader_is_killed_that_is_the_controller() -> None:
    killed(True)


def stopped(is_controller: bool) -> None:
    """Planned stops: the wait of producers by the protocol, and what an application of librdkafka hears."""
    what = "that is the controller" if is_controller else "that is not the controller"
    figures = Figures(f"planned stop of a leader {what}", 0.1)
    with Cluster(OPTIONS["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        world = World(cluster, REQUEST_TIMEOUT_S)
        application = Application()
        with following(world.followers):
            for _ in range(rounds()):
                world.whole()
                with application.writing(cluster):
                    world.measure(figures, world.victim(is_controller).stop, 1.0)
        figures.tell()
        application.tell()
        led_to = [leader for follower in world.followers for leader in follower.led_to]
        expect("a producer was led to the next leader by an error alone", len(led_to) > 0, True)


class Application:
    """What applications of librdkafka with default settings saw of several rounds.

    Each round has a producer of its own: one that has failed to reach the same broker again and again within seconds
    leaves it alone for up to ten, which no cluster can do anything about.
    """

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self.errors: list[str] = []

    @contextlib.contextmanager
    def writing(self, cluster: Cluster) -> Iterator[None]:
        """Write for as long as something else is done."""
        producer = Producer(cluster.bootstrap, TOPIC, True)
        producer.partitions = PARTITIONS
        producer.thread.start()
        # When something has failed, perhaps nobody answers any more.
        end_s_max = 5.0
        try:
            eventually("it writes", lambda: len(producer.acknowledged) > 100)
            # What its first records wait for is no matter of failover.
            producer.took_s.clear()
            yield
            end_s_max = 90.0
        finally:
            producer.stopping.set()
            producer.thread.join(end_s_max)
        self.took_s += producer.took_s
        self.errors += producer.errors
        expect("every record is acknowledged", len(producer.acknowledged), producer.sent_count)

    def tell(self) -> None:
        """One line; an error is the case's failure."""
        ordered = sorted(self.took_s)
        at = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 for share in (0.5, 0.99, 0.999)]
        print(
            f"  applications meanwhile: {len(ordered)} records acknowledged, {len(self.errors)} errors; latency "
            f"median {at[0]:.1f}, p99 {at[1]:.1f}, p99.9 {at[2]:.1f}, worst {ordered[-1] * 1000:.1f} ms",
            flush=True,
        )
        expect("no error reaches an application", self.errors, [])


def a_leader_is_stopped_that_is_not_the_controller() -> None:
    stopped(False)


def a_leader_is_stopped_that_is_the_controller() -> None:
    stopped(True)


def rolling_restarts() -> None:
    """All nodes one by one under load, again and again."""
    with Cluster(OPTIONS["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            create_topics(connection, {TOPIC: (PARTITIONS, 3)})
        application = Application()
        for _ in range(OPTIONS["rolls"]):
            with application.writing(cluster):
                for node in cluster.nodes:
                    all_in_sync(cluster, [TOPIC])
                    node.stop()
                    node.spawn()
                    node.wait_until_ready()
                all_in_sync(cluster, [TOPIC])
                # Everybody leads again what it is meant to, by itself.
                eventually("leaders return", lambda: len(led_by(cluster, [TOPIC])) == len(cluster.nodes), 60)
                time.sleep(1)
        print(
            f"{OPTIONS['rolls']} rolling restarts of three nodes; goal: worst {ROLL_GOAL_S * 1000:.0f} ms", flush=True
        )
        application.tell()
        expect_near("a record in a rolling restart", max(application.took_s), ROLL_GOAL_S)


# --- what errors say


class Asked:
    """A topic on three nodes, and what its old leader and those who do not lead it say of its next leader."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            expect("the topic is made", create_topics(connection, {TOPIC: (1, 3)})[TOPIC][0], 0)
            self.topic_id = topic_id(connection, TOPIC)
        all_in_sync(cluster, [TOPIC])
        self.old = self.leader_by(cluster.nodes[0])
        self.others = [node for node in cluster.nodes if node is not self.old]
        # Where the log ends, and a fetch waits.
        self.end = 1
        with self.old.connect() as connection:
            expect("written", wire.produce(connection, TOPIC, wire.batch(b"value").encode()), (0, 0))

    def leader_by(self, node: Node) -> Node:
        """The leader that a node tells in its metadata."""
        leader = node.metadata([TOPIC]).topics[TOPIC][0].leader
        return next(node for node in self.cluster.nodes if node.node_id == leader)

    def next_leader(self) -> Node:
        """Who leads instead, when both others know."""
        eventually(
            "the others agree on another leader",
            lambda: (
                self.old not in {self.leader_by(node) for node in self.others}
                and len({self.leader_by(node) for node in self.others}) == 1
            ),
        )
        return self.leader_by(self.others[0])

    def send_fetch(self, connection: wire.Connection, wait_ms: int) -> None:
        """Ask for what is not there yet."""
        connection.send(wire.FETCH, 16, fetch_body(self.topic_id, 0, self.end, wait_ms))

    def fetched(self, connection: wire.Connection) -> Told:
        """The answer to that, when it comes."""
        reader = connection.answer()
        reader.i32(), reader.uvarint()
        return fetch_answer(reader)

    def check(self, what: str, told: Told, leader: Node) -> None:
        """An answer is an error that leads to the next leader."""
        expect(f"{what}: the error", told.code, NOT_LEADER_OR_FOLLOWER)
        expect(f"{what}: the next leader", (told.leader, told.leader_epoch > 0), (leader.node_id, True))
        expect(f"{what}: where it is", told.endpoints, {leader.node_id: leader.bootstrap})


def produced(connection: wire.Connection) -> Told:
    """The answer to one record more."""
    records = wire.batch(b"value").encode()
    return produce_answer(connection.ask(wire.PRODUCE, 10, produce_body(TOPIC, 0, 10_000, records)))


def errors_name_who_leads_after_a_kill() -> None:
    with Cluster(OPTIONS["binary"], settings=SETTINGS) as cluster:
        asked = Asked(cluster)
        asked.old.kill()
        leader = asked.next_leader()
        bystander = next(node for node in asked.others if node is not leader)
        with bystander.connect() as connection:
            asked.check("Produce v10", produced(connection), leader)
            asked.send_fetch(connection, 0)
            asked.check("Fetch v16", asked.fetched(connection), leader)
        with leader.connect() as connection:
            expect("and it does lead", produced(connection).code, 0)


def errors_name_who_leads_after_a_stop() -> None:
    with Cluster(OPTIONS["binary"], settings=SETTINGS) as cluster:
        asked = Asked(cluster)
        with asked.old.connect() as connection:
            # It waits at the leader for records until that hands over.
            asked.send_fetch(connection, 25_000)
            asked.old.stop()
            asked.check("a Fetch v16 that waits", asked.fetched(connection), asked.next_leader())


# --- silence


def asleep(is_controller: bool) -> None:
    what = "that is the controller" if is_controller else "that is not the controller"
    figures = Figures(f"a leader asleep {what}", 3.0)
    with Cluster(OPTIONS["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        world = World(cluster, SILENCE_TIMEOUT_S)
        with following(world.followers):
            for _ in range(rounds()):
                world.whole()
                victim = world.victim(is_controller)
                try:
                    world.measure(figures, lambda victim=victim: pause(victim), SILENCE_S_MIN)  # type: ignore[misc]
                finally:
                    victim.process.send_signal(signal.SIGCONT)
        figures.tell()


def pause(node: Any) -> None:
    node.process.send_signal(signal.SIGSTOP)


def a_leader_sleeps_that_is_not_the_controller() -> None:
    asleep(False)


def a_leader_sleeps_that_is_the_controller() -> None:
    asleep(True)


def cut(name: str, is_controller: bool, fault: Callable[[Network, World, Any], None]) -> None:
    """Rounds of a fault of the network, with one node for each namespace."""
    what = "that is the controller" if is_controller else "that is not the controller"
    figures = Figures(f"a leader {name} {what}", 3.0)
    # It knows the hosts, and is a program of its own.
    chaos: Any = importlib.import_module("run")
    with contextlib.ExitStack() as stack:
        try:
            network = stack.enter_context(Network([1, 2, 3], SEED))
        except Unavailable as error:
            raise report.Skip(f"no network namespaces: {error}") from error
        cluster = stack.enter_context(chaos.HostCluster(OPTIONS["binary"], network, SETTINGS))
        cluster.start()
        world = World(cluster, SILENCE_TIMEOUT_S)
        with following(world.followers):
            for _ in range(rounds()):
                world.whole()
                victim = world.victim(is_controller)
                try:
                    world.measure(
                        figures,
                        lambda victim=victim: fault(network, world, victim),  # type: ignore[misc]
                        SILENCE_S_MIN,
                    )
                finally:
                    network.heal()
        figures.tell()


def from_nodes(network: Network, world: World, victim: Any) -> None:
    for other in world.others(victim):
        network.part(victim.node_id, other.node_id)


def from_everybody(network: Network, world: World, victim: Any) -> None:
    network.cut(victim.node_id, f"{SUBNET}.0/24")
    for other in world.others(victim):
        network.cut(other.node_id, network.address(victim.node_id))


def hears_nobody(network: Network, world: World, victim: Any) -> None:
    for other in world.others(victim):
        network.cut(victim.node_id, network.address(other.node_id))


def heard_by_nobody(network: Network, world: World, victim: Any) -> None:
    for other in world.others(victim):
        network.cut(other.node_id, network.address(victim.node_id))


def a_leader_is_cut_off_from_the_nodes() -> None:
    cut("cut off from the other nodes", False, from_nodes)


def a_controller_is_cut_off_from_the_nodes() -> None:
    cut("cut off from the other nodes", True, from_nodes)


def a_leader_is_cut_off_with_its_clients_away() -> None:
    cut("cut off from everybody", False, from_everybody)


def a_controller_is_cut_off_with_its_clients_away() -> None:
    cut("cut off from everybody", True, from_everybody)


def a_leader_hears_no_node() -> None:
    cut("that sends and hears nothing", False, hears_nobody)


def a_controller_hears_no_node() -> None:
    cut("that sends and hears nothing", True, hears_nobody)


def no_node_hears_a_leader() -> None:
    cut("that hears and is not heard", False, heard_by_nobody)


def no_node_hears_a_controller() -> None:
    cut("that hears and is not heard", True, heard_by_nobody)


CASES: list[Callable[[], None]] = [
    a_leader_is_killed_that_is_not_the_controller,
    a_leader_is_killed_that_is_the_controller,
    a_leader_is_stopped_that_is_not_the_controller,
    a_leader_is_stopped_that_is_the_controller,
    rolling_restarts,
    errors_name_who_leads_after_a_kill,
    errors_name_who_leads_after_a_stop,
    a_leader_sleeps_that_is_not_the_controller,
    a_leader_sleeps_that_is_the_controller,
    a_leader_is_cut_off_from_the_nodes,
    a_controller_is_cut_off_from_the_nodes,
    a_leader_is_cut_off_with_its_clients_away,
    a_controller_is_cut_off_with_its_clients_away,
    a_leader_hears_no_node,
    a_controller_hears_no_node,
    no_node_hears_a_leader,
    no_node_hears_a_controller,
]


def a_leader_of_kafka_is_killed() -> None:
    for is_controller in (False, True):
        what = "that is the controller" if is_controller else "that is not the controller"
        with KafkaCluster(Path(OPTIONS["kafka"])) as cluster:
            cluster.start()
            figures = Figures(f"Kafka: kill -9 of a leader {what}", 1.0)
            kill_rounds(cluster, figures, is_controller, rounds())


def main() -> int:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=Path("target/release/chronik-server"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rolls", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--kafka", default="", help="Kafka's jars, to measure Kafka instead")
    OPTIONS.update(vars(parser.parse_args()))
    OPTIONS["binary"] = OPTIONS["binary"].absolute()
    cases = [a_leader_of_kafka_is_killed] if OPTIONS["kafka"] else CASES
    return report.run([(case.__name__.replace("_", " "), case) for case in cases], OPTIONS["only"])


if __name__ == "__main__":
    sys.exit(main())
