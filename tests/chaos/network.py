"""Three hosts on one machine: a network namespace for each node, and a bridge on which this process is too.

Everything that is made here has a name of this process's own, and is taken away at the end.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable

TAG = f"cx{os.getpid() % 100_000}"
# Reserved for tests of networks (RFC 2544): nobody's addresses, and enough of them that several runs do not meet.
SUBNET = f"198.18.{os.getpid() % 256}"


class Unavailable(Exception):
    """This machine does not let us have namespaces; the text says why."""


def run(*command: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def quietly(*command: str) -> None:
    """Run a command whose failure says that there is nothing to undo."""
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)


class Network:
    """The hosts, and what lies between them."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self.nodes = list(nodes)
        self.bridge = f"{TAG}br"
        # Some kernels come without.
        self.has_netem = False

    def __enter__(self) -> Network:
        try:
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "addr", "add", f"{SUBNET}.254/24", "dev", self.bridge)
            run("ip", "link", "set", self.bridge, "up")
            for node in self.nodes:
                space, outer, inner = self.space(node), f"{TAG}v{node}", f"{TAG}i{node}"
                run("ip", "netns", "add", space)
                run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
                run("ip", "link", "set", inner, "netns", space)
                run("ip", "link", "set", outer, "master", self.bridge, "up")
                run("ip", "-n", space, "link", "set", inner, "name", "eth0")
                run("ip", "-n", space, "addr", "add", f"{self.address(node)}/24", "dev", "eth0")
                run("ip", "-n", space, "link", "set", "eth0", "up")
                run("ip", "-n", space, "link", "set", "lo", "up")
            self.lose(self.nodes[0], 0.5)
        except (OSError, subprocess.TimeoutExpired) as error:
            self.close()
            raise Unavailable(str(error)) from error
        with contextlib.suppress(OSError):
            self.slow(self.nodes[0], "delay", "1ms")
            self.has_netem = True
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take everything away."""
        for node in self.nodes:
            quietly("ip", "netns", "del", self.space(node))
            quietly("ip", "link", "del", f"{TAG}v{node}")
        quietly("ip", "link", "del", self.bridge)

    def space(self, node: int) -> str:
        """The name of a node's namespace."""
        return f"{TAG}n{node}"

    def address(self, node: int) -> str:
        """The address of a node."""
        return f"{SUBNET}.{node}"

    def inside(self, node: int, *command: str) -> None:
        """Run a command on a node's host."""
        run("ip", "netns", "exec", self.space(node), *command)

    def cut(self, to: int, source: str) -> None:
        """Nothing from an address arrives at a node any more."""
        self.inside(to, "iptables", "-w", "-A", "INPUT", "-s", source, "-j", "DROP")

    def part(self, one: int, other: int) -> None:
        """Two nodes do not reach each other."""
        self.cut(one, self.address(other))
        self.cut(other, self.address(one))

    def lose(self, node: int, share: float) -> None:
        """This share of what arrives at a node is lost."""
        rule = ("-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP")
        self.inside(node, "iptables", "-w", "-A", "INPUT", *rule)

    def slow(self, node: int, *how: str) -> None:
        """What a node sends meets this (see tc-netem)."""
        self.inside(node, "tc", "qdisc", "replace", "dev", "eth0", "root", "netem", *how)

    def heal(self) -> None:
        """Everything reaches everybody again, at once."""
        for node in self.nodes:
            quietly("ip", "netns", "exec", self.space(node), "iptables", "-w", "-F", "INPUT")
            quietly("ip", "netns", "exec", self.space(node), "tc", "qdisc", "del", "dev", "eth0", "root")
