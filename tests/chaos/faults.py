"""What is done to a cluster. Each fault leaves it to the run to heal what it has broken."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from disk import SmallDisk
from network import CLIENTS, Link, Network
from replicas import batches, values

import wire
from cluster import Node, create_topics, delete_topics, eventually, topic_id

# How long a fault lasts that has to be noticed: beyond the session timeout of 2 s, or not.
LONG_S, SHORT_S = 4.0, 1.0
# A topic that comes and goes beside the others, and how many partitions it has.
BESIDE, BESIDE_PARTITIONS = "beside", 3
NOT_THERE, ALREADY_THERE = 3, 36
# Each topic that has the name holds a value of its own, so that records of the one before it are known.
INCARNATIONS = itertools.count(1)
# Every node leads some partition again by then.
LEADS_AGAIN_S = 60


@dataclass
class World:
    """What faults are done to."""

    nodes: list[Node]
    network: Network | None
    # The node that has a disk of its own, and that disk.
    disk: tuple[Node, SmallDisk] | None
    random: random.Random
    # What the clients write to.
    topic: str
    # Who leads partition 0 of it, and who the metadata log, when the fault begins.
    leader: Node
    controller: Node

    def others(self, node: Node) -> list[Node]:
        """The other nodes, in any order."""
        others = [other for other in self.nodes if other is not node]
        self.random.shuffle(others)
        return others

    def follower(self) -> Node:
        """Any node that does not lead partition 0."""
        return self.others(self.leader)[0]

    def heir(self) -> Node:
        """Who leads partition 0 once its leader is away."""
        heirs: list[Node] = []

        def is_known() -> bool:
            for node in self.others(self.leader):
                wanted = node.metadata([self.topic]).topics[self.topic][0].leader
                heirs.extend(other for other in self.others(self.leader) if other.node_id == wanted)
            return bool(heirs)

        eventually(f"somebody leads instead of node {self.leader.node_id}", is_known)
        return heirs[-1]

    def net(self) -> Network:
        """The network, for faults that need one."""
        if self.network is None:
            raise AssertionError("this fault needs a network of its own")
        return self.network

    def wait(self, longest_s: float) -> None:
        """Let some time pass."""
        time.sleep(self.random.uniform(0.3, 1.0) * longest_s)


def kill(world: World, *nodes: Node) -> None:
    """End processes as a crash would, and start them again after a moment."""
    for node in nodes:
        assert node.process is not None
        # All of them at once: none sees another die first.
        node.process.kill()
    for node in nodes:
        node.kill()
    world.wait(SHORT_S)


def kill_leader(world: World) -> None:
    kill(world, world.leader)


def kill_follower(world: World) -> None:
    kill(world, world.follower())


def kill_controller(world: World) -> None:
    kill(world, world.controller)


def kill_two(world: World) -> None:
    kill(world, world.leader, world.follower())


def kill_all(world: World) -> None:
    kill(world, *world.nodes)


def kill_leader_and_heir(world: World) -> None:
    world.leader.kill()
    world.wait(SHORT_S)
    kill(world, world.heir())


def kill_while_they_recover(world: World, nodes: list[Node]) -> None:
    """Kill, and kill again what has just been started."""
    kill(world, *nodes)
    for _ in range(world.random.randint(1, 3)):
        for node in nodes:
            node.spawn()
        time.sleep(world.random.uniform(0.1, 0.5))
        kill(world, *nodes)


def kill_leader_while_it_recovers(world: World) -> None:
    kill_while_they_recover(world, [world.leader])


def kill_all_while_they_recover(world: World) -> None:
    kill_while_they_recover(world, world.nodes)


def kill_one_after_the_other(world: World) -> None:
    for node in [world.leader, *world.others(world.leader)]:
        kill(world, node)
        node.spawn()


def stop_leader(world: World) -> None:
    world.leader.stop()


def stop_controller(world: World) -> None:
    world.controller.stop()


def stop_one_after_the_other(world: World) -> None:
    for node in [world.leader, *world.others(world.leader)]:
        node.stop()
        node.start()


@contextlib.contextmanager
def asleep(*nodes: Node) -> Iterator[None]:
    """Put processes to sleep, and wake them."""
    for node in nodes:
        assert node.process is not None
        node.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for node in nodes:
            assert node.process is not None
            node.process.send_signal(signal.SIGCONT)


def pause(world: World, longest_s: float, *nodes: Node) -> None:
    with asleep(*nodes):
        world.wait(longest_s)


def pause_leader(world: World) -> None:
    pause(world, LONG_S, world.leader)


def pause_leader_briefly(world: World) -> None:
    pause(world, SHORT_S, world.leader)


def pause_follower(world: World) -> None:
    pause(world, LONG_S, world.follower())


def pause_controller(world: World) -> None:
    pause(world, LONG_S, world.controller)


def pause_two(world: World) -> None:
    pause(world, LONG_S, world.leader, world.follower())


def pause_leader_and_kill_heir(world: World) -> None:
    with asleep(world.leader):
        world.wait(LONG_S)
        kill(world, world.heir())


def values_of(node: Node, topic: str, index: int) -> set[bytes]:
    """The values that a partition's leader serves from the beginning on."""
    with node.connect(5.0) as connection:
        code, _, data = wire.fetch(connection, topic, index)
    if code != 0:
        raise AssertionError(f"{topic}-{index} cannot be read from node {node.node_id}: error {code}")
    return {value for at, end, _ in batches(data) for value in values(data, at, end)}


def topics_come_and_go(world: World) -> None:
    """A topic is made, written, deleted while the controller is away, and made again when it comes back."""
    standing = world.others(world.controller)[0]

    def tried(what: str, attempt: Callable[[wire.Connection], int], also_good: int) -> None:
        def succeeds() -> bool:
            # What was asked before may have been done without an answer.
            with standing.connect(5.0) as connection:
                if (code := attempt(connection)) not in (0, also_good):
                    raise AssertionError(f"error {code}")
            return True

        eventually(f"{BESIDE} is {what}", succeeds)

    def made(connection: wire.Connection) -> int:
        return create_topics(connection, {BESIDE: (BESIDE_PARTITIONS, 3)})[BESIDE][0]

    def deleted(connection: wire.Connection) -> int:
        return delete_topics(connection, [BESIDE])[BESIDE]

    def identity() -> bytes:
        with standing.connect(5.0) as connection:
            return topic_id(connection, BESIDE)

    def leaders() -> list[Node]:
        """Who leads each partition."""
        partitions = standing.metadata([BESIDE]).topics.get(BESIDE, [])
        found = [node for partition in partitions for node in world.nodes if node.node_id == partition.leader]
        if len(found) != BESIDE_PARTITIONS:
            raise AssertionError(f"{BESIDE} is led by {[partition.leader for partition in partitions]}")
        return found

    def written(value: bytes) -> bool:
        """Some records are in each partition, wherever it is led from."""
        for index, node in enumerate(leaders()):
            with node.connect(5.0) as connection:
                code, _ = wire.produce(connection, BESIDE, wire.batch(value).encode(), partition=index)
            if code != 0:
                return False
        return True

    served: set[bytes] = set()

    def read() -> bool:
        """Something comes from each partition; once is enough for what must never come."""
        found = [values_of(node, BESIDE, index) for index, node in enumerate(leaders())]
        served.update(*found)
        return all(found)

    tried("made", made, ALREADY_THERE)
    eventually(
        f"{BESIDE} can be written", lambda: all(node.alive() for node in world.nodes) and written(b"to be deleted")
    )
    before = identity()
    world.controller.kill()
    tried("deleted", deleted, NOT_THERE)
    # Not sooner: it needs as many nodes as it has replicas. This one may find what was deleted while it was away.
    world.controller.spawn()
    tried("made again", made, ALREADY_THERE)
    # One that "exists already" is the new one all the same.
    eventually(f"{BESIDE} is another topic than before", lambda: identity() != before)
    value = f"{BESIDE}-{next(INCARNATIONS)}".encode()
    eventually(f"{BESIDE} can be written again", lambda: written(value))
    eventually(f"{BESIDE} can be read again", read)
    if served != {value}:
        raise AssertionError(f"{BESIDE} serves {served}, and only {value!r} was written since it was made")


def disk_full(world: World) -> None:
    """A node has no room left: it lives on, serves what it has, and writes again when there is room."""
    if world.disk is None:
        raise AssertionError("this fault needs a disk of its own")
    node, disk = world.disk

    def led() -> list[int]:
        """The partitions that it leads, by what it knows itself."""
        partitions = node.metadata([world.topic]).topics[world.topic]
        return [index for index, partition in enumerate(partitions) if partition.leader == node.node_id]

    def serves() -> bool:
        return bool(values_of(node, world.topic, led()[0]))

    eventually(f"node {node.node_id} leads something", led, LEADS_AGAIN_S)
    disk.fill()
    try:
        world.wait(LONG_S)
        eventually(f"node {node.node_id} serves records without room", serves, 10)
    finally:
        disk.empty()
    if not node.alive():
        raise AssertionError(f"node {node.node_id} ended because its disk was full\n{node.log_tail()}")


def isolate(world: World, node: Node) -> None:
    """A node reaches no other node, and clients reach it."""
    for other in world.others(node):
        world.net().part(node.node_id, other.node_id)
    world.wait(LONG_S)


def isolate_leader(world: World) -> None:
    isolate(world, world.leader)


def isolate_follower(world: World) -> None:
    isolate(world, world.follower())


def isolate_controller(world: World) -> None:
    isolate(world, world.controller)


def isolate_all(world: World) -> None:
    one, other, third = world.nodes
    world.net().part(one.node_id, other.node_id)
    isolate(world, third)


def isolate_leader_with_its_clients_away(world: World) -> None:
    world.net().cut(world.leader.node_id, CLIENTS)
    isolate(world, world.leader)


def pause_and_isolate_leader(world: World) -> None:
    with asleep(world.leader):
        isolate(world, world.leader)
    # Awake, it believes for a moment that it still leads.
    world.wait(SHORT_S)


def leader_hears_nobody(world: World) -> None:
    for other in world.others(world.leader):
        world.net().cut(world.leader.node_id, world.net().address(other.node_id))
    world.wait(LONG_S)


def nobody_hears_the_leader(world: World) -> None:
    for other in world.others(world.leader):
        world.net().cut(other.node_id, world.net().address(world.leader.node_id))
    world.wait(LONG_S)


def bridge(world: World) -> None:
    """Two nodes see the third and not each other."""
    one, other = world.random.sample(world.nodes, 2)
    world.net().part(one.node_id, other.node_id)
    world.wait(LONG_S)


def ring(world: World) -> None:
    """Each node hears only the one before it."""
    one, other, third = world.random.sample(world.nodes, 3)
    for node, deaf_to in ((one, other), (other, third), (third, one)):
        world.net().cut(node.node_id, world.net().address(deaf_to.node_id))
    world.wait(LONG_S)


def flapping(world: World) -> None:
    """A node is away for moments."""
    node = world.random.choice(world.nodes)
    for _ in range(4):
        for other in world.others(node):
            world.net().part(node.node_id, other.node_id)
        world.wait(SHORT_S)
        world.net().heal()
        world.wait(SHORT_S / 2)


def resets(world: World) -> None:
    """Connections to the leader end while much is under way."""
    for _ in range(3):
        world.net().reset(world.leader.node_id)
        world.wait(SHORT_S / 4)
        world.net().heal()
        world.wait(SHORT_S / 2)


def who_is_behind_is_left(world: World) -> None:
    """A follower falls behind; then those ahead of it die, one after the other, and only the first comes back."""
    behind, heir = world.others(world.leader)
    isolate(world, behind)
    world.leader.kill()
    world.wait(SHORT_S)
    world.net().heal()
    world.wait(SHORT_S)
    heir.kill()
    world.leader.spawn()
    world.wait(LONG_S)


def clients_away(world: World) -> None:
    for node in world.nodes:
        world.net().cut(node.node_id, CLIENTS)
    world.wait(SHORT_S)


def clients_hear_nothing(world: World) -> None:
    """What clients send arrives and is written, and no answer comes back."""
    for node in world.nodes:
        world.net().silence(node.node_id, CLIENTS)
    world.wait(LONG_S)


def lossy_links(world: World) -> None:
    for node in world.nodes:
        world.net().lose(node.node_id, 0.05)
    world.wait(LONG_S)


def spoil(world: World, how: Link) -> None:
    """Any node's link is bad."""
    world.net().spoil(world.random.choice(world.nodes).node_id, how)
    world.wait(LONG_S)


def slow_link(world: World) -> None:
    spoil(world, Link(delay_ms=100, jitter_ms=20, rate_kbit=3_000))


def doubling_link(world: World) -> None:
    spoil(world, Link(double=0.1))


def reordering_link(world: World) -> None:
    spoil(world, Link(reorder=0.1))


def corrupting_link(world: World) -> None:
    spoil(world, Link(corrupt=0.01))


def wretched_link(world: World) -> None:
    spoil(world, Link(20, 10, rate_kbit=10_000, lose=0.02, double=0.02, reorder=0.05, corrupt=0.01))


def killed_behind_a_slow_link(world: World) -> None:
    """The follower with the bad link is the one that is left."""
    world.net().spoil(world.leader.node_id, Link(delay_ms=50, jitter_ms=20, rate_kbit=3_000))
    world.wait(SHORT_S)
    kill(world, *world.others(world.leader))


PROCESS_FAULTS: list[Callable[[World], None]] = [
    kill_leader,
    kill_follower,
    kill_controller,
    kill_two,
    kill_all,
    kill_leader_and_heir,
    kill_leader_while_it_recovers,
    kill_all_while_they_recover,
    kill_one_after_the_other,
    stop_leader,
    stop_controller,
    stop_one_after_the_other,
    pause_leader,
    pause_leader_briefly,
    pause_follower,
    pause_controller,
    pause_two,
    pause_leader_and_kill_heir,
    topics_come_and_go,
]
NETWORK_FAULTS: list[Callable[[World], None]] = [
    isolate_leader,
    isolate_follower,
    isolate_controller,
    isolate_all,
    isolate_leader_with_its_clients_away,
    pause_and_isolate_leader,
    leader_hears_nobody,
    nobody_hears_the_leader,
    bridge,
    ring,
    flapping,
    resets,
    who_is_behind_is_left,
    clients_away,
    clients_hear_nothing,
    lossy_links,
    slow_link,
    doubling_link,
    reordering_link,
    corrupting_link,
    wretched_link,
    killed_behind_a_slow_link,
]
DISK_FAULTS: list[Callable[[World], None]] = [disk_full]
