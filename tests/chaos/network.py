"""Three hosts on one machine: a network namespace for each node, and a bridge on which this process is too.

Everything that is made here has a name of this process's own, and is taken away at the end.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import link

TAG = f"cx{os.getpid() % 100_000}"
# Reserved for tests of network devices (RFC 2544): nobody's addresses. Runs that go on at the same time have their own.
SUBNET = f"198.{18 + os.getpid() // 256 % 2}.{os.getpid() % 256}"
# Where the clients are.
CLIENTS = f"{SUBNET}.254"
# An interface answers no question for this machine's own addresses (ip-sysctl: arp_ignore).
ANSWER_NOTHING = "8"


class Unavailable(Exception):
    """This machine does not let us have what a fault needs; the text says why."""


@dataclass(frozen=True)
class Link:
    """How bad a link is. Shares are between 0 and 1."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    rate_kbit: float = 0.0
    lose: float = 0.0
    double: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0

    def netem(self) -> list[str]:
        """The same in the words of tc-netem, which reorders only what is delayed."""
        shares = {"loss": self.lose, "duplicate": self.double, "corrupt": self.corrupt, "reorder": self.reorder}
        delay_ms = self.delay_ms or (10.0 if self.reorder else 0.0)
        words = ["delay", f"{delay_ms}ms", f"{self.jitter_ms}ms"] if delay_ms else []
        words += ["rate", f"{self.rate_kbit}kbit"] if self.rate_kbit else []
        return words + [word for name, share in shares.items() if share for word in (name, f"{share:.2%}")]

    def relay(self) -> list[str]:
        """The same as options of `link.py`."""
        pairs = ((f"--{part.name.replace('_', '-')}", getattr(self, part.name)) for part in fields(self))
        return [word for name, value in pairs if value for word in (name, str(value))]


def run(*command: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def quietly(*command: str) -> None:
    """Run a command whose failure says that there is nothing to undo, and so does its absence."""
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)


def make_pair(outer: str, inner: str) -> None:
    """A cable with two ends that offload nothing and answer nothing."""
    run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
    for end in (outer, inner):
        link.without_offloads(end)


class Network:
    """The hosts, and what lies between them."""

    def __init__(self, nodes: Iterable[int], seed: int) -> None:
        self.nodes = list(nodes)
        self.seed = seed
        self.bridge = f"{TAG}br"
        # Some kernels come without.
        self.has_netem = False
        # The relay, the node whose link it is, and what relays have said.
        self.relay: tuple[subprocess.Popen[str], int] | None = None
        self.relayed: list[str] = []

    def __enter__(self) -> Network:
        try:
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "addr", "add", f"{CLIENTS}/24", "dev", self.bridge)
            run("ip", "link", "set", self.bridge, "up")
            # Where Docker has run, the host drops what it does not know of, even from one port of a bridge to another.
            quietly("iptables", "-w", "-I", "FORWARD", *self.within())
            for node in self.nodes:
                space, outer, inner = self.space(node), f"{TAG}v{node}", f"{TAG}i{node}"
                run("ip", "netns", "add", space)
                make_pair(outer, inner)
                Path(f"/proc/sys/net/ipv4/conf/{outer}/arp_ignore").write_text(ANSWER_NOTHING)
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
            self.netem(self.nodes[0], Link(delay_ms=1))
            self.has_netem = True
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take everything away."""
        self.heal_link()
        for node in self.nodes:
            quietly("ip", "netns", "del", self.space(node))
            quietly("ip", "link", "del", f"{TAG}v{node}")
        quietly("ip", "link", "del", self.bridge)
        quietly("iptables", "-w", "-D", "FORWARD", *self.within())

    def within(self) -> list[str]:
        """What stays on the bridge may pass, as a rule."""
        return ["-i", self.bridge, "-o", self.bridge, "-j", "ACCEPT"]

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

    def cut_port(self, to: int, port: int, source: str) -> None:
        """Nothing from an address arrives at one port of a node any more; at its others it does."""
        self.inside(to, "iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", str(port), "-s", source, "-j", "DROP")

    def silence(self, node: int, target: str) -> None:
        """Nothing from a node arrives at an address any more."""
        self.inside(node, "iptables", "-w", "-A", "OUTPUT", "-d", target, "-j", "DROP")

    def part(self, one: int, other: int) -> None:
        """Two nodes do not reach each other."""
        self.cut(one, self.address(other))
        self.cut(other, self.address(one))

    def reset(self, node: int) -> None:
        """Whoever sends a node something over TCP has the connection reset."""
        rule = ("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
        self.inside(node, "iptables", "-w", "-A", "INPUT", *rule)

    def lose(self, node: int, share: float) -> None:
        """This share of what arrives at a node is lost."""
        rule = ("-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP")
        self.inside(node, "iptables", "-w", "-A", "INPUT", *rule)

    def netem(self, node: int, how: Link) -> None:
        """What a node sends meets this."""
        self.inside(node, "tc", "qdisc", "replace", "dev", "eth0", "root", "netem", *how.netem())

    def spoil(self, node: int, how: Link) -> None:
        """A node's link is bad until all is healed: by the kernel, or else by a relay of our own; one at a time."""
        if self.has_netem:
            self.netem(node, how)
            return
        cable, near, far = f"{TAG}v{node}", f"{TAG}ra", f"{TAG}rb"
        make_pair(near, far)
        Path(f"/proc/sys/net/ipv4/conf/{near}/arp_ignore").write_text(ANSWER_NOTHING)
        self.seed += 1
        command = [sys.executable, link.__file__, cable, near, "--seed", str(self.seed), *how.relay()]
        run("ip", "link", "set", near, "up")
        relay = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.relay = relay, node
        assert relay.stdout is not None
        if relay.stdout.readline() != "ready\n":
            raise AssertionError("the relay does not start")
        run("ip", "link", "set", cable, "nomaster")
        run("ip", "link", "set", far, "master", self.bridge, "up")

    def heal_link(self) -> None:
        """Without a relay again; what was under way in it is lost."""
        if self.relay is None:
            return
        (relay, node), self.relay = self.relay, None
        relay.terminate()
        said, _ = relay.communicate(timeout=30)
        self.relayed.append(said.strip())
        quietly("ip", "link", "del", f"{TAG}ra")
        quietly("ip", "link", "set", f"{TAG}v{node}", "master", self.bridge)

    def heal(self) -> None:
        """Everything reaches everybody again, at once."""
        self.heal_link()
        for node in self.nodes:
            quietly("ip", "netns", "exec", self.space(node), "iptables", "-w", "-F")
            if self.has_netem:
                quietly("ip", "netns", "exec", self.space(node), "tc", "qdisc", "del", "dev", "eth0", "root")

    def checksum_errors(self) -> int:
        """How many segments all nodes have thrown away because their checksums were wrong."""
        count = 0
        for node in self.nodes:
            command = ["ip", "netns", "exec", self.space(node), "cat", "/proc/net/snmp"]
            names, values = [
                line.split()
                for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
                if line.startswith("Tcp:")
            ]
            count += int(dict(zip(names, values, strict=True))["InCsumErrors"])
        return count
