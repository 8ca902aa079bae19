"""How long groups take to be there again after kill -9: commits for many groups, kills the broker, starts it again, and
asks for every group until all of its offsets are answered. The figures are printed; what is asserted is that nothing
was lost, and the second that it may take.

    replay.py BROKER [--binary FILE] [--libs DIRECTORY] [--groups N] [--offsets N] [--seconds-max S]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import daemon
import wire
from report import unwind_when_terminated
from wire import Connection, array, i32, i64, string

OFFSET_COMMIT, OFFSET_FETCH = 8, 9
TOPIC = "replayed"


def commit_body(group: str, partitions: int, offset: int) -> bytes:
    """OffsetCommit v3 without a member: for a group that has none."""
    places = [i32(partition) + i64(offset + partition) + string("") for partition in range(partitions)]
    return string(group) + i32(-1) + string("") + i64(-1) + array(string(TOPIC) + array(*places))


def commit(connection: Connection, group: str, partitions: int, offset: int) -> None:
    reader = connection.ask(OFFSET_COMMIT, 3, commit_body(group, partitions, offset))
    reader.i32()
    for _ in range(reader.i32()):
        reader.string()
        for _ in range(reader.i32()):
            reader.i32()
            if (code := reader.i16()) != 0:
                raise AssertionError(f"{group}: a commit is refused with error {code}")


def fetched(connection: Connection, group: str, partitions: list[int]) -> dict[int, int] | None:
    """OffsetFetch v2; nothing while the group is being loaded."""
    asked = array(string(TOPIC) + array(*[i32(partition) for partition in partitions]))
    reader = connection.ask(OFFSET_FETCH, 2, string(group) + asked)
    offsets = {}
    for _ in range(reader.i32()):
        reader.string()
        for _ in range(reader.i32()):
            partition, offset = reader.i32(), reader.i64()
            reader.string(), reader.i16()
            offsets[partition] = offset
    return None if reader.i16() else offsets


def wait_for(broker: daemon.Daemon, groups: list[str], wanted: dict[int, int]) -> None:
    """Until every group answers with these offsets."""
    with Connection(broker.bootstrap) as connection:
        for group in groups:
            deadline = time.monotonic() + 60
            while (found := fetched(connection, group, list(wanted))) is None:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{group} is not loaded within 60 s")
                time.sleep(0.002)
            if found != wanted:
                raise AssertionError(f"{group} has other offsets than it committed: {str(found)[:300]}")


def find_coordinator(connection: Connection, group: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        reader = connection.ask(wire.FIND_COORDINATOR, 1, string(group) + wire.i8(0))
        reader.i32()
        if reader.i16() == 0:
            return
        if time.monotonic() > deadline:
            raise AssertionError("there is no coordinator")
        time.sleep(0.1)


def fill(broker: daemon.Daemon, groups: list[str], partitions: int, rounds: int) -> None:
    def commit_all(share: list[str]) -> None:
        with Connection(broker.bootstrap) as connection:
            for number in range(rounds):
                for group in share:
                    commit(connection, group, partitions, 1000 * number)

    with Connection(broker.bootstrap) as connection:
        wire.new_topic(connection, TOPIC, partitions)
        find_coordinator(connection, groups[0])
    # A shard of a topic that has just been made may still be loading.
    time.sleep(1)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(commit_all, [groups[start::4] for start in range(4)]))


def cpu_s(broker: daemon.Daemon) -> float:
    """The CPU time that the broker has had, which a busy machine does not change."""
    if broker.process is None:
        return 0.0
    fields = Path(f"/proc/{broker.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    daemon.add_arguments(parser)
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--offsets", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1, help="how often each offset is committed")
    parser.add_argument("--seconds-max", type=float, default=0, help="fail beyond; 0 only measures")
    options = parser.parse_args()
    groups = [f"group-{number}" for number in range(options.groups)]
    partitions = options.offsets // options.groups
    directory = Path(tempfile.mkdtemp(prefix="chronik-replay-"))
    broker = daemon.from_arguments(options, directory / "data")
    unwind_when_terminated()
    try:
        broker.start()
        fill(broker, groups, partitions, options.rounds)
        broker.kill()
        started = time.monotonic()
        broker.start()
        ready = time.monotonic()
        last = 1000 * (options.rounds - 1)
        # One offset of each group while the clock runs; all of them take this program longer than the broker.
        wait_for(broker, groups, {partitions - 1: last + partitions - 1})
        ended = time.monotonic()
        cpu = cpu_s(broker)
        wait_for(broker, groups, {partition: last + partition for partition in range(partitions)})
        records = options.rounds * options.offsets
        print(f"{options.groups} groups, {options.offsets} offsets, {records} records in the log")
        print(f"the broker answers {ready - started:.2f} s after its start")
        print(f"every group has its offsets {ended - ready:.2f} s after that")
        print(f"the broker has had {cpu:.2f} s of CPU time until then")
        if options.seconds_max and ended - ready > options.seconds_max:
            print(f"not ok replay: more than {options.seconds_max:.1f} s")
            return 1
    finally:
        broker.kill()
        shutil.rmtree(directory, ignore_errors=True)
    print("ok replay")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
