"""What is done to a cluster. Each fault leaves it to the run to heal what it has broken."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from network import SUBNET, Network

from cluster import Node

# How long a fault lasts that has to be noticed: beyond the session timeout, or not.
LONG_S, SHORT_S = 4.0, 1.0


@dataclass
class World:
    """What faults are done to."""

    nodes: list[Node]
    network: Network | None
    random: random.Random
    # Who leads partition 0, and who the metadata log, when the fault begins.
    leader: Node
    controller: Node

    def others(self, node: Node) -> list[Node]:
        """The other nodes, in any order."""
        others = [other for other in self.nodes if other is not node]
        self.random.shuffle(others)
        return others

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
        node.kill()
    world.wait(SHORT_S)


def kill_leader(world: World) -> None:
    kill(world, world.leader)


def kill_follower(world: World) -> None:
    kill(world, world.others(world.leader)[0])


def kill_controller(world: World) -> None:
    kill(world, world.controller)


def kill_two(world: World) -> None:
    kill(world, world.leader, world.others(world.leader)[0])


def kill_all(world: World) -> None:
    kill(world, *world.nodes)


def kill_leader_and_heir(world: World) -> None:
    world.leader.kill()
    world.wait(SHORT_S)
    kill(world, world.others(world.leader)[0])


def stop_leader(world: World) -> None:
    world.leader.stop()


def stop_controller(world: World) -> None:
    world.controller.stop()


def pause(world: World, node: Node, longest_s: float) -> None:
    """Put a process to sleep, and wake it."""
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    try:
        world.wait(longest_s)
    finally:
        node.process.send_signal(signal.SIGCONT)


def pause_leader(world: World) -> None:
    pause(world, world.leader, LONG_S)


def pause_leader_briefly(world: World) -> None:
    pause(world, world.leader, SHORT_S)


def pause_follower(world: World) -> None:
    pause(world, world.others(world.leader)[0], LONG_S)


def pause_controller(world: World) -> None:
    pause(world, world.controller, LONG_S)


def isolate(world: World, node: Node) -> None:
    """A node reaches no other node, and clients reach it."""
    for other in world.others(node):
        world.net().part(node.node_id, other.node_id)
    world.wait(LONG_S)


def isolate_leader(world: World) -> None:
    isolate(world, world.leader)


def isolate_controller(world: World) -> None:
    isolate(world, world.controller)


def isolate_leader_with_its_clients_away(world: World) -> None:
    world.net().cut(world.leader.node_id, f"{SUBNET}.254")
    isolate(world, world.leader)


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


def clients_away(world: World) -> None:
    for node in world.nodes:
        world.net().cut(node.node_id, f"{SUBNET}.254")
    world.wait(SHORT_S)


def slow_link(world: World) -> None:
    world.net().slow(world.random.choice(world.nodes).node_id, "delay", "100ms", "20ms", "rate", "3mbit")
    world.wait(LONG_S)


def lossy_links(world: World) -> None:
    for node in world.nodes:
        world.net().lose(node.node_id, 0.05)
    world.wait(LONG_S)


def corrupting_link(world: World) -> None:
    world.net().slow(world.random.choice(world.nodes).node_id, "corrupt", "1%")
    world.wait(LONG_S)


PROCESS_FAULTS: list[Callable[[World], None]] = [
    kill_leader,
    kill_follower,
    kill_controller,
    kill_two,
    kill_all,
    kill_leader_and_heir,
    stop_leader,
    stop_controller,
    pause_leader,
    pause_leader_briefly,
    pause_follower,
    pause_controller,
]
NETWORK_FAULTS: list[Callable[[World], None]] = [
    isolate_leader,
    isolate_controller,
    isolate_leader_with_its_clients_away,
    leader_hears_nobody,
    nobody_hears_the_leader,
    bridge,
    clients_away,
    lossy_links,
]
# What needs netem.
LINK_FAULTS: list[Callable[[World], None]] = [slow_link, corrupting_link]
