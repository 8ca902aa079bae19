"""A bad link in user space, for kernels without netem: raw frames are taken from one interface and put out on another,
late, lost, twice, out of order or with a bit that is not what it was.

link.py ONE OTHER [--delay-ms N] [--jitter-ms N] [--rate-kbit N] [--lose P] [--double P] [--reorder P] [--corrupt P]

Until SIGTERM; then it prints how many frames met what. The interfaces must not offload checksums or segmentation
(`without_offloads`): what is corrupted here must be noticed by the checksums of IP and TCP, as on a real link.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import heapq
import random
import select
import signal
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field

FRAME_BYTES_MAX = 65_536
PACKET_OUTGOING, ETH_P_ALL, ETH_P_IP = 4, 0x0003, 0x0800
ETHERNET_HEADER_BYTES = 14
# What may be under way in one direction; more is dropped at the tail, as by a router. Two seconds of a 3 Mbit/s link.
QUEUED_FRAMES_MAX = 1_000
# A frame that is reordered is overtaken by all others of this time.
OVERTAKEN_S = 0.01
SIOCETHTOOL = 0x8946
# The ioctl's commands that switch off checksums of what arrives and of what leaves, scatter-gather, and TCP's, the
# generic and the receiving kind of segmentation.
OFFLOADS = (0x15, 0x17, 0x19, 0x1F, 0x24, 0x2C)


def without_offloads(interface: str) -> None:
    """Have the kernel make and check every checksum itself, and send no frame that is longer than a link carries."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, SIOCETHTOOL, request)


@dataclass
class Direction:
    """One way through the link."""

    source: socket.socket
    target: socket.socket
    options: argparse.Namespace
    random: random.Random
    met: Counter[str]
    # When the link has sent all that it has been given, and what waits for its time.
    free_at: float = 0.0
    last_due: float = 0.0
    waiting: list[tuple[float, int, bytes]] = field(default_factory=list)
    count: int = 0

    def take(self) -> None:
        """All frames that are there."""
        while True:
            try:
                frame, address = self.source.recvfrom(FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            # A packet socket also sees what was sent through it.
            if address[2] != PACKET_OUTGOING:
                self.queue(frame)

    def happens(self, what: str, probability: float) -> bool:
        """Whether something happens to this frame."""
        it_does = self.random.random() < probability
        self.met[what] += it_does
        return it_does

    def queue(self, frame: bytes) -> None:
        """Decide what happens to a frame."""
        self.met["frames"] += 1
        if len(self.waiting) >= QUEUED_FRAMES_MAX:
            self.met["dropped"] += 1
            return
        if self.happens("lost", self.options.lose):
            return
        now = time.monotonic()
        if self.options.rate_kbit:
            self.free_at = max(self.free_at, now) + len(frame) / (self.options.rate_kbit * 125)
            now = self.free_at
        late = self.options.delay_ms + self.random.uniform(-1, 1) * self.options.jitter_ms
        # Jitter alone changes no order: a link is a queue.
        due = self.last_due = max(self.last_due, now + late / 1000)
        if self.happens("reordered", self.options.reorder):
            due += OVERTAKEN_S
        if self.happens("corrupted", self.options.corrupt):
            frame = self.corrupted(frame)
        for _ in range(1 + self.happens("doubled", self.options.double)):
            self.count += 1
            heapq.heappush(self.waiting, (due, self.count, frame))

    def corrupted(self, frame: bytes) -> bytes:
        """One bit is wrong. Only of IP, which has checksums: a wrong answer of ARP would be believed."""
        if struct.unpack_from(">H", frame, 12)[0] != ETH_P_IP:
            return frame
        wrong = bytearray(frame)
        wrong[self.random.randrange(ETHERNET_HEADER_BYTES, len(frame))] ^= 1 << self.random.randrange(8)
        return bytes(wrong)

    def give(self) -> None:
        """All frames whose time has come."""
        while self.waiting and self.waiting[0][0] <= time.monotonic():
            _, _, frame = heapq.heappop(self.waiting)
            try:
                self.target.send(frame)
            except OSError:
                # Longer than the link carries, or the other end is being taken away.
                self.met["refused"] += 1

    def next_due(self) -> float:
        """When the next frame is due; far away if none is."""
        return self.waiting[0][0] if self.waiting else float("inf")


def on(interface: str) -> socket.socket:
    """A socket for all frames of an interface."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    packets.bind((interface, ETH_P_ALL))
    packets.setblocking(False)
    return packets


def main() -> None:
    """Relay until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one")
    parser.add_argument("other")
    parser.add_argument("--seed", type=int, default=0)
    for number in ("delay-ms", "jitter-ms", "rate-kbit", "lose", "double", "reorder", "corrupt"):
        parser.add_argument(f"--{number}", type=float, default=0.0)
    options = parser.parse_args()
    going = True

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    one, other = on(options.one), on(options.other)
    met: Counter[str] = Counter()
    chance = random.Random(options.seed)
    ways = [Direction(one, other, options, chance, met), Direction(other, one, options, chance, met)]
    print("ready", flush=True)
    while going:
        due = min(way.next_due() for way in ways)
        select.select([one, other], [], [], min(0.1, max(0.0, due - time.monotonic())))
        for way in ways:
            way.take()
            way.give()
    print(", ".join(f"{count} {what}" for what, count in met.items() if count), flush=True)


if __name__ == "__main__":
    main()
